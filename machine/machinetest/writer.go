// SPDX-License-Identifier: Apache-2.0

package machinetest

import (
	"encoding/binary"

	"tandem/machine"
)

// Writer starts a program, of few instructions, that stores to one page after another
// of a RAM of so many MiB, 2 to 2,048, from the last to the first, again and again: a
// guest that a clone has to keep up with.
func Writer(mib uint32) machine.Boot {
	const base = 0x8000_0000
	var code []byte
	for _, inst := range []uint32{
		0x00000297,               // auipc t0, 0
		0x00001437,               // lui   s0, 1
		0x00000313 | (mib-1)<<20, // li    t1, mib-1
		0x01431313,               // slli  t1, t1, 20
		0x00628333,               // add   t1, t0, t1
		0x00030393,               // mv    t2, t1
		0x0073b023,               // sd    t2, 0(t2)
		0x408383b3,               // sub   t2, t2, s0
		0xfe72ece3,               // bltu  t0, t2, -8
		0xff1ff06f,               // j     -16
	} {
		code = binary.LittleEndian.AppendUint32(code, inst)
	}
	return machine.Boot{Mode: machine.BootELF, Entry: base, DTB: base + uint64(mib)<<20 - 64<<10,
		Segments: []machine.Segment{{Addr: base, Data: code}}}
}
