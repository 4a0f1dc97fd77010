// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/jit"
	"tandem/machine/riscv"
)

// armFloat says what translated code may do with floating point. It notes
// nothing in mstatus.FS, and so must find it Dirty; and the host has no RMM. Where
// translated code changes FS, it goes over from one to the other; frm changes
// where Go runs.
func (h *Hart) armFloat() {
	f := &h.native.float
	f.Mode, f.WhenDirty = uint32(jit.FloatOff), uint32(jit.FloatOff)
	if int(h.frm) < len(hostRound) {
		f.WhenDirty, f.Guest = uint32(jit.FloatReady), hostRound[h.frm]
	}
	if h.mstatus&riscv.StatusFS == riscv.StatusFS {
		f.Mode = f.WhenDirty
	}
}

// takeFlags adds the flags that translated code raised.
func (h *Hart) takeFlags() {
	if f := &h.native.float; f.WhenDirty == uint32(jit.FloatOn) {
		h.fflags |= hostFlags[f.Guest%uint32(len(hostFlags))]
	}
}
