// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/riscv"
	"tandem/machine/softfloat"
)

// Sign bits.
const (
	sign32 = uint32(1) << 31
	sign64 = uint64(1) << 63
)

// float executes F and D (Unpriv. 20, 21).
func (h *Hart) float(in *inst) bool {
	rm := in.rm
	if rm == 7 && usesRM(in.op) {
		rm = h.frm
	}
	if h.mstatus&riscv.StatusFS == 0 || rm > 4 && usesRM(in.op) {
		return h.illegal()
	}
	before := h.fflags
	flags := softfloat.Flags(before)
	if h.float64(in, softfloat.RM(rm), &flags) || h.float32(in, softfloat.RM(rm), &flags) {
		h.dirtyFS()
	}
	if h.fflags = uint8(flags); h.fflags != before {
		h.dirtyFS()
	}
	return h.retire(in)
}

func usesRM(op riscv.Op) bool {
	f := riscv.FormatOf(op)
	return f == riscv.FormatRM || f == riscv.FormatRM1 || f == riscv.FormatR4
}

// unboxed is a single-precision operand: the canonical NaN where the register
// does not hold a boxed one (Unpriv. 21.2).
func unboxed(v uint64) uint32 {
	if v>>32 != 0xffff_ffff {
		return 0x7fc0_0000
	}
	return uint32(v)
}

// setX writes an integer result; rd is not mapped to the sink here.
func (h *Hart) setX(rd uint8, v uint64) {
	if rd != 0 {
		h.x[rd] = v
	}
}

// float64 executes the double-precision operations; wrote reports whether an f register was written.
func (h *Hart) float64(in *inst, rm softfloat.RM, fl *softfloat.Flags) (wrote bool) {
	a, b := h.f[in.rs1&31], h.f[in.rs2&31]
	switch in.op {
	case riscv.FADD_D:
		h.f[in.rd&31] = softfloat.Add64(a, b, rm, fl)
	case riscv.FSUB_D:
		h.f[in.rd&31] = softfloat.Sub64(a, b, rm, fl)
	case riscv.FMUL_D:
		h.f[in.rd&31] = softfloat.Mul64(a, b, rm, fl)
	case riscv.FDIV_D:
		h.f[in.rd&31] = softfloat.Div64(a, b, rm, fl)
	case riscv.FSQRT_D:
		h.f[in.rd&31] = softfloat.Sqrt64(a, rm, fl)
	case riscv.FMADD_D:
		h.f[in.rd&31] = softfloat.MulAdd64(a, b, h.f[in.rs3&31], rm, fl)
	case riscv.FMSUB_D:
		h.f[in.rd&31] = softfloat.MulAdd64(a, b, h.f[in.rs3&31]^sign64, rm, fl)
	case riscv.FNMSUB_D:
		h.f[in.rd&31] = softfloat.MulAdd64(a^sign64, b, h.f[in.rs3&31], rm, fl)
	case riscv.FNMADD_D:
		h.f[in.rd&31] = softfloat.MulAdd64(a^sign64, b, h.f[in.rs3&31]^sign64, rm, fl)
	case riscv.FSGNJ_D:
		h.f[in.rd&31] = a&^sign64 | b&sign64
	case riscv.FSGNJN_D:
		h.f[in.rd&31] = a&^sign64 | ^b&sign64
	case riscv.FSGNJX_D:
		h.f[in.rd&31] = a ^ b&sign64
	case riscv.FMIN_D:
		h.f[in.rd&31] = softfloat.Min64(a, b, fl)
	case riscv.FMAX_D:
		h.f[in.rd&31] = softfloat.Max64(a, b, fl)
	case riscv.FCVT_D_S:
		h.f[in.rd&31] = softfloat.F32ToF64(unboxed(h.f[in.rs1&31]), fl)
	case riscv.FCVT_D_W:
		h.f[in.rd&31] = softfloat.I32ToF64(int32(h.x[in.rs1]))
	case riscv.FCVT_D_WU:
		h.f[in.rd&31] = softfloat.U32ToF64(uint32(h.x[in.rs1]))
	case riscv.FCVT_D_L:
		h.f[in.rd&31] = softfloat.I64ToF64(int64(h.x[in.rs1]), rm, fl)
	case riscv.FCVT_D_LU:
		h.f[in.rd&31] = softfloat.U64ToF64(h.x[in.rs1], rm, fl)
	case riscv.FMV_D_X:
		h.f[in.rd&31] = h.x[in.rs1]
	default:
		h.toInteger64(in, a, b, rm, fl)
		return false
	}
	return true
}

// toInteger64 executes the operations whose result is an integer.
func (h *Hart) toInteger64(in *inst, a, b uint64, rm softfloat.RM, fl *softfloat.Flags) {
	switch in.op {
	case riscv.FEQ_D:
		h.setX(in.rd, b2u(softfloat.Eq64(a, b, fl)))
	case riscv.FLT_D:
		h.setX(in.rd, b2u(softfloat.Lt64(a, b, fl)))
	case riscv.FLE_D:
		h.setX(in.rd, b2u(softfloat.Le64(a, b, fl)))
	case riscv.FCLASS_D:
		h.setX(in.rd, softfloat.Class64(a))
	case riscv.FMV_X_D:
		h.setX(in.rd, a)
	case riscv.FCVT_W_D:
		h.setX(in.rd, uint64(int64(softfloat.F64ToI32(a, rm, fl))))
	case riscv.FCVT_WU_D:
		h.setX(in.rd, sext32(softfloat.F64ToU32(a, rm, fl)))
	case riscv.FCVT_L_D:
		h.setX(in.rd, uint64(softfloat.F64ToI64(a, rm, fl)))
	case riscv.FCVT_LU_D:
		h.setX(in.rd, softfloat.F64ToU64(a, rm, fl))
	}
}

