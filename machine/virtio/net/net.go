// SPDX-License-Identifier: Apache-2.0

// Package net is the virtio network device with one pair of queues (Virtio 1.2 §5.1).
//
// Each packet that the driver transmits leaves as one event.FrameOut at the
// kick; received frames are copied into the driver's buffers as their entry is
// applied (paper §3.5). Frames that find no buffer wait in a bounded backlog,
// part of the state, so that primary and backup keep and drop the same ones.
//
// Partial checksums and segmentation travel with a frame as event.Offload. What
// the driver can't take must be done before a frame gets here: see Offloads.
package net

import (
	"encoding/binary"
	"fmt"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// Features (§5.1.3). The ECN ones are left out: a driver then segments by
// itself the rare frames that need them, and nobody must tell CWR apart.
const (
	FeatureCSum      = 1 << 0
	FeatureGuestCSum = 1 << 1
	FeatureMTU       = 1 << 3
	FeatureMAC       = 1 << 5
	FeatureGuestTSO4 = 1 << 7
	FeatureGuestTSO6 = 1 << 8
	FeatureHostTSO4  = 1 << 11
	FeatureHostTSO6  = 1 << 12
	FeatureMrgRxBuf  = 1 << 15
	FeatureStatus    = 1 << 16
)

// Queues (§5.1.2).
const (
	rx = 0
	tx = 1
)

const (
	queueSize  = 256
	headerSize = 12 // §5.1.6
	linkUp     = 1  // bit of the status in the configuration

	minFrame = 14       // an Ethernet header
	overhead = 14 + 4   // Ethernet header with a VLAN tag
	maxFrame = 65 << 10 // 64 KiB of IP and its headers

	maxBacklog      = 256
	maxBacklogBytes = 1 << 20
)

// Config describes a network card.
type Config struct {
	MAC [6]byte
	MTU uint16 // 0: the driver's choice
}

// Stats counts the frames that went nowhere.
type Stats struct {
	RxDropped uint64
	TxDropped uint64
}

// Offloads is what the driver agreed to receive.
type Offloads struct {
	CSum bool // partial checksums
	TSO4 bool // TCP over IPv4 larger than the MTU
	TSO6 bool // TCP over IPv6 larger than the MTU
}

// Device is a virtio-net device.
type Device struct {
	*virtio.Transport
	slot event.DeviceID
	emit bus.Emit
	cfg  Config

	link         bool
	backlog      []event.Frame // received, in order
	backlogBytes int           // derived
	stats        Stats
}

// New returns the device for a slot of the board; its link is up.
func New(slot event.DeviceID, mem bus.Memory, line bus.Line, emit bus.Emit, cfg Config) *Device {
	d := &Device{slot: slot, emit: emit, cfg: cfg, link: true}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize, queueSize)
	return d
}

// Receive applies frames from the network. A frame that can't be delivered is
// dropped and counted; an error means that the log is not this machine's.
func (d *Device) Receive(in event.Frames) error {
	if in.Device != d.slot {
		return fmt.Errorf("virtio-net in slot %d: frames are meant for slot %d", d.slot, in.Device)
	}
	b := backend{d}
	for _, f := range in.Frames {
		b.receive(f)
	}
	b.Queue(rx).Flush()
	return nil
}

// Offloads says what the driver can take now. The network's side must finish
// checksums and cut segments accordingly: what can't be taken is dropped.
func (d *Device) Offloads() Offloads {
	csum := d.Running() && d.Has(FeatureGuestCSum)
	return Offloads{
		CSum: csum,
		TSO4: csum && d.Has(FeatureGuestTSO4),
		TSO6: csum && d.Has(FeatureGuestTSO6),
	}
}

// Waiting tells whether received frames wait for buffers of the driver. More would
// wait behind them, or be dropped: they are better kept where they come from.
func (d *Device) Waiting() bool { return len(d.backlog) > 0 }

