// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"tandem/ft"
	"tandem/machine/event"
)

// A new backup of a VM whose disks are replicated (paper §4.1) gets what its disk
// lacks while the guest runs:
//
//	primary                                              backup
//	reads a piece, hashes its blocks  ── hashes ──►      reads the same piece
//	marks what differs                ◄── wanted ──
//	reads what is marked              ── block … ──►     writes it
//	                                  ◄── stored ──
//
// A disk that was this VM's before differs in what was written since; one that is
// new and empty in all that isn't zero. A block that the guest changes is marked again
// as the completion of that write is logged: what was read of it may be older. When
// few are left the memory is cloned (clone.go), and from the clone's step on nothing
// is marked: a write whose completion is in the log from there on is done by the
// backup itself, again if need be. All blocks leave before the clone's last part, so
// before the backup executes anything.

const (
	diskBlock = 64 << 10
	diskPiece = 16 // blocks that are read at a time

	resyncReads  = 8                // pieces being read
	resyncAsked  = 32               // pieces being compared by the backup
	resyncOnWay  = 256              // blocks that the backup has not stored yet
	resyncLeft   = 16               // blocks with which the clone may begin, or end
	resyncID     = uint64(1) << 63  // requests of ours, not of the guest
	hashSize     = sha256.Size / 2  // of a block
	resyncReport = 5 * 1000_000_000 // ns between two reports
)

// What follows the packet's kind.
const (
	resyncHashes = 1 // to the backup: slot, first block, hashes
	resyncBlock  = 2 // to the backup: slot, block, bytes; none if all are zero
	resyncWanted = 3 // slot, first block, a byte for each: 1 if it differs
	resyncStored = 4 // slot, block
)

// bitmap is a set of blocks.
type bitmap struct {
	words []uint64
	n     int // members
}

func newBitmap(n uint64) bitmap { return bitmap{words: make([]uint64, (n+63)/64)} }

func (m *bitmap) has(i uint64) bool { return m.words[i/64]>>(i%64)&1 != 0 }

func (m *bitmap) set(i uint64) {
	if !m.has(i) {
		m.words[i/64] |= 1 << (i % 64)
		m.n++
	}
}

func (m *bitmap) clear(i uint64) {
	if m.has(i) {
		m.words[i/64] &^= 1 << (i % 64)
		m.n--
	}
}

// next returns the first block of the set at or after i, or of all the set.
func (m *bitmap) next(i uint64) (uint64, bool) {
	if m.n == 0 {
		return 0, false
	}
	for n := range uint64(len(m.words)) + 1 {
		w := (i/64 + n) % uint64(len(m.words))
		word := m.words[w]
		if n == 0 {
			word &= ^uint64(0) << (i % 64)
		}
		if word != 0 {
			return w*64 + uint64(bits.TrailingZeros64(word)), true
		}
	}
	return 0, false
}

// resyncing is what a primary does for the disks of a backup that is being made.
type resyncing struct {
	disks  []*resync // none: there is nothing to do, or not any more
	lastID uint64
}

// resync is the copying of one disk to a backup.
type resync struct {
	slot    event.DeviceID
	size    uint64
	blocks  uint64
	next    uint64 // the first block that was not compared
	marked  bitmap // blocks to be sent
	cursor  uint64 // in marked
	reads   []resyncRead
	arrived []event.DiskDone
	asked   int // pieces
	onWay   int // blocks
	frozen  bool
	sent    uint64 // bytes
	began   ft.Time
	told    ft.Time
	due     ft.Time // of the next piece
}

// resyncRead is a piece being read, to be compared or sent.
type resyncRead struct {
	id, first uint64
	compare   bool
}

// newResyncs returns the copying of all disks that each copy has for itself.
func (r *Replica) newResyncs() (list []*resync) {
	for i, d := range r.m.Config().Devices {
		disk := r.devices.Disks[i]
		if !d.Disk.Own() || disk == nil {
			continue
		}
		n := (disk.Size() + diskBlock - 1) / diskBlock
		c := &resync{slot: event.DeviceID(i), size: disk.Size(), blocks: n, marked: newBitmap(n), began: r.now, told: r.now}
		r.report(Event{Kind: ResyncBegan, Text: fmt.Sprintf("the disk in slot %d, %d MiB, is compared with the backup's", i, c.size>>20)})
		list = append(list, c)
	}
	return list
}

