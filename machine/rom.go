// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/binary"

	"tandem/machine/fdt"
	"tandem/machine/state"
)

// rom is the reset ROM: a few instructions that load a0 to a2 and jump, the data
// that they load, and a loop for firmware that has nothing to go on to.
type rom []byte

// Layout of the ROM, in bytes from its base.
const (
	romStart   = 24 // address to jump to
	romDTB     = 32
	romDynamic = 40 // struct fw_dynamic_info of OpenSBI
	romPark    = 96
)

// resetVector loads a0 = hart id, a1 = device tree, a2 = fw_dynamic_info.
var resetVector = []uint32{
	0x00000297,                  // auipc t0, 0
	0x00028613 | romDynamic<<20, // addi  a2, t0, romDynamic
	0xf1402573,                  // csrr  a0, mhartid
	0x0002b583 | romDTB<<20,     // ld    a1, romDTB(t0)
	0x0002b283 | romStart<<20,   // ld    t0, romStart(t0)
	0x00028067,                  // jr    t0
}

// park waits for ever.
var park = []uint32{
	0x10500073, // wfi
	0xffdff06f, // j -4
}

// OpenSBI's fw_dynamic_info, version 2.
const (
	dynamicMagic   = 0x4942_534f
	dynamicVersion = 2
	nextSupervisor = 1
)

func newROM(b Boot) rom {
	r := make([]byte, fdt.ROMSize)
	put := func(at int, words []uint32) {
		for i, w := range words {
			binary.LittleEndian.PutUint32(r[at+4*i:], w)
		}
	}
	put(0, resetVector)
	put(romPark, park)
	next := b.Next
	if next == 0 {
		next = fdt.ROMBase + romPark
	}
	const bootHart = 0
	for i, v := range []uint64{b.Entry, b.DTB, dynamicMagic, dynamicVersion, next, nextSupervisor, 0, bootHart} {
		binary.LittleEndian.PutUint64(r[romStart+8*i:], v)
	}
	return r
}

// Load reads from the ROM.
func (r rom) Load(off uint64, size int) (v uint64, ok bool) {
	for i := range size {
		v |= uint64(r[off+uint64(i)]) << (8 * i)
	}
	return v, true
}

// Store is refused: an access fault.
func (r rom) Store(uint64, int, uint64) bool { return false }

// Reset has nothing to do.
func (r rom) Reset() {}

// State has nothing to visit: the content follows from the Config.
func (r rom) State(*state.Coder) {}
