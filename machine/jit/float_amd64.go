// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"slices"

	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// Floating point is the host's, with the guest's rounding mode in MXCSR and the
// flags gathered there. The bits of a result that is not a NaN, and the flags,
// tininess included, are the same on both; a NaN is made canonical. What the
// host's instructions do differently leaves the block before rd is written, and
// the interpreter executes the instruction: it may raise its flags again, so a
// unit may leave with flags raised that the guest's operation raises too, but
// with no other.
//
// Blocks touch f registers only where Mode says that they may: mstatus.FS is
// Dirty, so that nothing is to be noted when one is written, and frm is a mode
// that the host has. The first operation of a block that rounds or raises flags
// loads MXCSR if no other did since Go entered; package native restores it.

// floatBlock is what is known at the instruction at hand of the block.
type floatBlock struct {
	level float  // of the state that was checked
	boxed uint32 // f registers with a boxed single
	frm   uint8  // what frm was compared with, and equal to
	kept  [16]kept
	next  uint8 // place of kept
	stubs []stub

	in  *Inst
	i   int
	out amd64.Label // to the interpreter, before the instruction; 0 as long as none
}

// kept says of which f register an XMM register has the value too.
type kept struct {
	valid bool
	reg   uint8
	size  amd64.Size
}

// stub is code out of line. It is entered at label and ends at back.
type stub struct {
	write       func(t *translator, s *stub)
	label, back amd64.Label
	off         amd64.Label // the way to the interpreter
	in          *Inst
	size        amd64.Size
	checked     bool // that the block may use floating point
}

// The temporaries.
const (
	xmm0 amd64.Xmm = iota
	xmm1
	xmm2
)

// forget begins a block: nothing is known of the floating-point state.
func (f *floatBlock) forget() { *f = floatBlock{frm: noMode, stubs: f.stubs} }

// need checks that the block may use floating point, and how.
func (t *translator) need(l float) {
	f, mode := &t.fp, amd64.At(state, t.layout.Float.Mode)
	if f.level >= l {
		return
	}
	if l == registers {
		t.MI(amd64.CMP, amd64.S32, mode, int32(FloatOff))
		t.Jcc(amd64.E, t.interpret())
	} else {
		t.MI(amd64.CMP, amd64.S32, mode, int32(FloatOn))
		t.outOfLine(amd64.NE, stub{write: (*translator).turnOn, off: t.interpret(), checked: f.level == registers})
	}
	f.level = l
}

// turnOn makes the host compute as the guest wants it.
func (t *translator) turnOn(s *stub) {
	mode := amd64.At(state, t.layout.Float.Mode)
	if !s.checked {
		t.MI(amd64.CMP, amd64.S32, mode, int32(FloatOff))
		t.Jcc(amd64.E, s.off)
	}
	t.computeAsGuest()
}

// computeAsGuest loads the guest's MXCSR.
func (t *translator) computeAsGuest() {
	l := &t.layout.Float
	t.StMXCSR(t.word(l.Host))
	t.LdMXCSR(t.word(l.Guest))
	t.StoreImm(amd64.S32, t.word(l.Mode), int32(FloatOn))
	t.StoreImm(amd64.S32, t.word(l.WhenDirty), int32(FloatOn))
}

// live reports whether the host's registers have floating-point state.
func (f *floatBlock) live() bool {
	return f.level == computing || slices.ContainsFunc(f.kept[:], func(k kept) bool { return k.valid })
}

// changedFS follows a write of mstatus.FS whose new value's complement is in not,
// which it clobbers.
func (t *translator) changedFS(not amd64.Reg) {
	l, dirty, done := &t.layout.Float, t.NewLabel(), t.NewLabel()
	t.TestI(amd64.S32, not, int32(riscv.StatusFS))
	t.JccShort(amd64.E, dirty)
	t.StoreImm(amd64.S32, amd64.At(state, l.Mode), int32(FloatOff))
	t.JmpShort(done)
	t.Bind(dirty)
	t.Load(amd64.S32, not, amd64.At(state, l.WhenDirty))
	t.Store(amd64.S32, amd64.At(state, l.Mode), not)
	t.Bind(done)
	t.fp.level = unchecked
}

