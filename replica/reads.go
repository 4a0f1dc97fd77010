// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"slices"

	"tandem/machine/event"
	"tandem/world/overlap"
)

// Reads by the backup (paper §4.2), on the primary's side. The log carries the
// completion of such a read without its data; the backup reads the same place
// itself. So a write that would change that place waits until it has:
//
//	primary      read ──► done ─ DiskDone(from disk) ─┐     write released … parked ──► disk
//	backup                                read ───────┴──► done ─ Ack(disk) ───┘
//
// A read that fails here goes into the log as it is, and one that begins before the
// backup has said that it reads, or ends after the backup is lost, takes its data
// along.
//
// Where each copy has a disk of its own (§4.1) nothing waits: each disk runs what
// overlaps in order. But where a write has failed here the two disks may differ, and
// what is read of it goes into the log.

// gate is what the primary's requests, and their completions, wait for.
type gate struct {
	readings []reading           // what the backup reads itself
	parked   []parkedRequest     // released, but for those
	flushes  []flush             // that wait for both disks
	doubtful []event.DiskRequest // writes to our own disk that failed
}

// reading is a read whose data the log will not carry, or does not.
type reading struct {
	event.DiskRequest
	output    event.OutputID
	logged    bool // its completion is in the log
	confirmed bool // the backup has read it
}

// parkedRequest is one that may leave but for a reading that it would overwrite, or a
// parked one before it.
type parkedRequest struct {
	event.DiskRequest
	output event.OutputID
}

// submit begins a disk request, as soon as what the backup reads allows it. output is
// 0 if it is begun again.
func (r *Replica) submit(q event.DiskRequest, output event.OutputID) {
	if r.devices.Disks[q.Device] == nil {
		return
	}
	if p := (parkedRequest{q, output}); r.mustWait(q, r.gate.parked) {
		if !r.failures.stopped {
			r.stats.ReadWaits++
		}
		r.gate.parked = append(r.gate.parked, p)
		return
	}
	r.start(q, output)
}

func (r *Replica) start(q event.DiskRequest, output event.OutputID) {
	switch {
	case q.Op == event.DiskRead && r.cfg.Reads.Has(q.Device) && r.p.Reads(q.Device):
		r.gate.readings = append(r.gate.readings, reading{DiskRequest: q, output: output, confirmed: q.Mode.Own()})
	case q.Op == event.DiskFlush && q.Mode == event.ReplicatedFlush:
		r.gate.flushes = append(r.gate.flushes, flush{device: q.Device, id: q.ID, output: output})
	}
	q.ID += r.idBase
	r.devices.Disks[q.Device].Submit(q)
}

// doubts reports whether a write to where q reads has failed on our own disk.
func (g *gate) doubts(q event.DiskRequest) bool {
	for _, w := range g.doubtful {
		if w.Device == q.Device && (w.Length == 0 || overlap.Conflict(w, q)) {
			return true
		}
	}
	return false
}

// doubt notes a failed write. Too many count as one of the whole disk, which has no
// length.
func (g *gate) doubt(q event.DiskRequest) {
	if len(g.doubtful) == 256 {
		q.Length = 0
	}
	if len(g.doubtful) <= 256 && !g.doubts(event.DiskRequest{Device: q.Device, Op: event.DiskRead, Offset: q.Offset, Length: q.Length}) {
		g.doubtful = append(g.doubtful, q)
	}
}

// flush is a guest's flush that ends when both copies have flushed (design §6).
type flush struct {
	device event.DeviceID
	id     uint64
	output event.OutputID
	done   bool
	result event.DiskDone
}

// flushed reports whether a completed flush may be recorded: the backup has done it
// too, or there is none.
func (r *Replica) flushed(f flush) bool {
	return !r.p.Followed() || f.output <= r.p.Status().Backup.Disk
}

// mustWait reports whether a request must wait for the backup, for the operator, or
// behind one that does.
func (r *Replica) mustWait(q event.DiskRequest, parked []parkedRequest) bool {
	return r.failures.before(q, 0) || r.gate.overwrites(q, parked)
}

