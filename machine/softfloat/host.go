// SPDX-License-Identifier: Apache-2.0

package softfloat

import "math"

// The host's arithmetic where it can't be told apart from the integer path.
//
// Bits: IEEE 754 defines one result for +, -, ×, ÷, √ and fused multiply-add in
// RNE, unless it is a NaN. amd64 and arm64 both implement it, and Go computes in
// RNE without flush-to-zero; native code that changes MXCSR or FPCR restores it
// before it returns to Go. The language lets the compiler fuse x*y into a
// following addition unless a conversion stands between (Go spec, "Floating-point
// operators"); every operation here is inside one.
//
// Flags: the only flag that is hard to know is NX, so we ask only when it is set
// already, which in a program that computes with fractions is nearly always.
// For the others we look at the result. One with a biased exponent from 2 to
// the largest finite one
//   - is not a NaN, so nothing was invalid;
//   - is not infinite, so nothing overflowed, was divided by zero, or came from
//     an infinity or NaN without a trace (x/∞ is 0);
//   - is at least twice the smallest normal number, so it was not tiny, before
//     rounding or after.
//
// Any other result is thrown away, and the integer path computes it again.

// hostMay reports whether the flags can be told from a host's result.
func hostMay(rm RM, f Flags) bool { return rm == RNE && f&NX != 0 }

// settled64 reports whether a result of the host shows that no flag but NX was raised.
func settled64(r uint64) bool { return r>>52&0x7ff-2 < 0x7ff-2 }

// settled32 is settled64 for binary32.
func settled32(r uint32) bool { return r>>23&0xff-2 < 0xff-2 }

func f64(a uint64) float64 { return math.Float64frombits(a) }
func f32(a uint32) float32 { return math.Float32frombits(a) }

func hostAdd64(a, b uint64) uint64 { return math.Float64bits(float64(f64(a) + f64(b))) }
func hostSub64(a, b uint64) uint64 { return math.Float64bits(float64(f64(a) - f64(b))) }
func hostMul64(a, b uint64) uint64 { return math.Float64bits(float64(f64(a) * f64(b))) }
func hostDiv64(a, b uint64) uint64 { return math.Float64bits(float64(f64(a) / f64(b))) }
func hostSqrt64(a uint64) uint64   { return math.Float64bits(math.Sqrt(f64(a))) }

func hostMulAdd64(a, b, c uint64) uint64 { return math.Float64bits(math.FMA(f64(a), f64(b), f64(c))) }

func hostAdd32(a, b uint32) uint32 { return math.Float32bits(float32(f32(a) + f32(b))) }
func hostSub32(a, b uint32) uint32 { return math.Float32bits(float32(f32(a) - f32(b))) }
func hostMul32(a, b uint32) uint32 { return math.Float32bits(float32(f32(a) * f32(b))) }
func hostDiv32(a, b uint32) uint32 { return math.Float32bits(float32(f32(a) / f32(b))) }

// hostSqrt32 rounds twice if the compiler has no binary32 square root. That
// changes nothing, for 53 ≥ 2×24+2 (Figueroa, "When is double rounding innocuous?").
func hostSqrt32(a uint32) uint32 { return math.Float32bits(float32(math.Sqrt(float64(f32(a))))) }

// hostMulAdd32 computes in binary64, where the product of two 24-bit
// significands is exact, and rounds the sum twice. The first rounding can move
// it onto the midpoint of two binary32 numbers but not across one, so only a
// sum on a midpoint is in doubt.
func hostMulAdd32(a, b, c uint32) (r uint32, ok bool) {
	product := float64(float64(f32(a)) * float64(f32(b)))
	sum := float64(product + float64(f32(c)))
	const dropped = 52 - 23
	ok = math.Float64bits(sum)&(1<<dropped-1) != 1<<(dropped-1)
	return math.Float32bits(float32(sum)), ok
}

// hostF64ToF32 rounds to binary32.
func hostF64ToF32(a uint64) uint32 { return math.Float32bits(float32(f64(a))) }

// hostTruncate converts as C does, in RTZ. Below 2^62 the Go spec defines the
// result, and with NX set there is nothing else to raise; a NaN is not below.
func hostTruncate(x float64, rm RM, f Flags) (i int64, ok bool) {
	if rm != RTZ || f&NX == 0 || !(math.Abs(x) < 1<<62) {
		return 0, false
	}
	return int64(x), true
}
