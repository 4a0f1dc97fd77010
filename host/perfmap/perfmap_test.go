// SPDX-License-Identifier: Apache-2.0

package perfmap

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/machine/jit"
	"tandem/machine/riscv"
)

// A line is START SIZE name; the name is a function's where a symbol has the
// address, and else the address itself with the privilege.
func TestMap(t *testing.T) {
	dir := t.TempDir()
	systemMap := filepath.Join(dir, "System.map")
	if err := os.WriteFile(systemMap, []byte("ffffffff80001000 T vfs_read\nffffffff80001100 t helper\r\nffffffff80001200 D data\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pieces := []jit.Piece{
		{At: 0x7f00_0000_0000, Size: 0x48, Thunk: "enter"},
		{At: 0x7f00_0000_1000, Size: 0x5c, VA: 0xffffffff80001024},
		{At: 0x7f00_0000_105c, Size: 0x90, VA: 0xffffffff80001104, Beside: true},
		{At: 0x7f00_0000_2000, Size: 1, VA: 0xffffffff80001200},
	}
	for _, c := range []struct {
		files []string
		want  string
	}{
		{nil, "7f0000000000 48 translator: enter\n7f0000001000 5c guest S 0xffffffff80001024\n" +
			"7f000000105c 90 guest S 0xffffffff80001104 (beside)\n7f0000002000 1 guest S 0xffffffff80001200\n"},
		{[]string{systemMap}, "7f0000000000 48 translator: enter\n7f0000001000 5c guest vfs_read+0x24\n" +
			"7f000000105c 90 guest helper+0x4 (beside)\n7f0000002000 1 guest S 0xffffffff80001200\n"},
	} {
		var s Symbols
		for _, f := range c.files {
			if err := s.Load(f); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, "map")
		m, err := Create(path, &s)
		if err != nil {
			t.Fatal(err)
		}
		m.Add(riscv.Supervisor, pieces[:2])
		m.Add(riscv.Supervisor, pieces[2:])
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != c.want {
			t.Errorf("with %v:\n%swant\n%s", c.files, got, c.want)
		}
	}
}

// A link that lies where the map goes is replaced, and what it points to is not
// written.
func TestCreateOverLink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "map")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	m, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Add(riscv.User, []jit.Piece{{At: 1, Size: 1}})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "mine" {
		t.Errorf("the file behind the link holds %q", b)
	}
	if b, _ := os.ReadFile(path); string(b) != "1 1 guest U 0x0\n" {
		t.Errorf("the map holds %q", b)
	}
}

// A write that fails is reported at the end.
func TestMapFull(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	m := &Map{f: f}
	m.Add(riscv.User, []jit.Piece{{At: 1, Size: 1}})
	if err := m.Close(); err == nil {
		t.Error("no error")
	}
}

// object is an ELF of a machine with code of 0x100 bytes at 0x10000 and symbols.
func object(machine elf.Machine, symbols []elf.Sym64, names string) []byte {
	var out, body bytes.Buffer
	const head = 64
	sections := []elf.Section64{{}}
	add := func(s elf.Section64, data any) {
		s.Off = head + uint64(body.Len())
		before := body.Len()
		binary.Write(&body, binary.LittleEndian, data)
		s.Size = uint64(body.Len() - before)
		sections = append(sections, s)
	}
	add(elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC | elf.SHF_EXECINSTR), Addr: 0x10000}, make([]byte, 0x100))
	add(elf.Section64{Type: uint32(elf.SHT_SYMTAB), Link: 3, Entsize: elf.Sym64Size}, symbols)
	add(elf.Section64{Type: uint32(elf.SHT_STRTAB)}, []byte(names+"\x00"))
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Ehsize: head,
		Shoff: head + uint64(body.Len()), Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: 3}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	binary.Write(&out, binary.LittleEndian, h)
	out.Write(body.Bytes())
	binary.Write(&out, binary.LittleEndian, sections)
	return out.Bytes()
}

// Of an ELF's symbols those count that name code; a size ends a function, and so
// does the end of its section.
func TestELF(t *testing.T) {
	const names = "\x00main\x00loop\x00$xrv64\x00.Lx\x00late"
	at := func(name string) uint32 { return uint32(strings.Index(names, name)) }
	function, label := elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), elf.ST_INFO(elf.STB_LOCAL, elf.STT_NOTYPE)
	path := filepath.Join(t.TempDir(), "elf")
	write := func(m elf.Machine) {
		t.Helper()
		if err := os.WriteFile(path, object(m, []elf.Sym64{{},
			{Name: at("main"), Info: function, Shndx: 1, Value: 0x10000, Size: 0x20},
			{Name: at("$xrv64"), Info: label, Shndx: 1, Value: 0x10004},
			{Name: at(".Lx"), Info: label, Shndx: 1, Value: 0x10008},
			{Name: at("loop"), Info: label, Shndx: 1, Value: 0x10030},
			{Name: at("late"), Info: function, Shndx: 1, Value: 0x10080},
			{Name: at("late"), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_OBJECT), Shndx: 1, Value: 0x10040},
		}, names), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(elf.EM_RISCV)
	var s Symbols
	if err := s.Load(path); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr uint64
		name string
		off  uint64
	}{
		{0xffff, "", 0}, {0x10000, "main", 0}, {0x1001f, "main", 0x1f}, {0x10020, "", 0},
		{0x10030, "loop", 0}, {0x1007e, "loop", 0x4e}, {0x10080, "late", 0}, {0x100ff, "late", 0x7f},
		{0x10100, "", 0}, {^uint64(0), "", 0},
	} {
		name, off, ok := s.Find(c.addr)
		if name != c.name || off != c.off || ok != (c.name != "") {
			t.Errorf("%#x is in %q+%#x, %v; want %q+%#x", c.addr, name, off, ok, c.name, c.off)
		}
	}
	write(elf.EM_X86_64)
	if err := s.Load(path); err == nil || !strings.Contains(err.Error(), "EM_X86_64") {
		t.Errorf("the host's ELF: %v", err)
	}
}

// No file makes the readers fail otherwise than by an error, and no name breaks a
// line of the map.
func FuzzSymbols(f *testing.F) {
	f.Add(object(elf.EM_RISCV, []elf.Sym64{{}, {Name: 1, Shndx: 1, Info: 2, Value: 0x10000}}, "\x00main"))
	f.Add([]byte("ffffffff80000000 T a\nffffffff80000010 t b [mod]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		var s Symbols
		if err := s.Load(path); err != nil {
			return
		}
		for _, y := range s.all {
			if name, _, ok := s.Find(y.addr); ok && (name == "" || strings.ContainsAny(name, "\n\r") || len(name) > maxName) {
				t.Fatalf("%#x is in %q", y.addr, name)
			}
		}
	})
}
