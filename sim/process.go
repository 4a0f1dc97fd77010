// SPDX-License-Identifier: Apache-2.0

package sim

import "tandem/world"

// Process is one process on a host of its own: it has a clock and is called to
// take its turns, as host's loop does. It implements world.Clock.
type Process struct {
	Name string
	// Turn is called when there may be something to do; see replica.Replica.Turn.
	Turn func() (at world.Time, ended bool)
	// Cost is how long the turn just made took, a microsecond at least.
	Cost func() world.Time
	// Spent, if set, is how much of the present turn is over: its clock shows it.
	Spent func() world.Time

	w       *World
	offset  world.Time // of its clock
	drift   int        // of its clock, in millionths
	busy    world.Time // its turn lasts until then
	due     world.Time // of the next turn; never if 0
	paused  bool
	dead    bool
	silent  bool // its host is dead too
	ended   bool
	inTurn  bool
	frozen  bool // it was stopped in this turn
	freezes []freeze
	crash   int // its life ends at this many calls to the world from now; 0: not
	unplug  bool
	wall    int64 // what its wall clock is off, in nanoseconds
	links   []*End
}

// freeze stops the process in the middle of a turn, as it calls the world.
type freeze struct {
	call int // this many calls from now
	d    world.Time
}

// died unwinds the turn of a process that died in it.
type died struct{}

// Process returns a new process with a clock of its own, which may be off and drift.
func (w *World) Process(name string) *Process {
	return &Process{
		Name: name, w: w, Cost: func() world.Time { return Microsecond },
		offset: w.chance.Between(0, 1000*Second), drift: w.chance.IntN(200) - 100,
	}
}

// Start lets the process take its first turn.
func (p *Process) Start() { p.Wake() }

// Now implements world.Clock.
func (p *Process) Now() world.Time {
	p.touch()
	if p.inTurn && p.Spent != nil {
		return p.clock(p.w.now + p.Spent())
	}
	return p.clock(p.w.now)
}

// touch is where a process calls the world: it may freeze there, or die.
func (p *Process) touch() {
	if !p.inTurn || p.dead {
		return
	}
	if len(p.freezes) > 0 {
		if p.freezes[0].call--; p.freezes[0].call < 0 {
			d := p.freezes[0].d
			p.freezes = p.freezes[1:]
			p.w.Trace("%s freezes in its turn", p.Name)
			p.paused, p.frozen = true, true
			p.w.Run(d)
			p.paused = false
			if p.dead {
				panic(died{})
			}
		}
	}
	if p.crash > 0 {
		if p.crash--; p.crash == 0 {
			if p.unplug {
				p.PullPlug()
			} else {
				p.Kill()
			}
			panic(died{})
		}
	}
}

func (p *Process) clock(t world.Time) world.Time {
	return t + p.offset + t*world.Time(p.drift)/1_000_000
}

// Wall implements world.Clock.
func (p *Process) Wall() uint64 { return 1_700_000_000_000_000_000 + uint64(int64(p.w.now)+p.wall) }

// Jump moves the clock forward at once, and the wall clock by any step, as a host does
// that was suspended or whose time is corrected.
func (p *Process) Jump(d world.Time, wall int64) {
	p.w.Trace("the clock of %s jumps by %d ms", p.Name, d/Millisecond)
	p.offset += max(d, 0)
	p.wall += wall
	p.Wake()
}

// Wake has the process take a turn as soon as it can.
func (p *Process) Wake() { p.schedule(p.w.now) }

func (p *Process) schedule(t world.Time) {
	t = max(t, p.busy, p.w.now)
	if p.due != 0 && p.due <= t {
		return
	}
	p.due = t
	p.w.at(t, func() {
		if p.due == t {
			p.turn()
		}
	})
}

func (p *Process) turn() {
	p.due = 0
	if p.paused || p.dead || p.ended || p.inTurn {
		return
	}
	if p.w.now < p.busy {
		p.schedule(p.busy)
		return
	}
	p.inTurn, p.frozen = true, false
	at, ended := p.take()
	p.inTurn = false
	p.busy = p.w.now + max(p.Cost(), Microsecond)
	switch {
	case p.dead:
	case p.frozen && !ended:
		p.Wake() // what came meanwhile found it asleep
	case ended:
		p.w.Trace("%s has ended", p.Name)
		p.ended = true
		p.closeLinks()
	case at < 1<<62:
		// Back from its clock, rounded up.
		p.schedule(p.w.now + max(at-p.clock(p.w.now), 0) + Microsecond)
	}
}

// take takes a turn, which the process may not survive.
func (p *Process) take() (at world.Time, ended bool) {
	defer func() {
		if p.dead {
			if r := recover(); r != nil && r != (died{}) {
				panic(r)
			}
		}
	}()
	return p.Turn()
}

// Pause stops the process between two turns, as SIGSTOP does; what arrives waits
// in its sockets.
func (p *Process) Pause() { p.w.Trace("%s stops", p.Name); p.paused = true }

// Resume wakes a paused process.
func (p *Process) Resume() { p.w.Trace("%s goes on", p.Name); p.paused = false; p.Wake() }

// Freeze stops the process for a while in the middle of a turn: at its nth call to
// the world.
func (p *Process) Freeze(n int, d world.Time) { p.freezes = append(p.freezes, freeze{n, d}) }

// Crash has the process end in the middle of a turn: at its nth call to the world,
// from 1; with its host, if that loses power.
func (p *Process) Crash(n int, power bool) { p.crash, p.unplug = n, power }

// Kill ends the process; its host tells peers that it is gone.
func (p *Process) Kill() {
	p.w.Trace("%s is killed", p.Name)
	p.dead = true
	for _, e := range p.links {
		e.out = nil
	}
	p.closeLinks()
}

// PullPlug ends the process and its host: nobody tells anything.
func (p *Process) PullPlug() {
	p.w.Trace("the host of %s loses power", p.Name)
	p.dead, p.silent = true, true
}

// Reboot says that the host which lost its power is up again: it answers for the
// process, which is gone.
func (p *Process) Reboot() {
	p.w.Trace("the host of %s is up again", p.Name)
	p.silent = false
}

// Gone reports whether the process has ended or is dead.
func (p *Process) Gone() bool { return p.dead || p.ended }

// InTurn reports whether the process is in a turn: it may be frozen there.
func (p *Process) InTurn() bool { return p.inTurn }

func (p *Process) closeLinks() {
	for _, e := range p.links {
		e.Hangup()
	}
}
