// SPDX-License-Identifier: Apache-2.0

package ft

// FullShare is a CPU share that is not cut, in thousandths.
const FullShare = 1000

// The steps of the control loop. It cuts while the lag stays too large and does not
// shrink, and gives back slowly, so that it settles. What counts is the least lag of
// some rounds of the loop: a host that was busy for a moment is no slow backup.
const (
	controlEvery = 10 * Millisecond
	cutBy        = 20 // one part in so many of the share
	giveBack     = 5  // thousandths
	leastShare   = 50
	rounds       = 3
)

// flow keeps the backup from falling behind (paper §3.2): failover takes as long
// as the execution lag at that moment. A lag above LagCut costs the primary CPU
// share little by little; at LagStop it stops until half of that is made up.
type flow struct {
	share   int
	stopped bool
	next    Time         // the loop runs
	lows    [rounds]Time // the least lag of the last rounds, the newest first
	before  Time         // the least of them when it ran last
}

// control runs the loop. A backup that is still catching up, for which nothing waits,
// does not stop the primary.
func (f *flow) control(now, lag Time, catchingUp bool, cfg *Config) {
	switch {
	case catchingUp:
		f.stopped = false
	case lag >= cfg.LagStop:
		f.stopped = true
	case lag < cfg.LagStop/2:
		f.stopped = false
	}
	f.lows[0] = min(f.lows[0], lag)
	if now < f.next {
		return
	}
	f.next = now + controlEvery
	low := min(f.lows[0], f.lows[1], f.lows[2])
	switch {
	case f.stopped: // a share has no effect
	case low > cfg.LagCut && low >= f.before:
		f.share = max(f.share-f.share/cutBy, leastShare)
	case low <= cfg.LagCut:
		f.share = min(f.share+giveBack, FullShare)
	}
	f.before = low
	f.lows = [rounds]Time{Never, f.lows[0], f.lows[1]}
}
