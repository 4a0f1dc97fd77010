// SPDX-License-Identifier: Apache-2.0

// Package perfmap tells Linux perf the names of translated code, by the file that
// perf reads for code that no binary has: /tmp/perf-PID.map, a line for each
// piece, "START SIZE name" in hex (tools/perf/Documentation/jit-interface.txt in
// the kernel's source).
//
// A piece is a block of the guest. It is named by the guest's symbols, or else by
// the privilege and the virtual address at which it was first translated: the same
// translation serves all address spaces that have its page.
//
//	7f32c4a01040 5c guest vfs_read+0x24
//	7f32c4a0109c 31 guest S 0xffffffff80123456
//	7f32c4a010cd 90 guest vfs_read+0x24 (beside)
//	7f32c4a00000 48 translator: enter
package perfmap

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tandem/machine/jit"
	"tandem/machine/riscv"
)

// Path is where perf looks for the map of a process.
func Path(pid int) string { return fmt.Sprintf("/tmp/perf-%d.map", pid) }

// Map is a map file that grows with each translation.
type Map struct {
	f       *os.File
	symbols *Symbols
	line    []byte
	err     error
}

// Create makes the file at path. What is there already is of a process that had
// the same number, or a trap laid in a folder that anyone may write to: it is
// removed and never followed.
func Create(path string, s *Symbols) (*Map, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	return &Map{f: f, symbols: s}, nil
}

// Add appends pieces, with one write, so that the map holds whatever becomes of
// the process.
func (m *Map) Add(priv riscv.Privilege, pieces []jit.Piece) {
	m.line = m.line[:0]
	for i := range pieces {
		p := &pieces[i]
		m.line = fmt.Appendf(m.line, "%x %x %s\n", p.At, p.Size, m.name(priv, p))
	}
	if _, err := m.f.Write(m.line); err != nil && m.err == nil {
		m.err = err
	}
}

func (m *Map) name(priv riscv.Privilege, p *jit.Piece) string {
	if p.Thunk != "" {
		return "translator: " + p.Thunk
	}
	beside := ""
	if p.Beside {
		beside = " (beside)"
	}
	if name, off, ok := m.symbols.Find(p.VA); ok {
		return fmt.Sprintf("guest %s+%#x%s", name, off, beside)
	}
	return fmt.Sprintf("guest %s %#x%s", letters[priv&3], p.VA, beside)
}

var letters = [4]string{riscv.User: "U", riscv.Supervisor: "S", 2: "?", riscv.Machine: "M"}

// Close closes the file, which stays, and returns the first error of all.
func (m *Map) Close() error {
	err := m.f.Close()
	if m.err != nil {
		return m.err
	}
	return err
}
