// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// testModule is a module with a text section of one relocation, which names
// the second of three labels; type information; and a signature behind it all.
func testModule() []byte {
	le := binary.LittleEndian
	strs := "\x00.L1\x00.L2\x00.L3\x00helper\x00init_module\x00"
	name := func(s string) uint32 { return uint32(bytes.Index([]byte(strs), []byte(s+"\x00"))) }
	var syms bytes.Buffer
	for _, s := range []elf.Sym64{
		{},
		{Name: name(".L1"), Shndx: 1, Value: 0},
		{Name: name(".L2"), Shndx: 1, Value: 4},
		{Name: name(".L3"), Shndx: 1, Value: 6},
		{Name: name("helper"), Info: byte(elf.STT_FUNC), Shndx: 1, Value: 2},
		{Name: name("init_module"), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1},
	} {
		binary.Write(&syms, le, s)
	}
	var rela bytes.Buffer
	binary.Write(&rela, le, elf.Rela64{Off: 2, Info: 2<<32 | uint64(elf.R_RISCV_PCREL_LO12_I)})
	names := "\x00.text\x00.rela.text\x00.BTF\x00.symtab\x00.strtab\x00.shstrtab\x00"
	section := func(s string) uint32 { return uint32(bytes.Index([]byte(names), []byte(s+"\x00"))) }
	type part struct {
		elf.Section64
		data []byte
	}
	parts := []part{
		{},
		{elf.Section64{Name: section(".text"), Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC | elf.SHF_EXECINSTR), Addralign: 4}, []byte("12345678")},
		{elf.Section64{Name: section(".rela.text"), Type: uint32(elf.SHT_RELA), Link: 4, Info: 1, Addralign: 8, Entsize: relaSize}, rela.Bytes()},
		{elf.Section64{Name: section(".BTF"), Type: uint32(elf.SHT_PROGBITS), Addralign: 1}, []byte("types")},
		{elf.Section64{Name: section(".symtab"), Type: uint32(elf.SHT_SYMTAB), Link: 5, Info: 5, Addralign: 8, Entsize: symSize}, syms.Bytes()},
		{elf.Section64{Name: section(".strtab"), Type: uint32(elf.SHT_STRTAB), Addralign: 1}, []byte(strs)},
		{elf.Section64{Name: uint32(len("\x00.text\x00.rela.text\x00.BTF\x00.symtab\x00.strtab\x00")), Type: uint32(elf.SHT_STRTAB), Addralign: 1}, []byte(names)},
	}
	body := make([]byte, 64)
	for i := range parts {
		parts[i].Off, parts[i].Size = uint64(len(body)), uint64(len(parts[i].data))
		body = append(body, parts[i].data...)
		body = append(body, make([]byte, -len(body)&7)...)
	}
	header := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_RISCV), Version: 1, Ehsize: 64,
		Shoff: uint64(len(body)), Shentsize: 64, Shnum: uint16(len(parts)), Shstrndx: 6}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	binary.Write(&out, le, header)
	out.Write(body[64:])
	for _, p := range parts {
		binary.Write(&out, le, p.Section64)
	}
	out.WriteString("~Module signature appended~\n")
	return out.Bytes()
}

// Stripping keeps code, functions' names and the label that a relocation needs,
// and drops the other labels, type information and signature.
func TestStrip(t *testing.T) {
	b, err := strip(testModule())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("signature")) || bytes.Contains(b, []byte("types")) {
		t.Error("signature or type information is still there")
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	syms, err := f.Symbols()
	if err != nil || len(syms) != 3 || syms[0].Name != ".L2" || syms[1].Name != "helper" || syms[2].Name != "init_module" {
		t.Fatalf("symbols %+v, %v", syms, err)
	}
	if f.Sections[4].Info != 3 {
		t.Errorf("%d local symbols, want 3", f.Sections[4].Info)
	}
	rela, err := f.Sections[2].Data()
	if err != nil || binary.LittleEndian.Uint32(rela[12:]) != 1 || syms[0].Value != 4 {
		t.Errorf("the relocation does not name its label: %x, %v", rela, err)
	}
	if text, err := f.Sections[1].Data(); err != nil || string(text) != "12345678" {
		t.Errorf("text %q, %v", text, err)
	}
}

// A module that is damaged anywhere is an error or a smaller module, never a panic.
func TestStripDamaged(t *testing.T) {
	good := testModule()
	for i := range good {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			bad := bytes.Clone(good)
			bad[i] = v
			strip(bad)
		}
		if _, err := strip(good[:i]); err == nil && i < 64 {
			t.Errorf("a file of %d bytes was taken for a module", i)
		}
	}
	for _, at := range []struct {
		offset int
		value  byte
	}{{0, 'x'}, {16, 2}, {58, 63}, {62, 200}} { // magic, type, size of a section header, section of names
		bad := bytes.Clone(good)
		bad[at.offset] = at.value
		if _, err := strip(bad); err == nil {
			t.Errorf("byte %d = %d went unnoticed", at.offset, at.value)
		}
	}
}
