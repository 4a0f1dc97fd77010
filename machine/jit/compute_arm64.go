// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// Facts of operations, as tables.
var (
	branches = map[riscv.Op]arm64.Cond{
		riscv.BEQ: arm64.EQ, riscv.BNE: arm64.NE, riscv.BLT: arm64.LT, riscv.BGE: arm64.GE,
		riscv.BLTU: arm64.LO, riscv.BGEU: arm64.HS,
	}

	// rd = rs1 op rs2, with .w forms on 32 bits and sign-extended.
	aluReg = map[riscv.Op]alu{
		riscv.ADD: {arm64.ADD, arm64.S64}, riscv.SUB: {arm64.SUB, arm64.S64},
		riscv.XOR: {arm64.EOR, arm64.S64}, riscv.OR: {arm64.ORR, arm64.S64}, riscv.AND: {arm64.AND, arm64.S64},
		riscv.XNOR: {arm64.EON, arm64.S64}, riscv.ORN: {arm64.ORN, arm64.S64}, riscv.ANDN: {arm64.BIC, arm64.S64},
		riscv.ADDW: {arm64.ADD, arm64.S32}, riscv.SUBW: {arm64.SUB, arm64.S32},
	}
	aluImm = map[riscv.Op]alu{
		riscv.ADDI: {arm64.ADD, arm64.S64}, riscv.XORI: {arm64.EOR, arm64.S64},
		riscv.ORI: {arm64.ORR, arm64.S64}, riscv.ANDI: {arm64.AND, arm64.S64}, riscv.ADDIW: {arm64.ADD, arm64.S32},
	}
	shiftImm = map[riscv.Op]shift{
		riscv.SLLI: {arm64.LSL, arm64.S64}, riscv.SRLI: {arm64.LSR, arm64.S64}, riscv.SRAI: {arm64.ASR, arm64.S64},
		riscv.SLLIW: {arm64.LSL, arm64.S32}, riscv.SRLIW: {arm64.LSR, arm64.S32}, riscv.SRAIW: {arm64.ASR, arm64.S32},
		riscv.RORI: {arm64.ROR, arm64.S64}, riscv.RORIW: {arm64.ROR, arm64.S32},
	}
	shiftReg = map[riscv.Op]shift{
		riscv.SLL: {arm64.LSL, arm64.S64}, riscv.SRL: {arm64.LSR, arm64.S64}, riscv.SRA: {arm64.ASR, arm64.S64},
		riscv.SLLW: {arm64.LSL, arm64.S32}, riscv.SRLW: {arm64.LSR, arm64.S32}, riscv.SRAW: {arm64.ASR, arm64.S32},
		riscv.ROR: {arm64.ROR, arm64.S64}, riscv.RORW: {arm64.ROR, arm64.S32},
	}
	setLess = map[riscv.Op]arm64.Cond{
		riscv.SLT: arm64.LT, riscv.SLTU: arm64.LO, riscv.SLTI: arm64.LT, riscv.SLTIU: arm64.LO,
	}
	// rd = rs1 with a bit changed.
	bitReg = map[riscv.Op]arm64.ALU{riscv.BSET: arm64.ORR, riscv.BCLR: arm64.BIC, riscv.BINV: arm64.EOR}
	bitImm = map[riscv.Op]arm64.ALU{riscv.BSETI: arm64.ORR, riscv.BCLRI: arm64.BIC, riscv.BINVI: arm64.EOR}
	// rd = rs1 or rs2, whichever: the condition keeps rs1.
	minMax = map[riscv.Op]arm64.Cond{
		riscv.MIN: arm64.LE, riscv.MINU: arm64.LS, riscv.MAX: arm64.GE, riscv.MAXU: arm64.HS,
	}
	// rd = rs2 + (rs1 << n), .uw forms of rs1's low word.
	shAdd = map[riscv.Op]struct {
		shift uint
		word  bool
	}{
		riscv.SH1ADD: {1, false}, riscv.SH2ADD: {2, false}, riscv.SH3ADD: {3, false}, riscv.ADD_UW: {0, true},
		riscv.SH1ADD_UW: {1, true}, riscv.SH2ADD_UW: {2, true}, riscv.SH3ADD_UW: {3, true},
	}
	divisions = map[riscv.Op]division{
		riscv.DIV: {arm64.SDIV, arm64.S64, false}, riscv.DIVU: {arm64.UDIV, arm64.S64, false},
		riscv.REM: {arm64.SDIV, arm64.S64, true}, riscv.REMU: {arm64.UDIV, arm64.S64, true},
		riscv.DIVW: {arm64.SDIV, arm64.S32, false}, riscv.DIVUW: {arm64.UDIV, arm64.S32, false},
		riscv.REMW: {arm64.SDIV, arm64.S32, true}, riscv.REMUW: {arm64.UDIV, arm64.S32, true},
	}
	// Operations of rs1, and those that other finds by name.
	unary = map[riscv.Op]func(t *translator, dst, src arm64.Reg){
		riscv.CLZ:    func(t *translator, dst, src arm64.Reg) { t.Unary(arm64.CLZ, arm64.S64, dst, src) },
		riscv.CLZW:   func(t *translator, dst, src arm64.Reg) { t.Unary(arm64.CLZ, arm64.S32, dst, src) },
		riscv.CTZ:    func(t *translator, dst, src arm64.Reg) { t.trailingZeros(arm64.S64, dst, src) },
		riscv.CTZW:   func(t *translator, dst, src arm64.Reg) { t.trailingZeros(arm64.S32, dst, src) },
		riscv.CPOP:   func(t *translator, dst, src arm64.Reg) { t.ones(arm64.S64, dst, src) },
		riscv.CPOPW:  func(t *translator, dst, src arm64.Reg) { t.ones(arm64.S32, dst, src) },
		riscv.SEXT_B: func(t *translator, dst, src arm64.Reg) { t.MovSX(arm64.S8, arm64.S64, dst, src) },
		riscv.SEXT_H: func(t *translator, dst, src arm64.Reg) { t.MovSX(arm64.S16, arm64.S64, dst, src) },
		riscv.ZEXT_H: func(t *translator, dst, src arm64.Reg) { t.MovZX(arm64.S16, dst, src) },
		riscv.REV8:   func(t *translator, dst, src arm64.Reg) { t.Unary(arm64.REV, arm64.S64, dst, src) },
		riscv.ORC_B:  (*translator).orcB,
	}
	others = []riscv.Op{riscv.LUI, riscv.AUIPC, riscv.JAL, riscv.JALR, riscv.FENCE, riscv.FENCE_I, riscv.CBO_ZERO, riscv.ECALL, riscv.SRET,
		riscv.SFENCE_VMA, riscv.SINVAL_VMA, riscv.SFENCE_W_INVAL, riscv.SFENCE_INVAL_IR, riscv.MUL, riscv.MULW, riscv.MULHU, riscv.MULH, riscv.MULHSU,
		riscv.BEXT, riscv.BEXTI, riscv.ROL, riscv.ROLW, riscv.SLLI_UW, riscv.CZERO_EQZ, riscv.CZERO_NEZ}
)

