// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"errors"
	"fmt"

	"tandem/machine/event"
)

// ErrState is wrapped by the errors of calls that the present state forbids.
var ErrState = errors.New("not now")

// Primary is the copy whose outputs reach the world. It numbers nothing: entries
// come with the Seq and outputs with the ID that the recorder gave them. It sees
// that they follow each other, carries the log to the backup, and lets outputs go.
//
//	primary                                        backup
//	Attach: Syncing      ── Hello ──►              Connected
//	the machine is       ◄── Hello ──
//	copied while it runs
//	Begin: the snapshot  ── Begin ──►
//	                     ── Entries … ──►
//	                     ◄── Ready ──              Loaded: the snapshot is there
//	the lag is small: holds outputs,
//	Record Released, Activate(e)
//	opened               ── Entries ──►            Replaying: may claim e
//	Protected            ◄── Ack ──
//	Append, Hold         ── Entries, at once ──►
//	Release              ◄── Ack ──
type Primary struct {
	side
	seq  event.Seq // of the last entry
	step event.Step
	log  window
	out  held
	flow flow

	begun bool     // the log is kept
	start struct { // of the log: the place at Begin
		seq  event.Seq
		step event.Step
	}
	ready    bool      // the backup has loaded its snapshot
	reads    Slots     // it reads these disks itself
	holding  bool      // outputs wait for the backup, from before Activate is recorded
	activate event.Seq // the entry Activate(owned+1), once it is recorded
	opened   bool      // it has been sent
	leaving  bool      // the roles are about to change: see HandOver
	parting  bool      // the backup is being dismissed, for the reason why: see Detach
	why      string
	dismiss  event.Seq // the entry Dismiss(owned+1), once it is recorded
	urgent   event.Seq // this entry can't wait for company
	blocked  bool      // the backup has no room for what waits

	stamp    Time     // newest that was sent
	lease    Time     // from the newest echo: outputs may leave before this
	trip     Time     // smoothed, from a stamp to its echo
	room     int      // of the backup's buffer
	peer     Progress // of the backup
	progress detector // of entries asked of the backup and not executed
}

// NewPrimary returns the Solo owner of an epoch, whose log has come to entry seq
// at step and whose outputs up to and including last have left.
func NewPrimary(now Time, cfg Config, owned event.Epoch, seq event.Seq, step event.Step, last event.OutputID) (*Primary, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Primary{side: side{cfg: cfg, role: RolePrimary, state: Solo, owned: owned}, seq: seq, step: step}
	p.life.last = now
	p.out = held{last: last, mark: seq, released: last}
	p.flow.share = FullShare
	return p, nil
}

// Attach begins to make a backup. The session is any number but 0 that this VM has
// not used before.
func (p *Primary) Attach(now Time, session uint64) error {
	if p.state != Solo || session == 0 {
		return fmt.Errorf("attach a backup in state %s, session %d: %w", p.state, session, ErrState)
	}
	p.session, p.met, p.begun = session, false, false
	p.start.seq, p.start.step = 0, 0
	p.log = window{}
	p.life, p.progress = detector{last: now}, detector{last: now}
	p.beats.heard, p.lease, p.stamp, p.trip, p.retryAfter, p.ready, p.reads = 0, 0, 0, 0, 0, false, 0
	p.change(Syncing, "a backup was attached")
	return nil
}

// Begin is called with the machine at the step of the snapshot that the backup will
// load, between two groups. The log is kept from there on.
func (p *Primary) Begin(now Time, step event.Step) error {
	if p.state != Syncing || p.begun || step < p.step {
		return fmt.Errorf("begin the log of a backup in state %s at step %d: %w", p.state, step, ErrState)
	}
	p.begun, p.step = true, step
	p.start.seq, p.start.step = p.seq, step
	p.log = newWindow(p.seq)
	p.progress = detector{last: now}
	if p.up {
		p.send(Begin{Seq: p.seq, Step: step})
	}
	return nil
}

// Detach gives the backup up. One that could go on by itself is told by an entry,
// and this side is Solo once that is acknowledged (rule 10 of the package comment).
// If it can't be told the claim decides.
func (p *Primary) Detach(now Time, why string) error {
	switch {
	case !p.paired() || p.leaving || p.parting:
		return fmt.Errorf("detach the backup in state %s: %w", p.state, ErrState)
	case !p.opened || !p.agreed:
		p.lost(now, why)
	default:
		p.parting, p.why = true, why
		p.do(Record{[]event.Input{event.Control{Op: event.Dismiss, Arg: uint64(p.owned + 1)}}})
	}
	return nil
}

