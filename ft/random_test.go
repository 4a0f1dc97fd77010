// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/machine/event"
)

var (
	seeds = flag.Int("seeds", 400, "random runs of TestRandom")
	seed  = flag.Int("seed", -1, "the one random run of TestRandom, traced")
)

// TestRandom shows that whatever the network, the scheduler and one crash do, no
// output leaves that the surviving side lacks, no two sides emit at a time, the
// outputs form one history without a hole, and a copy that can go on does once
// the faults end. Each seed is one run.
func TestRandom(t *testing.T) {
	seen := map[string]int{}
	if *seed >= 0 {
		newRun(uint64(*seed), seen, t.Logf).check(t)
		return
	}
	for s := range *seeds {
		newRun(uint64(s), seen, nil).check(t)
		if t.Failed() {
			return
		}
	}
	for _, mark := range sometimes {
		if seen[mark] == 0 {
			t.Errorf("%q never happened", mark)
		}
		t.Logf("%6d %s", seen[mark], mark)
	}
}

// sometimes are the rare paths that the runs together must reach.
var sometimes = []string{
	"backup went live", "primary won", "primary lost and halted", "backup lost and halted",
	"lease had run out", "channel resumed", "part of a group discarded", "never activated",
	"two generations", "both ended", "roles changed", "backup dismissed", "primary was stopped by lag", "survived",
}

// run is a world with a plan of faults.
type run struct {
	*world
	seed    uint64
	rng     *rand.Rand
	seen    map[string]int
	calm    bool // no more faults
	crashed bool
	ended   bool // the VM was told to end, and may
	names   int
}

func newRun(seed uint64, seen map[string]int, logf func(string, ...any)) *run {
	cfg := Defaults().WithTimeout(60 * Millisecond)
	cfg.VM = VM{1}
	cfg.ClaimRetryMax = 100 * Millisecond
	cfg.ReleasedEvery = 8
	cfg.LagCut, cfg.LagStop = 10*Millisecond, 30*Millisecond
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	r := &run{world: newWorld(cfg), seed: seed, seen: seen, rng: rand.New(rand.NewPCG(seed, 1))}
	slow := r.one(3)
	r.delay = func() Time {
		if slow && !r.calm && r.one(50) {
			return Time(1+r.rng.IntN(80)) * Millisecond
		}
		return Time(1+r.rng.IntN(2)) * Millisecond
	}
	loss := r.rng.IntN(30)
	r.lossy = func() bool { return !r.calm && r.rng.IntN(100) < loss }
	r.trace = func(format string, args ...any) {
		r.mark(format, args...)
		if logf != nil {
			logf("%5d  %s", r.now/Millisecond, fmt.Sprintf(format, args...))
		}
	}
	return r
}

func (r *run) one(in int) bool { return r.rng.IntN(in) == 0 }

// mark notes rare paths from the changes of state.
func (r *run) mark(format string, args ...any) {
	if len(args) != 4 {
		return
	}
	from, _ := args[1].(State)
	to, _ := args[2].(State)
	switch {
	case to == Live:
		r.seen["backup went live"]++
		if r.arbiter.epoch > 2 {
			r.seen["two generations"]++
		}
	case from == Claiming && to == Solo:
		r.seen["primary won"]++
	case from == Replaying && to == Draining && args[3] == "primary lost: it hands over":
		r.seen["roles changed"]++
	case from == Protected && to == Solo:
		r.seen["backup dismissed"]++
	case from == Syncing && to == Solo:
		r.seen["never activated"]++
	case to == Off:
		r.seen["both ended"]++
	case from == Claiming && to == Halted:
		for _, p := range r.procs {
			if p.name == args[0] && p.p != nil {
				r.seen["primary lost and halted"]++
			} else if p.name == args[0] {
				r.seen["backup lost and halted"]++
			}
		}
	}
}

func (r *run) name() string {
	r.names++
	return string(rune('A' + r.names - 1))
}

func (r *run) check(t *testing.T) {
	a := r.start(r.name())
	a.vm.chatty = true
	r.shake(a)
	r.advance(600*Millisecond, r.fault)
	r.settle()
	viable := r.viable()
	before := r.most()
	r.advance(500*Millisecond, func() { r.look(); r.redial() })
	for _, b := range r.broken {
		t.Errorf("seed %d: %s", r.seed, b)
	}
	if going := r.going(); viable && (len(going) != 1 || r.most() == before) {
		t.Errorf("seed %d: a copy could go on, but %d do, after output %d", r.seed, len(going), r.most())
	} else if viable {
		r.seen["survived"]++
	}
}

// shake gives a host a clock of its own.
func (r *run) shake(p *proc) {
	p.offset = Time(r.rng.IntN(1000)) * Second
	p.drift = float64(r.rng.IntN(41)-20) / 1000
	if p.p != nil {
		p.p.life.last = p.now()
	} else {
		p.b.life.last = p.now()
	}
}

