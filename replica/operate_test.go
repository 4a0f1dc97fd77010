// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"errors"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

// ask has the operator ask a copy for something, which must begin.
func (p *pair) ask(c *copyOf, what func() error) {
	p.t.Helper()
	if err := what(); err != nil {
		p.t.Fatalf("%v\n%s", err, p.describe())
	}
	c.p.Wake()
}

// Roles change again and again, each time with a new backup: the guest goes on within
// some milliseconds, no time is spent on detection, and the copy that made way halts and
// knows why.
func TestSwitch(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		now, next := p.a, p.b
		for epoch := event.Epoch(2); epoch <= 4; epoch++ {
			p.await("a protected VM", 10*sim.Second, func() bool { return now.state() == ft.Protected })
			p.w.Run(p.w.Chance().Between(0, 100*ms))
			p.ask(now, now.Switch)
			handed := p.w.Now()
			p.await("Switch", sim.Second, func() bool {
				handed = p.w.Now()
				return now.Status().Wait == "the backup takes over"
			})
			if n := len(now.Machine().PendingDisk()); n > 0 || now.Status().Held > 0 {
				p.t.Errorf("handed over with %d disk requests and %d outputs outstanding", n, now.Status().Held)
			}
			p.await("the next epoch", sim.Second, func() bool { return next.state() == ft.Solo && next.Status().Epoch == epoch })
			if took := p.w.Now() - handed; took > 100*ms { // a store that does not answer is asked again after 20 ms
				p.t.Errorf("the change took %d ms", took/ms)
			}
			p.await("the end of the old primary", sim.Second, func() bool { return now.p.Gone() })
			if op := now.Operation(); now.state() != ft.Halted || op.Under || op.Err != nil {
				p.t.Errorf("the old primary is %v, its operation %+v", now.state(), op)
			}
			p.goesOn(next)
			now, next = next, p.another()
		}
		p.check()
	})
}

// moments of a change of roles.
var moments = []struct {
	name string
	when func(p *pair) bool
}{
	{"asked for", func(*pair) bool { return true }},
	{"recorded", func(p *pair) bool { return p.a.Status().Wait == "the backup takes over" }},
	{"heard of", func(p *pair) bool { return p.b.state() >= ft.Claiming && p.b.state() != ft.Replaying }},
	{"claimed", func(p *pair) bool { return p.b.state() == ft.Fencing }},
	{"done", func(p *pair) bool { return p.b.state() == ft.Solo }},
}

// Whatever fails in any moment of a change of roles, one copy goes on, and only one: the
// channel is cut or reset, either process is killed or stopped, the arbiter is away. The
// one exception is that of any VM without a backup: its only owner dies.
func TestSwitchFaults(t *testing.T) {
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
				p.vm.Storage.Delay = [2]world.Time{ms / 10, 20 * ms}
				p.protected()
				p.ask(p.a, p.a.Switch)
				p.await(m.name, 5*sim.Second, func() bool { return m.when(p) || p.a.p.Gone() })
				if p.w.Chance().OneIn(2) {
					p.w.Run(p.w.Chance().Between(0, 3*ms))
				}
				p.spoil()
				p.w.Run(2 * sim.Second)
				p.settled()
				p.check()
			})
		})
	}
}

// spoil does one thing of those that may happen.
func (p *pair) spoil() {
	c := p.a
	if p.w.Chance().OneIn(2) {
		c = p.b
	}
	switch p.w.Chance().IntN(8) {
	case 0:
		p.link.Reset()
	case 1:
		p.link.Cut(true, true)
	case 2:
		p.link.Cut(true, false)
	case 3:
		p.link.Cut(false, true)
	case 4:
		c.p.Kill()
	case 5:
		c.p.PullPlug()
	case 6:
		c.p.Pause()
		p.w.Run(p.w.Chance().Between(0, 800*ms))
		c.p.Resume()
	case 7:
		p.vm.Arbiter.Down = true
		p.w.Run(p.w.Chance().Between(0, 800*ms))
		p.vm.Arbiter.Down = false
	}
}

// settled checks that exactly one copy goes on, unless the owner of the newest epoch is
// dead.
func (p *pair) settled() {
	p.t.Helper()
	r, _ := p.vm.Arbiter.Read()
	live, dead := 0, false
	for _, c := range p.copies {
		switch s := c.state(); {
		case c.p.Gone():
			dead = dead || c.p.Name == r.Owner
		case s == ft.Solo, s == ft.Syncing, s == ft.Protected:
			live++
		}
	}
	switch {
	case dead && r.Epoch > 1:
		if live > 0 {
			p.t.Errorf("%d copies are live, whose epoch belongs to a dead one\n%s", live, p.describe())
		}
	case live != 1:
		p.t.Errorf("%d copies are live\n%s", live, p.describe())
	default:
		p.progress(5)
	}
}

// A disk that never answers keeps the roles as they are: the guest goes on where it is,
// and the operator is told why.
func TestSwitchGivenUp(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.vm.Storage.Delay = [2]world.Time{3 * sim.Second, 3 * sim.Second}
		p.await("a request", sim.Second, func() bool { return len(p.a.Machine().PendingDisk()) > 0 })
		p.w.Run(50 * ms)
		p.ask(p.a, p.a.Switch)
		if err := p.a.Reset(); !errors.Is(err, replica.ErrRefused) {
			p.t.Errorf("a reset in the middle of a switch: %v", err)
		}
		p.await("an end", 2*sim.Second, func() bool { return !p.a.Operation().Under })
		if p.a.Operation().Err == nil || p.a.state() != ft.Protected || !p.a.saw(replica.Operated, "disk requests outstanding") {
			p.t.Errorf("given up: %v\n%s", p.a.Operation().Err, p.describe())
		}
		p.vm.Storage.Delay = [2]world.Time{ms / 10, ms}
		p.progress(20)
		p.ask(p.a, p.a.Switch)
		p.goesOn(p.b)
		p.check()
	})
}