// HandOver changes the roles of a protected pair: the machine stops, the backup
// executes the rest of the log and claims. If it dies before it has claimed, this
// side claims and goes on; otherwise this side loses and halts.
func (p *Primary) HandOver(now Time) error {
	if p.state != Protected || p.leaving || p.parting {
		return fmt.Errorf("hand over in state %s: %w", p.state, ErrState)
	}
	p.leaving = true
	p.do(Record{[]event.Input{event.Control{Op: event.Switch, Arg: uint64(p.owned + 1)}}})
	return nil
}

// Leaving reports whether the roles are changing: what comes of it shows in the
// state, Halted if the backup took over.
func (p *Primary) Leaving() bool { return p.leaving }

// Fenced reports that a newer epoch has shut this copy out of its devices: another
// copy has won it.
func (p *Primary) Fenced(now Time, why string) {
	if p.leaving {
		p.halt(switched)
		return
	}
	p.Fail(now, why)
}

// switched is why a primary halts that has handed over.
const switched = "the roles are changed: its backup is the primary now"

// Fail ends this copy because something that it depends on has failed. A backup
// that can go on does.
func (p *Primary) Fail(now Time, why string) {
	if p.state == Off || p.state == Halted {
		return
	}
	p.bye(Bye{Why: Failed, Text: why})
	p.halt(why)
}

func (p *Primary) halt(why string) {
	p.hangup()
	p.log, p.out.queue, p.out.bytes = window{}, nil, 0
	p.change(Halted, "%s", why)
}

// Append takes entries that the recorder has written and the machine has applied.
// An error is a broken invariant: this copy has halted.
func (p *Primary) Append(now Time, entries ...event.Entry) error {
	if p.state == Off || p.state == Halted {
		return nil
	}
	for _, e := range entries {
		if e.Seq != p.seq+1 || e.Step < p.step || e.Input == nil {
			err := fmt.Errorf("entry %d at step %d can't follow entry %d at step %d", e.Seq, e.Step, p.seq, p.step)
			p.Fail(now, err.Error())
			return err
		}
		p.seq, p.step = e.Seq, e.Step
		if c, ok := e.Input.(event.Control); ok {
			p.control(now, e.Seq, c)
		}
		if p.paired() && p.begun {
			p.log.push(now, e)
		}
	}
	p.pump(now)
	p.release(now)
	return nil
}

// control looks at a control entry before it is written to the log.
func (p *Primary) control(now Time, seq event.Seq, c event.Control) {
	p.urgent = seq
	switch c.Op {
	case event.PowerOff:
		p.out.push(Output{ID: p.out.last, Mark: seq, Exit: true})
	case event.Activate:
		if !p.holding || p.activate != 0 || c.Arg != uint64(p.owned+1) {
			p.lost(now, "an activation was recorded late") // for a backup that is gone: this one must not get it
			return
		}
		p.activate = seq
	case event.Switch:
		if !p.leaving || c.Arg != uint64(p.owned+1) {
			p.lost(now, "a change of roles was recorded late")
		}
	case event.Dismiss:
		if !p.parting || c.Arg != uint64(p.owned+1) {
			p.lost(now, "a dismissal was recorded late")
			return
		}
		p.dismiss = seq
	}
}

// Hold takes an external output that the machine has emitted and whose mark was
// appended. It may be released at once. An error is a broken invariant: this copy
// has halted.
func (p *Primary) Hold(now Time, o Output) error {
	if p.state == Off || p.state == Halted {
		return nil
	}
	if o.ID <= p.out.last || o.Mark < p.out.mark || o.Mark > p.seq {
		err := fmt.Errorf("output %d marked by entry %d can't follow output %d marked by %d; the log ends at %d",
			o.ID, o.Mark, p.out.last, p.out.mark, p.seq)
		p.Fail(now, err.Error())
		return err
	}
	p.out.push(o)
	p.pump(now)
	p.release(now)
	return nil
}

