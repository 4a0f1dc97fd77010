// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
)

// A timer interrupt comes before the first instruction at which the clock's
// formula says that it is due, whatever the rate and wherever the run is cut.
func TestTimerStep(t *testing.T) {
	const when = 1000
	for _, define := range []string{"-DMTIMER", "-DSSTC"} {
		p := assemble(t, "timer", fmt.Sprint("-DWHEN=", when), define)
		for _, rate := range []uint64{1 << 28, 1<<28 + 1, 0x1234567, 1 << 32, 5 << 31} {
			var due uint64 // by the definition of event.Clock
			for due*rate>>event.RateShift < when {
				due++
			}
			for _, cut := range []event.Step{0, event.Step(due - 1), event.Step(due), event.Step(due + 1)} {
				m := p.start(t, 1)
				apply(t, m, event.Clock{Rate: rate, Limit: limit})
				m.Run(cut)
				if stop := run(t, m, limit); stop != event.StopExit {
					t.Fatalf("%v: %s", stop, m.Describe())
				}
				if got := p.word(m, "found", 0); got != due+1 { // the interrupt itself is a step
					t.Errorf("%s, rate %#x, cut at %d: the handler begins at step %d, want %d", define, rate, cut, got, due+1)
				}
			}
		}
	}
}

// A hart that restarts itself by SBI begins its counters at the same value
// wherever the run was cut.
func TestSuspendCounters(t *testing.T) {
	p := assemble(t, "suspend")
	p.boot.Mode = machine.BootKernel
	for cut := range event.Step(20) {
		m := p.start(t, 1)
		apply(t, m, tick)
		m.Run(cut)
		m.Run(100)
		if cycle, instret := p.word(m, "found", 0), p.word(m, "found", 1); cycle != 1 || instret != 2 {
			t.Errorf("cut at %d: cycle %d and instret %d after the restart, want 1 and 2", cut, cycle, instret)
		}
	}
}

const chaosSteps = 400_000

// chaos runs testdata/privileged/chaos.S on some harts. at is asked now and then
// where to cut next, and may replace the machine.
func chaos(t *testing.T, p program, harts int, cut func(m *machine.Machine) (*machine.Machine, event.Step)) *machine.Machine {
	m := p.start(t, harts)
	apply(t, m, event.Clock{Rate: 1 << 29, Limit: chaosSteps})
	for m.Step() < chaosSteps {
		var to event.Step
		m, to = cut(m)
		for m.Step() < min(to, chaosSteps) {
			stop := m.Run(min(to, chaosSteps))
			m.Outputs()
			if stop == event.StopIdle {
				due, ok := m.NextTimer()
				if !ok {
					t.Fatalf("idle for ever: %s", m.Describe())
				}
				apply(t, m, event.Clock{Base: max(due, m.Time()), Rate: 1 << 29, Limit: chaosSteps})
			}
		}
	}
	return m
}

// No cache of ours can be noticed and no place to stop: harts that do all that
// could show one end in the same state when the run is cut at random steps, when
// every cache is dropped there, and when it goes on from a snapshot.
func TestDeterminism(t *testing.T) {
	p := assemble(t, "chaos")
	for _, harts := range []int{1, 2, 3} {
		whole := chaos(t, p, harts, func(m *machine.Machine) (*machine.Machine, event.Step) { return m, chaosSteps })
		want := whole.HashAll()
		t.Logf("%d harts: %s, faults %d", harts, whole.Describe(), p.word(whole, "save", 1))
		for seed := range uint64(3) {
			for _, c := range []struct {
				name string
				gap  int
				do   func(m *machine.Machine) *machine.Machine
			}{
				{"cut", 300, func(m *machine.Machine) *machine.Machine { return m }},
				{"forget", 300, func(m *machine.Machine) *machine.Machine { m.Forget(); return m }},
				{"forget decoded", 300, func(m *machine.Machine) *machine.Machine { m.ForgetDecoded(); return m }},
				{"restore", 60_000, func(m *machine.Machine) *machine.Machine { return restored(t, m) }},
			} {
				rnd := rand.New(rand.NewPCG(seed, uint64(harts)))
				m := chaos(t, p, harts, func(m *machine.Machine) (*machine.Machine, event.Step) {
					return c.do(m), m.Step() + 1 + event.Step(rnd.IntN(c.gap))
				})
				if got := m.HashAll(); got != want {
					t.Errorf("%d harts, %s with seed %d: hash %#x, want %#x\n%s\n%s", harts, c.name, seed, got, want, m.Describe(), whole.Describe())
				}
			}
		}
	}
}

// restored saves a machine and loads it anew.
func restored(t *testing.T, m *machine.Machine) *machine.Machine {
	t.Helper()
	var b bytes.Buffer
	if err := m.Save(&b); err != nil {
		t.Fatal(err)
	}
	n, err := machine.Restore(&b, func(size uint64) ([]byte, error) { return make([]byte, size), nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}
