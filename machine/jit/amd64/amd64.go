// SPDX-License-Identifier: Apache-2.0

// Package amd64 writes x86-64 machine code.
//
// An Asm is a buffer that grows by one instruction per method call. Methods are
// named for their operands, destination first: R is a register, X an XMM
// register, M memory, I an immediate; so RM(ADD, S64, RAX, m) is add rax, [m],
// and XX(ADDSD, 0, 1) is addsd xmm0, xmm1. Where several encodings say the same
// the shortest is written, and of those the one that the GNU assembler chooses.
//
//	[66] [66|F3|F2] [REX] [0F [38|3A]] opcode ModRM [SIB] [disp] [imm]
//	             C4 or C5 with all of those  opcode ModRM [SIB] [disp] [imm]
//
// Everything up to SIB fits in eight bytes: it is put together in a register and
// stored at once. The tables of opcodes are in ops.go, and are to be read beside
// volume 2 of Intel's Software Developer's Manual ("SDM"); chapter 2 has the
// format above.
//
// Mistakes of the caller don't panic: the first is kept, and Finish returns it.
package amd64

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// Asm is a buffer of code and its labels. The zero Asm is ready for use; after
// Reset it is used again without allocation.
//
// The code runs at any address, but for what Patches names. Code's capacity
// beyond its length is scratch.
type Asm struct {
	Code []byte
	// Patches are the jumps of JmpPatch and JccPatch, in order.
	Patches []Patch

	labels  []labelState
	refs    []ref
	waiting int // refs to labels not yet bound
	err     error
}

