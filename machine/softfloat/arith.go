// SPDX-License-Identifier: Apache-2.0

package softfloat

import "math/bits"

// invalid is the result of an operation that has none (IEEE 754 §7.2).
func invalid(f *Flags) num {
	*f |= NV
	return num{exp: expQNaN}
}

// nanResult is the result of an operation of which an operand is a NaN.
func nanResult(x, y num, f *Flags) num {
	if x.exp == expSNaN || y.exp == expSNaN {
		*f |= NV
	}
	return num{exp: expQNaN}
}

// cancelled is the exact zero of x - x: positive except when rounding down (IEEE 754 §6.3).
func cancelled(rm RM) num { return num{exp: expZero, neg: rm == RDN} }

func (n num) negated() num {
	n.neg = !n.neg
	return n
}

func add(x, y num, rm RM, f *Flags) num {
	if !x.ordinary() || !y.ordinary() {
		return addRare(x, y, rm, f)
	}
	if x.exp < y.exp || x.exp == y.exp && x.sig < y.sig {
		x, y = y, x
	}
	// The spare bits keep a shift by up to ten exact. A longer one jams, but then
	// at most one leading bit cancels and the jammed bit stays below the half.
	small := shiftJam(y.sig, uint(x.exp-y.exp))
	if x.neg == y.neg {
		return carried(num{x.sig + small, x.exp, x.neg})
	}
	x.sig -= small
	if x.sig == 0 {
		return cancelled(rm)
	}
	shift := bits.LeadingZeros64(x.sig) - 1
	return num{x.sig << shift, x.exp - int32(shift), x.neg}
}

func addRare(x, y num, rm RM, f *Flags) num {
	switch {
	case x.isNaN() || y.isNaN():
		return nanResult(x, y, f)
	case x.isInf() && y.isInf() && x.neg != y.neg:
		return invalid(f)
	case x.isInf() || y.isZero() && !x.isZero():
		return x
	case x.isZero() && y.isZero() && x.neg != y.neg:
		return cancelled(rm)
	}
	return y
}

// carried puts the leading one back in bit 62 after it has moved to bit 63.
func carried(n num) num {
	if n.sig>>63 != 0 {
		n.sig = n.sig>>1 | n.sig&1
		n.exp++
	}
	return n
}

func mul(x, y num, f *Flags) num {
	neg := x.neg != y.neg
	if !x.ordinary() || !y.ordinary() {
		return mulRare(x, y, neg, f)
	}
	// Leading ones in bit 63 give a product with its own in bit 126 or 127.
	hi, lo := bits.Mul64(x.sig<<1, y.sig<<1)
	return carried(num{jam(hi, lo), x.exp + y.exp, neg})
}

func mulRare(x, y num, neg bool, f *Flags) num {
	switch {
	case x.isNaN() || y.isNaN():
		return nanResult(x, y, f)
	case timesUndefined(x, y):
		return invalid(f)
	case x.isInf() || y.isInf():
		return num{exp: expInf, neg: neg}
	}
	return num{exp: expZero, neg: neg}
}

// timesUndefined is true of zero times infinity.
func timesUndefined(x, y num) bool {
	return x.isInf() && y.isZero() || x.isZero() && y.isInf()
}

func div(x, y num, f *Flags) num {
	neg := x.neg != y.neg
	if !x.ordinary() || !y.ordinary() {
		return divRare(x, y, neg, f)
	}
	// The quotient of the significands lies between 1/2 and 2: scale the
	// dividend so that its leading one falls into bit 62.
	e := x.exp - y.exp
	hi, lo := x.sig>>2, x.sig<<62
	if x.sig < y.sig {
		hi, lo = x.sig>>1, x.sig<<63
		e--
	}
	q, rest := bits.Div64(hi, lo, y.sig)
	return num{jam(q, rest), e, neg}
}

func divRare(x, y num, neg bool, f *Flags) num {
	switch {
	case x.isNaN() || y.isNaN():
		return nanResult(x, y, f)
	case x.isInf() && y.isInf(), x.isZero() && y.isZero():
		return invalid(f)
	case y.isZero() && !x.isInf():
		*f |= DZ
		return num{exp: expInf, neg: neg}
	case x.isInf() || y.isZero():
		return num{exp: expInf, neg: neg}
	}
	return num{exp: expZero, neg: neg}
}

