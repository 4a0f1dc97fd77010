// SPDX-License-Identifier: Apache-2.0

package arm64

// Mode says what a memory operand adds to its base.
type Mode uint8

const (
	Offset   Mode = iota // Disp
	Indexed              // Index, 64 bits
	IndexedU             // Index, 32 bits without a sign
	IndexedS             // Index, 32 bits with a sign
)

// options are the modes' fields with an index.
var options = [...]uint32{Indexed: 3 << 13, IndexedU: 2 << 13, IndexedS: 6 << 13}

// Mem is an address. Base may be SP, not ZR.
type Mem struct {
	Base, Index Reg
	Mode        Mode
	Scaled      bool  // Index times the size of what is accessed
	Disp        int32 // with Offset only; see Fits
}

// At is [base, #disp].
func At(base Reg, disp int32) Mem { return Mem{Base: base, Disp: disp} }

// Fits says whether an access of size s has an offset: -256 to 255, or up to
// 4095 times the size in multiples of it.
func Fits(s Size, disp int32) bool {
	return scaledFits(s, disp) || disp >= -256 && disp < 256
}

func scaledFits(s Size, disp int32) bool {
	return disp >= 0 && disp>>s < 1<<12 && disp&(1<<s-1) == 0
}

// Fields of a load or store (ARM ARM, Loads and Stores).
const (
	memStore   uint32 = 0 << 22
	memLoad    uint32 = 1 << 22
	memLoadS64 uint32 = 2 << 22 // extended by sign
	memLoadS32 uint32 = 3 << 22
	memVector  uint32 = 1 << 26

	memUnscaled uint32 = 0x38000000 // 9 bits with a sign
	memIndexed  uint32 = 0x38200800
	memScaled   uint32 = 0x39000000 // 12 bits

	memPair uint32 = 0x29000000
)

// memory writes a load or store of register number t.
func (a *Asm) memory(w uint32, s Size, t uint32, m Mem) {
	if s > S64 {
		a.fail(ErrSize)
	}
	w |= uint32(s&3)<<30 | a.sp(m.Base)<<5 | t
	switch {
	case m.Mode > IndexedS:
		a.fail(ErrMem)
	case m.Mode != Offset:
		w |= memIndexed | options[m.Mode] | a.z(m.Index)<<16
		if m.Scaled {
			w |= 1 << 12
		}
		if m.Disp != 0 {
			a.fail(ErrMem)
		}
	case scaledFits(s&3, m.Disp):
		w |= memScaled | uint32(m.Disp>>(s&3))<<10
	case Fits(s&3, m.Disp):
		w |= memUnscaled | uint32(m.Disp)&0x1ff<<12
	default:
		a.fail(ErrMem)
	}
	a.put(w)
}

// Load is dst = m of any size, zero-extended.
func (a *Asm) Load(s Size, dst Reg, m Mem) { a.memory(memLoad, s, a.z(dst), m) }

// LoadSX is dst = m, extended by sign to a larger size, S32 or S64.
func (a *Asm) LoadSX(from, to Size, dst Reg, m Mem) {
	w := memLoadS64
	if to == S32 {
		w = memLoadS32
	}
	if a.sf(to); from >= to {
		a.fail(ErrSize)
	}
	a.memory(w, from, a.z(dst), m)
}

// Store is m = src, of any size.
func (a *Asm) Store(s Size, m Mem, src Reg) { a.memory(memStore, s, a.z(src), m) }

// LoadV is dst = m, S32 or S64. It clears the rest of dst.
func (a *Asm) LoadV(s Size, dst Vec, m Mem) {
	a.sf(s)
	a.memory(memVector|memLoad, s, a.v(dst), m)
}

// StoreV is m = src, S32 or S64.
func (a *Asm) StoreV(s Size, m Mem, src Vec) {
	a.sf(s)
	a.memory(memVector|memStore, s, a.v(src), m)
}

// pair writes a load or store of two registers at [base, #disp].
func (a *Asm) pair(w uint32, s Size, t, u uint32, m Mem) {
	unit := int32(s.bits() / 8)
	n := m.Disp / unit
	if m.Mode != Offset || m.Disp%unit != 0 || n < -64 || n > 63 {
		a.fail(ErrMem)
	}
	a.put(memPair | w | uint32(n)&0x7f<<15 | u<<10 | a.sp(m.Base)<<5 | t)
}

// LoadPair is x, y = two of S32 or S64 at m: base and offset, -64 to 63 times the
// size. x and y must differ.
func (a *Asm) LoadPair(s Size, x, y Reg, m Mem) {
	if x == y {
		a.fail(ErrReg)
	}
	a.pair(memLoad|a.sf(s), s, a.z(x), a.z(y), m)
}

// StorePair stores x and y; the offset as in LoadPair.
func (a *Asm) StorePair(s Size, m Mem, x, y Reg) {
	a.pair(memStore|a.sf(s), s, a.z(x), a.z(y), m)
}

// LoadPairV is LoadPair for floats.
func (a *Asm) LoadPairV(s Size, x, y Vec, m Mem) {
	if x == y {
		a.fail(ErrReg)
	}
	a.pair(memVector|memLoad|a.sf(s)>>1, s, a.v(x), a.v(y), m)
}

// StorePairV is StorePair for floats.
func (a *Asm) StorePairV(s Size, m Mem, x, y Vec) {
	a.pair(memVector|memStore|a.sf(s)>>1, s, a.v(x), a.v(y), m)
}
