// SPDX-License-Identifier: Apache-2.0

package replica

import (
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
	if p := (parkedRequest{q, output}); r.overwrites(q, r.parked) {
		r.stats.ReadWaits++
		r.parked = append(r.parked, p)
		return
	}
	r.start(q, output)
}

func (r *Replica) start(q event.DiskRequest, output event.OutputID) {
	if q.Op == event.DiskRead && r.cfg.Reads.Has(q.Device) && r.p.Reads(q.Device) {
		r.readings = append(r.readings, reading{DiskRequest: q, output: output})
	}
	r.devices.Disks[q.Device].Submit(q)
}

// overwrites reports whether a request must wait for the backup, or behind one that does.
func (r *Replica) overwrites(q event.DiskRequest, parked []parkedRequest) bool {
	for i := range r.readings {
		if x := &r.readings[i]; !x.confirmed && x.Device == q.Device && overlap.Conflict(x.DiskRequest, q) {
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

// completed records the completion of a request. The data of a reading stay here.
func (r *Replica) completed(done event.DiskDone) {
	for i := range r.readings {
		x := &r.readings[i]
		if x.Device != done.Device || x.ID != done.ID {
			continue
		}
		done.FromDisk, x.logged = done.Status == event.DiskOK, true
		x.confirmed = x.confirmed || !done.FromDisk
		break
	}
	r.wake(true)
	r.record(done)
}

// confirmReads takes what the backup has done meanwhile, and begins what waited for it.
func (r *Replica) confirmReads() {
	if len(r.readings) == 0 && len(r.parked) == 0 {
		return
	}
	done := r.p.Status().Backup.Disk
	n := 0
	for _, x := range r.readings {
		x.confirmed = x.confirmed || x.output <= done
		if !x.confirmed || !x.logged {
			r.readings[n] = x
			n++
		}
	}
	r.readings = r.readings[:n]
	r.unpark()
}

// forgetReads is for a backup that is gone for good: nobody reads behind us.
func (r *Replica) forgetReads() {
	r.readings = nil
	r.unpark()
}

// unpark begins what need not wait any more, in order, if it may still leave.
func (r *Replica) unpark() {
	if len(r.parked) == 0 || !r.p.MayEmit(r.now) {
		return
	}
	waiting := r.parked
	r.parked = nil
	for _, p := range waiting {
		if r.overwrites(p.DiskRequest, r.parked) {
			r.parked = append(r.parked, p)
			continue
		}
		r.start(p.DiskRequest, p.output)
	}
}
