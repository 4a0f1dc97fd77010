// SPDX-License-Identifier: Apache-2.0

package ft

import "fmt"

// Config is what both roles need to know. Start from Defaults.
type Config struct {
	VM      VM
	Machine uint64 // version of package machine: peers with another one are refused
	// Arbiter tells arbiters apart: two that both say yes make two primaries. At
	// most maxArbiter bytes.
	Arbiter string

	// Timeout is how long the backup waits for a sign of life before it takes the
	// primary for lost; both sides must agree on it. PrimaryTimeout is the same for
	// the primary, shorter so that it claims first. Lease is how old the newest
	// echo may be when an output leaves. Timeout − Lease is what is left for the
	// system calls that emit, and for clocks that don't run alike.
	Timeout, PrimaryTimeout, Lease Time

	BeatEvery  Time // between heartbeats
	ProbeEvery Time // between heartbeats while the channel is broken
	MaxGap     Time // of the time between two calls no more than this counts as silence
	Stall      Time // no progress of a backup that is alive for so long costs it its place

	FlushAfter Time // entries wait so long for company
	Batch      int  // bytes at which they no longer wait
	AckEvery   Time // between acknowledgements that only report execution

	LogBuffer    int // bytes of entries that wait for the backup, on each side
	OutputBuffer int // bytes of outputs held

	ReleasedEvery int  // outputs after which the backup is told what has left
	ReleasedAfter Time // and at the latest

	LagCut  Time // execution lag above which the primary's CPU share is cut
	LagStop Time // and above which it stops

	ClaimRetry, ClaimRetryMax Time // first and last interval between claims, and fences

	OnDivergence Policy
}

// Defaults returns the values of the product; VM and Machine are to be filled in.
func Defaults() Config {
	return Config{
		Timeout: 300 * Millisecond, PrimaryTimeout: 250 * Millisecond, Lease: 200 * Millisecond,
		BeatEvery: 25 * Millisecond, ProbeEvery: 2 * Millisecond, MaxGap: 50 * Millisecond, Stall: 10 * Second,
		FlushAfter: Millisecond, Batch: 64 << 10, AckEvery: 5 * Millisecond,
		LogBuffer: 32 << 20, OutputBuffer: 32 << 20,
		ReleasedEvery: 256, ReleasedAfter: 10 * Millisecond,
		LagCut: 20 * Millisecond, LagStop: 100 * Millisecond,
		ClaimRetry: 20 * Millisecond, ClaimRetryMax: Second,
	}
}

// WithTimeout returns the config with the detection timeout t and what is
// derived from it.
func (c Config) WithTimeout(t Time) Config {
	c.Timeout, c.PrimaryTimeout, c.Lease = t, t/6*5, t/3*2
	c.BeatEvery = min(c.BeatEvery, t/12)
	c.MaxGap = min(c.MaxGap, t/6)
	return c
}

// Validate reports the first value that would make the protocol unsafe or stuck.
func (c Config) Validate() error {
	for _, rule := range []struct {
		holds bool
		text  string
	}{
		{c.VM != VM{}, "the VM has no id"},
		{len(c.Arbiter) <= maxArbiter, "the arbiter's identity is too long"},
		{0 < c.Lease && c.Lease <= c.Timeout/10*9, "the lease must be at most nine tenths of the detection timeout"},
		{c.PrimaryTimeout < c.Timeout, "the primary's timeout must be shorter than the backup's"},
		{0 < c.BeatEvery && 3*c.BeatEvery <= c.PrimaryTimeout, "three heartbeats must fit into the primary's timeout"},
		{0 < c.ProbeEvery && c.ProbeEvery <= c.BeatEvery, "probes must not be rarer than heartbeats"},
		{c.BeatEvery <= c.MaxGap && c.MaxGap < c.PrimaryTimeout, "the largest gap must lie between a heartbeat and a timeout"},
		{c.Stall > c.Timeout, "a stall must be longer than the detection timeout"},
		{c.FlushAfter >= 0 && c.AckEvery > 0 && c.ReleasedAfter > 0, "intervals must be positive"},
		{c.Batch > 0 && c.Batch <= MaxMessage/2, "batches must be shorter than half a message"},
		{c.LogBuffer > 0 && c.OutputBuffer > 0 && c.ReleasedEvery > 0, "buffers must be positive"},
		{0 < c.LagCut && c.LagCut < c.LagStop, "the lag that stops must be above the one that cuts"},
		{0 < c.ClaimRetry && c.ClaimRetry <= c.ClaimRetryMax, "the longest retry interval must not be below the first"},
		{c.OnDivergence <= ContinueOnDivergence, "unknown policy on divergence"},
	} {
		if !rule.holds {
			return fmt.Errorf("ft config: %s", rule.text)
		}
	}
	return nil
}