// limit is the Output Rule: the entry up to which outputs may leave now.
func (p *Primary) limit(now Time) event.Seq {
	switch {
	case !p.holding:
		return p.seq // no other side can claim
	case p.paired() && !p.leaving && now < p.lease:
		return p.log.group.acked
	}
	return 0
}

// Logged is the entry up to which the log is safe: the backup has it, or there is
// none that could go on.
func (p *Primary) Logged() event.Seq {
	switch {
	case !p.holding:
		return p.seq
	case p.paired():
		return p.log.group.acked
	}
	return 0
}

// MayEmit reports whether something that is no output of the machine, such as an
// announcement of its address, may leave now, or what was released earlier and
// waited: a write for a read of the backup (paper §4.2). It needs no entry, but what
// an output needs besides: nobody else is the VM.
func (p *Primary) MayEmit(now Time) bool {
	return p.state != Off && p.state != Halted && (!p.holding || p.limit(now) > 0)
}

// Reads reports whether there is a backup that reads a disk itself.
func (p *Primary) Reads(d event.DeviceID) bool { return p.paired() && p.ready && p.reads.Has(d) }

// Followed reports whether there may be a backup that executes the log: one that is
// known, or one that was lost and may claim.
func (p *Primary) Followed() bool {
	return p.state == Syncing && p.ready || p.state == Protected || p.state == Claiming
}

func (p *Primary) release(now Time) {
	before := p.out.released
	exit := p.out.pop(now, p.limit(now))
	if p.out.released != before {
		p.do(Release{p.out.released})
	}
	switch {
	case exit:
		p.bye(Bye{Why: Ended})
		p.change(Off, "the VM has ended")
	case p.opened && p.out.count >= p.cfg.ReleasedEvery:
		p.note(now)
	}
}

// note tells the backup what has left, so that it may forget it.
func (p *Primary) note(now Time) {
	if p.paired() && p.out.count > 0 {
		p.do(Record{[]event.Input{p.out.note()}})
	}
}

// pump sends what can't wait any longer: an output is held for it, or it is old,
// or it is enough to fill a message.
func (p *Primary) pump(now Time) {
	if !p.paired() || !p.agreed {
		return
	}
	bytes, since := p.log.waiting()
	held := len(p.out.queue) > 0 && p.out.mark > p.log.group.sent
	if p.blocked = false; bytes == 0 || !held && p.urgent <= p.log.sent && bytes < p.cfg.Batch && now < since+p.cfg.FlushAfter {
		return
	}
	for {
		entries := p.log.next(p.cfg.Batch, p.room)
		if len(entries) == 0 {
			p.blocked = p.log.sent < p.log.last
			return
		}
		p.transmit(now, entries)
	}
}

func (p *Primary) transmit(now Time, entries []event.Entry) {
	p.stamp = now
	p.opened = p.opened || p.activate != 0 && p.activate <= p.log.sent
	p.send(Entries{Stamp: now, Entries: entries})
}

// stale reports whether outputs wait for nothing but a younger echo.
func (p *Primary) stale(now Time) bool {
	return p.paired() && p.agreed && p.holding && now >= p.lease &&
		len(p.out.queue) > 0 && p.out.queue[0].Mark <= p.log.group.acked
}

// ping asks for a younger echo, if none can be on its way.
func (p *Primary) ping(now Time) {
	if p.stale(now) && now >= p.stamp+p.cfg.BeatEvery {
		p.transmit(now, nil)
	}
}

// Connected reports a channel to the backup, at first or in place of a broken one.
func (p *Primary) Connected(now Time) {
	if !p.paired() {
		p.do(Hangup{})
		return
	}
	p.connected(now, p.start.seq, p.start.step)
	if p.begun && !p.met {
		p.send(Begin{Seq: p.start.seq, Step: p.start.step})
	}
}

// Disconnected reports that the channel is broken, after all that came through it
// was handed over.
func (p *Primary) Disconnected(now Time) {
	if p.up = false; !p.paired() {
		return
	}
	if !p.opened {
		p.lost(now, "the channel broke")
		return
	}
	p.disconnected(now)
	p.judge(now)
}

// Unreachable reports that the backup's UDP port does not exist.
func (p *Primary) Unreachable(now Time) {
	if p.paired() {
		p.life.unreachable = true
		p.judge(now)
	}
}

