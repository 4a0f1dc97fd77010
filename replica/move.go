// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/world"
	"tandem/world/mirror"
)

// A shared disk moves to another place while the VM runs, protected or not (design §6):
//
//	           primary                                           backup
//	Opening    the new disk is opened in the primary's epoch
//	Copying    the old disk is copied there, and what is         goes on with the old disk
//	           written meanwhile (package mirror)
//	Noting     Medium with source and mirror is logged ──►       goes on with both
//	Both       acknowledged: the operator changes what
//	           the VM is started with
//	Settling   Medium with the source alone is logged  ──►       goes on with the new disk
//	           acknowledged: only the new disk is written to
//
// At each moment whoever goes on, or starts the VM by what its operator has noted, finds
// all that was acknowledged: both disks have it from before the first entry is in the log
// until the second is safe there. Until Noting the move can be given up, and is if this
// copy is lost.

// MovePhase is how far a move is.
type MovePhase string

const (
	NotMoving MovePhase = ""
	Opening   MovePhase = "opening"
	Copying   MovePhase = "copying"
	Noting    MovePhase = "noting"
	BothDisks MovePhase = "both" // until SettleDisk
	Settling  MovePhase = "settling"
	Ending    MovePhase = "ending" // the old or the new disk answers what it was asked last
)

// Move is a disk that moves, or the last one that did.
type Move struct {
	Phase  MovePhase
	Slot   event.DeviceID
	Source string // where to
	Copied uint64 // in bytes, of Size
	Size   uint64
	Err    error // why the last one was given up
}

// moving is the work on a Move.
type moving struct {
	Move
	opening world.Pending[world.Disk]
	disk    *mirror.Disk
	entry   event.Seq // of Noting and of Settling
}

// is reports whether the disk in a slot is moving.
func (m *moving) is(slot event.DeviceID) bool { return m.Phase != NotMoving && m.Slot == slot }

// Move returns how the newest move goes.
func (r *Replica) Move() Move {
	m := r.moving.Move
	if r.moving.disk != nil {
		if m.Copied, m.Size = r.moving.disk.Progress(); r.moving.disk.Phase() != mirror.Copying {
			m.Copied = m.Size
		}
	}
	return m
}

// MoveDisk begins to move the shared disk in a slot to another one, whose contents are
// lost. Move tells how it goes; it stays in the phase Both until SettleDisk.
func (r *Replica) MoveDisk(slot event.DeviceID, source string) error {
	d, err := r.disk(slot)
	if err != nil {
		return err
	}
	from := r.w.Site.Medium(slot)
	switch {
	case !isAddress(source):
		return notAddress(source)
	case r.moving.is(slot) && r.moving.Source == source: // asked again
		return nil
	case r.moving.Phase != NotMoving:
		return refused("the disk in slot %d is moving to %s: try again when that has ended", r.moving.Slot, r.moving.Source)
	case d.Disk.Own():
		return refused("the disk in slot %d is one of two, on each host its own: to move one, make a new backup elsewhere", slot)
	case d.ReadOnly:
		return refused("the disk in slot %d is read-only: copy it, and start the VM with the copy", slot)
	case r.p.Reads(slot):
		return refused("the backup reads the disk in slot %d itself: end the backup first", slot)
	case source == from || source == d.Medium:
		return refused("the disk in slot %d is %s already", slot, source)
	case !isAddress(from):
		return refused("the disk in slot %d has no address: only one that was given by its nbd:// address can move", slot)
	case r.op.Under:
		return refused("%s is under way: try again when it has ended", r.op.Name)
	case r.failures.stopped:
		return refused("the VM has stopped at a disk error: let it go on first, with resume or report")
	}
	r.moving = moving{Move: Move{Phase: Opening, Slot: slot, Source: source, Size: d.Capacity},
		opening: r.w.Site.Insert(source, r.p.Status().Epoch)}
	return nil
}

