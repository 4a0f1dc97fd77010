// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

type division struct {
	size              amd64.Size
	signed, remainder bool
}

var divisions = map[riscv.Op]division{
	riscv.DIV: {amd64.S64, true, false}, riscv.DIVU: {amd64.S64, false, false},
	riscv.REM: {amd64.S64, true, true}, riscv.REMU: {amd64.S64, false, true},
	riscv.DIVW: {amd64.S32, true, false}, riscv.DIVUW: {amd64.S32, false, false},
	riscv.REMW: {amd64.S32, true, true}, riscv.REMUW: {amd64.S32, false, true},
}

// divide avoids what traps on the host: a divisor of zero, and of -1, by which
// the least number cannot be divided (Unpriv. 12.2).
func (t *translator) divide(in *Inst, d division) {
	zero, minus, done := t.NewLabel(), t.NewLabel(), t.NewLabel()
	t.copy(tmp2, in.Rs2)
	t.copy(tmp, in.Rs1)
	t.Test(d.size, tmp2, tmp2)
	t.JccShort(amd64.E, zero)
	if d.signed {
		t.RI(amd64.CMP, d.size, tmp2, -1)
		t.JccShort(amd64.E, minus)
		t.SignRDX(d.size)
		t.Unary(amd64.IDIV, d.size, tmp2)
	} else {
		t.RR(amd64.XOR, amd64.S32, tmp3, tmp3)
		t.Unary(amd64.DIV, d.size, tmp2)
	}
	if d.remainder {
		t.Mov(amd64.S64, tmp, tmp3)
	}
	t.JmpShort(done)
	t.Bind(minus)
	if d.remainder {
		t.MovImm(tmp, 0)
	} else {
		t.Unary(amd64.NEG, d.size, tmp)
	}
	t.JmpShort(done)
	t.Bind(zero)
	if !d.remainder {
		t.MovImm(tmp, ^uint64(0))
	}
	t.Bind(done)
	t.done(in, tmp, d.size)
}

// orcB sets each byte that is not zero to all ones: bit 7 of each such byte is
// found first, and then spread.
func (t *translator) orcB(in *Inst) {
	const low7 = 0x7f7f7f7f7f7f7f7f
	t.copy(tmp, in.Rs1)
	t.MovImm(tmp2, low7)
	t.RR(amd64.AND, amd64.S64, tmp, tmp2)
	t.RR(amd64.ADD, amd64.S64, tmp, tmp2)
	t.op(amd64.OR, amd64.S64, tmp, in.Rs1)
	t.Unary(amd64.NOT, amd64.S64, tmp2)
	t.RR(amd64.AND, amd64.S64, tmp, tmp2)
	t.Mov(amd64.S64, tmp2, tmp)
	t.Mov(amd64.S64, tmp3, tmp)
	t.ShiftI(amd64.SHR, amd64.S64, tmp3, 7)
	t.RR(amd64.SUB, amd64.S64, tmp2, tmp3)
	t.RR(amd64.OR, amd64.S64, tmp, tmp2)
}
