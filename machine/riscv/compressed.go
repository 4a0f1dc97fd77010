// SPDX-License-Identifier: Apache-2.0

package riscv

// Expand returns the 32-bit instruction that a compressed one stands for
// (Unpriv. ch. 26, RV64C with the D extension), or 0, which is illegal.
func Expand(c uint16) uint32 {
	w := uint32(c)
	switch w & 3 {
	case 0:
		return expand0(w)
	case 1:
		return expand1(w)
	case 2:
		return expand2(w)
	}
	return 0
}

// bits moves bits [lo, lo+n) of w to position to.
func bits(w uint32, lo, n, to uint) uint32 { return w >> lo & (1<<n - 1) << to }

// sext sign-extends the n-bit v.
func sext(v uint32, n uint) uint32 { return uint32(int32(v<<(32-n)) >> (32 - n)) }

// Encoders of the 32-bit formats.
func encI(op, f3, rd, rs1, imm uint32) uint32 { return imm<<20 | rs1<<15 | f3<<12 | rd<<7 | op }
func encR(op, f3, f7, rd, rs1, rs2 uint32) uint32 {
	return f7<<25 | rs2<<20 | rs1<<15 | f3<<12 | rd<<7 | op
}
func encS(op, f3, rs1, rs2, imm uint32) uint32 {
	return imm>>5&127<<25 | rs2<<20 | rs1<<15 | f3<<12 | imm&31<<7 | op
}
func encB(f3, rs1, rs2, imm uint32) uint32 {
	return imm>>12&1<<31 | imm>>5&63<<25 | rs2<<20 | rs1<<15 | f3<<12 | imm>>1&15<<8 | imm>>11&1<<7 | opBranch
}
func encJ(rd, imm uint32) uint32 {
	return imm>>20&1<<31 | imm>>1&0x3ff<<21 | imm>>11&1<<20 | imm>>12&255<<12 | rd<<7 | opJAL
}

func expand0(w uint32) uint32 {
	rd, rs1 := bits(w, 2, 3, 0)+8, bits(w, 7, 3, 0)+8
	word := bits(w, 10, 3, 3) | bits(w, 6, 1, 2) | bits(w, 5, 1, 6)
	double := bits(w, 10, 3, 3) | bits(w, 5, 2, 6)
	switch w >> 13 {
	case 0: // c.addi4spn
		imm := bits(w, 11, 2, 4) | bits(w, 7, 4, 6) | bits(w, 6, 1, 2) | bits(w, 5, 1, 3)
		if imm == 0 {
			return 0
		}
		return encI(opImm, 0, rd, 2, imm)
	case 1: // c.fld
		return encI(opLoadFP, 3, rd, rs1, double)
	case 2: // c.lw
		return encI(opLoad, 2, rd, rs1, word)
	case 3: // c.ld
		return encI(opLoad, 3, rd, rs1, double)
	case 5: // c.fsd
		return encS(opStoreFP, 3, rs1, rd, double)
	case 6: // c.sw
		return encS(opStore, 2, rs1, rd, word)
	case 7: // c.sd
		return encS(opStore, 3, rs1, rd, double)
	}
	return 0
}

func expand1(w uint32) uint32 {
	rd := bits(w, 7, 5, 0)
	imm := sext(bits(w, 12, 1, 5)|bits(w, 2, 5, 0), 6)
	switch w >> 13 {
	case 0: // c.addi, c.nop
		return encI(opImm, 0, rd, rd, imm)
	case 1: // c.addiw
		if rd == 0 {
			return 0
		}
		return encI(opImm32, 0, rd, rd, imm)
	case 2: // c.li
		return encI(opImm, 0, rd, 0, imm)
	case 3:
		return expandLUI(w, rd, imm)
	case 4:
		return expandALU(w, imm)
	case 5: // c.j
		off := bits(w, 12, 1, 11) | bits(w, 11, 1, 4) | bits(w, 9, 2, 8) | bits(w, 8, 1, 10) |
			bits(w, 7, 1, 6) | bits(w, 6, 1, 7) | bits(w, 3, 3, 1) | bits(w, 2, 1, 5)
		return encJ(0, sext(off, 12))
	}
	// c.beqz, c.bnez
	off := bits(w, 12, 1, 8) | bits(w, 10, 2, 3) | bits(w, 5, 2, 6) | bits(w, 3, 2, 1) | bits(w, 2, 1, 5)
	return encB(w>>13&1, bits(w, 7, 3, 0)+8, 0, sext(off, 9))
}

