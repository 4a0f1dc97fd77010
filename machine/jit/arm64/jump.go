// SPDX-License-Identifier: Apache-2.0

package arm64

import "encoding/binary"

// Label is a place in the code that branches name before or after it is known.
type Label int32

// labelState is a label's offset or, while that is unknown, the newest of the
// branches that wait for it.
type labelState struct {
	bound bool
	at    int32 // offset, or index in refs plus 1
}

// ref is a branch that waits for its label.
type ref struct {
	at   int32 // offset of the instruction
	next int32 // an older ref to the same label: index plus 1
	kind reach
}

// reach is how an instruction holds a distance.
type reach uint8

const (
	imm26 reach = iota // b, bl: 128 MiB either way
	imm19              // b.cond, cbz: 1 MiB
	imm14              // tbz: 32 KiB
	imm21              // adr: 1 MiB, in bytes
)

// reaches are the bits of a distance, and where they begin.
var reaches = [...]struct{ bits, at uint }{imm26: {26, 0}, imm19: {19, 5}, imm14: {14, 5}, imm21: {21, 5}}

// field is an instruction's field for a distance in bytes, and whether it
// reaches.
func (k reach) field(d int64) (uint32, bool) {
	if k == imm21 { // the low two bits apart
		return uint32(d)&3<<29 | uint32(d>>2)&(1<<19-1)<<5, d == d<<43>>43
	}
	r := reaches[k]
	n := d >> 2
	return uint32(n) & (1<<r.bits - 1) << r.at, d&3 == 0 && n == n<<(64-r.bits)>>(64-r.bits)
}

// distance is field, with a failure noted.
func (a *Asm) distance(k reach, d int64) uint32 {
	f, ok := k.field(d)
	if !ok {
		a.fail(ErrRange)
	}
	return f
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

// Bind puts the label here, and directs the branches that wait for it.
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
		w := binary.LittleEndian.Uint32(a.Code[r.at:])
		binary.LittleEndian.PutUint32(a.Code[r.at:], w|a.distance(r.kind, int64(here-r.at)))
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

// branch writes an instruction with the distance to a label.
func (a *Asm) branch(w uint32, k reach, l Label) {
	s := a.label(l)
	if s == nil {
		return
	}
	here := int32(len(a.Code))
	if s.bound {
		a.put(w | a.distance(k, int64(s.at-here)))
		return
	}
	a.refs = append(a.refs, ref{here, s.at, k})
	s.at = int32(len(a.refs))
	a.waiting++
	a.put(w)
}

const opB uint32 = 0x14000000

// B branches to the label.
func (a *Asm) B(l Label) { a.branch(opB, imm26, l) }

// Bl branches to the label, with the return address in LR.
func (a *Asm) Bl(l Label) { a.branch(0x94000000, imm26, l) }

// BCond branches to the label if c holds.
func (a *Asm) BCond(c Cond, l Label) { a.branch(0x54000000|a.cond(c), imm19, l) }

// Cbz branches to the label if r is zero.
func (a *Asm) Cbz(s Size, r Reg, l Label) { a.branch(0x34000000|a.sf(s)|a.z(r), imm19, l) }

// Cbnz branches to the label if r is not zero.
func (a *Asm) Cbnz(s Size, r Reg, l Label) { a.branch(0x35000000|a.sf(s)|a.z(r), imm19, l) }

// Tbz branches to the label, within 32 KiB, if a bit of r is zero.
func (a *Asm) Tbz(r Reg, bit uint, l Label) { a.branch(0x36000000|a.bit(bit)|a.z(r), imm14, l) }

// Tbnz branches to the label, within 32 KiB, if a bit of r is one.
func (a *Asm) Tbnz(r Reg, bit uint, l Label) { a.branch(0x37000000|a.bit(bit)|a.z(r), imm14, l) }

// bit is a bit's number, in two pieces.
func (a *Asm) bit(n uint) uint32 { return a.in(n, 64)>>5<<31 | a.in(n, 64)&31<<19 }

// Adr is dst = the label's address.
func (a *Asm) Adr(dst Reg, l Label) { a.branch(0x10000000|a.z(dst), imm21, l) }

// Br branches to the address in r.
func (a *Asm) Br(r Reg) { a.put(0xd61f0000 | a.z(r)<<5) }

// Blr branches to the address in r, with the return address in LR.
func (a *Asm) Blr(r Reg) { a.put(0xd63f0000 | a.z(r)<<5) }

// Ret returns to the address in LR.
func (a *Asm) Ret() { a.put(0xd65f0000 | uint32(LR)<<5) }

// Patch is the offset of an instruction, for PatchB.
type Patch int32

// BPatch is a branch to be directed later; until then it goes to the next
// instruction.
func (a *Asm) BPatch() Patch {
	p := Patch(len(a.Code))
	a.put(opB | 1)
	a.Patches = append(a.Patches, p)
	return p
}

// PatchB makes the instruction at code[p] a branch to the offset target in code;
// p+4, the next instruction, undoes a BPatch. Where the code was put at an
// offset, add that to p. It reports whether p is an instruction in code, and
// target one within reach.
//
// The write is one of four aligned bytes, and of those instructions that may be
// changed while others run them, B is one: they run the old or the new (ARM ARM,
// Concurrent modification and execution of instructions). They may run the old
// until the instruction caches were told.
func PatchB(code []byte, p Patch, target int) bool {
	field, ok := imm26.field(int64(target) - int64(p))
	if p < 0 || p&3 != 0 || int(p) > len(code)-4 || !ok {
		return false
	}
	binary.LittleEndian.PutUint32(code[p:], opB|field)
	return true
}

// Align pads with Nop to a multiple of n.
func (a *Asm) Align(n int) {
	for n > 0 && len(a.Code)%n != 0 && n%4 == 0 {
		a.Nop()
	}
}
