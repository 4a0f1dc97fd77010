// SPDX-License-Identifier: Apache-2.0

package virtio

import (
	"encoding/binary"
	"slices"

	"tandem/machine/state"
)

// MaxQueue is the most descriptors that a queue can have here.
const MaxQueue = 256

// maxChain bounds the descriptors of one chain: a queue's worth (§2.7.5.3.1),
// and the one that points to an indirect table. A loop runs into it.
const maxChain = MaxQueue + 1

// Flags of a descriptor (§2.7.5), and of the available ring (§2.7.6).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
)

// Queue is the device's side of a split virtqueue (§2.7):
//
//	desc    table of num × {addr u64, len u32, flags u16, next u16}
//	driver  available ring {flags, idx, ring[num] u16, used_event}
//	device  used ring      {flags, idx, ring[num] {id, len u32}, avail_event}
//
// Both indices are kept here and only written to, or advanced along, the
// guest's: a guest that changes its used ring fools nobody but itself.
type Queue struct {
	t   *Transport
	max uint16

	num    uint16 // descriptors, a power of two
	ready  bool
	desc   uint64
	driver uint64
	device uint64

	life uint64 // counts how often the queue was made ready; a Chain knows its own
	next uint16 // available index that Pop takes next
	used uint16 // used index of the next Push
	told uint16 // used index at the last Flush; equals used between calls

	buf      [16]byte // for what is read from and written to the rings
	readable Buffer
	writable Buffer
}

// Segment is a piece of guest memory named by one descriptor.
type Segment struct {
	Addr uint64
	Len  uint32
}

// Buffer is the readable or the writable part of a chain.
type Buffer []Segment

// Len is its length in bytes.
func (b Buffer) Len() uint64 {
	n := uint64(0)
	for _, s := range b {
		n += uint64(s.Len)
	}
	return n
}

// Chain is a descriptor chain that the device has taken and must Push back.
// Its buffers are valid until the next Pop of the queue; see Keep.
type Chain struct {
	head     uint16
	life     uint64
	Readable Buffer // by the device
	Writable Buffer // by the device
}

// Keep returns the chain to be held across calls. A device that needs only one of
// the parts later drops the other.
func (c Chain) Keep() Chain {
	c.Readable, c.Writable = slices.Clone(c.Readable), slices.Clone(c.Writable)
	return c
}

// State visits a kept chain.
func (c *Chain) State(co *state.Coder) {
	state.U16(co, &c.head)
	state.U64(co, &c.life)
	for _, b := range []*Buffer{&c.Readable, &c.Writable} {
		state.List(co, (*[]Segment)(b), maxChain, func(s *Segment) {
			state.U64(co, &s.Addr)
			state.U32(co, &s.Len)
		})
	}
}

// Drain hands each chain that is available now to handle, until that returns
// false; after the last one it asks the driver to kick for the next. The number
// is fixed at the start: rings laid over each other can't make it go on forever.
func (q *Queue) Drain(handle func(Chain) (more bool)) {
	for n := q.Available(); n > 0; n-- {
		c, ok := q.Pop()
		if !ok || !handle(c) {
			return
		}
	}
	q.Arm()
}

// Available counts the chains that the driver has made available and the
// device has not taken, at most the size of the queue.
func (q *Queue) Available() int {
	if !q.live() {
		return 0
	}
	idx, ok := q.load16(q.driver + 2)
	if n := idx - q.next; ok && n <= q.num {
		return int(n)
	}
	q.t.Fail()
	return 0
}

// Size is the number of descriptors that the driver gave the queue.
func (q *Queue) Size() int { return int(q.num) }

// Pop takes the next of the Available chains. A chain that breaks the rules
// fails the device.
func (q *Queue) Pop() (Chain, bool) {
	if !q.live() {
		return Chain{}, false
	}
	head, ok := q.load16(q.driver + 4 + 2*uint64(q.next%q.num))
	if !ok || !q.walk(head) {
		q.t.Fail()
		return Chain{}, false
	}
	q.next++
	return Chain{head: head, life: q.life, Readable: q.readable, Writable: q.writable}, true
}