type alu struct {
	op   arm64.ALU
	size arm64.Size
}

type shift struct {
	op   arm64.Shift
	size arm64.Size
}

type division struct {
	op        arm64.Binary
	size      arm64.Size
	remainder bool
}

// known says which operations have a translation.
var known = func() (k [riscv.NumOps]bool) {
	for op := range riscv.Op(riscv.NumOps) {
		_, a := aluReg[op]
		_, b := aluImm[op]
		_, c := shiftImm[op]
		_, d := shiftReg[op]
		_, e := setLess[op]
		_, f := unary[op]
		_, g := minMax[op]
		_, h := shAdd[op]
		_, i := branches[op]
		_, j := bitReg[op]
		_, l := bitImm[op]
		_, m := divisions[op]
		k[op] = a || b || c || d || e || f || g || h || i || j || l || m || isAtomic(op) || loads[op].size != 0 || storeSize[op] != 0
	}
	for _, op := range others {
		k[op] = true
	}
	return k
}()

// knows reports whether an instruction has a translation.
func (t *translator) knows(in *Inst) bool {
	return known[in.Op] || isFloat(in.Op) && knowsFloat(in) || isCSR(in.Op) && t.knowsCSR(in)
}

// compute translates what only reads and writes registers.
func (t *translator) compute(in *Inst) {
	dst := t.into(in.Rd)
	rs1 := func() arm64.Reg { return t.get(in.Rs1, tmp) }
	rs2 := func() arm64.Reg { return t.get(in.Rs2, tmp2) }
	if a, ok := aluReg[in.Op]; ok {
		a.size = t.sized(a.size)
		t.RRR(a.op, a.size, dst, rs1(), rs2())
		t.done(in, dst, a.size)
	} else if a, ok := aluImm[in.Op]; ok {
		a.size = t.sized(a.size)
		t.aluImm(in, a)
	} else if s, ok := shiftImm[in.Op]; ok {
		t.shiftImm(in, s, dst, rs1())
	} else if s, ok := shiftReg[in.Op]; ok {
		t.ShiftR(s.op, s.size, dst, rs1(), rs2())
		t.done(in, dst, s.size)
	} else if c, ok := setLess[in.Op]; ok {
		if in.Op == riscv.SLTI || in.Op == riscv.SLTIU {
			t.CmpI(arm64.S64, t.base(in.Rs1, tmp), int64(in.Imm))
		} else {
			t.Cmp(arm64.S64, rs1(), rs2())
		}
		t.Set(c, dst)
		t.put(in.Rd, dst)
	} else if write, ok := unary[in.Op]; ok {
		write(t, dst, rs1())
		t.put(in.Rd, dst)
	} else if c, ok := minMax[in.Op]; ok {
		a, b := rs1(), rs2()
		t.Cmp(arm64.S64, a, b)
		t.Select(arm64.CSEL, arm64.S64, c, dst, a, b)
		t.put(in.Rd, dst)
	} else if s, ok := shAdd[in.Op]; ok {
		if s.word {
			t.RRX(arm64.ADD, arm64.S64, dst, t.base(in.Rs2, tmp2), rs1(), arm64.UXTW, s.shift)
		} else {
			t.RRS(arm64.ADD, arm64.S64, dst, rs2(), rs1(), arm64.LSL, s.shift)
		}
		t.put(in.Rd, dst)
	} else if op, ok := bitReg[in.Op]; ok {
		t.MovImm(tmp3, 1)
		t.ShiftR(arm64.LSL, arm64.S64, tmp3, tmp3, rs2())
		t.RRR(op, arm64.S64, dst, rs1(), tmp3)
		t.put(in.Rd, dst)
	} else if op, ok := bitImm[in.Op]; ok {
		t.MovImm(tmp3, 1<<uint(in.Imm))
		t.RRR(op, arm64.S64, dst, rs1(), tmp3)
		t.put(in.Rd, dst)
	} else if d, ok := divisions[in.Op]; ok {
		t.divide(in, d)
	} else {
		t.other(in, dst, rs1, rs2)
	}
}

