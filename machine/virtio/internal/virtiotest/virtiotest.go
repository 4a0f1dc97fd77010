// SPDX-License-Identifier: Apache-2.0

// Package virtiotest is a guest without a CPU: RAM, an interrupt line and a
// driver that speaks to a device as Linux does, for the tests of the devices.
package virtiotest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
)

// Base is where RAM begins.
const Base = 0x8000_0000

// RAM is the guest's memory.
type RAM []byte

// Read copies from memory.
func (m RAM) Read(pa uint64, b []byte) bool {
	p, ok := m.at(pa, len(b))
	copy(b, p)
	return ok
}

// Write copies to memory.
func (m RAM) Write(pa uint64, b []byte) bool {
	p, ok := m.at(pa, len(b))
	copy(p, b)
	return ok
}

func (m RAM) at(pa uint64, n int) ([]byte, bool) {
	off := pa - Base
	if off > uint64(len(m)) || uint64(n) > uint64(len(m))-off {
		return nil, false
	}
	return m[off : off+uint64(n)], true
}

// Line is an interrupt wire.
type Line bool

// Set drives it.
func (l *Line) Set(level bool) { *l = Line(level) }

// Maker makes the device under test.
type Maker func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device

// Guest is a device with all that surrounds it.
type Guest struct {
	T     testing.TB
	RAM   RAM
	Line  Line
	Out   []event.OutputBody
	Dev   bus.Device
	Rings []*Ring
	free  uint64 // next address that Alloc gives
}

// New makes a guest with 1 MiB of RAM.
func New(t testing.TB, make_ Maker) *Guest {
	g := &Guest{T: t, RAM: make(RAM, 1<<20), free: Base}
	g.Dev = make_(g.RAM, &g.Line, g.emit)
	return g
}

func (g *Guest) emit(o event.OutputBody) { g.Out = append(g.Out, o) }

// Take returns the outputs since the last Take.
func (g *Guest) Take() []event.OutputBody {
	out := g.Out
	g.Out = nil
	return out
}

// Load reads a register.
func (g *Guest) Load(off uint64) uint32 {
	g.T.Helper()
	v, ok := g.Dev.Load(off, 4)
	if !ok {
		g.T.Fatalf("load of register %#x faults", off)
	}
	return uint32(v)
}

// Store writes a register.
func (g *Guest) Store(off uint64, v uint32) {
	g.T.Helper()
	if !g.Dev.Store(off, 4, uint64(v)) {
		g.T.Fatalf("store to register %#x faults", off)
	}
}

// Config reads a field of the configuration space.
func (g *Guest) Config(off uint64, size int) uint64 {
	v, _ := g.Dev.Load(virtio.RegConfig+off, size)
	return v
}

// Interrupt returns InterruptStatus and acknowledges it.
func (g *Guest) Interrupt() uint32 {
	v := g.Load(virtio.RegInterruptStatus)
	if (v != 0) != bool(g.Line) {
		g.T.Errorf("interrupt status is %d, the line %v", v, g.Line)
	}
	g.Store(virtio.RegInterruptACK, v)
	return v
}

// NeedsReset reports DEVICE_NEEDS_RESET.
func (g *Guest) NeedsReset() bool { return g.Load(virtio.RegStatus)&virtio.StatusNeedsReset != 0 }

// Offered reads the device's features.
func (g *Guest) Offered() uint64 {
	g.Store(virtio.RegDeviceFeaturesSel, 1)
	hi := g.Load(virtio.RegDeviceFeatures)
	g.Store(virtio.RegDeviceFeaturesSel, 0)
	return uint64(hi)<<32 | uint64(g.Load(virtio.RegDeviceFeatures))
}

// Negotiate resets the device and asks for features; it reports FEATURES_OK.
func (g *Guest) Negotiate(features uint64) bool {
	g.Store(virtio.RegStatus, 0)
	g.Store(virtio.RegStatus, virtio.StatusAcknowledge|virtio.StatusDriver)
	for sel := range uint32(2) {
		g.Store(virtio.RegDriverFeaturesSel, sel)
		g.Store(virtio.RegDriverFeatures, uint32(features>>(32*sel)))
	}
	g.Store(virtio.RegStatus, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK)
	return g.Load(virtio.RegStatus)&virtio.StatusFeaturesOK != 0
}