// A backup is detached while nobody reaches the arbiter: it ends, the primary goes on in
// its epoch, and another backup takes the place and can go on.
func TestDetach(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		p.protected()
		p.vm.Arbiter.Down = true
		p.ask(p.a, p.a.Detach)
		p.await("the end of the backup", 100*ms, func() bool { return p.b.p.Gone() && p.a.state() == ft.Solo })
		if p.a.Status().Epoch != 1 || p.b.state() != ft.Halted || p.a.Operation().Err != nil {
			p.t.Errorf("detached: %v\n%s", p.a.Operation().Err, p.describe())
		}
		p.goesOn(p.a)
		p.vm.Arbiter.Down = false
		c := p.another()
		p.protected()
		if p.a.Status().Epoch != 1 {
			p.t.Errorf("epoch %d", p.a.Status().Epoch)
		}
		p.a.p.Kill()
		p.goesOn(c)
		p.check()
	})
}

// Whatever fails as a backup is detached, one copy goes on, and only one.
func TestDetachFaults(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.ask(p.a, p.a.Detach)
		p.w.Run(p.w.Chance().Between(0, ms/2))
		heard := p.b.p.Gone()
		p.spoil()
		p.w.Run(2 * sim.Second)
		if p.a.p.Gone() && p.b.state() == ft.Halted && !p.b.saw(replica.StateChanged, "the claim is lost") {
			return // dismissed, and then the VM's only copy died
		}
		if heard && p.b.state() != ft.Halted {
			p.t.Errorf("dismissed and %v", p.b.state())
		}
		p.settled()
		p.check()
	})
}

// The reset button works on both copies: the guest boots again, the backup follows, and
// goes on when the primary is killed.
func TestResetButton(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		p.protected()
		p.ask(p.a, p.a.Reset)
		p.await("another boot", 5*sim.Second, func() bool { return bytes.Count(p.vm.Console.Printed, []byte("boot\n")) == 2 })
		p.progress(5)
		p.a.p.Kill()
		p.goesOn(p.b)
		p.check()
	})
}

// The power button works on both copies: the guest ends as it does by itself, both
// copies with it, in the epoch that they were in. One that is pressed as the primary dies
// is heeded by the copy that goes on, if the log has it.
func TestShutdown(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		if err := p.a.Shutdown(); !errors.Is(err, replica.ErrRefused) {
			p.t.Errorf("a guest without a driver is asked to shut down: %v", err)
		}
		p.protected()
		p.ask(p.a, p.a.Shutdown)
		crash := p.w.Chance().OneIn(2)
		if crash {
			p.await("the entry at the backup", sim.Second, func() bool { return p.b.saw(replica.Operated, "button") || p.a.p.Gone() })
			p.a.p.Kill()
		}
		p.await("the end", 5*sim.Second, func() bool { return p.a.p.Gone() && p.b.p.Gone() })
		if n := bytes.Count(p.vm.Console.Printed, []byte("bye\n")); n != 1 {
			p.t.Errorf("the guest said good-bye %d times", n)
		}
		if rec, _ := p.vm.Arbiter.Read(); !crash && rec.Epoch != 1 {
			p.t.Errorf("epoch %d: a copy went live at the end", rec.Epoch)
		}
		p.check()
	})
}

// A CPU share bounds the steps of the machine, also on the copy that goes on and on a
// backup that was made later.
func TestCPUShare(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		steps := func() event.Step {
			p.w.Run(50 * ms)
			before := p.a.Machine().Step()
			p.w.Run(200 * ms)
			return p.a.Machine().Step() - before
		}
		p.a.stepCost = sim.Microsecond // a host too slow for this guest to wait much
		const full = event.Step(200 * ms / sim.Microsecond)
		whole := steps()
		p.ask(p.a, func() error { return p.a.SetCPUShare(100) })
		if err := p.a.SetCPUShare(0); !errors.Is(err, replica.ErrRefused) {
			p.t.Errorf("a share of nothing: %v", err)
		}
		if n := steps(); n > full/10+4000 || whole < 2*n {
			p.t.Errorf("%d steps with a tenth of the CPU, %d with all of it", n, whole)
		}
		p.a.stepCost = 0
		p.b.p.Kill()
		p.goesOn(p.a)
		c := p.another()
		p.protected()
		p.a.p.Kill()
		p.goesOn(c)
		if c.CPUShare() != 100 {
			p.t.Errorf("the share is %d", c.CPUShare())
		}
		p.check()
	})
}

// What can't be is refused, with the reason: a backup is asked, there is no backup, the
// VM has ended.
func TestRefused(t *testing.T) {
	p := newPair(t, *first, machinetest.Config(t, 1))
	requests := func(c *copyOf) []func() error {
		return []func() error{c.Switch, c.Detach, c.TestFailover, c.Reset, c.Shutdown, func() error { return c.SetCPUShare(500) }, c.PowerOff}
	}
	expect := func(c *copyOf, n int) {
		t.Helper()
		for i, f := range requests(c)[:n] {
			if err := f(); !errors.Is(err, replica.ErrRefused) {
				t.Errorf("request %d: %v", i, err)
			}
		}
	}
	expect(p.b, 7)
	p.protected()
	if err := p.a.TestFailover(); err != nil {
		t.Error(err)
	}
	expect(p.b, 7)
	p.b.p.Kill()
	p.goesOn(p.a)
	expect(p.a, 3)
	p.ask(p.a, p.a.PowerOff)
	p.await("the end", sim.Second, p.a.p.Gone)
	expect(p.a, 7)
}
