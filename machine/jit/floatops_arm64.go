// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// The facts below are by the operations on doubles; asDouble finds them.
var (
	// rd = rs1 op rs2, and whether the result may be tiny: a sum that is, is exact.
	floatOps = map[riscv.Op]struct {
		op   arm64.Float2
		tiny bool
	}{
		riscv.FADD_D: {arm64.FADD, false}, riscv.FSUB_D: {arm64.FSUB, false},
		riscv.FMUL_D: {arm64.FMUL, true}, riscv.FDIV_D: {arm64.FDIV, true},
	}
	// rd = ±(rs1 × rs2) ± rs3
	fused = map[riscv.Op]arm64.Float3{
		riscv.FMADD_D: arm64.FMADD, riscv.FMSUB_D: arm64.FNMSUB,
		riscv.FNMSUB_D: arm64.FMSUB, riscv.FNMADD_D: arm64.FNMADD,
	}
	compares = map[riscv.Op]struct {
		op arm64.Compare
		c  arm64.Cond
	}{
		riscv.FEQ_D: {arm64.FCMP, arm64.EQ}, riscv.FLT_D: {arm64.FCMPE, arm64.MI}, riscv.FLE_D: {arm64.FCMPE, arm64.LS},
	}
	// To integers, by rounding mode, and what a NaN gives.
	signed   = [...]arm64.ToInt{arm64.FCVTNS, arm64.FCVTZS, arm64.FCVTMS, arm64.FCVTPS, arm64.FCVTAS}
	unsigned = [...]arm64.ToInt{arm64.FCVTNU, arm64.FCVTZU, arm64.FCVTMU, arm64.FCVTPU, arm64.FCVTAU}
	toInt    = map[riscv.Op]struct {
		ops  *[5]arm64.ToInt
		size arm64.Size
		nan  uint64
	}{
		riscv.FCVT_W_D: {&signed, arm64.S32, 1<<31 - 1}, riscv.FCVT_WU_D: {&unsigned, arm64.S32, 1<<32 - 1},
		riscv.FCVT_L_D: {&signed, arm64.S64, 1<<63 - 1}, riscv.FCVT_LU_D: {&unsigned, arm64.S64, 1<<64 - 1},
	}
	fromInt = map[riscv.Op]struct {
		op   arm64.ToFloat
		size arm64.Size
	}{
		riscv.FCVT_D_W: {arm64.SCVTF, arm64.S32}, riscv.FCVT_D_WU: {arm64.UCVTF, arm64.S32},
		riscv.FCVT_D_L: {arm64.SCVTF, arm64.S64}, riscv.FCVT_D_LU: {arm64.UCVTF, arm64.S64},
	}
)

// asDouble is the operation on doubles that does the same, and the precision.
func asDouble(op riscv.Op) (riscv.Op, arm64.Size) {
	if d, ok := doubles[op]; ok {
		return d, arm64.S32
	}
	return op, arm64.S64
}

// knowsFloat reports whether an operation has a translation: no reserved rounding
// mode, and for integers none that only frm tells.
func knowsFloat(in *Inst) bool {
	switch riscv.FormatOf(in.Op) {
	case riscv.FormatRM, riscv.FormatRM1, riscv.FormatR4:
	default:
		return true
	}
	op, _ := asDouble(in.Op)
	_, integer := toInt[op]
	return in.RM <= rmm || in.RM == dyn && !integer
}

// float translates the instruction with index i of the block.
func (t *translator) float(in *Inst, i int) {
	f := &t.fp
	f.in, f.i, f.out = in, i, 0
	op, s := asDouble(in.Op)
	if usesRegisters(op) {
		t.need(registers)
	} else {
		t.need(computing)
	}
	switch op {
	case riscv.FLD:
		host := t.lookup(in, i, 1<<s, false)
		t.LoadV(s, intoF(in.Rd), host)
		t.putF(s, in.Rd)
	case riscv.FSD:
		host := t.lookup(in, i, 1<<s, true)
		t.StoreV(s, host, t.getF(s, v0, in.Rs2))
	case riscv.FMV_X_D:
		dst := t.into(t.toX().Rd)
		t.getBits(s, dst, in.Rs1)
		t.done(t.toX(), dst, s)
	case riscv.FMV_D_X:
		t.putBits(s, in.Rd, t.get(in.Rs1, tmp))
	case riscv.FSGNJ_D, riscv.FSGNJN_D, riscv.FSGNJX_D:
		t.signInject(op, s)
	case riscv.FCLASS_D:
		t.classify(s)
	case riscv.FMIN_D, riscv.FMAX_D:
		t.extreme(op, s)
	case riscv.FEQ_D, riscv.FLT_D, riscv.FLE_D:
		c, dst := compares[op], t.into(t.toX().Rd)
		t.singles(s, in.Rs1, in.Rs2)
		t.Compare(c.op, s, t.getF(s, v0, in.Rs1), t.getF(s, v1, in.Rs2))
		t.Set(c.c, dst)
		t.put(t.toX().Rd, dst)
	case riscv.FCVT_W_D, riscv.FCVT_WU_D, riscv.FCVT_L_D, riscv.FCVT_LU_D:
		t.toInteger(op, s)
	case riscv.FCVT_D_W, riscv.FCVT_D_WU, riscv.FCVT_D_L, riscv.FCVT_D_LU:
		c := fromInt[op]
		if c.size == arm64.S64 || s == arm64.S32 { // else it is exact
			t.rounds()
		}
		t.ToFloat(c.op, c.size, s, intoF(in.Rd), t.get(in.Rs1, tmp))
		t.putF(s, in.Rd)
	default:
		t.arithmetic(op, s)
	}
}

