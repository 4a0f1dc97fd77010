// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"

	"tandem/machine/event"
)

// Replayer runs a backup. Feed takes the log as it arrives; Advance executes in
// slices, and never past the last entry of the last complete group (§2.1): only
// then is it known that the primary took no input before that step.
//
//	Feed ──► queue: [group][group][part of a group]
//	             ▲ Advance ends here ┘
//
// The first error of Feed or Advance is final.
type Replayer struct {
	cursor
	// Ready, if set, is asked before an entry is applied. It returns the input to
	// apply: the entry's own, or a DiskDone completed with the payload that was
	// read from the backup's own disk (§4.2). False makes Advance return
	// WaitReady; it is asked again by the next Advance.
	Ready func(event.Entry) (event.Input, bool)
	// Applied, if set, is told of each entry that was applied, as the log has it.
	Applied func(event.Entry)

	queue    []event.Entry // fed, not applied
	complete int           // of queue, up to the last end of a group
	fed      event.Entry   // the last one
	err      error
}

// Wait is why Advance came back without an error.
type Wait uint8

const (
	WaitBudget  Wait = iota // the steps are used up; call again
	WaitEntries             // all complete groups are applied; feed more
	WaitReady               // Ready said no
)

// ErrOrder is wrapped by the errors of a log whose entries do not follow each other.
var ErrOrder = errors.New("log out of order")

// NewReplayer returns a Replayer of a machine whose log has come to entry last
// and which has emitted the outputs up to and including output; both are 0 for a
// new machine.
func NewReplayer(m Machine, last event.Seq, output event.OutputID) *Replayer {
	return &Replayer{
		cursor: cursor{m: m, seq: last, output: output},
		fed:    event.Entry{Seq: last, Step: m.Step()},
	}
}

// Feed appends entries to what is to be replayed. The Replayer keeps them until
// they are applied, and bounds nothing: flow control is its caller's.
func (r *Replayer) Feed(entries ...event.Entry) error {
	for _, e := range entries {
		if r.err != nil {
			break
		}
		if err := r.follows(e); err != nil {
			r.err = err
			break
		}
		r.queue = append(r.queue, e)
		r.fed = event.Entry{Seq: e.Seq, Step: e.Step}
		if e.GoLive {
			r.complete = len(r.queue)
		}
	}
	return r.err
}

func (r *Replayer) follows(e event.Entry) error {
	switch {
	case e.Input == nil:
		return fmt.Errorf("%w: entry %d is empty", ErrOrder, e.Seq)
	case e.Seq != r.fed.Seq+1:
		return fmt.Errorf("%w: entry %d came after entry %d", ErrOrder, e.Seq, r.fed.Seq)
	case e.Step < r.fed.Step:
		return fmt.Errorf("%w: entry %d is at step %d, the log had come to step %d", ErrOrder, e.Seq, e.Step, r.fed.Step)
	}
	return nil
}

// Fed returns the number and step of the last entry fed, complete or not.
func (r *Replayer) Fed() (event.Seq, event.Step) { return r.fed.Seq, r.fed.Step }

// Pending returns how many entries wait in complete groups, and how many of an
// incomplete group lie behind them.
func (r *Replayer) Pending() (complete, partial int) {
	return r.complete, len(r.queue) - r.complete
}

// Advance executes at most budget steps, applying the entries on the way.
func (r *Replayer) Advance(budget event.Step) (Wait, error) {
	if r.err != nil {
		return WaitBudget, r.err
	}
	end := r.m.Step() + budget
	if end < budget {
		end = ^event.Step(0)
	}
	for r.complete > 0 {
		wait, done, err := r.advance(r.queue[0], end)
		if err != nil {
			r.err = err
			return wait, err
		}
		if !done {
			return wait, nil
		}
	}
	return WaitEntries, nil
}

