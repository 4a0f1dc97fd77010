// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
)

// strip rewrites a kernel module without what only debuggers and linkers read:
// local symbols that no relocation names, type information, and the signature
// behind the ELF file, which would no longer be right.
//
// Debian's ext4 has 212,000 symbols, nearly all labels of the assembler: 5 of
// its 7 MB. The guest's kernel would copy them, hash them for the signature and
// walk them before it can mount its disk. The price is one line in the kernel's
// log that the module's signature is missing.
//
// Sections keep their numbers; those left out become empty (ELF-64 Object File
// Format; kernel/module/main.c for what a module must have).
func strip(b []byte) ([]byte, error) {
	m, err := parseModule(b)
	if err != nil {
		return nil, err
	}
	keep := m.usedSymbols()
	number, symtab, strtab, locals := m.selectSymbols(keep)
	for i := range m.sections {
		if err := m.renumber(i, number); err != nil {
			return nil, err
		}
	}
	m.data[m.symtab], m.data[m.strtab] = symtab, strtab
	m.sections[m.symtab].Info = locals
	return m.bytes(), nil
}

var errModule = errors.New("not a relocatable RISC-V ELF file of the expected form")

const (
	symSize  = elf.Sym64Size
	relaSize = 24
)

// elfModule is a relocatable file taken apart.
type elfModule struct {
	header         elf.Header64
	sections       []elf.Section64
	data           [][]byte
	symtab, strtab int
}

func parseModule(b []byte) (*elfModule, error) {
	var m elfModule
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &m.header); err != nil {
		return nil, errModule
	}
	h := &m.header
	if string(h.Ident[:4]) != elf.ELFMAG || elf.Class(h.Ident[4]) != elf.ELFCLASS64 || elf.Type(h.Type) != elf.ET_REL ||
		h.Shentsize != 64 || h.Shoff > uint64(len(b)) || uint64(h.Shnum)*64 > uint64(len(b))-h.Shoff || h.Shstrndx >= h.Shnum {
		return nil, errModule
	}
	m.sections = make([]elf.Section64, h.Shnum)
	m.data = make([][]byte, h.Shnum)
	if err := binary.Read(bytes.NewReader(b[h.Shoff:]), binary.LittleEndian, m.sections); err != nil {
		return nil, errModule
	}
	for i, s := range m.sections {
		if s.Type != uint32(elf.SHT_NOBITS) && s.Type != uint32(elf.SHT_NULL) {
			if s.Off > uint64(len(b)) || s.Size > uint64(len(b))-s.Off {
				return nil, errModule
			}
			m.data[i] = b[s.Off : s.Off+s.Size]
		}
		if s.Type == uint32(elf.SHT_SYMTAB) {
			m.symtab, m.strtab = i, int(s.Link)
		}
	}
	if m.symtab == 0 || m.strtab <= 0 || m.strtab >= len(m.sections) || m.strtab == int(h.Shstrndx) {
		return nil, errModule
	}
	return &m, nil
}

func (m *elfModule) isRela(i int) bool { return m.sections[i].Type == uint32(elf.SHT_RELA) }

func (m *elfModule) isLoaded(i int) bool {
	return i < len(m.sections) && m.sections[i].Flags&uint64(elf.SHF_ALLOC) != 0
}

// isKept says whether the kernel needs a section: what it loads, the
// relocations of that, and the symbols.
func (m *elfModule) isKept(i int) bool {
	if m.isRela(i) {
		return m.isLoaded(int(m.sections[i].Info))
	}
	return i == 0 || m.isLoaded(i) || i == m.symtab || i == m.strtab || i == int(m.header.Shstrndx)
}

func (m *elfModule) usedSymbols() map[uint32]bool {
	used := map[uint32]bool{0: true}
	for i := range m.sections {
		if m.isRela(i) && m.isKept(i) {
			for r := m.data[i]; len(r) >= relaSize; r = r[relaSize:] {
				used[binary.LittleEndian.Uint32(r[12:])] = true
			}
		}
	}
	return used
}

// selectSymbols keeps used ones, global ones, and named functions and objects,
// which the kernel's traces print. It returns their new numbers, the tables,
// and how many local symbols come first.
func (m *elfModule) selectSymbols(used map[uint32]bool) (number map[uint32]uint32, symtab, strtab []byte, locals uint32) {
	number = map[uint32]uint32{}
	strtab = []byte{0}
	names := map[string]uint32{"": 0}
	table, strs := m.data[m.symtab], m.data[m.strtab]
	for i := uint32(0); len(table) >= symSize; i, table = i+1, table[symSize:] {
		sym := bytes.Clone(table[:symSize])
		info := sym[4]
		name := cString(strs, binary.LittleEndian.Uint32(sym))
		local := elf.ST_BIND(info) == elf.STB_LOCAL
		kind := elf.ST_TYPE(info)
		traced := (kind == elf.STT_FUNC || kind == elf.STT_OBJECT) && !strings.HasPrefix(name, ".L")
		if !used[i] && local && !traced {
			continue
		}
		at, ok := names[name]
		if !ok {
			at = uint32(len(strtab))
			names[name] = at
			strtab = append(append(strtab, name...), 0)
		}
		binary.LittleEndian.PutUint32(sym, at)
		number[i] = uint32(len(symtab) / symSize)
		symtab = append(symtab, sym...)
		if local {
			locals = number[i] + 1
		}
	}
	return number, symtab, strtab, locals
}

func cString(b []byte, at uint32) string {
	if uint64(at) >= uint64(len(b)) {
		return ""
	}
	s, _, _ := bytes.Cut(b[at:], []byte{0})
	return string(s)
}

// renumber empties a section that is not kept, and gives relocations the new
// numbers of their symbols.
func (m *elfModule) renumber(i int, number map[uint32]uint32) error {
	if !m.isKept(i) {
		m.sections[i] = elf.Section64{Type: uint32(elf.SHT_NULL)}
		m.data[i] = nil
		return nil
	}
	if !m.isRela(i) {
		return nil
	}
	m.data[i] = bytes.Clone(m.data[i])
	for r := m.data[i]; len(r) >= relaSize; r = r[relaSize:] {
		n, ok := number[binary.LittleEndian.Uint32(r[12:])]
		if !ok {
			return errModule
		}
		binary.LittleEndian.PutUint32(r[12:], n)
	}
	return nil
}

func (m *elfModule) bytes() []byte {
	out := make([]byte, 64)
	for i := range m.sections {
		s := &m.sections[i]
		if s.Type == uint32(elf.SHT_NULL) {
			continue
		}
		if align := min(s.Addralign, 4096); align > 1 {
			out = append(out, make([]byte, (align-uint64(len(out))%align)%align)...)
		}
		s.Off = uint64(len(out))
		if s.Type != uint32(elf.SHT_NOBITS) {
			s.Size = uint64(len(m.data[i]))
			out = append(out, m.data[i]...)
		}
	}
	out = append(out, make([]byte, -len(out)&7)...)
	m.header.Shoff = uint64(len(out))
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, m.header) // a Buffer takes all
	copy(out, b.Bytes())
	b.Reset()
	binary.Write(&b, binary.LittleEndian, m.sections)
	return append(out, b.Bytes()...)
}