// SetLink plugs the cable in or pulls it, and tells the driver.
func (d *Device) SetLink(up bool) {
	if d.link != up {
		d.link = up
		d.ConfigChanged()
	}
}

// Link tells whether the cable is plugged in.
func (d *Device) Link() bool { return d.link }

// Stats returns the counts since the machine was made.
func (d *Device) Stats() Stats { return d.stats }

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 1, network card (§5).
func (b backend) DeviceID() uint32 { return 1 }

// Features offers MTU only where it is configured.
func (b backend) Features() uint64 {
	f := uint64(FeatureCSum | FeatureGuestCSum | FeatureMAC | FeatureGuestTSO4 | FeatureGuestTSO6 |
		FeatureHostTSO4 | FeatureHostTSO6 | FeatureMrgRxBuf | FeatureStatus)
	if b.cfg.MTU != 0 {
		f |= FeatureMTU
	}
	return f
}

// Config is struct virtio_net_config (§5.1.4).
func (b backend) Config() []byte {
	c := make([]byte, 12)
	copy(c, b.cfg.MAC[:])
	if b.link {
		binary.LittleEndian.PutUint16(c[6:], linkUp)
	}
	binary.LittleEndian.PutUint16(c[8:], 1) // pairs of queues
	binary.LittleEndian.PutUint16(c[10:], b.cfg.MTU)
	return c
}

// StoreConfig has nothing to change: the MAC is not the driver's to write (§5.1.4.1).
func (b backend) StoreConfig(uint64, []byte) {}

// Reset forgets the frames meant for the old driver.
func (b backend) Reset() { b.backlog, b.backlogBytes = nil, 0 }

// Kick transmits, or goes on with the frames that waited for buffers.
func (b backend) Kick(queue int) {
	q := b.Queue(queue)
	if queue == tx {
		q.Drain(b.transmit)
	} else {
		b.deliver()
	}
	q.Flush()
}

func (b backend) transmit(c virtio.Chain) bool {
	n := c.Readable.Len()
	if n < headerSize {
		b.Fail()
		return false
	}
	if f, ok := b.gather(c, n); ok {
		b.emit(event.FrameOut{Device: b.slot, Frame: f})
	} else {
		b.stats.TxDropped++
	}
	b.Queue(tx).Push(c, 0)
	return true
}

// gather copies a frame out of the guest and checks it.
func (b backend) gather(c virtio.Chain, n uint64) (f event.Frame, ok bool) {
	if n < headerSize+minFrame || n > headerSize+maxFrame {
		return f, false
	}
	p := make([]byte, n)
	if !b.Queue(tx).Gather(c, 0, p) {
		return f, false
	}
	f = event.Frame{Offload: decode(p), Data: p[headerSize:]}
	f.Offload.Flags &= flagNeedsCSum // the only one that a driver may set (§5.1.6.2)
	takes := Offloads{CSum: b.Has(FeatureCSum), TSO4: b.Has(FeatureHostTSO4), TSO6: b.Has(FeatureHostTSO6)}
	return f, b.link && takes.allow(f)
}

// receive delivers a frame at once, or behind those that wait already.
func (b backend) receive(f event.Frame) {
	if !b.Running() || !b.link || len(f.Data) < minFrame || len(f.Data) > maxFrame {
		b.stats.RxDropped++
		return
	}
	if len(b.backlog) == 0 && b.put(f) {
		return
	}
	if len(b.backlog) == maxBacklog || b.backlogBytes+len(f.Data) > maxBacklogBytes {
		b.stats.RxDropped++
		return
	}
	f.Data = append([]byte(nil), f.Data...) // it came within a larger batch
	b.backlog = append(b.backlog, f)
	b.backlogBytes += len(f.Data)
}