// Start negotiates features (VERSION_1 is added), sets up a queue of each of
// sizes and sets DRIVER_OK.
func (g *Guest) Start(features uint64, sizes ...uint16) {
	g.T.Helper()
	features |= virtio.Version1
	if !g.Negotiate(features) {
		g.T.Fatalf("features %#x refused", features)
	}
	g.Rings = nil
	for i, n := range sizes {
		g.Rings = append(g.Rings, g.newRing(uint32(i), n, features))
	}
	g.Store(virtio.RegStatus, virtio.StatusDriverOK)
}

// Alloc returns the address of n zero bytes that nobody else uses.
func (g *Guest) Alloc(n int) uint64 {
	pa := g.free
	g.free += uint64(n+15) &^ 15
	if p, ok := g.RAM.at(pa, n); ok {
		clear(p)
		return pa
	}
	g.T.Fatal("the test needs more RAM")
	return 0
}

// FreeAll takes back all that Alloc gave; Start must follow.
func (g *Guest) FreeAll() { g.free = Base }

// Data puts bytes into new memory, for the device to read.
func (g *Guest) Data(p []byte) Buf {
	pa := g.Alloc(len(p))
	g.RAM.Write(pa, p)
	return Buf{Addr: pa, Len: uint32(len(p))}
}

// Space gives n bytes of new memory for the device to write.
func (g *Guest) Space(n int) Buf { return Buf{Addr: g.Alloc(n), Len: uint32(n), Write: true} }

// Bytes reads a buffer.
func (g *Guest) Bytes(b Buf) []byte {
	p := make([]byte, b.Len)
	g.RAM.Read(b.Addr, p)
	return p
}

// Snapshot saves the device.
func (g *Guest) Snapshot() []byte {
	var b bytes.Buffer
	c := state.Saver(&b)
	g.Dev.State(c)
	if c.Err() != nil {
		g.T.Fatal(c.Err())
	}
	return b.Bytes()
}

// Hash hashes device and RAM.
func (g *Guest) Hash() uint64 {
	c := state.Hasher()
	g.Dev.State(c)
	c.Fixed(g.RAM)
	return c.Sum()
}

// Fork makes a second guest from a snapshot of this one; it has no outputs yet.
func (g *Guest) Fork(make_ Maker) *Guest {
	g.T.Helper()
	f := New(g.T, make_)
	copy(f.RAM, g.RAM)
	f.free = g.free
	c := state.Loader(bytes.NewReader(g.Snapshot()))
	f.Dev.State(c)
	if c.Err() != nil {
		g.T.Fatal(c.Err())
	}
	for _, r := range g.Rings {
		f.Rings = append(f.Rings, r.fork(f))
	}
	return f
}

// Buf is one descriptor's worth of memory.
type Buf struct {
	Addr  uint64
	Len   uint32
	Write bool // by the device
}

// Used is an element of the used ring.
type Used struct {
	Head    uint32
	Written uint32
}

// Ring is the driver's side of a queue.
type Ring struct {
	G                *Guest
	Index            uint32
	Num              uint16
	Desc             uint64
	Avail            uint64
	UsedRing         uint64
	EventIdx         bool
	Indirect         bool // put chains into indirect tables
	NextAvail        uint16
	NextUsed         uint16
	Kicks            int // QueueNotify stores that event_idx did not save
	nextDesc, kicked uint16
	tables           []uint64 // indirect tables by head
}

func (g *Guest) newRing(index uint32, n uint16, features uint64) *Ring {
	r := &Ring{
		G: g, Index: index, Num: n,
		Desc: g.Alloc(16 * int(n)), Avail: g.Alloc(6 + 2*int(n)), UsedRing: g.Alloc(6 + 8*int(n)),
		EventIdx: features&virtio.RingEventIdx != 0,
		tables:   make([]uint64, n),
	}
	g.Store(virtio.RegQueueSel, index)
	g.Store(virtio.RegQueueNum, uint32(n))
	for off, v := range map[uint64]uint64{
		virtio.RegQueueDescLow: r.Desc, virtio.RegQueueDriverLow: r.Avail, virtio.RegQueueDeviceLow: r.UsedRing,
	} {
		g.Store(off, uint32(v))
		g.Store(off+4, uint32(v>>32))
	}
	g.Store(virtio.RegQueueReady, 1)
	if g.Load(virtio.RegQueueReady) != 1 {
		g.T.Fatalf("queue %d is not ready", index)
	}
	return r
}

