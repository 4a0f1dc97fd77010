// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"math/bits"
	"slices"

	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// The registers with one meaning everywhere. R18, R28, R29, R30 and SP are not
// ours, see package native.
const (
	state = arm64.X19 // x, and the State behind it
	tlb   = arm64.X20 // what is used most of the TLB, see tlbBias
	steps = arm64.X21
	tmp   = arm64.X15 // results on their way, addresses
	tmp2  = arm64.X16
	tmp3  = arm64.X17
	tmp4  = arm64.X26 // constants to store too
	far   = arm64.X27 // offsets that no instruction holds
)

// none is the home of a guest register that lives in memory.
const none = arm64.SP

// home is where a guest register is at the borders of regions.
type home struct {
	guest uint8
	host  arm64.Reg
}

// fixed are the homes of guest registers at the borders of regions: ra, sp, tp,
// t0 to t2, s0, s1, a0 to a7, s2 and s3, and t3.
var fixed = [...]home{
	{1, arm64.X0}, {2, arm64.X1}, {4, arm64.X2}, {5, arm64.X3}, {6, arm64.X4}, {7, arm64.X5}, {8, arm64.X6}, {9, arm64.X7},
	{10, arm64.X8}, {11, arm64.X9}, {12, arm64.X10}, {13, arm64.X11}, {14, arm64.X12}, {15, arm64.X13}, {16, arm64.X14},
	{17, arm64.X22}, {18, arm64.X23}, {19, arm64.X24}, {28, arm64.X25},
}

// borderHomes is fixed as a table by guest register.
var borderHomes = func() (h [256]arm64.Reg) {
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

// translator makes the host's code of regions.
type translator struct {
	arm64.Asm
	layout Layout
	former former

	home  [256]arm64.Reg // of guest registers, none for memory
	moved []move         // where home differs from borderHomes

	n        int // instructions of the block at hand
	exits    []exit
	slow     []slowAccess
	fp       floatBlock
	version  [256]uint8  // how often each guest register was written in the block
	leaveOff arm64.Label // leaves to the interpreter, at the Off in tmp

	// What the Cache needs to place the code.
	entries   []entry
	links     []link
	shared    []sharedJump
	sites     []site
	pieces    []piece
	firstSite uint32
}

// move is a host register that holds another guest register inside a region than
// at its borders, where it holds old.
type move struct {
	host       arm64.Reg
	guest, old uint8
	written    bool // guest is, in the region
}

// exit is a way out of a block, written behind the region.
type exit struct {
	label arm64.Label
	kind  exitKind
	give  int32 // steps not executed
	to    int32 // offset of the page
}

type exitKind uint8

const (
	toInterpreter exitKind = iota
	toShort                // too few steps
	toBlock                // of the region
	toRegion               // another of the page
	toPage                 // another page
)

// region translates the blocks that former has found.
func (t *translator) region(head uint16, firstSite uint32) (code []byte, ok bool) {
	t.Reset()
	t.exits, t.slow, t.entries, t.links = t.exits[:0], t.slow[:0], t.entries[:0], t.links[:0]
	t.shared, t.sites, t.firstSite = t.shared[:0], t.sites[:0], firstSite
	t.pieces = t.pieces[:0]
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
	t.set(arm64.S32, t.layout.Off, tmp)
	t.leaveRegion()
	t.setImm(arm64.S32, t.layout.Reason, uint64(Interpret))
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
		loser := losers[i]
		if weight[r] < weight[loser.guest]+worthMoving {
			break
		}
		t.home[loser.guest], t.home[r] = none, loser.host
		t.moved = append(t.moved, move{host: loser.host, guest: r, old: loser.guest, written: written[r]})
	}
}

// worthMoving is the weight that pays for a move: two uses in a loop.
const worthMoving = 16

// enterRegion goes from the homes of borders to those of the region, and
// leaveRegion back. They change no other register.
func (t *translator) enterRegion() {
	for _, m := range t.moved {
		t.Store(arm64.S64, x(m.old), m.host)
		t.Load(arm64.S64, m.host, x(m.guest))
	}
}

func (t *translator) leaveRegion() {
	for _, m := range t.moved {
		if m.written {
			t.Store(arm64.S64, x(m.guest), m.host)
		}
		t.Load(arm64.S64, m.host, x(m.old))
	}
}

// writeEntries makes the blocks that may be jumped to from elsewhere known.
func (t *translator) writeEntries(head uint16) {
	for i := range t.former.blocks {
		b := &t.former.blocks[i]
		e := entry{b.off, t.Offset(arm64.Label(b.label)), b.off == head || b.loops}
		if len(t.moved) > 0 {
			if b.off != head && b.depth > 1 {
				continue
			}
			e.place = len(t.Code)
			t.enterRegion()
			t.B(arm64.Label(b.label))
		}
		t.entries = append(t.entries, e)
	}
}

