// SPDX-License-Identifier: Apache-2.0

// Package filedisk is a virtual disk in a local file or block device, for VMs
// whose disk need not be reached from elsewhere.
//
// A Disk is used by one loop that polls: Submit hands over a request and never
// waits, a few goroutines do the work, Poll takes what is done, and wake tells
// the loop that there is something to poll.
//
//	loop ──Submit──► overlap.Queue ──► workers ──► done ──Poll──► loop
//	                                      └── wake ──────────────►
package filedisk

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tandem/machine/event"
	"tandem/world/overlap"
)

const workers = 8

// Disk runs the requests of one virtual disk.
type Disk struct {
	file    *File
	wake    func()
	running sync.WaitGroup
	ready   atomic.Int32 // len(done), so that an empty Poll takes no lock

	mu     sync.Mutex
	work   *sync.Cond // signalled when queue has something to start, or on close
	queue  overlap.Queue
	done   []event.DiskDone
	closed bool
}

// Open opens the disk at path, which must exist, and locks it against other
// VMs. wake is called by other goroutines, after each completion; it must not block.
func Open(path string, readOnly bool, wake func()) (*Disk, error) {
	f, err := OpenFile(path, readOnly)
	if err != nil {
		return nil, err
	}
	d := &Disk{file: f, wake: wake}
	d.work = sync.NewCond(&d.mu)
	for range workers {
		d.running.Go(d.worker)
	}
	return d, nil
}

// Size is the number of bytes.
func (d *Disk) Size() uint64 { return d.file.Size() }

// ReadOnly reports whether changes are refused.
func (d *Disk) ReadOnly() bool { return d.file.ReadOnly() }

// Fenced is false: a local file has no epochs.
func (d *Disk) Fenced() bool { return false }

// Submit starts a request, or lets it wait for an earlier one that it overlaps.
// Data must not change until it is done.
func (d *Disk) Submit(r event.DiskRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.Submit(r)
	d.work.Signal()
}

// Poll takes a finished request.
func (d *Disk) Poll() (done event.DiskDone, ok bool) {
	if d.ready.Load() == 0 {
		return done, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	done, d.done = d.done[0], d.done[1:]
	d.ready.Add(-1)
	return done, true
}

// Close waits for the operations that have begun, drops the others, and
// releases the disk. wake is not called afterwards.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.work.Broadcast()
	d.mu.Unlock()
	d.running.Wait()
	return errors.Join(d.file.Sync(), d.file.Close())
}

func (d *Disk) worker() {
	for {
		r, ok := d.next()
		if !ok {
			return
		}
		d.finish(d.run(r))
		d.wake()
	}
}

func (d *Disk) next() (r event.DiskRequest, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.closed {
		if r, ok = d.queue.Next(); ok {
			return r, true
		}
		d.work.Wait()
	}
	return r, false
}

func (d *Disk) finish(done event.DiskDone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue.Done(done.ID)
	d.done = append(d.done, done)
	d.ready.Add(1)
	d.work.Broadcast() // it may have held up several
}

func (d *Disk) run(r event.DiskRequest) event.DiskDone {
	done := event.DiskDone{Device: r.Device, ID: r.ID}
	var err error
	switch r.Op {
	case event.DiskRead:
		done.Data, err = d.read(r)
	case event.DiskWrite:
		err = d.file.WriteAt(r.Data, r.Offset)
	case event.DiskFlush:
		err = d.file.Sync()
	case event.DiskDiscard:
		err = d.file.Zero(r.Offset, r.Length, true)
	case event.DiskWriteZeroes:
		err = d.file.Zero(r.Offset, r.Length, false)
	case event.DiskGrow:
		err = d.file.Grow(r.Length)
	default:
		err = unix.ENOTSUP
	}
	done.Status = status(err)
	return done
}

func (d *Disk) read(r event.DiskRequest) ([]byte, error) {
	if err := d.file.check(r.Offset, r.Length, false); err != nil {
		return nil, err // before memory is set aside for it
	}
	b := make([]byte, r.Length)
	if err := d.file.ReadAt(b, r.Offset); err != nil {
		return nil, err
	}
	return b, nil
}

func status(err error) event.DiskStatus {
	switch {
	case err == nil:
		return event.DiskOK
	case errors.Is(err, unix.ENOTSUP):
		return event.DiskUnsupported
	}
	return event.DiskIOError
}
