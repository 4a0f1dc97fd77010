// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"slices"

	"tandem/machine/riscv"
)

// Source gives the decoded instructions of a page.
type Source interface {
	// Decoded appends the block at an offset: instructions that follow each other.
	// It appends none where nothing was decoded yet, so never executed.
	Decoded(to []Inst, off uint16) []Inst
}

// Limits of a region, in instructions, so that no translation takes long.
const (
	maxRegion = 500
	maxBlock  = 64
)

// block is a run of instructions of a region that is entered at its start only.
// Branches may leave it on the way.
type block struct {
	off   uint16
	insts []Inst
	how   []treatment // of insts
	stop  bool        // the interpreter executes what follows the last instruction
	depth uint8
	label int // for the backend

	loops, reached bool // is in a loop with the head; can be reached from it
}

// end is the offset behind the last instruction.
func (b *block) end() uint16 {
	last := &b.insts[len(b.insts)-1]
	return last.Off + uint16(last.Len)
}

// former finds the blocks of a region. If the innermost loop that its head is in
// is large, the region is that loop, which then has the registers for itself.
// Otherwise it is what can be reached from the head by branches within the page
// and is not translated yet, without other large loops, and the whole of the
// loops that the head is in, translated or not, so that registers stay where they
// are from round to round.
type former struct {
	knows  func(*Inst) bool
	insts  []Inst
	blocks []block
	loops  []loop
	lazy   lazy
	how    []treatment
	at     [pageSize / 2]int16 // 1 + index in blocks, by halfword
	work   []uint16
	places [pageSize / 2]uint8 // see split
	whole  []block             // the blocks before that
}

// form fills blocks, in the order of their offsets; the head may be anywhere.
func (f *former) form(p *Page, head uint16, src Source) bool {
	for i := range f.blocks {
		f.at[f.blocks[i].off>>1] = 0
	}
	f.blocks, f.insts, f.work = f.blocks[:0], f.insts[:0], append(f.work[:0], head)
	for i := 0; i < len(f.work) && len(f.insts) < maxRegion; i++ {
		f.discover(f.work[i], src)
	}
	if len(f.blocks) == 0 {
		return false
	}
	if b := &f.blocks[0]; b.off != head || b.stop && len(b.insts) < minUnit {
		return false
	}
	f.sort()
	f.split()
	f.findLoops()
	f.choose(p, head)
	f.findLoops() // those that are left
	for i := range f.loops {
		for j, in := range f.loops[i].in {
			if in {
				f.blocks[j].depth++
			}
		}
	}
	f.how = slices.Grow(f.how[:0], len(f.insts))
	how := f.how[:len(f.insts)]
	for i := range f.blocks {
		b := &f.blocks[i]
		b.how, how = how[:len(b.insts)], how[len(b.insts):]
		f.lazy.plan(b)
	}
	return true
}

// minUnit is how many instructions pay for a way out to the interpreter.
const minUnit = 3

// discover adds the block at an offset, and what it leads to as work.
func (f *former) discover(off uint16, src Source) {
	if f.at[off>>1] != 0 {
		return
	}
	first := len(f.insts)
	f.insts = src.Decoded(f.insts, off)
	n := 0
	insts := f.insts[first:]
	for n < len(insts) && n < maxBlock && f.at[insts[n].Off>>1] == 0 && f.knows(&insts[n]) {
		n++
	}
	stop := n < len(insts) && !f.knows(&insts[n])
	f.insts = f.insts[:first+n]
	if n == 0 {
		return
	}
	// The array of insts may move: blocks keep slices of what it was then.
	insts = f.insts[first : first+n : first+n]
	f.blocks = append(f.blocks, block{off: off, insts: insts, stop: stop})
	f.at[off>>1] = int16(len(f.blocks))
	b := &f.blocks[len(f.blocks)-1]
	for i := range insts {
		if to, ok := target(&insts[i]); ok {
			f.work = append(f.work, to)
		}
	}
	if next := b.end(); b.goesOn() && next < pageSize {
		f.work = append(f.work, next)
	}
}

// goesOn reports whether the block runs on into what follows it.
func (b *block) goesOn() bool { return !b.stop && !ends(b.insts[len(b.insts)-1].Op) }

