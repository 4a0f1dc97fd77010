// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// Atomics need no lock: harts take turns. Misaligned ones never hit the TLB, so
// that the interpreter raises their exception.

func isAtomic(op riscv.Op) bool { return op >= riscv.LR_W && op <= riscv.AMOMAXU_D }

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
		t.lookup(in, i, bytes, l.Read, l.ReadEntries)
		t.Store(amd64.S64, amd64.At(state, l.ResvAddr), tmp)
		t.StoreImm(amd64.S8, amd64.At(state, l.ResvValid), 1)
		t.LoadSX(size, amd64.S64, tmp, host)
		t.put(in.Rd, tmp)
	case riscv.SC_D:
		t.lookup(in, i, bytes, l.Write, l.WriteEntries)
		t.storeConditional(in, size)
	default:
		t.lookup(in, i, bytes, l.Write, l.WriteEntries)
		t.amo(in, op, size)
	}
}

// storeConditional stores where the reservation holds, and drops it.
func (t *translator) storeConditional(in *Inst, size amd64.Size) {
	l, fail, done := &t.layout, t.NewLabel(), t.NewLabel()
	t.LoadZX(amd64.S8, tmp2, amd64.At(state, l.ResvValid))
	t.StoreImm(amd64.S8, amd64.At(state, l.ResvValid), 0)
	t.Test(amd64.S32, tmp2, tmp2)
	t.JccShort(amd64.E, fail)
	t.RM(amd64.CMP, amd64.S64, tmp, amd64.At(state, l.ResvAddr))
	t.JccShort(amd64.NE, fail)
	t.Store(size, host, t.get(in.Rs2, tmp2))
	t.MovImm(tmp, 0)
	t.JmpShort(done)
	t.Bind(fail)
	t.MovImm(tmp, 1)
	t.Bind(done)
	t.put(in.Rd, tmp)
}

// amo combines memory with rs2; rd is what was there.
func (t *translator) amo(in *Inst, op riscv.Op, size amd64.Size) {
	t.RR(amd64.ADD, amd64.S64, tmp, tmp3) // the host's address, so that tmp3 is free
	at := amd64.At(tmp, 0)
	t.LoadSX(size, amd64.S64, tmp2, at)
	t.copy(tmp3, in.Rs2)
	if o, ok := combines[op]; ok {
		t.RR(o, size, tmp3, tmp2)
	} else if c, ok := choices[op]; ok {
		t.MovSX(size, amd64.S64, tmp3, tmp3) // which keeps the order of unsigned words too
		t.RR(amd64.CMP, amd64.S64, tmp2, tmp3)
		t.Cmov(c, amd64.S64, tmp3, tmp2)
	}
	t.Store(size, at, tmp3)
	t.put(in.Rd, tmp2)
}
