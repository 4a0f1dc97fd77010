// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"

	"tandem/machine/event"
)

// Recorder runs the primary and writes its log. All that changes the machine
// goes through it: inputs by Record, steps by Run.
//
// An external output is followed at once, at its step, by an OutputMark entry,
// which the Recorder writes by itself. So the log says of each external output
// where it was emitted, and the next entry of a replay must be that mark.
type Recorder struct {
	cursor
	sink func(event.Entry)
	open bool // the last entry did not end its group
}

// NewRecorder returns a Recorder of a machine whose log has come to entry last
// and which has emitted the outputs up to and including output; both are 0 for a
// new machine. sink gets each entry as it is made; it must not call the Recorder.
func NewRecorder(m Machine, last event.Seq, output event.OutputID, sink func(event.Entry)) *Recorder {
	return &Recorder{cursor: cursor{m: m, seq: last, output: output}, sink: sink}
}

// Record applies an input at the current step and logs it. goLive says that it
// ends its group. An input that the machine refuses is not logged, and its error
// is returned. The payload of a DiskDone that is FromDisk is applied but not
// logged.
func (r *Recorder) Record(in event.Input, goLive bool) error {
	e := event.Entry{Seq: r.seq + 1, Step: r.m.Step(), GoLive: goLive, Input: in}
	switch in := in.(type) {
	case nil:
		return errors.New("record: no input")
	case event.OutputMark, event.Hash:
		return fmt.Errorf("record: a %s entry is made by the Recorder itself", kindName(in.Kind()))
	case event.DiskDone:
		if in.FromDisk {
			logged := in
			logged.Data = nil
			e.Input = logged
		}
	}
	if err := check(e); err != nil {
		return fmt.Errorf("record %s: %w", Text(e), err)
	}
	err := r.apply(e, in)
	if r.seq != e.Seq {
		return fmt.Errorf("record %s: %w", Text(e), err)
	}
	r.log(e)
	return errors.Join(err, r.mark())
}

// RecordHash logs the machine's hash, for the backup to compare.
func (r *Recorder) RecordHash(goLive bool) {
	e := event.Entry{Seq: r.seq + 1, Step: r.m.Step(), GoLive: goLive, Input: r.m.Hash(r.seq + 1)}
	r.done(e)
	r.log(e)
}

// Run executes to limit at most, and marks what was emitted.
func (r *Recorder) Run(limit event.Step) (event.Stop, error) {
	stop := r.m.Run(limit)
	if err := r.collect(); err != nil {
		return stop, err
	}
	return stop, r.mark()
}

// mark logs the outputs emitted. It ends a group unless one is open: what was
// emitted while a group is applied belongs to it.
func (r *Recorder) mark() error {
	if !r.unmarked {
		return nil
	}
	in := event.OutputMark{Last: r.output}
	e := event.Entry{Seq: r.seq + 1, Step: r.m.Step(), GoLive: !r.open, Input: in}
	if err := r.apply(e, in); err != nil {
		return err
	}
	r.log(e)
	return nil
}

func (r *Recorder) log(e event.Entry) {
	r.open = !e.GoLive
	r.sink(e)
}