// deliver puts waiting frames into buffers until one finds none.
func (b backend) deliver() {
	for len(b.backlog) > 0 && b.put(b.backlog[0]) {
		b.backlogBytes -= len(b.backlog[0].Data)
		b.backlog[0] = event.Frame{}
		b.backlog = b.backlog[1:]
	}
}

// put copies a frame into buffers of the driver, or drops one that it can't
// ever take. It reports false if the frame must wait.
func (b backend) put(f event.Frame) (done bool) {
	f, ok := b.prepare(f)
	if !ok {
		b.stats.RxDropped++
		return true
	}
	chains, ok := b.claim(headerSize + uint64(len(f.Data)))
	if chains == nil {
		if ok {
			b.Queue(rx).Arm()
			return false
		}
		b.stats.RxDropped++
		return true
	}
	b.fill(chains, f)
	return true
}

// prepare fits a frame to what the driver agreed to receive.
func (b backend) prepare(f event.Frame) (event.Frame, bool) {
	o := b.Offloads()
	if !o.CSum && f.Offload.GSOType == gsoNone {
		if f.Offload.Flags&flagNeedsCSum != 0 && !checksum(&f) {
			return f, false
		}
		f.Offload = event.Offload{}
	}
	if b.Has(FeatureMTU) && f.Offload.GSOType == gsoNone && len(f.Data) > int(b.cfg.MTU)+overhead {
		return f, false // §5.1.4.1
	}
	return f, o.allow(f)
}

// claim pops chains with room for n bytes: one, or with MRG_RXBUF as many as it
// takes (§5.1.6.3.1). None and true: there may be room later.
func (b backend) claim(n uint64) ([]virtio.Chain, bool) {
	q := b.Queue(rx)
	avail, limit := q.Available(), 1
	if b.Has(FeatureMrgRxBuf) {
		limit = q.Size()
	}
	var chains []virtio.Chain
	room := uint64(0)
	for len(chains) < min(avail, limit) {
		c, ok := q.Pop()
		if !ok {
			return nil, false
		}
		room += c.Writable.Len()
		if room >= n {
			return append(chains, c), true
		}
		chains = append(chains, c.Keep())
	}
	q.Unpop(len(chains))
	return nil, b.Running() && len(chains) < limit
}

// fill writes the header into the first chain and the frame behind it and on.
func (b backend) fill(chains []virtio.Chain, f event.Frame) {
	q := b.Queue(rx)
	if chains[0].Writable.Len() < headerSize {
		b.Fail()
		return
	}
	h := encode(f.Offload, uint16(len(chains)))
	data, off := f.Data, uint64(headerSize)
	q.Scatter(chains[0], 0, h)
	for _, c := range chains {
		n := min(c.Writable.Len()-off, uint64(len(data)))
		q.Scatter(c, off, data[:n])
		q.Push(c, uint32(off+n))
		data, off = data[n:], 0
	}
}

// State visits the link, the backlog and the counts.
func (b backend) State(c *state.Coder) {
	c.Bool(&b.link)
	state.U64(c, &b.stats.RxDropped)
	state.U64(c, &b.stats.TxDropped)
	state.List(c, &b.backlog, maxBacklog, func(f *event.Frame) { frameState(c, f) })
	if !c.Loading() {
		return
	}
	b.backlogBytes = 0
	for _, f := range b.backlog {
		b.backlogBytes += len(f.Data)
	}
	if b.backlogBytes > maxBacklogBytes {
		c.Fail("virtio-net in slot %d: %d bytes of frames wait, at most %d are possible", b.slot, b.backlogBytes, maxBacklogBytes)
	}
}

func frameState(c *state.Coder, f *event.Frame) {
	o := &f.Offload
	state.U8(c, &o.Flags)
	state.U8(c, &o.GSOType)
	state.U16(c, &o.HdrLen)
	state.U16(c, &o.GSOSize)
	state.U16(c, &o.CsumStart)
	state.U16(c, &o.CsumOffset)
	c.Bytes(&f.Data, maxFrame)
}