// ends reports whether nothing follows an operation in its block.
func ends(op riscv.Op) bool {
	return op == riscv.JAL || op == riscv.JALR || op == riscv.ECALL || op == riscv.SRET
}

func isAtomic(op riscv.Op) bool { return op >= riscv.LR_W && op <= riscv.AMOMAXU_D }

func isFloat(op riscv.Op) bool { return op >= riscv.FLW && op <= riscv.FCVT_D_LU }

// target is where a branch, or a jump that is no call, goes within the page.
func target(in *Inst) (off uint16, ok bool) {
	if riscv.FormatOf(in.Op) != riscv.FormatB && (in.Op != riscv.JAL || in.Rd != Sink) {
		return 0, false
	}
	to := int32(in.Off) + in.Imm
	return uint16(to), to >= 0 && to < pageSize
}

// sort orders the blocks by offset.
func (f *former) sort() {
	slices.SortFunc(f.blocks, func(a, b block) int { return int(a.off) - int(b.off) })
	f.index()
}

func (f *former) index() {
	for i := range f.blocks {
		f.at[f.blocks[i].off>>1] = int16(i + 1)
	}
}

// Places of a page, by halfword.
const (
	nowhere = iota
	inside  // of a block
	leading // a block
)

// split ends each block where another begins, and behind each branch within what was
// found: what goes round in a loop need not give back steps. So a branch to a block of
// the region is always the last instruction of its own.
func (f *former) split() {
	clear(f.places[:])
	for i := range f.blocks {
		b := &f.blocks[i]
		for j := range b.insts {
			f.places[b.insts[j].Off>>1] = max(f.places[b.insts[j].Off>>1], inside)
		}
		f.places[b.off>>1] = leading
	}
	for i := range f.blocks {
		b := &f.blocks[i]
		for j := range b.insts {
			if to, ok := target(&b.insts[j]); ok && f.places[to>>1] != nowhere {
				f.places[to>>1] = leading
				if j+1 < len(b.insts) {
					f.places[b.insts[j+1].Off>>1] = leading
				}
			}
		}
	}
	for i := range f.blocks {
		f.at[f.blocks[i].off>>1] = 0
	}
	f.whole, f.blocks = f.blocks, f.whole[:0]
	for i := range f.whole {
		f.cut(&f.whole[i])
	}
	f.sort()
}

// cut adds the blocks that b is made of, unless they are there already: what leads to
// the middle of a block was found as a block too.
func (f *former) cut(b *block) {
	for rest := b.insts; len(rest) > 0; {
		n := 1
		for n < len(rest) && f.places[rest[n].Off>>1] != leading {
			n++
		}
		if at := &f.at[rest[0].Off>>1]; *at == 0 {
			f.blocks = append(f.blocks, block{off: rest[0].Off, insts: rest[:n], stop: b.stop && n == len(rest)})
			*at = int16(len(f.blocks))
		}
		rest = rest[n:]
	}
}

// successors calls do with the index of each block of the region that b leads to.
func (f *former) successors(b *block, do func(int)) {
	for i := range b.insts {
		if to, ok := target(&b.insts[i]); ok {
			if n := f.at[to>>1]; n != 0 {
				do(int(n) - 1)
			}
		}
	}
	if next := b.end(); b.goesOn() && next < pageSize {
		if n := f.at[next>>1]; n != 0 {
			do(int(n) - 1)
		}
	}
}

// loop is a natural loop: its header, which one of its blocks at or behind it
// jumps back to, and all that gets there without passing the header.
type loop struct {
	in   []bool // by block
	size int    // in instructions
}

// largeLoop is how many instructions pay for the way from one region to another.
const largeLoop = 24

// findLoops finds the loops among the blocks.
func (f *former) findLoops() {
	f.loops = f.loops[:0]
	for h := range f.blocks {
		in := make([]bool, len(f.blocks))
		found := false
		for i := h; i < len(f.blocks); i++ {
			f.successors(&f.blocks[i], func(to int) {
				if to == h {
					in[i], found = true, true
				}
			})
		}
		if !found {
			continue
		}
		in[h] = true
		for again := true; again; {
			again = false
			for i := range f.blocks {
				if in[i] {
					continue
				}
				f.successors(&f.blocks[i], func(to int) { in[i] = in[i] || to != h && in[to] })
				again = again || in[i]
			}
		}
		l := loop{in: in}
		for i := range in {
			if in[i] {
				l.size += len(f.blocks[i].insts)
			}
		}
		f.loops = append(f.loops, l)
	}
}

