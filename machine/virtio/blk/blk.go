// SPDX-License-Identifier: Apache-2.0

// Package blk is the virtio block device (Virtio 1.2 §5.2).
//
// A request's life, with the two moments at which guest memory is touched:
//
//	kick: header read, payload of a write copied ──► event.DiskRequest
//	entry applied: event.DiskDone ──► data of a read and status copied, used ring, interrupt
//
// In between only the device's own copy exists, the paper's bounce buffer
// (§3.4), and the request is listed by Pending, so that whoever goes live or
// restores a snapshot can issue it again. Requests may complete in any order.
//
// The world executes what it was asked even if the driver resets the device
// meanwhile: such a request stays pending until its completion, which then
// touches nothing in the guest. They count against the same bounds as others,
// so a driver can't pile them up; what doesn't fit waits in the ring.
//
// A driver that doesn't heed SIZE_MAX, U-Boot for one, reads a file of 30 MiB by
// one request. What exceeds MaxData is done in pieces, one after the other, so
// that an entry of the log and what a request holds in memory stay bounded.
package blk

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// Features (§5.2.3).
const (
	FeatureSizeMax     = 1 << 1
	FeatureSegMax      = 1 << 2
	FeatureReadOnly    = 1 << 5
	FeatureBlkSize     = 1 << 6
	FeatureFlush       = 1 << 9
	FeatureDiscard     = 1 << 13
	FeatureWriteZeroes = 1 << 14
)

// Types of request (§5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// Limits told to the driver. A request within segMax and sizeMax is within MaxData.
const (
	sectorSize = 512
	queueSize  = 256
	headerSize = 16
	idSize     = 20

	segMax                = queueSize - 2 // without header and status
	sizeMax               = 16 << 10
	maxDiscardSectors     = 2 << 30 / sectorSize
	maxWriteZeroesSectors = 64 << 20 / sectorSize
	discardAlignment      = 4096 / sectorSize

	// MaxData is the most bytes that one DiskRequest reads or writes.
	MaxData = 4 << 20
)

// Bounds of what is in flight: requests, and the payload of reads and writes.
// The last request may exceed the latter by its own.
const (
	maxInFlight      = queueSize
	maxInFlightBytes = 64 << 20
)

// Config describes a disk.
type Config struct {
	Capacity uint64 // in bytes; what exceeds a multiple of 512 is out of reach
	ReadOnly bool
	Mode     event.DiskMode
	Serial   string // up to 20 bytes, Linux shows it as the disk's serial
}

// Device is a virtio-blk device.
type Device struct {
	*virtio.Transport
	slot event.DeviceID
	emit bus.Emit
	cfg  Config

	sectors  uint64
	lastID   uint64    // of the DiskRequest emitted last
	inFlight []request // in the order they were emitted
	payload  uint64    // sum of their weights, derived
}

// request is a DiskRequest with the chain that waits for it; the last writable
// byte of that is the status. The DiskRequest is a piece of what the driver asked
// for: bytes start to end of the disk.
type request struct {
	event.DiskRequest
	chain      virtio.Chain
	start, end uint64
}

// New returns the device for a slot of the board.
func New(slot event.DeviceID, mem bus.Memory, line bus.Line, emit bus.Emit, cfg Config) *Device {
	d := &Device{slot: slot, emit: emit, cfg: cfg, sectors: cfg.Capacity / sectorSize}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize)
	return d
}

// Done applies the completion of a request. An error means that this machine
// never asked for it: the log is not this machine's.
func (d *Device) Done(in event.DiskDone) error {
	i, err := d.match(in)
	if err != nil {
		return fmt.Errorf("virtio-blk in slot %d: completion of request %d: %w", d.slot, in.ID, err)
	}
	r := d.inFlight[i]
	d.inFlight = slices.Delete(d.inFlight, i, i+1)
	d.payload -= r.weight()
	b := backend{d}
	if r.Offset+r.Length < r.end && in.Status == event.DiskOK {
		b.goOn(r, in.Data)
	} else {
		b.finish(r.chain, r.written(), in.Data, in.Status)
	}
	b.Kick(0) // what found no room may go on
	return nil
}

// Pending lists the requests without a completion, in the order they were
// emitted. Payloads are shared, not copied: they never change.
func (d *Device) Pending() []event.DiskRequest {
	var list []event.DiskRequest
	for _, r := range d.inFlight {
		list = append(list, r.DiskRequest)
	}
	return list
}

// Resize gives the disk a new capacity in bytes, none if its drive is empty now, and tells
// the driver.
func (d *Device) Resize(capacity uint64) {
	d.sectors = capacity / sectorSize
	d.ConfigChanged()
}

