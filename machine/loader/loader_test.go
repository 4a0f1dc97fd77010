// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"tandem/machine"
	"tandem/machine/mem"
)

const memory = 64 * mib

// linux is a Linux Image of n bytes that needs size of memory at offset.
func linux(n int, offset, size uint64) []byte {
	b := make([]byte, n)
	binary.LittleEndian.PutUint64(b[imageTextOffset:], offset)
	binary.LittleEndian.PutUint64(b[imageSize:], size)
	copy(b[imageMagic2:], "RSC\x05")
	return b
}

// program64 is an ELF file of one segment at addr, whose last byte is memory only.
func program64(t testing.TB, kind elf.Type, addr uint64, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	const headers = 64 + 56
	h := elf.Header64{Type: uint16(kind), Machine: uint16(elf.EM_RISCV), Version: 1, Entry: addr, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: headers, Paddr: addr, Vaddr: addr, Filesz: uint64(len(data)), Memsz: uint64(len(data)) + 1}
	for _, v := range []any{h, p, data} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// Everything lies where QEMU's virt board has it: firmware at the start of RAM, a
// kernel 2 MiB above, the initrd in the middle, the tree at the end; all below 4 GiB.
func TestPlaces(t *testing.T) {
	kernel, initrd, code := linux(4096, 2*mib, 3*mib), []byte("initrd"), []byte("code")
	for _, c := range []struct {
		name     string
		ram      uint64
		boot     func(ram uint64) (machine.Boot, error)
		segments []uint64 // offsets in RAM
		entry    uint64
		next     uint64 // offset, 0 for none
		dtb      uint64
	}{
		{"kernel", memory, func(r uint64) (machine.Boot, error) { return Kernel(r, kernel, initrd) }, []uint64{2 * mib, 32 * mib}, 2 * mib, 0, 63 * mib},
		{"kernel, much memory", 8 << 30, func(r uint64) (machine.Boot, error) { return Kernel(r, kernel, initrd) }, []uint64{2 * mib, 512 * mib}, 2 * mib, 0, 2047 * mib},
		{"firmware alone", memory, func(r uint64) (machine.Boot, error) { return Firmware(r, code, nil, nil) }, []uint64{0}, 0, 0, 63 * mib},
		{"firmware and kernel", memory, func(r uint64) (machine.Boot, error) { return Firmware(r, code, kernel, initrd) }, []uint64{0, 2 * mib, 32 * mib}, 0, 2 * mib, 63 * mib},
		{"firmware and raw", memory, func(r uint64) (machine.Boot, error) { return Firmware(r, code, code, nil) }, []uint64{0, 2 * mib}, 0, 2 * mib, 63 * mib},
		{"two ELF files", memory, func(r uint64) (machine.Boot, error) {
			return Firmware(r, program64(t, elf.ET_EXEC, mem.Base, code), program64(t, elf.ET_EXEC, mem.Base+4*mib, code), nil)
		}, []uint64{0, 4 * mib}, 0, 4 * mib, 63 * mib},
		{"position-independent", memory, func(r uint64) (machine.Boot, error) {
			return Firmware(r, program64(t, elf.ET_DYN, 0, code), kernel, nil)
		}, []uint64{0, 2 * mib}, 0, 2 * mib, 63 * mib},
		{"position-independent, in place", memory, func(r uint64) (machine.Boot, error) {
			return Firmware(r, program64(t, elf.ET_DYN, mem.Base+mib, code), nil, nil)
		}, []uint64{mib}, mib, 0, 63 * mib},
	} {
		b, err := c.boot(c.ram)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var at []uint64
		for _, s := range b.Segments {
			at = append(at, s.Addr-mem.Base)
		}
		next := b.Next
		if next != 0 {
			next -= mem.Base
		}
		if len(at) != len(c.segments) || b.Entry != mem.Base+c.entry || next != c.next || b.DTB != mem.Base+c.dtb {
			t.Errorf("%s: segments %#x, entry %#x, next %#x, tree %#x", c.name, at, b.Entry, b.Next, b.DTB)
			continue
		}
		for i := range at {
			if at[i] != c.segments[i] {
				t.Errorf("%s: segments %#x, want %#x", c.name, at, c.segments)
			}
		}
	}
}

// The memory of a segment beyond its file is zero, whatever the file says behind it.
func TestSegmentTail(t *testing.T) {
	p, err := ELF(memory, append(program64(t, elf.ET_EXEC, mem.Base, []byte("code")), 0xff))
	if err != nil || string(p.Boot.Segments[0].Data) != "code\x00" {
		t.Errorf("%v, %v", err, p.Boot.Segments)
	}
}

// What can't be booted is refused with the remedy; an error in what firmware goes
// on to is told apart from one in the firmware.
func TestRefused(t *testing.T) {
	image := linux(4096, 2*mib, 3*mib)
	code, zip := []byte("code"), []byte("\x1f\x8b\x08")
	for _, c := range []struct {
		name             string
		firmware, kernel []byte
		next             bool
		want             string
	}{
		{"empty firmware", nil, image, false, "empty"},
		{"a kernel as firmware", image, nil, false, "--kernel"},
		{"compressed firmware", zip, nil, false, "gunzip"},
		{"compressed kernel", code, zip, true, "gunzip"},
		{"cut kernel", code, linux(4096, 2*mib, 2048), true, "damaged"},
		{"cut ELF", program64(t, elf.ET_EXEC, mem.Base, code)[:122], nil, false, "cut short"},
		{"cut ELF kernel", code, program64(t, elf.ET_EXEC, mem.Base, code)[:122], true, "cut short"},
		{"firmware over kernel", make([]byte, 2*mib+1), image, false, "overlap"},
		{"kernel over firmware", program64(t, elf.ET_EXEC, mem.Base+2*mib, code), image, false, "overlap"},
		{"too little memory", code, linux(4096, 2*mib, 64*mib), false, "--memory"},
	} {
		_, err := Firmware(memory, c.firmware, c.kernel, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if errors.As(err, new(NextError)) != c.next {
			t.Errorf("%s: blames the wrong file: %v", c.name, err)
		}
	}
}

// No file makes the loader panic, whatever bytes it has.
func FuzzFirmware(f *testing.F) {
	f.Add(linux(128, 2*mib, 4096), []byte{})
	f.Add(program64(f, elf.ET_EXEC, mem.Base, []byte("code")), program64(f, elf.ET_DYN, 0, []byte("code")))
	f.Fuzz(func(t *testing.T, firmware, kernel []byte) {
		if b, err := Firmware(memory, firmware, kernel, nil); err == nil && len(b.Segments) == 0 {
			t.Error("nothing is loaded")
		}
		Kernel(memory, kernel, firmware)
		ELF(memory, kernel)
	})
}