// changed marks what a completed request of the guest has changed.
func (c *resync) changed(q event.DiskRequest) {
	if c.frozen || !q.Changes() || q.Length == 0 || q.Offset >= c.size {
		return
	}
	last := (min(q.Offset+q.Length, c.size) - 1) / diskBlock
	for b := q.Offset / diskBlock; b <= last && b < c.next; b++ {
		c.marked.set(b)
	}
}

// nearlyDone reports whether nothing is under way, and few blocks are left.
func (c *resync) nearlyDone() bool {
	return c.next == c.blocks && c.asked == 0 && c.marked.n <= resyncLeft
}

// gone reports whether the backup was sent all.
func (c *resync) gone() bool {
	return c.next == c.blocks && c.asked == 0 && len(c.reads) == 0 && c.marked.n == 0
}

// are reports whether something is so of all disks.
func (x *resyncing) are(what func(*resync) bool) bool {
	for _, c := range x.disks {
		if !what(c) {
			return false
		}
	}
	return true
}

// changed marks what a completed request of the guest has changed.
func (x *resyncing) changed(q event.DiskRequest) {
	for _, c := range x.disks {
		if c.slot == q.Device {
			c.changed(q)
		}
	}
}

// done takes a request of ours that a disk has done.
func (x *resyncing) done(done event.DiskDone) {
	for _, c := range x.disks {
		if c.slot == done.Device {
			c.arrived = append(c.arrived, done)
		}
	}
}

// freeze ends the marking: the clone's step is reached.
func (x *resyncing) freeze() {
	for _, c := range x.disks {
		c.frozen = true
	}
}

// sendDisks goes on with the disks. due is when it has more to do by itself; packets
// and completions wake it.
func (r *Replica) sendDisks() (due ft.Time) {
	if len(r.resyncing.disks) == 0 {
		return ft.Never
	}
	if r.w.Channel.Backlog() >= cloneBacklog {
		return r.now + ft.Millisecond
	}
	due = ft.Never
	for _, c := range r.resyncing.disks {
		r.readPieces(c)
		if len(c.arrived) > 0 && r.now >= c.due {
			done := c.arrived[0]
			c.arrived = c.arrived[1:]
			began := r.clock()
			r.sendPiece(c, done)
			r.now = r.clock()
			c.due = r.now
			if share := ft.Time(r.cfg.CloneShare); !r.idle { // as a clone does
				c.due += (r.now - began) * (1000 - share) / share
			}
		}
		if len(c.arrived) > 0 {
			due = min(due, c.due)
		}
		r.noteResync(c)
	}
	return due
}

// readPieces begins what may be read.
func (r *Replica) readPieces(c *resync) {
	for len(c.reads) < resyncReads && c.onWay+c.reading() < resyncOnWay {
		switch b, ok := c.marked.next(c.cursor); {
		case c.next < c.blocks && c.asked < resyncAsked:
			n := min(diskPiece, c.blocks-c.next)
			c.asked++
			r.readPiece(c, c.next, n, true)
			c.next += n
		case ok:
			n := uint64(0)
			for ; n < diskPiece && b+n < c.blocks && c.marked.has(b+n); n++ {
				c.marked.clear(b + n)
			}
			c.cursor = (b + n) % c.blocks
			r.readPiece(c, b, n, false)
		default:
			return
		}
	}
}

// reading is how many blocks are being read in order to be sent, at most.
func (c *resync) reading() (n int) {
	for _, x := range c.reads {
		if !x.compare {
			n += diskPiece
		}
	}
	return n
}

func (r *Replica) readPiece(c *resync, first, n uint64, compare bool) {
	r.resyncing.lastID++
	id := resyncID | r.resyncing.lastID
	c.reads = append(c.reads, resyncRead{id: id, first: first, compare: compare})
	off := first * diskBlock
	r.devices.Disks[c.slot].Submit(event.DiskRequest{Device: c.slot, ID: id, Op: event.DiskRead,
		Offset: off, Length: min(n*diskBlock, c.size-off), Mode: event.ReplicatedDisk})
}

