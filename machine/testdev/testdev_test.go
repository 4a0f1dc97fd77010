// SPDX-License-Identifier: Apache-2.0

package testdev

import (
	"fmt"
	"math/rand"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

var _ bus.Device = (*Finisher)(nil)

func newFinisher() (*Finisher, *string) {
	did := new(string)
	return New(
		func(b event.OutputBody) { *did = fmt.Sprintf("exit %d", b.(event.Exit).Code) },
		func() { *did = "reset" }), did
}

// Shows what each command does, and that other values do nothing.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		off  uint64
		size int
		v    uint64
		did  string
	}{
		{0, 4, 0x5555, "exit 0"},
		{0, 2, 0x5555, "exit 0"},
		{0, 4, 0x7_5555, "exit 0"},
		{0, 4, 0x3333, "exit 1"},
		{0, 4, 0x1_3333, "exit 1"},
		{0, 4, 0x2a_3333, "exit 42"},
		{0, 4, 0xffff_3333, "exit 65535"},
		{0, 4, 0xff_ffff_3333, "exit 65535"},
		{0, 4, 0x7777, "reset"},
		{0, 4, 0, ""},
		{0, 4, 0x1234, ""},
		{4, 4, 0x5555, ""},
	} {
		f, did := newFinisher()
		if ok := f.Store(c.off, c.size, c.v); !ok || *did != c.did {
			t.Errorf("store %#x at %d: %q, %v; want %q", c.v, c.off, *did, ok, c.did)
		}
		if v, ok := f.Load(c.off, c.size); v != 0 || !ok {
			t.Errorf("load at %d: %d, %v", c.off, v, ok)
		}
	}
}

// Shows that no access panics and which are taken.
func TestHostile(t *testing.T) {
	f, _ := newFinisher()
	r := rand.New(rand.NewSource(1))
	for _, size := range []int{1, 2, 4, 8} {
		for i := range uint64(2 * Size) {
			off := i
			if i >= Size+16 {
				off = r.Uint64()
			}
			want := (size == 2 || size == 4) && off < Size && off%uint64(size) == 0
			if _, ok := f.Load(off, size); ok != want {
				t.Fatalf("load of %d bytes at %#x: %v", size, off, ok)
			}
			if ok := f.Store(off, size, r.Uint64()); ok != want {
				t.Fatalf("store of %d bytes at %#x: %v", size, off, ok)
			}
		}
	}
}

// Shows that there is no state: the hash of the device is that of nothing.
func TestState(t *testing.T) {
	f, _ := newFinisher()
	h := state.Hasher()
	f.State(h)
	if h.Sum() != state.Hasher().Sum() {
		t.Error("a device without state was hashed")
	}
}
