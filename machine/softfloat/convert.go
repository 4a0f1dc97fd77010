// SPDX-License-Identifier: Apache-2.0

package softfloat

import "math/bits"

// The FCVT instructions. Those to 32-bit integers sign-extend the result into
// the register, unsigned ones too; that is left to the caller.

// F32ToF64 widens; only a signaling NaN raises a flag.
func F32ToF64(a uint32, f *Flags) uint64 {
	if e := a >> 23 & 0xff; e-1 < 0xfe { // normal: only the bias differs
		return uint64(a>>31)<<63 | uint64(a&(1<<31-1))<<29 + (1023-127)<<52
	}
	return round64(quieted(unpack32(a), f), RNE, f)
}

// F64ToF32 narrows.
func F64ToF32(a uint64, rm RM, f *Flags) uint32 {
	if hostMay(rm, *f) {
		if r := hostF64ToF32(a); settled32(r) {
			return r
		}
	}
	return round32(quieted(unpack64(a), f), rm, f)
}

func quieted(n num, f *Flags) num {
	if n.isNaN() {
		return nanResult(n, n, f)
	}
	return n
}

func F64ToI32(a uint64, rm RM, f *Flags) int32 {
	if i, ok := hostTruncate(f64(a), rm, *f); ok && i == int64(int32(i)) {
		return int32(i)
	}
	return int32(toSigned(unpack64(a), 32, rm, f))
}

func F64ToI64(a uint64, rm RM, f *Flags) int64 {
	if i, ok := hostTruncate(f64(a), rm, *f); ok {
		return i
	}
	return toSigned(unpack64(a), 64, rm, f)
}

func F32ToI32(a uint32, rm RM, f *Flags) int32 {
	if i, ok := hostTruncate(float64(f32(a)), rm, *f); ok && i == int64(int32(i)) {
		return int32(i)
	}
	return int32(toSigned(unpack32(a), 32, rm, f))
}

func F32ToI64(a uint32, rm RM, f *Flags) int64 {
	if i, ok := hostTruncate(float64(f32(a)), rm, *f); ok {
		return i
	}
	return toSigned(unpack32(a), 64, rm, f)
}

func F64ToU32(a uint64, rm RM, f *Flags) uint32 { return uint32(toUnsigned(unpack64(a), 32, rm, f)) }
func F64ToU64(a uint64, rm RM, f *Flags) uint64 { return toUnsigned(unpack64(a), 64, rm, f) }
func F32ToU32(a uint32, rm RM, f *Flags) uint32 { return uint32(toUnsigned(unpack32(a), 32, rm, f)) }
func F32ToU64(a uint32, rm RM, f *Flags) uint64 { return toUnsigned(unpack32(a), 64, rm, f) }

// I32ToF64 is always exact.
func I32ToF64(i int32) uint64 { return round64(fromSigned(int64(i)), RNE, new(Flags)) }

// U32ToF64 is always exact.
func U32ToF64(u uint32) uint64 { return round64(fromUnsigned(uint64(u)), RNE, new(Flags)) }

func I64ToF64(i int64, rm RM, f *Flags) uint64  { return round64(fromSigned(i), rm, f) }
func U64ToF64(u uint64, rm RM, f *Flags) uint64 { return round64(fromUnsigned(u), rm, f) }

func I32ToF32(i int32, rm RM, f *Flags) uint32  { return round32(fromSigned(int64(i)), rm, f) }
func U32ToF32(u uint32, rm RM, f *Flags) uint32 { return round32(fromUnsigned(uint64(u)), rm, f) }
func I64ToF32(i int64, rm RM, f *Flags) uint32  { return round32(fromSigned(i), rm, f) }
func U64ToF32(u uint64, rm RM, f *Flags) uint32 { return round32(fromUnsigned(u), rm, f) }

// toSigned converts to an integer of width 32 or 64, saturating as in the table
// "Domains of float-to-integer conversions" (F.7). What does not fit after
// rounding is invalid and nothing else; a NaN counts as too large.
func toSigned(n num, width uint, rm RM, f *Flags) int64 {
	limit := uint64(1) << (width - 1)
	mag, inexact, fits := n.integer(rm)
	switch {
	case n.isNaN(), !n.neg && (!fits || mag >= limit):
		*f |= NV
		return int64(limit - 1)
	case n.neg && (!fits || mag > limit):
		*f |= NV
		return -int64(limit)
	}
	*f |= inexact
	if n.neg {
		return -int64(mag)
	}
	return int64(mag)
}

// toUnsigned is toSigned for unsigned integers: below zero is 0.
func toUnsigned(n num, width uint, rm RM, f *Flags) uint64 {
	largest := ^uint64(0) >> (64 - width)
	mag, inexact, fits := n.integer(rm)
	switch {
	case n.isNaN(), !n.neg && (!fits || mag > largest):
		*f |= NV
		return largest
	case n.neg && (!fits || mag != 0):
		*f |= NV
		return 0
	}
	*f |= inexact
	return mag
}

// integer rounds the magnitude of n to an integer. inexact is NX or nothing;
// what does not fit 64 bits is neither.
func (n num) integer(rm RM) (mag uint64, inexact Flags, fits bool) {
	switch {
	case n.exp > 63:
		return 0, 0, false
	case n.exp == 63:
		return n.sig << 1, 0, true
	case n.exp == 62:
		return n.sig, 0, true
	}
	sig, drop := n.sig, uint(62-n.exp)
	if drop > 63 { // all between 0 and 1/2 round alike: take 1/4
		sig, drop = jam(0, n.sig), 2
	}
	if sig&(1<<drop-1) != 0 {
		inexact = NX
	}
	return roundAt(sig, drop, n.neg, rm), inexact, true
}

func fromSigned(i int64) num {
	if i < 0 {
		return fromUnsigned(uint64(-i)).negated()
	}
	return fromUnsigned(uint64(i))
}

func fromUnsigned(u uint64) num {
	if u == 0 {
		return num{exp: expZero}
	}
	if u>>63 != 0 {
		return num{u>>1 | u&1, 63, false}
	}
	shift := bits.LeadingZeros64(u) - 1
	return num{u << shift, 62 - int32(shift), false}
}
