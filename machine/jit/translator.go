// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package jit

import (
	"math/bits"
	"slices"

	"tandem/machine/riscv"
)

// What all backends do alike: blocks and their order, ways out, links, and what
// loops keep in registers. A backend, in its files, has what the host's code is:
// the types asm, hostReg, label and cond, the registers fixed and spares, and one
// method for each thing that takes an instruction of the host.

// translator makes the host's code of regions.
type translator struct {
	asm
	own    // what only this backend keeps of a block
	layout Layout
	former former

	home  [256]hostReg // of guest registers, none for memory
	moved []move       // where home differs from borderHomes

	cur       *block
	n         int // instructions of cur
	treatment     // of the instruction at hand
	exits     []exit
	first     int // the first of exits that is cur's
	repairs   []Inst
	slow      []slowAccess
	fp        floatBlock
	version   [256]uint8 // how often each guest register was written in the block
	leaveOff  label      // leaves to the interpreter, see quit

	// What the Cache needs to place the code.
	entries   []entry
	links     []link
	shared    []sharedJump
	sites     []site
	pieces    []piece
	firstSite uint32
}

// home is where a guest register is at the borders of regions.
type home struct {
	guest uint8
	host  hostReg
}

// borderHomes is fixed as a table by guest register.
var borderHomes = func() (h [256]hostReg) {
	for i := range h {
		h[i] = none
	}
	for _, f := range fixed {
		h[f.guest] = f.host
	}
	return h
}()

// maxRegionBytes is more than any region takes.
const maxRegionBytes = 256 << 10

// move is a host register that holds another guest register inside a region than
// at its borders, where it holds old or nothing.
type move struct {
	host       hostReg
	guest, old uint8 // old is 0 if there is none
	written    bool  // guest is, in the region
}

// exit is a way out of a block, written behind the region.
type exit struct {
	label label
	kind  exitKind
	give  int32 // steps not executed
	to    int32 // offset of the page
	fix   fix
}

// fix is what of repairs makes registers right where a block is left.
type fix struct{ from, to int }

type exitKind uint8

const (
	toInterpreter exitKind = iota
	toShort                // too few steps
	toOffset               // of the page
	toPage                 // another page
)

// region translates the blocks that former has found.
func (t *translator) region(head uint16, firstSite uint32) (code []byte, ok bool) {
	t.Reset()
	t.exits, t.slow, t.entries, t.links = t.exits[:0], t.slow[:0], t.entries[:0], t.links[:0]
	t.shared, t.sites, t.firstSite = t.shared[:0], t.sites[:0], firstSite
	t.pieces, t.repairs = t.pieces[:0], t.repairs[:0]
	t.assignHomes()
	t.leaveOff = t.NewLabel()
	t.fp.stubs = t.fp.stubs[:0]
	blocks := t.former.blocks
	for i := range blocks {
		blocks[i].label = int(t.NewLabel())
	}
	for i := range blocks {
		t.pieces = append(t.pieces, piece{blocks[i].off, len(t.Code), false})
		t.block(&blocks[i])
		if b := &blocks[i]; b.goesOn() && (i+1 == len(blocks) || blocks[i+1].off != b.end()) {
			t.goTo(b.end())
		}
	}
	t.pieces = append(t.pieces, piece{head, len(t.Code), true})
	t.writeStubs()
	t.writeSlow()
	t.writeExits()
	t.Bind(t.leaveOff)
	t.storeOff()
	t.leaveRegion()
	t.setImm(word32, t.layout.Reason, uint64(Interpret))
	t.jumpShared(func(s *thunks) int { return s.leave })
	t.writeEntries(head)
	return t.Code, t.Finish() == nil
}

// assignHomes gives loops the registers that they use most.
func (t *translator) assignHomes() {
	t.home, t.moved = borderHomes, t.moved[:0]
	if !slices.ContainsFunc(t.former.blocks, func(b block) bool { return b.depth > 0 }) {
		return
	}
	weight, written := t.former.weigh()
	var wanted []uint8
	for r := uint8(1); r < 32; r++ {
		if borderHomes[r] == none && weight[r] >= worthMoving {
			wanted = append(wanted, r)
		}
	}
	slices.SortStableFunc(wanted, func(a, b uint8) int { return weight[b] - weight[a] })
	losers := slices.Clone(fixed[:])
	slices.SortStableFunc(losers, func(a, b home) int { return weight[a.guest] - weight[b.guest] })
	for i, r := range wanted {
		m := move{guest: r, written: written[r]}
		if i < len(spares) {
			m.host = spares[i]
		} else {
			n := i - len(spares)
			if n == len(losers) || weight[r] < weight[losers[n].guest]+worthMoving {
				break
			}
			m.host, m.old = losers[n].host, losers[n].guest
			t.home[m.old] = none
		}
		t.home[r] = m.host
		t.moved = append(t.moved, m)
	}
}

