// SPDX-License-Identifier: Apache-2.0

package amd64

// Integer instructions. A method takes S32 and S64 unless it says otherwise;
// "any size" includes S8 and S16, which leave the rest of a destination register
// as it was. S32 clears the upper half.

// Mov is mov dst, src, of any size.
func (a *Asm) Mov(s Size, dst, src Reg) { a.storeRR(opStore, s, dst, src) }

// Load is mov dst, m, of any size; see LoadZX and LoadSX.
func (a *Asm) Load(s Size, dst Reg, m Mem) { a.sizedM(opLoad, s, dst, m) }

// Store is mov m, src, of any size.
func (a *Asm) Store(s Size, m Mem, src Reg) { a.sizedM(opStore, s, src, m) }

// StoreImm is mov m, v, of any size.
func (a *Asm) StoreImm(s Size, m Mem, v int32) {
	a.rm(sized(opStoreImm, s), s, 0, m)
	a.imm(s, v)
}

// MovImm sets dst to v in the shortest way. Zero clobbers the flags.
func (a *Asm) MovImm(dst Reg, v uint64) {
	if v == 0 {
		a.RR(XOR, S32, dst, dst)
		return
	}
	a.MovImmKeep(dst, v)
}

// MovImmKeep sets dst to v and keeps the flags.
func (a *Asm) MovImmKeep(dst Reg, v uint64) {
	switch {
	case v == uint64(uint32(v)):
		i := legacy(0xb8|enc(dst&7), S32, rexRR(S32, 0, dst))
		a.put(i.w|v<<(i.n&63), i.n/8+4)
	case v == uint64(int32(v)):
		a.rr(opStoreImm|1, S64, 0, dst)
		a.imm(S32, int32(v))
	default:
		i := legacy(0xb8|enc(dst&7), S64, rexRR(S64, 0, dst))
		a.put(i.w, i.n/8)
		a.put(v, 8)
	}
}

// MovZX is dst = src's low bits, zero-extended.
func (a *Asm) MovZX(from Size, dst, src Reg) {
	switch from {
	case S8:
		a.rrB(opMovzx8, S32, dst, src, byteRex(src))
	case S16:
		a.rr(opMovzx16, S32, dst, src)
	default:
		a.Mov(from, dst, src)
	}
}

// LoadZX is dst = m, zero-extended.
func (a *Asm) LoadZX(from Size, dst Reg, m Mem) {
	switch from {
	case S8:
		a.rm(opMovzx8, S32, dst, m)
	case S16:
		a.rm(opMovzx16, S32, dst, m)
	default:
		a.Load(from, dst, m)
	}
}

// signed is the opcode that extends from the first size to the second by sign.
func signed(from, to Size) enc {
	switch {
	case from == S8:
		return opMovsx8
	case from == S16:
		return opMovsx16
	case from == S32 && to == S64:
		return opMovsxd
	}
	return opLoad | 1
}

// MovSX is dst = src's low bits, sign-extended to the size given by to.
func (a *Asm) MovSX(from, to Size, dst, src Reg) {
	switch e := signed(from, to); {
	case e == opLoad|1:
		a.Mov(to, dst, src)
	case from == S8:
		a.rrB(e, to, dst, src, byteRex(src))
	default:
		a.rr(e, to, dst, src)
	}
}

// LoadSX is dst = m, sign-extended to the size given by to.
func (a *Asm) LoadSX(from, to Size, dst Reg, m Mem) { a.rm(signed(from, to), to, dst, m) }

// Lea is dst = the address m.
func (a *Asm) Lea(s Size, dst Reg, m Mem) { a.rm(opLea, s, dst, m) }

// storeRR is an instruction of any size whose ModRM.rm is dst.
func (a *Asm) storeRR(e enc, s Size, dst, src Reg) {
	if s == S8 {
		a.rrB(e, s, src, dst, byteRex(src)|byteRex(dst))
		return
	}
	a.rr(e|1, s, src, dst)
}

// sizedM is an instruction of any size with memory.
func (a *Asm) sizedM(e enc, s Size, reg Reg, m Mem) {
	if s == S8 {
		a.rmB(e, s, reg, m, byteRex(reg))
		return
	}
	a.rm(e|1, s, reg, m)
}

