// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"math"

	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// A stretch is a run of instructions that can't leave the block. What its guest
// registers hold need not be anywhere in particular before its end, so the host
// registers serve whatever is read next, and a value that is overwritten within
// the stretch is never stored. Before and behind it all are in the homes of the
// region.
type stretch struct {
	*translator
	insts  []Inst
	k      int // the instruction at hand
	homes  [256]amd64.Reg
	hosts  []amd64.Reg
	owner  [16]uint8 // by host register: its guest register, 0 for none
	stale  [16]bool  // memory does not have the owner's value
	frozen [16]bool  // an operand of the instruction at hand
}

// freeze keeps the operands of the instruction at hand where they are.
func (s *stretch) freeze(u uses) {
	clear(s.frozen[:])
	for _, r := range [...]uint8{u.rs1, u.rs2} {
		if h := s.home[r]; h != none {
			s.frozen[h] = true
		}
	}
}

// computes reports whether an instruction reads and writes integer registers and
// does nothing else.
func (t *translator) computes(in *Inst) bool {
	op := in.Op
	switch riscv.FormatOf(op) {
	case riscv.FormatB, riscv.FormatS, riscv.FormatJ, riscv.FormatCSR, riscv.FormatCSRI, riscv.FormatAMO,
		riscv.FormatNone, riscv.FormatRs1, riscv.FormatRs12:
		return false
	}
	return known[op] && loads[op].size == 0 && op != riscv.JALR && op != riscv.FENCE && op != riscv.FENCE_I && !isFloat(op) && !isAtomic(op)
}

// run is how many instructions from the head of insts on are a stretch.
func (t *translator) run(insts []Inst) int {
	n := 0
	for n < len(insts) && t.computes(&insts[n]) {
		n++
	}
	if n < Stretch {
		return 0
	}
	return n
}

// stretch translates a stretch.
func (t *translator) stretch(insts []Inst) {
	s := stretch{translator: t, insts: insts, homes: t.home, hosts: held}
	for r := uint8(1); r < 32; r++ {
		if h := t.home[r]; h != none {
			s.owner[h], s.stale[h] = r, true
		}
	}
	for s.k = range insts {
		in := &insts[s.k]
		if in.Rd == Sink {
			continue // no effect
		}
		u := usesOf(in)
		s.freeze(u)
		s.operand(u.rs1)
		s.operand(u.rs2)
		s.result(u.rd)
		t.inst(in, 0)
		if h := t.home[u.rd]; h != none {
			s.stale[h] = true
		}
		t.version[u.rd]++
	}
	s.restore()
}

// never is the place of no instruction.
const never = math.MaxInt

// next finds the next instruction behind the one at hand that reads a guest
// register, never if it is overwritten or the stretch ends first; lives reports
// whether the value is needed at all.
func (s *stretch) next(r uint8) (at int, lives bool) {
	for i := s.k + 1; i < len(s.insts); i++ {
		in := &s.insts[i]
		u := usesOf(in)
		if u.rs1 == r || u.rs2 == r {
			return i, true
		}
		if u.rd == r {
			return never, false
		}
	}
	return never, true
}

// operand brings a guest register that is read now, and later too, into a host
// register.
func (s *stretch) operand(r uint8) {
	if r == 0 || s.home[r] != none {
		return
	}
	at, _ := s.next(r)
	if at == never {
		return
	}
	if h, ok := s.room(at); ok {
		if s.latest == r {
			s.Mov(amd64.S64, h, tmp)
		} else {
			s.Load(amd64.S64, h, x(r))
		}
		s.take(h, r)
	}
}

// result finds a host register for a guest register that is written now and read
// in the stretch, or overwritten in it.
func (s *stretch) result(r uint8) {
	if s.home[r] != none || s.reads(r) {
		return
	}
	at, lives := s.next(r)
	if at == never && lives {
		return // only the end of the stretch needs it, in memory
	}
	if h, ok := s.room(at); ok {
		s.take(h, r)
	}
}

func (s *stretch) take(h amd64.Reg, r uint8) {
	s.owner[h], s.stale[h], s.frozen[h] = r, false, true
	s.home[r] = h
}

// room empties a host register for a value that is read next by instruction at:
// one whose own value is read much later or not at all.
func (s *stretch) room(at int) (best amd64.Reg, ok bool) {
	latest, least := 0, 0
	for _, h := range s.hosts {
		if s.frozen[h] {
			continue
		}
		when, cost := never, 0
		if g := s.owner[h]; g != 0 {
			var lives bool
			when, lives = s.next(g)
			cost = s.cost(h, lives)
		}
		switch {
		case when == never && cost == 0:
		case at == never, when != never && when < at+pause, cost > 1 && s.k+pause > len(s.insts):
			continue // it would not pay
		}
		if !ok || when > latest || when == latest && cost < least {
			best, ok, latest, least = h, true, when, cost
		}
	}
	if ok {
		s.empty(best)
	}
	return best, ok
}

// pause is how many instructions a value must be out of use, to give its place up.
const pause = 6

// cost is what it takes to empty a host register, in accesses to memory.
func (s *stretch) cost(h amd64.Reg, lives bool) (n int) {
	if lives && s.stale[h] {
		n++
	}
	if s.homes[s.owner[h]] != none {
		n++ // to be loaded again
	}
	return n
}

// empty frees a host register.
func (s *stretch) empty(h amd64.Reg) {
	g := s.owner[h]
	if g == 0 {
		return
	}
	if _, lives := s.next(g); s.stale[h] && lives {
		s.Store(amd64.S64, x(g), h)
	}
	s.owner[h] = 0
	s.home[g] = none
}

// reads reports whether the instruction at hand reads a guest register.
func (s *stretch) reads(r uint8) bool {
	u := usesOf(&s.insts[s.k])
	return u.rs1 == r || u.rs2 == r
}

// restore puts all guest registers where the region has them.
func (s *stretch) restore() {
	for _, h := range s.hosts {
		if g := s.owner[h]; g != 0 && s.stale[h] && s.homes[g] != h {
			s.Store(amd64.S64, x(g), h)
		}
	}
	for r := uint8(1); r < 32; r++ {
		if h := s.homes[r]; h != none && s.owner[h] != r {
			s.Load(amd64.S64, h, x(r))
		}
	}
	s.home = s.homes
	s.latest = 0
}