// block translates one block, up to where it runs on.
func (t *translator) block(b *block) {
	t.n = len(b.insts)
	t.fp.forget()
	clear(t.version[:])
	t.Bind(arm64.Label(b.label))
	t.RRI(arm64.SUBS, arm64.S64, steps, steps, int64(t.n))
	t.BCond(arm64.LO, t.way(toShort, t.n, int32(b.off)))
	for i := range b.insts {
		t.inst(&b.insts[i], i)
		t.version[usesOf(&b.insts[i]).rd]++
	}
	if b.stop {
		t.MovImm(tmp, uint64(b.end()))
		t.B(t.leaveOff)
	}
}

// way plans a way out that gives back steps.
func (t *translator) way(kind exitKind, give int, to int32) arm64.Label {
	for i := len(t.exits) - 1; i >= 0 && i >= len(t.exits)-4; i-- {
		if e := &t.exits[i]; e.kind == kind && e.give == int32(give) && e.to == to {
			return e.label
		}
	}
	l := t.NewLabel()
	t.exits = append(t.exits, exit{l, kind, int32(give), to})
	return l
}

// out plans a way to the interpreter, for the instruction with index i.
func (t *translator) out(in *Inst, i int) arm64.Label {
	return t.way(toInterpreter, t.n-i, int32(in.Off))
}

