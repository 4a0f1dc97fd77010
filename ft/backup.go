// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"errors"
	"fmt"

	"tandem/machine/event"
)

// Backup is the copy that executes the primary's log a little later and is ready
// to go on alone.
//
//	log   ─ Entries ─► [complete groups …][partial]
//	                     │ Apply          └ never executed
//	                     ▼
//	                   replica ─ Executed ─►
//
//	the primary is lost: the partial group is discarded
//	Executed, all        Draining  → Claiming   Claim(e)
//	Claimed: won         Claiming  → Fencing    Fence(e)
//	Fenced               Fencing   → Live       GoLive: re-issue, announce, Primary()
type Backup struct {
	side
	begun    bool      // it is known where the log begins
	start    event.Seq // the log begins after it
	step     event.Step
	received event.Seq
	complete event.Seq     // the last entry of the last complete group
	partial  []event.Entry // after it
	early    []event.Entry // complete groups, before the snapshot is loaded
	sizes    []int         // of the entries done.Executed+1 … received
	bytes    int           // their sum
	loaded   bool

	active   bool           // Activate(owned+1) is in a complete group
	released event.OutputID // Released, in complete groups
	powerOff event.Seq      // in a complete group, or 0
	diverged bool           // could not execute the log
	claimAt  Time           // and claims then, unless it had to drain the log

	done   Progress
	echo   Time // newest stamp received
	acked  Progress
	nextAt Time // an acknowledgement that reports execution may go out
}

// NewBackup returns a backup that may claim the epoch after owned once its
// primary, which owns that, has activated it.
func NewBackup(now Time, cfg Config, owned event.Epoch) (*Backup, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b := &Backup{side: side{cfg: cfg, role: RoleBackup, state: Receiving, owned: owned}}
	b.life.last = now
	return b, nil
}

// Connected reports a channel from the primary, at first or in place of a broken one.
func (b *Backup) Connected(now Time) {
	if !b.paired() {
		b.do(Hangup{})
		return
	}
	b.connected(now, b.received, b.step)
}

// Disconnected reports that the channel is broken, after all that came through it
// was handed over.
func (b *Backup) Disconnected(now Time) {
	if b.up = false; !b.paired() {
		return
	}
	if !b.active {
		b.lost("the channel broke")
		return
	}
	b.disconnected(now)
	b.judge()
}

// Unreachable reports that the primary's UDP port does not exist.
func (b *Backup) Unreachable(now Time) {
	if b.paired() {
		b.life.unreachable = true
		b.judge()
	}
}

// Receive hands over a message, as it came from the channel.
func (b *Backup) Receive(now Time, m Message) {
	if !b.paired() || !b.up {
		return
	}
	b.Heard(now)
	var err error
	switch m := m.(type) {
	case Hello:
		err = b.greet(m)
	case Begin:
		err = b.begin(m)
	case Entries:
		err = b.entries(now, m)
	case Bye:
		b.farewell(m)
	default:
		err = fmt.Errorf("the primary sent a %T", m)
	}
	if err != nil {
		b.Fail(now, err.Error())
	}
}

func (b *Backup) greet(h Hello) error {
	resumed := b.met
	err := b.agree(h)
	if err == nil && (h.Session == 0 || resumed && h.Session != b.session) {
		err = &RefusedError{"session", b.session, h.Session, "start a new backup"}
	}
	if err != nil {
		b.bye(Bye{Why: Refused, Text: err.Error()})
		return err
	}
	if resumed {
		return nil
	}
	b.session = h.Session
	return nil
}

func (b *Backup) begin(m Begin) error {
	if !b.agreed || b.begun {
		return errors.New("the primary began its log out of turn")
	}
	b.begun, b.start, b.step = true, m.Seq, m.Step
	b.received, b.complete = m.Seq, m.Seq
	b.done = Progress{Executed: m.Seq, Step: m.Step}
	b.acked = b.done
	return nil
}