// sendPiece sends the hashes or the blocks of a piece that was read.
func (r *Replica) sendPiece(c *resync, done event.DiskDone) {
	for i, x := range c.reads {
		if x.id != done.ID {
			continue
		}
		c.reads = append(c.reads[:i], c.reads[i+1:]...)
		switch {
		case done.Status != event.DiskOK:
			r.giveUpBackup(fmt.Sprintf("the disk in slot %d can't be copied for it: reading at %d failed", c.slot, x.first*diskBlock))
		case x.compare:
			b := resyncHead(resyncHashes, c.slot, x.first)
			for piece := done.Data; len(piece) > 0; piece = piece[min(diskBlock, len(piece)):] {
				b = append(b, blockHash(piece[:min(diskBlock, len(piece))])...)
			}
			r.w.Channel.Send(b)
		default:
			r.sendBlocks(c, x.first, done.Data)
		}
		return
	}
}

func (r *Replica) sendBlocks(c *resync, block uint64, piece []byte) {
	for ; len(piece) > 0; block++ {
		data := piece[:min(diskBlock, len(piece))]
		piece = piece[len(data):]
		b := resyncHead(resyncBlock, c.slot, block)
		if !allZero(data) {
			b = append(b, data...)
			c.sent += uint64(len(data))
			r.stats.ResyncBytes += uint64(len(data))
		}
		c.onWay++
		r.w.Channel.Send(b)
	}
}

// blockHash is all zeros for a block of zeros, of which most disks have many.
func blockHash(b []byte) []byte {
	if allZero(b) {
		return make([]byte, hashSize)
	}
	h := sha256.Sum256(b)
	return h[:hashSize]
}

func resyncHead(op byte, slot event.DeviceID, block uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{packetDisk, op, byte(slot)}, block)
}

func allZero(b []byte) bool {
	var zero [4096]byte
	for ; len(b) > 0; b = b[min(len(b), len(zero)):] {
		if n := min(len(b), len(zero)); !bytes.Equal(b[:n], zero[:n]) {
			return false
		}
	}
	return true
}

// resyncReply takes what the backup says of its disks.
func (r *Replica) resyncReply(b []byte) error {
	op, slot, block, rest, err := parseResync(b)
	if err != nil {
		return err
	}
	for _, c := range r.resyncing.disks {
		if c.slot != slot {
			continue
		}
		n := uint64(len(rest))
		switch {
		case op == resyncStored && n == 0 && c.onWay > 0:
			c.onWay--
			return nil
		case op == resyncWanted && c.asked > 0 && n <= diskPiece && block <= c.blocks && n <= c.blocks-block:
			c.asked--
			for i, differs := range rest {
				if differs != 0 {
					c.marked.set(block + uint64(i))
				}
			}
			return nil
		}
		return fmt.Errorf("an answer %d about block %d of the disk in slot %d that nobody asked for", op, block, slot)
	}
	return nil // of a copying that has ended
}

func parseResync(b []byte) (op byte, slot event.DeviceID, block uint64, rest []byte, err error) {
	if len(b) < 10 || b[1] >= 8 {
		return 0, 0, 0, nil, errors.New("a malformed part of a disk")
	}
	return b[0], event.DeviceID(b[1]), binary.LittleEndian.Uint64(b[2:]), b[10:], nil
}

// giveUpBackup ends the making of a backup.
func (r *Replica) giveUpBackup(why string) {
	r.report(Event{Kind: Trouble, Text: why})
	if err := r.p.Detach(r.now, why); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
	r.act()
}

// noteResync reports progress.
func (r *Replica) noteResync(c *resync) {
	left := c.marked.n
	r.stats.ResyncLeft = uint64(left)*diskBlock + (c.blocks-c.next)*diskBlock
	if c.frozen && c.gone() && c.told != ft.Never {
		c.told = ft.Never
		r.report(Event{Kind: ResyncEnded, Text: fmt.Sprintf("the disk in slot %d: %d MiB compared, %d KiB sent in %.2f s",
			c.slot, c.size>>20, c.sent>>10, float64(r.now-c.began)/float64(ft.Second))})
		return
	}
	if c.told != ft.Never && r.now >= c.told+resyncReport {
		c.told = r.now
		r.report(Event{Kind: ResyncRound, Text: fmt.Sprintf("the disk in slot %d: %d of %d MiB compared, %d MiB sent, %d MiB left",
			c.slot, c.next*diskBlock>>20, c.size>>20, c.sent>>20, r.stats.ResyncLeft>>20)})
	}
}