// digit is an instruction of any size with one register; the other field of
// ModRM extends the opcode.
func (a *Asm) digit(e enc, s Size, digit uint8, r Reg) {
	if s == S8 {
		a.rrB(e, s, Reg(digit), r, byteRex(r))
		return
	}
	a.rr(e|1, s, Reg(digit), r)
}

// RR is op dst, src, of any size.
func (a *Asm) RR(op ALU, s Size, dst, src Reg) { a.storeRR(enc(op&7)<<3, s, dst, src) }

// RM is op dst, m, of any size.
func (a *Asm) RM(op ALU, s Size, dst Reg, m Mem) { a.sizedM(enc(op&7)<<3|2, s, dst, m) }

// MR is op m, src, of any size.
func (a *Asm) MR(op ALU, s Size, m Mem, src Reg) { a.sizedM(enc(op&7)<<3, s, src, m) }

// RI is op dst, v, of any size. S16 with more than a byte of v decodes slowly.
func (a *Asm) RI(op ALU, s Size, dst Reg, v int32) {
	switch {
	case s != S8 && short(v):
		a.rr(opALUImm8, s, Reg(op), dst)
		a.imm(S8, v)
	case dst == RAX:
		a.accumulator(sized(enc(op&7)<<3|4, s), s, v)
	default:
		a.digit(opALUImm, s, uint8(op), dst)
		a.imm(s, v)
	}
}

// accumulator is an instruction with RAX and an immediate and no ModRM.
func (a *Asm) accumulator(e enc, s Size, v int32) {
	i := legacy(e, s, rexRR(s, 0, 0))
	a.put(i.w, i.n/8)
	a.imm(s, v)
}

// MI is op m, v, of any size.
func (a *Asm) MI(op ALU, s Size, m Mem, v int32) {
	if s != S8 && short(v) {
		a.rm(opALUImm8, s, Reg(op), m)
		a.imm(S8, v)
		return
	}
	a.rm(sized(opALUImm, s), s, Reg(op), m)
	a.imm(s, v)
}

// Lock makes the next instruction atomic; that must be MR or MI.
func (a *Asm) Lock() { a.put(0xf0, 1) }

// Test is test x, y, of any size.
func (a *Asm) Test(s Size, x, y Reg) { a.storeRR(opTest, s, x, y) }

// TestM is test m, r, of any size.
func (a *Asm) TestM(s Size, m Mem, r Reg) { a.sizedM(opTest, s, r, m) }

// TestI is test r, v, of any size.
func (a *Asm) TestI(s Size, r Reg, v int32) {
	if r == RAX {
		a.accumulator(sized(opTestAcc, s), s, v)
		return
	}
	a.digit(opUnary, s, 0, r)
	a.imm(s, v)
}

// TestMI is test m, v, of any size.
func (a *Asm) TestMI(s Size, m Mem, v int32) {
	a.rm(sized(opUnary, s), s, 0, m)
	a.imm(s, v)
}

// Unary is op r, of any size.
func (a *Asm) Unary(op Unary, s Size, r Reg) { a.digit(opUnary, s, uint8(op), r) }

// UnaryM is op m, of any size.
func (a *Asm) UnaryM(op Unary, s Size, m Mem) { a.rm(sized(opUnary, s), s, Reg(op), m) }

// Imul is dst *= src.
func (a *Asm) Imul(s Size, dst, src Reg) { a.rr(opImul, s, dst, src) }

// ImulM is dst *= m.
func (a *Asm) ImulM(s Size, dst Reg, m Mem) { a.rm(opImul, s, dst, m) }

// ImulI is dst = src × v.
func (a *Asm) ImulI(s Size, dst, src Reg, v int32) {
	if short(v) {
		a.rr(opImulImm8, s, dst, src)
		a.imm(S8, v)
		return
	}
	a.rr(opImulImm, s, dst, src)
	a.imm(s, v)
}

