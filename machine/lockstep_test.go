// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"tandem/host/codemem"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/jit"
	"tandem/machine/machinetest"
)

// A lockstep is two machines of one Config that get the same inputs at the same
// steps: one runs translated code, the other is interpreted and its oracle.
type lockstep struct {
	testing.TB
	jit, oracle *machine.Machine
	from        event.Step // where the last slice began
	before      string
	born        event.Step // of jit, where it was restored
}

// translated makes a machine run translated code from a cache of size bytes.
func translated(t testing.TB, m *machine.Machine, size int) *machine.Machine {
	t.Helper()
	if !codemem.Supported() {
		t.Skip("this host has no translator")
	}
	m.Translate(codeMemory(t, size))
	return m
}

// twoViews is memory for translated code as it is in use.
func twoViews(t testing.TB, size int) (rw []byte, rx uintptr) {
	t.Helper()
	code, err := codemem.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { code.Close() })
	return code.RW, code.RX()
}

// atOnce makes every block be translated before it is first executed.
func atOnce(t testing.TB) {
	before := jit.HotAfter
	jit.HotAfter = 1
	t.Cleanup(func() { jit.HotAfter = before })
}

// Sizes of code caches: one that is emptied for every few units, and one that never is.
const (
	tinyCache  = 258 << 10
	largeCache = 4 << 20
)

func (p program) lockstep(t testing.TB, harts, cache int) *lockstep {
	t.Helper()
	return &lockstep{TB: t, jit: translated(t, p.start(t, harts), cache), oracle: p.start(t, harts)}
}

// run executes one slice on both and compares what they did.
func (l *lockstep) run(to event.Step) event.Stop {
	l.Helper()
	l.from, l.before = l.oracle.Step(), l.oracle.Describe()
	stop, want := l.jit.Run(to), l.oracle.Run(to)
	switch {
	case stop != want:
		l.diverged(fmt.Sprintf("stopped for %v, want %v", stop, want))
	case l.jit.HashState() != l.oracle.HashState():
		l.diverged("states differ")
	case !reflect.DeepEqual(l.jit.Outputs(), l.oracle.Outputs()):
		l.diverged("outputs differ")
	}
	return stop
}

func (l *lockstep) diverged(what string) {
	l.Helper()
	var b strings.Builder
	for h := range l.oracle.Config().Harts {
		got, want := l.jit.Registers(h), l.oracle.Registers(h)
		for i := range got {
			if got[i] != want[i] {
				fmt.Fprintf(&b, "hart %d x%d (0 is pc): %#x, want %#x\n", h, i, got[i], want[i])
			}
		}
	}
	l.Fatalf("%s after a slice from\n%s\nto\n%s, want\n%s\n%s", what, l.before, l.jit.Describe(), l.oracle.Describe(), b.String())
}

func (l *lockstep) apply(in event.Input) {
	l.Helper()
	apply(l, l.jit, in)
	apply(l, l.oracle, in)
}

// poke stores to the RAM of both as a device does.
func (l *lockstep) poke(pa uint64, b []byte) {
	l.jit.Poke(pa, b)
	l.oracle.Poke(pa, b)
}

// finish compares everything, and the counters with the steps.
func (l *lockstep) finish() {
	l.Helper()
	for m, born := range map[*machine.Machine]event.Step{l.jit: l.born, l.oracle: 0} {
		s := m.Stats()
		if sum := s.Translated.Steps + s.Interpreted + s.Interrupts; sum != uint64(m.Step()-born) {
			l.Errorf("%d steps translated, %d interpreted and %d interrupts are not %d", s.Translated.Steps, s.Interpreted, s.Interrupts, m.Step()-born)
		}
		var exits uint64
		for _, n := range s.Translated.Exits {
			exits += n
		}
		if exits != s.Translated.Entries || s.Translated.Refills > s.Translated.Exits[jit.Miss] || s.Single() > exits {
			l.Errorf("the counters contradict each other: %+v", s)
		}
	}
	if l.jit.HashAll() != l.oracle.HashAll() {
		l.diverged("memories differ")
	}
}

// drive runs both to a step or their end in random slices; idle, they skip to
// the next timer.
func (l *lockstep) drive(c event.Clock, to event.Step, rnd *rand.Rand, slice int) event.Stop {
	l.Helper()
	l.apply(c)
	for l.oracle.Step() < to {
		switch stop := l.run(min(to, l.oracle.Step()+1+event.Step(rnd.IntN(slice)))); stop {
		case event.StopLimit, event.StopOutput:
		case event.StopIdle:
			due, ok := l.oracle.NextTimer()
			if !ok {
				l.finish()
				return stop
			}
			c.Base = max(due, l.oracle.Time())
			l.apply(c)
		default:
			l.finish()
			return stop
		}
	}
	l.finish()
	return event.StopLimit
}

// used requires that translated code ran and that the cache was emptied, or not.
func (l *lockstep) used(reset bool) {
	l.Helper()
	if s := l.jit.Translated(); s.Steps == 0 || reset && s.Resets == 0 {
		l.Errorf("translated code was not put to the test: %+v in %d steps", s, l.oracle.Step())
	}
}

