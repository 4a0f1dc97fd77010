// SPDX-License-Identifier: Apache-2.0

package perfmap

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Symbols are the functions of a guest, by address.
type Symbols struct {
	all    []symbol
	sorted bool
}

// symbol is a function, or with no name the end of one.
type symbol struct {
	addr uint64
	size uint64 // 0: up to the next
	name string
}

// Limits of a file of symbols: a kernel with all its modules has some 300,000.
const (
	maxSymbolFile = 1 << 30
	maxSymbols    = 4 << 20
	maxName       = 256
)

// Load adds the symbols of a file: an ELF with a symbol table, or the text of a
// System.map or of /proc/kallsyms.
func (s *Symbols) Load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return errors.New("this is a folder")
	case st.Size() > maxSymbolFile:
		return fmt.Errorf("it has %d MiB, at most %d can be read", st.Size()>>20, maxSymbolFile>>20)
	}
	before := len(s.all)
	magic := make([]byte, len(elf.ELFMAG))
	if _, err := f.ReadAt(magic, 0); err == nil && string(magic) == elf.ELFMAG {
		err = s.readELF(f)
		if err != nil {
			return err
		}
	} else if err := s.readMap(io.LimitReader(f, maxSymbolFile)); err != nil {
		return err
	}
	for _, a := range s.all[before:] {
		if a.name != "" {
			return nil
		}
	}
	return errNoSymbols
}

var errNoSymbols = errors.New("it names no functions: give an ELF that was not stripped, a System.map, or what root reads from the guest's /proc/kallsyms")

// readELF reads the symbol table of an ELF for this guest.
func (s *Symbols) readELF(f io.ReaderAt) error {
	e, err := elf.NewFile(f)
	if err != nil {
		return err
	}
	if e.Machine != elf.EM_RISCV || e.Class != elf.ELFCLASS64 {
		return fmt.Errorf("this is an ELF for %v, the guest is a 64-bit RISC-V", e.Machine)
	}
	symbols, err := e.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return errNoSymbols
	}
	if err != nil {
		return err
	}
	for _, y := range symbols {
		kind, in := elf.ST_TYPE(y.Info), int(y.Section)
		if kind != elf.STT_FUNC && kind != elf.STT_NOTYPE || in == 0 || in >= len(e.Sections) ||
			e.Sections[in].Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		if err := s.add(symbol{y.Value, y.Size, y.Name}); err != nil {
			return err
		}
	}
	for _, x := range e.Sections { // where the last function of each ends
		if x.Flags&elf.SHF_EXECINSTR != 0 && x.Size > 0 {
			if err := s.add(symbol{addr: x.Addr + x.Size}); err != nil {
				return err
			}
		}
	}
	return nil
}

// readMap reads lines of "ADDRESS KIND NAME [MODULE]", as nm writes them. Data and
// the like ends the function before it.
func (s *Symbols) readMap(r io.Reader) error {
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		f := bytes.Fields(in.Bytes())
		if len(f) == 0 {
			continue
		}
		var addr uint64
		err := errors.New("three fields are missing")
		if len(f) >= 3 && len(f[1]) == 1 {
			addr, err = strconv.ParseUint(string(f[0]), 16, 64)
		}
		if err != nil {
			return fmt.Errorf("line %d is not an address, a letter and a name: %w", n, errNoSymbols)
		}
		y := symbol{addr: addr}
		if strings.ContainsRune("tTwW", rune(f[1][0])) {
			y.name = string(f[2])
		}
		if addr == 0 { // what is kept secret from users who are not root
			continue
		}
		if err := s.add(y); err != nil {
			return err
		}
	}
	return in.Err()
}

// add drops what only the assembler means by a name: mapping symbols ($x) and
// local labels.
func (s *Symbols) add(y symbol) error {
	if strings.HasPrefix(y.name, "$") || strings.HasPrefix(y.name, ".L") {
		return nil
	}
	if len(s.all) >= maxSymbols {
		return fmt.Errorf("there are more than %d symbols", maxSymbols)
	}
	y.name = printable(y.name)
	s.all, s.sorted = append(s.all, y), false
	return nil
}

// printable is a name without what would break a line of the map.
func printable(name string) string {
	name = name[:min(len(name), maxName)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
}

// Find returns the function that an address is in, and how far. Of those that
// begin at one address it is the first that was loaded.
func (s *Symbols) Find(addr uint64) (name string, off uint64, ok bool) {
	if s == nil {
		return "", 0, false
	}
	if !s.sorted {
		s.sort()
	}
	i, found := slices.BinarySearchFunc(s.all, addr, func(y symbol, to uint64) int {
		switch {
		case y.addr < to:
			return -1
		case y.addr > to:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return "", 0, false
	}
	y := &s.all[i]
	off = addr - y.addr
	if y.name == "" || y.size != 0 && off >= y.size || y.size == 0 && i+1 == len(s.all) && off > maxLast {
		return "", 0, false
	}
	return y.name, off, true
}

// maxLast is how far the last function reaches that nothing says the end of.
const maxLast = 64 << 10

// sort orders the symbols and leaves one for each address, with a name before one
// without.
func (s *Symbols) sort() {
	slices.SortStableFunc(s.all, func(a, b symbol) int {
		switch {
		case a.addr != b.addr:
			if a.addr < b.addr {
				return -1
			}
			return 1
		case (a.name == "") != (b.name == ""):
			if b.name == "" {
				return -1
			}
			return 1
		}
		return 0
	})
	s.all = slices.CompactFunc(s.all, func(a, b symbol) bool { return a.addr == b.addr })
	s.sorted = true
}
