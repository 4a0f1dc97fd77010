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
	links   []*End
}

// freeze stops the process in the middle of a turn, as it reads its clock.
type freeze struct {
	read int // this many times from now
	d    world.Time
}

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
	if p.inTurn && len(p.freezes) > 0 {
		if p.freezes[0].read--; p.freezes[0].read < 0 {
			d := p.freezes[0].d
			p.freezes = p.freezes[1:]
			p.w.Trace("%s freezes in its turn", p.Name)
			p.paused, p.frozen = true, true
			p.w.Run(d)
			p.paused = false
		}
	}
	if p.inTurn && p.Spent != nil {
		return p.clock(p.w.now + p.Spent())
	}
	return p.clock(p.w.now)
}

func (p *Process) clock(t world.Time) world.Time {
	return t + p.offset + t*world.Time(p.drift)/1_000_000
}

// Wall implements world.Clock.
func (p *Process) Wall() uint64 { return 1_700_000_000_000_000_000 + uint64(p.w.now) }

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
	at, ended := p.Turn()
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

// Pause stops the process between two turns, as SIGSTOP does; what arrives waits
// in its sockets.
func (p *Process) Pause() { p.w.Trace("%s stops", p.Name); p.paused = true }

// Resume wakes a paused process.
func (p *Process) Resume() { p.w.Trace("%s goes on", p.Name); p.paused = false; p.Wake() }

// Freeze stops the process for a while in the middle of a turn: as it reads its
// clock for the nth time.
func (p *Process) Freeze(n int, d world.Time) { p.freezes = append(p.freezes, freeze{n, d}) }

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

// Gone reports whether the process has ended or is dead.
func (p *Process) Gone() bool { return p.dead || p.ended }

func (p *Process) closeLinks() {
	for _, e := range p.links {
		e.Hangup()
	}
}