// arithmetic is what rounds floats to floats.
func (t *translator) arithmetic(op riscv.Op, s arm64.Size) {
	in := t.fp.in
	dst := intoF(in.Rd)
	if op != riscv.FCVT_D_S {
		t.rounds()
	}
	switch op {
	case riscv.FCVT_S_D:
		s = arm64.S32
		t.Fcvt(arm64.S64, s, dst, t.getF(arm64.S64, v0, in.Rs1))
		t.tiny(s, dst)
	case riscv.FCVT_D_S:
		t.singles(arm64.S32, in.Rs1)
		t.Fcvt(arm64.S32, s, dst, t.getF(arm64.S32, v0, in.Rs1))
	case riscv.FSQRT_D:
		t.singles(s, in.Rs1)
		t.VV(arm64.FSQRT, s, dst, t.getF(s, v0, in.Rs1))
	case riscv.FMADD_D, riscv.FMSUB_D, riscv.FNMSUB_D, riscv.FNMADD_D:
		t.singles(s, in.Rs1, in.Rs2, in.Rs3)
		t.VVVV(fused[op], s, dst, t.getF(s, v0, in.Rs1), t.getF(s, v1, in.Rs2), t.getF(s, v2, in.Rs3))
		t.tiny(s, dst)
	default:
		t.singles(s, in.Rs1, in.Rs2)
		t.VVV(floatOps[op].op, s, dst, t.getF(s, v0, in.Rs1), t.getF(s, v1, in.Rs2))
		if floatOps[op].tiny {
			t.tiny(s, dst)
		}
	}
	t.putF(s, in.Rd)
}

// ufc is FPSR's flag for Underflow.
const ufc = 1 << 3

// fraction is how many bits of a float are its fraction.
func fraction(s arm64.Size) uint {
	if s == arm64.S32 {
		return 23
	}
	return 52
}

// tiny looks at results up to the least normal number, where the host may have
// raised Underflow. That flag is clear in FPSR elsewhere: where it was right, it
// is put by, and where the result is the least normal number, the interpreter
// finds out whether it was.
func (t *translator) tiny(s arm64.Size, result arm64.Vec) {
	n := fraction(s)
	t.MovRV(s, tmp, result)
	t.Field(arm64.UBFX, s, tmp, tmp, n, uint(8)<<s-1-n)
	t.CmpI(s, tmp, 1)
	t.outOfLine(arm64.LS, stub{write: (*translator).underflow, off: t.interpret(), size: s, result: result})
}

func (t *translator) underflow(s *stub) {
	t.Mrs(tmp2, arm64.FPSR)
	t.TstI(arm64.S64, tmp2, ufc)
	t.BCond(arm64.EQ, s.back)
	t.RRI(arm64.BIC, arm64.S64, tmp2, tmp2, ufc)
	t.Msr(arm64.FPSR, tmp2)
	t.MovRV(s.size, tmp, s.result)
	t.RRR(arm64.ADD, s.size, tmp, tmp, tmp)
	t.MovImm(tmp2, 2<<fraction(s.size))
	t.Cmp(s.size, tmp, tmp2)
	t.BCond(arm64.EQ, s.off)
	t.setImm(arm64.S32, t.layout.Float.Host, ufc)
}

