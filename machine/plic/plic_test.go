// SPDX-License-Identifier: Apache-2.0

package plic

import (
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/state"
)

var _ bus.Device = (*PLIC)(nil)

// wires records the outputs, one letter per context: '-' low, '^' high.
type wires []byte

func newPLIC(harts int) (*PLIC, wires) {
	w := wires(strings.Repeat("-", 2*harts))
	return New(harts, func(context int, level bool) { w[context] = "-^"[b2i(level)] }), w
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func priority(id int) uint64     { return uint64(4 * id) }
func pending(word int) uint64    { return pendingBase + uint64(4*word) }
func enable(c, w int) uint64     { return enableBase + uint64(c)*enableStride + uint64(4*w) }
func threshold(c int) uint64     { return contextBase + uint64(c)*contextStride }
func claimOf(c int) uint64       { return threshold(c) + claimReg }
func bit(id int) uint64          { return 1 << (id % 32) }
func (w wires) is(s string) bool { return string(w) == s }

// step is one thing done to a PLIC of two harts and what is seen after it.
type step struct {
	do    string // "store", "load", "line"
	at    uint64 // offset, or source
	value uint64 // stored or expected value, or level
	out   string // wires after it
}

var scenarios = []struct {
	why   string
	steps []step
}{
	{"a level goes through gateway, claim and completion", []step{
		{"store", priority(10), 1, "----"},
		{"store", enable(1, 0), bit(10), "----"},
		{"line", 10, 1, "-^--"},
		{"load", pending(0), bit(10), "-^--"},
		{"load", claimOf(1), 10, "----"},
		{"load", pending(0), 0, "----"},
		{"load", claimOf(1), 0, "----"},
		{"line", 10, 0, "----"},
		{"store", claimOf(1), 10, "----"},
		{"load", pending(0), 0, "----"},
	}},
	{"a line still high at completion asks again, and not before", []step{
		{"store", priority(10), 1, "----"},
		{"store", enable(1, 0), bit(10), "----"},
		{"line", 10, 1, "-^--"},
		{"load", claimOf(1), 10, "----"},
		{"line", 10, 0, "----"},
		{"line", 10, 1, "----"},
		{"load", pending(0), 0, "----"},
		{"store", claimOf(1), 10, "-^--"},
		{"load", claimOf(1), 10, "----"},
	}},
	{"a request accepted stays when its line falls", []step{
		{"store", priority(3), 1, "----"},
		{"store", enable(0, 0), bit(3), "----"},
		{"line", 3, 1, "^---"},
		{"line", 3, 0, "^---"},
		{"load", claimOf(0), 3, "----"},
		{"store", claimOf(0), 3, "----"},
	}},
	{"the highest priority wins, then the lowest number", []step{
		{"store", priority(5), 2, "----"},
		{"store", priority(40), 7, "----"},
		{"store", priority(41), 7, "----"},
		{"store", priority(95), 3, "----"},
		{"store", enable(3, 0), bit(5), "----"},
		{"store", enable(3, 1), bit(40) | bit(41), "----"},
		{"store", enable(3, 2), bit(95), "----"},
		{"line", 5, 1, "---^"},
		{"line", 95, 1, "---^"},
		{"line", 41, 1, "---^"},
		{"line", 40, 1, "---^"},
		{"load", claimOf(3), 40, "---^"},
		{"load", claimOf(3), 41, "---^"},
		{"load", claimOf(3), 95, "---^"},
		{"load", claimOf(3), 5, "----"},
		{"load", claimOf(3), 0, "----"},
	}},
	{"the threshold masks the notification and not the claim", []step{
		{"store", priority(1), 3, "----"},
		{"store", enable(1, 0), bit(1), "----"},
		{"store", threshold(1), 3, "----"},
		{"line", 1, 1, "----"},
		{"store", threshold(1), 2, "-^--"},
		{"store", threshold(1), 7, "----"},
		{"load", claimOf(1), 1, "----"},
	}},
	{"priority 0 never interrupts and can't be claimed", []step{
		{"store", enable(1, 0), bit(1), "----"},
		{"line", 1, 1, "----"},
		{"load", pending(0), bit(1), "----"},
		{"load", claimOf(1), 0, "----"},
		{"store", priority(1), 1, "-^--"},
	}},
	{"one claim serves all contexts", []step{
		{"store", priority(8), 1, "----"},
		{"store", enable(1, 0), bit(8), "----"},
		{"store", enable(3, 0), bit(8), "----"},
		{"line", 8, 1, "-^-^"},
		{"load", claimOf(3), 8, "----"},
		{"load", claimOf(1), 0, "----"},
		{"store", claimOf(1), 8, "-^-^"},
	}},
	{"completion of a source that the context hasn't enabled is ignored", []step{
		{"store", priority(8), 1, "----"},
		{"store", enable(1, 0), bit(8), "----"},
		{"line", 8, 1, "-^--"},
		{"load", claimOf(1), 8, "----"},
		{"store", claimOf(0), 8, "----"},
		{"store", enable(1, 0), 0, "----"},
		{"store", claimOf(1), 8, "----"},
		{"load", pending(0), 0, "----"},
		{"store", enable(1, 0), bit(8), "----"},
		{"store", claimOf(1), 0xffff_ffff, "----"},
		{"store", claimOf(1), 96, "----"},
		{"store", claimOf(1), 8, "-^--"},
	}},
	{"registers keep only the bits that exist", []step{
		{"store", priority(0), 7, "----"},
		{"load", priority(0), 0, "----"},
		{"store", priority(2), 0xffff_fffb, "----"},
		{"load", priority(2), 3, "----"},
		{"store", priority(96), 1, "----"},
		{"load", priority(96), 0, "----"},
		{"store", pending(0), 0xffff_ffff, "----"},
		{"load", pending(0), 0, "----"},
		{"store", enable(0, 0), 0xffff_ffff, "----"},
		{"load", enable(0, 0), 0xffff_fffe, "----"},
		{"store", enable(0, 3), 1, "----"},
		{"load", enable(0, 3), 0, "----"},
		{"store", enable(4, 0), 2, "----"},
		{"load", enable(4, 0), 0, "----"},
		{"store", threshold(2), 0xff, "----"},
		{"load", threshold(2), 7, "----"},
		{"store", threshold(4), 1, "----"},
		{"load", threshold(4), 0, "----"},
	}},
}

// Shows the rules of the PLIC specification as sequences of accesses.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.why, func(t *testing.T) {
			p, w := newPLIC(2)
			for i, st := range s.steps {
				switch st.do {
				case "line":
					p.Source(int(st.at)).Set(st.value != 0)
				case "store":
					if !p.Store(st.at, 4, st.value) {
						t.Fatalf("step %d: store to %#x failed", i, st.at)
					}
				case "load":
					if v, ok := p.Load(st.at, 4); !ok || v != st.value {
						t.Fatalf("step %d: load of %#x = %#x, %v; want %#x", i, st.at, v, ok, st.value)
					}
				}
				if !w.is(st.out) {
					t.Fatalf("step %d: outputs %s, want %s", i, w, st.out)
				}
			}
		})
	}
}

