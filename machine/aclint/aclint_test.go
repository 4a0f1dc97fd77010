// SPDX-License-Identifier: Apache-2.0

package aclint

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

var _ bus.Device = (*ACLINT)(nil)

// board is an ACLINT and what it told.
type board struct {
	*ACLINT
	time event.Ticks
	told []string
}

func newBoard(harts int) *board {
	b := &board{}
	b.ACLINT = New(harts,
		func() event.Ticks { return b.time },
		func(hart int, level bool) { b.told = append(b.told, fmt.Sprintf("msip %d %v", hart, level)) },
		func(hart int) { b.told = append(b.told, fmt.Sprintf("timer %d", hart)) })
	return b
}

// Shows every register at both widths, and who is told of what.
func TestRegisters(t *testing.T) {
	b := newBoard(2)
	b.time = 0x0123_4567_89ab_cdef
	for i, s := range []struct {
		do    string
		off   uint64
		size  int
		value uint64
		told  string
	}{
		{"load", 0x4000, 8, 0xffff_ffff_ffff_ffff, ""},
		{"load", 0x400c, 4, 0xffff_ffff, ""},
		{"store", 0x0, 4, 0xffff_ffff, "msip 0 true"},
		{"load", 0x0, 4, 1, ""},
		{"store", 0x0, 4, 1, ""},
		{"store", 0x4, 4, 1, "msip 1 true"},
		{"store", 0x0, 4, 0xffff_fffe, "msip 0 false"},
		{"load", 0x0, 4, 0, ""},
		{"load", 0x4, 4, 1, ""},
		{"store", 0x8, 4, 1, ""}, // there is no hart 2
		{"load", 0x8, 4, 0, ""},
		{"store", 0x4000, 8, 0x1122_3344_5566_7788, "timer 0"},
		{"load", 0x4000, 4, 0x5566_7788, ""},
		{"load", 0x4004, 4, 0x1122_3344, ""},
		{"store", 0x4008, 4, 0xaabb_ccdd, "timer 1"},
		{"load", 0x4008, 8, 0xffff_ffff_aabb_ccdd, ""},
		{"store", 0x400c, 4, 0xf_0000_0001, "timer 1"},
		{"load", 0x4008, 8, 0x1_aabb_ccdd, ""},
		{"store", 0x4010, 8, 5, ""},
		{"load", 0x4010, 8, 0, ""},
		{"load", 0xbff8, 8, 0x0123_4567_89ab_cdef, ""},
		{"load", 0xbff8, 4, 0x89ab_cdef, ""},
		{"load", 0xbffc, 4, 0x0123_4567, ""},
		{"store", 0xbff8, 8, 0, ""}, // guest time is an input
		{"store", 0xbffc, 4, 0, ""},
		{"load", 0xbff8, 8, 0x0123_4567_89ab_cdef, ""},
		{"load", 0xc000, 8, 0, ""},
	} {
		b.told = nil
		v, ok := s.value, true
		if s.do == "load" {
			v, ok = b.Load(s.off, s.size)
		} else {
			ok = b.Store(s.off, s.size, s.value)
		}
		if !ok || v != s.value {
			t.Errorf("step %d: %#x, %v; want %#x", i, v, ok, s.value)
		}
		var want []string
		if s.told != "" {
			want = []string{s.told}
		}
		if !slices.Equal(b.told, want) {
			t.Errorf("step %d told %q, want %q", i, b.told, want)
		}
	}
	if b.MTimeCmp(0) != 0x1122_3344_5566_7788 || b.MTimeCmp(1) != 0x1_aabb_ccdd {
		t.Errorf("MTimeCmp %#x, %#x", b.MTimeCmp(0), b.MTimeCmp(1))
	}
	b.told = nil
	b.Reset()
	if want := []string{"timer 0", "msip 1 false", "timer 1"}; !slices.Equal(b.told, want) || b.MTimeCmp(0) != Never {
		t.Errorf("reset told %q, want %q", b.told, want)
	}
}

// Shows that loading restores every bit and tells all of it.
func TestState(t *testing.T) {
	b := newBoard(2)
	b.Store(0x4, 4, 1)
	b.Store(0x4000, 8, 77)
	saved := save(t, b)
	d := newBoard(2)
	c := state.Loader(bytes.NewReader(saved))
	if d.State(c); c.Err() != nil {
		t.Fatal(c.Err())
	}
	if !bytes.Equal(save(t, d), saved) {
		t.Error("loaded state differs")
	}
	if want := []string{"msip 0 false", "timer 0", "msip 1 true", "timer 1"}; !slices.Equal(d.told, want) {
		t.Errorf("told %q, want %q", d.told, want)
	}
	c = state.Loader(bytes.NewReader(saved[:len(saved)-1]))
	if d.State(c); c.Err() == nil {
		t.Error("a short state was accepted")
	}
}

func save(t *testing.T, d bus.Device) []byte {
	t.Helper()
	var b bytes.Buffer
	c := state.Saver(&b)
	if d.State(c); c.Err() != nil {
		t.Fatal(c.Err())
	}
	return b.Bytes()
}

// Shows that no access panics, at every offset and beyond, and that only
// aligned ones of a width that the register has are taken.
func TestHostile(t *testing.T) {
	b := newBoard(3)
	r := rand.New(rand.NewSource(1))
	for _, size := range []int{1, 2, 4, 8} {
		for i := range uint64(Size + 0x2000) {
			off := i
			if i >= Size+0x1000 {
				off = r.Uint64()
			}
			want := off < Size && off%uint64(size) == 0 && (size == 4 || size == 8 && off >= 0x4000)
			if _, ok := b.Load(off, size); ok != want {
				t.Fatalf("load of %d bytes at %#x: %v", size, off, ok)
			}
			if ok := b.Store(off, size, r.Uint64()); ok != want {
				t.Fatalf("store of %d bytes at %#x: %v", size, off, ok)
			}
		}
	}
}