// match finds the request that a completion answers, and checks that it can.
func (d *Device) match(in event.DiskDone) (int, error) {
	if in.Device != d.slot {
		return 0, fmt.Errorf("it is meant for slot %d", in.Device)
	}
	i := slices.IndexFunc(d.inFlight, func(r request) bool { return r.ID == in.ID })
	if i < 0 {
		return 0, fmt.Errorf("not in flight, the last request was %d", d.lastID)
	}
	want := uint64(0)
	if d.inFlight[i].Op == event.DiskRead && in.Status == event.DiskOK {
		want = d.inFlight[i].Length
	}
	switch {
	case in.Status > event.DiskUnsupported:
		return 0, fmt.Errorf("unknown status %d", in.Status)
	case uint64(len(in.Data)) != want:
		return 0, fmt.Errorf("it carries %d bytes instead of %d", len(in.Data), want)
	}
	return i, nil
}

// weight is what the request holds in memory, here or when its data comes back.
func (r request) weight() uint64 {
	if r.Op == event.DiskRead || r.Op == event.DiskWrite {
		return r.Length
	}
	return 0
}

// limit is the most bytes that a request of this kind may be of; one that has no
// payload is as long as the driver made it.
func (r request) limit() uint64 {
	if r.Op == event.DiskRead || r.Op == event.DiskWrite {
		return MaxData
	}
	return math.MaxUint64
}

// written is how much earlier pieces have written to the guest.
func (r request) written() uint64 {
	if r.Op == event.DiskRead {
		return r.Offset - r.start
	}
	return 0
}

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 2, block device (§5).
func (b backend) DeviceID() uint32 { return 2 }

// Features offers RO only for a disk that is.
func (b backend) Features() uint64 {
	f := uint64(FeatureSizeMax | FeatureSegMax | FeatureBlkSize | FeatureFlush)
	if b.cfg.ReadOnly {
		return f | FeatureReadOnly
	}
	return f | FeatureDiscard | FeatureWriteZeroes
}

// Config is struct virtio_blk_config (§5.2.4).
func (b backend) Config() []byte {
	c := make([]byte, 60)
	le := binary.LittleEndian
	le.PutUint64(c[0:], b.sectors)
	le.PutUint32(c[8:], sizeMax)
	le.PutUint32(c[12:], segMax)
	le.PutUint32(c[20:], sectorSize)
	le.PutUint32(c[36:], maxDiscardSectors)
	le.PutUint32(c[40:], 1) // segments per discard, so that it is one DiskRequest
	le.PutUint32(c[44:], discardAlignment)
	le.PutUint32(c[48:], maxWriteZeroesSectors)
	le.PutUint32(c[52:], 1) // segments per write zeroes
	c[56] = 0               // write zeroes never deallocates
	return c
}

// StoreConfig has nothing to change: CONFIG_WCE is not offered.
func (b backend) StoreConfig(uint64, []byte) {}

// Reset keeps what is in flight: the world still works on it.
func (b backend) Reset() {}

// Kick takes requests until the ring is empty or there is no room.
func (b backend) Kick(int) {
	q := b.Queue(0)
	if b.room() {
		q.Drain(b.take)
	}
	q.Flush()
}

func (b backend) room() bool {
	return len(b.inFlight) < maxInFlight && b.payload < maxInFlightBytes
}

// take starts one request, or finishes it at once where the world isn't needed.
func (b backend) take(c virtio.Chain) bool {
	q := b.Queue(0)
	if c.Readable.Len() < headerSize || c.Writable.Len() < 1 {
		b.Fail() // no place for an answer
		return false
	}
	h := make([]byte, headerSize)
	if !q.Gather(c, 0, h) {
		return false
	}
	kind := binary.LittleEndian.Uint32(h)
	switch {
	case kind == typeGetID:
		b.finish(c, 0, b.id(c.Writable.Len()-1), event.DiskOK)
		return true
	case kind == typeFlush && b.sectors == 0: // an empty drive asks nobody
		b.finish(c, 0, nil, event.DiskOK)
		return true
	}
	r, status := b.decode(kind, binary.LittleEndian.Uint64(h[8:]), c)
	if status != event.DiskOK {
		b.finish(c, 0, nil, status)
		return true
	}
	return b.submit(request{r, c, r.Offset, r.Offset + r.Length}) && b.room()
}

// submit emits a request, or as much of it as one may carry, and holds its chain
// until it is done.
func (b backend) submit(r request) bool {
	r.Length = min(r.Length, r.limit())
	r.Data = nil
	if r.Op == event.DiskWrite {
		r.Data = make([]byte, r.Length)
		if !b.Queue(0).Gather(r.chain, headerSize+r.Offset-r.start, r.Data) {
			return false
		}
	}
	if r.Op != event.DiskWrite || r.Offset+r.Length == r.end {
		r.chain.Readable = nil // all of it is here
	}
	r.chain = r.chain.Keep()
	b.lastID++
	r.Device, r.ID, r.Mode = b.slot, b.lastID, b.cfg.Mode
	b.inFlight = append(b.inFlight, r)
	b.payload += r.weight()
	b.emit(r.DiskRequest)
	return true
}

// goOn continues with the next piece of a request whose last one is done, unless
// the driver has reset the device meanwhile.
func (b backend) goOn(r request, data []byte) {
	if !b.Queue(0).Scatter(r.chain, r.written(), data) {
		return
	}
	r.Offset += r.Length
	r.Length = r.end - r.Offset
	b.submit(r)
}

