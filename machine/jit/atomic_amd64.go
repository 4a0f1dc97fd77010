// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// Atomics need no lock: harts take turns. Misaligned ones never hit the TLB, so
// that the interpreter raises their exception.

// choices are the conditions under which an AMO keeps the old value.
var choices = map[riscv.Op]amd64.Cond{
	riscv.AMOMIN_D: amd64.LE, riscv.AMOMAX_D: amd64.GE, riscv.AMOMINU_D: amd64.BE, riscv.AMOMAXU_D: amd64.AE,
}

var combines = map[riscv.Op]amd64.ALU{
	riscv.AMOADD_D: amd64.ADD, riscv.AMOXOR_D: amd64.XOR, riscv.AMOAND_D: amd64.AND, riscv.AMOOR_D: amd64.OR,
}

func (t *translator) atomic(in *Inst, i int) {
	l, op, size := &t.layout, in.Op, amd64.S64
	if op < riscv.LR_D {
		op, size = op+riscv.LR_D-riscv.LR_W, amd64.S32
	}
	bytes := int32(1) << size
	switch op {
	case riscv.LR_D:
		t.point(in, i, bytes, false)
		t.offsetInRAM(tmp2)
		t.Store(amd64.S64, t.word(l.ResvAddr), tmp2)
		t.StoreImm(amd64.S8, t.word(l.ResvValid), 1)
		t.LoadSX(size, amd64.S64, tmp, pointed)
		t.put(in.Rd, tmp)
	case riscv.SC_D:
		t.point(in, i, bytes, true)
		t.storeConditional(in, size)
	default:
		t.point(in, i, bytes, true)
		t.amo(in, op, size)
	}
}

// offsetInRAM puts the offset in RAM of the host's address in tmp into to.
func (t *translator) offsetInRAM(to amd64.Reg) {
	t.Mov(amd64.S64, to, tmp)
	t.RM(amd64.SUB, amd64.S64, to, t.word(t.layout.RAM))
}

// storeConditional stores where the reservation holds, and drops it.
func (t *translator) storeConditional(in *Inst, size amd64.Size) {
	l, fail, done := &t.layout, t.NewLabel(), t.NewLabel()
	t.LoadZX(amd64.S8, tmp2, t.word(l.ResvValid))
	t.StoreImm(amd64.S8, t.word(l.ResvValid), 0)
	t.Test(amd64.S32, tmp2, tmp2)
	t.JccShort(amd64.E, fail)
	t.offsetInRAM(tmp3)
	t.RM(amd64.CMP, amd64.S64, tmp3, t.word(l.ResvAddr))
	t.JccShort(amd64.NE, fail)
	t.Store(size, pointed, t.get(in.Rs2, tmp2))
	t.MovImm(tmp, 0)
	t.JmpShort(done)
	t.Bind(fail)
	t.MovImm(tmp, 1)
	t.Bind(done)
	t.put(in.Rd, tmp)
}

// amo combines memory with rs2; rd is what was there.
func (t *translator) amo(in *Inst, op riscv.Op, size amd64.Size) {
	t.LoadSX(size, amd64.S64, tmp2, pointed)
	t.copy(tmp3, in.Rs2)
	if o, ok := combines[op]; ok {
		t.RR(o, size, tmp3, tmp2)
	} else if c, ok := choices[op]; ok {
		t.MovSX(size, amd64.S64, tmp3, tmp3) // which keeps the order of unsigned words too
		t.RR(amd64.CMP, amd64.S64, tmp2, tmp3)
		t.Cmov(c, amd64.S64, tmp3, tmp2)
	}
	t.Store(size, pointed, tmp3)
	t.put(in.Rd, tmp2)
}
