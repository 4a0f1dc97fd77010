// SPDX-License-Identifier: Apache-2.0

package overlap

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/machine/event"
)

// mayStart is the rule in its plainest form: bytes as sets, all pairs.
func mayStart(earlier []event.DiskRequest, r event.DiskRequest) bool {
	for _, e := range earlier {
		for b := e.Offset; b < e.Offset+e.Length; b++ {
			shared := b >= r.Offset && b < r.Offset+r.Length
			flush := e.Op == event.DiskFlush || r.Op == event.DiskFlush
			reads := e.Op == event.DiskRead && r.Op == event.DiskRead
			if shared && !flush && !reads {
				return false
			}
		}
	}
	return true
}

func startable(outstanding []event.DiskRequest) []uint64 {
	var ids []uint64
	for i, r := range outstanding {
		if mayStart(outstanding[:i], r) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// A random mix of operations is started exactly as a naive comparison of byte sets allows.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		runModel(t, seed)
	}
}

func runModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var q Queue
	var all []event.DiskRequest
	var started []uint64
	for id := uint64(1); id < 80 || len(all) > 0; id++ {
		if id < 80 && rnd.IntN(3) > 0 {
			r := event.DiskRequest{ID: id, Op: event.DiskOp(1 + rnd.IntN(5)),
				Offset: rnd.Uint64N(40), Length: rnd.Uint64N(12)}
			q.Submit(r)
			all = append(all, r)
		} else if len(started) > 0 {
			i := rnd.IntN(len(started))
			done := started[i]
			started = slices.Delete(started, i, i+1)
			all = slices.DeleteFunc(all, func(r event.DiskRequest) bool { return r.ID == done })
			q.Done(done)
		}
		for r, ok := q.Next(); ok; r, ok = q.Next() {
			started = append(started, r.ID)
		}
		got := slices.Sorted(slices.Values(started))
		if want := startable(all); !slices.Equal(got, want) {
			t.Fatalf("seed %d, request %d: started %v, want %v", seed, id, got, want)
		}
		if got := fmt.Sprint(q.Outstanding()); got != fmt.Sprint(all) || q.Len() != len(all) {
			t.Fatalf("seed %d: outstanding %v, want %v", seed, got, all)
		}
	}
}

// The example of the package comment holds: who waits for whom, operation by operation.
func TestExample(t *testing.T) {
	var q Queue
	add := func(id uint64, op event.DiskOp, from, to uint64) {
		q.Submit(event.DiskRequest{ID: id, Op: op, Offset: from, Length: to - from})
	}
	add(1, event.DiskWrite, 0, 8)
	add(2, event.DiskRead, 4, 12)
	add(3, event.DiskRead, 0, 4)
	add(4, event.DiskWrite, 8, 16)
	add(5, event.DiskFlush, 0, 0)
	expect(t, &q, 1, 5)
	q.Done(1)
	expect(t, &q, 2, 3)
	q.Done(3)
	expect(t, &q)
	q.Done(2)
	expect(t, &q, 4)
}

func expect(t *testing.T, q *Queue, want ...uint64) {
	t.Helper()
	var got []uint64
	for r, ok := q.Next(); ok; r, ok = q.Next() {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("may start: %v, want %v", got, want)
	}
}

// Ranges at the end of the address space are compared without wrapping round.
func TestConflictAtTheEnd(t *testing.T) {
	r := func(off, n uint64) event.DiskRequest {
		return event.DiskRequest{Op: event.DiskWrite, Offset: off, Length: n}
	}
	const top = math.MaxUint64
	if !Conflict(r(top-1, 2), r(top, 1)) || !Conflict(r(top-10, 100), r(top-5, 1)) {
		t.Error("overlapping ranges at the end of the disk are missed")
	}
	if Conflict(r(0, 1), r(top, 1)) || Conflict(r(top, 1), r(0, 1)) {
		t.Error("the first and the last byte overlap")
	}
}

// A broken invariant of the caller stops the machine instead of running two
// requests under one number.
func TestMisuse(t *testing.T) {
	for name, misuse := range map[string]func(*Queue){
		"twice":   func(q *Queue) { q.Submit(event.DiskRequest{ID: 1}) },
		"unknown": func(q *Queue) { q.Done(2) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			var q Queue
			q.Submit(event.DiskRequest{ID: 1})
			misuse(&q)
		}()
	}
}
