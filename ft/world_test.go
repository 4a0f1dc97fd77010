// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"fmt"
	"strings"

	"tandem/machine/event"
)

// counter is the VM of these tests: a state that every step and input changes,
// and an output whenever the state says so.
type counter struct {
	step    event.Step
	sum     uint64
	id      event.OutputID
	chatty  bool // emits by itself, in one step of 128
	ended   bool
	emitted []output // all that it ever emitted
}

type output struct {
	id   event.OutputID
	sum  uint64
	exit bool
}

func (c *counter) mix(x uint64) { c.sum = (c.sum^x)*6364136223846793005 + 1442695040888963407 }
func (c *counter) emit() {
	c.id++
	c.emitted = append(c.emitted, output{c.id, c.sum, c.ended})
}

func (c *counter) run(to event.Step) {
	for c.step < to && !c.ended {
		c.step++
		if c.mix(uint64(c.step)); c.chatty && c.sum>>57 == 0 {
			c.emit()
		}
	}
}

func (c *counter) apply(in event.Input) {
	console, ok := in.(event.ConsoleIn)
	if !ok {
		return
	}
	for _, x := range console.Data {
		c.mix(uint64(x))
	}
	switch string(console.Data) {
	case "say":
		c.emit()
	case "exit":
		c.ended = true
		c.emit()
	}
}

// world is two hosts, an arbiter, and a network with faults. It steps by
// milliseconds; one is the least delay.
type world struct {
	now     Time
	cfg     Config
	procs   []*proc
	arbiter struct {
		epoch event.Epoch
		owner *proc
		down  bool
		cut   map[*proc]bool // can't reach it
		delay Time
	}
	wires  []packet // in the order sent
	delay  func() Time
	lossy  func() bool // a UDP packet is lost
	trace  func(format string, args ...any)
	emits  []emission
	sums   map[event.OutputID]uint64
	broken []string // rules that did not hold
}

// redial makes a new channel for a side that asked for one, if there is a way.
func (w *world) redial() {
	for _, r := range w.procs {
		if q := r.peer; r.dialing && q != nil && !r.dead && !q.dead && !r.stopped && !q.stopped &&
			!r.deaf[q] && !q.deaf[r] && !r.hostDown && !q.hostDown {
			w.connect(r, q)
		}
	}
}

// emission is an output that left.
type emission struct {
	by *proc
	id event.OutputID
}

// packet is something on its way to a process.
type packet struct {
	from, to *proc
	at       Time // of arrival
	channel  int  // of a message, or of its end; 0: UDP
	what     any  // Message, Heartbeat, or one of these
}

type (
	opened      struct{}
	closed      struct{}
	unreachable struct{}
	claimed     struct {
		epoch event.Epoch
		o     Outcome
	}
	fenced struct{ epoch event.Epoch }
)

// proc is a replica: what drives a Primary or a Backup.
type proc struct {
	reads   Slots // disks that it reads itself, as a backup
	w       *world
	name    string
	offset  Time    // of its clock
	drift   float64 // of its clock
	p       *Primary
	b       *Backup
	vm      counter
	seq     event.Seq
	kept    []output // emitted, not yet released
	todo    []event.Entry
	perTick event.Step // that a backup executes in a millisecond
	odd     bool
	beginAt Time // of a primary: its backup's copy is taken
	load    Time
	loadAt  Time
	loadSeq event.Seq
	loadStp event.Step

	peer          *proc
	channel       int // its end of it; 0: none
	dialing       bool
	stopped, dead bool
	dismissed     bool // it may hear so at any time
	ended         bool // by itself
	hostDown      bool
	deaf          map[*proc]bool // nothing arrives from there
	inbox         []packet
	clockAt       Time // of the last progress entry
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, delay: func() Time { return Millisecond }, lossy: func() bool { return false },
		trace: func(string, ...any) {}, sums: map[event.OutputID]uint64{}, now: Second}
	w.arbiter.cut = map[*proc]bool{}
	return w
}

func (w *world) breach(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf("%d ms: ", w.now/Millisecond)+fmt.Sprintf(format, args...))
}

