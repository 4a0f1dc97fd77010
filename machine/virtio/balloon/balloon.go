// SPDX-License-Identifier: Apache-2.0

// Package balloon is the traditional memory balloon (Virtio 1.3 §5.5): the driver is told
// how many pages the guest is to do without, and gives them back page by page.
//
// What is given back is zero from that instruction on, on every copy alike, and the host
// may have its memory. A guest that takes a page again finds zeros. Nobody makes a guest
// give anything back; and one that runs out of memory may take pages back without being
// asked (VIRTIO_BALLOON_F_DEFLATE_ON_OOM).
package balloon

import (
	"encoding/binary"

	"tandem/machine/bus"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// PageSize is what the device counts in (§5.5.6), whatever the guest's pages are.
const PageSize = 4096

// Queues (§5.5.2).
const (
	inflate = 0
	deflate = 1
)

// FeatureDeflateOnOOM is VIRTIO_BALLOON_F_DEFLATE_ON_OOM (§5.5.3).
const FeatureDeflateOnOOM = 1 << 2

const (
	queueSize = 16
	// maxPages bounds the pages of one buffer: it bounds what one store of the guest's
	// costs. Linux's driver sends at most 256.
	maxPages = 256
)

// Config is what the device is made with.
type Config struct {
	Wanted uint32 // pages that the guest is to do without from the start
	// Release makes a page of guest memory zero, by its physical address; false if that
	// is none.
	Release func(pa uint64) bool
}

// Device is a virtio-balloon device.
type Device struct {
	*virtio.Transport
	cfg Config

	wanted uint32 // pages that the guest is to do without
	given  uint32 // that it says it does without
}

// New returns the device. It asks nothing of the world, so it has no number there.
func New(mem bus.Memory, line bus.Line, cfg Config) *Device {
	d := &Device{cfg: cfg, wanted: cfg.Wanted}
	d.Transport = virtio.New(backend{d}, mem, line, queueSize, queueSize)
	return d
}

// Want says how many pages the guest is to do without.
func (d *Device) Want(pages uint32) {
	d.wanted = pages
	d.ConfigChanged()
}

// Given returns how many pages the guest says that it does without; driven is false if it
// has no driver for that.
func (d *Device) Given() (pages uint32, driven bool) { return d.given, d.Running() }

// backend is the side of the Device that its transport sees.
type backend struct{ *Device }

// DeviceID is 5, memory balloon (§5).
func (b backend) DeviceID() uint32 { return 5 }

// Features lets a guest in need help itself.
func (b backend) Features() uint64 { return FeatureDeflateOnOOM }

// Config is struct virtio_balloon_config: num_pages and actual (§5.5.4).
func (b backend) Config() []byte {
	c := binary.LittleEndian.AppendUint32(nil, b.wanted)
	return binary.LittleEndian.AppendUint32(c, b.given)
}

// StoreConfig takes actual; all else is read only.
func (b backend) StoreConfig(off uint64, p []byte) {
	c := b.Config()
	for i, v := range p {
		if at := off + uint64(i); at >= 4 && at < uint64(len(c)) {
			c[at] = v
		}
	}
	b.given = binary.LittleEndian.Uint32(c[4:])
}

// Reset forgets what the driver said. Pages that it gave back are still zero.
func (b backend) Reset() { b.given = 0 }

// Kick takes pages that are given back; of those that the guest takes again nothing need
// be known.
func (b backend) Kick(queue int) {
	q := b.Queue(queue)
	q.Drain(func(c virtio.Chain) bool {
		if queue == inflate && !b.release(c) {
			return false
		}
		q.Push(c, 0)
		return true
	})
	q.Flush()
}

// release makes the pages of a buffer zero: an array of page numbers (§5.5.6).
func (b backend) release(c virtio.Chain) bool {
	n := c.Readable.Len()
	if n%4 != 0 || n > 4*maxPages {
		b.Fail() // no driver has such buffers
		return false
	}
	pages := make([]byte, n)
	if !b.Queue(inflate).Gather(c, 0, pages) {
		return false
	}
	for ; len(pages) > 0; pages = pages[4:] {
		if !b.cfg.Release(uint64(binary.LittleEndian.Uint32(pages)) * PageSize) {
			b.Fail()
			return false
		}
	}
	return true
}

// State visits both counts.
func (b backend) State(c *state.Coder) {
	state.U32(c, &b.wanted)
	state.U32(c, &b.given)
}
