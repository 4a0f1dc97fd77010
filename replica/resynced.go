// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"errors"
	"fmt"

	"tandem/machine/event"
)

// The backup's side of a resync: see resync.go. Blocks go through the same queue as
// what the machine asks later, so none overtakes another; the machine begins only
// when all of them are on stable storage.

// resynced is what a backup does with its disks before it has a machine.
type resynced struct {
	early   [][]byte // parts that came before the disks were open
	under   []resyncedOp
	written bool // blocks, since the last flush
	lastID  uint64
}

// resyncedOp is a request of ours.
type resyncedOp struct {
	event.DiskRequest
	hashes []byte // that the piece is compared with
}

// diskPart takes a part from the primary.
func (r *Replica) diskPart(b []byte) error {
	if r.follower.told {
		return errors.New("a part of a disk after the clone")
	}
	if len(r.resynced.early)+len(r.resynced.under) > 8*(resyncOnWay+diskPiece+resyncAsked) {
		return errors.New("more parts of disks than were agreed")
	}
	if r.follower.opening != nil {
		r.resynced.early = append(r.resynced.early, b)
		return nil
	}
	op, slot, block, rest, err := parseResync(b)
	if err != nil {
		return err
	}
	d := r.devices.Disks[slot]
	if d == nil {
		return r.noOwnDisk(slot)
	}
	size := d.Size()
	if block >= (size+diskBlock-1)/diskBlock {
		return fmt.Errorf("block %d of the disk in slot %d, which has %d bytes here: make it as large as the primary's", block, slot, size)
	}
	q := event.DiskRequest{Device: slot, Offset: block * diskBlock, Mode: event.ReplicatedDisk}
	left := size - q.Offset
	switch n := uint64(len(rest)); {
	case op == resyncHashes && n > 0 && n <= diskPiece*hashSize && n%hashSize == 0 && (n/hashSize-1)*diskBlock < left:
		q.Op, q.Length = event.DiskRead, min(n/hashSize*diskBlock, left)
		r.resyncOp(q, rest)
	case op == resyncBlock && n == 0:
		q.Op, q.Length = event.DiskDiscard, min(diskBlock, left)
		r.resyncOp(q, nil)
	case op == resyncBlock && n == min(diskBlock, left):
		q.Op, q.Length, q.Data = event.DiskWrite, n, rest
		r.resyncOp(q, nil)
	default:
		return fmt.Errorf("a part %d with %d bytes for block %d of the disk in slot %d", op, n, block, slot)
	}
	return nil
}

func (r *Replica) noOwnDisk(slot event.DeviceID) error {
	if r.follower.err != nil {
		return r.follower.err
	}
	return fmt.Errorf("the VM's disk in slot %d is replicated, and this copy has none: give it with --disk FILE,mode=replicated", slot)
}

func (r *Replica) resyncOp(q event.DiskRequest, hashes []byte) {
	x := &r.resynced
	x.lastID++
	q.ID = resyncID | x.lastID
	x.written = x.written || q.Changes()
	x.under = append(x.under, resyncedOp{q, hashes})
	r.devices.Disks[q.Device].Submit(q)
}

// resyncDone takes a request of ours that is done.
func (r *Replica) resyncDone(done event.DiskDone) {
	x := &r.resynced
	for i, o := range x.under {
		if o.ID != done.ID || o.Device != done.Device {
			continue
		}
		x.under = append(x.under[:i], x.under[i+1:]...)
		if done.Status != event.DiskOK {
			r.fail(fmt.Errorf("the disk in slot %d failed at byte %d while it was brought up to date: look after it, then start this backup again", o.Device, o.Offset))
			return
		}
		block := o.Offset / diskBlock
		switch {
		case o.Op == event.DiskRead:
			r.w.Channel.Send(append(resyncHead(resyncWanted, o.Device, block), differing(done.Data, o.hashes)...))
		case o.Changes():
			r.w.Channel.Send(resyncHead(resyncStored, o.Device, block))
		}
		r.tellLoaded()
		return
	}
}

// differing compares the blocks of a piece with hashes: 1 for each that has another.
func differing(piece, hashes []byte) (wanted []byte) {
	for ; len(hashes) > 0; hashes = hashes[hashSize:] {
		block := piece[:min(diskBlock, len(piece))]
		piece = piece[len(block):]
		differs := byte(0)
		if !bytes.Equal(blockHash(block), hashes[:hashSize]) {
			differs = 1
		}
		wanted = append(wanted, differs)
	}
	return wanted
}

// disksReady reports whether all that the primary sent is durable; it sees to that.
func (r *Replica) disksReady() bool {
	x := &r.resynced
	if len(x.under) > 0 {
		return false
	}
	if !x.written {
		return true
	}
	x.written = false
	for i, d := range r.m.Config().Devices {
		if d.Disk.Own() {
			r.resyncOp(event.DiskRequest{Device: event.DeviceID(i), Op: event.DiskFlush, Mode: event.ReplicatedDisk}, nil)
		}
	}
	return len(x.under) == 0
}
