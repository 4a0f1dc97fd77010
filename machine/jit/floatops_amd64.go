// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// sized is an SSE operation for both precisions.
type sized[Op any] struct{ single, double Op }

func (o sized[Op]) of(s amd64.Size) Op {
	if s == amd64.S32 {
		return o.single
	}
	return o.double
}

var (
	ucomi   = sized[amd64.Compare]{amd64.UCOMISS, amd64.UCOMISD}
	comi    = sized[amd64.Compare]{amd64.COMISS, amd64.COMISD}
	sqrt    = sized[amd64.SSE]{amd64.SQRTSS, amd64.SQRTSD}
	least   = sized[amd64.SSE]{amd64.MINSS, amd64.MINSD}
	largest = sized[amd64.SSE]{amd64.MAXSS, amd64.MAXSD}
	double  = sized[amd64.SSE]{amd64.ADDSS, amd64.ADDSD}
	fromInt = sized[amd64.ToFloat]{amd64.CVTSI2SS, amd64.CVTSI2SD}
	toInt   = sized[amd64.ToInt]{amd64.CVTSS2SI, amd64.CVTSD2SI}
	toIntZ  = sized[amd64.ToInt]{amd64.CVTTSS2SI, amd64.CVTTSD2SI}
	round   = sized[amd64.Round]{amd64.ROUNDSS, amd64.ROUNDSD}
)

// The facts below are by the operations on doubles; asDouble finds them.
var (
	// rd = rs1 op rs2
	floatOps = map[riscv.Op]sized[amd64.SSE]{
		riscv.FADD_D: {amd64.ADDSS, amd64.ADDSD}, riscv.FSUB_D: {amd64.SUBSS, amd64.SUBSD},
		riscv.FMUL_D: {amd64.MULSS, amd64.MULSD}, riscv.FDIV_D: {amd64.DIVSS, amd64.DIVSD},
	}
	// rd = ±(rs1 × rs2) ± rs3
	fused = map[riscv.Op]amd64.FMA{
		riscv.FMADD_D: amd64.VFMADD231, riscv.FMSUB_D: amd64.VFMSUB231,
		riscv.FNMSUB_D: amd64.VFNMADD231, riscv.FNMADD_D: amd64.VFNMSUB231,
	}
	integers = map[riscv.Op]struct {
		size     amd64.Size
		unsigned bool
	}{
		riscv.FCVT_W_D: {amd64.S32, false}, riscv.FCVT_WU_D: {amd64.S32, true},
		riscv.FCVT_L_D: {amd64.S64, false}, riscv.FCVT_LU_D: {amd64.S64, true},
		riscv.FCVT_D_W: {amd64.S32, false}, riscv.FCVT_D_WU: {amd64.S32, true},
		riscv.FCVT_D_L: {amd64.S64, false}, riscv.FCVT_D_LU: {amd64.S64, true},
	}
)

// asDouble is the operation on doubles that does the same, and the precision.
func asDouble(op riscv.Op) (riscv.Op, amd64.Size) {
	if d, ok := doubles[op]; ok {
		return d, amd64.S32
	}
	return op, amd64.S64
}

// hostModes are those of ROUNDSD.
var hostModes = [8]uint8{amd64.RoundNearest, amd64.RoundZero, amd64.RoundDown, amd64.RoundUp, dyn: amd64.RoundMXCSR}

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
		t.floatLoad(s)
	case riscv.FSD:
		host := t.lookup(in, i, 1<<s, true)
		t.getBits(s, tmp3, in.Rs2)
		t.Store(s, host, tmp3)
	case riscv.FMV_X_D:
		t.getBits(s, tmp, in.Rs1)
		t.done(t.toX(), tmp, s)
	case riscv.FMV_D_X:
		t.putBits(s, in.Rd, t.get(in.Rs1, tmp))
	case riscv.FSGNJ_D, riscv.FSGNJN_D, riscv.FSGNJX_D:
		t.signInject(op, s)
	case riscv.FCLASS_D:
		t.classify(s)
	case riscv.FMIN_D, riscv.FMAX_D:
		t.extreme(op, s)
	case riscv.FEQ_D, riscv.FLT_D, riscv.FLE_D:
		t.floatCompare(op, s)
	case riscv.FCVT_W_D, riscv.FCVT_WU_D, riscv.FCVT_L_D, riscv.FCVT_LU_D:
		t.toInteger(integers[op].size, integers[op].unsigned, s)
	case riscv.FCVT_D_W, riscv.FCVT_D_WU, riscv.FCVT_D_L, riscv.FCVT_D_LU:
		t.fromInteger(integers[op].size, integers[op].unsigned, s)
	default:
		t.arithmetic(op, s)
	}
}