// Receive hands over a message, as it came from the channel.
func (p *Primary) Receive(now Time, m Message) {
	if !p.paired() || !p.up {
		return
	}
	if h, ok := m.(Hello); ok && p.met && !p.agreed && h.Session == 0 {
		// A new backup, before it is known whether the old one is lost.
		p.bye(Bye{Why: Occupied, Text: "the primary has a backup, or waits for one to come back"})
		return
	}
	p.Heard(now)
	var err error
	switch m := m.(type) {
	case Hello:
		err = p.greet(now, m)
	case Ready:
		if p.ready || !p.agreed || !p.begun {
			err = errors.New("it is ready, but nobody waits for it")
		}
		p.ready, p.reads = true, m.Reads
		p.steer(now)
	case Ack:
		err = p.ack(now, m)
	case Bye:
		err = fmt.Errorf("it left: %s: %s", m.Why, m.Text)
	default:
		err = fmt.Errorf("it sent a %T", m)
	}
	if err != nil {
		p.lost(now, err.Error())
	}
}

func (p *Primary) greet(now Time, h Hello) error {
	resumed := p.met
	err := p.agree(h)
	switch {
	case err != nil:
	case !resumed && h.Session != 0, resumed && h.Session != p.session:
		err = &RefusedError{"session", p.session, h.Session, "start a new backup"}
	case resumed:
		err = p.log.resume(h.Seq)
	}
	if err != nil {
		p.bye(Bye{Why: Refused, Text: err.Error()})
		return err
	}
	p.room = int(min(h.Buffer, 1<<40))
	if bytes, _ := p.log.waiting(); resumed && bytes == 0 {
		p.transmit(now, nil) // its answer is the acknowledgement that was lost
	}
	p.pump(now)
	return nil
}

// steer keeps the lag small once the backup executes. When it is, the next epoch
// is opened: the backup can do without us, and would not take long.
func (p *Primary) steer(now Time) {
	if !p.ready || !p.paired() {
		return
	}
	lag := p.log.lag()
	p.flow.control(now, lag, !p.holding, &p.cfg)
	if !p.holding && lag < p.cfg.LagStop/2 {
		p.holding = true // from here on outputs wait
		p.do(Record{[]event.Input{p.out.note(), event.Control{Op: event.Activate, Arg: uint64(p.owned + 1)}}})
	}
}

func (p *Primary) ack(now Time, a Ack) error {
	if !p.agreed || a.Echo > p.stamp {
		return fmt.Errorf("it acknowledges what was not sent: stamp %d", a.Echo)
	}
	moved, err := p.log.ack(a.Received, a.Executed)
	if err != nil {
		return err
	}
	if moved {
		p.progress.heard(now, p.cfg.MaxGap)
	}
	p.peer = a.Progress
	switch trip := now - a.Echo; {
	case a.Echo == 0: // of a stamp that it has not seen
	case p.trip == 0:
		p.trip = trip
	default:
		p.trip += (trip - p.trip) / 16
	}
	p.lease = max(p.lease, a.Echo+p.cfg.Lease)
	if p.dismiss != 0 && p.log.group.acked >= p.dismiss {
		p.forget()
		p.alone(now, "the backup is dismissed: "+p.why)
		return nil
	}
	if p.state == Syncing && p.opened && p.log.group.acked >= p.activate {
		p.change(Protected, "the backup can go on from entry %d", p.activate)
	}
	p.release(now)
	p.steer(now)
	p.ping(now)
	p.pump(now)
	return nil
}

// Tick is to be called at Deadline and, so that the detector runs, after the
// sockets were drained.
func (p *Primary) Tick(now Time) {
	if p.state == Claiming && now >= p.retryAt {
		p.ask()
	}
	if !p.paired() {
		return
	}
	p.tick(now)
	p.progress.run(now, p.cfg.MaxGap)
	if !p.ready || len(p.log.records) == 0 {
		p.progress.silence = 0 // nothing is asked of it
	}
	if p.judge(now); !p.paired() {
		return
	}
	p.steer(now)
	if p.opened && p.out.count > 0 && now >= p.out.since+p.cfg.ReleasedAfter {
		p.note(now)
	}
	p.pump(now)
	p.ping(now)
	p.release(now)
}