// Errors that Finish returns. Each is a mistake of the caller.
var (
	ErrMem   = errors.New("amd64: memory operand with index RSP or a scale other than 1, 2, 4, 8")
	ErrLabel = errors.New("amd64: label used that NewLabel did not make, or bound twice, or never")
	ErrShort = errors.New("amd64: short jump over more than 127 bytes")
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

// Reg is a general register.
type Reg uint8

const (
	RAX Reg = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Xmm is a vector register, 0 to 15.
type Xmm uint8

// Size is the size of an operand.
type Size uint8

const (
	S8 Size = iota
	S16
	S32
	S64
)

// Mem is the address Base + Index×Scale + Disp. Scale 0 means no index, so that
// Mem{Base: RBX, Disp: 8} is [rbx+8]. RSP cannot be an index.
type Mem struct {
	Base, Index Reg
	Scale       uint8 // 0, 1, 2, 4 or 8
	Disp        int32
}

// At is [base+disp].
func At(base Reg, disp int32) Mem { return Mem{Base: base, Disp: disp} }

// put appends the low n bytes of w, n ≤ 8.
func (a *Asm) put(w uint64, n uint) {
	k := len(a.Code)
	if cap(a.Code)-k < 8 {
		a.grow()
	}
	binary.LittleEndian.PutUint64(a.Code[k:k+8], w)
	a.Code = a.Code[:k+int(n)]
}

// grow is apart so that put can be inlined.
func (a *Asm) grow() { a.Code = slices.Grow(a.Code, 4096) }

// imm appends an immediate of size s. There are none of 64 bits: those of 32 are
// extended by sign.
func (a *Asm) imm(s Size, v int32) { a.put(uint64(uint32(v)), 1<<min(s, S32)) }

// short says whether v fits in a byte that is extended by sign.
func short(v int32) bool { return v == int32(int8(v)) }

// word is the beginning of an instruction: its bytes, the first lowest, and how
// many bits they take.
type word struct {
	w uint64
	n uint
}

// REX bits (SDM 2.2.1.2).
const (
	rexB    uint8 = 1    // high bit of ModRM.rm or SIB.base
	rexX    uint8 = 2    // of SIB.index
	rexR    uint8 = 4    // of ModRM.reg
	rexW    uint8 = 8    // 64 bits
	rexByte uint8 = 0x40 // makes 4 to 7 mean SPL to DIL, not AH to BH
)

// byteRex is what REX must have for r to be a byte operand.
func byteRex(r Reg) uint8 {
	if r >= RSP {
		return rexByte
	}
	return 0
}

// rexRR and rexRM are the REX bits that operands ask for.
func rexRR(s Size, reg, rm Reg) uint8 {
	return uint8(s&(s>>1))*rexW | uint8(reg>>3&1)*rexR | uint8(rm>>3&1)*rexB
}

func rexRM(s Size, reg Reg, m Mem) uint8 {
	rex := rexRR(s, reg, m.Base)
	if m.Scale != 0 && m.Index >= R8 {
		rex |= rexX
	}
	return rex
}

// legacy is prefixes, REX, escape bytes and opcode. The masks of shifts say
// that they are small, which saves the compiler a comparison.
func legacy(e enc, s Size, rex uint8) word {
	p := &prefixes[e>>10&3]
	w, n := p.w, p.n
	if s == S16 {
		w, n = w<<8|0x66, n+8
	}
	if rex != 0 {
		w |= uint64(0x40|rex) << (n & 63)
		n += 8
	}
	esc := &escapes[e>>8&3]
	w |= (esc.w | uint64(e&0xff)<<(esc.n&63)) << (n & 63)
	return word{w, n + esc.n + 8}
}

// vex is the VEX prefix and opcode; v is the operand in VEX.vvvv
// (SDM 2.3.5). The two-byte form is for what needs none of X, B, W and map 0F.
func vex(e enc, rex uint8, v Reg) word {
	last := uint64(^v&15)<<3 | uint64(e>>10&3)
	op := uint64(e & 0xff)
	if e&mapMask == m0F && rex&^rexR == 0 {
		return word{0xc5 | (last|uint64(^rex&rexR)<<5)<<8 | op<<16, 24}
	}
	return word{0xc4 | (uint64(^rex&7)<<5|uint64(e>>8&3))<<8 | (last|uint64(rex&rexW)<<4)<<16 | op<<24, 32}
}

// modRR ends an instruction with register operands.
func (a *Asm) modRR(i word, reg, rm Reg) {
	mod := uint64(0xc0 | reg&7<<3 | rm&7)
	a.put(i.w|mod<<(i.n&63), i.n/8+1)
}

// modRM ends an instruction with a memory operand. ModRM.rm = 4 announces SIB,
// where index 4 is none; base 5 without displacement means something else, and
// takes a zero one (SDM tables 2-2 and 2-3).
func (a *Asm) modRM(i word, reg Reg, m Mem) {
	base, tail := uint64(m.Base&7), uint(8)
	mod := uint64(reg&7)<<3 | base
	if m.Scale != 0 || base == 4 {
		mod = uint64(reg&7)<<3 | 4 | a.sib(m)<<8
		tail = 16
	}
	disp := uint(0)
	switch {
	case m.Disp == 0 && base != 5:
	case short(m.Disp):
		mod |= 0x40
		disp = 1
	default:
		mod |= 0x80
		disp = 4
	}
	a.put(i.w|mod<<(i.n&63), (i.n+tail)/8)
	if disp != 0 {
		a.put(uint64(uint32(m.Disp)), disp)
	}
}

func (a *Asm) sib(m Mem) uint64 {
	if m.Scale == 0 {
		return 4<<3 | uint64(m.Base&7)
	}
	if m.Index == RSP || m.Scale > 8 || m.Scale&(m.Scale-1) != 0 {
		a.fail(ErrMem)
	}
	return uint64(bits.TrailingZeros8(m.Scale))<<6 | uint64(m.Index&7)<<3 | uint64(m.Base&7)
}

// rr and rm write an instruction whose ModRM holds reg and another operand. Xmm
// numbers and opcode digits pass as registers too.
func (a *Asm) rr(e enc, s Size, reg, rm Reg) {
	a.modRR(legacy(e, s, rexRR(s, reg, rm)), reg, rm)
}

func (a *Asm) rm(e enc, s Size, reg Reg, m Mem) {
	a.modRM(legacy(e, s, rexRM(s, reg, m)), reg, m)
}

// rrB and rmB are rr and rm with byte registers in the operands given by extra.
func (a *Asm) rrB(e enc, s Size, reg, rm Reg, extra uint8) {
	a.modRR(legacy(e, s, rexRR(s, reg, rm)|extra), reg, rm)
}

func (a *Asm) rmB(e enc, s Size, reg Reg, m Mem, extra uint8) {
	a.modRM(legacy(e, s, rexRM(s, reg, m)|extra), reg, m)
}

// vrr and vrm are rr and rm with VEX and a further operand v.
func (a *Asm) vrr(e enc, s Size, reg, v, rm Reg) {
	a.modRR(vex(e, rexRR(s, reg, rm), v), reg, rm)
}

func (a *Asm) vrm(e enc, s Size, reg, v Reg, m Mem) {
	a.modRM(vex(e, rexRM(s, reg, m), v), reg, m)
}
