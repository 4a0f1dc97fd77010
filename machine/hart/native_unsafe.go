// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"unsafe"

	"tandem/machine/event"
	"tandem/machine/jit"
	"tandem/machine/jit/native"
)

// layout tells translated code where the fields of Hart and context are. Sound:
// they are offsets within one object, computed by the compiler.
var layout = func() jit.Layout {
	var h Hart
	var c context
	base := unsafe.Offsetof(h.x)
	state := int32(unsafe.Offsetof(h.native) - base)
	n := &h.native
	return jit.Layout{
		PC: state + int32(unsafe.Offsetof(n.pc)), VPage: state + int32(unsafe.Offsetof(n.vpage)),
		RAM: state + int32(unsafe.Offsetof(n.ram)), Off: state + int32(unsafe.Offsetof(n.off)),
		Float:     floatLayout,
		Reason:    state + int32(unsafe.Offsetof(n.reason)),
		ResvValid: int32(unsafe.Offsetof(h.resvValid) - base), ResvAddr: int32(unsafe.Offsetof(h.resvAddr) - base),
		Priv: int32(unsafe.Offsetof(h.priv) - base), MStatus: int32(unsafe.Offsetof(h.mstatus) - base),
		MEDeleg: int32(unsafe.Offsetof(h.medeleg) - base), Traps: int32(unsafe.Offsetof(h.traps) - base),
		SScratch: int32(unsafe.Offsetof(h.sscratch) - base), SEPC: int32(unsafe.Offsetof(h.sepc) - base),
		SCause: int32(unsafe.Offsetof(h.scause) - base), STVal: int32(unsafe.Offsetof(h.stval) - base),
		STVec:   int32(unsafe.Offsetof(h.stvec) - base),
		Pending: state + int32(unsafe.Offsetof(n.pending)), TLB: state + int32(unsafe.Offsetof(n.tlb)),
		TLBs:     state + int32(unsafe.Offsetof(n.tlbs)),
		ClockEnd: state + int32(unsafe.Offsetof(n.clockEnd)), ClockBase: state + int32(unsafe.Offsetof(n.clockBase)),
		ClockRate: state + int32(unsafe.Offsetof(n.clockRate)), TimeOK: state + int32(unsafe.Offsetof(n.timeOK)),
		ZeroOK:    state + int32(unsafe.Offsetof(n.zeroOK)),
		RateShift: event.RateShift,
		Read:      int32(unsafe.Offsetof(c.read)), Write: int32(unsafe.Offsetof(c.write)), Jumps: int32(unsafe.Offsetof(c.jumps)),
		ReadPairs: int32(unsafe.Offsetof(c.readPairs)), WritePairs: int32(unsafe.Offsetof(c.writePairs)),
		Paired: int32(unsafe.Offsetof(c.paired)), ReadEntries: readEntries, WriteEntries: writeEntries,
		Target: state + int32(unsafe.Offsetof(n.target)), Address: state + int32(unsafe.Offsetof(n.address)),
		Site: state + int32(unsafe.Offsetof(n.site)), Save: state + int32(unsafe.Offsetof(n.save)),
	}
}()

// place is where a context is, from x. Sound: contexts lie in the same object.
func (h *Hart) place(c *context) int64 {
	return int64(uintptr(unsafe.Pointer(c)) - uintptr(unsafe.Pointer(&h.x)))
}

// enter runs translated code. Sound: h and data are heap objects that outlive the
// call; translated code writes only to h's registers, reservation and native
// state, which hold no pointers, and to guest RAM at offsets from a TLB entry.
func enter(h *Hart, code uintptr, data *context) (left uint64) {
	return native.Enter(code, unsafe.Pointer(&h.x), unsafe.Pointer(data), h.left)
}
