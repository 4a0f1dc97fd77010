// SPDX-License-Identifier: Apache-2.0

// Package rng is the virtio entropy device (Virtio 1.2 §5.4).
//
// Randomness is an input like any other: a buffer of the driver becomes an
// event.EntropyRequest, and the answer arrives as a logged event.Entropy, the
// same on primary and backup. A request in flight when the driver resets the
// device stays until it is answered, and its answer is thrown away.
package rng

import (
	"fmt"
	"slices"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

const (
	queueSize   = 64
	maxInFlight = queueSize

	// MaxLength is the most bytes asked for at once; a larger buffer is filled in part.
	MaxLength = 4096
)

// Config has no choices yet.
type Config struct{}

// Device is a virtio-rng device.
type Device struct {
	*virtio.Transport
	slot event.DeviceID
	emit bus.Emit

	lastID   uint64    // of the EntropyRequest emitted last
	inFlight []request // in the order they were emitted
}

type request struct {
	event.EntropyRequest
	chain virtio.Chain
}

// New returns the device for a slot of the board.
func New(slot event.DeviceID, mem bus.Memory, line bus.Line, emit bus.Emit, _ Config) *Device {
	d := &Device{slot: slot, emit: emit}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize)
	return d
}

// Entropy applies the answer to a request. An error means that this machine
// never asked for it: the log is not this machine's.
func (d *Device) Entropy(in event.Entropy) error {
	i, err := d.match(in)
	if err != nil {
		return fmt.Errorf("virtio-rng in slot %d: answer to request %d: %w", d.slot, in.ID, err)
	}
	r := d.inFlight[i]
	d.inFlight = slices.Delete(d.inFlight, i, i+1)
	b := backend{d}
	b.finish(r.chain, in.Data)
	b.Kick(0) // what found no room may go on
	return nil
}

// Pending lists the requests without an answer, in the order they were emitted.
func (d *Device) Pending() []event.EntropyRequest {
	var list []event.EntropyRequest
	for _, r := range d.inFlight {
		list = append(list, r.EntropyRequest)
	}
	return list
}

// match finds the request that an answer belongs to.
func (d *Device) match(in event.Entropy) (int, error) {
	if in.Device != d.slot {
		return 0, fmt.Errorf("it is meant for slot %d", in.Device)
	}
	i := slices.IndexFunc(d.inFlight, func(r request) bool { return r.ID == in.ID })
	if i < 0 {
		return 0, fmt.Errorf("not in flight, the last request was %d", d.lastID)
	}
	if want := d.inFlight[i].Length; uint64(len(in.Data)) != uint64(want) {
		return 0, fmt.Errorf("it carries %d bytes instead of %d", len(in.Data), want)
	}
	return i, nil
}

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 4, entropy source (§5).
func (b backend) DeviceID() uint32 { return 4 }

// Features has none of its own (§5.4.3).
func (b backend) Features() uint64 { return 0 }

// Config is empty (§5.4.4).
func (b backend) Config() []byte { return nil }

// StoreConfig has nothing to change.
func (b backend) StoreConfig(uint64, []byte) {}

// Reset keeps what is in flight: the world will answer it.
func (b backend) Reset() {}

// Kick takes buffers until the ring is empty or there is no room.
func (b backend) Kick(int) {
	q := b.Queue(0)
	if b.room() {
		q.Drain(b.take)
	}
	q.Flush()
}

func (b backend) room() bool { return len(b.inFlight) < maxInFlight }

func (b backend) take(c virtio.Chain) bool {
	n := min(c.Writable.Len(), MaxLength)
	if n == 0 {
		b.finish(c, nil)
		return true
	}
	b.lastID++
	r := event.EntropyRequest{Device: b.slot, ID: b.lastID, Length: uint32(n)}
	b.inFlight = append(b.inFlight, request{r, c.Keep()})
	b.emit(r)
	return b.room()
}

func (b backend) finish(c virtio.Chain, data []byte) {
	q := b.Queue(0)
	if q.Scatter(c, 0, data) {
		q.Push(c, uint32(len(data)))
	}
}

// State visits what is in flight.
func (b backend) State(c *state.Coder) {
	state.U64(c, &b.lastID)
	state.List(c, &b.inFlight, maxInFlight, func(r *request) { b.state(c, r) })
}

func (b backend) state(c *state.Coder, r *request) {
	r.Device = b.slot
	state.U64(c, &r.ID)
	state.U32(c, &r.Length)
	r.chain.State(c)
	if c.Loading() && (r.Length == 0 || r.Length > MaxLength) {
		c.Fail("virtio-rng in slot %d: request %d is for %d bytes, at most %d are possible", b.slot, r.ID, r.Length, MaxLength)
	}
}
