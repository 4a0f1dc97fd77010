// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"tandem/ft"
	"tandem/machine/event"
)

// slice is what a machine executes in one go. Translated code executes a step in 0.2 ns
// or in 70, so steps alone are no measure: while a slice lasts neither an input nor Go's
// stop of the world comes through. It grows while it is too short in time, to a bound
// that keeps the first one of slow code near the millisecond. A look at the world costs
// microseconds: slices follow each other for sliceTime between two.
type slice struct{ steps event.Step }

const (
	sliceTime  = 50 * ft.Microsecond
	leastSteps = 1000
	mostSteps  = 40_000
)

// took notes how long a slice took that was not cut short. Where no time passes, as in
// a simulated world, slices stay as they are.
func (s *slice) took(t ft.Time) {
	switch {
	case t > sliceTime:
		s.steps = max(leastSteps, s.steps*event.Step(sliceTime)/event.Step(t))
	case 0 < t && t < sliceTime/2:
		s.steps = max(s.steps, min(2*s.steps, mostSteps))
	}
}

// execute lets run execute slices of the machine between two looks at the world, until one
// is not done whole, and returns how long that took.
func (r *Replica) execute(run func(steps event.Step) (whole bool)) (took ft.Time) {
	began := r.clock()
	r.now = began
	for end := began + sliceTime; r.now < end; {
		before := r.now
		whole := run(r.slice.steps)
		r.now = r.clock()
		if !whole || r.now == before {
			break
		}
		r.slice.took(r.now - before)
	}
	return r.now - began
}
