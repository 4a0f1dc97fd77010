// SPDX-License-Identifier: Apache-2.0

// Package softfloat is IEEE 754 binary32 and binary64 in integer arithmetic,
// with the choices that RISC-V makes (Unprivileged ISA, chapters F and D).
//
// Numbers are passed as their bits, so that a NaN keeps its payload and no
// compiler gets to fuse or reorder anything. Every operation is three steps:
//
//	bits ──unpack──► num ──add, mul, div, …──► num ──round──► bits, flags
//
// A num holds a value of either width, normalised, with at least ten spare bits
// below the last place; whatever an operation can't keep is or-ed into the
// lowest bit ("jammed"), which is all that rounding needs to know. So each
// operation is written once for both widths, and only unpack and round know
// what a float looks like.
//
// RISC-V's choices: a NaN result is always the canonical NaN; tininess is
// detected after rounding; conversions to integers saturate, and NaN converts
// to the largest; min and max are IEEE 754-2019 minimumNumber and maximumNumber.
//
// Flags accumulate as in the fflags CSR: an operation only ever sets them.
// Once NX is set the host's own arithmetic gives most results; host.go argues
// why that can't be told apart.
package softfloat

import "math/bits"

// RM is a rounding mode in the encoding of the rm field and the frm CSR. The
// caller resolves DYN and traps on the reserved values; here they truncate.
type RM uint8

const (
	RNE RM = iota // to nearest, ties to even
	RTZ           // towards zero
	RDN           // down
	RUP           // up
	RMM           // to nearest, ties to max magnitude
)

// Flags are the accrued exceptions in the layout of the fflags CSR.
type Flags uint8

const (
	NX Flags = 1 << iota // inexact
	UF                   // underflow
	OF                   // overflow
	DZ                   // divide by zero
	NV                   // invalid operation
)

// The canonical NaNs: positive, quiet, no payload.
const (
	NaN32 uint32 = 0x7fc00000
	NaN64 uint64 = 0x7ff8000000000000
)

// num is an unpacked number: (-1)^neg × sig × 2^(exp-62), where sig has its
// leading one in bit 62. Zero, infinity and NaN have the exponents below, out
// of reach of any product or quotient, and a sig of 0.
type num struct {
	sig uint64
	exp int32
	neg bool
}

const (
	expZero int32 = -1 << 20
	expInf  int32 = 1 << 20
	expQNaN       = expInf + 1
	expSNaN       = expInf + 2
)

// ordinary is true of finite numbers other than zero.
func (n num) ordinary() bool { return uint32(n.exp-expZero-1) < uint32(expInf-expZero-1) }
func (n num) isZero() bool   { return n.exp == expZero }
func (n num) isInf() bool    { return n.exp == expInf }
func (n num) isNaN() bool    { return n.exp > expInf }

// format describes an interchange format (IEEE 754 §3.4). Floats of either
// width are handled in the low bits of a uint64.
type format struct {
	frac uint   // width of the fraction
	bias int32  // of the exponent; also the largest exponent
	inf  uint64 // infinity: the exponent field all ones
	sign uint64 // the sign bit
	nan  uint64 // the canonical NaN
}

var (
	binary32 = format{frac: 23, bias: 127, inf: 0xff << 23, sign: 1 << 31, nan: uint64(NaN32)}
	binary64 = format{frac: 52, bias: 1023, inf: 0x7ff << 52, sign: 1 << 63, nan: NaN64}
)

func unpack64(a uint64) num {
	e := int32(a>>52) & 0x7ff
	if uint32(e-1) >= 0x7fe {
		return binary64.unpackRare(a)
	}
	return num{(a&(1<<52-1) | 1<<52) << 10, e - 1023, a>>63 != 0}
}

func unpack32(a uint32) num {
	e := int32(a>>23) & 0xff
	if uint32(e-1) >= 0xfe {
		return binary32.unpackRare(uint64(a))
	}
	return num{uint64(a&(1<<23-1)|1<<23) << 39, e - 127, a>>31 != 0}
}