// innermost is the smallest loop that a block is in, nil if there is none.
func (f *former) innermost(b int) *loop {
	var best *loop
	for i := range f.loops {
		if l := &f.loops[i]; l.in[b] && (best == nil || l.size < best.size) {
			best = l
		}
	}
	return best
}

// maxCopies is how often the same code may be translated.
const maxCopies = 4

// choose drops the blocks that are not the region's.
func (f *former) choose(p *Page, head uint16) {
	h := int(f.at[head>>1]) - 1
	f.blocks[h].reached = true
	own := f.innermost(h)
	wanted := func(i int) bool {
		b, l := &f.blocks[i], f.innermost(i)
		switch {
		case own != nil && own.size >= largeLoop && !own.in[i]:
			return false
		case l != nil && l.size >= largeLoop && !l.in[h]:
			return false
		}
		n := p.copies[b.off>>1]
		b.loops = l != nil && l.in[h]
		return n == 0 || b.loops && n < maxCopies
	}
	f.blocks[h].loops = own != nil
	for again := true; again; {
		again = false
		for i := range f.blocks {
			if !f.blocks[i].reached {
				continue
			}
			f.successors(&f.blocks[i], func(to int) {
				if !f.blocks[to].reached && wanted(to) {
					f.blocks[to].reached, again = true, true
				}
			})
		}
	}
	kept := f.blocks[:0]
	for i := range f.blocks {
		f.at[f.blocks[i].off>>1] = 0
		if f.blocks[i].reached {
			kept = append(kept, f.blocks[i])
		}
	}
	f.blocks = kept
	f.index()
}

// weigh says how often each guest register is used, by a guess of how often each
// loop goes round.
func (f *former) weigh() (weight [256]int, written [256]bool) {
	for i := range f.blocks {
		b := &f.blocks[i]
		often := 1 << (3 * min(b.depth, 3))
		for j := range b.insts {
			if b.how[j].skip {
				continue
			}
			in := &b.insts[j]
			use := usesOf(in)
			for _, r := range [...]uint8{use.rs1, use.rs2, use.rd} {
				weight[r] += often
			}
			written[use.rd] = true
		}
	}
	weight[0], weight[Sink] = 0, 0
	return weight, written
}

// uses are the integer registers of an instruction, 0 or Sink where it has none.
type uses struct{ rd, rs1, rs2 uint8 }

// usesOf may name more than an instruction writes, never less: floating-point
// operations have numbers of either kind of register in Rd and Rs1.
func usesOf(in *Inst) uses {
	has := hasOperands[riscv.FormatOf(in.Op)]
	u := uses{rd: Sink}
	if has.rd && in.Op != riscv.FLW && in.Op != riscv.FLD {
		u.rd = in.Rd
	}
	if has.rs1 {
		u.rs1 = in.Rs1
	}
	if has.rs2 && in.Op != riscv.FSW && in.Op != riscv.FSD {
		u.rs2 = in.Rs2
	}
	return u
}

var hasOperands = [...]struct{ rd, rs1, rs2 bool }{
	riscv.FormatNone: {}, riscv.FormatR: {true, true, true}, riscv.FormatR1: {true, true, false},
	riscv.FormatR4: {true, false, false}, riscv.FormatRM: {true, true, false}, riscv.FormatRM1: {true, true, false},
	riscv.FormatI: {true, true, false}, riscv.FormatShift: {true, true, false}, riscv.FormatS: {false, true, true},
	riscv.FormatB: {false, true, true}, riscv.FormatU: {rd: true}, riscv.FormatJ: {rd: true},
	riscv.FormatCSR: {true, true, false}, riscv.FormatCSRI: {rd: true}, riscv.FormatAMO: {true, true, true},
	riscv.FormatRs1: {rs1: true}, riscv.FormatRs12: {rs1: true, rs2: true},
}
