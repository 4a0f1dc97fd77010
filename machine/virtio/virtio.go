// SPDX-License-Identifier: Apache-2.0

// Package virtio is the virtio-mmio transport and the split virtqueue that all
// virtio devices of the board share (Virtio 1.2 §2, §4.2).
//
// A device is two halves. Transport is what the bus sees: the registers of one
// slot, feature negotiation, the rings and the interrupt. Backend is what makes
// it a disk or a network card. The guest's rings are touched in two places only:
//
//	store to QueueNotify ──► Backend.Kick ──► Queue.Drain ──► bus.Emit (a request)
//	entry applied ──► Done, Receive, … ──► Queue.Push, Flush ──► interrupt
//
// Both happen at an exact step, so a backup sees the same rings change at the
// same instructions (paper §3.5), and data moves only there (§3.4).
//
// All that the guest writes is hostile. A ring that breaks the rules sets
// DEVICE_NEEDS_RESET and is left alone until the driver resets the device.
package virtio

import (
	"encoding/binary"

	"tandem/machine/bus"
	"tandem/machine/state"
)

// Size is what one slot takes on the bus.
const Size = 0x1000

// Registers of a slot (§4.2.2, table 4.1). All are 32 bits wide; the
// configuration space that begins at RegConfig takes any width.
const (
	RegMagicValue        = 0x000
	RegVersion           = 0x004
	RegDeviceID          = 0x008
	RegVendorID          = 0x00c
	RegDeviceFeatures    = 0x010
	RegDeviceFeaturesSel = 0x014
	RegDriverFeatures    = 0x020
	RegDriverFeaturesSel = 0x024
	RegQueueSel          = 0x030
	RegQueueNumMax       = 0x034
	RegQueueNum          = 0x038
	RegQueueReady        = 0x044
	RegQueueNotify       = 0x050
	RegInterruptStatus   = 0x060
	RegInterruptACK      = 0x064
	RegStatus            = 0x070
	RegQueueDescLow      = 0x080
	RegQueueDescHigh     = 0x084
	RegQueueDriverLow    = 0x090
	RegQueueDriverHigh   = 0x094
	RegQueueDeviceLow    = 0x0a0
	RegQueueDeviceHigh   = 0x0a4
	RegSHMSel            = 0x0ac
	RegSHMLenLow         = 0x0b0
	RegSHMLenHigh        = 0x0b4
	RegSHMBaseLow        = 0x0b8
	RegSHMBaseHigh       = 0x0bc
	RegConfigGeneration  = 0x0fc
	RegConfig            = 0x100
)

const (
	magic   = 0x74726976 // "virt"
	version = 2
	vendor  = 0x444e4154 // "TAND"
)

// Bits of RegStatus (§2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Bits of RegInterruptStatus (§4.2.2).
const (
	InterruptUsed   = 1 // a buffer was used
	InterruptConfig = 2 // the configuration changed
)

// Features of the transport (§6); a Backend adds its own.
const (
	RingIndirectDesc = 1 << 28
	RingEventIdx     = 1 << 29
	Version1         = 1 << 32
)

// Backend is one kind of device behind a Transport.
type Backend interface {
	// DeviceID is the number of the kind (§5).
	DeviceID() uint32
	// Features are the device's own feature bits, without the transport's.
	Features() uint64
	// Config is the configuration space as it is now; bytes beyond read as zero.
	Config() []byte
	// StoreConfig writes p at offset off, which may lie anywhere.
	StoreConfig(off uint64, p []byte)
	// Kick handles a store to QueueNotify. The queue is ready and the driver runs.
	Kick(queue int)
	// Reset forgets what belongs to the driver. The rings are gone already.
	// Counts by which the world knows the device (ids, offsets) go on.
	Reset()
	// State visits the backend's fields, after the transport's.
	State(c *state.Coder)
}

// Transport is the bus.Device of one slot.
type Transport struct {
	backend Backend
	mem     bus.Memory
	line    bus.Line
	queues  []Queue

	status     uint32
	interrupts uint32 // InterruptStatus; the line is high while it isn't 0
	generation uint32 // of the configuration space
	features   uint64 // written by the driver; agreed once FEATURES_OK is set

	deviceSel uint32 // DeviceFeaturesSel
	driverSel uint32 // DriverFeaturesSel
	queueSel  uint32
}

