// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"tandem/machine/event"
	"tandem/world/overlap"
)

// fake is a disk that carries out what may be carried out in any order, one at a Poll or
// none.
type fake struct {
	b       []byte
	queue   overlap.Queue
	ready   []event.DiskRequest
	rnd     *rand.Rand
	broken  bool // whatever is asked fails
	fenced  bool
	closed  bool
	flushed []byte // what a power cut leaves
}

func newFake(size int, seed uint64) *fake {
	return &fake{b: make([]byte, size), flushed: make([]byte, size), rnd: rand.New(rand.NewPCG(seed, 7))}
}

func (f *fake) Submit(q event.DiskRequest) { f.queue.Submit(q) }
func (f *fake) Fenced() bool               { return f.fenced }
func (f *fake) Size() uint64               { return uint64(len(f.b)) }
func (f *fake) Close() error               { f.closed = true; return nil }

func (f *fake) Poll() (done event.DiskDone, ok bool) {
	for {
		q, ok := f.queue.Next()
		if !ok {
			break
		}
		f.ready = append(f.ready, q)
	}
	if len(f.ready) == 0 || f.rnd.IntN(3) == 0 {
		return done, false
	}
	i := f.rnd.IntN(len(f.ready))
	q := f.ready[i]
	f.ready = append(f.ready[:i], f.ready[i+1:]...)
	done.ID = q.ID
	if f.broken {
		done.Status = event.DiskIOError
	} else {
		at := f.b[q.Offset : q.Offset+q.Length]
		switch q.Op {
		case event.DiskRead:
			done.Data = bytes.Clone(at)
		case event.DiskWrite:
			copy(at, q.Data)
		case event.DiskWriteZeroes, event.DiskDiscard:
			clear(at)
		case event.DiskFlush:
			copy(f.flushed, f.b)
		}
	}
	f.queue.Done(q.ID)
	return done, true
}

// user writes and reads a disk at random, and knows what must be there.
type user struct {
	t      *testing.T
	d      *Disk
	rnd    *rand.Rand
	want   []byte
	out    map[uint64]event.DiskRequest // reads carry what they must find
	id     uint64
	failed int
	blind  bool // what a failed write has left is not known
	ended  int
}

const size = 4<<20 + 512

// step asks for something, or takes what is done.
func (u *user) step() {
	if u.rnd.IntN(2) == 0 && len(u.out) < 12 {
		u.ask()
	}
	for {
		done, ok := u.d.Poll()
		if !ok {
			return
		}
		q, known := u.out[done.ID]
		if !known {
			u.t.Fatalf("request %d ended, and nobody had asked for it", done.ID)
		}
		delete(u.out, done.ID)
		switch u.ended++; {
		case done.Status != event.DiskOK:
			u.failed++
		case q.Op == event.DiskRead && !u.blind && !bytes.Equal(done.Data, q.Data):
			u.t.Fatalf("%d bytes at %d are not those that were written", q.Length, q.Offset)
		}
	}
}

func (u *user) ask() {
	u.id++
	q := event.DiskRequest{ID: u.id, Op: event.DiskOp(1 + u.rnd.IntN(5))}
	if q.Op != event.DiskFlush {
		q.Offset = uint64(u.rnd.IntN(size/512)) * 512
		q.Length = min(uint64(1+u.rnd.IntN(800))*512, size-q.Offset)
	}
	at := u.want[q.Offset : q.Offset+q.Length]
	for _, o := range u.out { // what a disk makes of both at once is known, but not to us
		if overlap.Conflict(o, q) && q.Op == event.DiskRead {
			return
		}
	}
	asked := q
	switch q.Op {
	case event.DiskRead:
		asked.Data = bytes.Clone(at)
	case event.DiskWrite:
		q.Data = bytes.Repeat([]byte{byte(u.id), byte(u.id >> 8), 1}, int(q.Length/3+1))[:q.Length]
		copy(at, q.Data)
	case event.DiskDiscard, event.DiskWriteZeroes:
		clear(at)
	}
	u.out[q.ID] = asked
	u.d.Submit(q)
}

// drain waits for all that is outstanding.
func (u *user) drain() {
	for range 10000 {
		if len(u.out) == 0 {
			return
		}
		for done, ok := u.d.Poll(); ok; done, ok = u.d.Poll() {
			delete(u.out, done.ID)
		}
	}
	u.t.Fatalf("%d requests without an end", len(u.out))
}

func begin(t *testing.T, seed uint64) (u *user, old, new *fake) {
	old, new = newFake(size, seed), newFake(size+4096, seed+1)
	u = &user{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), want: make([]byte, size), out: map[uint64]event.DiskRequest{}}
	for i := range old.b[:size/2] {
		old.b[i] = byte(u.rnd.Uint32())
	}
	for i := range new.b {
		new.b[i] = 0xee
	}
	copy(u.want, old.b)
	var err error
	if u.d, err = New(old, new, size); err != nil {
		t.Fatal(err)
	}
	early := event.DiskRequest{ID: 1 << 40, Op: event.DiskFlush} // asked before the move
	u.out[early.ID] = early
	old.Submit(early)
	return u, old, new
}

