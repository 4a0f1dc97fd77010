// SPDX-License-Identifier: Apache-2.0

package arm64

// Instructions on vector registers. S32 is single precision, S64 double; the
// rest of a destination is cleared.

// VVV is dst = x op y.
func (a *Asm) VVV(op Float2, s Size, dst, x, y Vec) { a.vdnm(uint32(op)|a.ftype(s), dst, x, y) }

// VV is dst = op src.
func (a *Asm) VV(op Float1, s Size, dst, src Vec) { a.vdnm(uint32(op)|a.ftype(s), dst, src, 0) }

// VVVV is dst = ±(acc ± x × y), rounded once.
func (a *Asm) VVVV(op Float3, s Size, dst, x, y, acc Vec) {
	a.vdnm(uint32(op)|a.ftype(s)|a.v(acc)<<10, dst, x, y)
}

// Compare compares x with y.
func (a *Asm) Compare(op Compare, s Size, x, y Vec) { a.vdnm(uint32(op)|a.ftype(s), 0, x, y) }

// CompareZ compares x with zero.
func (a *Asm) CompareZ(op Compare, s Size, x Vec) { a.vdnm(uint32(op)|8|a.ftype(s), 0, x, 0) }

// SelectV is dst = x if c holds, or else y.
func (a *Asm) SelectV(s Size, c Cond, dst, x, y Vec) {
	if c > AL {
		a.fail(ErrCond)
	}
	a.vdnm(0x1e200c00|a.ftype(s)|uint32(c&15)<<12, dst, x, y)
}

// Fcvt converts a float to the other size, rounded as FPCR says.
func (a *Asm) Fcvt(from, to Size, dst, src Vec) {
	a.sf(to)
	if from == to {
		a.fail(ErrSize)
	}
	a.vdnm(0x1e224000|a.ftype(from)|uint32(to&1)<<15, dst, src, 0)
}

// ToFloat converts an integer of size from to a float of size to.
func (a *Asm) ToFloat(op ToFloat, from, to Size, dst Vec, src Reg) {
	a.put(uint32(op) | a.sf(from) | a.ftype(to) | a.z(src)<<5 | a.v(dst))
}

// ToInt converts a float of size from to an integer of size to.
func (a *Asm) ToInt(op ToInt, from, to Size, dst Reg, src Vec) {
	a.put(uint32(op) | a.sf(to) | a.ftype(from) | a.v(src)<<5 | a.z(dst))
}

// MovVR is fmov dst, src: the bits, not the number.
func (a *Asm) MovVR(s Size, dst Vec, src Reg) {
	a.put(0x1e270000 | a.sfN(s) | a.z(src)<<5 | a.v(dst))
}

// MovRV is fmov dst, src: the bits, not the number.
func (a *Asm) MovRV(s Size, dst Reg, src Vec) {
	a.put(0x1e260000 | a.sfN(s) | a.v(src)<<5 | a.z(dst))
}

// High is dst = src's upper 64 bits.
func (a *Asm) High(dst Reg, src Vec) { a.put(0x4e183c00 | a.v(src)<<5 | a.z(dst)) }

// Logic8 is dst = x op y, of 64 bits.
func (a *Asm) Logic8(op Logic8, dst, x, y Vec) { a.vdnm(uint32(op), dst, x, y) }

// Cnt8 counts the ones in each of src's low 8 bytes.
func (a *Asm) Cnt8(dst, src Vec) { a.vdnm(0x0e205800, dst, src, 0) }

// Addv8 is the sum of src's low 8 bytes, modulo 256.
func (a *Asm) Addv8(dst, src Vec) { a.vdnm(0x0e31b800, dst, src, 0) }

// Pmull is dst = the carry-less product, of 128 bits, of the low halves of x and
// y. The host must have FEAT_PMULL.
func (a *Asm) Pmull(dst, x, y Vec) { a.vdnm(0x0ee0e000, dst, x, y) }

// Pmull2 is that of the upper halves.
func (a *Asm) Pmull2(dst, x, y Vec) { a.vdnm(0x4ee0e000, dst, x, y) }
