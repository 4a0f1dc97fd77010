// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// Facts of operations, as tables.
var (
	branches = map[riscv.Op]amd64.Cond{
		riscv.BEQ: amd64.E, riscv.BNE: amd64.NE, riscv.BLT: amd64.L, riscv.BGE: amd64.GE,
		riscv.BLTU: amd64.B, riscv.BGEU: amd64.AE,
	}

	// rd = rs1 op rs2, with .w forms on 32 bits and sign-extended.
	aluReg = map[riscv.Op]alu{
		riscv.ADD: {amd64.ADD, amd64.S64, true}, riscv.SUB: {amd64.SUB, amd64.S64, false},
		riscv.XOR: {amd64.XOR, amd64.S64, true}, riscv.OR: {amd64.OR, amd64.S64, true}, riscv.AND: {amd64.AND, amd64.S64, true},
		riscv.ADDW: {amd64.ADD, amd64.S32, true}, riscv.SUBW: {amd64.SUB, amd64.S32, false},
	}
	aluImm = map[riscv.Op]alu{
		riscv.ADDI: {amd64.ADD, amd64.S64, true}, riscv.XORI: {amd64.XOR, amd64.S64, true},
		riscv.ORI: {amd64.OR, amd64.S64, true}, riscv.ANDI: {amd64.AND, amd64.S64, true},
		riscv.ADDIW: {amd64.ADD, amd64.S32, true},
	}
	shiftImm = map[riscv.Op]shift{
		riscv.SLLI: {amd64.SHL, amd64.S64}, riscv.SRLI: {amd64.SHR, amd64.S64}, riscv.SRAI: {amd64.SAR, amd64.S64},
		riscv.SLLIW: {amd64.SHL, amd64.S32}, riscv.SRLIW: {amd64.SHR, amd64.S32}, riscv.SRAIW: {amd64.SAR, amd64.S32},
		riscv.RORI: {amd64.ROR, amd64.S64}, riscv.RORIW: {amd64.ROR, amd64.S32},
	}
	shiftReg = map[riscv.Op]shift{
		riscv.SLL: {amd64.SHL, amd64.S64}, riscv.SRL: {amd64.SHR, amd64.S64}, riscv.SRA: {amd64.SAR, amd64.S64},
		riscv.SLLW: {amd64.SHL, amd64.S32}, riscv.SRLW: {amd64.SHR, amd64.S32}, riscv.SRAW: {amd64.SAR, amd64.S32},
		riscv.ROL: {amd64.ROL, amd64.S64}, riscv.ROR: {amd64.ROR, amd64.S64},
		riscv.ROLW: {amd64.ROL, amd64.S32}, riscv.RORW: {amd64.ROR, amd64.S32},
	}
	setLess = map[riscv.Op]amd64.Cond{
		riscv.SLT: amd64.L, riscv.SLTU: amd64.B, riscv.SLTI: amd64.L, riscv.SLTIU: amd64.B,
	}
	counts = map[riscv.Op]struct {
		op   amd64.Count
		size amd64.Size
	}{
		riscv.CLZ: {amd64.LZCNT, amd64.S64}, riscv.CTZ: {amd64.TZCNT, amd64.S64}, riscv.CPOP: {amd64.POPCNT, amd64.S64},
		riscv.CLZW: {amd64.LZCNT, amd64.S32}, riscv.CTZW: {amd64.TZCNT, amd64.S32}, riscv.CPOPW: {amd64.POPCNT, amd64.S32},
	}
	// rd = rs1 with a bit changed.
	bitReg = map[riscv.Op]amd64.Bit{riscv.BSET: amd64.BTS, riscv.BCLR: amd64.BTR, riscv.BINV: amd64.BTC}
	bitImm = map[riscv.Op]amd64.Bit{riscv.BSETI: amd64.BTS, riscv.BCLRI: amd64.BTR, riscv.BINVI: amd64.BTC}
	// rd = rs1 or rs2, whichever: the condition keeps rs1.
	minMax = map[riscv.Op]amd64.Cond{
		riscv.MIN: amd64.LE, riscv.MINU: amd64.BE, riscv.MAX: amd64.GE, riscv.MAXU: amd64.AE,
	}
	// rd = rs2 + (rs1 << n), .uw forms of rs1's low word.
	shAdd = map[riscv.Op]struct {
		scale uint8
		word  bool
	}{
		riscv.SH1ADD: {2, false}, riscv.SH2ADD: {4, false}, riscv.SH3ADD: {8, false}, riscv.ADD_UW: {1, true},
		riscv.SH1ADD_UW: {2, true}, riscv.SH2ADD_UW: {4, true}, riscv.SH3ADD_UW: {8, true},
	}
	others = []riscv.Op{riscv.LUI, riscv.AUIPC, riscv.JAL, riscv.JALR, riscv.FENCE, riscv.FENCE_I, riscv.CBO_ZERO, riscv.ECALL, riscv.SRET,
		riscv.SFENCE_VMA, riscv.SINVAL_VMA, riscv.SFENCE_W_INVAL, riscv.SFENCE_INVAL_IR, riscv.MUL, riscv.MULW,
		riscv.MULHU, riscv.MULH, riscv.MULHSU, riscv.ORC_B, riscv.BEXT, riscv.SEXT_B, riscv.SEXT_H, riscv.ZEXT_H, riscv.ANDN, riscv.ORN, riscv.XNOR,
		riscv.REV8, riscv.SLLI_UW, riscv.CZERO_EQZ, riscv.CZERO_NEZ, riscv.BEXTI}
)