func (w *world) newProc(name string) *proc {
	r := &proc{w: w, name: name, deaf: map[*proc]bool{}, perTick: 1 << 60}
	w.procs = append(w.procs, r)
	return r
}

// start makes the first primary.
func (w *world) start(name string) *proc {
	r := w.newProc(name)
	w.arbiter.epoch, w.arbiter.owner = 1, r
	var err error
	if r.p, err = NewPrimary(r.now(), w.cfg, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	return r
}

// attach makes a backup of r. Its VM is copied for a while as it runs, and loading the
// rest takes another.
func (w *world) attach(r *proc, name string, session uint64, copying, load Time) *proc {
	b := w.newProc(name)
	var err error
	if b.b, err = NewBackup(b.now(), w.cfg, r.p.Status().Epoch); err != nil {
		panic(err)
	}
	if err := r.p.Attach(r.now(), session); err != nil {
		panic(err)
	}
	b.peer, r.peer = r, b
	r.beginAt, r.load = w.now+copying, load
	if copying == 0 {
		r.begin()
	}
	w.connect(r, b)
	r.act()
	return b
}

// begin is the end of copying: the log begins.
func (r *proc) begin() {
	b := r.peer
	r.beginAt = 0
	if r.p.State() != Syncing {
		return
	}
	if err := r.p.Begin(r.now(), r.vm.step); err != nil {
		r.w.breach("%s: %v", r.name, err)
	}
	b.vm = r.vm
	b.vm.emitted = append([]output(nil), r.vm.emitted...)
	b.seq, b.loadSeq, b.loadStp, b.loadAt = r.seq, r.seq, r.vm.step, r.w.now+r.load
}

var channels int

func (w *world) connect(a, b *proc) {
	channels++
	for _, r := range []*proc{a, b} {
		r.dialing = false
		r.put(packet{to: r, channel: channels, what: opened{}})
	}
}

// reset breaks the channel for these sides; what is on its way to them is lost.
func (w *world) reset(sides ...*proc) {
	id := sides[0].channel
	if id == 0 {
		return
	}
	for _, r := range sides {
		kept := w.wires[:0]
		for _, p := range w.wires {
			if p.channel != id || p.to != r {
				kept = append(kept, p)
			}
		}
		w.wires = kept
		r.put(packet{to: r, channel: id, what: closed{}})
	}
}

func (r *proc) put(p packet) { r.inbox = append(r.inbox, p) }

func (w *world) send(p packet) {
	p.at = w.now + w.delay()
	if p.channel == 0 && w.lossy() {
		return
	}
	w.wires = append(w.wires, p)
}

// deliver moves what has arrived into sockets. A message waits behind the one
// before it on its channel, and for a cut to heal; packets don't.
func (w *world) deliver() {
	blocked := map[[2]any]bool{}
	kept := w.wires[:0]
	for _, p := range w.wires {
		key := [2]any{p.to, p.channel}
		late := p.at > w.now || blocked[key]
		cut := p.from != nil && (p.to.deaf[p.from] || p.to.hostDown || p.from.hostDown)
		switch {
		case p.channel == 0 && cut:
		case late || cut:
			blocked[key] = p.channel != 0
			kept = append(kept, p)
		case p.to.dead:
			w.answerForDead(p)
		default:
			p.to.put(p)
		}
	}
	w.wires = kept
}

// answerForDead is what the host does for a process that is gone.
func (w *world) answerForDead(p packet) {
	if p.from == nil || p.from.deaf[p.to] {
		return
	}
	switch p.what.(type) {
	case Heartbeat:
		p.from.put(packet{to: p.from, what: unreachable{}})
	case Message:
		p.from.put(packet{to: p.from, channel: p.channel, what: closed{}})
	}
}

func (w *world) crash(r *proc) {
	r.dead = true
	if r.channel != 0 && r.peer != nil && !r.hostDown {
		w.send(packet{from: r, to: r.peer, channel: r.channel, what: closed{}})
	}
}

// advance lets every process run for a while.
func (w *world) advance(d Time, each func()) {
	for end := w.now + d; w.now < end; {
		w.now += Millisecond
		w.deliver()
		for _, r := range w.procs {
			if !r.dead && !r.stopped {
				r.step()
			}
		}
		if each != nil {
			each()
		}
	}
}

func (r *proc) now() Time { return r.w.now + r.offset + Time(r.drift*float64(r.w.now)) }

func (r *proc) state() State {
	if r.p != nil {
		return r.p.State()
	}
	return r.b.State()
}

// step is one turn of a replica's loop: drain the sockets, run the machine, tick.
func (r *proc) step() {
	for len(r.inbox) > 0 && !r.ended {
		p := r.inbox[0]
		r.inbox = r.inbox[1:]
		r.receive(p)
		r.act()
	}
	if r.b != nil && r.loadAt != 0 && r.w.now >= r.loadAt && r.b.begun {
		r.loadAt = 0
		if r.b.paired() {
			if err := r.b.Loaded(r.now(), r.loadSeq, r.loadStp, r.reads); err != nil {
				r.w.breach("%s: %v", r.name, err)
			}
		}
		r.act()
	}
	if r.p != nil && r.beginAt != 0 && r.w.now >= r.beginAt {
		r.begin()
		r.act()
	}
	r.execute()
	r.compute()
	var s interface {
		Deadline() Time
		Tick(Time)
	} = r.p
	if r.p == nil {
		s = r.b
	}
	if now := r.now(); now >= s.Deadline() {
		s.Tick(now)
	}
	r.act()
	if now := r.now(); r.p == nil && r.b.Deadline() <= now || r.p != nil && r.p.Deadline() <= now {
		r.w.breach("%s would be ticked again and again", r.name)
	}
	if r.ended {
		r.w.crash(r)
	}
}

func (r *proc) receive(p packet) {
	now := r.now()
	type side interface {
		Connected(Time)
		Disconnected(Time)
		Receive(Time, Message)
		Heartbeat(Time, Heartbeat)
		Unreachable(Time)
		Claimed(Time, event.Epoch, Outcome)
	}
	var s side = r.p
	if r.p == nil {
		s = r.b
	}
	switch m := p.what.(type) {
	case opened:
		if r.channel != 0 {
			s.Disconnected(now)
			r.act()
		}
		r.channel = p.channel
		s.Connected(now)
	case closed:
		if r.channel == p.channel {
			r.channel = 0
			s.Disconnected(now)
		}
	case Heartbeat:
		if p.from == r.peer { // a process that was the peer before has another key
			s.Heartbeat(now, m)
		}
	case unreachable:
		s.Unreachable(now)
	case claimed:
		s.Claimed(now, m.epoch, m.o)
	case fenced:
		r.b.Fenced(now, m.epoch, nil)
	case Message:
		if r.channel == p.channel {
			s.Receive(now, m)
		} else if p.from != nil { // this end is closed
			r.w.send(packet{from: r, to: p.from, channel: p.channel, what: closed{}})
		}
	}
}

// act does what the protocol asks for.
func (r *proc) act() {
	for {
		var actions []Action
		if r.p != nil {
			actions = r.p.Actions()
		} else {
			actions = r.b.Actions()
		}
		if len(actions) == 0 {
			return
		}
		for _, a := range actions {
			r.do(a)
		}
	}
}

func (r *proc) do(a Action) {
	w := r.w
	switch a := a.(type) {
	case Send:
		w.trace("%s sends %s", r.name, text(a.Message))
		if r.channel != 0 {
			w.send(packet{from: r, to: r.peer, channel: r.channel, what: a.Message})
		}
	case Beat:
		w.send(packet{from: r, to: r.peer, what: a.Heartbeat})
	case Hangup:
		if r.channel != 0 {
			w.trace("%s hangs up", r.name)
			w.send(packet{from: r, to: r.peer, channel: r.channel, what: closed{}})
			r.channel = 0
		}
	case Dial:
		w.trace("%s dials", r.name)
		r.dialing = true
	case Record:
		for _, in := range a.Inputs {
			r.record(in, true)
		}
	case Release:
		r.release(a.Last)
	case Apply:
		r.todo = append(r.todo, a.Entries...)
	case Claim:
		w.trace("%s claims epoch %d", r.name, a.Epoch)
		w.claim(r, a.Epoch)
	case Fence:
		w.trace("%s fences epochs before %d", r.name, a.Epoch)
		r.put(packet{to: r, what: fenced{a.Epoch}})
	case GoLive:
		w.trace("%s goes live after entry %d, outputs up to %d are known to have left", r.name, a.Seq, a.Released)
		r.goLive(a)
	case Changed:
		w.trace("%s: %v → %v: %s", r.name, a.From, a.To, a.Why)
		r.ended = a.To == Halted || a.To == Off
	}
}

func (w *world) claim(r *proc, e event.Epoch) {
	o := Lost
	switch {
	case w.arbiter.down || w.arbiter.cut[r]:
		o = Unknown
	case w.arbiter.epoch+1 == e:
		w.arbiter.epoch, w.arbiter.owner, o = e, r, Won
	case w.arbiter.epoch == e && w.arbiter.owner == r:
		o = Won
	}
	w.wires = append(w.wires, packet{to: r, at: w.now + w.arbiter.delay, what: claimed{e, o}})
}

// record is the toy's replay.Recorder: it applies an input, logs it, and marks
// and holds what was emitted.
func (r *proc) record(in event.Input, goLive bool) {
	if r.p.state == Halted || r.p.state == Off {
		return
	}
	r.vm.apply(in)
	r.append(in, goLive)
	r.mark(goLive)
}

func (r *proc) append(in event.Input, goLive bool) {
	r.seq++
	r.clockAt = r.w.now
	e := event.Entry{Seq: r.seq, Step: r.vm.step, GoLive: goLive, Input: in}
	if c, ok := in.(event.Control); ok && c.Op == event.Dismiss && r.peer != nil {
		r.peer.dismissed = true
	}
	if err := r.p.Append(r.now(), e); err != nil {
		r.w.breach("%s: %v", r.name, err)
	}
}

// mark logs and holds the outputs that were emitted since the last mark.
func (r *proc) mark(goLive bool) {
	out := r.vm.emitted[len(r.vm.emitted)-int(r.vm.id-r.p.out.last):]
	if len(out) == 0 {
		return
	}
	r.append(event.OutputMark{Last: r.vm.id}, goLive)
	r.kept = append(r.kept, out...)
	for _, o := range out {
		if err := r.p.Hold(r.now(), Output{ID: o.id, Mark: r.seq, Size: 100, Exit: o.exit}); err != nil {
			r.w.breach("%s: %v", r.name, err)
		}
		r.act()
	}
}

// compute runs the machine of a primary, if it runs by itself.
func (r *proc) compute() {
	if r.p == nil || !r.vm.chatty {
		return
	}
	if r.p.Status().Wait == "" && !r.vm.ended {
		r.vm.run(r.vm.step + event.Step(64*r.p.Status().Share/FullShare))
		r.mark(true)
	}
	if r.w.now >= r.clockAt+2*Millisecond && r.p.Status().Wait == "" && !r.vm.ended {
		r.record(event.Clock{}, true)
	}
	r.act()
}

// execute replays entries.
func (r *proc) execute() {
	if r.b == nil || r.p != nil || len(r.todo) == 0 || r.perTick == 0 {
		return
	}
	end := r.vm.step + r.perTick
	for len(r.todo) > 0 {
		e := r.todo[0]
		before := len(r.vm.emitted)
		if r.vm.run(min(e.Step, end)); r.vm.step < e.Step && !r.vm.ended {
			r.kept = append(r.kept, r.vm.emitted[before:]...)
			break
		}
		r.todo = r.todo[1:]
		r.vm.apply(e.Input)
		r.kept = append(r.kept, r.vm.emitted[before:]...)
		if m, ok := e.Input.(event.OutputMark); ok && (m.Last != r.vm.id || r.odd) {
			r.todo, r.odd = nil, false
			r.report()
			r.b.Diverged(r.now(), Progress{Executed: r.seq, Step: r.vm.step}, r.vm.id, e.Seq, fmt.Sprintf("output %d, not %d", r.vm.id, m.Last))
			r.act()
			return
		}
		r.seq = e.Seq
	}
	for len(r.kept) > 0 && r.kept[0].id <= r.b.Status().Released {
		r.kept = r.kept[1:]
	}
	r.report()
}

func (r *proc) report() {
	done := Progress{Executed: r.seq, Step: r.vm.step}
	if err := r.b.Executed(r.now(), done, r.vm.ended); err != nil {
		r.w.breach("%s: %v", r.name, err)
	}
	r.act()
}

func (r *proc) goLive(g GoLive) {
	p, err := r.b.Primary(r.now())
	if err != nil {
		r.w.breach("%s: %v", r.name, err)
		return
	}
	r.p = p
	if g.Seq != r.seq && !g.Restart {
		r.w.breach("%s goes live after entry %d, but has executed %d", r.name, g.Seq, r.seq)
	}
	if g.Restart {
		r.vm, r.seq, r.kept = counter{}, g.Seq, nil
		return
	}
	// What left before must be in the history of the side that goes on.
	for _, e := range r.w.emits {
		if e.id > r.vm.id {
			r.w.breach("output %d left, but %s goes live without it", e.id, r.name)
		}
	}
	r.kept = nil
	r.mark(true) // holds all that the primary after Released would
}

// release hands outputs to the outside, and holds that to the rules.
func (r *proc) release(last event.OutputID) {
	w := r.w
	for len(r.kept) > 0 && r.kept[0].id <= last {
		o := r.kept[0]
		r.kept = r.kept[1:]
		w.trace("%s emits output %d = %04x", r.name, o.id, o.sum&0xffff)
		if sum, ok := w.sums[o.id]; ok && sum != o.sum {
			w.breach("output %d is %x from %s and %x from the other side", o.id, o.sum, r.name, sum)
		}
		w.sums[o.id] = o.sum
		if n := len(w.emits); n > 0 && o.id > w.most()+1 {
			w.breach("output %d from %s, but those after %d never left", o.id, r.name, w.most())
		}
		if w.arbiter.owner != r {
			w.breach("output %d from %s, which does not own the newest epoch", o.id, r.name)
		}
		if b := r.peer; r.p.holding && b != nil && b.b != nil {
			switch b.b.State() {
			case Draining, Claiming, Fencing, Live:
				w.breach("output %d from %s while %s is %v", o.id, r.name, b.name, b.b.State())
			}
		}
		w.emits = append(w.emits, emission{r, o.id})
	}
}

func (w *world) most() (id event.OutputID) {
	for _, e := range w.emits {
		id = max(id, e.id)
	}
	return id
}

func text(m Message) string {
	switch m := m.(type) {
	case Entries:
		if len(m.Entries) == 0 {
			return "a ping"
		}
		var s []string
		for _, e := range m.Entries {
			s = append(s, entryText(e))
		}
		return "Entries " + strings.Join(s, ", ")
	case Ack:
		return fmt.Sprintf("Ack %d, executed %d, echo %d", m.Received, m.Executed, m.Echo/Millisecond)
	case Hello:
		return fmt.Sprintf("Hello as %s for epoch %d, at entry %d", m.Role, m.Epoch, m.Seq)
	case Begin:
		return fmt.Sprintf("Begin after entry %d", m.Seq)
	case Bye:
		return strings.TrimRight(fmt.Sprintf("Bye: %s: %s", m.Why, m.Text), ": ")
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", m), "ft.")
}

func entryText(e event.Entry) string {
	var s string
	switch in := e.Input.(type) {
	case event.ConsoleIn:
		s = fmt.Sprintf("%q", in.Data)
	case event.OutputMark:
		s = fmt.Sprintf("OutputMark(%d)", in.Last)
	case event.Released:
		s = fmt.Sprintf("Released(%d)", in.Last)
	case event.Control:
		names := map[event.ControlOp]string{event.PowerOff: "PowerOff", event.Activate: "Activate", event.Switch: "Switch", event.Dismiss: "Dismiss"}
		if s = names[in.Op]; in.Arg != 0 {
			s += fmt.Sprintf("(%d)", in.Arg)
		}
	case event.Clock:
		s = "Clock"
	}
	if !e.GoLive {
		s += "+"
	}
	return fmt.Sprintf("%d:%s", e.Seq, s)
}