// float32 executes the single-precision operations; wrote reports whether an f register was written.
func (h *Hart) float32(in *inst, rm softfloat.RM, fl *softfloat.Flags) (wrote bool) {
	a, b := unboxed(h.f[in.rs1&31]), unboxed(h.f[in.rs2&31])
	switch in.op {
	case riscv.FADD_S:
		h.f[in.rd&31] = boxed(softfloat.Add32(a, b, rm, fl))
	case riscv.FSUB_S:
		h.f[in.rd&31] = boxed(softfloat.Sub32(a, b, rm, fl))
	case riscv.FMUL_S:
		h.f[in.rd&31] = boxed(softfloat.Mul32(a, b, rm, fl))
	case riscv.FDIV_S:
		h.f[in.rd&31] = boxed(softfloat.Div32(a, b, rm, fl))
	case riscv.FSQRT_S:
		h.f[in.rd&31] = boxed(softfloat.Sqrt32(a, rm, fl))
	case riscv.FMADD_S:
		h.f[in.rd&31] = boxed(softfloat.MulAdd32(a, b, unboxed(h.f[in.rs3&31]), rm, fl))
	case riscv.FMSUB_S:
		h.f[in.rd&31] = boxed(softfloat.MulAdd32(a, b, unboxed(h.f[in.rs3&31])^sign32, rm, fl))
	case riscv.FNMSUB_S:
		h.f[in.rd&31] = boxed(softfloat.MulAdd32(a^sign32, b, unboxed(h.f[in.rs3&31]), rm, fl))
	case riscv.FNMADD_S:
		h.f[in.rd&31] = boxed(softfloat.MulAdd32(a^sign32, b, unboxed(h.f[in.rs3&31])^sign32, rm, fl))
	case riscv.FSGNJ_S:
		h.f[in.rd&31] = boxed(a&^sign32 | b&sign32)
	case riscv.FSGNJN_S:
		h.f[in.rd&31] = boxed(a&^sign32 | ^b&sign32)
	case riscv.FSGNJX_S:
		h.f[in.rd&31] = boxed(a ^ b&sign32)
	case riscv.FMIN_S:
		h.f[in.rd&31] = boxed(softfloat.Min32(a, b, fl))
	case riscv.FMAX_S:
		h.f[in.rd&31] = boxed(softfloat.Max32(a, b, fl))
	case riscv.FCVT_S_D:
		h.f[in.rd&31] = boxed(softfloat.F64ToF32(h.f[in.rs1&31], rm, fl))
	case riscv.FCVT_S_W:
		h.f[in.rd&31] = boxed(softfloat.I32ToF32(int32(h.x[in.rs1]), rm, fl))
	case riscv.FCVT_S_WU:
		h.f[in.rd&31] = boxed(softfloat.U32ToF32(uint32(h.x[in.rs1]), rm, fl))
	case riscv.FCVT_S_L:
		h.f[in.rd&31] = boxed(softfloat.I64ToF32(int64(h.x[in.rs1]), rm, fl))
	case riscv.FCVT_S_LU:
		h.f[in.rd&31] = boxed(softfloat.U64ToF32(h.x[in.rs1], rm, fl))
	case riscv.FMV_W_X:
		h.f[in.rd&31] = boxed(uint32(h.x[in.rs1]))
	default:
		h.toInteger32(in, a, b, rm, fl)
		return false
	}
	return true
}

// toInteger32 executes the operations whose result is an integer.
func (h *Hart) toInteger32(in *inst, a, b uint32, rm softfloat.RM, fl *softfloat.Flags) {
	switch in.op {
	case riscv.FEQ_S:
		h.setX(in.rd, b2u(softfloat.Eq32(a, b, fl)))
	case riscv.FLT_S:
		h.setX(in.rd, b2u(softfloat.Lt32(a, b, fl)))
	case riscv.FLE_S:
		h.setX(in.rd, b2u(softfloat.Le32(a, b, fl)))
	case riscv.FCLASS_S:
		h.setX(in.rd, softfloat.Class32(a))
	case riscv.FMV_X_W:
		h.setX(in.rd, sext32(uint32(h.f[in.rs1&31])))
	case riscv.FCVT_W_S:
		h.setX(in.rd, uint64(int64(softfloat.F32ToI32(a, rm, fl))))
	case riscv.FCVT_WU_S:
		h.setX(in.rd, sext32(softfloat.F32ToU32(a, rm, fl)))
	case riscv.FCVT_L_S:
		h.setX(in.rd, uint64(softfloat.F32ToI64(a, rm, fl)))
	case riscv.FCVT_LU_S:
		h.setX(in.rd, softfloat.F32ToU64(a, rm, fl))
	}
}
