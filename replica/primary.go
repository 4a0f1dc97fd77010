// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/world"
)

// maxConsoleBytes bounds what is typed in one entry.
const maxConsoleBytes = 4096

// turnPrimary runs the protocol, takes inputs and runs the machine.
func (r *Replica) turnPrimary() (next ft.Time) {
	r.p.Tick(r.now)
	r.act()
	if r.done != nil {
		return r.now
	}
	if err := r.fencedOut(); err != nil {
		if !r.p.Leaving() {
			r.report(Event{Kind: Trouble, Text: err.Error()})
		}
		r.p.Fenced(r.now, err.Error())
		return r.now
	}
	r.confirmDisks()
	r.expire()
	r.handOver()
	r.announce()
	still, due := r.sendClone()
	r.countWait()
	switch {
	case r.done != nil:
		return r.now
	case still || r.p.Status().Wait != "":
		return min(due, r.p.Deadline()) // an acknowledgement wakes it
	case r.failures.stopped: // until the operator has seen to a disk
		return min(due, r.p.Deadline())
	case r.now < r.resumeAt:
		return min(due, r.resumeAt, r.p.Deadline())
	}
	r.takeInputs()
	r.act()
	switch {
	case r.quiescing(): // completions and acknowledgements wake it
		return min(due, r.now+ft.Millisecond)
	case r.done == nil && !r.idle && r.p.Status().Wait == "":
		r.runSlice()
	}
	return min(due, r.nextTurn())
}

// wait is why the machine waits for the backup, and since when that was counted.
type wait struct {
	why   string
	since ft.Time
}

// countWait adds up the time in which the machine must wait for the backup.
func (r *Replica) countWait() {
	why := ""
	if s := r.p.Status(); s.State == ft.Syncing || s.State == ft.Protected {
		why = s.Wait
	}
	if r.wait.why != "" {
		if r.stats.Waited == nil {
			r.stats.Waited = map[string]ft.Time{}
		}
		r.stats.Waited[r.wait.why] += r.now - r.wait.since
		r.stats.WaitTime += r.now - r.wait.since
	} else if why != "" {
		r.stats.Waits++
	}
	r.wait = wait{why, r.now}
}

// nextTurn is when there is something to do again if nothing arrives.
func (r *Replica) nextTurn() ft.Time {
	if !r.idle || r.typable() > 0 || r.moreFrames || r.unblocked() {
		return max(r.now, r.resumeAt)
	}
	next := min(r.p.Deadline(), r.announcer.next)
	if t, ok := r.m.NextTimer(); ok {
		next = min(next, r.pace.hostTime(t))
	}
	return next
}

// unblocked reports whether a driver has made room for frames that may wait.
func (r *Replica) unblocked() bool {
	for slot := event.DeviceID(0); r.blocked>>slot != 0; slot++ {
		if r.blocked>>slot&1 != 0 && !r.m.FramesWait(slot) {
			return true
		}
	}
	return false
}

// fencedOut notices that a newer epoch has shut this copy out of its devices.
func (r *Replica) fencedOut() error {
	for i, d := range r.devices.Disks {
		if d != nil && d.Fenced() {
			return fmt.Errorf("the disk in slot %d is fenced: another copy of the VM went live", i)
		}
	}
	for i, n := range r.devices.Networks {
		if n != nil && n.Fenced() {
			return fmt.Errorf("the network in slot %d is fenced: another copy of the VM went live", i)
		}
	}
	return nil
}

// record writes an entry at the step that the machine has reached, and takes
// what it emits.
func (r *Replica) record(in event.Input) {
	if r.done != nil {
		return
	}
	if err := r.rec.Record(in, true); err != nil {
		r.fail(fmt.Errorf("record %T: %w", in, err))
		return
	}
	r.collect()
}

// append is the Recorder's sink.
func (r *Replica) append(e event.Entry) {
	r.stats.Entries++
	if r.cfg.Sink != nil && r.sinkErr == nil {
		if r.sinkErr = r.cfg.Sink(e); r.sinkErr != nil {
			r.report(Event{Kind: Trouble, Text: "recording stopped: " + r.sinkErr.Error()})
		}
	}
	if c, ok := e.Input.(event.Control); ok {
		r.heed(c)
	}
	if r.p != nil {
		if err := r.p.Append(r.now, e); err != nil {
			r.report(Event{Kind: Trouble, Text: err.Error()})
		}
	}
}