// done ends an operation of a size: 32-bit results are sign-extended, unless nobody
// looks at their upper half.
func (t *translator) done(in *Inst, dst arm64.Reg, s arm64.Size) {
	if s == arm64.S32 && !t.raw {
		t.MovSX(arm64.S32, arm64.S64, dst, dst)
	}
	t.put(in.Rd, dst)
}

func (t *translator) aluImm(in *Inst, a alu) {
	dst := t.into(in.Rd)
	_, mask := arm64.Bitmask(arm64.S64, uint64(int64(in.Imm)))
	switch src := t.get(in.Rs1, tmp); {
	case in.Rs1 == 0 && in.Op != riscv.ANDI:
		t.MovImm(dst, uint64(int64(in.Imm)))
		t.put(in.Rd, dst)
		return
	case in.Imm == 0 && a.op == arm64.ADD:
		if dst != src && a.size == arm64.S64 {
			t.Mov(arm64.S64, dst, src)
		} else if a.size == arm64.S32 {
			t.MovSX(arm64.S32, arm64.S64, dst, src)
		}
		t.put(in.Rd, dst)
		return
	case a.op == arm64.ADD || mask:
		t.RRI(a.op, a.size, dst, src, int64(in.Imm))
	default:
		t.MovImm(tmp2, uint64(int64(in.Imm)))
		t.RRR(a.op, a.size, dst, src, tmp2)
	}
	t.done(in, dst, a.size)
}

// shiftImm extends the sign of a word on the way.
func (t *translator) shiftImm(in *Inst, s shift, dst, src arm64.Reg) {
	n := uint(in.Imm)
	switch {
	case s.size == arm64.S64 || s.op == arm64.LSR && n != 0: // it is not negative
		t.ShiftI(s.op, s.size, dst, src, n)
	case s.op == arm64.LSL:
		t.Field(arm64.SBFIZ, arm64.S64, dst, src, n, 32-n)
	case s.op == arm64.ASR:
		t.Field(arm64.SBFX, arm64.S64, dst, src, n, 32-n)
	default:
		t.ShiftI(s.op, s.size, dst, src, n)
		t.MovSX(arm64.S32, arm64.S64, dst, dst)
	}
	t.put(in.Rd, dst)
}

