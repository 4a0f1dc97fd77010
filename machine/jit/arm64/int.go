// SPDX-License-Identifier: Apache-2.0

package arm64

import "math"

// Integer instructions. A method takes S32 and S64 unless it says otherwise; S32
// clears the upper half of its destination.

// alu finds an operation.
func (a *Asm) alu(op ALU) (reg, imm uint32, kind aluKind) {
	if int(op) >= len(alus) {
		a.fail(ErrOp)
		op = 0
	}
	e := &alus[op]
	return e.reg, e.imm, e.kind
}

// RRR is dst = x op y.
func (a *Asm) RRR(op ALU, s Size, dst, x, y Reg) {
	w, _, _ := a.alu(op)
	a.dnm(w|a.sf(s), dst, x, y)
}

// RRS is dst = x op (y shifted by n), n below the size. ADC and SBC have no such
// form, and additions no ROR.
func (a *Asm) RRS(op ALU, s Size, dst, x, y Reg, shift Shift, n uint) {
	w, _, kind := a.alu(op)
	if kind == 0 || shift > ROR || shift == ROR && kind&arithmetic != 0 {
		a.fail(ErrOp)
	}
	a.dnm(w|a.sf(s)|uint32(shift&3)<<22|a.in(n, s.bits())<<10, dst, x, y)
}

// RRX is dst = x op (y extended, then shifted left by n), n up to 4, for ADD,
// ADDS, SUB and SUBS. x may be SP, and so may dst where no flags are set.
func (a *Asm) RRX(op ALU, s Size, dst, x, y Reg, extend Extend, n uint) {
	w, _, kind := a.alu(op)
	if kind&arithmetic == 0 || extend > SXTX {
		a.fail(ErrOp)
	}
	w |= 1<<21 | uint32(extend&7)<<13 | a.in(n, 5)<<10
	a.put(w | a.sf(s) | a.z(y)<<16 | a.sp(x)<<5 | a.spIf(kind&flags == 0, dst))
}

// RRI is dst = x op v. Additions have ±v of 12 bits, or of 24 with the low 12
// zero, and x may be SP, not ZR; others have a bitmask, see Bitmask. dst may be
// SP where no flags are set, and ZR where they are.
func (a *Asm) RRI(op ALU, s Size, dst, x Reg, v int64) {
	_, w, kind := a.alu(op)
	if s == S32 {
		if v < math.MinInt32 || v > math.MaxUint32 {
			a.fail(ErrImm)
		}
		v = int64(int32(v))
	}
	var field, n uint32
	var ok bool
	switch {
	case kind&arithmetic != 0:
		if field, ok = addImm(v); !ok {
			w ^= alus[ADD].imm ^ alus[SUB].imm
			field, ok = addImm(-v)
		}
		n = a.sp(x)
	case kind&logical != 0:
		if kind&inverted != 0 {
			v = ^v
		}
		field, ok = Bitmask(s, uint64(v))
		n = a.z(x)
	default:
		a.fail(ErrOp)
	}
	if !ok {
		a.fail(ErrImm)
	}
	a.put(w | a.sf(s) | field | n<<5 | a.spIf(kind&flags == 0, dst))
}

// Cmp compares x with y.
func (a *Asm) Cmp(s Size, x, y Reg) { a.RRR(SUBS, s, ZR, x, y) }

// CmpI compares x with v, which must fit as in RRI.
func (a *Asm) CmpI(s Size, x Reg, v int64) { a.RRI(SUBS, s, ZR, x, v) }

// Cmn compares x with -y.
func (a *Asm) Cmn(s Size, x, y Reg) { a.RRR(ADDS, s, ZR, x, y) }

// Tst sets the flags for x & y.
func (a *Asm) Tst(s Size, x, y Reg) { a.RRR(ANDS, s, ZR, x, y) }

// TstI sets the flags for x & v, a bitmask.
func (a *Asm) TstI(s Size, x Reg, v int64) { a.RRI(ANDS, s, ZR, x, v) }

// Mov is dst = src; either may be SP.
func (a *Asm) Mov(s Size, dst, src Reg) {
	if dst == SP || src == SP {
		a.RRI(ADD, s, dst, src, 0)
		return
	}
	a.RRR(ORR, s, dst, ZR, src)
}

// Mvn is dst = ^src.
func (a *Asm) Mvn(s Size, dst, src Reg) { a.RRR(ORN, s, dst, ZR, src) }

// Neg is dst = -src.
func (a *Asm) Neg(s Size, dst, src Reg) { a.RRR(SUB, s, dst, ZR, src) }

// bitfield writes SBFM, UBFM or BFM.
func (a *Asm) bitfield(w uint32, s Size, dst, src Reg, immr, imms uint) {
	a.dnm(w|a.sfN(s)|uint32(immr)<<16|uint32(imms)<<10, dst, src, 0)
}

// Field is op dst, src, lsb, width. The field has at least a bit and lies within
// the register.
func (a *Asm) Field(op Field, s Size, dst, src Reg, lsb, width uint) {
	n := s.bits()
	if op > BFI {
		a.fail(ErrOp)
		return
	}
	if lsb >= n || width == 0 || width > n-lsb {
		a.fail(ErrImm)
		return
	}
	immr, imms := lsb, lsb+width-1
	if op&1 != 0 { // to lsb: rotated right by what is missing to the whole
		immr, imms = (n-lsb)%n, width-1
	}
	a.bitfield(fields[op>>1], s, dst, src, immr, imms)
}