// Deadline is when Tick must be called at the latest.
func (p *Primary) Deadline() Time {
	if p.state == Claiming {
		return p.retryAt
	}
	switch {
	case !p.paired():
		return Never
	case !p.met: // so that the detector runs
		return p.life.last + p.cfg.BeatEvery
	}
	at := min(p.beats.next, p.doom(p.patience()))
	if _, since := p.log.waiting(); p.agreed && !p.blocked && since != Never {
		at = min(at, since+p.cfg.FlushAfter)
	}
	if p.opened && p.out.count > 0 {
		at = min(at, p.out.since+p.cfg.ReleasedAfter)
	}
	return at
}

// patience is how long the backup may be silent. Before it is ready nothing waits
// for it and nobody can claim, so a host that is busy loading it has more time.
func (p *Primary) patience() Time {
	if !p.holding {
		return p.cfg.Stall
	}
	return p.cfg.PrimaryTimeout
}

// judge decides whether the backup is lost.
func (p *Primary) judge(now Time) {
	why := p.verdict(p.patience())
	switch {
	case why != "":
	case p.progress.silence >= p.cfg.Stall:
		why = "alive, but it executes nothing"
	case !p.met && p.life.silence >= p.cfg.Stall:
		why = "connected, but it never said hello"
	}
	if why != "" {
		p.lost(now, why)
	}
}

// lost goes on without the backup: at once if it never could claim, otherwise
// when the claim is won. Until then it hears nothing from us and will take us for
// lost too, so that one of us wins if the other can't reach the arbiter.
func (p *Primary) lost(now Time, why string) {
	if !p.paired() {
		return
	}
	p.forget()
	if p.opened {
		p.change(Claiming, "backup lost: %s", why)
		p.ask()
		return
	}
	p.alone(now, "backup lost before it was activated: "+why)
}

// forget drops what is known of the backup and kept for it.
func (p *Primary) forget() {
	p.log, p.peer, p.blocked = window{}, Progress{}, false
	p.flow = flow{share: FullShare}
}

// Claimed reports the arbiter's answer to a Claim.
func (p *Primary) Claimed(now Time, epoch event.Epoch, o Outcome) {
	if p.state != Claiming || epoch != p.owned+1 {
		return
	}
	switch o {
	case Won:
		p.owned = epoch
		p.alone(now, "the claim is won")
	case Lost:
		why := "the claim is lost: another copy goes on"
		if p.leaving {
			why = switched
		}
		p.halt(why)
	default:
		p.putOff(now)
	}
}

// alone is where outputs need not wait: no other side can claim.
func (p *Primary) alone(now Time, why string) {
	p.bye(Bye{Why: Dismissed, Text: why})
	p.holding, p.opened, p.leaving, p.activate = false, false, false, 0
	p.parting, p.dismiss = false, 0
	p.change(Solo, "%s", why)
	p.release(now)
}

// Status is what the replica must heed and people want to know.
type Status struct {
	State State
	Epoch event.Epoch
	Wait  string // why the machine must not run now; empty if it may
	Share int    // of the CPU that the machine may use, in thousandths

	Lag      Time // execution lag
	Trip     Time // round trip of the channel, smoothed
	LogBytes int  // of entries that the backup has not executed
	Last     event.Seq
	Sent     event.Seq
	Acked    event.Seq
	Backup   Progress
	Held     int // outputs
	Released event.OutputID
}

// Status returns the present state. The machine may run while Wait is empty.
func (p *Primary) Status() Status {
	return Status{
		State: p.state, Epoch: p.owned, Wait: p.wait(), Share: p.flow.share,
		Lag: p.log.lag(), Trip: p.trip, LogBytes: p.log.bytes, Last: p.seq, Sent: p.log.sent, Acked: p.log.acked,
		Backup: p.peer, Held: len(p.out.queue), Released: p.out.released,
	}
}

func (p *Primary) wait() string {
	switch {
	case p.state == Off || p.state == Halted:
		return "this copy has ended"
	case p.leaving:
		return "the backup takes over"
	case p.log.bytes >= p.cfg.LogBuffer:
		return "the log buffer is full"
	case p.out.bytes >= p.cfg.OutputBuffer:
		return "the buffer of held outputs is full"
	case p.flow.stopped:
		return "the backup lags too far behind"
	}
	return ""
}
