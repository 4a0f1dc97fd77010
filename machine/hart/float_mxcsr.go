// SPDX-License-Identifier: Apache-2.0

//go:build !arm64

package hart

import "tandem/machine/softfloat"

// MXCSR (SDM vol. 1, 10.2.3): flags, of which the second is for subnormal
// operands, masks of all exceptions, and the rounding mode.
const (
	mxcsrMasks = 0x1f80
	mxcsrRound = 13
)

// hostRound is MXCSR without flags by frm.
var hostRound = [4]uint32{
	softfloat.RNE: mxcsrMasks, softfloat.RTZ: mxcsrMasks | 3<<mxcsrRound,
	softfloat.RDN: mxcsrMasks | 1<<mxcsrRound, softfloat.RUP: mxcsrMasks | 2<<mxcsrRound,
}

// hostFlags are fflags by the flags of MXCSR.
var hostFlags = func() (f [1 << 6]uint8) {
	for i := range f {
		for bit, flag := range [...]softfloat.Flags{softfloat.NV, 0, softfloat.DZ, softfloat.OF, softfloat.UF, softfloat.NX} {
			if i>>bit&1 != 0 {
				f[i] |= uint8(flag)
			}
		}
	}
	return f
}()