// worthMoving is the weight that pays for a move: two uses in a loop.
const worthMoving = 16

// enterRegion goes from the homes of borders to those of the region, and
// leaveRegion back. They change no other register.
func (t *translator) enterRegion() {
	for _, m := range t.moved {
		if m.old != 0 {
			t.Store(word64, x(m.old), m.host)
		}
		t.Load(word64, m.host, x(m.guest))
	}
}

func (t *translator) leaveRegion() {
	for _, m := range t.moved {
		if m.written {
			t.Store(word64, x(m.guest), m.host)
		}
		if m.old != 0 {
			t.Load(word64, m.host, x(m.old))
		}
	}
}

// writeEntries makes the blocks that may be jumped to from elsewhere known.
func (t *translator) writeEntries(head uint16) {
	for i := range t.former.blocks {
		b := &t.former.blocks[i]
		e := entry{b.off, t.Offset(label(b.label)), b.off == head || b.loops}
		if len(t.moved) > 0 {
			if b.off != head && b.depth > 1 {
				continue
			}
			e.place = len(t.Code)
			t.enterRegion()
			t.jumpTo(label(b.label))
		}
		t.entries = append(t.entries, e)
	}
}

// block translates one block, up to where it runs on.
func (t *translator) block(b *block) {
	t.cur, t.n, t.first = b, len(b.insts), len(t.exits)
	t.fp.forget()
	t.own = own{}
	clear(t.version[:])
	t.Bind(label(b.label))
	t.takeSteps(t.n, t.way(toShort, t.n, int32(b.off)))
	for i := range b.insts {
		in := &b.insts[i]
		if !b.how[i].skip {
			t.treatment = b.how[i]
			t.begin(in.Op)
			t.inst(in, i)
		}
		t.version[usesOf(in).rd]++
	}
	t.treatment = treatment{}
	if b.stop {
		t.quit(int32(b.end()))
	}
}

// sizeOf is the host's name for so many bytes: both assemblers count by powers of two.
func sizeOf(bytes int32) size { return size(bits.TrailingZeros32(uint32(bytes))) }

// inst translates the instruction with index i of the block.
func (t *translator) inst(in *Inst, i int) {
	switch f := riscv.FormatOf(in.Op); {
	case loads[in.Op].size != 0:
		t.load(in, i)
	case storeSize[in.Op] != 0:
		t.store(in, i)
	case isFloat(in.Op):
		t.float(in, i)
	case isAtomic(in.Op):
		t.atomic(in, i)
	case f == riscv.FormatB:
		t.branch(in, t.taken(in, i))
	case in.Op == riscv.JAL, in.Op == riscv.JALR:
		t.jump(in)
	case in.Op == riscv.FENCE, in.Op == riscv.FENCE_I:
	case in.Op == riscv.CBO_ZERO:
		t.zero(in, i)
	case isCSR(in.Op):
		t.csr(in, i)
	case in.Op == riscv.ECALL:
		t.ecall(in, i)
	case in.Op == riscv.SRET:
		t.sret(in, i)
	case in.Op >= riscv.SFENCE_VMA && in.Op <= riscv.SFENCE_INVAL_IR:
		t.fence(in, i)
	case in.Rd == Sink: // no effect
	default:
		t.compute(in)
	}
}

// taken is where a branch goes, with the steps behind it given back.
func (t *translator) taken(in *Inst, i int) label {
	to, give := int32(in.Off)+in.Imm, t.n-(i+1)
	if to < 0 || to >= pageSize {
		return t.way(toPage, give, to)
	}
	if l, ok := t.inRegion(uint16(to)); ok {
		return l // there is nothing to give back, see former.split
	}
	return t.way(toOffset, give, to)
}

