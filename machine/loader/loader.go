// SPDX-License-Identifier: Apache-2.0

// Package loader turns the files that a machine starts from, a Linux Image, an
// ELF program or firmware, into a machine.Boot.
//
// Where things lie is as on QEMU's virt board: firmware at the start of RAM, a
// kernel 2 MiB above it, the initrd in the middle of RAM and the device tree at
// the end, below 4 GiB so that every firmware reaches it.
package loader

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"tandem/machine"
	"tandem/machine/mem"
)

var errCompressed = errors.New("this file is compressed with gzip: unpack it first (gunzip)")

const (
	mib          = 1 << 20
	kernelOffset = 2 * mib // unless the Image says otherwise
	dtbRoom      = mib
)

// Kernel boots a Linux Image in S-mode with an optional initrd.
func Kernel(ram uint64, kernel, initrd []byte) (machine.Boot, error) {
	load, size, err := image(kernel)
	if err != nil {
		return machine.Boot{}, err
	}
	b := machine.Boot{Mode: machine.BootKernel, Entry: load}
	b.Segments = append(b.Segments, machine.Segment{Addr: load, Data: kernel})
	return place(b, ram, load+size, initrd)
}

// Firmware starts OpenSBI or U-Boot (raw or ELF) in M-mode; kernel is what it
// goes on to, a Linux Image, U-Boot for S-mode or nothing.
func Firmware(ram uint64, firmware, kernel, initrd []byte) (machine.Boot, error) {
	b := machine.Boot{Mode: machine.BootFirmware, Entry: mem.Base}
	end := uint64(mem.Base)
	switch {
	case len(firmware) == 0:
		return b, errors.New("the file is empty: fetch it again")
	case isImage(firmware):
		return b, errors.New("this is a Linux Image, not firmware: give it with --kernel")
	case isGzip(firmware):
		return b, errCompressed
	}
	if isELF(firmware) {
		prog, err := program(firmware)
		if err != nil {
			return b, err
		}
		b.Segments, b.Entry, end = prog.segments, prog.entry, prog.end
	} else {
		b.Segments = append(b.Segments, machine.Segment{Addr: mem.Base, Data: firmware})
		end += uint64(len(firmware))
	}
	if len(kernel) > 0 {
		var err error
		if end, err = addNext(&b, kernel); err != nil {
			return b, NextError{err}
		}
	}
	return place(b, ram, end, initrd)
}

// NextError is an error in what firmware goes on to.
type NextError struct{ error }

// addNext loads what firmware goes on to.
func addNext(b *machine.Boot, kernel []byte) (end uint64, err error) {
	if isELF(kernel) {
		prog, err := program(kernel)
		if err != nil {
			return 0, err
		}
		b.Segments = append(b.Segments, prog.segments...)
		b.Next = prog.entry
		return prog.end, nil
	}
	load, size := uint64(mem.Base+kernelOffset), uint64(len(kernel))
	switch {
	case isGzip(kernel):
		return 0, errCompressed
	case isImage(kernel):
		var err error
		if load, size, err = image(kernel); err != nil {
			return 0, err
		}
	}
	b.Segments = append(b.Segments, machine.Segment{Addr: load, Data: kernel})
	b.Next = load
	return load + size, nil
}

// Program is a bare-metal ELF program with the places that tests agree on.
type Program struct {
	Boot machine.Boot
	// Signature is begin_signature to end_signature, empty if they are not defined.
	SignatureBegin, SignatureEnd uint64
}

// ELF loads a bare-metal program that runs in M-mode from the start.
func ELF(ram uint64, file []byte) (Program, error) {
	prog, err := program(file)
	if err != nil {
		return Program{}, err
	}
	b := machine.Boot{Mode: machine.BootELF, Entry: prog.entry, Segments: prog.segments,
		ToHost: prog.symbols["tohost"], FromHost: prog.symbols["fromhost"]}
	b, err = place(b, ram, prog.end, nil)
	return Program{b, prog.symbols["begin_signature"], prog.symbols["end_signature"]}, err
}

// place adds the initrd and chooses where the device tree goes.
func place(b machine.Boot, ram, end uint64, initrd []byte) (machine.Boot, error) {
	top := min(mem.Base+ram, 4<<30)
	b.DTB = (top - dtbRoom) &^ (mib - 1)
	if len(initrd) > 0 {
		middle := mem.Base + min(ram/2, 512*mib)
		start := (max(end, middle) + 2*mib - 1) &^ (2*mib - 1)
		b.InitrdStart, b.InitrdEnd = start, start+uint64(len(initrd))
		end = b.InitrdEnd
		b.Segments = append(b.Segments, machine.Segment{Addr: start, Data: initrd})
	}
	if end > b.DTB {
		return b, fmt.Errorf("what is to be loaded needs %d MiB of memory, the machine has %d: give it more with --memory", (end-mem.Base+dtbRoom)/mib+1, ram/mib)
	}
	return b, overlap(b.Segments)
}

// overlap reports segments that would overwrite one another.
func overlap(list []machine.Segment) error {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b machine.Segment) int { return cmp.Compare(a.Addr, b.Addr) })
	for i := 1; i < len(list); i++ {
		if below := list[i-1]; below.Addr+uint64(len(below.Data)) > list[i].Addr {
			return fmt.Errorf("%d bytes at %#x and %d bytes at %#x overlap: one of the files is linked for another place, or is not what it is given for",
				len(below.Data), below.Addr, len(list[i].Data), list[i].Addr)
		}
	}
	return nil
}

