// SPDX-License-Identifier: Apache-2.0

package jit

import "tandem/machine/riscv"

// Compilers for plain RV64GC write a rotation as two shifts and an OR, and every
// 32-bit result is extended by its sign. Mostly nobody looks: the parts of the
// rotation, and the upper halves, are overwritten unread. A result that is
// overwritten within its block need only be right where the block is left before
// that. Ways out are out of line, and make up for it.

// treatment is how an instruction of a block is translated.
type treatment struct {
	skip  bool // not at its place: its result is made where the block is left
	raw   bool // with anything for the upper half of its result
	wide  bool // in 64 bits, which gives the same as in 32
	until int  // the index of the instruction that writes the register next
}

// lazy plans the treatment of a block's instructions.
type lazy struct {
	*block
	defs []def
	last [256]int // the latest def of each register, -1 for none
}

// def is what an instruction writes.
type def struct {
	uses   int    // in the block
	source [2]int // the defs of its operands, -1 for what the block begins with
	word   bool   // it is the sign extension of its lower half
	small  bool   // it is less than 2^31, and not negative
	upper  bool   // its upper half is used
}

// plan fills how of a block, and fuses some of its instructions.
func (l *lazy) plan(b *block) {
	l.block = b
	clear(b.how)
	l.link()
	for i := range b.insts {
		l.fuse(i)
	}
	for i := range b.insts {
		b.how[i].skip = l.defs[i].uses == 0 && l.skippable(i)
	}
	l.link()
	l.demand()
	l.choose()
}

// link finds who uses what.
func (l *lazy) link() {
	l.defs = append(l.defs[:0], make([]def, len(l.insts))...)
	for r := range l.last {
		l.last[r] = -1
	}
	for i := range l.insts {
		in, d := &l.insts[i], &l.defs[i]
		u := usesOf(in)
		for k, r := range [...]uint8{u.rs1, u.rs2} {
			d.source[k] = l.last[r]
			l.use(l.last[r])
		}
		if !isPlain(in.Op) {
			for _, from := range l.last[:32] {
				l.use(from)
			}
		}
		d.word = isWord(in, u.rs1 == 0 || l.word(d.source[0]), u.rs2 == 0 || l.word(d.source[1]))
		first, second := u.rs1 == 0 || l.small(d.source[0]), u.rs2 == 0 || l.small(d.source[1])
		d.small = isSmall(in, first, second)
		l.how[i].wide = in.Op == riscv.SUBW && first && second || in.Op == riscv.ADDIW && first && in.Imm <= 0
		l.how[i].until = len(l.insts)
		if u.rd == 0 || u.rd == Sink {
			continue
		}
		if old := l.last[u.rd]; old >= 0 {
			l.how[old].until = i
		}
		l.last[u.rd] = i
	}
}

func (l *lazy) use(d int) {
	if d >= 0 {
		l.defs[d].uses++
	}
}

func (l *lazy) word(d int) bool  { return d >= 0 && l.defs[d].word }
func (l *lazy) small(d int) bool { return d >= 0 && l.defs[d].small }

// rotations are, by their right shift, the left shift that makes one of them.
var rotations = map[riscv.Op]struct {
	left, rotate riscv.Op
	bits         int32
}{
	riscv.SRLIW: {riscv.SLLIW, riscv.RORIW, 32},
	riscv.SRLI:  {riscv.SLLI, riscv.RORI, 64},
}

// fuse makes one instruction of i and the shifts that lead to it, where they are a
// rotation or an extension by zeros.
func (l *lazy) fuse(i int) {
	in, s := &l.insts[i], l.defs[i].source
	switch in.Op {
	case riscv.OR, riscv.XOR, riscv.ADD, riscv.ADDW:
		if s[0] < 0 || s[1] < 0 || s[0] == s[1] || l.fuseRotation(i, s[0], s[1]) {
			return
		}
		l.fuseRotation(i, s[1], s[0])
	case riscv.SRLI: // of SLLI by 32, to the same place or left of it
		if s[0] < 0 || l.insts[s[0]].Op != riscv.SLLI || l.insts[s[0]].Imm != 32 || in.Imm > 32 || !l.intact(s[0], i) {
			return
		}
		l.replace(i, riscv.SLLI_UW, 32-in.Imm, s[0])
	}
}

