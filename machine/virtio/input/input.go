// SPDX-License-Identifier: Apache-2.0

// Package input is the virtio input device (Virtio 1.3 §5.8) as a keyboard with one
// key: the board's power button.
//
// A press is an input of the machine like any other, and becomes four events, each
// in a buffer of its own (§5.8.6.2):
//
//	KEY_POWER 1 · SYN_REPORT · KEY_POWER 0 · SYN_REPORT
//
// What the guest makes of them is its own affair: most systems shut down in order.
// Events wait in the device until the driver has buffers for them.
package input

import (
	"encoding/binary"

	"tandem/machine/bus"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// Queues (§5.8.2).
const (
	events = 0
	status = 1
)

// What the configuration can be asked for (§5.8.4).
const (
	selectName   = 0x01
	selectSerial = 0x02
	selectIDs    = 0x03
	selectEvents = 0x11
)

// Numbers of Linux's input-event-codes.h, which §5.8.5 refers to.
const (
	evSyn    = 0
	evKey    = 1
	keyPower = 116
	busVirt  = 0x06
)

// Name is what the device calls itself: the inits of our images look for it.
const Name = "tandem power button"

const (
	queueSize  = 64
	eventSize  = 8
	configSize = 8 + 128         // select, subsel, size, reserved; a union
	maxBacklog = 16 * len(press) // events that wait for a buffer
)

// press is what one press of the button becomes: type, code and value (§5.8.6).
var press = [...]keyEvent{{evKey, keyPower, 1}, {}, {evKey, keyPower, 0}, {}}

type keyEvent struct {
	kind, code uint16
	value      uint32
}

// Config has no choices yet.
type Config struct{}

// Device is a virtio-input device.
type Device struct {
	*virtio.Transport

	selected, sub uint8      // what the configuration shows
	backlog       []keyEvent // not yet taken by the driver
}

// New returns the device. It asks nothing of the world, so it has no number there.
func New(mem bus.Memory, line bus.Line, _ Config) *Device {
	d := &Device{}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize, queueSize)
	return d
}

// Press presses the button and lets it go. A driver that has left the last 16
// presses alone misses nothing by one that is dropped.
func (d *Device) Press() {
	if len(d.backlog)+len(press) <= maxBacklog {
		d.backlog = append(d.backlog, press[:]...)
	}
	backend{d}.Kick(events)
}

// Driven reports whether a driver runs the device: somebody may heed the button.
func (d *Device) Driven() bool { return d.Running() }

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 18, input (§5).
func (b backend) DeviceID() uint32 { return 18 }

// Features has none of its own (§5.8.3).
func (b backend) Features() uint64 { return 0 }

// Config is struct virtio_input_config: select and subsel as the driver stored them,
// and what they choose (§5.8.4).
func (b backend) Config() []byte {
	c := make([]byte, configSize)
	c[0], c[1] = b.selected, b.sub
	c[2] = uint8(copy(c[8:], b.shown()))
	return c
}

// shown is what the driver has selected; nothing is "no such thing".
func (b backend) shown() []byte {
	switch {
	case b.selected == selectEvents && b.sub == evKey:
		bits := make([]byte, keyPower/8+1)
		bits[keyPower/8] = 1 << (keyPower % 8)
		return bits
	case b.sub != 0:
		return nil
	}
	switch b.selected {
	case selectName:
		return []byte(Name)
	case selectSerial:
		return []byte("power0")
	case selectIDs: // bustype, vendor, product, version
		return []byte{busVirt, 0, 'T', 'D', 1, 0, 1, 0}
	}
	return nil
}

// StoreConfig takes what the driver selects; all else is read only.
func (b backend) StoreConfig(off uint64, p []byte) {
	for i, v := range p {
		switch off + uint64(i) {
		case 0:
			b.selected = v
		case 1:
			b.sub = v
		}
	}
}

// Reset forgets the presses that the old driver did not take.
func (b backend) Reset() { b.selected, b.sub, b.backlog = 0, 0, nil }

// Kick goes on with the events, or gives back what the driver says of lights and
// sounds (§5.8.6.1), of which there are none.
func (b backend) Kick(queue int) {
	q := b.Queue(queue)
	switch {
	case queue == status:
		q.Drain(func(c virtio.Chain) bool { q.Push(c, 0); return true })
	case len(b.backlog) > 0:
		q.Drain(b.report)
	}
	q.Flush()
}

// report fills one buffer with the next event.
func (b backend) report(c virtio.Chain) bool {
	if c.Writable.Len() < eventSize {
		b.Fail() // no driver has such buffers
		return false
	}
	e := b.backlog[0]
	p := binary.LittleEndian.AppendUint16(nil, e.kind)
	p = binary.LittleEndian.AppendUint16(p, e.code)
	p = binary.LittleEndian.AppendUint32(p, e.value)
	if !b.Queue(events).Scatter(c, 0, p) {
		return false
	}
	b.Queue(events).Push(c, eventSize)
	b.backlog = b.backlog[1:]
	return len(b.backlog) > 0
}

// State visits the selection and the backlog.
func (b backend) State(c *state.Coder) {
	state.U8(c, &b.selected)
	state.U8(c, &b.sub)
	state.List(c, &b.backlog, maxBacklog, func(e *keyEvent) {
		state.U16(c, &e.kind)
		state.U16(c, &e.code)
		state.U32(c, &e.value)
	})
}
