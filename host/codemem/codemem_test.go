// SPDX-License-Identifier: Apache-2.0

package codemem

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// protection is what may be done at an address of this process, as in /proc/self/maps.
func protection(t *testing.T, at uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		var prot string
		if fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &prot); from <= at && at < to {
			return prot
		}
	}
	return "none"
}

// The two views show the same bytes; what can be written can't be executed, and
// what can be executed can't be written. Close leaves neither.
func TestViews(t *testing.T) {
	t.Run("New", func(t *testing.T) { testViews(t, New) })
	t.Run("NewAnonymous", func(t *testing.T) { testViews(t, NewAnonymous) })
}

func testViews(t *testing.T, alloc func(int) (*Memory, error)) {
	const size = 1 << 20
	m, err := alloc(size)
	if err != nil {
		t.Fatal(err)
	}
	rw := uintptr(unsafe.Pointer(&m.RW[0]))
	rx := m.RX()
	if len(m.RW) != size || rw == rx {
		t.Fatalf("%d bytes, views at %#x and %#x", len(m.RW), rw, rx)
	}
	for i, at := range []int{0, 4095, 70_000, size - 1} {
		m.RW[at] = byte(i + 1)
		if m.rx[at] != byte(i+1) {
			t.Errorf("byte %d was not seen by the other view", at)
		}
	}
	for _, at := range []uintptr{rw, rw + size - 1} {
		if p := protection(t, at); p != "rw-s" {
			t.Errorf("writable view: %s", p)
		}
	}
	for _, at := range []uintptr{rx, rx + size - 1} {
		if p := protection(t, at); p != "r-xs" {
			t.Errorf("executable view: %s", p)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for _, at := range []uintptr{rw, rx} {
		if p := protection(t, at); p == "rw-s" || p == "r-xs" {
			t.Errorf("a view is still there after Close: %s", p)
		}
	}
	if m.RW != nil {
		t.Error("the slice outlives its memory")
	}
}

// A host that forbids executable memory is named with the way out, and a kernel
// that does not know MFD_EXEC is asked again without it.
func TestForbidden(t *testing.T) {
	defer func(f func(string, int) (int, error)) { memfd = f }(memfd)
	real := memfd
	for _, c := range []struct {
		name  string
		memfd func(string, int) (int, error)
		err   error
	}{
		{"vm.memfd_noexec=2", func(string, int) (int, error) { return -1, unix.EACCES }, unix.EACCES},
		{"no memfd", func(string, int) (int, error) { return -1, unix.ENOSYS }, unix.ENOSYS},
		{"an old kernel", func(name string, flags int) (int, error) {
			if flags&unix.MFD_EXEC != 0 {
				return -1, unix.EINVAL
			}
			return real(name, flags)
		}, nil},
	} {
		memfd = c.memfd
		m, err := New(4096)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			m.Close()
		} else if s := err.Error(); !strings.Contains(s, "vm.memfd_noexec") || !strings.Contains(s, "--engine interpreter") {
			t.Errorf("%s: no remedy in %q", c.name, s)
		}
	}
}

// A size that no host has fails with the operation's name, and leaves nothing open.
func TestTooLarge(t *testing.T) {
	for _, alloc := range []func(int) (*Memory, error){New, NewAnonymous} {
		if _, err := alloc(1 << 62); err == nil || !strings.Contains(err.Error(), "memory for translated code") {
			t.Error(err)
		}
	}
}

// The kernel calls a memory of NewAnonymous what perf takes for code without a file.
func TestAnonymousName(t *testing.T) {
	m, err := NewAnonymous(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, fmt.Sprintf("%x-", m.RX())) && strings.Contains(line, " /dev/zero") {
			return
		}
	}
	t.Errorf("no /dev/zero at %#x", m.RX())
}