// takeInputs records what arrived for the machine. One that waits is told the
// time first.
func (r *Replica) takeInputs() {
	r.wake(r.timerDue())
	for _, done := range r.follower.finished {
		if !r.keepsError(done) {
			r.complete(done)
		}
	}
	r.follower.finished = nil
	for slot, d := range r.devices.Disks {
		for d != nil && r.done == nil {
			done, ok := d.Poll()
			if !ok {
				break
			}
			done.Device = event.DeviceID(slot)
			r.completed(done)
		}
	}
	r.moreFrames, r.blocked = false, 0
	for slot, n := range r.devices.Networks {
		if n != nil {
			r.followLink(event.DeviceID(slot), n)
			r.takeFrames(event.DeviceID(slot), n)
		}
	}
	r.takeTyped()
	r.answerEntropy()
	r.tellTime()
}

func (r *Replica) timerDue() bool {
	t, ok := r.m.NextTimer()
	return r.idle && ok && r.now >= r.pace.hostTime(t)
}

// wake ends the machine's wait: before anything else it learns the time.
func (r *Replica) wake(due bool) {
	if due && r.idle {
		r.idle = false
		r.record(r.pace.wake(r.m, r.now))
	}
}

// tellTime writes the entry that keeps a busy guest's clock, and so the backup,
// going: at least every 2 ms.
func (r *Replica) tellTime() {
	if !r.idle && r.pace.due(r.m, r.now) {
		r.record(r.pace.tick(r.m, r.now))
	}
}

// takeTyped hands on what was typed as far as the guest has room: what it doesn't
// read yet waits here and in the terminal.
func (r *Replica) takeTyped() {
	if len(r.typed) == 0 {
		r.typed = r.w.Terminal.Read()
	}
	if n := r.typable(); n > 0 {
		r.wake(true)
		r.record(event.ConsoleIn{Device: r.cfg.Console, Data: r.typed[:n]})
		r.typed = r.typed[n:]
	}
}

// typable is how much of what was typed the guest can be given at once.
func (r *Replica) typable() int {
	return min(len(r.typed), maxConsoleBytes, r.m.ConsoleRoom(r.cfg.Console))
}

// followLink tells the guest that the cable was plugged in or pulled.
func (r *Replica) followLink(slot event.DeviceID, n world.Network) {
	if up := n.Up(); up != r.m.LinkUp(slot) {
		r.wake(true)
		r.record(event.Control{Op: event.Link, Arg: event.LinkArg(slot, up)})
	}
}

// takeFrames hands on what the guest's driver has room for. The rest stays with the
// network, whose queue is longer than the device's and drops later.
func (r *Replica) takeFrames(slot event.DeviceID, n world.Network) {
	if r.m.FramesWait(slot) {
		r.blocked |= 1 << slot
		return
	}
	var frames []event.Frame
	size := 0
	for len(frames) < maxFramesPerEntry && size < maxFrameBytes {
		f, ok := n.Recv()
		if !ok {
			break
		}
		frames = append(frames, f)
		size += len(f.Data)
	}
	r.moreFrames = r.moreFrames || len(frames) == maxFramesPerEntry || size >= maxFrameBytes
	mark := n.Mark()
	for frames = r.fit(slot, frames); len(frames) > 0; {
		n := min(len(frames), maxFramesPerEntry)
		r.wake(true)
		r.record(event.Frames{Device: slot, Frames: frames[:n:n]})
		frames = frames[n:]
	}
	if size > 0 {
		seq, _ := r.rec.Executed()
		r.received = append(r.received, received{slot, mark, seq})
	}
}

// received says which entry was the last when frames up to a mark were taken.
type received struct {
	slot event.DeviceID
	mark uint64
	seq  event.Seq
}

// tellLogged lets networks forget the frames that a backup has in its log.
func (r *Replica) tellLogged() {
	if len(r.received) == 0 || r.p == nil {
		return
	}
	safe, n := r.p.Logged(), 0
	for n < len(r.received) && r.received[n].seq <= safe {
		if d := r.devices.Networks[r.received[n].slot]; d != nil {
			d.Logged(r.received[n].mark)
		}
		n++
	}
	r.received = append(r.received[:0], r.received[n:]...)
}

func (r *Replica) answerEntropy() {
	for _, q := range r.entropy {
		b := make([]byte, q.Length)
		r.w.Entropy.Fill(b)
		r.wake(true)
		r.record(event.Entropy{Device: q.Device, ID: q.ID, Data: b})
	}
	r.entropy = nil
}

