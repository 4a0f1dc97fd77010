// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
)

// host runs a machine at so many steps in a millisecond, and tells it the time
// when the replica would. It returns how far the guest's clock was ahead at most.
type host struct {
	t   *testing.T
	m   *machine.Machine
	p   pace
	now ft.Time
}

func (h *host) tell() {
	if err := h.m.Apply(h.p.tick(h.m, h.now)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) run(d ft.Time, perMS event.Step) (ahead ft.Time) {
	for end := h.now + d; h.now < end; {
		h.now += 100 * ft.Microsecond
		for to := h.m.Step() + perMS/10; h.m.Step() < to; h.m.Outputs() {
			if h.m.Run(to) == event.StopClock {
				h.tell()
			}
		}
		if h.p.due(h.m, h.now) {
			h.tell()
		}
		ahead = max(ahead, h.ahead())
	}
	return ahead
}

func (h *host) ahead() ft.Time { return h.p.hostTime(h.m.Time()) - h.now }

// The guest's clock follows the host's, however fast the host runs and after a
// stop too: it lags by no more than an interval and gets hardly ahead.
func TestPace(t *testing.T) {
	cfg := machinetest.Config(t, 1, "-DWORK=100000000")
	for _, perMS := range []event.Step{2_000, 10_000, 60_000} {
		m, err := machine.New(cfg, make([]byte, cfg.RAM))
		if err != nil {
			t.Fatal(err)
		}
		h := &host{t: t, m: m, now: 77 * ft.Second}
		h.p.start(m, h.now)
		h.tell()
		h.run(ft.Second, perMS)
		for _, stop := range []ft.Time{0, 50 * ft.Millisecond, ft.Second, 3600 * ft.Second} {
			h.now += stop
			ahead := h.run(60*ft.Millisecond, perMS)
			if ahead > ft.Millisecond || h.ahead() < -3*ft.Millisecond {
				t.Errorf("%d steps in a ms, stopped for %d ms: %d µs ahead at most, %d in the end",
					perMS, stop/ft.Millisecond, ahead/ft.Microsecond, h.ahead()/ft.Microsecond)
			}
		}
		want := uint64(ft.Millisecond/nsPerTick) << event.RateShift / uint64(perMS)
		if h.p.rate < want*8/10 || h.p.rate > want*11/10 {
			t.Errorf("%d steps in a ms: rate %d, want about %d", perMS, h.p.rate, want)
		}
	}
}

// On a host that suddenly runs faster the guest gets ahead: its time never goes back,
// and the host's catches up with it.
func TestFasterHost(t *testing.T) {
	cfg := machinetest.Config(t, 1, "-DWORK=100000000")
	m, err := machine.New(cfg, make([]byte, cfg.RAM))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, m: m, now: 77 * ft.Second}
	h.p.start(m, h.now)
	h.tell()
	h.run(ft.Second, 2_000)
	ahead := h.run(ft.Second, 60_000)
	if ahead < ft.Millisecond || ahead > 100*ft.Millisecond || h.ahead() > ft.Millisecond {
		t.Errorf("%d µs ahead at most, %d in the end", ahead/ft.Microsecond, h.ahead()/ft.Microsecond)
	}
}
