// SPDX-License-Identifier: Apache-2.0

// Package worldtest is what must hold in every world, the real one and the seeded one,
// written once as tests that both run. So far it has the arbiter.
package worldtest

import (
	"sync"
	"testing"

	"tandem/machine/event"
	"tandem/world"
)

// Arbiter shows that an Arbiter is an atomic test-and-set. open returns two
// ways to the same record, as two hosts have them, of a VM that was never claimed.
func Arbiter(t *testing.T, open func(t *testing.T) (a, b world.Arbiter)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, a, b world.Arbiter)
	}{
		{"first", firstClaim},
		{"race", race},
		{"repeat", repeatedClaim},
		{"stale", staleClaim},
		{"gap", claimWithGap},
		{"invalid", invalidClaim},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := open(t)
			test.run(t, a, b)
		})
	}
}

// firstClaim: a VM that was never claimed has the zero record, and both sides
// read what the first claim wrote.
func firstClaim(t *testing.T, a, b world.Arbiter) {
	expectRead(t, b, world.Record{})
	want := world.Record{Epoch: 1, Owner: "a", DiskGeneration: 7}
	expectClaim(t, a, want, true, want)
	expectRead(t, a, want)
	expectRead(t, b, want)
}

// race: of two that claim the same epoch at once exactly one wins, and both
// learn who; 200 times.
func race(t *testing.T, a, b world.Arbiter) {
	for epoch := event.Epoch(1); epoch <= 200; epoch++ {
		var won [2]bool
		var cur [2]world.Record
		var errs [2]error
		var wg sync.WaitGroup
		for i, side := range []world.Arbiter{a, b} {
			wg.Go(func() { won[i], cur[i], errs[i] = side.Claim(epoch, [2]string{"a", "b"}[i], uint64(i)) })
		}
		wg.Wait()
		if errs[0] != nil || errs[1] != nil {
			t.Fatalf("epoch %d: errors %v", epoch, errs)
		}
		if won[0] == won[1] || cur[0] != cur[1] || cur[0].Epoch != epoch {
			t.Fatalf("epoch %d: won %v, records %v", epoch, won, cur)
		}
		if winner := map[bool]string{true: "a", false: "b"}[won[0]]; cur[0].Owner != winner {
			t.Fatalf("epoch %d: %s won but the record is %v", epoch, winner, cur[0])
		}
	}
}

// repeatedClaim: a claim whose answer was lost is asked again, also through
// another connection, and gives the same answer and record.
func repeatedClaim(t *testing.T, a, b world.Arbiter) {
	first := world.Record{Epoch: 1, Owner: "a", DiskGeneration: 3}
	for range 3 {
		expectClaim(t, a, first, true, first)
	}
	expectClaim(t, b, first, true, first)
	expectClaim(t, b, world.Record{Epoch: 1, Owner: "b", DiskGeneration: 3}, false, first)
	// The record stays as it was claimed, whatever generation a repeat brings.
	expectClaim(t, a, world.Record{Epoch: 1, Owner: "a", DiskGeneration: 9}, true, first)
	expectRead(t, b, first)
}

// staleClaim: epochs that have been superseded can't be claimed, not even by
// the one that held them.
func staleClaim(t *testing.T, a, b world.Arbiter) {
	var newest world.Record
	for epoch := event.Epoch(1); epoch <= 40; epoch++ {
		newest = world.Record{Epoch: epoch, Owner: "a", DiskGeneration: uint64(epoch)}
		expectClaim(t, a, newest, true, newest)
	}
	for epoch := event.Epoch(1); epoch < 40; epoch++ {
		expectClaim(t, b, world.Record{Epoch: epoch, Owner: "b"}, false, newest)
		expectClaim(t, b, world.Record{Epoch: epoch, Owner: "a"}, false, newest)
	}
	expectRead(t, a, newest)
	expectRead(t, b, newest)
}

// claimWithGap: an epoch whose predecessor was never claimed is refused with an
// error, since nobody can have won it, and leaves the record alone.
func claimWithGap(t *testing.T, a, b world.Arbiter) {
	for _, newest := range []world.Record{{}, {Epoch: 1, Owner: "a"}} {
		if newest.Epoch > 0 {
			expectClaim(t, a, newest, true, newest)
		}
		if won, cur, err := b.Claim(newest.Epoch+2, "b", 0); won || err == nil {
			t.Fatalf("claimed epoch %d after %v: %v, %v, %v", newest.Epoch+2, newest, won, cur, err)
		}
		expectRead(t, a, newest)
		expectRead(t, b, newest)
	}
}

// invalidClaim: epoch 0 and an empty owner are errors, not records.
func invalidClaim(t *testing.T, a, _ world.Arbiter) {
	for _, r := range []world.Record{{Epoch: 0, Owner: "a"}, {Epoch: 1, Owner: ""}} {
		if won, cur, err := a.Claim(r.Epoch, r.Owner, 0); won || err == nil {
			t.Errorf("claimed %v: %v, %v, %v", r, won, cur, err)
		}
	}
	expectRead(t, a, world.Record{})
}

func expectClaim(t *testing.T, a world.Arbiter, claim world.Record, won bool, cur world.Record) {
	t.Helper()
	w, c, err := a.Claim(claim.Epoch, claim.Owner, claim.DiskGeneration)
	if err != nil || w != won || c != cur {
		t.Fatalf("claim %v: won %v, record %v, error %v; want %v, %v", claim, w, c, err, won, cur)
	}
}

func expectRead(t *testing.T, a world.Arbiter, want world.Record) {
	t.Helper()
	if r, err := a.Read(); err != nil || r != want {
		t.Fatalf("read %v, error %v; want %v", r, err, want)
	}
}