// Fields of the header of a Linux Image (Documentation/arch/riscv/boot-image-header.rst).
const (
	imageTextOffset = 8
	imageSize       = 16
	imageMagic2     = 56
	imageHeader     = 64
)

// image checks a Linux Image and returns where it is loaded and the memory it needs.
func image(b []byte) (load, size uint64, err error) {
	switch {
	case isELF(b):
		return 0, 0, errors.New("this is an ELF file, not a Linux Image: give arch/riscv/boot/Image, or use --elf for a bare-metal program")
	case isGzip(b):
		return 0, 0, errCompressed
	case !isImage(b):
		return 0, 0, errors.New("this is not a Linux Image for riscv64 (no RSC magic at byte 56): give the Image of a riscv64 kernel")
	}
	offset := binary.LittleEndian.Uint64(b[imageTextOffset:])
	size = binary.LittleEndian.Uint64(b[imageSize:])
	if uint64(len(b)) > size && size != 0 || offset > 1<<30 || size > 1<<30 {
		return 0, 0, fmt.Errorf("the header of the kernel Image says %d bytes at offset %#x, the file has %d: it is damaged, fetch it again", size, offset, len(b))
	}
	if minimum := codeSize(b); uint64(len(b)) < minimum {
		return 0, 0, fmt.Errorf("the kernel Image is cut short: it has %d bytes of %d, fetch it again", len(b), minimum)
	}
	return mem.Base + offset, max(size, uint64(len(b))), nil
}

// codeSize is the length that the file of an EFI-stub Image must have, from its
// PE header: the end of the last section; 0 where it can't be told.
func codeSize(b []byte) uint64 {
	pe := uint64(binary.LittleEndian.Uint32(b[60:]))
	if string(b[:2]) != "MZ" || pe+24 > uint64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return 0
	}
	sections := int(binary.LittleEndian.Uint16(b[pe+6:]))
	table := pe + 24 + uint64(binary.LittleEndian.Uint16(b[pe+20:]))
	var end uint64
	for i := range uint64(min(sections, 96)) {
		at := table + i*40
		if at+40 > uint64(len(b)) {
			return end
		}
		raw := binary.LittleEndian.Uint32(b[at+16:])
		start := binary.LittleEndian.Uint32(b[at+20:])
		end = max(end, uint64(start)+uint64(raw))
	}
	return end
}

func isELF(b []byte) bool  { return bytes.HasPrefix(b, []byte(elf.ELFMAG)) }
func isGzip(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) }
func isImage(b []byte) bool {
	return len(b) >= imageHeader && string(b[imageMagic2:imageMagic2+4]) == "RSC\x05"
}

// elfProgram is what an ELF file loads.
type elfProgram struct {
	segments []machine.Segment
	entry    uint64
	end      uint64
	symbols  map[string]uint64
}

// program reads an ELF executable. The standard library does not promise to
// survive every malformed file, hence the recover.
func program(file []byte) (p elfProgram, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the ELF file is damaged: build it again")
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return p, fmt.Errorf("the ELF file can't be read: %w", err)
	}
	if f.Machine != elf.EM_RISCV || f.Class != elf.ELFCLASS64 {
		return p, fmt.Errorf("the ELF file is for %v, %v: tandem runs 64-bit RISC-V, so compile it for riscv64", f.Machine, f.Class)
	}
	bias, total := loadBias(f), uint64(0)
	p.entry, p.symbols = f.Entry+bias, map[string]uint64{}
	for _, ph := range f.Progs {
		if ph.Type != elf.PT_LOAD || ph.Memsz == 0 {
			continue
		}
		if ph.Filesz > uint64(len(file)) || ph.Memsz > machine.MaxBootBytes || ph.Filesz > ph.Memsz {
			return p, fmt.Errorf("the ELF file is cut short or damaged: a segment of %d bytes at %#x", ph.Filesz, ph.Paddr)
		}
		if total += ph.Memsz; total > machine.MaxBootBytes || len(p.segments) == machine.MaxSegments {
			return p, fmt.Errorf("the ELF file needs more than %d MiB or has more than %d segments: link it smaller", machine.MaxBootBytes/mib, machine.MaxSegments)
		}
		data := make([]byte, ph.Memsz)
		if _, err := io.ReadFull(ph.Open(), data[:ph.Filesz]); err != nil {
			return p, fmt.Errorf("the ELF file is cut short: its segment at %#x: %w", ph.Paddr, err)
		}
		p.segments = append(p.segments, machine.Segment{Addr: ph.Paddr + bias, Data: data})
		p.end = max(p.end, ph.Paddr+bias+ph.Memsz)
	}
	if len(p.segments) == 0 {
		return p, errors.New("the ELF file has nothing to load: link it as an executable")
	}
	if list, err := f.Symbols(); err == nil {
		for _, s := range list {
			p.symbols[s.Name] = s.Value + bias
		}
	}
	return p, nil
}

// loadBias is what to add to the addresses of a position-independent program,
// OpenSBI for instance, which is linked at 0: it goes to the start of RAM.
func loadBias(f *elf.File) uint64 {
	if f.Type != elf.ET_DYN {
		return 0
	}
	lowest := ^uint64(0)
	for _, ph := range f.Progs {
		if ph.Type == elf.PT_LOAD && ph.Memsz > 0 {
			lowest = min(lowest, ph.Paddr)
		}
	}
	if lowest >= mem.Base {
		return 0
	}
	return mem.Base - lowest
}
