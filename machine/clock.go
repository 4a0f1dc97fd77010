// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"math/bits"

	"tandem/machine/event"
)

// clock is the Machine as the harts' source of time: integers only, so that
// both engines and both copies get the same step for the same timer.
type clock Machine

// At implements hart.Clock.
func (c *clock) At(s event.Step) event.Ticks {
	hi, lo := bits.Mul64(uint64(s-c.clockAt), c.clock.Rate)
	return c.clock.Base + event.Ticks(hi<<(64-event.RateShift)|lo>>event.RateShift)
}

// Line implements hart.Clock.
func (c *clock) Line() (from event.Step, base event.Ticks, rate uint64) {
	return c.clockAt, c.clock.Base, c.clock.Rate
}

const never = ^event.Step(0)

// StepOf implements hart.Clock: the first step whose time is at least t is
// clockAt + ceil((t-Base) * 2^RateShift / Rate).
func (c *clock) StepOf(s event.Step, t event.Ticks) event.Step {
	if c.At(s) >= t {
		return s
	}
	need := uint64(t - c.clock.Base)
	hi, lo := need>>(64-event.RateShift), need<<event.RateShift
	if hi >= c.clock.Rate {
		return never
	}
	q, r := bits.Div64(hi, lo, c.clock.Rate)
	if r > 0 {
		q++
	}
	if step := c.clockAt + event.Step(q); step > s {
		return step
	}
	return never // beyond the last step there is
}

// maxRate bounds how fast a clock may run: 2^20 ticks a step.
const maxRate = 1 << (event.RateShift + 20)

// sound reports whether a clock that begins at a step keeps within its bounds and
// 64 bits up to its limit: time must not wrap round.
func sound(c event.Clock, from event.Step) bool {
	if c.Rate > maxRate || c.Limit < from {
		return false
	}
	hi, lo := bits.Mul64(uint64(c.Limit-from), c.Rate)
	passed := hi<<(64-event.RateShift) | lo>>event.RateShift
	return hi>>event.RateShift == 0 && c.Base+event.Ticks(passed) >= c.Base
}

// setClock puts a new clock in force. Time never runs backward.
func (m *Machine) setClock(c event.Clock) error {
	if now := m.Time(); c.Base < now {
		return fmt.Errorf("%w: clock would run back from %d to %d ticks", ErrInput, now, c.Base)
	}
	if !sound(c, m.step) {
		return fmt.Errorf("%w: clock from %d ticks of rate %d with limit %d at step %d", ErrInput, c.Base, c.Rate, c.Limit, m.step)
	}
	m.clock, m.clockAt = c, m.step
	m.ringAlarm()
	return nil
}