// Unpop gives back the last n chains popped, unused.
func (q *Queue) Unpop(n int) { q.next -= uint16(n) }

// walk collects the segments of a chain; false means that a driver must not
// make such a one.
func (q *Queue) walk(head uint16) bool {
	q.readable, q.writable = q.readable[:0], q.writable[:0]
	table, size, indirect := q.desc, uint32(q.num), false
	i := uint32(head)
	for range maxChain {
		if i >= size || !q.t.mem.Read(table+16*uint64(i), q.buf[:]) {
			return false
		}
		addr := binary.LittleEndian.Uint64(q.buf[0:])
		n := binary.LittleEndian.Uint32(q.buf[8:])
		flags := binary.LittleEndian.Uint16(q.buf[12:])
		if flags&descIndirect != 0 {
			// §2.7.5.3: once, at the end of a chain, whole descriptors; descWrite is ignored.
			if indirect || flags&descNext != 0 || n == 0 || n%16 != 0 || !q.t.Has(RingIndirectDesc) {
				return false
			}
			table, size, indirect, i = addr, n/16, true, 0
			continue
		}
		if !q.add(Segment{addr, n}, flags&descWrite != 0) {
			return false
		}
		if flags&descNext == 0 {
			return true
		}
		i = uint32(binary.LittleEndian.Uint16(q.buf[14:]))
	}
	return false
}

// add appends a segment; what the device reads comes before what it writes (§2.7.4.2).
func (q *Queue) add(s Segment, write bool) bool {
	switch {
	case write:
		q.writable = append(q.writable, s)
	case len(q.writable) > 0:
		return false
	default:
		q.readable = append(q.readable, s)
	}
	return true
}

// Gather fills p from the readable part of c, from offset off on. It reports
// false if the chain is from before a reset, or lies outside RAM or is too
// short, which fails the device.
func (q *Queue) Gather(c Chain, off uint64, p []byte) bool {
	return q.copy(c, c.Readable, off, p, false)
}

// Scatter writes p to the writable part of c, from offset off on; see Gather.
func (q *Queue) Scatter(c Chain, off uint64, p []byte) bool {
	return q.copy(c, c.Writable, off, p, true)
}

func (q *Queue) copy(c Chain, b Buffer, off uint64, p []byte, write bool) bool {
	if !q.holds(c) {
		return false
	}
	for _, s := range b {
		if len(p) == 0 {
			return true
		}
		if off >= uint64(s.Len) {
			off -= uint64(s.Len)
			continue
		}
		n := min(uint64(s.Len)-off, uint64(len(p)))
		if !q.transfer(s.Addr+off, p[:n], write) {
			q.t.Fail()
			return false
		}
		p, off = p[n:], 0
	}
	if len(p) > 0 {
		q.t.Fail()
		return false
	}
	return true
}

func (q *Queue) transfer(pa uint64, p []byte, write bool) bool {
	if write {
		return q.t.mem.Write(pa, p)
	}
	return q.t.mem.Read(pa, p)
}

// Push returns a chain to the driver, with the count of bytes written to it.
// A chain from before a reset, or from before the queue was stopped, is gone.
func (q *Queue) Push(c Chain, written uint32) {
	if !q.holds(c) {
		return
	}
	e := q.buf[:8]
	binary.LittleEndian.PutUint32(e[0:], uint32(c.head))
	binary.LittleEndian.PutUint32(e[4:], written)
	if !q.t.mem.Write(q.device+4+8*uint64(q.used%q.num), e) {
		q.t.Fail()
		return
	}
	q.used++
}

// Flush shows the driver what was pushed, all at once, and interrupts it if it
// asked for that (§2.7.7). Each call that pushes ends with one.
func (q *Queue) Flush() {
	if !q.live() || q.used == q.told {
		return
	}
	want, ok := q.wantsInterrupt()
	if !ok || !q.store16(q.device+2, q.used) {
		q.t.Fail()
		return
	}
	q.told = q.used
	if want {
		q.t.interrupt(InterruptUsed)
	}
}

