// SPDX-License-Identifier: Apache-2.0

// Package overlap decides which disk operations may be in flight together.
//
// Two operations that touch the same place of a disk, at least one of them
// changing it, run in the order they were submitted: the later waits until the
// earlier has ended (paper §3.4 a). Otherwise the disk would decide which of
// two writes wins, and primary and backup could end with different contents.
// All others run freely:
//
//	submitted      write 0..8   read 4..12   read 0..4   write 8..16   flush
//	waits for      —            the write    the write   the read      —
//
// A discard changes the disk like a write, and so does what makes it larger. A flush waits for nobody: it covers
// the operations that had ended before it was submitted (Virtio 1.2 §5.2.6.2).
package overlap

import (
	"fmt"

	"tandem/machine/event"
)

// Queue holds the outstanding operations of one disk. The zero value is ready
// for use. It is not safe for concurrent use.
type Queue struct {
	ops   []*op // outstanding, in submission order
	ready []*op // may start; not yet taken by Next
}

type op struct {
	req   event.DiskRequest
	waits int   // earlier operations that must end first
	later []*op // operations that wait for this one
}

// Submit adds an operation. It panics if one with the same ID is outstanding:
// a device numbers its requests.
func (q *Queue) Submit(r event.DiskRequest) {
	n := &op{req: r}
	for _, o := range q.ops {
		if o.req.ID == r.ID {
			panic(fmt.Sprintf("overlap: disk request %d submitted twice", r.ID))
		}
		if Conflict(o.req, r) {
			o.later = append(o.later, n)
			n.waits++
		}
	}
	q.ops = append(q.ops, n)
	if n.waits == 0 {
		q.ready = append(q.ready, n)
	}
}

// Next takes an operation that may start now, each once.
func (q *Queue) Next() (r event.DiskRequest, ok bool) {
	if len(q.ready) == 0 {
		return r, false
	}
	r = q.ready[0].req
	q.ready[0] = nil
	q.ready = q.ready[1:]
	return r, true
}

// Done ends an operation that Next has given out. It panics if there is none
// with this ID.
func (q *Queue) Done(id uint64) {
	for i, o := range q.ops {
		if o.req.ID == id {
			q.ops = append(q.ops[:i], q.ops[i+1:]...)
			q.wakeAfter(o)
			return
		}
	}
	panic(fmt.Sprintf("overlap: disk request %d ended but is not outstanding", id))
}

func (q *Queue) wakeAfter(o *op) {
	for _, l := range o.later {
		if l.waits--; l.waits == 0 {
			q.ready = append(q.ready, l)
		}
	}
}

// Len counts the operations submitted and not ended.
func (q *Queue) Len() int { return len(q.ops) }

// Outstanding lists the operations submitted and not ended, in submission order.
func (q *Queue) Outstanding() []event.DiskRequest {
	rs := make([]event.DiskRequest, len(q.ops))
	for i, o := range q.ops {
		rs[i] = o.req
	}
	return rs
}

// Conflict reports whether two operations share a byte that one of them changes.
func Conflict(a, b event.DiskRequest) bool {
	return (changes(a.Op) || changes(b.Op)) && touches(a.Op) && touches(b.Op) && overlap(a, b)
}

func changes(op event.DiskOp) bool {
	return op == event.DiskWrite || op == event.DiskDiscard || op == event.DiskWriteZeroes || op == event.DiskGrow
}

func touches(op event.DiskOp) bool { return op != event.DiskFlush }

// overlap subtracts instead of adding, so that a range at the end of the 64-bit
// space can't wrap round and be missed.
func overlap(a, b event.DiskRequest) bool {
	if a.Length == 0 || b.Length == 0 {
		return false
	}
	return a.Offset-b.Offset < b.Length || b.Offset-a.Offset < a.Length
}