func (r *Ring) fork(g *Guest) *Ring {
	f := *r
	f.G = g
	f.tables = append([]uint64(nil), r.tables...)
	return &f
}

// Add makes a chain available and returns its head. Descriptors are reused in
// a circle: the caller doesn't have more than Num of them outstanding.
func (r *Ring) Add(bufs ...Buf) uint32 {
	head := r.nextDesc % r.Num
	if r.Indirect {
		r.indirect(head, bufs)
		r.nextDesc++
	} else {
		for i, b := range bufs {
			r.Describe(r.Desc, r.nextDesc%r.Num, b, i+1 < len(bufs), (r.nextDesc+1)%r.Num)
			r.nextDesc++
		}
	}
	r.MakeAvailable(head)
	return uint32(head)
}

func (r *Ring) indirect(head uint16, bufs []Buf) {
	if r.tables[head] == 0 {
		r.tables[head] = r.G.Alloc(16 * 16)
	}
	for i, b := range bufs {
		r.Describe(r.tables[head], uint16(i), b, i+1 < len(bufs), uint16(i)+1)
	}
	r.WriteDesc(r.Desc, head, r.tables[head], uint32(16*len(bufs)), 4, 0)
}

// Describe writes descriptor i of a table.
func (r *Ring) Describe(table uint64, i uint16, b Buf, more bool, next uint16) {
	flags := uint16(0)
	if more {
		flags |= 1
	}
	if b.Write {
		flags |= 2
	}
	r.WriteDesc(table, i, b.Addr, b.Len, flags, next)
}

// WriteDesc writes descriptor i of a table, whatever it says.
func (r *Ring) WriteDesc(table uint64, i uint16, addr uint64, n uint32, flags, next uint16) {
	d := binary.LittleEndian.AppendUint64(nil, addr)
	d = binary.LittleEndian.AppendUint32(d, n)
	d = binary.LittleEndian.AppendUint16(d, flags)
	d = binary.LittleEndian.AppendUint16(d, next)
	r.G.RAM.Write(table+16*uint64(i), d)
}

// MakeAvailable puts a head into the available ring.
func (r *Ring) MakeAvailable(head uint16) {
	r.G.Write16(r.Avail+4+2*uint64(r.NextAvail%r.Num), head)
	r.NextAvail++
	r.G.Write16(r.Avail+2, r.NextAvail)
}

// Kick notifies the device if it asked for that, as Linux's
// virtqueue_kick_prepare decides (§2.7.10), and reports whether it did.
func (r *Ring) Kick() bool {
	old, now := r.kicked, r.NextAvail
	r.kicked = now
	if r.EventIdx {
		event := r.G.Read16(r.UsedRing + 4 + 8*uint64(r.Num))
		if now-event-1 >= now-old {
			return false
		}
	}
	r.Notify()
	return true
}

// Notify kicks in any case.
func (r *Ring) Notify() {
	r.Kicks++
	r.G.Store(virtio.RegQueueNotify, r.Index)
}

// Collect returns what the device has used, and asks for an interrupt at the next.
func (r *Ring) Collect() []Used {
	var list []Used
	for idx := r.G.Read16(r.UsedRing + 2); r.NextUsed != idx; r.NextUsed++ {
		e := make([]byte, 8)
		r.G.RAM.Read(r.UsedRing+4+8*uint64(r.NextUsed%r.Num), e)
		list = append(list, Used{binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])})
	}
	r.WantAt(r.NextUsed)
	return list
}

// WantAt sets used_event: the device interrupts when it uses that index.
func (r *Ring) WantAt(idx uint16) { r.G.Write16(r.Avail+4+2*uint64(r.Num), idx) }

// Read16 reads from RAM.
func (g *Guest) Read16(pa uint64) uint16 {
	b := make([]byte, 2)
	g.RAM.Read(pa, b)
	return binary.LittleEndian.Uint16(b)
}

// Write16 writes to RAM.
func (g *Guest) Write16(pa uint64, v uint16) {
	g.RAM.Write(pa, binary.LittleEndian.AppendUint16(nil, v))
}
