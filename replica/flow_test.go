// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"slices"
	"testing"

	"tandem/ft"
	"tandem/machine/machinetest"
	"tandem/sim"
	"tandem/world"
)

// lags samples the execution lag every millisecond for a while.
// It returns the mean of the CPU share too.
func (p *pair) lags(d world.Time) (sorted []ft.Time, share int) {
	for end := p.w.Now() + d; p.w.Now() < end; p.w.Run(ms) {
		sorted = append(sorted, p.a.Status().Lag)
		share += p.a.Status().Share
	}
	slices.Sort(sorted)
	return sorted, share / len(sorted)
}

// A backup as fast as its primary lags by less than 10 ms, and costs it nothing.
func TestTypicalLag(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 3), func(p *pair) {
		p.protected()
		p.w.Run(sim.Second)
		lags, share := p.lags(2 * sim.Second)
		if typical := lags[len(lags)*9/10]; typical >= 10*ft.Millisecond || share != ft.FullShare {
			p.t.Errorf("nine of ten times the lag is up to %d µs, the share is %d", typical/ft.Microsecond, share)
		}
		if s := p.a.Stats(); s.Waits != 0 {
			p.t.Errorf("the machine had to wait: %+v", s)
		}
		p.check()
	})
}

// A backup of half the speed slows its primary until it follows: the lag stays below
// what would stop that. With its speed back the primary gets its share back.
func TestSlowBackup(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 3), func(p *pair) {
		p.protected()
		p.b.stepCost = 200
		p.w.Run(500 * ms)
		lags, share := p.lags(3 * sim.Second)
		p.t.Logf("lag up to %d ms, median %d ms, share %d", lags[len(lags)-1]/ft.Millisecond, lags[len(lags)/2]/ft.Millisecond, share)
		if most := lags[len(lags)-1]; most >= 100*ft.Millisecond || lags[len(lags)/2] >= 40*ft.Millisecond {
			p.t.Errorf("the lag is up to %d ms, its median %d ms", most/ft.Millisecond, lags[len(lags)/2]/ft.Millisecond)
		}
		if share >= 800 || share < 300 {
			p.t.Errorf("half as fast, the backup leaves its primary a share of %d", share)
		}
		if s := p.a.Stats(); s.Waits != 0 {
			p.t.Errorf("the machine had to wait: %+v", s)
		}
		p.b.stepCost = 100
		p.await("the whole share", 4*sim.Second, func() bool { return p.a.Status().Share == ft.FullShare })
		p.check()
	})
}

// A backup that stands still, alive, stops its primary: the lag is bounded, the stat
// says that the machine waits and why, and that ends when the backup goes on.
func TestStuckBackup(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 3), func(p *pair) {
		p.protected()
		p.b.stepCost = 100_000
		p.await("a stop", 5*sim.Second, func() bool { return p.a.Status().Wait != "" })
		if lag := p.a.Status().Lag; lag < 100*ft.Millisecond || lag > 200*ft.Millisecond {
			p.t.Errorf("the primary stops at a lag of %d ms", lag/ft.Millisecond)
		}
		p.w.Run(100 * ms)
		p.b.stepCost = 100
		p.await("an end of the stop", 5*sim.Second, func() bool { return p.a.Status().Wait == "" })
		p.progress(5)
		if s := p.a.Stats(); s.Waits == 0 || s.WaitTime == 0 || s.Waited["the backup lags too far behind"] == 0 {
			p.t.Errorf("nothing tells of the stop: %+v", s)
		}
		p.check()
	})
}