// compareFRM compares frm with a mode.
func (t *translator) compareFRM(rm uint8) {
	t.MI(amd64.CMP, amd64.S8, t.word(t.layout.Float.FRM), int32(rm))
}

// Where f registers are is known only to the functions from here to putBits.

func (t *translator) f(r uint8) amd64.Mem { return amd64.At(state, t.layout.Float.F+int32(r&31)*8) }

// singles checks operands of a size: singles must be boxed (Unpriv. 21.2).
func (t *translator) singles(s amd64.Size, operands ...uint8) {
	if s != amd64.S32 {
		return
	}
	for _, r := range operands {
		if t.fp.boxed>>(r&31)&1 != 0 {
			continue
		}
		upper := t.f(r)
		upper.Disp += 4
		t.MI(amd64.CMP, amd64.S32, upper, -1)
		t.Jcc(amd64.NE, t.interpret())
		t.fp.boxed |= 1 << (r & 31)
	}
}

// box writes the upper half of a register whose lower half was written, where
// that was a single.
func (t *translator) box(s amd64.Size, r uint8) {
	bit := uint32(1) << (r & 31)
	if s != amd64.S32 {
		t.fp.boxed &^= bit
	} else if t.fp.boxed&bit == 0 {
		upper := t.f(r)
		upper.Disp += 4
		t.StoreImm(amd64.S32, upper, -1)
		t.fp.boxed |= bit
	}
}

// f registers are written to memory at once, so that a block can be left anywhere;
// the XMM registers from firstKept on keep the last values for what follows.
const firstKept = 3

// find returns the XMM register that has f register r, or at least its lower half
// where that is asked for.
func (t *translator) find(s amd64.Size, r uint8) (amd64.Xmm, bool) {
	for x := firstKept; x < len(t.fp.kept); x++ {
		if k := &t.fp.kept[x]; k.valid && k.reg == r && k.size >= s {
			return amd64.Xmm(x), true
		}
	}
	return 0, false
}

func (t *translator) drop(r uint8) {
	for x := range t.fp.kept {
		if k := &t.fp.kept[x]; k.reg == r {
			k.valid = false
		}
	}
}

func (t *translator) keep(s amd64.Size, r uint8, from amd64.Xmm) {
	t.drop(r)
	f := &t.fp
	x := firstKept + f.next%(16-firstKept)
	f.next++
	f.kept[x] = kept{true, r, s}
	t.MovX(amd64.Xmm(x), from)
}

func (t *translator) getF(s amd64.Size, to amd64.Xmm, r uint8) {
	if x, ok := t.find(s, r); ok {
		t.MovX(to, x)
		return
	}
	t.LoadX(s, to, t.f(r))
}

func (t *translator) opF(s amd64.Size, op amd64.SSE, dst amd64.Xmm, r uint8) {
	if x, ok := t.find(s, r); ok {
		t.XX(op, dst, x)
		return
	}
	t.XM(op, dst, t.f(r))
}

func (t *translator) compareF(s amd64.Size, op amd64.Compare, x amd64.Xmm, r uint8) {
	if y, ok := t.find(s, r); ok {
		t.Compare(op, x, y)
		return
	}
	t.CompareM(op, x, t.f(r))
}

func (t *translator) fusedF(op amd64.FMA, s amd64.Size, dst, x amd64.Xmm, r uint8) {
	if y, ok := t.find(s, r); ok {
		t.FMA(op, s, dst, x, y)
		return
	}
	t.FMAM(op, s, dst, x, t.f(r))
}

func (t *translator) putF(s amd64.Size, r uint8, from amd64.Xmm) {
	t.StoreX(s, t.f(r), from)
	t.box(s, r)
	t.keep(s, r, from)
}

func (t *translator) getBits(s amd64.Size, to amd64.Reg, r uint8) { t.Load(s, to, t.f(r)) }

func (t *translator) putBits(s amd64.Size, r uint8, from amd64.Reg) {
	t.Store(s, t.f(r), from)
	t.box(s, r)
	t.drop(r)
}