func (t *translator) floatLoad(s amd64.Size) {
	host := t.lookup(t.fp.in, t.fp.i, 1<<s, false)
	t.LoadX(s, xmm0, host)
	t.putF(s, t.fp.in.Rd, xmm0)
}

// arithmetic is what rounds floats to floats.
func (t *translator) arithmetic(op riscv.Op, s amd64.Size) {
	in, from := t.fp.in, s
	if op != riscv.FCVT_D_S {
		t.rounds()
	}
	switch op {
	case riscv.FCVT_S_D:
		s = amd64.S32
		t.getF(amd64.S64, xmm0, in.Rs1)
		t.XX(amd64.CVTSD2SS, xmm0, xmm0)
	case riscv.FCVT_D_S:
		t.singles(amd64.S32, in.Rs1)
		t.getF(amd64.S32, xmm0, in.Rs1)
		t.XX(amd64.CVTSS2SD, xmm0, xmm0)
	case riscv.FSQRT_D:
		t.singles(from, in.Rs1)
		t.getF(from, xmm0, in.Rs1)
		t.XX(sqrt.of(s), xmm0, xmm0)
	case riscv.FMADD_D, riscv.FMSUB_D, riscv.FNMSUB_D, riscv.FNMADD_D:
		t.singles(s, in.Rs1, in.Rs2, in.Rs3)
		t.getF(s, xmm1, in.Rs1)
		t.getF(s, xmm0, in.Rs3)
		t.fusedF(fused[op], s, xmm0, xmm1, in.Rs2)
		t.Compare(ucomi.of(s), xmm0, xmm0)
		t.outOfLine(amd64.P, stub{write: (*translator).fusedNaN, off: t.interpret(), size: s, in: in})
		t.putF(s, in.Rd, xmm0)
		return
	default:
		t.singles(s, in.Rs1, in.Rs2)
		t.getF(s, xmm0, in.Rs1)
		t.opF(s, floatOps[op].of(s), xmm0, in.Rs2)
	}
	t.Compare(ucomi.of(s), xmm0, xmm0)
	t.outOfLine(amd64.P, stub{write: (*translator).canonical, size: s})
	t.putF(s, in.Rd, xmm0)
}

// fusedNaN makes the NaN of a fused operation canonical where the host has raised
// the right flags: it misses that ∞ × 0 + qNaN is invalid.
func (t *translator) fusedNaN(s *stub) {
	compare, number := ucomi.of(s.size), t.NewLabel()
	t.LoadX(s.size, xmm1, t.f(s.in.Rs3))
	t.Compare(compare, xmm1, xmm1)
	t.JccShort(amd64.NP, number)
	t.XX(amd64.XORPS, xmm1, xmm1)
	for _, factor := range [2]uint8{s.in.Rs1, s.in.Rs2} {
		t.CompareM(compare, xmm1, t.f(factor))
		t.Jcc(amd64.E, s.off) // or a NaN
	}
	t.Bind(number)
	t.canonical(s)
}

// canonical puts the one NaN that RISC-V has for a result into xmm0.
func (t *translator) canonical(s *stub) {
	bits := uint64(0x7ff8_0000_0000_0000)
	if s.size == amd64.S32 {
		bits = 0x7fc0_0000
	}
	t.MovImm(tmp, bits)
	t.MovXR(s.size, xmm0, tmp)
}

// signInject is FSGNJ, of which fmv, fneg and fabs are the cases with one operand.
func (t *translator) signInject(op riscv.Op, s amd64.Size) {
	in, top := t.fp.in, uint8(8)<<s-1
	t.singles(s, in.Rs1, in.Rs2)
	if in.Rs1 == in.Rs2 {
		t.getF(s, xmm0, in.Rs1)
		sign := uint64(1) << top
		switch op {
		case riscv.FSGNJN_D:
			t.MovImm(tmp, sign)
			t.MovXR(s, xmm1, tmp)
			t.XX(amd64.XORPS, xmm0, xmm1)
		case riscv.FSGNJX_D:
			t.MovImm(tmp, sign-1)
			t.MovXR(s, xmm1, tmp)
			t.XX(amd64.ANDPS, xmm0, xmm1)
		}
		t.putF(s, in.Rd, xmm0)
		return
	}
	t.getBits(s, tmp, in.Rs1)
	t.getBits(s, tmp2, in.Rs2)
	if op != riscv.FSGNJX_D { // where the signs differ
		t.RR(amd64.XOR, s, tmp2, tmp)
	}
	if op == riscv.FSGNJN_D {
		t.Unary(amd64.NOT, s, tmp2)
	}
	t.ShiftI(amd64.SHR, s, tmp2, top)
	t.ShiftI(amd64.SHL, s, tmp2, top)
	t.RR(amd64.XOR, s, tmp, tmp2)
	t.putBits(s, in.Rd, tmp)
}