func (l *lazy) fuseRotation(i, left, right int) bool {
	x, y := &l.insts[left], &l.insts[right]
	r, ok := rotations[y.Op]
	if !ok || x.Op != r.left || x.Rs1 != y.Rs1 || x.Rs1 == 0 || x.Imm == 0 || x.Imm+y.Imm != r.bits ||
		l.insts[i].Op == riscv.ADDW && r.bits != 32 ||
		l.defs[left].source[0] != l.defs[right].source[0] || !l.intact(left, i) || !l.intact(right, i) {
		return false
	}
	l.replace(i, r.rotate, y.Imm, left, right)
	return true
}

// intact reports whether the host still has the operand of shift d at i: nothing
// has written its register, or only what is used by i alone and will be skipped.
func (l *lazy) intact(d, i int) bool {
	for j := l.defs[d].source[0] + 1; j < i; j++ {
		if usesOf(&l.insts[j]).rd != l.insts[d].Rs1 {
			continue
		}
		if s := l.defs[i].source; j != s[0] && j != s[1] || l.defs[j].uses != 1 || !l.skippable(j) {
			return false
		}
	}
	return true
}

// replace makes i an operation on the operand of shifts.
func (l *lazy) replace(i int, op riscv.Op, imm int32, shifts ...int) {
	in := &l.insts[i]
	in.Op, in.Imm, in.Rs1, in.Rs2 = op, imm, l.insts[shifts[0]].Rs1, 0
	for _, d := range shifts {
		l.defs[d].uses--
	}
	l.use(l.defs[shifts[0]].source[0])
	l.defs[i].source = [2]int{l.defs[shifts[0]].source[0], -1}
}

// skippable reports whether the result of d can be made wherever the block is left
// before another takes its place.
func (l *lazy) skippable(d int) bool {
	in, until := &l.insts[d], l.how[d].until
	if until == len(l.insts) || !isPure(in.Op) {
		return false
	}
	u := usesOf(in)
	for j := d + 1; j < until; j++ {
		rd := usesOf(&l.insts[j]).rd
		if rd == Sink || rd != u.rs1 && rd != u.rs2 || rd == u.rd {
			continue
		}
		for k := j + 1; k <= until; k++ {
			if !isPure(l.insts[k].Op) {
				return false
			}
		}
	}
	return true
}

// demand finds whose upper half is used, from the end of the block back.
func (l *lazy) demand() {
	var needed [256]bool
	all := func() {
		for r := range needed {
			needed[r] = true
		}
	}
	all()
	for i := len(l.insts) - 1; i >= 0; i-- {
		in, d := &l.insts[i], &l.defs[i]
		u := usesOf(in)
		d.upper = needed[u.rd] || l.how[i].skip
		needed[u.rd] = false
		if !isPlain(in.Op) {
			all()
			continue
		}
		first, second := usesUpper(in, d.upper || !d.word)
		needed[u.rs1] = needed[u.rs1] || first
		needed[u.rs2] = needed[u.rs2] || second
	}
}

// choose says which results are raw, and makes copies of needless extensions.
func (l *lazy) choose() {
	for i := range l.insts {
		in, d, h := &l.insts[i], &l.defs[i], &l.how[i]
		if h.skip {
			continue
		}
		rawSource := d.source[0] >= 0 && l.how[d.source[0]].raw || d.source[1] >= 0 && l.how[d.source[1]].raw
		h.raw = d.word && !d.upper && h.until < len(l.insts) && (extends[in.Op] || rawSource)
		if in.Op == riscv.ADDIW && in.Imm == 0 && l.word(d.source[0]) && !rawSource {
			in.Op = riscv.ADDI
		}
	}
}

// repair appends what makes all registers right before instruction i.
func (b *block) repair(to []Inst, i int) []Inst {
	for d := range b.insts[:i] {
		h, in := &b.how[d], &b.insts[d]
		switch {
		case h.until < i:
		case h.skip:
			to = append(to, *in)
		case h.raw:
			to = append(to, Inst{Op: riscv.ADDIW, Rd: in.Rd, Rs1: in.Rd})
		}
	}
	return to
}