// way plans a way out of the block that gives back steps.
func (t *translator) way(kind exitKind, give int, to int32) label {
	for i := len(t.exits) - 1; i >= t.first && i >= len(t.exits)-4; i-- {
		if e := &t.exits[i]; e.kind == kind && e.give == int32(give) && e.to == to {
			return e.label
		}
	}
	l := t.NewLabel()
	t.exits = append(t.exits, exit{l, kind, int32(give), to, t.fixFor(t.n - give)})
	return l
}

// sized is the size to compute in, of an operation of a size.
func (t *translator) sized(s size) size {
	if t.wide {
		return word64
	}
	return s
}

// fixFor plans what makes registers right before the instruction with index i.
func (t *translator) fixFor(i int) fix {
	from := len(t.repairs)
	t.repairs = t.cur.repair(t.repairs, i)
	return fix{from, len(t.repairs)}
}

// repair does that, where no instruction is at hand.
func (t *translator) repair(f fix) {
	for i := f.from; i < f.to; i++ {
		t.begin(riscv.Illegal)
		t.compute(&t.repairs[i])
	}
}

// out plans a way to the interpreter, for the instruction with index i.
func (t *translator) out(in *Inst, i int) label {
	return t.way(toInterpreter, t.n-i, int32(in.Off))
}

func (t *translator) writeExits() {
	for i := 0; i < len(t.exits); i++ {
		e := t.exits[i]
		t.Bind(e.label)
		t.giveBack(e.give)
		t.repair(e.fix)
		switch e.kind {
		case toInterpreter:
			t.quit(e.to)
		case toShort:
			t.leaveRegion()
			t.leave(e.to, Short)
		case toPage:
			t.address(tmp, e.to)
			t.dispatch()
		default:
			t.goTo(uint16(e.to))
		}
	}
}

// goTo goes on at an offset, or behind the page.
func (t *translator) goTo(off uint16) {
	if off >= pageSize {
		t.address(tmp, int32(off))
		t.dispatch()
		return
	}
	if l, ok := t.inRegion(off); ok {
		t.jumpTo(l)
		return
	}
	t.leaveRegion()
	t.links = append(t.links, link{off, t.openJump()}) // at first to what follows
	t.leave(int32(off), AtOffset)
}

func (t *translator) inRegion(off uint16) (label, bool) {
	if n := t.former.at[off>>1]; n != 0 {
		return label(t.former.blocks[n-1].label), true
	}
	return 0, false
}

// leave returns to Go, to go on at an offset of the page.
func (t *translator) leave(off int32, r Reason) {
	t.setImm(word32, t.layout.Off, uint64(off))
	if r != AtOffset {
		t.setImm(word32, t.layout.Reason, uint64(r))
	}
	t.jumpShared(func(s *thunks) int { return s.leave })
}

// jumpShared jumps to a thunk.
func (t *translator) jumpShared(thunk func(*thunks) int) {
	t.shared = append(t.shared, sharedJump{t.openJump(), thunk})
}

// pairOf is the pair of a base register: of its even values in a block or its odd
// ones, since loops often point one register here and there by turns.
func (t *translator) pairOf(r uint8) int32 { return int32(r) + 32*int32(t.version[r]&1) }

// outOfLine writes a stub for where a condition holds.
func (t *translator) outOfLine(c cond, s stub) {
	s.label, s.back = t.NewLabel(), t.NewLabel()
	t.jumpIf(c, s.label)
	t.Bind(s.back)
	t.fp.stubs = append(t.fp.stubs, s)
}

func (t *translator) writeStubs() {
	for i := range t.fp.stubs {
		s := &t.fp.stubs[i]
		t.Bind(s.label)
		s.write(t, s)
		t.jumpTo(s.back)
	}
}

// interpret leaves the block before the floating-point instruction at hand.
func (t *translator) interpret() label {
	f := &t.fp
	if f.out == 0 {
		f.out = t.out(f.in, f.i)
	}
	return f.out
}

// toX is that instruction with an x register for rd.
func (t *translator) toX() *Inst {
	in := *t.fp.in
	if in.Rd == 0 {
		in.Rd = Sink
	}
	return &in
}

// rounds checks that the host rounds as the instruction says.
func (t *translator) rounds() {
	f := &t.fp
	switch rm := f.in.RM; rm {
	case dyn, f.frm:
	case rmm:
		t.jumpTo(t.interpret())
	default:
		t.compareFRM(rm)
		t.jumpIf(notEqual, t.interpret())
		f.frm = rm
	}
}