// extreme is FMIN and FMAX of numbers. Of zeros the host takes the second
// operand; so it gets them in both orders, and -0 is the one with the sign bit.
func (t *translator) extreme(op riscv.Op, s amd64.Size) {
	in, pick, join := t.fp.in, least, amd64.ORPS
	if op == riscv.FMAX_D {
		pick, join = largest, amd64.ANDPS
	}
	t.singles(s, in.Rs1, in.Rs2)
	t.getF(s, xmm0, in.Rs1)
	t.getF(s, xmm1, in.Rs2)
	t.Compare(ucomi.of(s), xmm0, xmm1)
	t.Jcc(amd64.P, t.interpret())
	t.MovX(xmm2, xmm0)
	t.XX(pick.of(s), xmm0, xmm1)
	t.XX(pick.of(s), xmm1, xmm2)
	t.XX(join, xmm0, xmm1)
	t.putF(s, in.Rd, xmm0)
}

// floatCompare is FEQ, quiet, and FLT and FLE, which signal. rs2 comes first, for
// "above" is false of NaNs, where "below" is true.
func (t *translator) floatCompare(op riscv.Op, s amd64.Size) {
	in := t.fp.in
	t.singles(s, in.Rs1, in.Rs2)
	t.getF(s, xmm0, in.Rs2)
	switch op {
	case riscv.FEQ_D:
		t.compareF(s, ucomi.of(s), xmm0, in.Rs1)
		t.Set(amd64.NP, tmp2)
		t.Set(amd64.E, tmp)
		t.RR(amd64.AND, amd64.S8, tmp, tmp2)
	case riscv.FLT_D:
		t.compareF(s, comi.of(s), xmm0, in.Rs1)
		t.Set(amd64.A, tmp)
	default:
		t.compareF(s, comi.of(s), xmm0, in.Rs1)
		t.Set(amd64.AE, tmp)
	}
	t.MovZX(amd64.S8, tmp, tmp)
	t.put(t.toX().Rd, tmp)
}

// toInteger converts to an integer of a size. What does not fit is the
// interpreter's; there the host may have raised Invalid, as the guest will.
// Inexact, which must not come with that, is raised only after the check, but
// where one instruction does all.
func (t *translator) toInteger(size amd64.Size, unsigned bool, s amd64.Size) {
	rm, in := t.fp.in.RM, t.fp.in
	t.singles(s, in.Rs1)
	t.getF(s, xmm0, in.Rs1)
	switch {
	case rm == rmm:
		t.Jmp(t.interpret())
	case !unsigned && rm == rtz:
		t.ToInt(toIntZ.of(s), size, tmp, xmm0)
		t.fits(size)
	case !unsigned && rm == dyn:
		t.ToInt(toInt.of(s), size, tmp, xmm0)
		t.fits(size)
	default:
		t.Round(round.of(s), xmm1, xmm0, hostModes[rm&7]|amd64.NoInexact)
		switch {
		case !unsigned:
			t.ToInt(toIntZ.of(s), size, tmp, xmm1)
			t.fits(size)
		case size == amd64.S32:
			t.ToInt(toIntZ.of(s), amd64.S64, tmp, xmm1)
			t.Mov(amd64.S32, tmp2, tmp)
			t.RR(amd64.CMP, amd64.S64, tmp, tmp2)
			t.Jcc(amd64.NE, t.interpret())
		default:
			t.below63(s)
			t.ToInt(toIntZ.of(s), amd64.S64, tmp, xmm1)
		}
		t.Round(round.of(s), xmm1, xmm0, hostModes[rm&7])
	}
	t.done(t.toX(), tmp, size)
}

// below63 leaves the block where xmm1 has a sign or is not below 2^63: not all of
// those are invalid, but the host would say so. As integers they are above it.
func (t *translator) below63(s amd64.Size) {
	limit := uint64(1023+63) << 52
	if s == amd64.S32 {
		limit = (127 + 63) << 23
	}
	t.MovRX(s, tmp, xmm1)
	t.MovImm(tmp2, limit)
	t.RR(amd64.CMP, s, tmp, tmp2)
	t.Jcc(amd64.AE, t.interpret())
}