// Loaded reports that the snapshot taken after entry seq at step is loaded, and which
// disks this copy reads itself. An
// error says that the log does not begin there; this copy has halted.
func (b *Backup) Loaded(now Time, seq event.Seq, step event.Step, reads Slots) error {
	if !b.paired() || b.loaded {
		return fmt.Errorf("snapshot loaded in state %s: %w", b.state, ErrState)
	}
	if !b.begun || seq != b.start || step != b.done.Step {
		err := fmt.Errorf("the snapshot was taken after entry %d at step %d, the log begins after entry %d at step %d",
			seq, step, b.start, b.done.Step)
		b.Fail(now, err.Error())
		return err
	}
	b.loaded = true
	if len(b.early) > 0 {
		b.do(Apply{b.early})
		b.early = nil
	}
	b.send(Ready{reads})
	return nil
}

// entries takes a part of the log. The acknowledgement comes first: outputs wait
// for it.
func (b *Backup) entries(now Time, m Entries) error {
	if !b.agreed || m.Stamp < b.echo || !b.begun {
		return errors.New("the primary's entries came out of turn")
	}
	b.echo = m.Stamp
	before := len(b.partial)
	for _, e := range m.Entries {
		if err := b.take(e); err != nil {
			return err
		}
	}
	groups, last, err := b.group(before)
	if err != nil {
		return err
	}
	b.ack(now)
	switch {
	case last == event.Dismiss:
		b.halt("dismissed by the primary")
		return nil
	case len(groups) == 0:
	case !b.loaded:
		b.early = append(b.early, groups...)
	default:
		b.do(Apply{groups})
	}
	if last == event.Switch {
		b.lost("it hands over")
	}
	return nil
}

func (b *Backup) take(e event.Entry) error {
	size := Size(e)
	switch {
	case e.Seq != b.received+1 || e.Step < b.step || e.Input == nil:
		return fmt.Errorf("entry %d at step %d came after entry %d at step %d", e.Seq, e.Step, b.received, b.step)
	case b.bytes > 0 && b.bytes+size > b.cfg.LogBuffer:
		return fmt.Errorf("the primary sent more than fits: %d bytes wait already", b.bytes)
	}
	b.received, b.step = e.Seq, e.Step
	b.sizes = append(b.sizes, size)
	b.bytes += size
	b.partial = append(b.partial, e)
	return nil
}

// group takes the complete groups from the head of partial, of which the entries
// up to seen were known before, and what they say to ft. last is the operation, if
// there is one, that makes these the last entries of a primary: Switch or Dismiss.
func (b *Backup) group(seen int) (groups []event.Entry, last event.ControlOp, err error) {
	end := 0
	for i, e := range b.partial[seen:] {
		if e.GoLive {
			end = seen + i + 1
		}
	}
	groups, b.partial = b.partial[:end:end], append([]event.Entry(nil), b.partial[end:]...)
	for _, e := range groups {
		b.complete = e.Seq
		switch in := e.Input.(type) {
		case event.Released:
			b.released = max(b.released, in.Last)
		case event.Control:
			if err := b.control(e.Seq, in); err != nil {
				return nil, 0, err
			}
			if in.Op == event.Switch || in.Op == event.Dismiss {
				last = in.Op
			}
		}
	}
	return groups, last, nil
}

func (b *Backup) control(seq event.Seq, c event.Control) error {
	switch c.Op {
	case event.PowerOff:
		b.powerOff = seq
	case event.Activate:
		if !b.loaded || b.active || c.Arg != uint64(b.owned+1) {
			return fmt.Errorf("entry %d opens epoch %d for a backup that waits for epoch %d", seq, c.Arg, b.owned+1)
		}
		b.active = true
		b.change(Replaying, "this copy may claim epoch %d", c.Arg)
	case event.Switch, event.Dismiss:
		if !b.active || c.Arg != uint64(b.owned+1) {
			return fmt.Errorf("entry %d hands over or takes back epoch %d, this copy could claim %d", seq, c.Arg, b.owned+1)
		}
	}
	return nil
}

func (b *Backup) ack(now Time) {
	b.acked, b.nextAt = b.done, now+b.cfg.AckEvery
	b.send(Ack{Received: b.received, Progress: b.done, Echo: b.echo})
}