// New returns a transport in front of b, with one queue for each of sizes: the
// most descriptors it may have, a power of two up to MaxQueue.
func New(b Backend, mem bus.Memory, line bus.Line, sizes ...uint16) *Transport {
	t := &Transport{backend: b, mem: mem, line: line, queues: make([]Queue, len(sizes))}
	for i, n := range sizes {
		t.queues[i] = Queue{t: t, max: min(n, MaxQueue)}
	}
	return t
}

// Queue returns queue i, counted from 0.
func (t *Transport) Queue(i int) *Queue { return &t.queues[i] }

// Running reports whether the driver has set DRIVER_OK and nothing has gone wrong since.
func (t *Transport) Running() bool {
	return t.status&(StatusDriverOK|StatusNeedsReset) == StatusDriverOK
}

// Has reports whether device and driver agreed on all of the features in f.
func (t *Transport) Has(f uint64) bool {
	return t.status&StatusFeaturesOK != 0 && t.features&f == f
}

// Fail sets DEVICE_NEEDS_RESET: the driver has done what it must not, and the
// device stops until it is reset (§2.1.2).
func (t *Transport) Fail() {
	if t.status&StatusNeedsReset != 0 {
		return
	}
	running := t.Running()
	t.status |= StatusNeedsReset
	if running {
		t.interrupt(InterruptConfig)
	}
}

// ConfigChanged tells the driver that its configuration space has changed (§2.5).
func (t *Transport) ConfigChanged() {
	t.generation++
	if t.Running() {
		t.interrupt(InterruptConfig)
	}
}

func (t *Transport) interrupt(bits uint32) {
	t.interrupts |= bits
	t.line.Set(true)
}

// Load reads a register or the configuration space.
func (t *Transport) Load(off uint64, size int) (uint64, bool) {
	if off >= RegConfig {
		return t.loadConfig(off-RegConfig, size), true
	}
	if size != 4 {
		return 0, false // §4.2.2.2: drivers use 32-bit accesses
	}
	return uint64(t.load(off)), true
}

func (t *Transport) load(off uint64) uint32 {
	switch off {
	case RegMagicValue:
		return magic
	case RegVersion:
		return version
	case RegDeviceID:
		return t.backend.DeviceID()
	case RegVendorID:
		return vendor
	case RegDeviceFeatures:
		return word(t.offered(), t.deviceSel)
	case RegQueueNumMax:
		if q := t.selected(); q != nil {
			return uint32(q.max)
		}
	case RegQueueReady:
		if q := t.selected(); q != nil && q.ready {
			return 1
		}
	case RegInterruptStatus:
		return t.interrupts
	case RegStatus:
		return t.status
	case RegSHMLenLow, RegSHMLenHigh, RegSHMBaseLow, RegSHMBaseHigh:
		return ^uint32(0) // no such region (§4.2.2)
	case RegConfigGeneration:
		return t.generation
	}
	return 0
}

// Store writes a register or the configuration space.
func (t *Transport) Store(off uint64, size int, v uint64) bool {
	if off >= RegConfig {
		t.storeConfig(off-RegConfig, size, v)
		return true
	}
	if size != 4 {
		return false
	}
	t.store(off, uint32(v))
	return true
}

func (t *Transport) store(off uint64, v uint32) {
	switch off {
	case RegDeviceFeaturesSel:
		t.deviceSel = v
	case RegDriverFeaturesSel:
		t.driverSel = v
	case RegDriverFeatures:
		if t.status&StatusFeaturesOK == 0 {
			setWord(&t.features, t.driverSel, v)
		}
	case RegQueueSel:
		t.queueSel = v
	case RegQueueNotify:
		t.notify(v)
	case RegInterruptACK:
		t.interrupts &^= v
		t.line.Set(t.interrupts != 0)
	case RegStatus:
		t.setStatus(v)
	default:
		if q := t.selected(); q != nil {
			q.store(off, v)
		}
	}
}

