// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/world"
	"tandem/world/overlap"
)

// What a backup does with disks itself: it reads what the log leaves out (§4.2), and
// does on a disk of its own all that the guest does (§4.1). It begins when its machine
// asks, as the primary did, and applies the completion only when its own operation is
// done. What fails is begun again; if that does not help it costs the backup its place,
// never the VM. Without a primary there is nobody to leave the VM to, so it goes on
// trying. What failed on the primary has failed, whatever comes of it here.

const (
	diskRetry    = 20 * ft.Millisecond
	diskPatience = 5 * ft.Second // of a backup with its failing disk
)

// follower is a backup's part in disks. What it has begun on a disk of its own outlives
// it, when it goes live.
type follower struct {
	opening    world.Pending[world.Devices] // its disks
	err        error                        // why it can't use one
	told       bool                         // it has said Ready
	reads      ft.Slots                     // disks that it reads itself
	operations []*operation                 // in the order in which its machine asked
	done       event.OutputID               // all up to here are
	strays     []event.DiskRequest          // begun on its own disk, and of no more use
	finished   []event.DiskDone             // when it went live: to be recorded
}

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
	if r.follower.opening == nil {
		return
	}
	devices, err, ok := r.follower.opening.Poll()
	if !ok {
		return
	}
	r.follower.opening = nil
	if err != nil {
		r.follower.err = err
		r.report(Event{Kind: Trouble, Text: "this copy can't use a disk as a backup; what is read of shared ones comes over the log: " + err.Error()})
	}
	r.devices = devices
	early := r.resynced.early
	r.resynced.early = nil
	for _, b := range early {
		if err := r.diskPart(b); err != nil {
			r.fail(err)
			return
		}
	}
	r.tellLoaded()
}

// tellLoaded says that the machine is loaded, once it is known which disks this copy
// reads itself.
func (r *Replica) tellLoaded() {
	if r.follower.opening != nil || r.rep == nil || r.follower.told || !r.disksReady() {
		return
	}
	r.follower.told = true
	for i, d := range r.m.Config().Devices {
		switch disk := r.devices.Disks[i]; {
		case !d.Disk.Own():
		case disk == nil:
			r.fail(r.noOwnDisk(event.DeviceID(i)))
			return
		case disk.Size() < d.Capacity:
			r.fail(fmt.Errorf("the disk in slot %d has %d bytes here, the VM's has %d: make it larger", i, disk.Size(), d.Capacity))
			return
		}
	}
	for _, q := range r.m.PendingDisk() {
		r.follower.mirror(q, 0)
	}
	for slot, d := range r.devices.Disks {
		if d != nil && r.cfg.Reads.Has(event.DeviceID(slot)) {
			r.follower.reads = r.follower.reads.With(event.DeviceID(slot))
		}
	}
	seq, step := r.rep.Executed()
	if err := r.b.Loaded(r.now, seq, step, r.follower.reads); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
}

// mirror sees a disk request that the machine has emitted.
func (f *follower) mirror(q event.DiskRequest, output event.OutputID) {
	switch {
	case q.Op == event.DiskRead && f.reads.Has(q.Device), q.Op != event.DiskRead && q.Mode.Own():
		f.operations = append(f.operations, &operation{DiskRequest: q, output: output})
	}
}

// pollDisks takes what the disks have done.
func (r *Replica) pollDisks() {
	for slot, d := range r.devices.Disks {
		for d != nil {
			done, ok := d.Poll()
			if !ok {
				break
			}
			switch done.Device = event.DeviceID(slot); {
			case done.ID >= growID:
				r.grown(done)
			case done.ID >= resyncID:
				r.resyncDone(done)
			default:
				r.followed(done)
			}
		}
	}
}

