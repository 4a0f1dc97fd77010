// SPDX-License-Identifier: Apache-2.0

package softfloat

import "math/rand/v2"

// operands are one record of testdata/oracle.c.
type operands struct {
	A, B, C uint64
	I       int64
	S, T, U uint32
	Pad     uint32
}

// generator draws operands that are hard to get right.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, 0x5eed))}
}

func (g generator) operands() operands {
	a, b, c := g.three(&binary64)
	s, t, u := g.three(&binary32)
	o := operands{A: a, B: b, C: c, I: g.integer(), S: uint32(s), T: uint32(t), U: uint32(u)}
	if g.IntN(4) == 0 { // hard to narrow
		o.A = g.narrowing()
	}
	return o
}

// three draws operands of one width that have something to do with each other.
func (g generator) three(w *format) (a, b, c uint64) {
	a, b, c = g.float(w), g.float(w), g.float(w)
	switch g.IntN(8) {
	case 0: // sums that cancel, quotients next to 1
		b = g.nearby(w, a)
	case 1: // results around the smallest normal number and below
		b = w.make(g.Uint64(), 1-w.exponent(a)+g.int32n(-70, 5), g.fraction(w))
	case 2: // quotients there
		a = w.make(g.Uint64(), g.int32n(1, 40), g.fraction(w))
		b = w.make(g.Uint64(), w.exponent(a)+w.bias-1+g.int32n(-5, 30), g.fraction(w))
	case 3: // results around the largest
		b = w.make(g.Uint64(), 3*w.bias+g.int32n(-3, 3)-w.exponent(a), g.fraction(w))
	}
	switch g.IntN(4) {
	case 0: // a×b + c that cancels nearly or wholly
		var f Flags
		product := w.roundRare(mul(w.unpack(a), w.unpack(b), &f), RTZ, &f)
		c = g.nearby(w, product^w.sign)
	case 1: // that nearly misses: c about one precision below or above a×b
		e := w.exponent(a) + w.exponent(b) - w.bias
		c = w.make(g.Uint64(), e+g.int32n(-60, 60), g.fraction(w))
	}
	if g.IntN(16) == 0 { // roots that are exact or just not
		var f Flags
		a = g.nearby(w, w.roundRare(mul(w.unpack(b), w.unpack(b), &f), RTZ, &f))
	}
	return a, b, c
}

// float draws one float of any kind.
func (g generator) float(w *format) uint64 {
	one := uint64(w.bias) << w.frac
	edges := []uint64{
		0, 1, 2, 1<<w.frac - 1, 1 << w.frac, 1<<w.frac + 1, // to the smallest normal number
		one, one - 1, one + 1, one - 1<<w.frac, one + 1<<w.frac, one + 1<<(w.frac-1), // 1/2, 1, 3/2, 2
		w.inf - 1, w.inf - 2, w.inf - 1<<w.frac, w.inf,
		w.inf + 1, w.nan - 1, w.nan, w.nan + 1, w.sign - 1, // NaNs, two of them signaling
	}
	sign := g.Uint64() & w.sign
	switch g.IntN(8) {
	case 0, 1:
		return sign | edges[g.IntN(len(edges))]
	case 2: // any bits
		return sign | g.Uint64()&(w.sign-1)
	case 3: // subnormal
		return sign | g.fraction(w)>>g.IntN(int(w.frac))
	case 4: // about the limits of integers
		limit := []int32{31, 32, 63, 64}[g.IntN(4)]
		return g.nearby(w, sign|uint64(w.bias+limit)<<w.frac)
	case 5: // an integer, or an integer and a half
		return sign | w.roundRare(fromUnsigned(uint64(g.integer())), RTZ, new(Flags)) - uint64(g.IntN(3))<<w.frac
	}
	return w.make(sign, w.bias+g.int32n(-40, 70), g.fraction(w))
}

// nearby draws a float a few units in the last place away, with either sign.
func (g generator) nearby(w *format, a uint64) uint64 {
	a += uint64(g.IntN(7)) - 3
	return (a ^ g.Uint64()&w.sign) & (w.sign<<1 - 1)
}

// narrowing draws a binary64 next to a binary32, or to the middle of two.
func (g generator) narrowing() uint64 {
	a := binary64.make(g.Uint64(), 1023+g.int32n(-155, 132), g.Uint64())
	a = a&^(1<<28-1) | uint64(g.IntN(2))<<28
	return a + uint64(g.IntN(3)) - 1
}

// fraction draws fraction bits that are random, or few ones, or few zeros.
func (g generator) fraction(w *format) uint64 {
	v := g.Uint64()
	switch g.IntN(4) {
	case 0:
		v = 1<<g.IntN(64) | 1<<g.IntN(64)
	case 1:
		v = ^(1<<g.IntN(64) | 1<<g.IntN(64))
	case 2:
		v = ^uint64(0) << g.IntN(int(w.frac))
	}
	return v & (1<<w.frac - 1)
}

// integer draws any magnitude, often next to a power of two or to a tie.
func (g generator) integer() int64 {
	v := g.Uint64() >> g.IntN(64)
	if g.IntN(3) == 0 {
		v = 1<<g.IntN(64) + 1<<g.IntN(64) + uint64(g.IntN(3)) - 1
	}
	if g.IntN(2) == 0 {
		v = -v
	}
	return int64(v)
}

func (g generator) int32n(low, high int32) int32 { return low + g.Int32N(high-low+1) }

// make builds a finite float; the exponent field is clamped.
func (w *format) make(sign uint64, exponent int32, fraction uint64) uint64 {
	exponent = max(0, min(exponent, 2*w.bias))
	return sign&w.sign | uint64(exponent)<<w.frac | fraction&(1<<w.frac-1)
}

func (w *format) exponent(a uint64) int32 {
	return int32(a & (w.sign - 1) >> w.frac)
}

func (w *format) unpack(a uint64) num {
	if w == &binary64 {
		return unpack64(a)
	}
	return unpack32(uint32(a))
}