// notify is the only way into a ring from the guest's side.
func (t *Transport) notify(queue uint32) {
	if uint64(queue) < uint64(len(t.queues)) && t.queues[queue].live() {
		t.backend.Kick(int(queue))
	}
}

// setStatus follows §3.1.1. Bits only add up until a 0 resets the device;
// FEATURES_OK stays clear if the driver wants what isn't offered, or nothing modern.
func (t *Transport) setStatus(v uint32) {
	if v == 0 {
		t.Reset()
		return
	}
	t.status |= v & (StatusAcknowledge | StatusDriver | StatusFailed)
	if v&StatusFeaturesOK != 0 && t.features&^t.offered() == 0 && t.features&Version1 != 0 {
		t.status |= StatusFeaturesOK
	}
	if t.status&StatusFeaturesOK != 0 {
		t.status |= v & StatusDriverOK
	}
}

func (t *Transport) offered() uint64 {
	return t.backend.Features() | RingIndirectDesc | RingEventIdx | Version1
}

func (t *Transport) selected() *Queue {
	if uint64(t.queueSel) < uint64(len(t.queues)) {
		return &t.queues[t.queueSel]
	}
	return nil
}

func (t *Transport) loadConfig(off uint64, size int) uint64 {
	var b [8]byte
	if cfg := t.backend.Config(); off < uint64(len(cfg)) {
		copy(b[:size], cfg[off:])
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (t *Transport) storeConfig(off uint64, size int, v uint64) {
	b := binary.LittleEndian.AppendUint64(nil, v)
	t.backend.StoreConfig(off, b[:size])
}

// Reset is the driver's reset and the power-on one alike. The generations of
// the configuration and of the queues go on, so that nothing from before can
// be taken for something new.
func (t *Transport) Reset() {
	t.status, t.features = 0, 0
	t.deviceSel, t.driverSel, t.queueSel = 0, 0, 0
	t.interrupts = 0
	t.line.Set(false)
	for i := range t.queues {
		t.queues[i].reset()
	}
	t.backend.Reset()
}

// State visits the registers, the queues, and then the backend.
func (t *Transport) State(c *state.Coder) {
	state.U32(c, &t.status)
	state.U32(c, &t.interrupts)
	state.U32(c, &t.generation)
	state.U64(c, &t.features)
	state.U32(c, &t.deviceSel)
	state.U32(c, &t.driverSel)
	state.U32(c, &t.queueSel)
	if c.Loading() && t.status&StatusFeaturesOK != 0 && t.features&^t.offered() != 0 {
		c.Fail("virtio: the driver uses features %#x, this device offers %#x: restore with the configuration that was saved",
			t.features, t.offered())
	}
	for i := range t.queues {
		t.queues[i].state(c)
	}
	t.backend.State(c)
	if c.Loading() && c.Err() == nil {
		t.line.Set(t.interrupts != 0)
	}
}

// word is the 32-bit half of v that a Sel register chose; there are two.
func word(v uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(v >> (32 * sel))
}

func setWord(v *uint64, sel, w uint32) {
	if sel > 1 {
		return
	}
	shift := 32 * sel
	*v = *v&^(0xffffffff<<shift) | uint64(w)<<shift
}

// Empty is a slot without a device. It reads as DeviceID 0, which drivers pass
// over in silence (§4.2.3.1.1), so the device tree may list every slot.
type Empty struct{}

// Load reads the four registers that a slot always has; all else is 0.
func (Empty) Load(off uint64, size int) (uint64, bool) {
	switch off {
	case RegMagicValue:
		return magic, size == 4
	case RegVersion:
		return version, size == 4
	case RegVendorID:
		return vendor, size == 4
	}
	return 0, size == 4 || off >= RegConfig
}

// Store has nothing to change.
func (Empty) Store(off uint64, size int, _ uint64) bool { return size == 4 || off >= RegConfig }

// Reset has nothing to reset.
func (Empty) Reset() {}

// State has nothing to visit.
func (Empty) State(*state.Coder) {}
