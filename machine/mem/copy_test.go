// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// strict is a Watcher that keeps fast stores as harts do: allowed once a page's note
// is zero, until all are dropped.
type strict struct {
	r    *RAM
	fast []bool
}

func (s *strict) CodeWritten(PFN)                      {}
func (s *strict) WalkWritten(PFN, uint64, uint64) bool { return false }
func (s *strict) HostWritten(uint64, uint64)           {}
func (s *strict) DropWrites()                          { clear(s.fast) }

func (s *strict) store(off uint64, b byte) {
	p := PFN(off >> PageShift)
	if !s.fast[p] {
		s.r.Touch(off, 1)
		s.fast[p] = s.r.Note(p) == 0
	}
	s.r.Ptr().Store8(off, b)
}

const copyPages = 300

func newStrict() *strict {
	s := &strict{fast: make([]bool, copyPages)}
	s.r = New(make([]byte, copyPages<<PageShift), s)
	return s
}

// What a copy hands on is memory as it was at Freeze, whatever is stored before, in
// between and after, by fast stores, by devices and after hashes.
func TestCopy(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := newStrict()
		chaos := func(most int) {
			for range rnd.IntN(most + 1) {
				off := uint64(rnd.IntN(copyPages<<PageShift - 16))
				switch rnd.IntN(20) {
				case 0:
					s.r.Write(Base+off, []byte{1, 2, 3, byte(rnd.Uint32())})
				case 1:
					s.r.Choose(rnd.IntN(10), 4)
				default:
					s.store(off, byte(rnd.Uint32()))
				}
			}
		}
		chaos(2000)
		got := make([]byte, copyPages<<PageShift)
		take := func(c *Copy) {
			stop := rnd.IntN(40)
			c.Take(1+rnd.IntN(60), func(p PFN, b []byte) bool {
				copy(got[int(p)<<PageShift:], b)
				stop--
				return stop > 0
			})
		}
		if seed%3 == 0 {
			take(s.r.StartCopy()) // given up, for the next one
			chaos(100)
		}
		c := s.r.StartCopy()
		for range rnd.IntN(30) {
			chaos(300)
			if take(c); c.Left() == 0 && rnd.IntN(2) == 0 {
				c.NextRound()
			}
		}
		c.Freeze()
		want := bytes.Clone(s.r.bytes)
		for c.Left() > 0 {
			chaos(300)
			take(c)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the copy is not memory as it was at Freeze", seed)
		}
		c.End()
		for p := range s.r.notes {
			if s.r.notes[p]&(Copied|Frozen) != 0 {
				t.Fatalf("seed %d: page %d is noted %x after the end", seed, p, s.r.notes[p])
			}
		}
	}
}

// A round has the pages that were stored to since they were handed on, once each;
// a store to a page not yet handed on adds nothing.
func TestCopyRounds(t *testing.T) {
	s := newStrict()
	c := s.r.StartCopy()
	all := func() (list []PFN) {
		for c.Left() > 0 {
			c.Take(7, func(p PFN, _ []byte) bool { list = append(list, p); return true })
		}
		return list
	}
	s.store(5<<PageShift, 1)
	if n := len(all()); n != copyPages || c.Written() != 0 {
		t.Fatalf("round 0 has %d pages, %d were written since", n, c.Written())
	}
	for i := range uint64(10) {
		s.store(9<<PageShift+i, 1)
		s.store(2<<PageShift+i, 1)
	}
	c.NextRound()
	s.store(2<<PageShift, 2)
	if list := all(); len(list) != 2 || list[0] != 9 || list[1] != 2 || c.Written() != 0 {
		t.Errorf("round 1 has pages %v, %d were written since", list, c.Written())
	}
	s.store(3<<PageShift, 1)
	c.Freeze()
	if s.store(4<<PageShift, 1); c.Left() != 1 || c.Saved() != 0 {
		t.Errorf("%d pages are left, %d saved", c.Left(), c.Saved())
	}
	if s.store(3<<PageShift, 9); c.Saved() != 1 {
		t.Errorf("%d pages are saved", c.Saved())
	}
	c.Take(1, func(p PFN, b []byte) bool {
		if p != 3 || b[0] != 1 {
			t.Errorf("page %d has %d", p, b[0])
		}
		return true
	})
}

// A page that is given back is zero, by the way of a store; its neighbours stay, and the
// host is told.
func TestRelease(t *testing.T) {
	s := newStrict()
	var told [][2]uint64
	s.r.OnRelease(func(off, n uint64) { told = append(told, [2]uint64{off, n}) })
	for off := range uint64(3 * PageSize) {
		s.store(off, 7)
	}
	s.r.Choose(3, 0)
	if !s.r.Release(Base + PageSize) {
		t.Fatal("a page of RAM is not released")
	}
	for p := range PFN(3) {
		want := []byte{7}
		if p == 1 {
			want = []byte{0}
		}
		if !bytes.Equal(s.r.Page(p), bytes.Repeat(want, PageSize)) {
			t.Errorf("page %d is not all %d", p, want[0])
		}
	}
	if got := s.r.Choose(3, 0); len(got) != 1 || got[0] != 1 {
		t.Errorf("written pages are %d", got)
	}
	if len(told) != 1 || told[0] != [2]uint64{PageSize, PageSize} {
		t.Errorf("the host is told %v", told)
	}
	for _, pa := range []uint64{0, Base + 1, Base - PageSize, Base + copyPages<<PageShift} {
		if s.r.Release(pa) {
			t.Errorf("%#x is released", pa)
		}
	}
}
