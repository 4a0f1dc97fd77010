// SPDX-License-Identifier: Apache-2.0

// Package bus is the address map between the harts and the devices.
//
// A device is a pure state machine: a load or store reaches it at an exact
// step, an input reaches it through a method of its own as the machine applies
// an entry, and whatever it wants from the world it hands to Emit. It reads
// and writes guest memory only within those calls, so no DMA ever races with
// the guest (paper §3.4, §3.5).
package bus

import (
	"tandem/machine/event"
	"tandem/machine/state"
)

// Device is a memory-mapped device. Offsets count from its base; size is 1, 2,
// 4 or 8 bytes and the access is naturally aligned. ok is false where the
// device has nothing there or can't take that size: the hart raises an access fault.
type Device interface {
	Load(off uint64, size int) (v uint64, ok bool)
	Store(off uint64, size int, v uint64) (ok bool)
	// Reset returns to the state at power-on.
	Reset()
	// State saves, loads or hashes all of the device's state.
	State(c *state.Coder)
}

// Line is one interrupt wire; the device drives its level.
type Line interface{ Set(level bool) }

// Emit hands an output to the machine, which gives it its number and step.
type Emit func(body event.OutputBody)

// Memory is guest RAM as devices reach it. All methods report false, and
// change nothing, if any byte of the range lies outside RAM.
type Memory interface {
	// Read copies from guest memory at physical address pa.
	Read(pa uint64, b []byte) bool
	// Write copies to guest memory; translated and decoded copies of what was
	// there are dropped and the pages are marked dirty.
	Write(pa uint64, b []byte) bool
}

// Region places a device on the bus.
type Region struct {
	Name   string
	Base   uint64
	Size   uint64
	Device Device
}

// Bus finds the device at a physical address.
type Bus struct{ regions []Region }

// Add maps a device. Regions must not overlap; the machine adds each once.
func (b *Bus) Add(r Region) {
	for _, o := range b.regions {
		if r.Base < o.Base+o.Size && o.Base < r.Base+r.Size {
			panic("bus: " + r.Name + " overlaps " + o.Name)
		}
	}
	b.regions = append(b.regions, r)
}

// Regions lists the devices in the order they were added.
func (b *Bus) Regions() []Region { return b.regions }

// Find returns the region that contains [pa, pa+size).
func (b *Bus) Find(pa uint64, size int) (*Region, bool) {
	for i := range b.regions {
		r := &b.regions[i]
		if pa-r.Base < r.Size && r.Size-(pa-r.Base) >= uint64(size) {
			return r, true
		}
	}
	return nil, false
}

// Load reads a naturally aligned value from a device.
func (b *Bus) Load(pa uint64, size int) (uint64, bool) {
	if r, ok := b.Find(pa, size); ok {
		return r.Device.Load(pa-r.Base, size)
	}
	return 0, false
}

// Store writes a naturally aligned value to a device.
func (b *Bus) Store(pa uint64, size int, v uint64) bool {
	if r, ok := b.Find(pa, size); ok {
		return r.Device.Store(pa-r.Base, size, v)
	}
	return false
}
