// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"

	"tandem/machine/event"
	"tandem/machine/mem"
	"tandem/machine/state"
)

// HashScrub is how many pages of the round over RAM one hash entry covers.
const HashScrub = hashScrub

// Clock is a clock without a machine.
type Clock struct{ clock }

// NewClock starts a clock at a step; ok is false if a machine would refuse it.
func NewClock(c event.Clock, from event.Step) (*Clock, bool) {
	return &Clock{clock{clock: c, clockAt: from}}, sound(c, from)
}

func (c *Clock) Limit() event.Step { return c.clock.clock.Limit }

// PendingID is the number of a disk request in flight, 0 if there is none.
func (m *Machine) PendingID() uint64 {
	for _, q := range m.PendingDisk() {
		return q.ID
	}
	return 0
}

// FlipMemory changes a bit of RAM behind everybody's back.
func (m *Machine) FlipMemory(at uint64) {
	m.ram.Page(mem.PFN(at >> mem.PageShift))[at&mem.PageMask] ^= 4
}

// FlipRegister changes a bit of x31 of hart 0, which comes 30th in its state.
func (m *Machine) FlipRegister() {
	var b bytes.Buffer
	h := m.sys.Harts[0]
	h.State(state.Saver(&b))
	b.Bytes()[30*8+7] ^= 0x40
	h.State(state.Loader(&b))
}
