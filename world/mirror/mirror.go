// SPDX-License-Identifier: Apache-2.0

// Package mirror moves a disk to another place while a machine uses it (design §6).
//
//	phase      reads   writes                          complete
//	Copying    old     old; new too, where it has      old
//	           	   been or is being copied
//	Both       new     both                            old and new
//	Moved      new     new                             new
//
// Copying goes from the disk's beginning to its end, a piece at a time. The old disk runs
// overlapping requests in the order submitted (package overlap), so a piece that is read
// has all that was written there before, and none of what is written later; what is
// written later waits for the new disk until the piece was submitted there.
//
// In phase Both whoever opens either disk finds all that was acknowledged: the place by
// which the VM's disk is known can change, one record after another.
package mirror

import (
	"errors"
	"fmt"

	"tandem/machine/event"
	"tandem/world"
	"tandem/world/overlap"
)

// Phase says which disk is complete.
type Phase uint8

const (
	Copying Phase = iota
	Both
	Moved
)

const (
	// ID is the first of the requests by which a disk is copied; nobody else has one from
	// here to twice that.
	ID = uint64(1) << 61

	pieceBytes = 512 << 10
	maxPieces  = 4 // being read or written
)

// Disk is the two disks. It is a world.Disk.
type Disk struct {
	old, new world.Disk
	size     uint64
	phase    Phase
	err      error // why the new disk is given up

	next    uint64 // all before has been or is being copied
	lastID  uint64
	pieces  []piece
	reading int    // requests of ours that the old disk has not answered
	flush   uint64 // the ID of the one that ends the copying, or 0
	flushed bool

	requests []request           // not done
	behind   []event.DiskRequest // for the new disk, behind pieces being read
	done     []event.DiskDone
}

// piece is being read from the old disk, then written to the new one.
type piece struct {
	event.DiskRequest
	read bool
}

// request is one of the machine's, with the answers that are outstanding.
type request struct {
	id       uint64
	old, new bool
	done     event.DiskDone
}

// New begins to copy the first size bytes of a disk to a new one. What the old disk was
// asked before ends as well.
func New(old, new world.Disk, size uint64) (*Disk, error) {
	if old.Size() < size || new.Size() < size {
		return nil, fmt.Errorf("a disk of %d bytes can't move from one of %d to one of %d: it needs as many", size, old.Size(), new.Size())
	}
	return &Disk{old: old, new: new, size: size}, nil
}

// Open goes on with two disks of which both are complete.
func Open(old, new world.Disk) *Disk { return &Disk{old: old, new: new, phase: Both} }

// Phase returns the phase.
func (d *Disk) Phase() Phase { return d.phase }

// Err says why the new disk was given up: then it can only be taken out again.
func (d *Disk) Err() error { return d.err }

// Progress is how many bytes are being or have been copied, of all.
func (d *Disk) Progress() (copied, size uint64) { return d.next, d.size }

// Copied reports that the new disk is complete and on stable storage.
func (d *Disk) Copied() bool { return d.phase == Copying && d.err == nil && d.flushed }

// Begin has both disks count, when Copied.
func (d *Disk) Begin() {
	if !d.Copied() {
		panic("mirror: both disks can't count, for one is not complete")
	}
	d.phase = Both
}

// End leaves the old disk behind.
func (d *Disk) End() {
	if d.phase != Both {
		panic("mirror: the new disk is not complete")
	}
	d.phase = Moved
}

// Only returns the disk that is left when there is nothing more to learn from the other:
// the new one after End, the old one after GiveUp. It takes the place of this one, and
// answers what is outstanding itself; the other is to be closed.
func (d *Disk) Only() (left, other world.Disk, ok bool) {
	if len(d.done) > 0 || d.reading > 0 {
		return nil, nil, false
	}
	for _, r := range d.requests {
		if r.old && d.phase == Moved || r.done.Status != event.DiskOK {
			return nil, nil, false
		}
	}
	if d.phase == Moved {
		return d.new, d.old, true
	}
	return d.old, d.new, d.err != nil
}

// GiveUp ends the copying: only the old disk counts.
func (d *Disk) GiveUp(why error) {
	if d.phase != Copying || d.err != nil {
		return
	}
	d.err, d.pieces, d.behind, d.flush = why, nil, nil, 0
	for i := len(d.requests) - 1; i >= 0; i-- {
		d.requests[i].new = false
		d.settle(i)
	}
}

// Submit implements world.Disk.
func (d *Disk) Submit(q event.DiskRequest) {
	r := request{id: q.ID, old: d.phase != Moved, new: d.phase != Copying}
	switch {
	case q.Op == event.DiskRead && d.phase == Both:
		r.old = false
	case q.Op == event.DiskRead, d.phase != Copying, d.err != nil:
	case q.Op == event.DiskFlush:
		r.new = d.next > 0
	default:
		r.new = q.Offset < d.next
	}
	d.requests = append(d.requests, r)
	if r.old {
		d.old.Submit(q)
	}
	if r.new {
		d.submitNew(q)
	}
}

// submitNew submits a request to the new disk, or keeps it behind pieces that are to be
// written there first.
func (d *Disk) submitNew(q event.DiskRequest) {
	if d.mustWait(q, d.behind) {
		d.behind = append(d.behind, q)
	} else {
		d.new.Submit(q)
	}
}