// divide gives what the host does but for a divisor of zero, where a quotient is
// all ones and not zero (Unpriv. 12.2).
func (t *translator) divide(in *Inst, d division) {
	x, y := t.get(in.Rs1, tmp), t.get(in.Rs2, tmp2)
	t.Binary(d.op, d.size, tmp3, x, y)
	if d.remainder {
		t.MulAdd(arm64.MSUB, d.size, tmp3, tmp3, y, x)
	} else {
		t.Cmp(d.size, y, arm64.ZR)
		t.Select(arm64.CSINV, d.size, arm64.NE, tmp3, tmp3, arm64.ZR)
	}
	dst := t.into(in.Rd)
	if d.size == arm64.S32 {
		t.MovSX(arm64.S32, arm64.S64, dst, tmp3)
	} else {
		t.Mov(arm64.S64, dst, tmp3)
	}
	t.put(in.Rd, dst)
}

func (t *translator) trailingZeros(s arm64.Size, dst, src arm64.Reg) {
	t.Unary(arm64.RBIT, s, dst, src)
	t.Unary(arm64.CLZ, s, dst, dst)
}

// ones counts bits by bytes of a vector register.
func (t *translator) ones(s arm64.Size, dst, src arm64.Reg) {
	t.MovVR(s, 0, src)
	t.Cnt8(0, 0)
	t.Addv8(0, 0)
	t.MovRV(arm64.S32, dst, 0)
}

// orcB sets each byte that is not zero to all ones.
func (t *translator) orcB(dst, src arm64.Reg) {
	t.MovVR(arm64.S64, 0, src)
	t.Logic8(arm64.VCMTST, 0, 0, 0)
	t.MovRV(arm64.S64, dst, 0)
}

func (t *translator) other(in *Inst, dst arm64.Reg, rs1, rs2 func() arm64.Reg) {
	switch in.Op {
	case riscv.LUI:
		t.MovImm(dst, uint64(int64(in.Imm)))
	case riscv.AUIPC:
		t.word(arm64.S64, dst, t.layout.VPage)
		t.add(dst, dst, int64(in.Imm)+int64(in.Off))
	case riscv.MUL:
		t.Mul(arm64.S64, dst, rs1(), rs2())
	case riscv.MULW:
		t.Mul(arm64.S32, dst, rs1(), rs2())
		t.MovSX(arm64.S32, arm64.S64, dst, dst)
	case riscv.MULHU:
		t.MulHigh(arm64.UMULH, dst, rs1(), rs2())
	case riscv.MULH:
		t.MulHigh(arm64.SMULH, dst, rs1(), rs2())
	case riscv.MULHSU: // as if rs1 were unsigned, less 2^64 rs2 where it is negative
		x, y := rs1(), rs2()
		t.RRS(arm64.AND, arm64.S64, tmp3, y, x, arm64.ASR, 63)
		t.MulHigh(arm64.UMULH, dst, x, y)
		t.RRR(arm64.SUB, arm64.S64, dst, dst, tmp3)
	case riscv.ROL, riscv.ROLW:
		s := arm64.S64
		if in.Op == riscv.ROLW {
			s = arm64.S32
		}
		t.Neg(arm64.S64, tmp3, rs2())
		t.ShiftR(arm64.ROR, s, dst, rs1(), tmp3)
		t.done(in, dst, s)
		return
	case riscv.SLLI_UW:
		t.Field(arm64.UBFIZ, arm64.S64, dst, rs1(), uint(in.Imm), min(32, 64-uint(in.Imm)))
	case riscv.CZERO_EQZ, riscv.CZERO_NEZ:
		c := arm64.NE
		if in.Op == riscv.CZERO_NEZ {
			c = arm64.EQ
		}
		t.Cmp(arm64.S64, rs2(), arm64.ZR)
		t.Select(arm64.CSEL, arm64.S64, c, dst, rs1(), arm64.ZR)
	case riscv.BEXTI:
		t.Field(arm64.UBFX, arm64.S64, dst, rs1(), uint(in.Imm), 1)
	case riscv.BEXT:
		t.ShiftR(arm64.LSR, arm64.S64, dst, rs1(), rs2())
		t.RRI(arm64.AND, arm64.S64, dst, dst, 1)
	}
	t.put(in.Rd, dst)
}