type alu struct {
	op       amd64.ALU
	size     amd64.Size
	commutes bool
}

type shift struct {
	op   amd64.Shift
	size amd64.Size
}

// known says which operations have a translation.
var known = func() (k [riscv.NumOps]bool) {
	for op := range riscv.Op(riscv.NumOps) {
		_, a := aluReg[op]
		_, b := aluImm[op]
		_, c := shiftImm[op]
		_, d := shiftReg[op]
		_, e := setLess[op]
		_, f := counts[op]
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
	for op := riscv.FLW; isFloat(op); op++ {
		k[op] = true
	}
	return k
}()

// knows reports whether an instruction has a translation.
func (t *translator) knows(in *Inst) bool {
	return known[in.Op] || isCSR(in.Op) && t.knowsCSR(in)
}

// compute translates what only reads and writes registers.
func (t *translator) compute(in *Inst) {
	if a, ok := aluReg[in.Op]; ok {
		a.size = t.sized(a.size)
		t.aluReg(in, a)
	} else if a, ok := aluImm[in.Op]; ok {
		a.size = t.sized(a.size)
		t.aluImm(in, a)
	} else if s, ok := shiftImm[in.Op]; ok {
		dst := t.into(in.Rd)
		if s.op == amd64.ROR {
			t.Rorx(s.size, dst, t.get(in.Rs1, tmp), uint8(in.Imm))
			t.done(in, dst, s.size)
			return
		}
		t.copy(dst, in.Rs1)
		t.ShiftI(s.op, s.size, dst, uint8(in.Imm))
		if s.op == amd64.SHR && in.Imm != 0 {
			t.put(in.Rd, dst) // it is not negative
		} else {
			t.done(in, dst, s.size)
		}
	} else if s, ok := shiftReg[in.Op]; ok {
		t.copy(tmp2, in.Rs2)
		dst := t.into(in.Rd)
		t.copy(dst, in.Rs1)
		t.ShiftCL(s.op, s.size, dst)
		t.done(in, dst, s.size)
	} else if c, ok := setLess[in.Op]; ok {
		t.setLess(in, c)
	} else if c, ok := counts[in.Op]; ok {
		dst := t.into(in.Rd)
		t.Count(c.op, c.size, dst, t.get(in.Rs1, tmp))
		t.put(in.Rd, dst)
	} else if c, ok := minMax[in.Op]; ok {
		t.copy(tmp, in.Rs1)
		t.copy(tmp2, in.Rs2)
		t.RR(amd64.CMP, amd64.S64, tmp, tmp2)
		t.Cmov(c.Not(), amd64.S64, tmp, tmp2)
		t.put(in.Rd, tmp)
	} else if s, ok := shAdd[in.Op]; ok {
		src := t.get(in.Rs1, tmp)
		if s.word {
			t.Mov(amd64.S32, tmp, src)
			src = tmp
		}
		t.Lea(amd64.S64, tmp, amd64.Mem{Base: t.get(in.Rs2, tmp2), Index: src, Scale: s.scale})
		t.put(in.Rd, tmp)
	} else if b, ok := bitReg[in.Op]; ok {
		t.copy(tmp, in.Rs1)
		t.Bit(b, amd64.S64, tmp, t.get(in.Rs2, tmp2))
		t.put(in.Rd, tmp)
	} else if b, ok := bitImm[in.Op]; ok {
		t.copy(tmp, in.Rs1)
		t.BitI(b, amd64.S64, tmp, uint8(in.Imm))
		t.put(in.Rd, tmp)
	} else if d, ok := divisions[in.Op]; ok {
		t.divide(in, d)
	} else {
		t.other(in)
	}
}

// done ends an operation of a size: 32-bit results are sign-extended, unless nobody
// looks at their upper half.
func (t *translator) done(in *Inst, dst amd64.Reg, s amd64.Size) {
	if s == amd64.S32 && !t.raw {
		t.MovSX(amd64.S32, amd64.S64, dst, dst)
	}
	t.put(in.Rd, dst)
}

func (t *translator) aluReg(in *Inst, a alu) {
	rs1, rs2 := in.Rs1, in.Rs2
	if a.commutes && (rs1 == 0 || t.home[rs2] == t.home[in.Rd] && t.home[rs2] != none) {
		rs1, rs2 = rs2, rs1
	}
	if a.commutes && t.recent != 0 && t.recent == rs2 {
		rs1, rs2 = rs2, rs1 // what tmp has comes first
	}
	if rs1 == 0 && a.op == amd64.SUB {
		dst := t.into(in.Rd)
		t.copy(dst, rs2)
		t.Unary(amd64.NEG, a.size, dst)
		t.done(in, dst, a.size)
		return
	}
	dst := t.into(in.Rd, rs2)
	if h1, h2 := t.home[rs1], t.home[rs2]; a.op == amd64.ADD && h1 != none && h2 != none && h1 != dst {
		t.Lea(a.size, dst, amd64.Mem{Base: h1, Index: h2, Scale: 1})
		t.done(in, dst, a.size)
		return
	}
	t.copy(dst, rs1)
	t.op(a.op, a.size, dst, rs2)
	t.done(in, dst, a.size)
}

func (t *translator) aluImm(in *Inst, a alu) {
	dst := t.into(in.Rd)
	switch {
	case in.Rs1 == 0 && (in.Op == riscv.ADDI || in.Op == riscv.ADDIW || in.Op == riscv.ORI || in.Op == riscv.XORI):
		t.MovImm(dst, uint64(int64(in.Imm)))
		t.put(in.Rd, dst)
		return
	case a.op == amd64.ADD && t.home[in.Rs1] != none && in.Imm != 0 && t.home[in.Rs1] != dst:
		t.Lea(a.size, dst, amd64.At(t.home[in.Rs1], in.Imm))
		t.done(in, dst, a.size)
		return
	case in.Op == riscv.ADDIW && in.Imm == 0 && t.home[in.Rs1] != none:
		t.MovSX(amd64.S32, amd64.S64, dst, t.home[in.Rs1])
		t.put(in.Rd, dst)
		return
	case in.Op == riscv.ADDIW && in.Imm == 0 && t.recent != in.Rs1:
		t.LoadSX(amd64.S32, amd64.S64, dst, x(in.Rs1))
		t.put(in.Rd, dst)
		return
	case in.Op == riscv.ANDI && in.Imm == 255 && t.home[in.Rs1] != none:
		t.MovZX(amd64.S8, dst, t.home[in.Rs1])
		t.put(in.Rd, dst)
		return
	}
	t.copy(dst, in.Rs1)
	if in.Imm != 0 || a.op == amd64.AND {
		t.RI(a.op, a.size, dst, in.Imm)
	}
	t.done(in, dst, a.size)
}

func (t *translator) multiply(in *Inst, s amd64.Size) {
	rs1, rs2 := in.Rs1, in.Rs2
	if t.home[rs2] == t.home[in.Rd] && t.home[rs2] != none {
		rs1, rs2 = rs2, rs1
	}
	dst := t.into(in.Rd, rs2)
	t.copy(dst, rs1)
	if rs2 == 0 || t.home[rs2] != none {
		t.Imul(s, dst, t.get(rs2, tmp2))
	} else {
		t.ImulM(s, dst, x(rs2))
	}
	t.done(in, dst, s)
}

func (t *translator) setLess(in *Inst, c amd64.Cond) {
	a := t.get(in.Rs1, tmp)
	if in.Op == riscv.SLTI || in.Op == riscv.SLTIU {
		t.RI(amd64.CMP, amd64.S64, a, in.Imm)
	} else {
		t.op(amd64.CMP, amd64.S64, a, in.Rs2)
	}
	t.Set(c, tmp)
	t.MovZX(amd64.S8, tmp, tmp)
	t.put(in.Rd, tmp)
}

func (t *translator) other(in *Inst) {
	switch in.Op {
	case riscv.LUI:
		t.MovImm(tmp, uint64(int64(in.Imm)))
	case riscv.AUIPC:
		t.address(tmp, 0)
		t.MovImm(tmp2, uint64(int64(in.Imm)+int64(in.Off)))
		t.RR(amd64.ADD, amd64.S64, tmp, tmp2)
	case riscv.MUL:
		t.multiply(in, amd64.S64)
		return
	case riscv.MULW:
		t.multiply(in, amd64.S32)
		return
	case riscv.MULHU, riscv.MULH:
		t.copy(tmp, in.Rs1)
		op := amd64.MUL
		if in.Op == riscv.MULH {
			op = amd64.IMUL
		}
		t.Unary(op, amd64.S64, t.get(in.Rs2, tmp2))
		t.put(in.Rd, tmp3)
		return
	case riscv.MULHSU: // as if rs1 were unsigned, less 2^64 rs2 where it is negative
		t.copy(tmp, in.Rs1)
		t.Unary(amd64.MUL, amd64.S64, t.get(in.Rs2, tmp2))
		t.copy(tmp, in.Rs1)
		t.ShiftI(amd64.SAR, amd64.S64, tmp, 63)
		t.op(amd64.AND, amd64.S64, tmp, in.Rs2)
		t.RR(amd64.SUB, amd64.S64, tmp3, tmp)
		t.put(in.Rd, tmp3)
		return
	case riscv.SEXT_B:
		t.copy(tmp, in.Rs1)
		t.MovSX(amd64.S8, amd64.S64, tmp, tmp)
	case riscv.SEXT_H:
		t.copy(tmp, in.Rs1)
		t.MovSX(amd64.S16, amd64.S64, tmp, tmp)
	case riscv.ZEXT_H:
		t.copy(tmp, in.Rs1)
		t.MovZX(amd64.S16, tmp, tmp)
	case riscv.ANDN, riscv.ORN:
		t.copy(tmp, in.Rs2)
		t.Unary(amd64.NOT, amd64.S64, tmp)
		t.op(map[riscv.Op]amd64.ALU{riscv.ANDN: amd64.AND, riscv.ORN: amd64.OR}[in.Op], amd64.S64, tmp, in.Rs1)
	case riscv.XNOR:
		t.copy(tmp, in.Rs2)
		t.op(amd64.XOR, amd64.S64, tmp, in.Rs1)
		t.Unary(amd64.NOT, amd64.S64, tmp)
	case riscv.REV8:
		t.copy(tmp, in.Rs1)
		t.Bswap(amd64.S64, tmp)
	case riscv.SLLI_UW:
		dst := t.into(in.Rd)
		t.Mov(amd64.S32, dst, t.get(in.Rs1, dst))
		if in.Imm != 0 {
			t.ShiftI(amd64.SHL, amd64.S64, dst, uint8(in.Imm))
		}
		t.put(in.Rd, dst)
		return
	case riscv.CZERO_EQZ, riscv.CZERO_NEZ:
		c := amd64.E
		if in.Op == riscv.CZERO_NEZ {
			c = amd64.NE
		}
		t.RR(amd64.XOR, amd64.S32, tmp3, tmp3)
		t.copy(tmp2, in.Rs2)
		t.copy(tmp, in.Rs1)
		t.Test(amd64.S64, tmp2, tmp2)
		t.Cmov(c, amd64.S64, tmp, tmp3)
	case riscv.BEXTI:
		t.copy(tmp, in.Rs1)
		t.ShiftI(amd64.SHR, amd64.S64, tmp, uint8(in.Imm))
		t.RI(amd64.AND, amd64.S32, tmp, 1)
	case riscv.BEXT:
		t.copy(tmp2, in.Rs2)
		t.copy(tmp, in.Rs1)
		t.ShiftCL(amd64.SHR, amd64.S64, tmp)
		t.RI(amd64.AND, amd64.S32, tmp, 1)
	case riscv.ORC_B:
		t.orcB(in)
	}
	t.put(in.Rd, tmp)
}
