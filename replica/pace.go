// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
)

// Intervals of a busy guest's clock.
const (
	clockEvery = 2 * ft.Millisecond // design §1
	clockLimit = 8 * ft.Millisecond // a guest waits if nobody told it the time for so long
	nsPerTick  = 1_000_000_000 / event.TicksPerSecond

	startRate = 1 << event.RateShift / 10 // 100 million steps a second
	maxRate   = 1 << (event.RateShift + 10)
	minSteps  = 50_000              // fewer are too few to measure the rate by
	maxSpan   = 30 * ft.Millisecond // of a measurement
)

// pace makes the guest's clock follow the host's. Between two Clock entries it
// runs by the step at the rate measured before, a little slow, so that the next
// one moves it forward; a guest that got ahead is slowed.
type pace struct {
	origin ft.Time // host time of guest tick 0
	rate   uint64
	last   ft.Time // of the last Clock entry

	// Where the measurement of the rate began: the machine has run ever since.
	from struct {
		time ft.Time
		step event.Step
	}
}

// start begins at the machine's own time.
func (p *pace) start(m *machine.Machine, now ft.Time) {
	*p = pace{origin: now - ft.Time(m.Time())*nsPerTick, rate: startRate}
	p.resume(m, now)
	if c, _ := m.Clock(); c.Rate > 0 {
		p.rate = c.Rate
	}
}

// follow notes on a backup what the time was when an entry was applied.
func (p *pace) follow(m *machine.Machine, now ft.Time) { p.start(m, now) }

// resume goes on where the machine's time stopped, plus the silence since the
// last entry that told the time.
func (p *pace) resume(m *machine.Machine, now ft.Time) {
	p.last = now
	p.from.time, p.from.step = now, m.Step()
}

func (p *pace) ticks(now ft.Time) event.Ticks { return event.Ticks((now - p.origin) / nsPerTick) }

// hostTime is when the guest's clock should read t.
func (p *pace) hostTime(t event.Ticks) ft.Time {
	if t > event.Ticks(ft.Never/nsPerTick/2) {
		return ft.Never
	}
	return p.origin + ft.Time(t)*nsPerTick
}

func (p *pace) due(m *machine.Machine, now ft.Time) bool { return now >= p.last+clockEvery }

// wake is the Clock for a machine that waited: time has passed without steps.
func (p *pace) wake(m *machine.Machine, now ft.Time) event.Clock {
	p.resume(m, now)
	return p.clock(m, now)
}

// tick is the Clock for a machine that ran since the last one.
func (p *pace) tick(m *machine.Machine, now ft.Time) event.Clock {
	p.last = now
	steps, passed := uint64(m.Step()-p.from.step), now-p.from.time
	switch {
	case passed > maxSpan: // the process was stopped, or it has very little of a CPU
		p.resume(m, now)
	case steps >= minSteps && passed > 0:
		measured := uint64(passed) << (event.RateShift - 10) / nsPerTick << 10 / steps
		measured = min(measured, 2*p.rate) // a short stop must not look like a slow host
		p.rate = (3*p.rate + measured - measured/32) / 4
		p.rate = min(max(p.rate, 1), maxRate)
		p.resume(m, now)
	}
	return p.clock(m, now)
}

func (p *pace) clock(m *machine.Machine, now ft.Time) event.Clock {
	c := event.Clock{Base: max(m.Time(), p.ticks(now)), Rate: p.rate}
	if c.Base > p.ticks(now) {
		c.Rate /= 2
	}
	window := uint64(clockLimit/nsPerTick) << event.RateShift / p.rate
	c.Limit = m.Step() + event.Step(max(window, minSteps))
	return c
}
