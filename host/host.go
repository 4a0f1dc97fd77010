// SPDX-License-Identifier: Apache-2.0

// Package host is the real world: the parts of package world that need no
// package of their own, and the loop that turns a replica.
package host

import (
	"context"
	"crypto/rand"
	"time"

	"tandem/world"
)

// Clock is this host's clock.
var Clock world.Clock = clock{time.Now()}

type clock struct{ start time.Time }

func (c clock) Now() world.Time { return world.Time(time.Since(c.start)) }
func (c clock) Wall() uint64    { return uint64(time.Now().UnixNano()) }

// Entropy is the kernel's random generator.
var Entropy world.Entropy = entropy{}

type entropy struct{}

func (entropy) Fill(b []byte) { rand.Read(b) }

// Loop turns one replica: its owner's goroutine runs it, all others wake it.
type Loop struct{ wake chan struct{} }

// NewLoop returns a Loop.
func NewLoop() *Loop { return &Loop{make(chan struct{}, 1)} }

// Wake makes the loop turn soon. It never blocks.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run calls turn until it reports the end or ctx is done, whose error it then
// returns. Between two calls it waits until the time that turn returned, or for
// Wake.
func (l *Loop) Run(ctx context.Context, turn func() (next world.Time, ended bool)) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, ended := turn()
		if ended {
			return nil
		}
		wait := time.Duration(next - Clock.Now())
		if wait <= 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.wake:
		case <-timer.C:
		}
	}
}