// signInject is FSGNJ, of which fmv, fneg and fabs are the cases with one operand.
func (t *translator) signInject(op riscv.Op, s arm64.Size) {
	in, top := t.fp.in, uint(8)<<s-1
	t.singles(s, in.Rs1, in.Rs2)
	if in.Rs1 == in.Rs2 {
		how := map[riscv.Op]arm64.Float1{riscv.FSGNJ_D: arm64.FMOV, riscv.FSGNJN_D: arm64.FNEG, riscv.FSGNJX_D: arm64.FABS}
		t.VV(how[op], s, intoF(in.Rd), t.getF(s, v0, in.Rs1))
		t.putF(s, in.Rd)
		return
	}
	t.getBits(s, tmp, in.Rs1)
	t.getBits(s, tmp2, in.Rs2)
	switch op {
	case riscv.FSGNJN_D:
		t.Mvn(s, tmp2, tmp2)
	case riscv.FSGNJX_D:
		t.RRR(arm64.EOR, s, tmp2, tmp2, tmp)
	}
	t.ShiftI(arm64.LSR, s, tmp2, tmp2, top)
	t.Field(arm64.BFI, s, tmp, tmp2, top, 1)
	t.putBits(s, in.Rd, tmp)
}

// extreme is FMIN and FMAX. The host too takes a number rather than a quiet NaN,
// and knows -0 from 0; any other NaN is the interpreter's.
func (t *translator) extreme(op riscv.Op, s arm64.Size) {
	in, pick := t.fp.in, arm64.FMINNM
	if op == riscv.FMAX_D {
		pick = arm64.FMAXNM
	}
	dst := intoF(in.Rd)
	t.singles(s, in.Rs1, in.Rs2)
	t.VVV(pick, s, dst, t.getF(s, v0, in.Rs1), t.getF(s, v1, in.Rs2))
	t.Compare(arm64.FCMP, s, dst, dst)
	t.BCond(arm64.VS, t.interpret())
	t.putF(s, in.Rd)
}

// toInteger converts to an integer. The host does as the guest with what does not
// fit, but makes 0 of a NaN.
func (t *translator) toInteger(op riscv.Op, s arm64.Size) {
	in, c := t.fp.in, toInt[op]
	t.singles(s, in.Rs1)
	from, dst := t.getF(s, v0, in.Rs1), t.into(t.toX().Rd)
	t.ToInt(c.ops[in.RM], s, c.size, dst, from)
	t.MovImm(tmp2, c.nan)
	t.Compare(arm64.FCMP, s, from, from)
	t.Select(arm64.CSEL, c.size, arm64.VS, dst, tmp2, dst)
	t.done(t.toX(), dst, c.size)
}

// classify is FCLASS: 0 is -∞, then upwards to 7, which is +∞; 8 is a signaling
// NaN and 9 a quiet one. Away from zero a number is 0 zero, 1 subnormal, 2
// normal or 3 infinity.
func (t *translator) classify(s arm64.Size) {
	in, n := t.fp.in, fraction(s)
	top := uint(8)<<s - 1
	t.singles(s, in.Rs1)
	nan, done := t.NewLabel(), t.NewLabel()
	t.getBits(s, tmp, in.Rs1)
	t.RRR(arm64.ADD, s, tmp3, tmp, tmp) // the magnitude, times 2
	t.MovImm(tmp4, (1<<(top-n)-1)<<(n+1))
	t.Cmp(s, tmp3, tmp4)
	t.BCond(arm64.HI, nan)
	t.Set(arm64.EQ, tmp2)
	t.CmpI(s, tmp3, 0)
	t.Select(arm64.CSINC, arm64.S64, arm64.EQ, tmp2, tmp2, tmp2) // + 1 unless zero
	t.ShiftI(arm64.LSR, s, tmp3, tmp3, n+1)
	t.CmpI(s, tmp3, 0)
	t.Select(arm64.CSINC, arm64.S64, arm64.EQ, tmp2, tmp2, tmp2) // + 1 unless zero or subnormal
	t.MovImm(tmp3, 3)
	t.RRR(arm64.SUB, arm64.S64, tmp3, tmp3, tmp2)
	t.RRI(arm64.ADD, arm64.S64, tmp2, tmp2, 4)
	t.CmpI(s, tmp, 0)
	t.Select(arm64.CSEL, arm64.S64, arm64.LT, tmp2, tmp3, tmp2)
	t.B(done)
	t.Bind(nan)
	t.Field(arm64.UBFX, s, tmp2, tmp, n-1, 1)
	t.RRI(arm64.ADD, arm64.S64, tmp2, tmp2, 8)
	t.Bind(done)
	t.MovImm(tmp3, 1)
	t.ShiftR(arm64.LSL, arm64.S64, tmp3, tmp3, tmp2)
	t.put(t.toX().Rd, tmp3)
}
