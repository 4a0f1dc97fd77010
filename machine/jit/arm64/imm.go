// SPDX-License-Identifier: Apache-2.0

package arm64

import (
	"math"
	"math/bits"
)

// Bitmask is the field of a logical instruction for a constant, and whether there
// is one: a pattern of 2, 4, 8, 16, 32 or 64 bits, repeated, that is one run of
// ones, rotated (ARM ARM, DecodeBitMasks). Of S32 the upper half of v is ignored.
func Bitmask(s Size, v uint64) (field uint32, ok bool) {
	if s == S32 {
		v = uint64(uint32(v)) * (1<<32 + 1)
	}
	if s < S32 || s > S64 || v == 0 || v == math.MaxUint64 {
		return 0, false
	}
	period := 64
	for period > 2 && v == bits.RotateLeft64(v, period/2) {
		period /= 2
	}
	starts := v &^ bits.RotateLeft64(v, 1) // ones that follow a zero
	if bits.OnesCount64(starts) != 64/period {
		return 0, false
	}
	ones := bits.OnesCount64(v) * period / 64
	n := uint32(period >> 6)
	immr := uint32(period-bits.TrailingZeros64(starts)) & uint32(period-1)
	imms := uint32(-2*period)&63 | uint32(ones-1)
	return n<<22 | immr<<16 | imms<<10, true
}

// addImm is the field of an addition for a constant: 12 bits, or those shifted
// by 12.
func addImm(v int64) (field uint32, ok bool) {
	switch {
	case v >= 0 && v < 1<<12:
		return uint32(v) << 10, true
	case v >= 0 && v < 1<<24 && v&0xfff == 0:
		return 1<<22 | uint32(v>>12)<<10, true
	}
	return 0, false
}

// AddFits says whether RRI has v for ADD, SUB and their like, and CmpI.
func AddFits(v int64) bool {
	_, add := addImm(v)
	_, sub := addImm(-v)
	return add || sub
}

// A constant is moved by 16 bits at a time: hw says which.
const (
	opMovn uint32 = 0x12800000
	opMovz uint32 = 0x52800000
	opMovk uint32 = 0x72800000
)

func (a *Asm) move16(w uint32, s Size, dst Reg, v uint16, hw uint) {
	a.put(w | a.sf(s) | a.in(hw, s.bits()/16)<<21 | uint32(v)<<5 | a.z(dst))
}

// Movz sets dst to v << 16×hw.
func (a *Asm) Movz(s Size, dst Reg, v uint16, hw uint) { a.move16(opMovz, s, dst, v, hw) }

// Movn sets dst to ^(v << 16×hw).
func (a *Asm) Movn(s Size, dst Reg, v uint16, hw uint) { a.move16(opMovn, s, dst, v, hw) }

// Movk sets the 16 bits of dst to v and keeps the others.
func (a *Asm) Movk(s Size, dst Reg, v uint16, hw uint) { a.move16(opMovk, s, dst, v, hw) }

// half is 16 bits of v.
func half(v uint64, hw uint) uint16 { return uint16(v >> (16 * hw)) }

// MovImm sets dst to v in at most four instructions, and in one or two wherever
// one or two of these can: movz, movn, orr with a bitmask, and movk.
func (a *Asm) MovImm(dst Reg, v uint64) {
	s := S64
	if v == uint64(uint32(v)) {
		s = S32
	}
	n := s.bits() / 16
	zeros, ones := uint(0), uint(0)
	for i := range n {
		switch half(v, i) {
		case 0:
			zeros++
		case 0xffff:
			ones++
		}
	}
	left := n - max(zeros, ones) // instructions, if by halves
	if left > 1 && a.movMask(s, dst, v) || left > 2 && a.movMaskK(dst, v) {
		return
	}
	a.movHalves(s, dst, v, ones > zeros)
}

// movMask sets dst to v in one orr, if v is a bitmask.
func (a *Asm) movMask(s Size, dst Reg, v uint64) bool {
	field, ok := Bitmask(s, v)
	if ok {
		a.put(alus[ORR].imm | a.sf(s) | field | 31<<5 | a.sp(dst))
	}
	return ok
}

// movMaskK sets dst to v in two instructions, if v but for 16 bits is a bitmask.
// Those 16 may then be the inside of a run or of a gap, or repeat others.
func (a *Asm) movMaskK(dst Reg, v uint64) bool {
	for hw := range uint(4) {
		rest := v &^ (0xffff << (16 * hw))
		for _, h := range [...]uint16{0, 0xffff, half(v, hw^1), half(v, hw^2)} {
			if a.movMask(S64, dst, rest|uint64(h)<<(16*hw)) {
				a.Movk(S64, dst, half(v, hw), hw)
				return true
			}
		}
	}
	return false
}

// movHalves sets dst to v by its halves, those that are zeros left out, or those
// that are ones.
func (a *Asm) movHalves(s Size, dst Reg, v uint64, ones bool) {
	skip, first, flip := uint16(0), opMovz, uint16(0)
	if ones {
		skip, first, flip = 0xffff, opMovn, 0xffff
	}
	started := false
	for i := range s.bits() / 16 {
		switch h := half(v, i); {
		case h == skip:
		case started:
			a.Movk(s, dst, h, i)
		default:
			a.move16(first, s, dst, h^flip, i)
			started = true
		}
	}
	if !started {
		a.move16(first, s, dst, 0, 0)
	}
}