// The programs of testdata/privileged do the same step by step when they are
// translated, whatever the slices and however small the cache.
func TestLockstepPrivileged(t *testing.T) {
	atOnce(t)
	for _, name := range []string{"coherent/3", "coherent/4", "coherent/5", "rights/3", "rights/4", "rights/5", "pmp/3", "counters/0", "traps/0", "interrupts/0", "supervisor/0", "halves/3", "halves/4", "halves/5", "floats/0", "jumps/3", "jumps/4", "jumps/5"} {
		t.Run(name, func(t *testing.T) {
			file, levels, _ := strings.Cut(name, "/")
			p := assemble(t, file, "-DLEVELS="+levels)
			for seed, c := range []struct{ slice, cache int }{{7, tinyCache}, {100, largeCache}, {limit, tinyCache}, {limit, largeCache}} {
				l := p.lockstep(t, 1, c.cache)
				if stop := l.drive(tick, limit, rand.New(rand.NewPCG(uint64(seed), 3)), c.slice); stop != event.StopExit {
					t.Fatalf("%v: %s", stop, l.oracle.Describe())
				}
				if code, _ := l.jit.Exited(); code != 0 {
					t.Errorf("testdata/privileged/%s.S:%d: found %#x, want %#x", file,
						p.word(l.jit, "failed", 0), p.word(l.jit, "failed", 1), p.word(l.jit, "failed", 2))
				}
				l.used(false)
			}
		})
	}
}

// Harts that do all that could show an engine at random do the same on both, in
// small slices and large.
func TestLockstepChaos(t *testing.T) {
	p := assemble(t, "chaos")
	hots, steps := []uint8{1, jit.HotAfter}, event.Step(chaosSteps)
	if testing.Short() {
		hots, steps = hots[:1], steps/8
	}
	atOnce(t)
	for _, hot := range hots {
		jit.HotAfter = hot
		for harts := range 3 {
			for seed, cache := range []int{tinyCache, largeCache} {
				l := p.lockstep(t, harts+1, cache)
				l.drive(event.Clock{Rate: 1 << 29, Limit: steps}, steps, rand.New(rand.NewPCG(uint64(seed), 4)), 300)
				l.used(cache == tinyCache && hot == 1)
			}
		}
	}
}

// A timer interrupt comes at its very step, at every step of a translated loop,
// whatever the slices.
func TestLockstepTimer(t *testing.T) {
	atOnce(t)
	const when = 200
	for _, define := range []string{"-DMTIMER", "-DSSTC"} {
		p := assemble(t, "timer", fmt.Sprint("-DWHEN=", when), define)
		for base := event.Ticks(when - 40); base < when; base++ {
			m := translated(t, p.start(t, 1), tinyCache)
			apply(t, m, event.Clock{Base: base, Rate: 1 << event.RateShift, Limit: limit})
			m.Run(event.Step(base) * 7 % when)
			run(t, m, limit)
			oracle := p.start(t, 1)
			apply(t, oracle, event.Clock{Base: base, Rate: 1 << event.RateShift, Limit: limit})
			run(t, oracle, limit)
			if m.HashState() != oracle.HashState() || p.word(m, "found", 0) != p.word(oracle, "found", 0) {
				t.Fatalf("%s, due at step %d: %s, want %s", define, when-base, m.Describe(), oracle.Describe())
			}
		}
	}
}

// A hart that restarts itself by SBI does so on both alike.
func TestLockstepSuspend(t *testing.T) {
	atOnce(t)
	p := assemble(t, "suspend")
	p.boot.Mode = machine.BootKernel
	for cut := range event.Step(20) {
		l := p.lockstep(t, 1, tinyCache)
		l.apply(tick)
		l.run(cut)
		l.run(cut + 100)
	}
}

// A log recorded on one engine replays on the other with the same hash at every
// entry: the guest of machinetest, which uses every device.
func TestLockstepDevices(t *testing.T) {
	atOnce(t)
	for _, harts := range []int{1, 3} {
		cfg := machinetest.Config(t, harts, "-DROUNDS=12")
		for seed := range uint64(2) {
			recorder, replayer := power(t, cfg), power(t, cfg)
			translated(t, [...]*machine.Machine{recorder, replayer}[seed], tinyCache<<seed)
			o := newOutside(seed)
			o.typing = []byte("abrcd")
			var log []event.Entry
			o.record(t, recorder, 3_000_000, func(e event.Entry) { log = append(log, e) })
			if code, ended := recorder.Exited(); !ended || code != 0 {
				t.Fatalf("%d harts, seed %d: exit code %d, %v after\n%s\n%s", harts, seed, code, ended, o.console, recorder.Describe())
			}
			rnd := rand.New(rand.NewPCG(seed, 6))
			for _, slice := range []int{1 << 40, 50} {
				if got := follow(t, replayer, log, rnd, slice, stay); got.HashAll() != recorder.HashAll() {
					t.Errorf("%d harts, seed %d, slices up to %d: %s, want %s", harts, seed, slice, got.Describe(), recorder.Describe())
				}
				replayer = power(t, cfg)
				if seed == 1 {
					translated(t, replayer, tinyCache)
				}
			}
		}
	}
}

// System calls and their returns do the same on both, whatever the slices.
func TestLockstepSyscalls(t *testing.T) {
	atOnce(t)
	p := assemble(t, "speed", "-DPROGRAM=syscalls")
	for seed, cache := range []int{tinyCache, largeCache} {
		l := p.lockstep(t, 1, cache)
		l.drive(event.Clock{Rate: 1 << 29, Limit: 1 << 40}, 60_000, rand.New(rand.NewPCG(uint64(seed), 9)), 40)
		l.used(false)
	}
}