// ShiftI is dst = src op n, n below the size.
func (a *Asm) ShiftI(op Shift, s Size, dst, src Reg, n uint) {
	size := s.bits()
	if n >= size {
		a.fail(ErrImm)
		return
	}
	switch op {
	case LSL:
		a.bitfield(fields[UBFX>>1], s, dst, src, (size-n)%size, size-1-n)
	case LSR:
		a.bitfield(fields[UBFX>>1], s, dst, src, n, size-1)
	case ASR:
		a.bitfield(fields[SBFX>>1], s, dst, src, n, size-1)
	case ROR:
		a.Extr(s, dst, src, src, n)
	default:
		a.fail(ErrOp)
	}
}

// ShiftR is dst = src op count, count modulo the size.
func (a *Asm) ShiftR(op Shift, s Size, dst, src, count Reg) {
	if op > ROR {
		a.fail(ErrOp)
	}
	a.dnm(uint32(LSLV)|uint32(op&3)<<10|a.sf(s), dst, src, count)
}

// Extr is dst = the low part of hi:lo shifted right by n.
func (a *Asm) Extr(s Size, dst, hi, lo Reg, n uint) {
	a.dnm(0x13800000|a.sfN(s)|a.in(n, s.bits())<<10, dst, hi, lo)
}

// MovZX is dst = src's low bits, zero-extended.
func (a *Asm) MovZX(from Size, dst, src Reg) {
	if from < S32 {
		a.Field(UBFX, S32, dst, src, 0, 8<<from)
		return
	}
	a.Mov(from, dst, src)
}

// MovSX is dst = src's low bits, extended by sign to a larger size.
func (a *Asm) MovSX(from, to Size, dst, src Reg) {
	if from >= to {
		a.fail(ErrSize)
		return
	}
	a.Field(SBFX, to, dst, src, 0, from.bits())
}

// Binary is dst = x op y.
func (a *Asm) Binary(op Binary, s Size, dst, x, y Reg) { a.dnm(uint32(op)|a.sf(s), dst, x, y) }

// Unary is dst = op src.
func (a *Asm) Unary(op Unary, s Size, dst, src Reg) {
	w := uint32(op) | a.sf(s)
	if s == S32 && op == REV {
		w = uint32(REV32)
	}
	a.dnm(w, dst, src, 0)
}

// Mul is dst = x × y.
func (a *Asm) Mul(s Size, dst, x, y Reg) { a.MulAdd(MADD, s, dst, x, y, ZR) }

// MulAdd is dst = acc ± x × y.
func (a *Asm) MulAdd(op MulAdd, s Size, dst, x, y, acc Reg) {
	if op != MADD && op != MSUB && s != S64 {
		a.fail(ErrSize)
	}
	a.dnm(uint32(op)|a.sf(s)|a.z(acc)<<10, dst, x, y)
}

// MulHigh is dst = the upper 64 bits of x × y.
func (a *Asm) MulHigh(op MulHigh, dst, x, y Reg) { a.dnm(uint32(op), dst, x, y) }

// Select is dst = x if c holds, or else what op makes of y.
func (a *Asm) Select(op Select, s Size, c Cond, dst, x, y Reg) {
	if c > AL {
		a.fail(ErrCond)
	}
	a.dnm(uint32(op)|a.sf(s)|uint32(c&15)<<12, dst, x, y)
}

// Set is dst = 1 if c holds, or else 0.
func (a *Asm) Set(c Cond, dst Reg) { a.dnm(uint32(CSINC)|a.cond(c.Not())<<12, dst, ZR, ZR) }

// SetMask is dst = all ones if c holds, or else 0.
func (a *Asm) SetMask(s Size, c Cond, dst Reg) {
	a.dnm(uint32(CSINV)|a.sf(s)|a.cond(c.Not())<<12, dst, ZR, ZR)
}

// Ccmp compares x with y if c holds, or else sets the flags to nzcv.
func (a *Asm) Ccmp(s Size, c Cond, x, y Reg, nzcv uint) {
	if c > AL {
		a.fail(ErrCond)
	}
	a.put(0x7a400000 | a.sf(s) | a.z(y)<<16 | uint32(c&15)<<12 | a.z(x)<<5 | a.in(nzcv, 16))
}

// CcmpI compares x with v, -31 to 31, if c holds, or else sets the flags to nzcv.
func (a *Asm) CcmpI(s Size, c Cond, x Reg, v int, nzcv uint) {
	w := uint32(0x7a400800)
	if v < 0 {
		w, v = 0x3a400800, -v
	}
	if c > AL {
		a.fail(ErrCond)
	}
	a.put(w | a.sf(s) | a.in(uint(v), 32)<<16 | uint32(c&15)<<12 | a.z(x)<<5 | a.in(nzcv, 16))
}

// Mrs is dst = r.
func (a *Asm) Mrs(dst Reg, r Sys) { a.put(uint32(r) | 1<<21 | a.z(dst)) }

// Msr is r = src.
func (a *Asm) Msr(r Sys, src Reg) { a.put(uint32(r) | a.z(src)) }

// Dmb orders accesses to memory.
func (a *Asm) Dmb(b Barrier) { a.put(0xd50330bf | uint32(b&15)<<8) }

// Isb makes what follows be fetched anew.
func (a *Asm) Isb() { a.put(0xd5033fdf) }

// Nop does nothing.
func (a *Asm) Nop() { a.put(0xd503201f) }

// Brk traps to a debugger.
func (a *Asm) Brk(n uint16) { a.put(0xd4200000 | uint32(n)<<5) }

// Udf is an illegal instruction, for what cannot be reached.
func (a *Asm) Udf(n uint16) { a.put(uint32(n)) }