// Shows that a reset forgets all but the lines, which ask again.
func TestReset(t *testing.T) {
	p, w := newPLIC(1)
	p.Store(priority(4), 4, 1)
	p.Store(enable(1, 0), 4, bit(4))
	p.Source(4).Set(true)
	p.Load(claimOf(1), 4)
	p.Reset()
	if v, _ := p.Load(pending(0), 4); v != bit(4) || !w.is("--") {
		t.Fatalf("after reset: pending %#x, outputs %s", v, w)
	}
	if v, _ := p.Load(priority(4), 4); v != 0 {
		t.Fatalf("priority %d survives a reset", v)
	}
}

// Shows that loading restores every bit and drives the outputs, and that a state
// with impossible values is refused.
func TestState(t *testing.T) {
	p, w := newPLIC(2)
	r := rand.New(rand.NewSource(1))
	for range 2000 {
		scramble(p, r)
	}
	saved := save(t, p)
	q, v := newPLIC(2)
	c := state.Loader(bytes.NewReader(saved))
	if q.State(c); c.Err() != nil {
		t.Fatal(c.Err())
	}
	if !bytes.Equal(save(t, q), saved) || !v.is(string(w)) {
		t.Fatalf("loaded state differs; outputs %s, want %s", v, w)
	}
	for _, at := range []int{5, Sources + 1} { // a priority; bit 0 of the lines
		bad := bytes.Clone(saved)
		bad[at] |= 0x09
		c := state.Loader(bytes.NewReader(bad))
		if q.State(c); c.Err() == nil {
			t.Errorf("byte %d forged and accepted", at)
		}
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

func scramble(p *PLIC, r *rand.Rand) {
	offs := []uint64{priority(r.Intn(96)), enable(r.Intn(4), r.Intn(3)), threshold(r.Intn(4)), claimOf(r.Intn(4))}
	p.Source(1 + r.Intn(Sources)).Set(r.Intn(2) == 0)
	off := offs[r.Intn(len(offs))]
	if r.Intn(3) == 0 {
		p.Load(off, 4)
	} else {
		p.Store(off, 4, uint64(r.Uint32()))
	}
}

// Shows that no access panics and that only aligned words are taken, at every
// offset of the low registers and at random ones; and that after all of it each
// output still is what the registers say.
func TestHostile(t *testing.T) {
	p, w := newPLIC(2)
	r := rand.New(rand.NewSource(2))
	try := func(off uint64, size int) {
		want := size == 4 && off%4 == 0 && off < Size
		if _, ok := p.Load(off, size); ok != want {
			t.Fatalf("load of %d bytes at %#x: %v", size, off, ok)
		}
		if ok := p.Store(off, size, r.Uint64()); ok != want {
			t.Fatalf("store of %d bytes at %#x: %v", size, off, ok)
		}
		p.Source(1 + r.Intn(Sources)).Set(r.Intn(2) == 0)
	}
	for _, size := range []int{1, 2, 4, 8} {
		for off := range uint64(0x2400) {
			try(off, size)
		}
		for range 20_000 {
			try(contextBase+r.Uint64()%0x5000, size)
			try(r.Uint64()%(2*Size), size)
			try(r.Uint64(), size)
		}
	}
	for i := range p.contexts {
		if got, want := w[i] == '^', p.above(&p.contexts[i]); got != want {
			t.Errorf("context %d: output %v, registers say %v", i, got, want)
		}
	}
}

// Shows what taking an interrupt costs: line up, claim, line down, complete.
func BenchmarkInterrupt(b *testing.B) {
	for _, harts := range []int{1, 4} {
		b.Run(fmt.Sprint(harts), func(b *testing.B) {
			p, _ := newPLIC(harts)
			p.Store(priority(10), 4, 1)
			p.Store(enable(1, 0), 4, bit(10))
			l := p.Source(10)
			for b.Loop() {
				l.Set(true)
				p.Load(claimOf(1), 4)
				l.Set(false)
				p.Store(claimOf(1), 4, 10)
			}
		})
	}
}
