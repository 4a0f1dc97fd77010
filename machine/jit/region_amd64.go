// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"slices"

	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// The registers with one meaning everywhere.
const (
	state = amd64.RBX // x, and the State behind it
	tlb   = amd64.R14
	steps = amd64.R15
	tmp   = amd64.RAX // results on their way, addresses
	tmp2  = amd64.RCX
	tmp3  = amd64.RDX
)

// none is the home of a guest register that lives in memory.
const none = amd64.RSP

// spare is the host register that holds no guest register at the borders.
const spare = amd64.RBP

// fixed are the homes of guest registers at the borders of regions.
var fixed = [...]struct {
	guest uint8
	host  amd64.Reg
}{
	{2, amd64.RSI}, {8, amd64.RDI}, {10, amd64.R8}, {11, amd64.R9},
	{12, amd64.R10}, {13, amd64.R11}, {14, amd64.R12}, {15, amd64.R13},
}

// borderHomes is fixed as a table by guest register.
var borderHomes = func() (h [256]amd64.Reg) {
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
	amd64.Asm
	layout Layout
	former former

	home  [256]amd64.Reg // of guest registers, none for memory
	moved []move         // where home differs from borderHomes

	n        int // instructions of the block at hand
	exits    []exit
	slow     []slowAccess
	fp       floatBlock
	recent   uint8       // a guest register in memory whose value tmp has as the instruction begins, 0 for none
	latest   uint8       // the same as it ends
	version  [256]uint8  // how often each guest register was written in the block
	leaveOff amd64.Label // leaves to the interpreter, at an Off already stored

	// What the Cache needs to place the code.
	entries   []entry
	links     []link
	shared    []sharedJump
	sites     []site
	pieces    []piece
	firstSite uint32
}

// move is a host register that holds another guest register inside a region than
// at its borders, where it holds old or nothing.
type move struct {
	host       amd64.Reg
	guest, old uint8 // old is 0 if there is none
	written    bool  // guest is, in the region
}

// exit is a way out of a block, written behind the region.
type exit struct {
	label amd64.Label
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
	t.leaveRegion()
	t.StoreImm(amd64.S32, t.word(t.layout.Reason), int32(Interpret))
	t.jumpShared(func(s *thunks) int { return s.leave })
	t.writeEntries(head)
	return t.Code, t.Finish() == nil
}

