// SPDX-License-Identifier: Apache-2.0

// Package machinetest has guests for tests: bare-metal programs of a few KiB, on one
// hart or several. One uses every device of the board, and another serves clients on
// the network. What they do is told in testdata/guest.c and testdata/service.c.
package machinetest

import (
	"embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/loader"
)

//go:embed testdata
var sources embed.FS

// RAM is a guest's memory, in bytes.
const RAM = 2 << 20

// Places of the devices, and the size of the disks in bytes.
const (
	DiskSlot    event.DeviceID = 0
	NetSlot     event.DeviceID = 1
	EntropySlot event.DeviceID = 2
	DiskSize                   = 2 << 20
	ServiceDisk                = 32 << 10
)

// MAC is the address of the guest's network card.
var MAC = [6]byte{2, 7, 7, 7, 7, 7}

// Config compiles the guest with macros such as -DROUNDS=10, and returns a
// machine that starts it.
func Config(t testing.TB, harts int, macros ...string) machine.Config {
	t.Helper()
	return machine.Config{
		Harts: harts, RAM: RAM, Levels: 3, Wall: 1_700_000_000_000_000_000, Boot: compile(t, "guest.c", macros),
		Devices: []machine.Device{
			DiskSlot: {Kind: machine.DiskDevice, Capacity: DiskSize, Serial: "test"},
			NetSlot:  {Kind: machine.NetDevice, MAC: MAC},
		},
	}
}

// Service compiles the guest that serves clients, and returns a machine that starts it.
func Service(t testing.TB, harts int, macros ...string) machine.Config {
	t.Helper()
	return machine.Config{
		Harts: harts, RAM: RAM, Levels: 3, Wall: 1_700_000_000_000_000_000, Boot: compile(t, "service.c", macros),
		Devices: []machine.Device{
			DiskSlot:    {Kind: machine.DiskDevice, Capacity: ServiceDisk, Serial: "test"},
			NetSlot:     {Kind: machine.NetDevice, MAC: MAC},
			EntropySlot: {Kind: machine.RNGDevice},
		},
	}
}

// compile makes a program of one of the sources.
func compile(t testing.TB, source string, macros []string) machine.Boot {
	t.Helper()
	gcc, err := exec.LookPath("riscv64-linux-gnu-gcc")
	if err != nil {
		t.Fatal("riscv64-linux-gnu-gcc is not installed: apt install gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, sources); err != nil {
		t.Fatal(err)
	}
	in, out := filepath.Join(dir, "testdata", source), filepath.Join(dir, "guest")
	args := append([]string{"-O1", "-march=rv64gc", "-mabi=lp64d", "-ffreestanding", "-fno-tree-loop-distribute-patterns",
		"-nostdlib", "-static", "-fno-pic", "-no-pie", "-mcmodel=medany",
		"-Wl,-N,--build-id=none,--no-relax,--no-warn-rwx-segments,-Ttext=0x80000000,-Tdata=0x80002000", "-o", out, in}, macros...)
	if msg, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	file, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	prog, err := loader.ELF(RAM, file)
	if err != nil {
		t.Fatal(err)
	}
	return prog.Boot
}
