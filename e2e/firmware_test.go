// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	bytesof "encoding/binary" // the helpers have a function named binary
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// firmware returns the path of a file of Debian's packages opensbi and
// u-boot-qemu. TANDEM_FIRMWARE names a folder into which other versions of them
// were unpacked.
func firmware(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv("TANDEM_FIRMWARE"), "/usr/lib", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: install the Debian packages opensbi and u-boot-qemu", err)
	}
	return path
}

const (
	openSBI     = "riscv64-linux-gnu/opensbi/generic/"
	uBoot       = "u-boot/qemu-riscv64/"
	uBootSecond = "u-boot/qemu-riscv64_smode/"
)

// OpenSBI, in each of its forms, starts a stock Debian kernel with 1, 2 and 4
// harts; reboot and poweroff go through it.
func TestOpenSBI(t *testing.T) {
	for _, c := range []struct{ file, harts string }{
		{"fw_dynamic.bin", "1"}, {"fw_dynamic.bin", "2"}, {"fw_dynamic.bin", "4"}, {"fw_dynamic.elf", "2"}, {"fw_jump.bin", "2"},
	} {
		t.Run(c.file+" "+c.harts, func(t *testing.T) {
			img := guest(t)
			vm := start(t, "run", "--firmware", firmware(t, openSBI+c.file), "--kernel", img+"/kernel", "--initrd", img+"/initrd",
				"--append", "root=/dev/vda rw console=ttyS0", "--disk", img+"/disk.raw", "--cpus", c.harts)
			vm.expect("OpenSBI v")
			vm.expect("SBI implementation ID=0x1") // not tandem's own
			vm.expect(ready)
			vm.ask("echo harts=$(nproc)", "harts="+c.harts)
			if c.harts == "2" {
				vm.typeLine("reboot -f")
				vm.expect("OpenSBI v")
				vm.expect(ready)
			}
			if code := vm.powerOff(); code != 0 {
				t.Errorf("exit code %d after poweroff", code)
			}
		})
	}
}

// U-Boot comes to its prompt, alone in M-mode and in S-mode over OpenSBI, finds
// disk and network, and ends the VM with the code that it gives the test device.
func TestUBoot(t *testing.T) {
	over := func(file string) []string {
		return []string{"--firmware", firmware(t, openSBI+"fw_dynamic.bin"), "--kernel", firmware(t, uBootSecond+file)}
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"alone", []string{"--firmware", firmware(t, uBoot+"u-boot.bin")}},
		{"alone, ELF", []string{"--firmware", firmware(t, uBoot+"uboot.elf")}},
		{"over OpenSBI", over("u-boot.bin")},
		{"over OpenSBI, ELF", over("uboot.elf")},
	} {
		for _, harts := range []string{"1", "2", "4"} {
			t.Run(c.name+" "+harts, func(t *testing.T) {
				vm := start(t, append([]string{"run", "--disk", guest(t) + "/disk.raw", "--cpus", harts}, c.args...)...)
				vm.expect("DRAM:  512 MiB")
				vm.expect("Net:")
				vm.typeLine("\nversion") // an empty line stops autoboot
				vm.expect("U-Boot 20")
				vm.typeLine("virtio info; ls virtio 0 /etc; dhcp; mw.l 0x100000 0x00073333")
				vm.expect("Capacity: 1024.0 MB")
				vm.expect("hostname")
				vm.expect("DHCP client bound to address 10.77.0.2")
				if code := vm.wait(); code != 7 {
					t.Errorf("exit code %d after 7 for the test device", code)
				}
			})
		}
	}
}

// OpenSBI starts U-Boot, which finds a boot disk and starts Debian from it, as a
// person has it on a board.
func TestUBootBootsLinux(t *testing.T) {
	img := guest(t)
	vm := start(t, "run", "--firmware", firmware(t, openSBI+"fw_dynamic.bin"), "--kernel", firmware(t, uBootSecond+"u-boot.bin"),
		"--disk", bootDisk(t, img), "--disk", img+"/disk.raw", "--cpus", "2")
	for range 2 {
		vm.expect("Found /extlinux/extlinux.conf")
		vm.expect("Linux version")
		vm.expect(ready)
		vm.ask("echo up=$((1+1))", "up=2")
		vm.typeLine("reboot -f")
	}
	vm.expect("Found /extlinux/extlinux.conf")
}

// bootDisk makes a disk with one partition that U-Boot boots from.
func bootDisk(t *testing.T, img string) string {
	t.Helper()
	dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "boot.raw")
	if err := os.Mkdir(dir+"/extlinux", 0o755); err != nil {
		t.Fatal(err)
	}
	conf := "default debian\nlabel debian\n  kernel /kernel\n  initrd /initrd\n  append root=/dev/vdb rw console=ttyS0\n"
	if err := os.WriteFile(dir+"/extlinux/extlinux.conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cp", img + "/kernel", img + "/initrd", dir},
		{"mke2fs", "-q", "-t", "ext4", "-d", dir, "-E", "offset=1048576", disk, "96M"},
		{"truncate", "-s", "97M", disk},
	} {
		if b, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, b)
		}
	}
	const sectors = 1 << 20 / 512 // in a MiB
	entry := []byte{0x80, 0xff, 0xff, 0xff, 0x83, 0xff, 0xff, 0xff}
	entry = bytesof.LittleEndian.AppendUint32(entry, sectors)
	entry = bytesof.LittleEndian.AppendUint32(entry, 96*sectors)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, b := range map[int64][]byte{446: entry, 510: {0x55, 0xaa}} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return disk
}