// overwrites reports whether a request would change what the backup has not read yet,
// or what is parked.
func (g *gate) overwrites(q event.DiskRequest, parked []parkedRequest) bool {
	for i := range g.readings {
		if x := &g.readings[i]; !x.confirmed && x.Device == q.Device && overlap.Conflict(x.DiskRequest, q) {
			return true
		}
	}
	for i := range parked {
		if parked[i].Device == q.Device && overlap.Conflict(parked[i].DiskRequest, q) {
			return true
		}
	}
	return false
}

// completed takes a request that a disk has done.
func (r *Replica) completed(done event.DiskDone) {
	switch {
	case done.ID >= growID:
		r.grown(done)
		return
	case done.ID >= resyncID:
		r.resyncing.done(done)
		return
	case done.ID < r.idBase || r.follower.stray(done):
		return
	}
	done.ID -= r.idBase
	if r.keepsError(done) {
		return
	}
	r.finish(done)
}

// finish goes on with a request that the guest may know of.
func (r *Replica) finish(done event.DiskDone) {
	for i := range r.gate.flushes {
		if f := &r.gate.flushes[i]; f.device == done.Device && f.id == done.ID {
			if f.done, f.result = true, done; !r.flushed(*f) {
				return
			}
			r.gate.flushes = slices.Delete(r.gate.flushes, i, i+1)
			break
		}
	}
	r.complete(done)
}

// complete records the completion of a request. The data of a reading stay here.
func (r *Replica) complete(done event.DiskDone) {
	if len(r.resyncing.disks) > 0 || done.Status != event.DiskOK {
		r.examine(done)
	}
	r.gate.read(&done)
	r.wake(true)
	r.record(done)
}

// read notes that the completion of a reading goes into the log, and whether the data
// go along.
func (g *gate) read(done *event.DiskDone) {
	for i := range g.readings {
		x := &g.readings[i]
		if x.Device != done.Device || x.ID != done.ID {
			continue
		}
		done.FromDisk, x.logged = done.Status == event.DiskOK && !g.doubts(x.DiskRequest), true
		x.confirmed = x.confirmed || !done.FromDisk
		return
	}
}

// examine looks at a completion on a disk of our own: what was written there may
// have to be sent to a new backup, and where a write failed the disks differ.
func (r *Replica) examine(done event.DiskDone) {
	for _, q := range r.m.PendingDisk() {
		if q.Device != done.Device || q.ID != done.ID || !q.Mode.Own() || !q.Changes() {
			continue
		}
		r.resyncing.changed(q)
		if done.Status != event.DiskOK {
			r.gate.doubt(q)
		}
	}
}

// confirmDisks takes what the backup has done meanwhile, and begins or records what
// waited for it.
func (r *Replica) confirmDisks() {
	for i := 0; i < len(r.gate.flushes); {
		if f := r.gate.flushes[i]; f.done && r.flushed(f) {
			r.gate.flushes = slices.Delete(r.gate.flushes, i, i+1)
			r.complete(f.result)
			continue
		}
		i++
	}
	if len(r.gate.readings) == 0 && len(r.gate.parked) == 0 {
		return
	}
	r.gate.confirm(r.p.Status().Backup.Disk)
	r.unpark()
}

// confirm forgets the readings that the backup has done, and that are in the log.
func (g *gate) confirm(done event.OutputID) {
	n := 0
	for _, x := range g.readings {
		x.confirmed = x.confirmed || x.output <= done
		if !x.confirmed || !x.logged {
			g.readings[n] = x
			n++
		}
	}
	g.readings = g.readings[:n]
}

// forgetReads is for a backup that is gone for good: nobody reads behind us.
func (r *Replica) forgetReads() {
	r.gate.readings = nil
	r.unpark()
}

// unpark begins what need not wait any more, in order, if it may still leave.
func (r *Replica) unpark() {
	if len(r.gate.parked) == 0 || !r.p.MayEmit(r.now) {
		return
	}
	waiting := r.gate.parked
	r.gate.parked = nil
	for _, p := range waiting {
		if r.mustWait(p.DiskRequest, r.gate.parked) {
			r.gate.parked = append(r.gate.parked, p)
			continue
		}
		r.start(p.DiskRequest, p.output)
	}
}