// fits leaves the block with the least integer, which is also what the host gives
// for what does not fit: only less 1 it overflows.
func (t *translator) fits(size amd64.Size) {
	t.RI(amd64.CMP, size, tmp, 1)
	t.Jcc(amd64.O, t.interpret())
}

// fromInteger converts an integer of a size. Half of one of 64 bits that is not
// negative when taken as signed, its last bit jammed, rounds as the whole does.
func (t *translator) fromInteger(size amd64.Size, unsigned bool, s amd64.Size) {
	in, op := t.fp.in, fromInt.of(s)
	if size == amd64.S64 || s == amd64.S32 { // else it is exact
		t.rounds()
	}
	t.XX(amd64.XORPS, xmm0, xmm0) // waits for nothing then
	switch {
	case !unsigned:
		t.ToFloat(op, size, xmm0, t.get(in.Rs1, tmp))
	case size == amd64.S32:
		t.Mov(amd64.S32, tmp, t.get(in.Rs1, tmp))
		t.ToFloat(op, amd64.S64, xmm0, tmp)
	default:
		large, done := t.NewLabel(), t.NewLabel()
		t.copy(tmp, in.Rs1)
		t.Test(amd64.S64, tmp, tmp)
		t.JccShort(amd64.S, large)
		t.ToFloat(op, amd64.S64, xmm0, tmp)
		t.JmpShort(done)
		t.Bind(large)
		t.Mov(amd64.S64, tmp2, tmp)
		t.ShiftI(amd64.SHR, amd64.S64, tmp, 1)
		t.RI(amd64.AND, amd64.S32, tmp2, 1)
		t.RR(amd64.OR, amd64.S64, tmp, tmp2)
		t.ToFloat(op, amd64.S64, xmm0, tmp)
		t.XX(double.of(s), xmm0, xmm0)
		t.Bind(done)
	}
	t.putF(s, in.Rd, xmm0)
}

// classify is FCLASS: 0 is -∞, then upwards to 7, which is +∞; 8 is a signaling
// NaN and 9 a quiet one. Away from zero a number is 0 zero, 1 subnormal, 2
// normal or 3 infinity.
func (t *translator) classify(s amd64.Size) {
	in, frac, inf := t.fp.in, uint8(52), uint64(0x7ff)<<53
	if s == amd64.S32 {
		frac, inf = 23, 0xff<<24
	}
	t.singles(s, in.Rs1)
	nan, negative, done := t.NewLabel(), t.NewLabel(), t.NewLabel()
	t.getBits(s, tmp3, in.Rs1)
	t.RR(amd64.ADD, s, tmp3, tmp3) // the magnitude, times 2
	t.MovImm(tmp, inf)
	t.RR(amd64.CMP, s, tmp3, tmp)
	t.JccShort(amd64.A, nan)
	t.Set(amd64.E, tmp2)
	t.MovZX(amd64.S8, tmp2, tmp2)
	t.RI(amd64.CMP, s, tmp3, 1)
	t.RI(amd64.SBB, amd64.S32, tmp2, -1) // + 1 unless zero
	t.ShiftI(amd64.SHR, s, tmp3, frac+1)
	t.RI(amd64.CMP, s, tmp3, 1)
	t.RI(amd64.SBB, amd64.S32, tmp2, -1) // + 1 unless zero or subnormal
	t.getBits(s, tmp3, in.Rs1)
	t.Test(s, tmp3, tmp3)
	t.MovImmKeep(tmp, 1)
	t.JccShort(amd64.S, negative)
	t.RI(amd64.ADD, amd64.S32, tmp2, 4)
	t.ShiftCL(amd64.SHL, amd64.S32, tmp)
	t.JmpShort(done)
	t.Bind(negative)
	t.MovImm(tmp, 8)
	t.ShiftCL(amd64.SHR, amd64.S32, tmp)
	t.JmpShort(done)
	t.Bind(nan)
	t.ShiftI(amd64.SHR, s, tmp3, frac)
	t.RI(amd64.AND, amd64.S32, tmp3, 1)
	t.Lea(amd64.S32, tmp2, amd64.At(tmp3, 8))
	t.MovImm(tmp, 1)
	t.ShiftCL(amd64.SHL, amd64.S32, tmp)
	t.Bind(done)
	t.put(t.toX().Rd, tmp)
}
