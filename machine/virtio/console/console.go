// SPDX-License-Identifier: Apache-2.0

// Package console is the virtio console device with one port (Virtio 1.2 §5.3).
//
// What the guest prints leaves as event.ConsoleOut at the kick, with its place
// in all that this console has ever printed: when a backup goes live and repeats
// some of it, the terminal knows. What is typed waits in the device until the
// driver has buffers for it.
package console

import (
	"encoding/binary"
	"fmt"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// Features (§5.3.3).
const (
	FeatureSize      = 1 << 0
	FeatureEmergency = 1 << 2
)

// Queues (§5.3.2).
const (
	rx = 0
	tx = 1
)

const (
	queueSize = 64
	emergency = 8 // offset of emerg_wr in the configuration

	maxOut     = 64 << 10 // bytes of one chain to print
	maxBacklog = 64 << 10 // bytes typed that wait for a buffer
)

// Config describes the console.
type Config struct {
	Columns, Rows uint16 // size of the terminal in characters; 0 if it is not known
	Start         uint64 // number of the first byte printed
}

// Device is a virtio-console device.
type Device struct {
	*virtio.Transport
	slot event.DeviceID
	emit bus.Emit
	cfg  Config

	printed uint64 // number of the next byte printed
	backlog []byte // typed, not yet taken by the driver
	dropped uint64 // bytes typed that found no room
}

// New returns the device for a slot of the board.
func New(slot event.DeviceID, mem bus.Memory, line bus.Line, emit bus.Emit, cfg Config) *Device {
	d := &Device{slot: slot, emit: emit, cfg: cfg, printed: cfg.Start}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize, queueSize)
	return d
}

// In applies bytes typed at the console. What exceeds the backlog is dropped.
func (d *Device) In(in event.ConsoleIn) error {
	if in.Device != d.slot {
		return fmt.Errorf("virtio-console in slot %d: input is meant for slot %d", d.slot, in.Device)
	}
	n := min(len(in.Data), maxBacklog-len(d.backlog))
	d.backlog = append(d.backlog, in.Data[:n]...)
	d.dropped += uint64(len(in.Data) - n)
	backend{d}.Kick(rx)
	return nil
}

// Room is how many typed bytes In takes now; more would be lost.
func (d *Device) Room() int { return maxBacklog - len(d.backlog) }

// Dropped counts the bytes typed that found no room.
func (d *Device) Dropped() uint64 { return d.dropped }

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 3, console (§5).
func (b backend) DeviceID() uint32 { return 3 }

// Features offers SIZE only where it is known.
func (b backend) Features() uint64 {
	if b.cfg.Columns == 0 && b.cfg.Rows == 0 {
		return FeatureEmergency
	}
	return FeatureEmergency | FeatureSize
}

// Config is struct virtio_console_config (§5.3.4).
func (b backend) Config() []byte {
	c := make([]byte, 12)
	binary.LittleEndian.PutUint16(c[0:], b.cfg.Columns)
	binary.LittleEndian.PutUint16(c[2:], b.cfg.Rows)
	binary.LittleEndian.PutUint32(c[4:], 1) // ports
	return c
}

// StoreConfig prints a byte stored to emerg_wr, without any driver (§5.3.4).
func (b backend) StoreConfig(off uint64, p []byte) {
	if off == emergency {
		b.print(p[:1:1])
	}
}

// Reset forgets what was typed for the old driver.
func (b backend) Reset() { b.backlog = nil }

// Kick prints, or goes on with what was typed.
func (b backend) Kick(queue int) {
	q := b.Queue(queue)
	switch {
	case queue == tx:
		q.Drain(b.transmit)
	case len(b.backlog) > 0:
		q.Drain(b.receive)
	}
	q.Flush()
}

func (b backend) transmit(c virtio.Chain) bool {
	n := c.Readable.Len()
	if n > maxOut {
		b.Fail()
		return false
	}
	data := make([]byte, n)
	if !b.Queue(tx).Gather(c, 0, data) {
		return false
	}
	b.print(data)
	b.Queue(tx).Push(c, 0)
	return true
}

func (b backend) print(data []byte) {
	if len(data) == 0 {
		return
	}
	b.emit(event.ConsoleOut{Device: b.slot, Offset: b.printed, Data: data})
	b.printed += uint64(len(data))
}

// receive fills one buffer of the driver from the backlog.
func (b backend) receive(c virtio.Chain) bool {
	n := min(c.Writable.Len(), uint64(len(b.backlog)))
	if !b.Queue(rx).Scatter(c, 0, b.backlog[:n]) {
		return false
	}
	b.Queue(rx).Push(c, uint32(n))
	b.backlog = b.backlog[n:]
	return len(b.backlog) > 0
}

// State visits the counts and the backlog.
func (b backend) State(c *state.Coder) {
	state.U64(c, &b.printed)
	c.Bytes(&b.backlog, maxBacklog)
	state.U64(c, &b.dropped)
}
