// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"unsafe"

	"tandem/machine/jit"
	"tandem/machine/jit/native"
)

// layout tells translated code where the fields of Hart and context are. Sound:
// they are offsets within one object, computed by the compiler.
var layout = func() jit.Layout {
	var h Hart
	var c context
	state := int32(unsafe.Offsetof(h.native) - unsafe.Offsetof(h.x))
	n := &h.native
	return jit.Layout{
		PC: state + int32(unsafe.Offsetof(n.pc)), VPage: state + int32(unsafe.Offsetof(n.vpage)),
		RAM: state + int32(unsafe.Offsetof(n.ram)), Off: state + int32(unsafe.Offsetof(n.off)),
		Reason:    state + int32(unsafe.Offsetof(n.reason)),
		ResvValid: int32(unsafe.Offsetof(h.resvValid) - unsafe.Offsetof(h.x)),
		ResvAddr:  int32(unsafe.Offsetof(h.resvAddr) - unsafe.Offsetof(h.x)),
		Read:      int32(unsafe.Offsetof(c.read)), Write: int32(unsafe.Offsetof(c.write)), Jumps: int32(unsafe.Offsetof(c.jumps)),
		ReadEntries: readEntries, WriteEntries: writeEntries, JumpEntries: jit.JumpEntries,
	}
}()

// enter runs translated code. Sound: h and data are heap objects that outlive the
// call; translated code writes only to h's registers, reservation and native
// state, which hold no pointers, and to guest RAM at offsets from a TLB entry.
func enter(h *Hart, code uintptr, data *context) (left uint64) {
	return native.Enter(code, unsafe.Pointer(&h.x), unsafe.Pointer(data), h.left)
}