func (t *translator) writeExits() {
	for i := 0; i < len(t.exits); i++ {
		e := t.exits[i]
		t.Bind(e.label)
		t.giveBack(e.give)
		switch e.kind {
		case toInterpreter:
			t.MovImm(tmp, uint64(e.to))
			t.B(t.leaveOff)
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

// giveBack gives back steps that are not executed.
func (t *translator) giveBack(n int32) {
	if n != 0 {
		t.RRI(arm64.ADD, arm64.S64, steps, steps, int64(n))
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
		t.B(l)
		return
	}
	t.leaveRegion()
	t.links = append(t.links, link{off, int(t.BPatch())}) // at first to what follows
	t.leave(int32(off), AtOffset)
}

func (t *translator) inRegion(off uint16) (arm64.Label, bool) {
	if n := t.former.at[off>>1]; n != 0 {
		return arm64.Label(t.former.blocks[n-1].label), true
	}
	return 0, false
}

// leave returns to Go, to go on at an offset of the page.
func (t *translator) leave(off int32, r Reason) {
	t.setImm(arm64.S32, t.layout.Off, uint64(off))
	if r != AtOffset {
		t.setImm(arm64.S32, t.layout.Reason, uint64(r))
	}
	t.jumpShared(func(s *thunks) int { return s.leave })
}

// jumpShared jumps to a thunk.
func (t *translator) jumpShared(thunk func(*thunks) int) {
	t.shared = append(t.shared, sharedJump{int(t.BPatch()), thunk})
}

// dispatch goes on at the address in tmp: by the jump cache, or by Go.
func (t *translator) dispatch() {
	l := &t.layout
	t.leaveRegion()
	miss := t.NewLabel()
	t.RRS(arm64.EOR, arm64.S64, tmp2, tmp, tmp, arm64.LSR, pageShift) // JumpIndex
	t.Field(arm64.UBFX, arm64.S64, tmp2, tmp2, 1, uint(bits.TrailingZeros(JumpEntries)))
	t.RRS(arm64.ADD, arm64.S64, tmp2, tlb, tmp2, arm64.LSL, 4)
	t.LoadPair(arm64.S64, tmp3, tmp4, t.near(tmp2, t.inTLB(l.Jumps)))
	t.Cmp(arm64.S64, tmp, tmp3)
	t.BCond(arm64.NE, miss)
	t.RRI(arm64.AND, arm64.S64, tmp, tmp, -pageSize)
	t.set(arm64.S64, l.VPage, tmp)
	t.Br(tmp4)
	t.Bind(miss)
	t.set(arm64.S64, l.PC, tmp)
	t.setImm(arm64.S32, l.Reason, uint64(AtPC))
	t.jumpShared(func(s *thunks) int { return s.leave })
}

const pageShift = 12

// x is a register of the guest in memory.
func x(r uint8) arm64.Mem { return arm64.At(state, int32(r)*8) }

// at is the memory at an offset, through far if that is too much for an instruction.
func (t *translator) at(s arm64.Size, base arm64.Reg, off int32) arm64.Mem {
	if arm64.Fits(s, off) {
		return arm64.At(base, off)
	}
	t.MovImm(far, uint64(int64(off)))
	return arm64.Mem{Base: base, Index: far, Mode: arm64.Indexed}
}

// near is where two words at an offset are, with what is too much for an
// instruction added to the base.
func (t *translator) near(base arm64.Reg, off int32) arm64.Mem {
	if low := (off+512)&(pageSize-1) - 512; low <= 504 && arm64.AddFits(int64(off-low)) {
		if off != low {
			t.RRI(arm64.ADD, arm64.S64, base, base, int64(off-low))
		}
		return arm64.At(base, low)
	}
	t.MovImm(far, uint64(int64(off)))
	t.RRR(arm64.ADD, arm64.S64, base, base, far)
	return arm64.At(base, 0)
}

// word reads a word of the hart, set and setImm write it. setImm clobbers tmp4.
func (t *translator) word(s arm64.Size, to arm64.Reg, off int32) { t.Load(s, to, t.at(s, state, off)) }
func (t *translator) set(s arm64.Size, off int32, from arm64.Reg) {
	t.Store(s, t.at(s, state, off), from)
}

func (t *translator) setImm(s arm64.Size, off int32, v uint64) {
	from := arm64.ZR
	if v != 0 {
		from = tmp4
		t.MovImm(tmp4, v)
	}
	t.set(s, off, from)
}

// get returns a register that holds guest register r: ZR, its own, or to.
func (t *translator) get(r uint8, to arm64.Reg) arm64.Reg {
	switch f := t.home[r]; {
	case r == 0:
		return arm64.ZR
	case f != none:
		return f
	}
	t.Load(arm64.S64, to, x(r))
	return to
}

// copy puts guest register r into a host register.
func (t *translator) copy(to arm64.Reg, r uint8) {
	if from := t.get(r, to); from != to {
		t.Mov(arm64.S64, to, from)
	}
}

// base is get for instructions in which ZR would be SP.
func (t *translator) base(r uint8, to arm64.Reg) arm64.Reg {
	if r == 0 {
		t.MovImm(to, 0)
		return to
	}
	return t.get(r, to)
}

// into is the register in which to compute rd: its own, or tmp.
func (t *translator) into(rd uint8) arm64.Reg {
	if f := t.home[rd]; f != none {
		return f
	}
	return tmp
}

// put ends an operation whose result is in from.
func (t *translator) put(rd uint8, from arm64.Reg) {
	switch f := t.home[rd]; {
	case rd == Sink:
	case f == none:
		t.Store(arm64.S64, x(rd), from)
	case f != from:
		t.Mov(arm64.S64, f, from)
	}
}

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
		t.branch(in, i)
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

// branch goes to its target with the steps behind it given back.
func (t *translator) branch(in *Inst, i int) {
	to, give := int32(in.Off)+in.Imm, t.n-(i+1)
	var l arm64.Label
	if to < 0 || to >= pageSize {
		l = t.way(toPage, give, to)
	} else if within, ok := t.inRegion(uint16(to)); !ok {
		l = t.way(toRegion, give, to)
	} else if give != 0 {
		l = t.way(toBlock, give, to)
	} else {
		l = within
	}
	c, a := branches[in.Op], t.get(in.Rs1, tmp)
	switch {
	case in.Rs2 == 0 && c == arm64.EQ:
		t.Cbz(arm64.S64, a, l)
	case in.Rs2 == 0 && c == arm64.NE:
		t.Cbnz(arm64.S64, a, l)
	default:
		t.Cmp(arm64.S64, a, t.get(in.Rs2, tmp2))
		t.BCond(c, l)
	}
}

// address puts the virtual address at an offset from the page's into to.
func (t *translator) address(to arm64.Reg, off int32) {
	t.word(arm64.S64, to, t.layout.VPage)
	t.add(to, to, int64(off))
}

// add is to = from + v, through far if that is too much for an instruction.
func (t *translator) add(to, from arm64.Reg, v int64) {
	switch {
	case v == 0 && to == from:
	case arm64.AddFits(v):
		t.RRI(arm64.ADD, arm64.S64, to, from, v)
	default:
		t.MovImm(far, uint64(v))
		t.RRR(arm64.ADD, arm64.S64, to, from, far)
	}
}

func (t *translator) jump(in *Inst) {
	after := int32(in.Off) + int32(in.Len)
	if in.Op == riscv.JAL {
		if in.Rd != Sink {
			to := t.into(in.Rd)
			t.address(to, after)
			t.put(in.Rd, to)
		}
		to := int32(in.Off) + in.Imm
		if to >= 0 && to < pageSize {
			t.goTo(uint16(to))
			return
		}
		t.address(tmp, to)
		t.dispatch()
		return
	}
	t.add(tmp, t.base(in.Rs1, tmp), int64(in.Imm))
	t.RRI(arm64.AND, arm64.S64, tmp, tmp, -2)
	if in.Rd != Sink {
		t.address(tmp2, after)
		t.put(in.Rd, tmp2)
	}
	t.dispatch()
}