// SignRDX fills RDX with RAX's sign, for IDIV: cdq or cqo.
func (a *Asm) SignRDX(s Size) {
	i := legacy(0x99, s, rexRR(s, 0, 0))
	a.put(i.w, i.n/8)
}

// ShiftCL is op r, cl, of any size.
func (a *Asm) ShiftCL(op Shift, s Size, r Reg) { a.digit(opShiftCL, s, uint8(op), r) }

// ShiftI is op r, n, of any size. Even with n = 0 mod the size it is written.
func (a *Asm) ShiftI(op Shift, s Size, r Reg, n uint8) {
	if n == 1 {
		a.digit(opShift1, s, uint8(op), r)
		return
	}
	a.digit(opShiftImm, s, uint8(op), r)
	a.put(uint64(n), 1)
}

// ShiftX is dst = src op count, with the flags kept.
func (a *Asm) ShiftX(op ShiftX, s Size, dst, src, count Reg) { a.vrr(enc(op), s, dst, count, src) }

// ShiftXM is dst = m op count, with the flags kept.
func (a *Asm) ShiftXM(op ShiftX, s Size, dst Reg, m Mem, count Reg) {
	a.vrm(enc(op), s, dst, count, m)
}

// Rorx is dst = src rotated right by n, with the flags kept.
func (a *Asm) Rorx(s Size, dst, src Reg, n uint8) {
	a.vrr(opRorx, s, dst, 0, src)
	a.put(uint64(n), 1)
}

// Andn is dst = ^not & src.
func (a *Asm) Andn(s Size, dst, not, src Reg) { a.vrr(opAndn, s, dst, not, src) }

// AndnM is dst = ^not & m.
func (a *Asm) AndnM(s Size, dst, not Reg, m Mem) { a.vrm(opAndn, s, dst, not, m) }

// Count is op dst, src, of 16 bits too.
func (a *Asm) Count(op Count, s Size, dst, src Reg) { a.rr(enc(op), s, dst, src) }

// CountM is op dst, m, of 16 bits too.
func (a *Asm) CountM(op Count, s Size, dst Reg, m Mem) { a.rm(enc(op), s, dst, m) }

// Bswap reverses r's bytes.
func (a *Asm) Bswap(s Size, r Reg) {
	i := legacy(m0F|0xc8|enc(r&7), s, rexRR(s, 0, r))
	a.put(i.w, i.n/8)
}

// LoadBE loads big-endian (MOVBE), of 16 bits too.
func (a *Asm) LoadBE(s Size, dst Reg, m Mem) { a.rm(opMovbeTo, s, dst, m) }

// StoreBE stores big-endian (MOVBE), of 16 bits too.
func (a *Asm) StoreBE(s Size, m Mem, src Reg) { a.rm(opMovbeOf, s, src, m) }

// Bit is op r, n, with the bit's number in a register, taken modulo the size.
func (a *Asm) Bit(op Bit, s Size, r, n Reg) { a.rr(op.reg(), s, n, r) }

// BitI is op r, n.
func (a *Asm) BitI(op Bit, s Size, r Reg, n uint8) {
	a.rr(opBitImm, s, Reg(op), r)
	a.put(uint64(n), 1)
}

// BitMI is op m, n.
func (a *Asm) BitMI(op Bit, s Size, m Mem, n uint8) {
	a.rm(opBitImm, s, Reg(op), m)
	a.put(uint64(n), 1)
}

// Set sets r's low byte to 1 or 0 and keeps the others.
func (a *Asm) Set(c Cond, r Reg) { a.rrB(opSet|enc(c&15), S8, 0, r, byteRex(r)) }

// SetM sets a byte of memory to 1 or 0.
func (a *Asm) SetM(c Cond, m Mem) { a.rm(opSet|enc(c&15), S8, 0, m) }

// Cmov is dst = src if c holds. With S32 it clears the upper half either way.
func (a *Asm) Cmov(c Cond, s Size, dst, src Reg) { a.rr(opCmov|enc(c&15), s, dst, src) }

// CmovM is dst = m if c holds. It reads m either way.
func (a *Asm) CmovM(c Cond, s Size, dst Reg, m Mem) { a.rm(opCmov|enc(c&15), s, dst, m) }
