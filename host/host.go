// SPDX-License-Identifier: Apache-2.0

// Package host is the real world of a replica: its clock, its entropy and the
// loop that takes turns with it. The other parts are in folders below: link is
// the logging channel, ram guest memory, term the console's other end, certs what
// replicas know each other by, filedisk and nbd disks, netswitch the network,
// claim the arbiter, site what opens
// them for an epoch, control the door for people.
package host

import (
	"crypto/rand"
	"time"

	"tandem/world"
)

// Clock is the host's clock. Its time begins at NewClock, and goes on while the
// process is stopped, but not while the host is suspended (CLOCK_MONOTONIC).
type Clock struct{ start time.Time }

// NewClock returns a clock that is at 0.
func NewClock() *Clock { return &Clock{time.Now()} }

// Now never runs backward.
func (c *Clock) Now() world.Time { return world.Time(time.Since(c.start)) }

// Wall is Unix time in nanoseconds, as the host has it.
func (c *Clock) Wall() uint64 { return uint64(time.Now().UnixNano()) }

// Entropy is the host's random number generator.
type Entropy struct{}

// Fill fills b.
func (Entropy) Fill(b []byte) { rand.Read(b) } // never fails

var (
	_ world.Clock   = (*Clock)(nil)
	_ world.Entropy = Entropy{}
)
