// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/world/overlap"
)

// What a backup does with disks itself: it reads what the log leaves out (§4.2). It
// begins when its machine asks, as the primary did, and applies the completion only
// when its own read is done. A read that fails is begun again; if that does not help
// it costs the backup its place, never the VM. Without a primary there is nobody to
// leave the VM to, so it goes on trying.

const (
	diskRetry    = 20 * ft.Millisecond
	diskPatience = 5 * ft.Second // of a backup with its failing disk
)

// operation is a disk request that this backup carries out itself.
type operation struct {
	event.DiskRequest
	output      event.OutputID
	begun, done bool
	outcome     event.DiskDone
	failed      ft.Time // when it failed first, or 0
	retry       ft.Time // it is begun again then
}

// pollFollowed takes the outcome of Site.Follow.
func (r *Replica) pollFollowed() {
	if r.following == nil {
		return
	}
	devices, err, ok := r.following.Poll()
	if !ok {
		return
	}
	r.following = nil
	if err != nil {
		r.report(Event{Kind: Trouble, Text: "this copy can't read the VM's disks itself, and takes what they hold from the log: " + err.Error()})
	}
	r.devices = devices
	r.tellLoaded()
}

// tellLoaded says that the machine is loaded, once it is known which disks this copy
// reads itself.
func (r *Replica) tellLoaded() {
	if r.following != nil || r.rep == nil || r.toldLoaded {
		return
	}
	r.toldLoaded = true
	for slot, d := range r.devices.Disks {
		if d != nil && r.cfg.Reads.Has(event.DeviceID(slot)) {
			r.reads = r.reads.With(event.DeviceID(slot))
		}
	}
	seq, step := r.rep.Executed()
	if err := r.b.Loaded(r.now, seq, step, r.reads); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
}

// mirror sees a disk request that the machine has emitted.
func (r *Replica) mirror(q event.DiskRequest, output event.OutputID) {
	if q.Op == event.DiskRead && r.reads.Has(q.Device) {
		r.operations = append(r.operations, &operation{DiskRequest: q, output: output})
	}
}

// followDisks takes what the disks have done, and begins what can be. It returns when
// there is something to begin again.
func (r *Replica) followDisks() (next ft.Time) {
	if r.reads == 0 {
		return ft.Never
	}
	for slot, d := range r.devices.Disks {
		for d != nil {
			done, ok := d.Poll()
			if !ok {
				break
			}
			done.Device = event.DeviceID(slot)
			r.followed(done)
		}
	}
	return r.beginOperations()
}

func (r *Replica) followed(done event.DiskDone) {
	o := r.operation(done.Device, done.ID)
	switch {
	case o == nil: // the log had the data
	case done.Status == event.DiskOK:
		o.done, o.outcome = true, done
	default:
		if o.begun, o.retry = false, r.now+diskRetry; o.failed == 0 {
			o.failed = r.now
			r.stats.DiskRetries++
			r.report(Event{Kind: Trouble, Text: fmt.Sprintf("the disk in slot %d failed to read %d bytes at %d, which the primary has read: trying again", o.Device, o.Length, o.Offset)})
		}
		if s := r.b.State(); (s == ft.Receiving || s == ft.Replaying) && r.now >= o.failed+diskPatience {
			r.fail(fmt.Errorf("the disk in slot %d does not read %d bytes at %d here, for %d s; the primary goes on", o.Device, o.Length, o.Offset, diskPatience/ft.Second))
		}
	}
}

func (r *Replica) operation(d event.DeviceID, id uint64) *operation {
	for _, o := range r.operations {
		if o.Device == d && o.ID == id {
			return o
		}
	}
	return nil
}

// beginOperations begins what waits for nothing: a read may not overtake a write of
// the same place that the primary has not yet done.
func (r *Replica) beginOperations() (next ft.Time) {
	next = ft.Never
	var pending []event.DiskRequest
	for _, o := range r.operations {
		switch {
		case o.begun:
			continue
		case r.now < o.retry:
			next = min(next, o.retry)
			continue
		case pending == nil:
			pending = r.m.PendingDisk()
		}
		if !behindWrite(o.DiskRequest, pending) {
			o.begun = true
			r.devices.Disks[o.Device].Submit(o.DiskRequest)
		}
	}
	return next
}

// behindWrite reports whether an earlier request of the machine, not done yet, changes
// what q reads.
func behindWrite(q event.DiskRequest, pending []event.DiskRequest) bool {
	for _, p := range pending {
		switch {
		case p.Device != q.Device:
		case p.ID == q.ID:
			return false
		case overlap.Conflict(p, q):
			return true
		}
	}
	return false
}

// ready is asked by the Replayer before it applies an entry: a completion waits for
// what this copy does itself, and gets its data.
func (r *Replica) ready(e event.Entry) (event.Input, bool) {
	d, ok := e.Input.(event.DiskDone)
	if !ok || !d.FromDisk {
		return e.Input, true
	}
	r.keepOutputs() // it may have been asked for in this very slice
	o := r.operation(d.Device, d.ID)
	switch {
	case o == nil: // the machine never asked for it, or we don't read that disk
		return d, true
	case !o.done:
		return nil, false
	}
	d.Data = o.outcome.Data
	return d, true
}

// settled forgets an operation whose completion was applied.
func (r *Replica) settled(d event.DiskDone) {
	r.keepOutputs() // it may have been asked for in this very slice
	for i, o := range r.operations {
		if o.Device == d.Device && o.ID == d.ID {
			r.operations = append(r.operations[:i], r.operations[i+1:]...)
			return
		}
	}
}

// progress is how far this backup has come.
func (r *Replica) progress() ft.Progress {
	seq, step := r.rep.Executed()
	done := r.rep.LastOutput()
	for _, o := range r.operations {
		if !o.done {
			done = o.output - 1
			break
		}
	}
	r.diskDone = max(r.diskDone, done)
	return ft.Progress{Executed: seq, Step: step, Disk: r.diskDone}
}
