// SPDX-License-Identifier: Apache-2.0

package amd64

import (
	"encoding/binary"
	"math"
)

// Label is a place in the code that jumps name before or after it is known.
type Label int32

// labelState is a label's offset or, while that is unknown, the newest of the
// jumps that wait for it.
type labelState struct {
	bound bool
	at    int32 // offset, or index in refs plus 1
}

// ref is a jump that waits for its label.
type ref struct {
	at    int32 // offset of the displacement
	next  int32 // an older ref to the same label: index plus 1
	short bool  // the displacement has one byte, not four
}

// NewLabel makes a label that is not bound yet.
func (a *Asm) NewLabel() Label {
	a.labels = append(a.labels, labelState{})
	return Label(len(a.labels))
}

// label finds a label's state, or nil.
func (a *Asm) label(l Label) *labelState {
	if i := int(l) - 1; uint(i) < uint(len(a.labels)) {
		return &a.labels[i]
	}
	a.fail(ErrLabel)
	return nil
}

// Bind puts the label here, and directs the jumps that wait for it.
func (a *Asm) Bind(l Label) {
	s := a.label(l)
	if s == nil {
		return
	}
	if s.bound {
		a.fail(ErrLabel)
		return
	}
	here := int32(len(a.Code))
	for i := s.at; i != 0; {
		r := a.refs[i-1]
		if r.short {
			if here-r.at-1 > math.MaxInt8 {
				a.fail(ErrShort)
			}
			a.Code[r.at] = uint8(here - r.at - 1)
		} else {
			binary.LittleEndian.PutUint32(a.Code[r.at:], uint32(here-r.at-4))
		}
		a.waiting--
		i = r.next
	}
	*s = labelState{true, here}
}

// Offset is where the label is bound, or -1.
func (a *Asm) Offset(l Label) int {
	if s := a.label(l); s != nil && s.bound {
		return int(s.at)
	}
	return -1
}

// Jmp jumps to the label. A jump back takes the shortest form; a jump forward
// has a displacement of 32 bits.
func (a *Asm) Jmp(l Label) { a.jump(jmp8, jmp32, l, false) }

// Jcc jumps to the label if c holds; forms as in Jmp.
func (a *Asm) Jcc(c Cond, l Label) { a.jump(jcc8(c), jcc32(c), l, false) }

// JmpShort is a Jmp whose label comes within 127 bytes.
func (a *Asm) JmpShort(l Label) { a.jump(jmp8, jmp32, l, true) }

// JccShort is a Jcc whose label comes within 127 bytes.
func (a *Asm) JccShort(c Cond, l Label) { a.jump(jcc8(c), jcc32(c), l, true) }

var jmp8, jmp32 = word{0xeb, 8}, word{0xe9, 8}

func jcc8(c Cond) word  { return word{0x70 | uint64(c&15), 8} }
func jcc32(c Cond) word { return word{0x0f | (0x80|uint64(c&15))<<8, 16} }

// jump writes a jump with one of two opcodes.
func (a *Asm) jump(op8, op32 word, l Label, near bool) {
	s := a.label(l)
	if s == nil {
		return
	}
	here := int32(len(a.Code))
	if !s.bound {
		op, size := op32, uint(4)
		if near {
			op, size = op8, 1
		}
		a.refs = append(a.refs, ref{here + int32(op.n/8), s.at, near})
		s.at = int32(len(a.refs))
		a.waiting++
		a.put(op.w, op.n/8+size)
		return
	}
	if d := s.at - here - 2; short(d) {
		a.put(op8.w|uint64(uint8(d))<<8, 2)
		return
	}
	d := s.at - here - int32(op32.n/8) - 4
	a.put(op32.w|uint64(uint32(d))<<op32.n, op32.n/8+4)
}

// Patch is the offset of a jump's displacement, for PatchRel32.
type Patch int32

// JmpPatch is a jump to be directed later; until then it goes to the next
// instruction. Its displacement lies within a line of 64 bytes, if the code is
// placed at a multiple of 64, so that changing it is one write.
func (a *Asm) JmpPatch() Patch { return a.patch(jmp32) }

// JccPatch is the same with a condition.
func (a *Asm) JccPatch(c Cond) Patch { return a.patch(jcc32(c)) }

func (a *Asm) patch(op word) Patch {
	const line = 64
	at := len(a.Code) + int(op.n/8)
	if in := at % line; in > line-4 {
		a.Nop(line - in)
		at += line - in
	}
	a.put(op.w, op.n/8+4)
	a.Patches = append(a.Patches, Patch(at))
	return Patch(at)
}

// PatchRel32 directs the jump at code[p] to the offset target in code; p+4, the
// next instruction, undoes it. Where the code was put at an offset, add that to
// p. It reports whether p is in code and the target within reach.
//
// The write is one of four bytes within a cache line, so that whoever runs the
// jump sees the old target or the new (SDM vol. 3, Guaranteed Atomic
// Operations). What other threads must do before they run new code at a target
// is the caller's business.
func PatchRel32(code []byte, p Patch, target int) bool {
	d := int64(target) - int64(p) - 4
	if p < 0 || int(p) > len(code)-4 || d != int64(int32(d)) {
		return false
	}
	binary.LittleEndian.PutUint32(code[p:], uint32(d))
	return true
}

// JmpR jumps to the address in r.
func (a *Asm) JmpR(r Reg) { a.rr(opGroup5, S32, 4, r) }

// JmpM jumps to the address in m.
func (a *Asm) JmpM(m Mem) { a.rm(opGroup5, S32, 4, m) }

// CallR calls the address in r.
func (a *Asm) CallR(r Reg) { a.rr(opGroup5, S32, 2, r) }

// CallM calls the address in m.
func (a *Asm) CallM(m Mem) { a.rm(opGroup5, S32, 2, m) }

// Ret returns.
func (a *Asm) Ret() { a.put(0xc3, 1) }

// Int3 traps to a debugger.
func (a *Asm) Int3() { a.put(0xcc, 1) }

// Ud2 is an illegal instruction, for what cannot be reached.
func (a *Asm) Ud2() { a.put(0x0b0f, 2) }

// Nop is n bytes of nothing, in as few instructions as possible.
func (a *Asm) Nop(n int) {
	for n > 0 {
		k := min(n, len(nops)-1)
		a.Code = append(a.Code, nops[k][:k]...)
		n -= k
	}
}

// Align pads with Nop to a multiple of n.
func (a *Asm) Align(n int) {
	if n > 0 {
		a.Nop((n - len(a.Code)%n) % n)
	}
}
