// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"slices"

	"tandem/machine/jit"
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// Stats counts what the harts of a System executed, and how, since it was made.
// Every step is one of Translated.Steps, Interpreted and Interrupts.
type Stats struct {
	Translated jit.Stats // by translated code
	CodeUsed   int       // bytes of translated code
	CodeSize   int       // bytes there is room for, 0 where nothing is translated

	Interpreted uint64 // steps of the interpreter, exceptions included
	Interrupts  uint64 // taken: a step each

	// Singles are the instructions that translated code left to the
	// interpreter one at a time, by operation.
	Singles [riscv.NumOps]uint64
}

// Stats says what was executed so far, and how.
func (s *System) Stats() *Stats {
	if s.jit != nil {
		s.stats.Translated = s.jit.Stats
		s.stats.CodeUsed, s.stats.CodeSize = s.jit.Used(), s.jit.Size()
	}
	return &s.stats
}

// OpCount is how often an operation was executed.
type OpCount struct {
	Op    riscv.Op
	Count uint64
}

// Single is the sum of Singles.
func (s *Stats) Single() (n uint64) {
	for _, c := range s.Singles {
		n += c
	}
	return n
}

// TopSingles are the most frequent of Singles, at most n of them.
func (s *Stats) TopSingles(n int) []OpCount {
	var all []OpCount
	for op, c := range s.Singles {
		if c > 0 {
			all = append(all, OpCount{riscv.Op(op), c})
		}
	}
	slices.SortStableFunc(all, func(a, b OpCount) int {
		if a.Count > b.Count {
			return -1
		}
		return int(min(b.Count-a.Count, 1))
	})
	return all[:min(n, len(all))]
}

// interpret is exec, counted.
func (h *Hart) interpret(blocks int, insts uint64) {
	before := h.left
	h.exec(blocks, insts)
	h.sys.stats.Interpreted += before - h.left
}

// countSingle counts the instruction at pc. It was decoded when its block was
// translated; one that was forgotten since then, or whose page has gone from the TLB, is
// not counted.
func (h *Hart) countSingle() {
	vpage := h.pc &^ mem.PageMask
	e := &h.ctx.exec[vpage>>12%execEntries]
	if e.tag != vpage || e.page == nil || !e.page.live {
		return
	}
	if entry := e.page.entry[h.pc&mem.PageMask>>1]; entry != 0 {
		h.sys.stats.Singles[e.page.insts[entry-1].op]++
	}
}

// An Observer hears of translated code when it is made, from a hart that runs
// with a privilege.
type Observer func(priv riscv.Privilege, pieces []jit.Piece)

// Observe makes o hear of all code that is translated from now on, and of what
// all of it shares at once.
func (s *System) Observe(o Observer) {
	if s.jit == nil {
		return
	}
	s.observer = o
	o(riscv.Machine, s.jit.Thunks())
}

// report tells the observer of the region that was made last, for the block at pc.
func (h *Hart) report() {
	if o := h.sys.observer; o != nil {
		o(h.priv, h.sys.jit.Last(h.pc&^mem.PageMask))
	}
}
