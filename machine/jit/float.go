// SPDX-License-Identifier: Apache-2.0

package jit

import "tandem/machine/riscv"

// FloatLayout tells translated code where floating-point state is.
type FloatLayout struct {
	F, FRM int32 // registers, and the rounding mode: a byte

	// State: Mode is what a block may do now, and WhenDirty what it may while
	// mstatus.FS is Dirty.
	Mode, WhenDirty int32
	Guest, Host     int32 // see native.Float
	WasOn           int32 // the access that missed was among operations that compute
}

// FloatMode says what a block may do with floating point.
type FloatMode uint32

const (
	FloatOff   FloatMode = iota // nothing: the interpreter must
	FloatReady                  // load Guest, which has the rounding mode and no flags, and be On
	FloatOn                     // compute
)

// float is how much of the floating-point state a block may use.
type float uint8

const (
	unchecked float = iota
	registers       // f
	computing       // rounding and flags too
)

// Rounding modes (Unpriv. 20.2).
const (
	rtz = 1
	rmm = 4
	dyn = 7
)

// noMode is no rounding mode.
const noMode = 0xff

// doubles has operations on singles with those on doubles that do the same.
var doubles = map[riscv.Op]riscv.Op{
	riscv.FMADD_S: riscv.FMADD_D, riscv.FMSUB_S: riscv.FMSUB_D, riscv.FNMSUB_S: riscv.FNMSUB_D, riscv.FNMADD_S: riscv.FNMADD_D,
	riscv.FADD_S: riscv.FADD_D, riscv.FSUB_S: riscv.FSUB_D, riscv.FMUL_S: riscv.FMUL_D, riscv.FDIV_S: riscv.FDIV_D, riscv.FSQRT_S: riscv.FSQRT_D,
	riscv.FSGNJ_S: riscv.FSGNJ_D, riscv.FSGNJN_S: riscv.FSGNJN_D, riscv.FSGNJX_S: riscv.FSGNJX_D,
	riscv.FMIN_S: riscv.FMIN_D, riscv.FMAX_S: riscv.FMAX_D, riscv.FEQ_S: riscv.FEQ_D, riscv.FLT_S: riscv.FLT_D, riscv.FLE_S: riscv.FLE_D,
	riscv.FCLASS_S: riscv.FCLASS_D, riscv.FMV_X_W: riscv.FMV_X_D, riscv.FMV_W_X: riscv.FMV_D_X, riscv.FLW: riscv.FLD, riscv.FSW: riscv.FSD,
	riscv.FCVT_W_S: riscv.FCVT_W_D, riscv.FCVT_WU_S: riscv.FCVT_WU_D, riscv.FCVT_L_S: riscv.FCVT_L_D, riscv.FCVT_LU_S: riscv.FCVT_LU_D,
	riscv.FCVT_S_W: riscv.FCVT_D_W, riscv.FCVT_S_WU: riscv.FCVT_D_WU, riscv.FCVT_S_L: riscv.FCVT_D_L, riscv.FCVT_S_LU: riscv.FCVT_D_LU,
}

// usesRegisters reports whether an operation neither rounds nor raises flags.
func usesRegisters(op riscv.Op) bool {
	switch op {
	case riscv.FLD, riscv.FSD, riscv.FMV_X_D, riscv.FMV_D_X, riscv.FSGNJ_D, riscv.FSGNJN_D, riscv.FSGNJX_D, riscv.FCLASS_D:
		return true
	}
	return false
}