// Executed reports how far the machine has come, and whether it has exited there.
func (b *Backup) Executed(now Time, done Progress, exited bool) error {
	if b.state == Halted || b.state == Off {
		return nil
	}
	if !b.loaded || done.Executed < b.done.Executed || done.Executed > b.complete || done.Disk < b.done.Disk {
		err := fmt.Errorf("entry %d executed, disk operations up to output %d done: %d and %d were before, and entry %d is the last that can be",
			done.Executed, done.Disk, b.done.Executed, b.done.Disk, b.complete)
		b.Fail(now, err.Error())
		return err
	}
	n := int(done.Executed - b.done.Executed)
	for _, size := range b.sizes[:n] {
		b.bytes -= size
	}
	b.sizes, b.done = b.sizes[n:], done
	switch {
	case exited || b.powerOff != 0 && done.Executed >= b.powerOff:
		if b.agreed {
			b.ack(now)
		}
		b.bye(Bye{Why: Ended})
		b.change(Off, "the VM has ended")
	case b.state == Draining:
		b.drained()
	case b.paired() && b.agreed && now >= b.reportAt():
		b.ack(now)
	}
	return nil
}

// reportAt is when an acknowledgement that only reports progress may leave. A guest's
// flush or write may wait for what the disk has done here, so that goes sooner.
func (b *Backup) reportAt() Time {
	if b.done.Disk != b.acked.Disk {
		return b.nextAt - b.cfg.AckEvery + min(b.cfg.FlushAfter, b.cfg.AckEvery)
	}
	return b.nextAt
}

// Diverged reports that the machine has come as far as done, has emitted outputs up
// to last, and differs from the log at entry seq. The primary is told, and goes on
// alone: it claims at once. With the primary gone the policy decides, unless the rest
// of the log ends the VM.
//
// A primary that is thought to be alive may be dead all the same. So a backup that
// could go on claims too, after the primary has had its time, and halts as it loses.
func (b *Backup) Diverged(now Time, done Progress, last event.OutputID, seq event.Seq, what string) {
	bye := Bye{Why: Diverged, Seq: seq, Text: what}
	switch {
	case b.state == Receiving:
		b.bye(bye)
		b.halt("diverged from the primary: " + what)
	case b.state != Replaying && b.state != Draining || b.diverged:
	case b.powerOff != 0:
		b.bye(Bye{Why: Ended})
		b.change(Off, "the VM has ended")
	default:
		paired := b.paired()
		b.done, b.complete = done, done.Executed // the rest of the log is not for this state
		b.diverged, b.partial = true, nil
		b.released = min(b.released, last)
		if !paired {
			b.claim("diverged from the lost primary's log: " + what)
			return
		}
		b.bye(bye)
		b.claimAt = now + 2*b.cfg.Timeout
		b.change(Draining, "diverged from the primary, which goes on if it is alive: %s", what)
	}
}

// Fail ends this copy because something that it depends on has failed. It costs
// the backup, not the VM.
func (b *Backup) Fail(now Time, why string) {
	if b.state == Off || b.state == Halted {
		return
	}
	b.bye(Bye{Why: Failed, Text: why})
	b.halt(why)
}

func (b *Backup) halt(why string) {
	b.hangup()
	b.partial, b.early, b.sizes, b.bytes = nil, nil, nil, 0
	b.change(Halted, "%s", why)
}

// Tick is to be called at Deadline and, so that the detector runs, after the
// sockets were drained.
func (b *Backup) Tick(now Time) {
	switch {
	case (b.state == Claiming || b.state == Fencing) && now >= b.retryAt:
		b.ask()
	case b.state == Draining && b.diverged && now >= b.claimAt:
		b.claim("the primary has had its time")
	}
	if !b.paired() {
		return
	}
	b.tick(now)
	if b.judge(); !b.paired() {
		return
	}
	if b.agreed && b.acked != b.done && now >= b.reportAt() {
		b.ack(now)
	}
}

