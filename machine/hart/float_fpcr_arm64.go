// SPDX-License-Identifier: Apache-2.0

package hart

import "tandem/machine/softfloat"

// FPCR (ARM ARM, C5.2): every NaN is the default one, which is RISC-V's, and the
// rounding mode.
const (
	fpcrDN    = 1 << 25
	fpcrRound = 22
)

// hostRound is FPCR by frm.
var hostRound = [4]uint32{
	softfloat.RNE: fpcrDN, softfloat.RTZ: fpcrDN | 3<<fpcrRound,
	softfloat.RDN: fpcrDN | 2<<fpcrRound, softfloat.RUP: fpcrDN | 1<<fpcrRound,
}

// hostFlags are fflags by the flags of FPSR.
var hostFlags = func() (f [1 << 5]uint8) {
	for i := range f {
		for bit, flag := range [...]softfloat.Flags{softfloat.NV, softfloat.DZ, softfloat.OF, softfloat.UF, softfloat.NX} {
			if i>>bit&1 != 0 {
				f[i] |= uint8(flag)
			}
		}
	}
	return f
}()