func (u *user) until(what string, ok func() bool) {
	for range 100_000 {
		if ok() {
			return
		}
		u.step()
	}
	u.t.Fatalf("never %s: %d of %d copied, %v", what, u.d.next, u.d.size, u.d.err)
}

// A disk that moves under load reads as it was written at all times. When both disks
// count they are equal wherever the machine has been told that its writes are done.
func TestMove(t *testing.T) {
	for seed := range uint64(10) {
		u, old, new := begin(t, seed)
		u.until("copied", u.d.Copied)
		if bytes.Contains(new.flushed[:size], bytes.Repeat([]byte{0xee}, 512)) {
			t.Error("the new disk is called complete before it was flushed")
		}
		u.d.Begin()
		n := u.ended
		u.until("used", func() bool { return u.ended > n+200 })
		u.drain()
		if !bytes.Equal(old.b, u.want) || !bytes.Equal(new.b[:size], u.want) {
			t.Fatalf("seed %d: the disks differ", seed)
		}
		u.d.End()
		n = u.ended
		u.until("used", func() bool { return u.ended > n+200 })
		left, other, ok := u.d.Only()
		if !ok || left != new || other != old {
			t.Fatalf("seed %d: left %v", seed, ok)
		}
		u.drain()
		if !bytes.Equal(new.b[:size], u.want) || u.failed > 0 {
			t.Fatalf("seed %d: the new disk is not what was written, %d requests failed", seed, u.failed)
		}
	}
}

// A new disk that fails, or that somebody else takes, is given up at any moment, and
// nobody notices.
func TestNewFails(t *testing.T) {
	for seed := range uint64(20) {
		u, old, new := begin(t, seed)
		at := u.rnd.Uint64N(size)
		u.until("half copied", func() bool { return u.d.next > at })
		if seed%2 == 0 {
			new.broken = true
		} else {
			new.fenced = true
		}
		u.until("given up", func() bool { return u.d.Err() != nil })
		n := u.ended
		u.until("used", func() bool { return u.ended > n+50 })
		u.until("alone", func() bool { _, _, ok := u.d.Only(); return ok })
		if left, other, _ := u.d.Only(); left != old || other != new || u.d.Copied() || u.d.Fenced() {
			t.Errorf("seed %d: not the old disk alone", seed)
		}
		u.drain()
		if !bytes.Equal(old.b, u.want) || u.failed > 0 {
			t.Fatalf("seed %d: the old disk is not what was written, %d requests failed", seed, u.failed)
		}
	}
}

// What can't be read can't be moved; the machine is told of its own failures alone.
func TestOldFails(t *testing.T) {
	u, old, _ := begin(t, 1)
	u.until("begun", func() bool { return u.d.next > 0 })
	old.broken, u.blind = true, true
	u.until("given up", func() bool { return u.d.Err() != nil })
	old.broken = false
	n := u.failed
	u.drain()
	u.until("used", func() bool { return u.ended > 50 })
	if u.failed > n+12 {
		t.Errorf("%d requests failed", u.failed)
	}
}

// While both disks count a failure of either is the machine's, and so is a fence.
func TestBothCount(t *testing.T) {
	for i := range 2 {
		u, old, new := begin(t, 5)
		u.until("copied", u.d.Copied)
		u.d.Begin()
		u.drain()
		f := []*fake{old, new}[i]
		f.broken = true
		u.until("failed", func() bool { return u.failed > 0 })
		f.fenced = true
		if !u.d.Fenced() {
			t.Error("a fence goes unnoticed")
		}
		u.d.Close()
		if !old.closed || !new.closed {
			t.Error("not closed")
		}
	}
}

// Disks that both were complete go on as such, for a copy that goes live.
func TestOpen(t *testing.T) {
	old, new := newFake(size, 1), newFake(size, 2)
	u := &user{t: t, d: Open(old, new), rnd: rand.New(rand.NewPCG(1, 1)), want: make([]byte, size), out: map[uint64]event.DiskRequest{}}
	u.until("used", func() bool { return u.ended > 300 })
	u.drain()
	if !bytes.Equal(old.b, u.want) || !bytes.Equal(new.b, u.want) {
		t.Error("the disks differ")
	}
	if u.d.GiveUp(errors.New("too late")); u.d.Err() != nil {
		t.Error("a complete disk was given up")
	}
}

// A disk moves to none that is smaller.
func TestSmall(t *testing.T) {
	if _, err := New(newFake(size, 1), newFake(size-1, 2), size); err == nil {
		t.Error("moved to a smaller disk")
	}
}