// fault makes things worse, or better, now and then.
func (r *run) fault() {
	r.look()
	if r.one(10) {
		r.redial()
	}
	p := r.procs[r.rng.IntN(len(r.procs))]
	if p.dead {
		return
	}
	if p.p != nil && p.p.State() == Solo && !p.stopped && r.one(40) && len(r.procs) < 6 {
		if old := p.peer; old != nil {
			r.settleProc(old)
		}
		b := r.attach(p, r.name(), r.rng.Uint64()|1, Time(r.rng.IntN(2)*r.rng.IntN(40))*Millisecond, Time(r.rng.IntN(30))*Millisecond)
		r.shake(b)
		return
	}
	if r.seed%3 == 0 && p.p != nil && p.state() == Protected && !p.stopped && r.one(40) {
		r.move(p) // in the middle of whatever goes wrong
	}
	q := p.peer
	if q == nil || !r.one(15) {
		return
	}
	switch r.rng.IntN(16) {
	case 0, 1:
		p.stopped = true
	case 2, 3, 4:
		p.stopped = false
	case 5:
		q.deaf[p] = true
	case 6, 7:
		delete(q.deaf, p)
		delete(p.deaf, q)
	case 8:
		r.reset(p)
	case 9:
		r.reset(p, q)
	case 10:
		r.arbiter.down = r.one(2)
	case 11:
		r.arbiter.delay = Time(r.rng.IntN(40)) * Millisecond
	case 12:
		p.perTick = event.Step(1 + r.rng.IntN(100))
	case 13:
		if !r.crashed && r.one(2) {
			if p.p != nil && !p.stopped && r.one(4) {
				r.part(p)
			}
			r.crashed = true
			p.hostDown = r.one(2)
			r.crash(p)
		}
	case 14:
		r.ask(p)
	case 15:
		if p.p != nil && !p.stopped {
			r.part(p)
		}
	}
}

// part records a group that does not end yet.
func (r *run) part(p *proc) {
	p.record(event.ConsoleIn{Data: []byte("part")}, false)
	if r.one(2) {
		p.record(event.ConsoleIn{Data: []byte("say")}, false)
	}
	p.act()
}

// ask has the operator or the guest do something rare.
func (r *run) ask(p *proc) {
	if p.p == nil || p.stopped || !r.one(4) {
		return
	}
	switch r.rng.IntN(3) {
	case 0:
		p.record(event.Control{Op: event.PowerOff}, true)
		r.ended = true
	case 1:
		p.record(event.ConsoleIn{Data: []byte("exit")}, true)
		r.ended = true
	case 2:
		r.move(p)
	}
	p.act()
}

// move has the operator change the roles, or detach the backup: both are refused if
// there is none.
func (r *run) move(p *proc) {
	if r.one(2) {
		p.p.Detach(p.now(), "asked for")
	} else {
		p.p.HandOver(p.now())
	}
	p.act()
}

// look notes rare paths from the states.
func (r *run) look() {
	for _, p := range r.procs {
		switch {
		case p.p != nil && p.p.stale(p.now()):
			r.seen["lease had run out"]++
		case p.p != nil && p.p.flow.stopped:
			r.seen["primary was stopped by lag"]++
		case p.b != nil && p.b.State() == Replaying && len(p.b.partial) > 0 && p.peer.dead:
			r.seen["part of a group discarded"]++
		}
		if p.p != nil && p.p.paired() && p.p.life.broken && p.p.up {
			r.seen["channel resumed"]++
		}
	}
}

// settle ends the faults.
func (r *run) settle() {
	r.calm = true
	r.arbiter.down, r.arbiter.delay = false, Millisecond
	for _, p := range r.procs {
		r.settleProc(p)
	}
}

func (r *run) settleProc(p *proc) {
	p.stopped, p.deaf, p.perTick = false, map[*proc]bool{}, 1<<60
	for _, q := range r.procs {
		delete(q.deaf, p)
	}
}

// viable reports whether a copy is left that must go on.
func (r *run) viable() bool {
	if r.ended {
		return false
	}
	for _, p := range r.procs {
		b := p.b
		switch {
		case p.dead:
		case p.p != nil && r.arbiter.owner == p && p.state() != Halted:
			return true
		case p.p == nil && b.active && b.State() != Halted && !p.dismissed &&
			(r.arbiter.owner == p || r.arbiter.epoch == b.owned):
			return true
		}
	}
	return false
}

// going returns the primaries that let outputs go.
func (r *run) going() (out []*proc) {
	for _, p := range r.procs {
		if p.p != nil && !p.dead {
			switch p.state() {
			case Solo, Syncing, Protected:
				out = append(out, p)
			}
		}
	}
	return out
}