func (d *Disk) mustWait(q event.DiskRequest, before []event.DiskRequest) bool {
	for _, p := range d.pieces {
		if p.read && overlap.Conflict(p.DiskRequest, q) {
			return true
		}
	}
	for _, b := range before {
		if overlap.Conflict(b, q) {
			return true
		}
	}
	return false
}

// Poll implements world.Disk.
func (d *Disk) Poll() (done event.DiskDone, ok bool) {
	for {
		a, ok := d.old.Poll()
		if !ok {
			break
		}
		if !d.wasRead(a) {
			d.answer(a, false)
		}
	}
	for {
		a, ok := d.new.Poll()
		if !ok {
			break
		}
		if !d.wasWritten(a) {
			d.answer(a, true)
		}
	}
	d.copy()
	if len(d.done) == 0 {
		return done, false
	}
	done, d.done = d.done[0], d.done[1:]
	return done, true
}

// answer takes what one of the disks has to say of the machine's request.
func (d *Disk) answer(a event.DiskDone, isNew bool) {
	for i := range d.requests {
		r := &d.requests[i]
		if r.id != a.ID || isNew && !r.new || !isNew && !r.old {
			continue
		}
		switch {
		case isNew && d.phase == Copying && a.Status != event.DiskOK:
			d.GiveUp(fmt.Errorf("the new disk failed: status %d", a.Status))
			return
		case isNew:
			r.new = false
		default:
			r.old = false
		}
		if r.done.Status == event.DiskOK && (a.Status != event.DiskOK || len(a.Data) > 0) {
			r.done = a
		}
		d.settle(i)
		return
	}
	if !isNew { // it was asked before this was a mirror
		d.done = append(d.done, a)
	}
}

// settle ends a request that has all its answers.
func (d *Disk) settle(i int) {
	r := d.requests[i]
	if !r.old && !r.new {
		r.done.ID = r.id
		d.done = append(d.done, r.done)
		d.requests = append(d.requests[:i], d.requests[i+1:]...)
	}
}

// copy begins what there is room for.
func (d *Disk) copy() {
	if d.phase != Copying || d.err != nil {
		return
	}
	if d.new.Fenced() {
		d.GiveUp(errors.New("somebody else has the new disk now"))
		return
	}
	for len(d.pieces) < maxPieces && d.next < d.size {
		n := min(pieceBytes, d.size-d.next)
		p := piece{event.DiskRequest{ID: d.id(), Op: event.DiskRead, Offset: d.next, Length: n}, true}
		d.next += n
		d.old.Submit(p.DiskRequest)
		d.reading++
		p.Op = event.DiskWrite // what it conflicts with at the new disk
		d.pieces = append(d.pieces, p)
	}
	if len(d.pieces) == 0 && d.next == d.size && d.flush == 0 {
		d.flush = d.id()
		d.new.Submit(event.DiskRequest{ID: d.flush, Op: event.DiskFlush})
	}
}

func (d *Disk) id() uint64 {
	d.lastID++
	return ID + d.lastID
}

// wasRead takes a piece that was read, and writes it.
func (d *Disk) wasRead(a event.DiskDone) bool {
	if a.ID < ID || a.ID >= 2*ID {
		return false
	}
	d.reading--
	for i := range d.pieces {
		p := &d.pieces[i]
		switch {
		case p.ID != a.ID:
			continue
		case a.Status != event.DiskOK || uint64(len(a.Data)) != p.Length:
			d.GiveUp(fmt.Errorf("reading %d bytes at %d from the old disk failed: status %d", p.Length, p.Offset, a.Status))
			return true
		}
		p.read, p.Data = false, a.Data
		if zero(a.Data) {
			p.Op, p.Data = event.DiskWriteZeroes, nil
		}
		d.new.Submit(p.DiskRequest)
		d.release()
		return true
	}
	return true
}

// release submits what has waited for the piece.
func (d *Disk) release() {
	kept := d.behind[:0]
	for _, q := range d.behind {
		if d.mustWait(q, kept) {
			kept = append(kept, q)
		} else {
			d.new.Submit(q)
		}
	}
	d.behind = kept
}

// wasWritten takes a piece that was written.
func (d *Disk) wasWritten(a event.DiskDone) bool {
	switch {
	case a.ID < ID || a.ID >= 2*ID:
		return false
	case d.err != nil:
	case a.Status != event.DiskOK:
		d.GiveUp(fmt.Errorf("writing to the new disk failed: status %d", a.Status))
	case a.ID == d.flush:
		d.flushed = true
	}
	for i := range d.pieces {
		if d.pieces[i].ID == a.ID {
			d.pieces = append(d.pieces[:i], d.pieces[i+1:]...)
			break
		}
	}
	return true
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Fenced implements world.Disk. Whoever takes the new disk away while it is copied to takes
// nothing from the machine.
func (d *Disk) Fenced() bool {
	return d.phase != Moved && d.old.Fenced() || d.phase != Copying && d.new.Fenced()
}

// Size implements world.Disk.
func (d *Disk) Size() uint64 {
	switch d.phase {
	case Copying:
		return d.old.Size()
	case Both:
		return min(d.old.Size(), d.new.Size())
	}
	return d.new.Size()
}

// Close implements world.Disk.
func (d *Disk) Close() error { return errors.Join(d.old.Close(), d.new.Close()) }