func sqrt(x num, f *Flags) num {
	switch {
	case x.isNaN():
		return nanResult(x, x, f)
	case x.isZero():
		return x // also -0 (IEEE 754 §5.4.1)
	case x.neg:
		return invalid(f)
	case x.isInf():
		return x
	}
	// An even exponent halves; m is then the significand in [2^62, 2^64).
	m, e := x.sig, x.exp
	if e&1 != 0 {
		m, e = m<<1, e-1
	}
	r := sqrtScaled(m)
	hi, lo := bits.Mul64(r, r)
	return num{jam(r, hi^m>>2|lo^m<<62), e >> 1, false}
}

// sqrtScaled returns the integer part of the square root of m·2^62. The line
// from (1, 1) to (4, 2) is within 6% of a square root; each of Heron's steps
// squares the relative error and halves it, so four leave less than 2^-80. A
// step never ends below the integer part; it may end one above where m·2^62 is
// one below a square.
func sqrtScaled(m uint64) uint64 {
	hi, lo := m>>2, m<<62
	r := m/3 + 1<<63/3
	for range 4 {
		q, _ := bits.Div64(hi, lo, r)
		r = r&q + (r^q)>>1 // their mean, without the carry
	}
	if h, l := bits.Mul64(r, r); h > hi || h == hi && l > lo {
		r--
	}
	return r
}

// mulAdd is x×y + z, rounded once.
func mulAdd(x, y, z num, rm RM, f *Flags) num {
	if !x.ordinary() || !y.ordinary() || !z.ordinary() {
		return mulAddRare(x, y, z, rm, f)
	}
	// The product is exact in 128 bits, with its leading one in bit 126.
	p := wide{exp: x.exp + y.exp, neg: x.neg != y.neg}
	p.hi, p.lo = bits.Mul64(x.sig<<1, y.sig<<1)
	if p.hi>>63 != 0 {
		p.hi, p.lo, p.exp = p.hi>>1, p.hi<<63|p.lo>>1, p.exp+1
	}
	return addWide(p, wide{hi: z.sig, exp: z.exp, neg: z.neg}, rm)
}

// mulAddRare leaves to add what is left after the product. Zero times infinity
// is invalid even if the addend is a quiet NaN (F.6).
func mulAddRare(x, y, z num, rm RM, f *Flags) num {
	switch {
	case timesUndefined(x, y):
		return invalid(f)
	case x.isNaN() || y.isNaN() || z.isNaN():
		nanResult(x, y, f)
		return nanResult(z, z, f)
	}
	return add(mul(x, y, f), z, rm, f)
}

// wide is a num of 128 bits, its leading one in bit 126. Products and addends
// have at least twenty spare bits.
type wide struct {
	hi, lo uint64
	exp    int32
	neg    bool
}

// addWide adds as add does.
func addWide(x, y wide, rm RM) num {
	if x.exp < y.exp || x.exp == y.exp && (x.hi < y.hi || x.hi == y.hi && x.lo < y.lo) {
		x, y = y, x
	}
	hi, lo := shiftJamWide(y.hi, y.lo, uint(x.exp-y.exp))
	var carry uint64
	if x.neg == y.neg {
		lo, carry = bits.Add64(x.lo, lo, 0)
		return carried(num{jam(x.hi+hi+carry, lo), x.exp, x.neg})
	}
	lo, carry = bits.Sub64(x.lo, lo, 0)
	hi = x.hi - hi - carry
	if hi|lo == 0 {
		return cancelled(rm)
	}
	e := x.exp
	if hi == 0 { // lo has spare bits still, so the half of it is not 0
		hi, lo, e = lo>>1, lo<<63, e-63
	}
	shift := bits.LeadingZeros64(hi) - 1
	hi = hi<<shift | lo>>(64-shift)
	return num{jam(hi, lo<<shift), e - int32(shift), x.neg}
}

func shiftJamWide(hi, lo uint64, by uint) (uint64, uint64) {
	if by >= 64 {
		return 0, jam(shiftJam(hi, by-64), lo)
	}
	return hi >> by, jam(hi<<(64-by)|lo>>by, lo<<(64-by))
}
