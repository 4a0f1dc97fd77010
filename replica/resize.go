// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
)

// A disk becomes larger while the VM runs, protected or not:
//
//	primary                                          backup
//	the disk in the world grows (DiskGrow)
//	Resize is logged: the guest's driver is told ──► its own disk grows, or it asks the
//	                                                 shared one for its size; then the
//	                                                 same is told to its guest
//
// The capacity never exceeds what is there: if anything fails in between, the disk in
// the world is larger than the guest knows, and the operator asks again. What a backup's
// machine does to the new part comes after the DiskGrow there, for that conflicts with
// all (package overlap).

// resizeTime is how long a disk may take to grow before the operator is told that it does
// not answer.
const resizeTime = 20 * ft.Second

// growID numbers the DiskGrow requests, from here on.
const growID = uint64(3) << 62

// ResizeDisk makes the disk in a slot larger. Operation tells what came of it.
func (r *Replica) ResizeDisk(slot event.DeviceID, size uint64) error {
	d, err := r.disk(slot)
	switch {
	case err != nil:
		return err
	case size%512 != 0 || size > 1<<60:
		return refused("a disk of %d bytes: give a multiple of 512, at most 1 EiB", size)
	case size < d.Capacity:
		return refused("the disk in slot %d has %d bytes, and a disk can't become smaller: the guest's data may lie beyond %d", slot, d.Capacity, size)
	case d.ReadOnly:
		return refused("the disk in slot %d is read-only", slot)
	case r.moving.is(slot):
		return refused("the disk in slot %d is moving: try again when that has ended", slot)
	case size == d.Capacity:
		return nil
	case r.p.State() == ft.Syncing:
		return refused("a backup is being made, whose disk is compared with this one: try again when it has ended")
	case r.failures.stopped:
		return refused("the VM has stopped at a disk error: let it go on first, with resume or report")
	}
	r.grow(slot, size)
	r.op = Operation{Name: ResizeOperation, Under: true, deadline: r.now + resizeTime, slot: slot, size: size}
	return nil
}

// resizing reports that a disk is growing at the operator's wish.
func (r *Replica) resizing() bool {
	return r.op.Under && r.op.Name == ResizeOperation && r.p != nil
}

// expire ends an operation whose disk does not answer. If it grows later, nobody minds; if
// it is opened later, it is closed again.
func (r *Replica) expire() {
	if (r.resizing() || r.attaching()) && r.now >= r.op.deadline {
		r.endOperation(fmt.Errorf("the disk in slot %d has not answered for %d s: see to its store, then ask again", r.op.slot, resizeTime/ft.Second))
	}
}

// disk describes the disk in a slot.
func (r *Replica) disk(slot event.DeviceID) (d machine.Device, err error) {
	d, err = r.device(slot)
	if err == nil && (d.Kind != machine.DiskDevice || r.devices.Disks[slot] == nil) {
		err = refused("there is no disk in slot %d: the first one of the VM is in slot 0", slot)
	}
	return d, err
}

// device describes what is in a slot of the VM, which must run.
func (r *Replica) device(slot event.DeviceID) (d machine.Device, err error) {
	if err := r.running(); err != nil {
		return d, err
	}
	if list := r.m.Config().Devices; int(slot) < len(list) {
		d = list[slot]
	}
	return d, nil
}

// grow begins a DiskGrow.
func (r *Replica) grow(slot event.DeviceID, size uint64) {
	r.grows++
	r.devices.Disks[slot].Submit(event.DiskRequest{Device: slot, ID: growID + r.grows, Op: event.DiskGrow, Length: size})
}

// grown takes the end of a DiskGrow.
func (r *Replica) grown(done event.DiskDone) {
	ours := r.resizing() && done.ID == growID+r.grows
	switch {
	case ours && r.p.State() == ft.Syncing: // whose machine is described as it was
		r.endOperation(errors.New("a backup was attached meanwhile: ask again when it is ready"))
	case done.Status == event.DiskOK && ours:
		r.wake(true)
		r.control(event.Resize, event.ResizeArg(r.op.slot, r.op.size))
		r.endOperation(nil)
	case done.Status == event.DiskOK:
	case ours && done.Status == event.DiskUnsupported:
		r.endOperation(fmt.Errorf("the disk in slot %d can't be made larger from here: make the device or the export larger where it is, and serve it by this version of tandem store; then ask again", r.op.slot))
	case ours:
		r.endOperation(fmt.Errorf("the disk in slot %d did not become larger: see that its host has room and the log of its store", r.op.slot))
	case r.b != nil:
		r.fail(fmt.Errorf("the disk in slot %d can't be made as large here as the VM's: make room, or make it larger, and start this backup again", done.Device))
	case r.m.Config().Devices[done.Device].Capacity > r.devices.Disks[done.Device].Size(): // begun as a backup
		r.report(Event{Kind: Trouble, Text: fmt.Sprintf("the disk in slot %d is smaller here than the VM was told: make it larger", done.Device)})
	}
}

// resized sees a Resize on either side, when it was applied. The disk of a backup follows.
func (r *Replica) resized(slot event.DeviceID, size uint64) {
	if r.p == nil && r.devices.Disks[slot] != nil {
		r.grow(slot, size)
	}
	r.report(Event{Kind: Operated, Text: fmt.Sprintf("the disk in slot %d has %d bytes now", slot, size)})
}
