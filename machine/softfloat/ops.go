// SPDX-License-Identifier: Apache-2.0

package softfloat

// The arithmetic instructions: FADD, FSUB, FMUL, FDIV, FSQRT and FMADD, of which
// the caller makes FMSUB, FNMADD and FNMSUB by flipping signs (flipping the sign
// of a NaN changes nothing, for a NaN result has no sign).

// Add64 returns a + b.
func Add64(a, b uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostAdd64(a, b); settled64(r) {
			return r
		}
	}
	return round64(add(unpack64(a), unpack64(b), rm, f), rm, f)
}

// Sub64 returns a - b.
func Sub64(a, b uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostSub64(a, b); settled64(r) {
			return r
		}
	}
	return round64(add(unpack64(a), unpack64(b).negated(), rm, f), rm, f)
}

// Mul64 returns a × b.
func Mul64(a, b uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostMul64(a, b); settled64(r) {
			return r
		}
	}
	return round64(mul(unpack64(a), unpack64(b), f), rm, f)
}

// Div64 returns a / b.
func Div64(a, b uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostDiv64(a, b); settled64(r) {
			return r
		}
	}
	return round64(div(unpack64(a), unpack64(b), f), rm, f)
}

// Sqrt64 returns the square root of a.
func Sqrt64(a uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostSqrt64(a); settled64(r) {
			return r
		}
	}
	return round64(sqrt(unpack64(a), f), rm, f)
}

// MulAdd64 returns a × b + c, rounded once.
func MulAdd64(a, b, c uint64, rm RM, f *Flags) uint64 {
	if hostMay(rm, *f) {
		if r := hostMulAdd64(a, b, c); settled64(r) {
			return r
		}
	}
	return round64(mulAdd(unpack64(a), unpack64(b), unpack64(c), rm, f), rm, f)
}

// Add32 returns a + b.
func Add32(a, b uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostAdd32(a, b); settled32(r) {
			return r
		}
	}
	return round32(add(unpack32(a), unpack32(b), rm, f), rm, f)
}

// Sub32 returns a - b.
func Sub32(a, b uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostSub32(a, b); settled32(r) {
			return r
		}
	}
	return round32(add(unpack32(a), unpack32(b).negated(), rm, f), rm, f)
}

// Mul32 returns a × b.
func Mul32(a, b uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostMul32(a, b); settled32(r) {
			return r
		}
	}
	return round32(mul(unpack32(a), unpack32(b), f), rm, f)
}

// Div32 returns a / b.
func Div32(a, b uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostDiv32(a, b); settled32(r) {
			return r
		}
	}
	return round32(div(unpack32(a), unpack32(b), f), rm, f)
}

// Sqrt32 returns the square root of a.
func Sqrt32(a uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostSqrt32(a); settled32(r) {
			return r
		}
	}
	return round32(sqrt(unpack32(a), f), rm, f)
}

// MulAdd32 returns a × b + c, rounded once.
func MulAdd32(a, b, c uint32, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r, ok := hostMulAdd32(a, b, c); ok && settled32(r) {
			return r
		}
	}
	return round32(mulAdd(unpack32(a), unpack32(b), unpack32(c), rm, f), rm, f)
}
