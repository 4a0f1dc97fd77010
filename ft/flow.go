// SPDX-License-Identifier: Apache-2.0

package ft

// FullShare is a CPU share that is not cut, in thousandths.
const FullShare = 1000

// The steps of the control loop. It cuts while the lag is too large and does not
// shrink, and gives back slowly, so that it settles.
const (
	controlEvery = 10 * Millisecond
	cutBy        = 20 // one part in so many of the share
	giveBack     = 5  // thousandths
	leastShare   = 50
)

// flow keeps the backup from falling behind (paper §3.2): failover takes as long
// as the execution lag at that moment. A lag above LagCut costs the primary CPU
// share little by little; at LagStop it stops until half of that is made up.
type flow struct {
	share   int
	stopped bool
	next    Time // the loop runs
	before  Time // the lag when it ran last
}

func (f *flow) control(now, lag Time, cfg *Config) {
	switch {
	case lag >= cfg.LagStop:
		f.stopped = true
	case lag < cfg.LagStop/2:
		f.stopped = false
	}
	if now < f.next {
		return
	}
	f.next = now + controlEvery
	switch {
	case lag > cfg.LagCut && lag >= f.before:
		f.share = max(f.share-f.share/cutBy, leastShare)
	case lag <= cfg.LagCut:
		f.share = min(f.share+giveBack, FullShare)
	}
	f.before = lag
}