// isPlain reports whether usesOf says all that an operation reads and writes.
func isPlain(op riscv.Op) bool {
	if isFloat(op) {
		return op == riscv.FLW || op == riscv.FLD || op == riscv.FSW || op == riscv.FSD
	}
	return !isAtomic(op) && riscv.FormatOf(op) != riscv.FormatNone && riscv.FormatOf(op) != riscv.FormatRs1 &&
		riscv.FormatOf(op) != riscv.FormatRs12 && !isCSR(op)
}

// isPure reports whether an operation does nothing but write its result.
func isPure(op riscv.Op) bool {
	if isFloat(op) || isAtomic(op) || op == riscv.JALR || loads[op].size != 0 {
		return false
	}
	switch riscv.FormatOf(op) {
	case riscv.FormatR, riscv.FormatR1, riscv.FormatI, riscv.FormatShift, riscv.FormatU:
		return true
	}
	return false
}

// extends has the operations whose 32-bit result is extended by its sign.
var extends = [riscv.NumOps]bool{
	riscv.ADDW: true, riscv.SUBW: true, riscv.ADDIW: true, riscv.SLLIW: true, riscv.SRLIW: true, riscv.SRAIW: true,
	riscv.SLLW: true, riscv.SRLW: true, riscv.SRAW: true, riscv.RORIW: true, riscv.RORW: true, riscv.ROLW: true,
	riscv.MULW: true,
}

// isWord reports whether a result is the sign extension of its lower half, given
// which of the operands are.
func isWord(in *Inst, first, second bool) bool {
	switch in.Op {
	case riscv.LW, riscv.LH, riscv.LHU, riscv.LB, riscv.LBU, riscv.LUI, riscv.SLT, riscv.SLTU, riscv.SLTI, riscv.SLTIU,
		riscv.SEXT_B, riscv.SEXT_H, riscv.ZEXT_H, riscv.BEXT, riscv.BEXTI:
		return true
	case riscv.ADDI:
		return first && (in.Rs1 == 0 || in.Imm == 0)
	case riscv.ANDI:
		return first || in.Imm >= 0
	case riscv.ORI, riscv.XORI:
		return first
	case riscv.AND, riscv.OR, riscv.XOR:
		return first && second
	case riscv.SRLI:
		return in.Imm > 32
	case riscv.SRAI:
		return in.Imm >= 32
	}
	return extends[in.Op]
}

// isSmall is the same for numbers below 2^31. However they are made, the host has
// zeros for their upper halves.
func isSmall(in *Inst, first, second bool) bool {
	switch in.Op {
	case riscv.LBU, riscv.LHU, riscv.SLT, riscv.SLTU, riscv.SLTI, riscv.SLTIU, riscv.ZEXT_H, riscv.BEXT, riscv.BEXTI:
		return true
	case riscv.SRLIW:
		return in.Imm > 0
	case riscv.SRLI:
		return in.Imm > 32
	case riscv.ANDI:
		return first || in.Imm >= 0
	case riscv.AND:
		return first || second
	case riscv.OR, riscv.XOR:
		return first && second
	case riscv.ADDI:
		return first && in.Imm == 0 || in.Rs1 == 0 && in.Imm >= 0
	}
	return false
}

// usesUpper reports whether the upper halves of the operands matter; upper says
// whether that of the result does.
func usesUpper(in *Inst, upper bool) (first, second bool) {
	if extends[in.Op] {
		return false, false
	}
	switch in.Op {
	case riscv.SB, riscv.SH, riscv.SW:
		return true, false
	case riscv.SEXT_B, riscv.SEXT_H, riscv.ZEXT_H, riscv.SLLI_UW:
		return false, false
	case riscv.ADD_UW, riscv.SH1ADD_UW, riscv.SH2ADD_UW, riscv.SH3ADD_UW:
		return false, true
	case riscv.SLLI:
		return in.Imm < 32, false
	case riscv.ANDI:
		return upper && in.Imm < 0, false
	case riscv.ADDI:
		return upper || in.Imm != 0, false
	case riscv.ORI, riscv.XORI, riscv.AND, riscv.OR, riscv.XOR:
		return upper, upper
	}
	return true, true
}