// assignHomes gives loops the registers that they use most.
func (t *translator) assignHomes() {
	t.home, t.moved = borderHomes, t.moved[:0]
	loops := slices.ContainsFunc(t.former.blocks, func(b block) bool { return b.depth > 0 })
	if !loops {
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
	slices.SortStableFunc(losers, func(a, b struct {
		guest uint8
		host  amd64.Reg
	}) int {
		return weight[a.guest] - weight[b.guest]
	})
	for i, r := range wanted {
		m := move{host: spare, guest: r, written: written[r]}
		if i > 0 {
			loser := losers[min(i, len(losers))-1]
			if i > len(losers) || weight[r] < weight[loser.guest]+worthMoving {
				break
			}
			m.host, m.old = loser.host, loser.guest
			t.home[loser.guest] = none
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
			t.Store(amd64.S64, x(m.old), m.host)
		}
		t.Load(amd64.S64, m.host, x(m.guest))
	}
}

func (t *translator) leaveRegion() {
	for _, m := range t.moved {
		if m.written {
			t.Store(amd64.S64, x(m.guest), m.host)
		}
		if m.old != 0 {
			t.Load(amd64.S64, m.host, x(m.old))
		}
	}
}

// writeEntries makes the blocks that may be jumped to from elsewhere known.
func (t *translator) writeEntries(head uint16) {
	for i := range t.former.blocks {
		b := &t.former.blocks[i]
		e := entry{b.off, t.Offset(amd64.Label(b.label)), b.off == head || b.loops}
		if len(t.moved) > 0 {
			if b.off != head && b.depth > 1 {
				continue
			}
			e.place = len(t.Code)
			t.enterRegion()
			t.Jmp(amd64.Label(b.label))
		}
		t.entries = append(t.entries, e)
	}
}

// block translates one block, up to where it runs on.
func (t *translator) block(b *block) {
	t.n = len(b.insts)
	t.fp.forget()
	t.latest = 0
	clear(t.version[:])
	t.Bind(amd64.Label(b.label))
	t.RI(amd64.SUB, amd64.S64, steps, int32(t.n))
	t.Jcc(amd64.B, t.way(toShort, t.n, int32(b.off)))
	for i := range b.insts {
		t.inst(&b.insts[i], i)
		t.version[usesOf(&b.insts[i]).rd]++
	}
	if b.stop {
		t.StoreImm(amd64.S32, t.word(t.layout.Off), int32(b.end()))
		t.Jmp(t.leaveOff)
	}
}

// way plans a way out that gives back steps.
func (t *translator) way(kind exitKind, give int, to int32) amd64.Label {
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
func (t *translator) out(in *Inst, i int) amd64.Label {
	return t.way(toInterpreter, t.n-i, int32(in.Off))
}

func (t *translator) writeExits() {
	for i := 0; i < len(t.exits); i++ {
		e := t.exits[i]
		t.Bind(e.label)
		if e.give != 0 {
			t.RI(amd64.ADD, amd64.S64, steps, e.give)
		}
		switch e.kind {
		case toInterpreter:
			t.StoreImm(amd64.S32, t.word(t.layout.Off), e.to)
			t.Jmp(t.leaveOff)
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
		t.Jmp(l)
		return
	}
	t.leaveRegion()
	next := len(t.Code)
	t.Code = append(t.Code, 0xe9, 0, 0, 0, 0) // jmp rel32, at first to what follows
	t.links = append(t.links, link{off, next + 1})
	t.leave(int32(off), AtOffset)
}

func (t *translator) inRegion(off uint16) (amd64.Label, bool) {
	if n := t.former.at[off>>1]; n != 0 {
		return amd64.Label(t.former.blocks[n-1].label), true
	}
	return 0, false
}

// leave returns to Go, to go on at an offset of the page.
func (t *translator) leave(off int32, r Reason) {
	t.StoreImm(amd64.S32, t.word(t.layout.Off), off)
	if r != AtOffset {
		t.StoreImm(amd64.S32, t.word(t.layout.Reason), int32(r))
	}
	t.jumpShared(func(s *thunks) int { return s.leave })
}

// jumpShared jumps to a thunk.
func (t *translator) jumpShared(thunk func(*thunks) int) {
	t.Code = append(t.Code, 0xe9, 0, 0, 0, 0)
	t.shared = append(t.shared, sharedJump{len(t.Code) - 4, thunk})
}

// dispatch goes on at the address in tmp: by the jump cache, or by Go.
func (t *translator) dispatch() {
	l := &t.layout
	t.leaveRegion()
	miss := t.NewLabel()
	t.Mov(amd64.S32, tmp2, tmp) // JumpIndex, times 16
	t.ShiftI(amd64.SHR, amd64.S32, tmp2, pageShift)
	t.RR(amd64.XOR, amd64.S32, tmp2, tmp)
	t.ShiftI(amd64.SHL, amd64.S32, tmp2, 3)
	t.RI(amd64.AND, amd64.S32, tmp2, (JumpEntries-1)<<4)
	entry := amd64.Mem{Base: tlb, Index: tmp2, Scale: 1, Disp: l.Jumps}
	t.RM(amd64.CMP, amd64.S64, tmp, entry)
	t.JccShort(amd64.NE, miss)
	t.RI(amd64.AND, amd64.S64, tmp, -pageSize)
	t.Store(amd64.S64, t.word(l.VPage), tmp)
	entry.Disp += 8
	t.JmpM(entry)
	t.Bind(miss)
	t.Store(amd64.S64, t.word(l.PC), tmp)
	t.StoreImm(amd64.S32, t.word(l.Reason), int32(AtPC))
	t.jumpShared(func(s *thunks) int { return s.leave })
}

const pageShift = 12

// word is a word of the hart, x a register of the guest in memory.
func (t *translator) word(off int32) amd64.Mem { return amd64.At(state, off) }
func x(r uint8) amd64.Mem                      { return amd64.At(state, int32(r)*8) }

// get returns a register that holds guest register r: its own, or to.
func (t *translator) get(r uint8, to amd64.Reg) amd64.Reg {
	if f := t.home[r]; f != none {
		return f
	}
	t.copy(to, r)
	return to
}

// copy puts guest register r into a host register.
func (t *translator) copy(to amd64.Reg, r uint8) {
	recent := t.recent
	t.recent = 0
	switch f := t.home[r]; {
	case r != 0 && r == recent:
		if to != tmp {
			t.Mov(amd64.S64, to, tmp)
		}
	case r == 0:
		t.RR(amd64.XOR, amd64.S32, to, to)
	case f != none:
		if f != to {
			t.Mov(amd64.S64, to, f)
		}
	default:
		t.Load(amd64.S64, to, x(r))
	}
}

// put ends an operation whose result is in from.
func (t *translator) put(rd uint8, from amd64.Reg) {
	switch f := t.home[rd]; {
	case rd == Sink:
	case f != none:
		if f != from {
			t.Mov(amd64.S64, f, from)
		}
	default:
		t.Store(amd64.S64, x(rd), from)
		if from == tmp {
			t.latest = rd
		}
	}
}

// into is the register in which to compute rd, given that the registers avoid are
// still needed for it: its own, or tmp.
func (t *translator) into(rd uint8, avoid ...uint8) amd64.Reg {
	f := t.home[rd]
	if f == none {
		return tmp
	}
	for _, a := range avoid {
		if t.home[a] == f {
			return tmp
		}
	}
	return f
}

// op writes dst = dst op guest register r.
func (t *translator) op(o amd64.ALU, s amd64.Size, dst amd64.Reg, r uint8) {
	t.recent = 0
	switch f := t.home[r]; {
	case r == 0 && (o == amd64.ADD || o == amd64.SUB || o == amd64.OR || o == amd64.XOR):
	case r == 0:
		t.RI(o, s, dst, 0)
	case f != none:
		t.RR(o, s, dst, f)
	default:
		t.RM(o, s, dst, x(r))
	}
}

// compare writes cmp of two guest registers.
func (t *translator) compare(a, b uint8) {
	ra := t.get(a, tmp)
	if b == 0 {
		t.Test(amd64.S64, ra, ra)
		return
	}
	t.op(amd64.CMP, amd64.S64, ra, b)
}

// inst translates the instruction with index i of the block.
func (t *translator) inst(in *Inst, i int) {
	t.recent, t.latest = t.latest, 0
	if !t.startsWithCopy(in.Op) {
		t.recent = 0
	}
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

// startsWithCopy reports whether a translation reads its first operand before it
// uses tmp for anything else.
func (t *translator) startsWithCopy(op riscv.Op) bool {
	if loads[op].size != 0 || storeSize[op] != 0 || riscv.FormatOf(op) == riscv.FormatB {
		return true
	}
	_, reg := aluReg[op]
	_, imm := aluImm[op]
	_, shift := shiftImm[op]
	return reg || imm || shift || op == riscv.MUL || op == riscv.MULW
}

// branch goes to its target with the steps behind it given back.
func (t *translator) branch(in *Inst, i int) {
	c := branches[in.Op]
	a, b := in.Rs1, in.Rs2
	if a == 0 && b != 0 {
		a, b, c = b, a, swapped(c)
	}
	t.compare(a, b)
	to, give := int32(in.Off)+in.Imm, t.n-(i+1)
	if to < 0 || to >= pageSize {
		t.Jcc(c, t.way(toPage, give, to))
		return
	}
	l, ok := t.inRegion(uint16(to))
	switch {
	case ok && give == 0:
		t.Jcc(c, l)
	case ok:
		t.Jcc(c, t.way(toBlock, give, to))
	default:
		t.Jcc(c, t.way(toRegion, give, to))
	}
}

// swapped is the condition with its operands exchanged.
func swapped(c amd64.Cond) amd64.Cond {
	switch c {
	case amd64.L:
		return amd64.G
	case amd64.GE:
		return amd64.LE
	case amd64.B:
		return amd64.A
	case amd64.AE:
		return amd64.BE
	}
	return c
}

// address puts the virtual address at an offset from the page's into to.
func (t *translator) address(to amd64.Reg, off int32) {
	t.Load(amd64.S64, to, t.word(t.layout.VPage))
	if off != 0 {
		t.RI(amd64.ADD, amd64.S64, to, off)
	}
}

func (t *translator) jump(in *Inst) {
	after := int32(in.Off) + int32(in.Len)
	if in.Op == riscv.JAL {
		if in.Rd != Sink {
			t.address(tmp, after)
			t.put(in.Rd, tmp)
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
	t.copy(tmp, in.Rs1)
	if in.Imm != 0 {
		t.RI(amd64.ADD, amd64.S64, tmp, in.Imm)
	}
	t.RI(amd64.AND, amd64.S64, tmp, -2)
	if in.Rd != Sink {
		t.address(tmp2, after)
		t.put(in.Rd, tmp2)
	}
	t.dispatch()
}
