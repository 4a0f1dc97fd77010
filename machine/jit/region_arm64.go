// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"math/bits"

	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// The host's code and its parts.
type (
	asm     = arm64.Asm
	hostReg = arm64.Reg
	label   = arm64.Label
	cond    = arm64.Cond
	size    = arm64.Size
)

const (
	word32, word64 = arm64.S32, arm64.S64
	notEqual       = arm64.NE
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

// spares are the host registers that hold no guest register at the borders.
var spares [0]hostReg

// fixed are the homes of guest registers at the borders of regions: ra, sp, tp,
// t0 to t2, s0, s1, a0 to a7, s2 and s3, and t3.
var fixed = [...]home{
	{1, arm64.X0}, {2, arm64.X1}, {4, arm64.X2}, {5, arm64.X3}, {6, arm64.X4}, {7, arm64.X5}, {8, arm64.X6}, {9, arm64.X7},
	{10, arm64.X8}, {11, arm64.X9}, {12, arm64.X10}, {13, arm64.X11}, {14, arm64.X12}, {15, arm64.X13}, {16, arm64.X14},
	{17, arm64.X22}, {18, arm64.X23}, {19, arm64.X24}, {28, arm64.X25},
}

// own is nothing: no scratch register keeps a value for the next instruction.
type own struct{}

func (t *translator) begin(riscv.Op) {}

// takeSteps counts the steps of a block, and goes to short if fewer are left.
func (t *translator) takeSteps(n int, short label) {
	t.RRI(arm64.SUBS, arm64.S64, steps, steps, int64(n))
	t.BCond(arm64.LO, short)
}

// giveBack gives back steps that are not executed.
func (t *translator) giveBack(n int32) {
	if n != 0 {
		t.RRI(arm64.ADD, arm64.S64, steps, steps, int64(n))
	}
}

// quit leaves to the interpreter at an offset of the page, which storeOff stores.
func (t *translator) quit(off int32) {
	t.MovImm(tmp, uint64(off))
	t.B(t.leaveOff)
}

func (t *translator) storeOff() { t.set(arm64.S32, t.layout.Off, tmp) }

func (t *translator) jumpTo(l label)         { t.B(l) }
func (t *translator) jumpIf(c cond, l label) { t.BCond(c, l) }

// openJump is a jump for patchJump, at first to what follows; it returns its place.
func (t *translator) openJump() int { return int(t.BPatch()) }

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

// branch goes to l if its condition holds.
func (t *translator) branch(in *Inst, l label) {
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