// unpackRare unpacks what has an exponent field of all zeros or all ones.
func (w *format) unpackRare(a uint64) num {
	neg := a&w.sign != 0
	frac := a & (1<<w.frac - 1)
	quiet := a>>(w.frac-1)&1 != 0
	switch {
	case a&w.inf != 0 && frac == 0:
		return num{exp: expInf, neg: neg}
	case a&w.inf != 0 && quiet:
		return num{exp: expQNaN, neg: neg}
	case a&w.inf != 0:
		return num{exp: expSNaN, neg: neg}
	case frac == 0:
		return num{exp: expZero, neg: neg}
	}
	shift := bits.LeadingZeros64(frac) - 1
	unit := 1 - w.bias - int32(w.frac) // the exponent of the smallest subnormal
	return num{frac << shift, unit + 62 - int32(shift), neg}
}

func round64(n num, rm RM, f *Flags) uint64 {
	const drop = 62 - 52
	e := n.exp + 1023
	if uint32(e-1) >= 2045 {
		return binary64.roundRare(n, rm, f)
	}
	v := uint64(e-1)<<52 + roundAt(n.sig, drop, n.neg, rm)
	if n.sig&(1<<drop-1) != 0 {
		*f |= NX
	}
	if n.neg {
		v |= 1 << 63
	}
	return v
}

func round32(n num, rm RM, f *Flags) uint32 {
	const drop = 62 - 23
	e := n.exp + 127
	if uint32(e-1) >= 253 {
		return uint32(binary32.roundRare(n, rm, f))
	}
	v := uint32(e-1)<<23 + uint32(roundAt(n.sig, drop, n.neg, rm))
	if n.sig&(1<<drop-1) != 0 {
		*f |= NX
	}
	if n.neg {
		v |= 1 << 31
	}
	return v
}

// roundRare rounds what is not an ordinary number, or may underflow or
// overflow. As in round64 the leading one of the significand is added to the
// exponent field less one, so that a carry, and a subnormal's lack of the
// leading one, put the exponent right by themselves.
func (w *format) roundRare(n num, rm RM, f *Flags) uint64 {
	var sign uint64
	if n.neg {
		sign = w.sign
	}
	switch {
	case n.isZero():
		return sign
	case n.isInf():
		return sign | w.inf
	case n.isNaN():
		return w.nan
	}
	drop := 62 - w.frac
	sig, e := n.sig, n.exp+w.bias
	tiny := false
	if e < 1 {
		// After rounding (F.2): tiny unless rounding as if the exponent had no
		// lower bound carries up to the smallest normal number.
		tiny = e < 0 || roundAt(sig, drop, n.neg, rm)>>(w.frac+1) == 0
		sig, e = shiftJam(sig, uint(1-e)), 1
	}
	v := uint64(e-1)<<w.frac + roundAt(sig, drop, n.neg, rm)
	if v >= w.inf {
		*f |= OF | NX
		return sign | w.overflow(n.neg, rm)
	}
	if sig&(1<<drop-1) != 0 {
		*f |= NX
		if tiny {
			*f |= UF
		}
	}
	return sign | v
}

// overflow is the magnitude that stands for one too large: infinity, or the
// largest finite number where the mode rounds towards zero (IEEE 754 §7.4).
func (w *format) overflow(neg bool, rm RM) uint64 {
	if rm == RNE || rm == RMM || rm == RUP && !neg || rm == RDN && neg {
		return w.inf
	}
	return w.inf - 1
}

// roundAt drops the low bits of sig. sig is below 2^63, so it can't overflow.
func roundAt(sig uint64, drop uint, neg bool, rm RM) uint64 {
	drop &= 63
	half := uint64(1) << (drop - 1)
	switch {
	case rm == RNE: // the last kept bit breaks a tie
		return (sig + half - 1 + sig>>drop&1) >> drop
	case rm == RMM:
		return (sig + half) >> drop
	case rm == RDN && neg, rm == RUP && !neg:
		return (sig + 2*half - 1) >> drop
	}
	return sig >> drop
}

// shiftJam shifts right by any distance and keeps the knowledge of lost ones in bit 0.
func shiftJam(v uint64, by uint) uint64 {
	if by >= 64 {
		return jam(0, v)
	}
	return jam(v>>by, v<<(64-by))
}

// jam sets bit 0 of v if anything was lost.
func jam(v, lost uint64) uint64 {
	if lost != 0 {
		v |= 1
	}
	return v
}