// SettleDisk ends a move in the phase Both: whoever starts the VM the next time starts it
// with the new disk.
func (r *Replica) SettleDisk(slot event.DeviceID) error {
	if err := r.running(); err != nil {
		return err
	}
	switch {
	case r.moving.is(slot) && (r.moving.Phase == Settling || r.moving.Phase == Ending && r.moving.disk.Err() == nil):
		return nil
	case !r.moving.is(slot) || r.moving.Phase != BothDisks:
		return refused("the disk in slot %d has not been copied to another place", slot)
	case r.p.State() == ft.Syncing:
		return refused("a backup is being made of the VM as it is: try again when that has ended")
	case r.p.Reads(slot):
		return refused("the backup reads the disk in slot %d where it was: end the backup first", slot)
	}
	r.recordMove("")
	r.moving.Phase = Settling
	return nil
}

// CancelMove gives up a move that is not in the phase Both yet.
func (r *Replica) CancelMove() error {
	if err := r.operable(); err != nil {
		return err
	}
	switch r.moving.Phase {
	case Opening:
		r.moving.Err = errCancelled // when it answers
	case Copying:
		r.moving.disk.GiveUp(errCancelled)
	case NotMoving:
		return refused("no disk is moving")
	default:
		return refused("the disk in slot %d has been copied: settle it, then move it back", r.moving.Slot)
	}
	return nil
}

var errCancelled = errors.New("the operator gave it up")

// pollMoving goes on with a move.
func (r *Replica) pollMoving() {
	if r.p == nil || r.done != nil {
		return
	}
	switch m := &r.moving; m.Phase {
	case Opening:
		r.openMoving()
	case Copying:
		switch {
		case m.disk.Err() != nil:
			m.Phase = Ending
		case m.disk.Copied() && r.p.State() != ft.Syncing && r.p.State() != ft.Claiming:
			r.recordMove(r.w.Site.Medium(m.Slot))
			m.disk.Begin()
			m.Phase = Noting
		}
	case Noting:
		if r.p.Logged() >= m.entry {
			m.Phase = BothDisks
		}
	case Settling:
		if r.p.Logged() >= m.entry {
			m.disk.End()
			m.Phase = Ending
		}
	case Ending:
		if left, other, ok := m.disk.Only(); ok {
			err := m.disk.Err()
			r.devices.Disks[m.Slot] = left
			other.Close()
			r.endMove(err)
		}
	}
}

// openMoving takes the new disk.
func (r *Replica) openMoving() {
	m := &r.moving
	disk, err, ok := m.opening.Poll()
	if !ok {
		return
	}
	if err == nil {
		if m.disk, err = mirror.New(r.devices.Disks[m.Slot], disk, m.Size); m.Err != nil {
			err = m.Err
		}
		if err != nil {
			disk.Close()
		}
	}
	if err != nil {
		r.endMove(err)
		return
	}
	m.opening, m.Phase = nil, Copying
	r.devices.Disks[m.Slot] = m.disk
	r.report(Event{Kind: Operated, Text: fmt.Sprintf("the disk in slot %d is copied to %s", m.Slot, m.Source)})
}

// recordMove logs where the disk is.
func (r *Replica) recordMove(mirror string) {
	m := event.Medium{Device: r.moving.Slot, Capacity: r.m.Config().Devices[r.moving.Slot].Capacity, Source: r.moving.Source, Mirror: mirror}
	r.record(m)
	r.moving.entry, _ = r.rec.Executed()
	r.act()
	r.noteMedium(m)
}

func (r *Replica) endMove(err error) {
	text := fmt.Sprintf("the disk in slot %d has moved to %s", r.moving.Slot, r.moving.Source)
	if err != nil {
		text = fmt.Sprintf("the disk in slot %d stays where it is: %v", r.moving.Slot, err)
	}
	r.report(Event{Kind: Operated, Text: text})
	r.moving = moving{Move: Move{Slot: r.moving.Slot, Source: r.moving.Source, Err: err}}
}

// resumeMoving goes on with a move that was in the phase Both when this copy went live.
func (r *Replica) resumeMoving() {
	for i, d := range r.m.Config().Devices {
		if disk, ok := r.devices.Disks[i].(*mirror.Disk); ok {
			r.moving = moving{Move: Move{Phase: BothDisks, Slot: event.DeviceID(i), Source: d.Medium, Size: d.Capacity}, disk: disk}
		}
	}
}
