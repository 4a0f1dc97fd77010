// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/replay"
)

// turnBackup executes what the log allows.
func (r *Replica) turnBackup() (next ft.Time) {
	r.b.Tick(r.now)
	r.act()
	if r.rep == nil || r.done != nil || r.p != nil {
		return r.deadline()
	}
	wait, err := r.rep.Advance(r.cfg.Slice)
	r.keepOutputs()
	if err != nil {
		r.diverged(err)
		r.act()
		return r.deadline()
	}
	seq, step := r.rep.Executed()
	_, exited := r.m.Exited()
	if err := r.b.Executed(r.now, ft.Progress{Executed: seq, Step: step, Reads: seq}, exited); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
	r.act()
	if wait == replay.WaitBudget {
		return r.now
	}
	return r.deadline()
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
	}
}

// diverged reports that this copy is no longer the same machine.
func (r *Replica) diverged(err error) {
	seq, _ := r.rep.Executed()
	if d := (*replay.Divergence)(nil); errors.As(err, &d) {
		seq = d.Seq
	}
	r.report(Event{Kind: Trouble, Seq: seq, Text: err.Error()})
	r.b.Diverged(r.now, seq, err.Error())
}

// goLive makes this copy the VM (design §5, rule 4): the log is drained, the
// claim won and the devices are open in the new epoch.
func (r *Replica) goLive(a ft.GoLive) {
	if a.Restart {
		r.report(Event{Kind: Trouble, Text: "this copy has diverged: boot the VM from its disk"})
		r.done = fmt.Errorf("%w: it diverged while it drained the log of a lost primary", ErrHalted)
		return
	}
	p, err := r.b.Primary(r.now)
	if err == nil {
		r.p, r.b = p, nil
		r.rec, err = r.rep.GoLive(r.append)
	}
	if err != nil {
		r.done = fmt.Errorf("%w: go live: %w", ErrHalted, err)
		return
	}
	r.rep = nil
	r.stats.Failovers++
	r.pace.resume(r.m, r.now)
	r.beginAnnouncing()
	r.repeat(a.Seq, a.Released)
	r.reissue()
	_, ended := r.m.Exited()
	r.idle = !ended // the first thing it learns is the time
	r.wake(true)
	r.report(Event{Kind: WentLive, Epoch: a.Epoch, Seq: a.Seq})
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
