// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/replay"
)

// turnBackup executes what the log allows.
func (r *Replica) turnBackup() (next ft.Time) {
	r.b.Tick(r.now)
	r.act()
	r.pollDisks()
	r.act()
	if r.rep == nil || !r.follower.told || r.spoiled || r.done != nil || r.p != nil {
		return r.deadline()
	}
	r.beginOperations()
	if r.done != nil || r.b.State() == ft.Halted {
		return r.deadline()
	}
	var wait replay.Wait
	var err error
	r.execute(func(steps event.Step) bool {
		wait, err = r.rep.Advance(steps)
		return wait == replay.WaitBudget && err == nil
	})
	r.keepOutputs()
	if err != nil {
		r.diverged(err)
		r.act()
		return r.deadline()
	}
	retry := r.beginOperations()
	_, exited := r.m.Exited()
	if err := r.b.Executed(r.now, r.progress(), exited); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
	r.act()
	if wait == replay.WaitBudget {
		return r.now
	}
	return min(retry, r.deadline())
}

func (r *Replica) deadline() ft.Time {
	switch {
	case r.done != nil || r.p != nil:
		return r.now
	case r.b != nil:
		return r.b.Deadline()
	}
	return ft.Never
}

// keepOutputs keeps the external outputs until the primary says that they left.
func (r *Replica) keepOutputs() {
	for _, o := range r.rep.Outputs() {
		if f, ok := o.Body.(event.FrameOut); ok {
			r.announcer.learn(f)
		}
		if q, ok := o.Body.(event.DiskRequest); ok {
			r.follower.mirror(q, o.ID)
		}
		if o.External() {
			r.held = append(r.held, heldOutput{o, r.now})
		}
	}
}

// applied sees each entry after it was applied.
func (r *Replica) applied(e event.Entry) {
	switch in := e.Input.(type) {
	case event.Released:
		r.keepOutputs()
		n := 0
		for n < len(r.held) && r.held[n].ID <= in.Last {
			r.held[n] = heldOutput{}
			n++
		}
		r.held = r.held[n:]
	case event.Clock:
		r.pace.follow(r.m, r.clock())
	case event.Control:
		r.heed(in)
	case event.Medium:
		r.noteMedium(in)
	case event.DiskDone:
		r.keepOutputs() // it may have been asked for in this very slice
		r.follower.settled(in)
	}
}

// diverged reports that this copy is no longer the same machine.
func (r *Replica) diverged(err error) {
	r.spoiled = true
	done := r.progress()
	seq := done.Executed
	if d := (*replay.Divergence)(nil); errors.As(err, &d) {
		seq = d.Seq
	}
	r.report(Event{Kind: Diverged, Seq: seq, Text: err.Error()})
	r.b.Diverged(r.now, done, r.rep.LastOutput(), seq, err.Error())
}

// goLive makes this copy the VM (design §5, rule 4): the log is drained, the
// claim won and the devices are open in the new epoch.
func (r *Replica) goLive(a ft.GoLive) {
	p, err := r.b.Primary(r.now)
	if err == nil {
		r.p, r.b = p, nil
		err = r.takeOver(a)
	}
	if err != nil {
		r.done = fmt.Errorf("%w: go live: %w", ErrHalted, err)
		return
	}
	r.rep, r.follower.reads = nil, 0
	r.stats.Failovers++
	r.resumeMoving()
	r.beginAnnouncing()
	if r.w.Channel != nil && !r.w.Channel.Welcome() {
		r.report(Event{Kind: Trouble, Text: "this copy has no address at which a new backup could reach it: the VM stays unprotected; start backups with --listen"})
	}
	if !a.Restart {
		r.pace.resume(r.m, r.now)
		r.repeat(a.Seq, a.Released)
		r.reissue()
		_, ended := r.m.Exited()
		r.idle = !ended // the first thing it learns is the time
		r.wake(true)
	}
	r.report(Event{Kind: WentLive, Epoch: a.Epoch, Seq: a.Seq})
}

// takeOver makes the Recorder that goes on with the log.
func (r *Replica) takeOver(a ft.GoLive) (err error) {
	switch {
	case a.Restart:
		return r.boot(a)
	case a.Diverged:
		r.report(Event{Kind: Trouble, Epoch: a.Epoch, Seq: a.Seq, Text: "this copy has diverged and goes on all the same (on-divergence=continue): " +
			"look after the VM's data, which may not be what clients were told"})
		r.rec, err = r.rep.Abandon(r.append)
	default:
		r.rec, err = r.rep.GoLive(r.append)
	}
	return err
}

// boot starts the VM from its disk, in place of a copy that has diverged (design
// §1). It is the same computer, cut off from power and switched on: what the lost
// primary was told to be on the disk is there. Seq goes on. Step, outputs and what
// follows from them begin anew: whoever counts them (a Replayer, a client of the
// status) begins with this log.
func (r *Replica) boot(a ft.GoLive) error {
	cfg := r.m.Config()
	cfg.Wall, cfg.Console = r.w.Clock.Wall(), machine.ConsoleStart(a.Epoch)
	cfg.Seed = make([]byte, len(cfg.Seed))
	r.w.Entropy.Fill(cfg.Seed)
	r.m = nil // nothing touches its memory any more
	blank(r.ram)
	m, err := machine.New(cfg, r.ram)
	if err == nil && r.w.Engine != nil {
		err = r.w.Engine(m)
	}
	if err != nil {
		return fmt.Errorf("boot the VM again: %w", err)
	}
	r.m, r.held, r.entropy, r.idle = m, nil, nil, false
	r.announcer.known = nil
	r.follower.operations, r.follower.strays = nil, nil
	r.idBase += 1 << 40 // what was begun on a disk of our own is not the new machine's
	r.rec = replay.NewRecorder(m, a.Seq, 0, r.append)
	r.pace.start(m, r.now)
	r.report(Event{Kind: Restarted, Epoch: a.Epoch, Seq: a.Seq,
		Text: "this copy had diverged from the log of the lost primary: the VM boots from its disk (on-divergence=restart)"})
	return nil
}

// blank zeroes memory, and leaves alone what is zero: it may not exist yet.
func blank(b []byte) {
	var zero [4096]byte
	for ; len(b) > 0; b = b[min(len(b), len(zero)):] {
		if page := b[:min(len(b), len(zero))]; !bytes.Equal(page, zero[:len(page)]) {
			clear(page)
		}
	}
}

// repeat emits again what is not known to have left. Disk operations are not
// among it: those still outstanding are re-issued, the others are done.
func (r *Replica) repeat(mark event.Seq, released event.OutputID) {
	held := r.held
	r.held = nil
	for _, o := range held {
		if _, disk := o.Body.(event.DiskRequest); !disk && o.ID > released {
			r.held = append(r.held, o)
			r.hold(o.Output, mark)
		}
	}
	r.act()
}
