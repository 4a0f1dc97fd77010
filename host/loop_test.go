// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/world"
)

// A turn that asks for another at once gets it, one that names a time gets it no
// earlier, and done ends the loop.
func TestRunTimes(t *testing.T) {
	clock := NewClock()
	_, woken := Wake()
	var due world.Time
	turns := 0
	err := Run(context.Background(), clock, woken, func() (world.Time, bool) {
		now := clock.Now()
		if now < due {
			return due, false // an alarm that was set before rings late
		}
		switch turns++; {
		case turns < 100:
			return now, false
		case turns < 105:
			due = now + world.Time(3*time.Millisecond)
			return due, false
		}
		return Never, true
	})
	if err != nil || turns != 105 {
		t.Errorf("%d turns, %v", turns, err)
	}
}

// Each wake is followed by a turn, though wakes may fall together, and a loop that
// waits for nothing else wakes up.
func TestRunWakes(t *testing.T) {
	wake, woken := Wake()
	var mu sync.Mutex
	posted, seen := 0, 0
	const all = 10_000
	go func() {
		for range all {
			mu.Lock()
			posted++
			mu.Unlock()
			wake()
		}
	}()
	err := Run(context.Background(), NewClock(), woken, func() (world.Time, bool) {
		mu.Lock()
		defer mu.Unlock()
		seen = posted
		return Never, seen == all
	})
	if err != nil || seen != all {
		t.Errorf("%d of %d, %v", seen, all, err)
	}
}

// A loop ends with its context, whether it waits or is busy.
func TestRunContext(t *testing.T) {
	for _, next := range []world.Time{0, Never} {
		ctx, cancel := context.WithCancel(context.Background())
		turns := 0
		_, woken := Wake()
		err := Run(ctx, NewClock(), woken, func() (world.Time, bool) {
			if turns++; turns == 1 {
				time.AfterFunc(time.Millisecond, cancel)
			}
			return next, false
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("next %d: %v", next, err)
		}
	}
}

// The clock doesn't run backward, and Wall is about what time says.
func TestClock(t *testing.T) {
	c := NewClock()
	last := c.Now()
	if last < 0 {
		t.Error("it begins below 0")
	}
	for range 10_000 {
		now := c.Now()
		if now < last {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
	if d := time.Since(time.Unix(0, int64(c.Wall()))); d.Abs() > time.Minute {
		t.Errorf("Wall is off by %v", d)
	}
}

// Two fills differ, and leave no byte out.
func TestEntropy(t *testing.T) {
	var a, b [64]byte
	Entropy{}.Fill(a[:])
	Entropy{}.Fill(b[:])
	if a == b || a == [64]byte{} {
		t.Error("no entropy")
	}
}

// BenchmarkAlarm reports how late turns are that were asked for after a time, in a
// process that does nothing else. Compare BenchmarkTimer.
func BenchmarkAlarm(b *testing.B) {
	for _, d := range []time.Duration{100 * time.Microsecond, time.Millisecond, 4 * time.Millisecond} {
		b.Run(d.String(), func(b *testing.B) {
			clock := NewClock()
			_, woken := Wake()
			var due world.Time
			var late []world.Time
			Run(context.Background(), clock, woken, func() (world.Time, bool) {
				now := clock.Now()
				if due > 0 && now < due {
					return due, false
				}
				if due > 0 {
					late = append(late, now-due)
				}
				due = clock.Now() + world.Time(d)
				return due, len(late) >= b.N
			})
			report(b, late)
		})
	}
}

// BenchmarkTimer is the same with Go's timers.
func BenchmarkTimer(b *testing.B) {
	for _, d := range []time.Duration{100 * time.Microsecond, time.Millisecond, 4 * time.Millisecond} {
		b.Run(d.String(), func(b *testing.B) {
			clock := NewClock()
			var late []world.Time
			timer := time.NewTimer(time.Hour)
			for range b.N {
				due := clock.Now() + world.Time(d)
				timer.Reset(d)
				<-timer.C
				late = append(late, clock.Now()-due)
			}
			report(b, late)
		})
	}
}

func report(b *testing.B, late []world.Time) {
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2])/1000, "µs-late-median")
	b.ReportMetric(float64(late[len(late)*99/100])/1000, "µs-late-p99")
}
