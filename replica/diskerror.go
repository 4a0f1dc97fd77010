// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"

	"tandem/machine/event"
	"tandem/world/overlap"
)

// An error of a disk is told to the guest, or the machine stops until the operator has
// seen to the disk (Config.StopOnDiskError). The pair is not touched by either: a
// machine that stops writes no log, and its backup waits with it. If the primary is
// lost meanwhile its backup goes on, begins the request again, and stops too if that
// fails.
//
// What is tried again must keep its place in the order (§3.4): a later request that
// overlaps it, and was in the disk's hands already, has run too early and is run again
// behind it; one that was not waits.

// failures are the requests that failed and of which the guest doesn't know.
type failures struct {
	broken  []brokenRequest
	stopped bool // the machine, for the operator to see to a disk
}

// brokenRequest is one that failed, or is to run again behind one that did.
type brokenRequest struct {
	event.DiskRequest
	old  bool // the disk has yet to answer what it was asked first
	done event.DiskDone
}

// keepsError reports whether a completion is kept from the guest.
func (r *Replica) keepsError(done event.DiskDone) bool {
	for i := range r.failures.broken {
		b := &r.failures.broken[i]
		if !b.old || b.Device != done.Device || b.ID != done.ID {
			continue
		}
		if b.old, b.done = false, done; !r.failures.stopped { // the operator has resumed already
			again := *b
			r.failures.broken = slices.Delete(r.failures.broken, i, i+1)
			r.again(again)
		}
		return true
	}
	if done.Status != event.DiskIOError || !r.cfg.StopOnDiskError {
		return false
	}
	r.failures.stopped = true
	first := len(r.failures.broken)
	found := false
	for _, q := range r.m.PendingDisk() {
		switch {
		case q.Device != done.Device:
		case q.ID == done.ID:
			found = true
			r.failures.broken = append(r.failures.broken, brokenRequest{DiskRequest: q, done: done})
			r.report(Event{Kind: DiskFailed, Text: fmt.Sprintf("the disk in slot %d failed to %s: the VM stops; see to the disk, then 'resume' tries again, or 'report' tells the guest",
				q.Device, (&operation{DiskRequest: q}).what())})
		case found && r.failures.before(q, first) && r.inHand(q):
			r.failures.broken = append(r.failures.broken, brokenRequest{DiskRequest: q, old: true})
		}
	}
	return true
}

// before reports whether a request overlaps one of those that failed, from a place in
// their list on.
func (f *failures) before(q event.DiskRequest, from int) bool {
	for _, b := range f.broken[from:] {
		if b.Device == q.Device && b.ID != q.ID && overlap.Conflict(b.DiskRequest, q) {
			return true
		}
	}
	return false
}

// inHand reports whether the disk was given a pending request, and is not known as
// broken.
func (r *Replica) inHand(q event.DiskRequest) bool {
	for _, b := range r.failures.broken {
		if b.Device == q.Device && b.ID == q.ID {
			return false
		}
	}
	for _, p := range r.gate.parked {
		if p.Device == q.Device && p.ID == q.ID {
			return false
		}
	}
	for _, o := range r.held {
		if h, ok := o.Body.(event.DiskRequest); ok && h.Device == q.Device && h.ID == q.ID {
			return false
		}
	}
	return true
}

func (r *Replica) again(b brokenRequest) {
	b.ID += r.idBase
	r.devices.Disks[b.Device].Submit(b.DiskRequest)
}

// Paused says why the machine stands still for the operator; empty if it doesn't.
func (r *Replica) Paused() string {
	if !r.failures.stopped || len(r.failures.broken) == 0 {
		return ""
	}
	return fmt.Sprintf("the disk in slot %d failed: see to it, then resume or report", r.failures.broken[0].Device)
}

// Resume begins again what failed, and lets the machine go on.
func (r *Replica) Resume() error {
	broken, err := r.takeBroken()
	if err != nil {
		return err
	}
	for _, b := range broken {
		if b.old {
			r.failures.broken = append(r.failures.broken, b)
		} else {
			r.again(b)
		}
	}
	r.report(Event{Kind: Operated, Text: "the VM goes on: what failed on a disk is tried again"})
	return nil
}

// ReportDiskErrors tells the guest what failed, and lets the machine go on.
func (r *Replica) ReportDiskErrors() error {
	broken, err := r.takeBroken()
	if err != nil {
		return err
	}
	for _, b := range broken {
		if !b.old {
			r.finish(b.done)
		}
	}
	r.report(Event{Kind: Operated, Text: "the VM goes on: the guest is told what failed on a disk"})
	r.act()
	return nil
}

func (r *Replica) takeBroken() ([]brokenRequest, error) {
	if err := r.operable(); err != nil {
		return nil, err
	}
	if !r.failures.stopped {
		return nil, refused("no disk has failed: the VM is not stopped")
	}
	broken := r.failures.broken
	r.failures = failures{}
	return broken, nil
}
