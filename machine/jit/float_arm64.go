// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/arm64"
)

// Floating point is the host's, with the guest's rounding mode in FPCR, which is
// also told to make every NaN the one that RISC-V has, and the flags gathered in
// FPSR. The bits of results are the same on both, and so are the flags but for
// Underflow: the host looks for tininess before it rounds, RISC-V after (ARM ARM,
// Underflow exceptions; Unpriv. 20.3). They differ where a result is rounded up
// to the least normal number, see tiny. What the host does differently leaves the
// block before rd is written, and the interpreter executes the instruction: it may
// raise its flags again, so a block may leave with flags raised that the guest's
// operation raises too, but with no other.
//
// Blocks touch f registers only where Mode says that they may: mstatus.FS is
// Dirty, so that nothing is to be noted when one is written, and frm is a mode
// that the host has. The first operation of a block that rounds or raises flags
// loads FPCR if no other did since Go entered; package native clears it.

// floatBlock is what is known at the instruction at hand of the block.
type floatBlock struct {
	level float      // of the state that was checked
	boxed uint32     // f registers with a boxed single
	frm   uint8      // what frm was compared with, and equal to
	kept  keptFloats // by f register
	stubs []stub

	in  *Inst
	i   int
	out arm64.Label // to the interpreter, before the instruction; 0 as long as none
}

// keptFloats are the f registers whose value, or lower half, the vector register
// of the same number has too. They are written to memory at once, so that a block
// can be left anywhere.
type keptFloats [numKept]arm64.Size

// The others, and notKept.
const (
	numKept = 28
	notKept = arm64.S8

	v0 arm64.Vec = 28
	v1 arm64.Vec = 29
	v2 arm64.Vec = 30
)

// stub is code out of line. It is entered at label and ends at back.
type stub struct {
	write       func(t *translator, s *stub)
	label, back arm64.Label
	off         arm64.Label // the way to the interpreter
	size        arm64.Size
	result      arm64.Vec
	checked     bool // that the block may use floating point
}

// forget begins a block: nothing is known of the floating-point state.
func (f *floatBlock) forget() { *f = floatBlock{frm: noMode, stubs: f.stubs} }

// need checks that the block may use floating point, and how.
func (t *translator) need(l float) {
	f := &t.fp
	if f.level >= l {
		return
	}
	t.word(arm64.S32, tmp4, t.layout.Float.Mode)
	if l == registers {
		t.Cbz(arm64.S32, tmp4, t.interpret())
	} else {
		t.CmpI(arm64.S32, tmp4, int64(FloatOn))
		t.outOfLine(arm64.NE, stub{write: (*translator).turnOn, off: t.interpret(), checked: f.level == registers})
	}
	f.level = l
}

// turnOn makes the host compute as the guest wants it.
func (t *translator) turnOn(s *stub) {
	if !s.checked {
		t.Cbz(arm64.S32, tmp4, s.off)
	}
	t.computeAsGuest()
}

// computeAsGuest loads the guest's FPCR.
func (t *translator) computeAsGuest() {
	l := &t.layout.Float
	t.word(arm64.S32, tmp4, l.Guest)
	t.Msr(arm64.FPCR, tmp4)
	t.Msr(arm64.FPSR, arm64.ZR)
	t.set(arm64.S32, l.Host, arm64.ZR)
	t.setImm(arm64.S32, l.Mode, uint64(FloatOn))
	t.setImm(arm64.S32, l.WhenDirty, uint64(FloatOn))
}

// changedFS follows a write of mstatus.FS: EQ holds where it is Dirty now.
func (t *translator) changedFS() {
	l := &t.layout.Float
	t.word(arm64.S32, tmp4, l.WhenDirty)
	t.Select(arm64.CSEL, arm64.S32, arm64.EQ, tmp4, tmp4, arm64.ZR)
	t.set(arm64.S32, l.Mode, tmp4)
	t.fp.level = unchecked
}

// compareFRM compares frm with a mode.
func (t *translator) compareFRM(rm uint8) {
	t.word(arm64.S8, tmp4, t.layout.Float.FRM)
	t.CmpI(arm64.S32, tmp4, int64(rm))
}

// Where f registers are is known only to the functions from here to putBits.

func (t *translator) f(s arm64.Size, r uint8) arm64.Mem {
	return t.at(s, state, t.layout.Float.F+int32(r&31)*8)
}

// upper is the upper half of f register r.
func (t *translator) upper(r uint8) int32 { return t.layout.Float.F + int32(r&31)*8 + 4 }

// singles checks operands of a size: singles must be boxed (Unpriv. 21.2).
func (t *translator) singles(s arm64.Size, operands ...uint8) {
	if s != arm64.S32 {
		return
	}
	for _, r := range operands {
		if t.fp.boxed>>(r&31)&1 != 0 {
			continue
		}
		t.word(arm64.S32, tmp4, t.upper(r))
		t.CmpI(arm64.S32, tmp4, -1)
		t.BCond(arm64.NE, t.interpret())
		t.fp.boxed |= 1 << (r & 31)
	}
}

// box writes the upper half of a register whose lower half was written, where
// that was a single.
func (t *translator) box(s arm64.Size, r uint8) {
	bit := uint32(1) << (r & 31)
	if s != arm64.S32 {
		t.fp.boxed &^= bit
	} else if t.fp.boxed&bit == 0 {
		t.setImm(arm64.S32, t.upper(r), 1<<32-1)
		t.fp.boxed |= bit
	}
}

// getF is a vector register with f register r: its own, or to.
func (t *translator) getF(s arm64.Size, to arm64.Vec, r uint8) arm64.Vec {
	if r >= numKept {
		t.LoadV(s, to, t.f(s, r))
		return to
	}
	if t.fp.kept[r] < s {
		t.LoadV(s, arm64.Vec(r), t.f(s, r))
		t.fp.kept[r] = s
	}
	return arm64.Vec(r)
}

// intoF is where to compute f register r.
func intoF(r uint8) arm64.Vec {
	if r >= numKept {
		return v0
	}
	return arm64.Vec(r)
}

// putF ends an operation whose result is in intoF.
func (t *translator) putF(s arm64.Size, r uint8) {
	t.StoreV(s, t.f(s, r), intoF(r))
	t.box(s, r)
	if r < numKept {
		t.fp.kept[r] = s
	}
}

// getBits is a register with the bits of f register r: to.
func (t *translator) getBits(s arm64.Size, to arm64.Reg, r uint8) {
	if r < numKept && t.fp.kept[r] >= s {
		t.MovRV(s, to, arm64.Vec(r))
		return
	}
	t.Load(s, to, t.f(s, r))
}

func (t *translator) putBits(s arm64.Size, r uint8, from arm64.Reg) {
	t.Store(s, t.f(s, r), from)
	t.box(s, r)
	if r < numKept {
		t.fp.kept[r] = notKept
	}
}

// reload follows a miss, during which Go has used the vector registers.
func (t *translator) reload(kept *keptFloats) {
	for r, s := range kept {
		if s != notKept {
			t.LoadV(s, arm64.Vec(r), t.f(s, uint8(r)))
		}
	}
}
