// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"
	"strings"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/world"
)

// An operator puts a disk into an empty drive of a VM that runs, or takes one out (paper
// §3.3, design §6):
//
//	primary                                          backup
//	the disk is opened in the primary's epoch
//	Medium is logged: the guest's driver is told ──► it is noted, for the day this copy goes
//	                                                 live; the same is told to its guest
//
// A drive is a virtio disk of no bytes, which the VM has had since it was made: the board
// does not change. What lies in it is part of the machine's description, so a backup that
// is made later knows of it too.

// drive is a disk that is being opened, for a drive.
type drive struct {
	slot    event.DeviceID
	source  string
	opening world.Pending[world.Disk]
}

// InsertDisk puts the disk at a URL into the empty drive in a slot. Operation tells what
// came of it.
func (r *Replica) InsertDisk(slot event.DeviceID, source string) error {
	d, err := r.drive(slot)
	switch {
	case err != nil:
		return err
	case !isAddress(source):
		return notAddress(source)
	case d.Capacity != 0:
		return refused("there is a disk in slot %d: take that out first, or choose an empty drive", slot)
	case r.inserting.opening != nil:
		return refused("the disk that was asked for last still does not answer: try again when its store does")
	}
	r.inserting = drive{slot, source, r.w.Site.Insert(source, r.p.Status().Epoch)}
	r.op = Operation{Name: AttachOperation, Under: true, deadline: r.now + resizeTime, slot: slot}
	return nil
}

func isAddress(s string) bool {
	return s != "" && len(s) <= event.MaxSource && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' })
}

func notAddress(s string) error {
	return refused("%q is no address of a disk: give a URL like nbd://HOST:PORT/EXPORT", s)
}

// EjectDisk takes the disk out of a slot's drive. Its data stay where they are.
func (r *Replica) EjectDisk(slot event.DeviceID) error {
	d, err := r.drive(slot)
	switch {
	case err != nil:
		return err
	case d.Capacity == 0:
		return refused("the drive in slot %d is empty", slot)
	case r.p.Reads(slot):
		return refused("the backup reads the disk in slot %d itself: end the backup first", slot)
	}
	for _, q := range r.m.PendingDisk() {
		if q.Device == slot {
			return refused("the guest uses the disk in slot %d at this moment: unmount it there first", slot)
		}
	}
	r.record(event.Medium{Device: slot})
	r.act()
	if disk := r.devices.Disks[slot]; disk != nil {
		disk.Close()
		r.devices.Disks[slot] = nil
	}
	r.noteMedium(event.Medium{Device: slot})
	return nil
}

// drive describes the drive in a slot, whose disk can be another one.
func (r *Replica) drive(slot event.DeviceID) (d machine.Device, err error) {
	switch d, err = r.device(slot); {
	case err != nil:
	case d.Kind != machine.DiskDevice:
		err = refused("there is no drive in slot %d: the VM has those that it was made with (--disk empty)", slot)
	case d.Disk.Own():
		err = refused("the disk in slot %d is one of two, on each host its own, and stays", slot)
	case d.ReadOnly:
		err = refused("the drive in slot %d is read-only", slot)
	case r.p.State() == ft.Syncing:
		err = refused("a backup is being made of the VM as it is: try again when that has ended")
	case r.moving.is(slot):
		err = refused("the disk in slot %d is moving: try again when that has ended", slot)
	}
	return d, err
}

// attaching reports that a disk is being opened at the operator's wish.
func (r *Replica) attaching() bool {
	return r.op.Under && r.op.Name == AttachOperation && r.p != nil
}

// pollInserting takes the disk that an operator puts into a drive.
func (r *Replica) pollInserting() {
	in := r.inserting
	if in.opening == nil {
		return
	}
	disk, err, ok := in.opening.Poll()
	if !ok {
		return
	}
	r.inserting = drive{}
	ours := r.attaching() && r.done == nil
	switch {
	case err == nil && ours && r.p.State() == ft.Syncing: // whose machine is described as it was
		err = errors.New("a backup was attached meanwhile: ask again when it is ready")
	case err == nil && ours && disk.Size() < sectorSize:
		err = fmt.Errorf("the disk %s has %d bytes: it is empty itself", in.source, disk.Size())
	}
	if err != nil || !ours {
		if disk != nil {
			disk.Close()
		}
		if ours {
			r.endOperation(err)
		}
		return
	}
	r.devices.Disks[in.slot] = disk
	r.wake(true)
	m := event.Medium{Device: in.slot, Capacity: disk.Size() &^ (sectorSize - 1), Source: in.source}
	r.record(m)
	r.act()
	r.reportMedium(m)
	r.endOperation(nil)
}

const sectorSize = 512

// noteMedium sees a Medium where the disk isn't open: on a backup, when it was applied.
func (r *Replica) noteMedium(m event.Medium) {
	reached := r.w.Site.Note(m.Device, m.Source, m.Mirror)
	if m.Capacity != 0 {
		r.noting = append(r.noting, reached)
	}
	r.reportMedium(m)
}

func (r *Replica) reportMedium(m event.Medium) {
	text := fmt.Sprintf("the drive in slot %d is empty now", m.Device)
	switch {
	case m.Mirror != "":
		text = fmt.Sprintf("the disk in slot %d is %s now, and what is written there is written to %s too", m.Device, m.Source, m.Mirror)
	case m.Capacity != 0:
		text = fmt.Sprintf("the disk in slot %d is %s, %d bytes", m.Device, m.Source, m.Capacity)
	}
	r.report(Event{Kind: Operated, Text: text})
}

// noteMedia tells a backup's site what operators have put into drives of the VM, and
// taken out, before this copy was made.
func (r *Replica) noteMedia() {
	for i, d := range r.m.Config().Devices {
		switch slot := event.DeviceID(i); {
		case d.Kind != machine.DiskDevice || d.Disk.Own():
		case d.Capacity == 0:
			r.w.Site.Note(slot, "", "")
		case d.Medium != "":
			r.noting = append(r.noting, r.w.Site.Note(slot, d.Medium, d.Mirror))
		}
	}
}

// pollNoting ends a backup that could not go live for a disk that it does not reach. While
// no primary is left there is nobody to leave the VM to.
func (r *Replica) pollNoting() {
	for len(r.noting) > 0 {
		_, err, ok := r.noting[0].Poll()
		if !ok {
			return
		}
		r.noting = r.noting[1:]
		if err == nil {
			continue
		}
		err = fmt.Errorf("a disk that was put into the VM can't be reached from here: %w", err)
		if s := r.Status().State; r.b != nil && (s == ft.Receiving || s == ft.Replaying) {
			r.fail(err)
			return
		}
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
}
