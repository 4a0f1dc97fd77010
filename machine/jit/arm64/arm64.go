// SPDX-License-Identifier: Apache-2.0

// Package arm64 writes AArch64 machine code.
//
// An Asm is a buffer that grows by one instruction per method call. Methods are
// named for their operands, destination first: R is a general register, V a
// vector register, I an immediate; so RRI(ADD, S64, X0, X1, 8) is add x0, x1, #8,
// and VVV(FADD, S64, 0, 1, 2) is fadd d0, d1, d2. Where several encodings say the
// same, the one that the GNU assembler chooses is written.
//
// Every instruction is a word of 32 bits, and nearly all have their operands in
// the same places:
//
//	31 sf (64 bits) … 20 Rm 16  15 Ra 10  9 Rn 5  4 Rd 0
//
// The tables of operations are in ops.go, and are to be read beside the Arm
// Architecture Reference Manual for A-profile ("ARM ARM"), chapters C4 and C6.
//
// Mistakes of the caller don't panic: the first is kept, and Finish returns it.
package arm64

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Asm is a buffer of code and its labels. The zero Asm is ready for use; after
// Reset it is used again without allocation.
//
// The code runs at any address that is a multiple of 4.
type Asm struct {
	Code []byte
	// Patches are the branches of BPatch, in order.
	Patches []Patch

	labels  []labelState
	refs    []ref
	waiting int // refs to labels not yet bound
	err     error
}

// Errors that Finish returns. Each is a mistake of the caller.
var (
	ErrReg   = errors.New("arm64: register that the instruction does not have there (SP for ZR, ZR for SP, or none)")
	ErrSize  = errors.New("arm64: operand size that the instruction does not have")
	ErrImm   = errors.New("arm64: constant that the instruction does not have")
	ErrCond  = errors.New("arm64: condition that the instruction does not have")
	ErrMem   = errors.New("arm64: memory operand that the instruction does not have")
	ErrOp    = errors.New("arm64: operation that does not exist in this form")
	ErrLabel = errors.New("arm64: label used that NewLabel did not make, or bound twice, or never")
	ErrRange = errors.New("arm64: branch out of its reach")
)

// Reset empties the buffer.
func (a *Asm) Reset() {
	a.Code, a.Patches = a.Code[:0], a.Patches[:0]
	a.labels, a.refs = a.labels[:0], a.refs[:0]
	a.waiting, a.err = 0, nil
}

// Finish says whether Code means what was asked for.
func (a *Asm) Finish() error {
	if a.err == nil && a.waiting > 0 {
		return ErrLabel
	}
	return a.err
}

func (a *Asm) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// Reg is a general register. ZR and SP have the same number in instructions,
// and each instruction knows which of them it has at a place: giving it the
// other is ErrReg.
type Reg uint8

const (
	X0 Reg = iota
	X1
	X2
	X3
	X4
	X5
	X6
	X7
	X8
	X9
	X10
	X11
	X12
	X13
	X14
	X15
	X16
	X17
	X18
	X19
	X20
	X21
	X22
	X23
	X24
	X25
	X26
	X27
	X28
	X29
	X30
	ZR // reads as zero
	SP // stack pointer
)

// LR holds the return address.
const LR = X30

// Vec is a vector register, 0 to 31. As S32 and S64 its lowest bits are a float.
type Vec uint8

// Size is the size of an operand.
type Size uint8

const (
	S8 Size = iota
	S16
	S32
	S64
)

// bits is the number of bits of S32 or S64.
func (s Size) bits() uint { return 8 << (s & 3) }

// put appends an instruction.
func (a *Asm) put(w uint32) {
	k := len(a.Code)
	if cap(a.Code)-k < 4 {
		a.grow()
	}
	a.Code = a.Code[:k+4]
	binary.LittleEndian.PutUint32(a.Code[k:], w)
}

// grow is apart so that put can be inlined.
func (a *Asm) grow() { a.Code = slices.Grow(a.Code, 4096) }

// z is the number of a register, ZR among them.
func (a *Asm) z(r Reg) uint32 {
	if r > ZR {
		a.fail(ErrReg)
	}
	return uint32(r & 31)
}

// sp is the number of a register, SP among them.
func (a *Asm) sp(r Reg) uint32 {
	if r == SP {
		return 31
	}
	if r >= ZR {
		a.fail(ErrReg)
	}
	return uint32(r & 31)
}

// spIf is sp or z: many instructions have SP unless they set flags.
func (a *Asm) spIf(sp bool, r Reg) uint32 {
	if sp {
		return a.sp(r)
	}
	return a.z(r)
}

// v is the number of a vector register.
func (a *Asm) v(r Vec) uint32 {
	if r > 31 {
		a.fail(ErrReg)
	}
	return uint32(r & 31)
}

// sf is bit 31, which says 64 bits.
func (a *Asm) sf(s Size) uint32 {
	if s < S32 || s > S64 {
		a.fail(ErrSize)
	}
	return uint32(s&1) << 31
}

// sfN is sf for instructions that have N, bit 22, equal to it.
func (a *Asm) sfN(s Size) uint32 {
	sf := a.sf(s)
	return sf | sf>>9
}

// ftype is bit 22, which says double precision.
func (a *Asm) ftype(s Size) uint32 { return a.sf(s) >> 9 }

// cond is a condition where AL is none.
func (a *Asm) cond(c Cond) uint32 {
	if c >= AL {
		a.fail(ErrCond)
	}
	return uint32(c & 15)
}

// in says whether a number is below n.
func (a *Asm) in(v, n uint) uint32 {
	if v >= n {
		a.fail(ErrImm)
		return 0
	}
	return uint32(v)
}

// dnm writes an instruction with registers at Rd, Rn and Rm; ZR is one of them.
func (a *Asm) dnm(w uint32, d, n, m Reg) { a.put(w | a.z(m)<<16 | a.z(n)<<5 | a.z(d)) }

// vdnm is dnm for vector registers.
func (a *Asm) vdnm(w uint32, d, n, m Vec) { a.put(w | a.v(m)<<16 | a.v(n)<<5 | a.v(d)) }