// runSlice lets the machine execute, and hashes it now and then.
func (r *Replica) runSlice() {
	var stop event.Stop
	var err error
	took := r.execute(func(steps event.Step) bool {
		stop, err = r.rec.Run(r.m.Step() + steps)
		return stop == event.StopLimit && err == nil
	})
	r.collect()
	if err != nil {
		r.fail(fmt.Errorf("run the machine: %w", err))
		return
	}
	switch stop {
	case event.StopIdle, event.StopExit:
		r.idle = true
	case event.StopClock:
		r.record(r.pace.tick(r.m, r.now))
	}
	if r.now >= r.nextHash && r.m.Step() != r.hashStep {
		r.rec.RecordHash(true)
		r.hashStep, r.nextHash = r.m.Step(), r.now+r.cfg.HashEvery
	}
	if share := r.share(); share < ft.FullShare {
		r.resumeAt = r.now + took*ft.Time(ft.FullShare-share)/ft.Time(share)
	}
}

// collect takes what the machine emitted: requests go to the world at once,
// external outputs are held.
func (r *Replica) collect() {
	seq, _ := r.rec.Executed()
	for _, o := range r.rec.Outputs() {
		r.stats.Outputs++
		switch body := o.Body.(type) {
		case event.EntropyRequest:
			r.entropy = append(r.entropy, body)
			continue
		case event.DiskRequest:
			if !o.External() && !r.behindHeld(body) {
				r.submit(body, o.ID)
				continue
			}
		}
		r.held = append(r.held, heldOutput{o, r.now})
		if o.External() {
			r.hold(o, seq)
		}
	}
	r.act()
}

func (r *Replica) hold(o event.Output, mark event.Seq) {
	_, exit := o.Body.(event.Exit)
	if err := r.p.Hold(r.now, ft.Output{ID: o.ID, Mark: mark, Size: outputSize(o.Body), Exit: exit}); err != nil {
		r.report(Event{Kind: Trouble, Text: err.Error()})
	}
}

func outputSize(b event.OutputBody) int {
	const overhead = 128
	switch b := b.(type) {
	case event.FrameOut:
		return overhead + len(b.Frame.Data)
	case event.DiskRequest:
		return overhead + len(b.Data)
	case event.ConsoleOut:
		return overhead + len(b.Data)
	}
	return overhead
}

// behindHeld reports whether a request that is not external must wait for a
// held one: a read of what a held write will change.
func (r *Replica) behindHeld(q event.DiskRequest) bool {
	if q.Op != event.DiskRead {
		return false
	}
	for _, o := range r.held {
		w, ok := o.Body.(event.DiskRequest)
		if ok && w.Device == q.Device && w.Offset < q.Offset+q.Length && q.Offset < w.Offset+w.Length {
			return true
		}
	}
	return false
}

// release lets outputs go, in order, and what waited behind them.
func (r *Replica) release(last event.OutputID) {
	n := 0
	for n < len(r.held) && (r.held[n].ID <= last || !r.held[n].External()) {
		if r.held[n].External() {
			r.stats.Released++
			r.stats.Delay += r.clock() - r.held[n].since
		}
		r.emit(r.held[n].Output)
		r.held[n] = heldOutput{}
		n++
	}
	if r.held = r.held[n:]; len(r.held) == 0 {
		r.held = nil
	}
}

func (r *Replica) emit(o event.Output) {
	switch body := o.Body.(type) {
	case event.FrameOut:
		if n := r.devices.Networks[body.Device]; n != nil {
			n.Send(body.Frame)
		}
	case event.DiskRequest:
		r.submit(body, o.ID)
	case event.ConsoleOut:
		if body.Device == r.cfg.Console {
			r.w.Terminal.Write(body.Offset, body.Data)
		}
	case event.Exit:
		r.exit = &body
		r.report(Event{Kind: GuestExit, Text: fmt.Sprintf("exit code %d", body.Code)})
	}
}

// reissue begins again all disk I/O whose outcome is not known (paper §3.4), and
// answers what else the machine waits for. What a backup has begun on a disk of its own
// goes on there.
func (r *Replica) reissue() {
	for _, q := range r.m.PendingDisk() {
		switch o := r.follower.operation(q.Device, q.ID); {
		case o != nil && q.Mode.Own() && o.done:
			r.follower.finished = append(r.follower.finished, o.outcome)
		case o != nil && q.Mode.Own() && o.begun: // in progress on a disk that is ours as ever
		default:
			r.submit(q, 0)
		}
	}
	r.follower.operations = nil
	r.entropy = r.m.PendingEntropy()
}
