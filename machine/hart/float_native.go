// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/jit"
	"tandem/machine/riscv"
	"tandem/machine/softfloat"
)

// MXCSR (SDM vol. 1, 10.2.3): flags, of which the second is for subnormal
// operands, masks of all exceptions, and the rounding mode.
const (
	mxcsrFlags = 63
	mxcsrMasks = 0x1f80
	mxcsrRound = 13
)

// hostRound is the rounding mode of MXCSR by that of frm.
var hostRound = [4]uint32{softfloat.RNE: 0, softfloat.RTZ: 3, softfloat.RDN: 1, softfloat.RUP: 2}

// hostFlags are fflags by the flags of MXCSR.
var hostFlags = func() (f [mxcsrFlags + 1]uint8) {
	for i := range f {
		for bit, flag := range [...]softfloat.Flags{softfloat.NV, 0, softfloat.DZ, softfloat.OF, softfloat.UF, softfloat.NX} {
			if i>>bit&1 != 0 {
				f[i] |= uint8(flag)
			}
		}
	}
	return f
}()

// armFloat says what translated code may do with floating point. It notes
// nothing in mstatus.FS, and so must find it Dirty; and the host has no RMM. Where
// translated code changes FS, it goes over from one to the other; frm changes
// where Go runs.
func (h *Hart) armFloat() {
	f := &h.native.float
	f.Mode, f.WhenDirty = uint32(jit.FloatOff), uint32(jit.FloatOff)
	if int(h.frm) < len(hostRound) {
		f.WhenDirty, f.Guest = uint32(jit.FloatReady), mxcsrMasks|hostRound[h.frm]<<mxcsrRound
	}
	if h.mstatus&riscv.StatusFS == riscv.StatusFS {
		f.Mode = f.WhenDirty
	}
}

// takeFlags adds the flags that translated code raised.
func (h *Hart) takeFlags() {
	if f := &h.native.float; f.WhenDirty == uint32(jit.FloatOn) {
		h.fflags |= hostFlags[f.Guest&mxcsrFlags]
	}
}
