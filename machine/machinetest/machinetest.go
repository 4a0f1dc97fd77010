// SPDX-License-Identifier: Apache-2.0

// Package machinetest has a guest for tests: a bare-metal program of a few KiB
// that uses every device of the board, on one hart or several. What it does is
// told in testdata/guest.c.
package machinetest

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/loader"
)

//go:embed testdata/guest.c
var source []byte

// RAM is the guest's memory, in bytes.
const RAM = 2 << 20

// Places of the devices, and the size of the disk in bytes.
const (
	DiskSlot event.DeviceID = 0
	NetSlot  event.DeviceID = 1
	DiskSize                = 2 << 20
)

// MAC is the address of the guest's network card.
var MAC = [6]byte{2, 7, 7, 7, 7, 7}

// Config compiles the guest with macros such as -DROUNDS=10, and returns a
// machine that starts it.
func Config(t testing.TB, harts int, macros ...string) machine.Config {
	t.Helper()
	gcc, err := exec.LookPath("riscv64-linux-gnu-gcc")
	if err != nil {
		t.Fatal("riscv64-linux-gnu-gcc is not installed: apt install gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu")
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "guest.c"), filepath.Join(dir, "guest")
	if err := os.WriteFile(in, source, 0o644); err != nil {
		t.Fatal(err)
	}
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
	return machine.Config{
		Harts: harts, RAM: RAM, Levels: 3, Wall: 1_700_000_000_000_000_000, Boot: prog.Boot,
		Devices: []machine.Device{
			DiskSlot: {Kind: machine.DiskDevice, Capacity: DiskSize, Serial: "test"},
			NetSlot:  {Kind: machine.NetDevice, MAC: MAC},
		},
	}
}
