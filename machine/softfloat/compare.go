// SPDX-License-Identifier: Apache-2.0

package softfloat

// FEQ, FLT, FLE, FMIN, FMAX and FCLASS look at the bits: apart from the sign
// a float's bits order as its value does.

func isNaN64(a uint64) bool { return a<<1 > 0x7ff<<53 }
func isNaN32(a uint32) bool { return a<<1 > 0xff<<24 }

func isSignaling64(a uint64) bool { return isNaN64(a) && a>>51&1 == 0 }
func isSignaling32(a uint32) bool { return isNaN32(a) && a>>22&1 == 0 }

// order64 maps floats to integers that order alike, with -0 just below +0.
func order64(a uint64) int64 { return int64(a) ^ int64(uint64(int64(a)>>63)>>1) }
func order32(a uint32) int32 { return int32(a) ^ int32(uint32(int32(a)>>31)>>1) }

// Eq64 reports whether a = b. It is quiet: only a signaling NaN is invalid.
func Eq64(a, b uint64, f *Flags) bool {
	if isNaN64(a) || isNaN64(b) {
		signal(isSignaling64(a) || isSignaling64(b), f)
		return false
	}
	return a == b || (a|b)<<1 == 0
}

// Lt64 reports whether a < b. It is signaling: any NaN is invalid.
func Lt64(a, b uint64, f *Flags) bool {
	if isNaN64(a) || isNaN64(b) {
		*f |= NV
		return false
	}
	return order64(a) < order64(b) && (a|b)<<1 != 0
}

// Le64 reports whether a ≤ b, signaling as Lt64.
func Le64(a, b uint64, f *Flags) bool {
	if isNaN64(a) || isNaN64(b) {
		*f |= NV
		return false
	}
	return order64(a) <= order64(b) || (a|b)<<1 == 0
}

// Min64 is minimumNumber: a NaN loses to a number, and -0 is below +0.
func Min64(a, b uint64, f *Flags) uint64 {
	if isNaN64(a) || isNaN64(b) {
		return number64(a, b, f)
	}
	if order64(a) <= order64(b) {
		return a
	}
	return b
}

// Max64 is maximumNumber.
func Max64(a, b uint64, f *Flags) uint64 {
	if isNaN64(a) || isNaN64(b) {
		return number64(a, b, f)
	}
	if order64(a) >= order64(b) {
		return a
	}
	return b
}

// number64 returns the one of a and b that is a number, if any.
func number64(a, b uint64, f *Flags) uint64 {
	signal(isSignaling64(a) || isSignaling64(b), f)
	switch {
	case !isNaN64(a):
		return a
	case !isNaN64(b):
		return b
	}
	return NaN64
}

// Class64 returns the mask of FCLASS.
func Class64(a uint64) uint64 { return binary64.class(a) }

// Eq32 reports whether a = b, quiet as Eq64.
func Eq32(a, b uint32, f *Flags) bool {
	if isNaN32(a) || isNaN32(b) {
		signal(isSignaling32(a) || isSignaling32(b), f)
		return false
	}
	return a == b || (a|b)<<1 == 0
}

// Lt32 reports whether a < b, signaling as Lt64.
func Lt32(a, b uint32, f *Flags) bool {
	if isNaN32(a) || isNaN32(b) {
		*f |= NV
		return false
	}
	return order32(a) < order32(b) && (a|b)<<1 != 0
}

// Le32 reports whether a ≤ b, signaling as Lt64.
func Le32(a, b uint32, f *Flags) bool {
	if isNaN32(a) || isNaN32(b) {
		*f |= NV
		return false
	}
	return order32(a) <= order32(b) || (a|b)<<1 == 0
}

// Min32 is minimumNumber, as Min64.
func Min32(a, b uint32, f *Flags) uint32 {
	if isNaN32(a) || isNaN32(b) {
		return number32(a, b, f)
	}
	if order32(a) <= order32(b) {
		return a
	}
	return b
}

// Max32 is maximumNumber.
func Max32(a, b uint32, f *Flags) uint32 {
	if isNaN32(a) || isNaN32(b) {
		return number32(a, b, f)
	}
	if order32(a) >= order32(b) {
		return a
	}
	return b
}

func number32(a, b uint32, f *Flags) uint32 {
	signal(isSignaling32(a) || isSignaling32(b), f)
	switch {
	case !isNaN32(a):
		return a
	case !isNaN32(b):
		return b
	}
	return NaN32
}

// Class32 returns the mask of FCLASS.
func Class32(a uint32) uint64 { return binary32.class(uint64(a)) }

func signal(signaling bool, f *Flags) {
	if signaling {
		*f |= NV
	}
}

// class numbers the classes as FCLASS does: 0 is -∞, then upwards to 7, which
// is +∞; 8 is a signaling NaN and 9 a quiet one.
func (w *format) class(a uint64) uint64 {
	mag := a &^ w.sign
	var n uint // away from zero: 0 zero, 1 subnormal, 2 normal, 3 infinity
	switch {
	case mag > w.inf:
		return 1 << (8 + a>>(w.frac-1)&1)
	case mag == w.inf:
		n = 3
	case mag >= 1<<w.frac:
		n = 2
	case mag > 0:
		n = 1
	}
	if a&w.sign != 0 {
		return 1 << (3 - n)
	}
	return 1 << (4 + n)
}