func (r *Replica) followed(done event.DiskDone) {
	o := r.follower.operation(done.Device, done.ID)
	switch {
	case o == nil: // the log had the data, or the failure
		r.follower.stray(done)
	case done.Status == event.DiskOK:
		o.done, o.outcome = true, done
	default:
		if o.begun, o.retry = false, r.now+diskRetry; o.failed == 0 {
			o.failed = r.now
			r.stats.DiskRetries++
			r.report(Event{Kind: Trouble, Text: fmt.Sprintf("the disk in slot %d failed to %s here: trying again", o.Device, o.what())})
		}
		if s := r.b.State(); (s == ft.Receiving || s == ft.Replaying) && r.now >= o.failed+diskPatience {
			r.fail(fmt.Errorf("the disk in slot %d has failed to %s for %d s; the primary goes on", o.Device, o.what(), diskPatience/ft.Second))
		}
	}
}

// what names the request for people.
func (o *operation) what() string {
	verb := map[event.DiskOp]string{event.DiskRead: "read", event.DiskWrite: "write", event.DiskFlush: "flush",
		event.DiskDiscard: "discard", event.DiskWriteZeroes: "zero"}[o.Op]
	return fmt.Sprintf("%s %d bytes at %d", verb, o.Length, o.Offset)
}

func (f *follower) operation(d event.DeviceID, id uint64) *operation {
	for _, o := range f.operations {
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
	for i, o := range r.follower.operations {
		switch {
		case o.begun:
			continue
		case r.now < o.retry:
			next = min(next, o.retry)
			continue
		case o.Mode.Own():
			if r.follower.behindOwn(o, i) {
				continue
			}
		case pending == nil:
			pending = r.m.PendingDisk()
		}
		if o.Mode.Own() || !behindWrite(o.DiskRequest, pending) {
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

// behindOwn reports whether an earlier operation that o overlaps is not done: it may
// have to be begun again.
func (f *follower) behindOwn(o *operation, place int) bool {
	for _, e := range f.operations[:place] {
		if !e.done && e.Device == o.Device && overlap.Conflict(e.DiskRequest, o.DiskRequest) {
			return true
		}
	}
	return false
}

// ready is asked by the Replayer before it applies an entry: a completion waits for
// what this copy does itself, and gets its data.
func (r *Replica) ready(e event.Entry) (event.Input, bool) {
	d, ok := e.Input.(event.DiskDone)
	if !ok {
		return e.Input, true
	}
	r.keepOutputs() // it may have been asked for in this very slice
	o := r.follower.operation(d.Device, d.ID)
	switch {
	case o == nil: // it's not for us to do, or the machine never asked for it
		return d, true
	case d.Status != event.DiskOK || len(d.Data) > 0: // the log has the outcome
		return d, true
	case !o.done:
		return nil, false
	}
	d.Data = o.outcome.Data
	return d, true
}

// settled forgets an operation whose completion was applied.
func (f *follower) settled(d event.DiskDone) {
	for i, o := range f.operations {
		if o.Device == d.Device && o.ID == d.ID {
			f.operations = slices.Delete(f.operations, i, i+1)
			if o.begun && !o.done && o.Mode.Own() {
				f.strays = append(f.strays, o.DiskRequest)
			}
			return
		}
	}
}

// stray reports whether a request was begun here by a backup, and settled without its
// outcome.
func (f *follower) stray(done event.DiskDone) bool {
	for i, q := range f.strays {
		if q.Device == done.Device && q.ID == done.ID {
			f.strays = slices.Delete(f.strays, i, i+1)
			return true
		}
	}
	return false
}

// progress is how far this backup has come.
func (r *Replica) progress() ft.Progress {
	seq, step := r.rep.Executed()
	return ft.Progress{Executed: seq, Step: step, Disk: r.follower.progress(r.rep.LastOutput())}
}

// progress is the output up to which all disk requests are done, of those up to last.
func (f *follower) progress(last event.OutputID) event.OutputID {
	for _, o := range f.operations {
		if !o.done {
			last = max(o.output, 1) - 1
			break
		}
	}
	f.done = max(f.done, last)
	return f.done
}