// expandLUI is c.lui, c.addi16sp for x2.
func expandLUI(w, rd, imm uint32) uint32 {
	if rd == 2 {
		sp := bits(w, 12, 1, 9) | bits(w, 6, 1, 4) | bits(w, 5, 1, 6) | bits(w, 3, 2, 7) | bits(w, 2, 1, 5)
		if sp == 0 {
			return 0
		}
		return encI(opImm, 0, 2, 2, sext(sp, 10))
	}
	if imm == 0 {
		return 0
	}
	return imm<<12 | rd<<7 | opLUI
}

// expandALU is c.srli, c.srai, c.andi and the register-register forms.
func expandALU(w, imm uint32) uint32 {
	rd, rs2 := bits(w, 7, 3, 0)+8, bits(w, 2, 3, 0)+8
	switch w >> 10 & 3 {
	case 0:
		return encI(opImm, 5, rd, rd, imm&63)
	case 1:
		return encI(opImm, 5, rd, rd, imm&63|0x400)
	case 2:
		return encI(opImm, 7, rd, rd, imm)
	}
	switch w>>12&1<<2 | w>>5&3 {
	case 0: // c.sub
		return encR(opOp, 0, 0x20, rd, rd, rs2)
	case 1: // c.xor
		return encR(opOp, 4, 0, rd, rd, rs2)
	case 2: // c.or
		return encR(opOp, 6, 0, rd, rd, rs2)
	case 3: // c.and
		return encR(opOp, 7, 0, rd, rd, rs2)
	case 4: // c.subw
		return encR(opOp32, 0, 0x20, rd, rd, rs2)
	case 5: // c.addw
		return encR(opOp32, 0, 0, rd, rd, rs2)
	}
	return 0
}

func expand2(w uint32) uint32 {
	rd, rs2 := bits(w, 7, 5, 0), bits(w, 2, 5, 0)
	switch w >> 13 {
	case 0: // c.slli
		return encI(opImm, 1, rd, rd, bits(w, 12, 1, 5)|rs2)
	case 1: // c.fldsp
		return encI(opLoadFP, 3, rd, 2, spDouble(w))
	case 2: // c.lwsp
		if rd == 0 {
			return 0
		}
		return encI(opLoad, 2, rd, 2, bits(w, 12, 1, 5)|bits(w, 4, 3, 2)|bits(w, 2, 2, 6))
	case 3: // c.ldsp
		if rd == 0 {
			return 0
		}
		return encI(opLoad, 3, rd, 2, spDouble(w))
	case 4:
		return expandJumpMove(w, rd, rs2)
	case 5: // c.fsdsp
		return encS(opStoreFP, 3, 2, rs2, bits(w, 10, 3, 3)|bits(w, 7, 3, 6))
	case 6: // c.swsp
		return encS(opStore, 2, 2, rs2, bits(w, 9, 4, 2)|bits(w, 7, 2, 6))
	}
	return encS(opStore, 3, 2, rs2, bits(w, 10, 3, 3)|bits(w, 7, 3, 6)) // c.sdsp
}

// spDouble is the offset of c.ldsp and c.fldsp.
func spDouble(w uint32) uint32 { return bits(w, 12, 1, 5) | bits(w, 5, 2, 3) | bits(w, 2, 3, 6) }

// expandJumpMove is c.jr, c.mv, c.ebreak, c.jalr and c.add.
func expandJumpMove(w, rd, rs2 uint32) uint32 {
	link := w >> 12 & 1
	switch {
	case rs2 != 0 && link == 0: // c.mv
		return encR(opOp, 0, 0, rd, 0, rs2)
	case rs2 != 0: // c.add
		return encR(opOp, 0, 0, rd, rd, rs2)
	case rd != 0: // c.jr, c.jalr
		return encI(opJALR, 0, link, rd, 0)
	case link == 1:
		return 0x00100073 // c.ebreak
	}
	return 0
}