// Deadline is when Tick must be called at the latest.
func (b *Backup) Deadline() Time {
	switch {
	case b.state == Claiming || b.state == Fencing:
		return b.retryAt
	case b.state == Draining && b.diverged:
		return b.claimAt
	case !b.paired() || !b.met:
		return Never
	}
	at := min(b.beats.next, b.doom(b.patience()))
	if b.agreed && b.acked != b.done {
		at = min(at, b.reportAt())
	}
	return at
}

// patience is how long the primary may be silent; see Primary.patience. Once the
// snapshot is loaded the primary holds outputs for us.
func (b *Backup) patience() Time {
	if !b.active && !b.loaded {
		return b.cfg.Stall
	}
	return b.cfg.Timeout
}

// judge decides whether the primary is lost. A silent one may be alive and hold a
// lease for Timeout after this side last heard of it, not longer.
func (b *Backup) judge() {
	if why := b.verdict(b.patience()); why != "" {
		b.lost(why)
	}
}

// farewell ends a pair that the primary has left. Having left, it releases
// nothing, so nobody need wait.
func (b *Backup) farewell(m Bye) {
	switch m.Why {
	case Dismissed, Refused:
		b.halt(fmt.Sprintf("%s by the primary: %s", m.Why, m.Text))
	default:
		b.lost(fmt.Sprintf("it left: %s: %s", m.Why, m.Text))
	}
}

// lost leaves the primary behind for good: what is complete in the log is
// executed, the rest never happened.
func (b *Backup) lost(why string) {
	if !b.active {
		b.halt("primary lost before this copy could go on: " + why)
		return
	}
	b.hangup()
	for range b.partial {
		b.bytes -= b.sizes[len(b.sizes)-1]
		b.sizes = b.sizes[:len(b.sizes)-1]
	}
	b.partial, b.received = nil, b.complete
	b.change(Draining, "primary lost: %s", why)
	b.drained()
}

func (b *Backup) drained() {
	if b.done.Executed == b.complete {
		b.claim("the log is executed")
	}
}

func (b *Backup) claim(why string) {
	b.change(Claiming, "%s", why)
	b.ask()
}

// Claimed reports the arbiter's answer to a Claim.
func (b *Backup) Claimed(now Time, epoch event.Epoch, o Outcome) {
	if b.state != Claiming || epoch != b.owned+1 {
		return
	}
	switch o {
	case Won:
		b.owned, b.retryAfter = epoch, 0
		b.change(Fencing, "the claim is won")
		b.ask()
	case Lost:
		b.halt("the claim is lost: another copy goes on")
	default:
		b.putOff(now)
	}
}

// Fenced reports the outcome of a Fence; after an error it is tried again, and
// nothing leaves this copy before it has succeeded.
func (b *Backup) Fenced(now Time, epoch event.Epoch, err error) {
	switch {
	case b.state != Fencing || epoch != b.owned:
	case err != nil:
		b.putOff(now)
	default:
		b.change(Live, "older epochs are fenced")
		b.do(GoLive{Epoch: b.owned, Seq: b.complete, Released: b.released, Diverged: b.diverged, Restart: b.restart()})
	}
}

func (b *Backup) restart() bool { return b.diverged && b.cfg.OnDivergence == RestartOnDivergence }

// Primary returns what a backup that is Live has become. Outputs that are not
// known to have left are then held, and leave at once.
func (b *Backup) Primary(now Time) (*Primary, error) {
	if b.state != Live {
		return nil, fmt.Errorf("become the primary in state %s: %w", b.state, ErrState)
	}
	if b.restart() {
		return NewPrimary(now, b.cfg, b.owned, b.complete, 0, 0)
	}
	return NewPrimary(now, b.cfg, b.owned, b.complete, b.done.Step, b.released)
}

// Status returns the present state.
func (b *Backup) Status() Status {
	return Status{State: b.state, Epoch: b.owned, Share: FullShare, LogBytes: b.bytes,
		Last: b.received, Sent: b.received, Acked: b.complete, Backup: b.done, Released: b.released}
}
