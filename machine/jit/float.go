// SPDX-License-Identifier: Apache-2.0

package jit

// FloatLayout tells translated code where floating-point state is.
type FloatLayout struct {
	F, FRM int32 // registers, and the rounding mode: a byte

	// State: Mode is what a block may do now, and WhenDirty what it may while
	// mstatus.FS is Dirty.
	Mode, WhenDirty int32
	Guest, Host     int32 // MXCSR
	WasOn           int32 // the access that missed was among operations that compute
}

// FloatMode says what a block may do with floating point.
type FloatMode uint32

const (
	FloatOff   FloatMode = iota // nothing: the interpreter must
	FloatReady                  // load the guest's MXCSR, which has the rounding mode and no flags
	FloatOn                     // compute
)
