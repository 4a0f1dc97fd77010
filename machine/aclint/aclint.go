// SPDX-License-Identifier: Apache-2.0

// Package aclint is the core-local interruptor: software interrupts between
// harts and the machine timer, laid out as SiFive's CLINT, which is what the
// RISC-V ACLINT specification's MSWI and MTIMER devices are one after the other.
//
// mtime is guest time, the same counter as the `time` CSR, and guest time is an
// input of the machine that no guest can write (design: it never runs
// backward). So stores to mtime are ignored. The spec lets them set the timer,
// but no system we know of does on a machine with one timer device.
package aclint

import (
	"tandem/machine/event"
	"tandem/machine/state"
)

// Size of the register space in bytes.
const Size = 0x1_0000

// Register map. msip takes 4-byte accesses; the timer registers 4 and 8.
const (
	msipBase     = 0      // 4 bytes per hart, bit 0
	mtimecmpBase = 0x4000 // 8 bytes per hart
	mtime        = 0xbff8
	maxHarts     = (mtime - mtimecmpBase) / 8
)

// Never is a time that doesn't come: mtimecmp at power-on.
const Never = ^event.Ticks(0)

// ACLINT is the device. Its output is what it tells msip and timer.
type ACLINT struct {
	harts []hart
	now   func() event.Ticks
	msip  func(hart int, level bool)
	timer func(hart int)
}

type hart struct {
	msip     bool
	mtimecmp event.Ticks
}

// New returns a device for a number of harts. now is guest time; msip is told
// when a hart's software interrupt rises or falls; timer is told when a hart's
// mtimecmp was written, so that the machine computes anew when it is due.
func New(harts int, now func() event.Ticks, msip func(hart int, level bool), timer func(hart int)) *ACLINT {
	if harts < 1 || harts > maxHarts {
		panic("aclint: number of harts")
	}
	d := &ACLINT{harts: make([]hart, harts), now: now, msip: msip, timer: timer}
	for i := range d.harts {
		d.harts[i].mtimecmp = Never
	}
	return d
}

// MTimeCmp returns the time at or after which a hart's timer interrupt is pending.
func (d *ACLINT) MTimeCmp(hart int) event.Ticks { return d.harts[hart].mtimecmp }

// Load reads a register. Reserved registers read as zero.
func (d *ACLINT) Load(off uint64, size int) (uint64, bool) {
	switch {
	case !takes(off, size):
		return 0, false
	case off < mtimecmpBase:
		if h := d.hart((off - msipBase) / 4); h != nil && h.msip {
			return 1, true
		}
		return 0, true
	case size == 8:
		return d.timerReg(off), true
	default:
		return d.timerReg(off&^7) >> (off % 8 * 8) & 0xffff_ffff, true
	}
}

// Store writes a register. Stores to mtime and to reserved registers are ignored.
func (d *ACLINT) Store(off uint64, size int, v uint64) bool {
	if !takes(off, size) {
		return false
	}
	if off < mtimecmpBase {
		d.setMSIP((off-msipBase)/4, v&1 != 0)
		return true
	}
	i := (off - mtimecmpBase) / 8
	h := d.hart(i)
	if h == nil {
		return true
	}
	if size == 4 {
		shift := off % 8 * 8
		v = uint64(h.mtimecmp)&^(0xffff_ffff<<shift) | v&0xffff_ffff<<shift
	}
	h.mtimecmp = event.Ticks(v)
	d.timer(int(i))
	return true
}

// Reset returns to power-on: no interrupt from here.
func (d *ACLINT) Reset() {
	for i := range d.harts {
		d.setMSIP(uint64(i), false)
		d.harts[i].mtimecmp = Never
		d.timer(i)
	}
}

// State saves, loads or hashes the device. Loading tells msip and timer of every hart.
func (d *ACLINT) State(c *state.Coder) {
	for i := range d.harts {
		c.Bool(&d.harts[i].msip)
		state.U64(c, &d.harts[i].mtimecmp)
	}
	if c.Loading() && c.Err() == nil {
		for i := range d.harts {
			d.msip(i, d.harts[i].msip)
			d.timer(i)
		}
	}
}

// takes reports whether there is a register of that size at off.
func takes(off uint64, size int) bool {
	return off < Size && (size == 4 && off%4 == 0 || size == 8 && off%8 == 0 && off >= mtimecmpBase)
}

func (d *ACLINT) hart(i uint64) *hart {
	if i >= uint64(len(d.harts)) {
		return nil
	}
	return &d.harts[i]
}

func (d *ACLINT) setMSIP(i uint64, level bool) {
	if h := d.hart(i); h != nil && h.msip != level {
		h.msip = level
		d.msip(int(i), level)
	}
}

// timerReg reads the 64-bit register at off.
func (d *ACLINT) timerReg(off uint64) uint64 {
	if off == mtime {
		return uint64(d.now())
	}
	if h := d.hart((off - mtimecmpBase) / 8); h != nil {
		return uint64(h.mtimecmp)
	}
	return 0
}
