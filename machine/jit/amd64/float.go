// SPDX-License-Identifier: Apache-2.0

package amd64

// Instructions on XMM registers. S32 is single precision, S64 double.
//
// Those with VEX (FMA, and the forms of three operands) clear the upper half of
// a YMM register, the others keep it. Mixing them is free as long as the upper
// halves are zero.

// XX is op dst, src.
func (a *Asm) XX(op SSE, dst, src Xmm) { a.rr(enc(op), S32, Reg(dst), Reg(src)) }

// XM is op dst, m. Logical operations read 16 bytes, aligned.
func (a *Asm) XM(op SSE, dst Xmm, m Mem) { a.rm(enc(op), S32, Reg(dst), m) }

// XXX is dst = x op y (AVX). SQRT and CVT take y and keep x's upper bits.
func (a *Asm) XXX(op SSE, dst, x, y Xmm) { a.vrr(enc(op), S32, Reg(dst), Reg(x), Reg(y)) }

// XXM is dst = x op m (AVX), of any alignment.
func (a *Asm) XXM(op SSE, dst, x Xmm, m Mem) { a.vrm(enc(op), S32, Reg(dst), Reg(x), m) }

// FMA is op dst, x, y, where dst is operand 1: 231 is dst += x × y.
func (a *Asm) FMA(op FMA, s Size, dst, x, y Xmm) { a.vrr(enc(op), s, Reg(dst), Reg(x), Reg(y)) }

// FMAM is op dst, x, m.
func (a *Asm) FMAM(op FMA, s Size, dst, x Xmm, m Mem) { a.vrm(enc(op), s, Reg(dst), Reg(x), m) }

// Compare sets ZF, PF and CF: unordered 111, above 000, below 001, equal 100.
func (a *Asm) Compare(op Compare, x, y Xmm) { a.rr(enc(op), S32, Reg(x), Reg(y)) }

// CompareM compares with memory.
func (a *Asm) CompareM(op Compare, x Xmm, m Mem) { a.rm(enc(op), S32, Reg(x), m) }

// scalar picks the prefix of single (F3) or double (F2).
func scalar(e enc, s Size) enc {
	if s == S32 {
		return e | pF3
	}
	return e | pF2
}

// MovX is movaps dst, src.
func (a *Asm) MovX(dst, src Xmm) { a.rr(opMovaps, S32, Reg(dst), Reg(src)) }

// LoadX is movss or movsd dst, m. It clears the rest of dst.
func (a *Asm) LoadX(s Size, dst Xmm, m Mem) { a.rm(scalar(m0F|0x10, s), S32, Reg(dst), m) }

// StoreX is movss or movsd m, src.
func (a *Asm) StoreX(s Size, m Mem, src Xmm) { a.rm(scalar(m0F|0x11, s), S32, Reg(src), m) }

// MovXR is movd or movq dst, src. It clears the rest of dst.
func (a *Asm) MovXR(s Size, dst Xmm, src Reg) { a.rr(opMovd, s, Reg(dst), src) }

// MovRX is movd or movq dst, src.
func (a *Asm) MovRX(s Size, dst Reg, src Xmm) { a.rr(opMovdOf, s, Reg(src), dst) }

// Extract is dst = the n-th part of src, of 32 or 64 bits (SSE4.1).
func (a *Asm) Extract(s Size, dst Reg, src Xmm, n uint8) {
	a.rr(opPextr, s, Reg(src), dst)
	a.put(uint64(n), 1)
}

// ToFloat converts an integer of size s. It keeps the rest of dst, and so waits
// for dst: clear it first if that matters.
func (a *Asm) ToFloat(op ToFloat, s Size, dst Xmm, src Reg) { a.rr(enc(op), s, Reg(dst), src) }

// ToFloatM converts an integer of size s in memory.
func (a *Asm) ToFloatM(op ToFloat, s Size, dst Xmm, m Mem) { a.rm(enc(op), s, Reg(dst), m) }

// ToInt converts to an integer of size s. What does not fit gives 1 in the
// highest bit alone, and raises Invalid.
func (a *Asm) ToInt(op ToInt, s Size, dst Reg, src Xmm) { a.rr(enc(op), s, dst, Reg(src)) }

// Rounding modes of Round; NoInexact keeps the Inexact flag clear.
const (
	RoundNearest uint8 = iota // ties to even
	RoundDown
	RoundUp
	RoundZero
	RoundMXCSR
	NoInexact uint8 = 8
)

// Round is dst = src rounded to an integer (SSE4.1).
func (a *Asm) Round(op Round, dst, src Xmm, mode uint8) {
	a.rr(enc(op), S32, Reg(dst), Reg(src))
	a.put(uint64(mode), 1)
}

// Clmul is the carry-less product of a half of dst and a half of src (PCLMULQDQ):
// bit 0 of halves picks dst's, bit 4 src's.
func (a *Asm) Clmul(dst, src Xmm, halves uint8) {
	a.rr(opClmul, S32, Reg(dst), Reg(src))
	a.put(uint64(halves), 1)
}

// LdMXCSR sets rounding mode and flags of floating point. Reserved bits fault.
func (a *Asm) LdMXCSR(m Mem) { a.rm(opMXCSR, S32, 2, m) }

// StMXCSR stores them.
func (a *Asm) StMXCSR(m Mem) { a.rm(opMXCSR, S32, 3, m) }