// advance brings the machine to e and applies it, or reports what to wait for.
func (r *Replayer) advance(e event.Entry, end event.Step) (wait Wait, done bool, err error) {
	if err := r.reach(e, min(e.Step, end)); err != nil {
		return WaitBudget, false, err
	}
	if r.m.Step() < e.Step {
		return WaitBudget, false, nil
	}
	in := e.Input
	if r.Ready != nil {
		ready := false
		if in, ready = r.Ready(e); !ready {
			return WaitReady, false, nil
		}
	} else if d, ok := in.(event.DiskDone); ok && d.FromDisk {
		return WaitBudget, false, fmt.Errorf("replay entry %d: the payload of a read is not in the log but on the "+
			"backup's disk; record with reads=log to replay without it", e.Seq)
	}
	if err := r.apply(e, in); err != nil {
		return WaitBudget, false, r.asDivergence(e, err)
	}
	r.pop()
	if r.Applied != nil {
		r.Applied(e)
	}
	return WaitBudget, true, nil
}

// reach runs the machine to step target, which is not past the next entry e.
func (r *Replayer) reach(e event.Entry, target event.Step) error {
	for {
		if err := r.checkMark(e); err != nil {
			return err
		}
		before := r.m.Step()
		if before == target {
			return nil
		}
		stop := r.m.Run(target)
		emitted := r.output
		if err := r.collect(); err != nil {
			return err
		}
		after := r.m.Step()
		switch {
		case after > target || after < before:
			return r.diverged(e.Seq, PlaceStep, fmt.Sprintf("a run to step %d", target), fmt.Sprintf("step %d", after))
		case after == before && r.output == emitted:
			return r.diverged(e.Seq, PlaceStep, "running on to step "+fmt.Sprint(e.Step), stop.String())
		}
	}
}

// checkMark holds the next entry to be the mark of what was emitted.
func (r *Replayer) checkMark(e event.Entry) error {
	if !r.unmarked || e.Input.Kind() == event.KindOutputMark && e.Step == r.m.Step() {
		return nil
	}
	return r.diverged(e.Seq, PlaceOutput, "no output before "+Text(e), fmt.Sprintf("output %d", r.output))
}

// asDivergence turns a refusal into a divergence: the primary's machine took
// this input at this step.
func (r *Replayer) asDivergence(e event.Entry, err error) error {
	if d := (*Divergence)(nil); errors.As(err, &d) {
		return err
	}
	return r.diverged(e.Seq, PlaceInput, Text(e), err.Error())
}

func (r *Replayer) pop() {
	r.queue[0] = event.Entry{} // its payload is garbage now
	r.queue = r.queue[1:]
	r.complete--
}

// GoLive ends the replay and returns the Recorder that goes on from here. The
// entries of an incomplete group are discarded; their numbers are used again,
// under a new epoch. It fails while complete groups are left to apply, and
// always after an error: a diverged backup must not go live.
func (r *Replayer) GoLive(sink func(event.Entry)) (*Recorder, error) {
	if r.err != nil {
		return nil, fmt.Errorf("go live: %w", r.err)
	}
	if r.complete > 0 {
		return nil, fmt.Errorf("go live: %d entries are not replayed yet", r.complete)
	}
	return r.end(sink)
}

// Abandon is GoLive for a copy that has diverged and is to go on all the same, for
// there is no other: what is left of the log is not for this machine.
func (r *Replayer) Abandon(sink func(event.Entry)) (*Recorder, error) {
	if d := (*Divergence)(nil); !errors.As(r.err, &d) {
		return nil, errors.New("abandon the log: this copy has not diverged from it")
	}
	return r.end(sink)
}

func (r *Replayer) end(sink func(event.Entry)) (*Recorder, error) {
	rec := &Recorder{cursor: r.cursor, sink: sink}
	r.queue, r.complete = nil, 0
	r.err = errors.New("replay has ended: this copy went live")
	return rec, rec.mark() // the dead primary's mark may not have arrived
}