// decode turns a header into a request of any length, without Data.
func (b backend) decode(kind uint32, sector uint64, c virtio.Chain) (event.DiskRequest, event.DiskStatus) {
	switch kind {
	case typeIn:
		return b.transfer(event.DiskRead, sector, c.Writable.Len()-1)
	case typeOut:
		return b.transfer(event.DiskWrite, sector, c.Readable.Len()-headerSize)
	case typeFlush:
		return event.DiskRequest{Op: event.DiskFlush}, event.DiskOK
	case typeDiscard:
		return b.erase(event.DiskDiscard, maxDiscardSectors, 0, c)
	case typeWriteZeroes:
		return b.erase(event.DiskWriteZeroes, maxWriteZeroesSectors, flagUnmap, c)
	}
	return event.DiskRequest{}, event.DiskUnsupported
}

// transfer checks a read or a write of length bytes.
func (b backend) transfer(op event.DiskOp, sector, length uint64) (event.DiskRequest, event.DiskStatus) {
	if length == 0 || length%sectorSize != 0 ||
		op == event.DiskWrite && b.cfg.ReadOnly || !b.within(sector, length/sectorSize) {
		return event.DiskRequest{}, event.DiskIOError
	}
	return event.DiskRequest{Op: op, Offset: sector * sectorSize, Length: length}, event.DiskOK
}

const flagUnmap = 1

// erase checks a discard or write zeroes: one segment {sector u64, sectors u32,
// flags u32} of at most limit sectors (§5.2.6.2).
func (b backend) erase(op event.DiskOp, limit, flags uint32, c virtio.Chain) (event.DiskRequest, event.DiskStatus) {
	if b.cfg.ReadOnly {
		return event.DiskRequest{}, event.DiskIOError
	}
	s := make([]byte, 16)
	if c.Readable.Len() != headerSize+16 || !b.Queue(0).Gather(c, headerSize, s) {
		return event.DiskRequest{}, event.DiskIOError
	}
	sector, n := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint32(s[8:])
	if binary.LittleEndian.Uint32(s[12:])&^flags != 0 {
		return event.DiskRequest{}, event.DiskUnsupported
	}
	if n == 0 || n > limit || !b.within(sector, uint64(n)) {
		return event.DiskRequest{}, event.DiskIOError
	}
	return event.DiskRequest{Op: op, Offset: sector * sectorSize, Length: uint64(n) * sectorSize}, event.DiskOK
}

func (b backend) within(sector, n uint64) bool {
	return sector <= b.sectors && n <= b.sectors-sector
}

// id is the answer to GET_ID: the serial, padded with zeros to 20 bytes (§5.2.6).
func (b backend) id(room uint64) []byte {
	id := make([]byte, idSize)
	copy(id, b.cfg.Serial)
	return id[:min(room, idSize)]
}

// finish writes data behind the off bytes that earlier pieces wrote, and the
// status, and pushes the chain. The used length counts written bytes from the
// start of the buffer without a gap (§2.7.8.2).
func (b backend) finish(c virtio.Chain, off uint64, data []byte, status event.DiskStatus) {
	q := b.Queue(0)
	last := c.Writable.Len() - 1
	written := off + uint64(len(data))
	if written == last {
		written++
	}
	if q.Scatter(c, off, data) && q.Scatter(c, last, []byte{byte(status)}) {
		q.Push(c, uint32(written))
	}
}

// State visits capacity and what is in flight, payloads included.
func (b backend) State(c *state.Coder) {
	state.U64(c, &b.sectors)
	state.U64(c, &b.lastID)
	state.List(c, &b.inFlight, maxInFlight, func(r *request) { b.state(c, r) })
	if c.Loading() {
		b.payload = 0
		for _, r := range b.inFlight {
			b.payload += r.weight()
		}
	}
}

func (b backend) state(c *state.Coder, r *request) {
	r.Device, r.Mode = b.slot, b.cfg.Mode
	state.U64(c, &r.ID)
	state.U8(c, &r.Op)
	state.U64(c, &r.Offset)
	state.U64(c, &r.Length)
	c.Bytes(&r.Data, MaxData)
	r.chain.State(c)
	state.U64(c, &r.start)
	state.U64(c, &r.end)
	if c.Loading() && !r.valid() {
		c.Fail("virtio-blk in slot %d: request %d can't be: op %d, %d bytes, payload of %d",
			b.slot, r.ID, r.Op, r.Length, len(r.Data))
	}
}

// valid reports whether a loaded request is one that take could have made.
func (r *request) valid() bool {
	data := uint64(0)
	if r.Op == event.DiskWrite {
		data = r.Length
	}
	return r.Op >= event.DiskRead && r.Op <= event.DiskWriteZeroes &&
		r.Length <= r.limit() && uint64(len(r.Data)) == data && r.chain.Writable.Len() > 0 &&
		r.start <= r.Offset && r.Offset <= r.end && r.Length <= r.end-r.Offset &&
		(r.Offset+r.Length == r.end || r.Length == MaxData)
}
