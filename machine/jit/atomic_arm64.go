// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// Atomics need no lock: harts take turns. Misaligned ones never hit the TLB, so
// that the interpreter raises their exception.

// choices are the conditions under which an AMO keeps the old value.
var choices = map[riscv.Op]arm64.Cond{
	riscv.AMOMIN_D: arm64.LE, riscv.AMOMAX_D: arm64.GE, riscv.AMOMINU_D: arm64.LS, riscv.AMOMAXU_D: arm64.HS,
}

var combines = map[riscv.Op]arm64.ALU{
	riscv.AMOADD_D: arm64.ADD, riscv.AMOXOR_D: arm64.EOR, riscv.AMOAND_D: arm64.AND, riscv.AMOOR_D: arm64.ORR,
}

// The host's address of an atomic is in tmp.
var host = arm64.At(tmp, 0)

func (t *translator) atomic(in *Inst, i int) {
	op, size := in.Op, arm64.S64
	if op < riscv.LR_D {
		op, size = op+riscv.LR_D-riscv.LR_W, arm64.S32
	}
	at := t.lookup(in, i, 1<<size, op != riscv.LR_D)
	t.RRR(arm64.ADD, arm64.S64, tmp, at.Base, at.Index)
	switch op {
	case riscv.LR_D:
		t.loadReserved(in, size)
	case riscv.SC_D:
		t.storeConditional(in, size)
	default:
		t.amo(in, op, size)
	}
}

// loadExtended is to = memory, extended by sign.
func (t *translator) loadExtended(s arm64.Size, to arm64.Reg) {
	if s == arm64.S64 {
		t.Load(s, to, host)
	} else {
		t.LoadSX(s, arm64.S64, to, host)
	}
}

func (t *translator) loadReserved(in *Inst, size arm64.Size) {
	l := &t.layout
	t.offsetInRAM(tmp2)
	t.set(arm64.S64, l.ResvAddr, tmp2)
	t.setImm(arm64.S8, l.ResvValid, 1)
	dst := t.into(in.Rd)
	t.loadExtended(size, dst)
	t.put(in.Rd, dst)
}

// offsetInRAM puts the offset in RAM of the host's address in tmp into to.
func (t *translator) offsetInRAM(to arm64.Reg) {
	t.word(arm64.S64, to, t.layout.RAM)
	t.RRR(arm64.SUB, arm64.S64, to, tmp, to)
}

// storeConditional stores where the reservation holds, and drops it.
func (t *translator) storeConditional(in *Inst, size arm64.Size) {
	l, done := &t.layout, t.NewLabel()
	t.word(arm64.S8, tmp2, l.ResvValid)
	t.set(arm64.S8, l.ResvValid, arm64.ZR)
	t.offsetInRAM(tmp3)
	t.word(arm64.S64, tmp4, l.ResvAddr)
	t.RRR(arm64.EOR, arm64.S64, tmp3, tmp3, tmp4)
	t.CmpI(arm64.S64, tmp2, 0)
	t.MovImm(tmp2, 1)
	t.Ccmp(arm64.S64, arm64.NE, tmp3, arm64.ZR, 0) // valid and the same, or else NE
	t.BCond(arm64.NE, done)
	t.Store(size, host, t.get(in.Rs2, tmp2))
	t.MovImm(tmp2, 0)
	t.Bind(done)
	t.put(in.Rd, tmp2)
}

// amo combines memory with rs2; rd is what was there.
func (t *translator) amo(in *Inst, op riscv.Op, size arm64.Size) {
	t.loadExtended(size, tmp2)
	with := t.get(in.Rs2, tmp3)
	if o, ok := combines[op]; ok {
		t.RRR(o, size, tmp3, tmp2, with)
		with = tmp3
	} else if c, ok := choices[op]; ok {
		t.Cmp(size, tmp2, with)
		t.Select(arm64.CSEL, size, c, tmp3, tmp2, with)
		with = tmp3
	}
	t.Store(size, host, with)
	t.put(in.Rd, tmp2)
}