// wantsInterrupt reports whether used_event lies within what was pushed since
// the last Flush, modulo 2^16 (§2.7.10), or without that feature what the flag says.
func (q *Queue) wantsInterrupt() (want, ok bool) {
	if q.t.Has(RingEventIdx) {
		event, ok := q.load16(q.driver + 4 + 2*uint64(q.num))
		return q.used-event-1 < q.used-q.told, ok
	}
	flags, ok := q.load16(q.driver)
	return flags&availNoInterrupt == 0, ok
}

// Arm asks for a kick as soon as the driver makes one more chain available
// than there are now. Without EVENT_IDX drivers always kick: a kick is no exit
// to a host here, and the flag that stops them is never set.
func (q *Queue) Arm() {
	if !q.live() || !q.t.Has(RingEventIdx) {
		return
	}
	idx, ok := q.load16(q.driver + 2)
	if !ok || !q.store16(q.device+4+8*uint64(q.num), idx) {
		q.t.Fail()
	}
}

// live reports whether the rings may be touched.
func (q *Queue) live() bool { return q.ready && q.t.Running() }

// holds reports whether the guest still waits for the chain.
func (q *Queue) holds(c Chain) bool { return q.live() && c.life == q.life }

func (q *Queue) load16(pa uint64) (uint16, bool) {
	ok := q.t.mem.Read(pa, q.buf[:2])
	return binary.LittleEndian.Uint16(q.buf[:2]), ok
}

func (q *Queue) store16(pa uint64, v uint16) bool {
	binary.LittleEndian.PutUint16(q.buf[:2], v)
	return q.t.mem.Write(pa, q.buf[:2])
}

// store writes a register of the queue (§4.2.2). While it is ready only
// QueueReady may change.
func (q *Queue) store(off uint64, v uint32) {
	if off == RegQueueReady && v&1 == 0 {
		q.ready = false
	}
	if q.ready {
		return
	}
	switch off {
	case RegQueueReady:
		q.start(v&1 != 0)
	case RegQueueNum:
		q.num = uint16(min(v, MaxQueue+1)) // too large is found by valid
	case RegQueueDescLow, RegQueueDescHigh:
		setWord(&q.desc, uint32(off>>2&1), v)
	case RegQueueDriverLow, RegQueueDriverHigh:
		setWord(&q.driver, uint32(off>>2&1), v)
	case RegQueueDeviceLow, RegQueueDeviceHigh:
		setWord(&q.device, uint32(off>>2&1), v)
	}
}

// start makes the queue ready with both indices at 0. Without a legal layout it
// stays not ready, which the driver can read back.
func (q *Queue) start(ready bool) {
	if !ready || !q.valid() {
		return
	}
	q.ready = true
	q.life++
	q.next, q.used, q.told = 0, 0, 0
}

// valid checks size and alignment (§2.7); where the rings lie shows at their use.
func (q *Queue) valid() bool {
	return q.num > 0 && q.num <= q.max && q.num&(q.num-1) == 0 &&
		q.desc%16 == 0 && q.driver%2 == 0 && q.device%4 == 0
}

func (q *Queue) reset() {
	q.num, q.ready = 0, false
	q.desc, q.driver, q.device = 0, 0, 0
	q.next, q.used, q.told = 0, 0, 0
}

func (q *Queue) state(c *state.Coder) {
	state.U16(c, &q.num)
	c.Bool(&q.ready)
	state.U64(c, &q.desc)
	state.U64(c, &q.driver)
	state.U64(c, &q.device)
	state.U64(c, &q.life)
	state.U16(c, &q.next)
	state.U16(c, &q.used)
	if c.Loading() {
		q.told = q.used
		if q.ready && !q.valid() {
			q.ready = false
			c.Fail("virtio: a queue of %d descriptors is ready, at most %d are possible", q.num, q.max)
		}
	}
}
