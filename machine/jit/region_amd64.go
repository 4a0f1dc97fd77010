// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// The host's code and its parts.
type (
	asm     = amd64.Asm
	hostReg = amd64.Reg
	label   = amd64.Label
	cond    = amd64.Cond
	size    = amd64.Size
)

const (
	word32, word64 = amd64.S32, amd64.S64
	notEqual       = amd64.NE
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

// spares are the host registers that hold no guest register at the borders.
var spares = [...]hostReg{amd64.RBP}

// fixed are the homes of guest registers at the borders of regions.
var fixed = [...]home{
	{2, amd64.RSI}, {8, amd64.RDI}, {10, amd64.R8}, {11, amd64.R9},
	{12, amd64.R10}, {13, amd64.R11}, {14, amd64.R12}, {15, amd64.R13},
}

// own is what tmp has of a guest register whose home is memory.
type own struct {
	recent uint8 // the register whose value it has as the instruction begins, 0 for none
	latest uint8 // the same as it ends
}

// begin turns to the next instruction.
func (t *translator) begin(op riscv.Op) {
	t.recent, t.latest = t.latest, 0
	if !t.startsWithCopy(op) {
		t.recent = 0
	}
}

// takeSteps counts the steps of a block, and goes to short if fewer are left.
func (t *translator) takeSteps(n int, short label) {
	t.RI(amd64.SUB, amd64.S64, steps, int32(n))
	t.Jcc(amd64.B, short)
}

// giveBack gives back steps that are not executed.
func (t *translator) giveBack(n int32) {
	if n != 0 {
		t.RI(amd64.ADD, amd64.S64, steps, n)
	}
}

// quit leaves to the interpreter at an offset of the page.
func (t *translator) quit(off int32) {
	t.setImm(word32, t.layout.Off, uint64(off))
	t.Jmp(t.leaveOff)
}

// storeOff is for what quit has not stored.
func (t *translator) storeOff() {}

func (t *translator) jumpTo(l label)         { t.Jmp(l) }
func (t *translator) jumpIf(c cond, l label) { t.Jcc(c, l) }

// openJump is a jump for patchJump, at first to what follows; it returns its place.
func (t *translator) openJump() int {
	t.Code = append(t.Code, 0xe9, 0, 0, 0, 0) // jmp rel32
	return len(t.Code) - jumpBytes
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

// setImm writes a word of the hart.
func (t *translator) setImm(s amd64.Size, off int32, v uint64) {
	t.StoreImm(s, t.word(off), int32(v))
}

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

// branch goes to l if its condition holds.
func (t *translator) branch(in *Inst, l label) {
	c := branches[in.Op]
	a, b := in.Rs1, in.Rs2
	if a == 0 && b != 0 {
		a, b, c = b, a, swapped(c)
	}
	t.compare(a, b)
	t.Jcc(c, l)
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
