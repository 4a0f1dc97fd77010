// SPDX-License-Identifier: Apache-2.0

// Package testdev is SiFive's test finisher: one register by which a guest ends
// itself or asks for a reset. The device tree offers it as syscon-poweroff and
// syscon-reboot, as QEMU's virt does.
package testdev

import (
	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

// Size of the register space in bytes.
const Size = 0x1000

// Commands, in the low half of a store to offset 0. The high half is Fail's code.
const (
	Fail  = 0x3333
	Pass  = 0x5555
	Reset = 0x7777
)

// Finisher is the device. It has no state.
type Finisher struct {
	emit  bus.Emit
	reset func()
}

// New returns a finisher that emits event.Exit, or calls reset when the guest
// asks for it.
func New(emit bus.Emit, reset func()) *Finisher { return &Finisher{emit, reset} }

// Load reads zero.
func (f *Finisher) Load(off uint64, size int) (uint64, bool) { return 0, takes(off, size) }

// Store carries out a command; values that are none are ignored.
func (f *Finisher) Store(off uint64, size int, v uint64) bool {
	if !takes(off, size) {
		return false
	}
	if off != 0 {
		return true
	}
	switch v & 0xffff {
	case Pass:
		f.emit(event.Exit{})
	case Fail:
		f.emit(event.Exit{Code: failure(v >> 16 & 0xffff)})
	case Reset:
		f.reset()
	}
	return true
}

// Reset does nothing: there is nothing to forget.
func (f *Finisher) Reset() {}

// State has nothing to visit.
func (f *Finisher) State(*state.Coder) {}

// takes reports whether an access is one of 2 or 4 bytes within the device.
func takes(off uint64, size int) bool {
	return (size == 2 || size == 4) && off%uint64(size) == 0 && off < Size
}

// failure is the exit code of a failed test: a guest that fails without a code
// must not look like one that passed.
func failure(code uint64) int { return int(max(code, 1)) }
