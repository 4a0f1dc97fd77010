// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"encoding/binary"
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/migrate"
)

// cloneBacklog is how many bytes of a clone wait for the network at most: the log
// waits behind them.
const cloneBacklog = 8 << 20

// clone is how the sending of a clone goes (paper §3.1). It shares the goroutine
// with the guest: after each part the guest has its turns.
type clone struct {
	began ft.Time
	due   ft.Time   // of the next part
	seq   event.Seq // that the clone contains, once frozen
	round int       // that was reported
	still ft.Time   // since when the machine stands still for it; 0 if it runs
}

// attach begins to make a backup of whoever connected: first its disks, if it has
// disks of its own, then its memory.
func (r *Replica) attach() {
	r.now = r.clock()
	r.stats.ResyncBytes = 0
	r.resyncing.disks, r.gate.doubtful = r.newResyncs(), nil
	var err error
	if len(r.resyncing.disks) == 0 {
		err = r.beginClone()
	}
	if err == nil {
		err = r.p.Attach(r.now, r.session())
	}
	if err != nil {
		r.endClone()
		r.report(Event{Kind: Trouble, Text: "clone: " + err.Error()})
		r.w.Channel.Hangup()
		return
	}
	r.p.Connected(r.now)
}

func (r *Replica) beginClone() error {
	began := r.now
	source, err := migrate.NewSource(r.m)
	if err != nil {
		return err
	}
	r.source, r.clone = source, clone{began: began}
	r.stats.ClonePause, r.stats.CloneTime, r.stats.CloneBytes = 0, 0, 0
	seq, _ := r.rec.Executed()
	r.report(Event{Kind: CloneBegan, Seq: seq, Text: fmt.Sprintf("%d MiB of memory", r.m.Config().RAM>>20)})
	r.stood(began)
	return nil
}

// stood notes that the machine stood still since a moment. The making of a part, some
// tenths of a millisecond, is not counted: that is the clone's share of the time.
func (r *Replica) stood(since ft.Time) {
	r.stats.ClonePause = max(r.stats.ClonePause, r.clock()-since)
}

// sendClone does what is due for a clone: a part, or the end of the rounds. The
// machine may run afterwards, unless still is set. due is when there is more to do.
func (r *Replica) sendClone() (still bool, due ft.Time) {
	disks := r.sendDisks()
	if r.source == nil {
		if len(r.resyncing.disks) == 0 || !r.resyncing.are((*resync).nearlyDone) {
			return false, disks
		}
		if err := r.beginClone(); err != nil {
			r.giveUpBackup("clone: " + err.Error())
			return false, ft.Never
		}
	}
	c := &r.clone
	switch {
	case r.w.Channel.Backlog() >= cloneBacklog:
		c.due = r.now + ft.Millisecond // the network is the slower one
	case r.now < c.due:
	case r.source.Settled() && !r.resyncing.are((*resync).nearlyDone), r.source.Frozen() && !r.resyncing.are((*resync).gone):
		c.due = r.now + ft.Millisecond // the disks are
	case r.source.Settled():
		if err := r.freeze(); err != nil {
			r.giveUpBackup("clone: " + err.Error())
			return false, ft.Never
		}
	default:
		r.sendPart()
		if r.source == nil {
			return false, ft.Never
		}
	}
	// The guest has saved as much as may be, or its log has no room: it waits until
	// some of that has left.
	if still = r.source.Saved() >= migrate.MaxSaved || r.p.Status().Wait != ""; still && c.still == 0 {
		c.still = r.now
	}
	if c.still != 0 {
		r.stood(c.still)
		c.due = min(c.due, r.now+ft.Millisecond)
	}
	if !still {
		c.still = 0
	}
	return still, min(c.due, disks)
}

// freeze ends the rounds: the present step is that of the clone, and the log is
// kept from here on.
func (r *Replica) freeze() error {
	began := r.clock()
	if err := r.source.Freeze(); err != nil {
		return err
	}
	r.resyncing.freeze()
	r.clone.seq, _ = r.rec.Executed()
	if err := r.p.Begin(r.now, r.m.Step()); err != nil {
		return err
	}
	if r.limit < ft.FullShare { // a clone knows only what its log tells
		r.control(event.CPUShare, uint64(r.limit))
	}
	r.stood(began)
	p := r.source.Progress()
	r.report(Event{Kind: CloneFrozen, Seq: r.clone.seq,
		Text: fmt.Sprintf("after %d rounds; %d pages are left to send, as they are now", p.Round+1, p.Pages)})
	return nil
}

// sendPart makes a part and arranges when the next one may follow: the guest has its
// share of the time, and the network no more than its rate.
func (r *Replica) sendPart() {
	c := &r.clone
	began := r.clock()
	part, ok := r.source.Next()
	head := []byte{packetPart}
	if r.source.Ended() {
		head = binary.LittleEndian.AppendUint64([]byte{packetLast}, uint64(c.seq))
	}
	if ok {
		r.w.Channel.Send(append(head, part...))
	}
	r.now = r.clock()
	c.due = r.now
	if !r.idle {
		share := ft.Time(r.cloneShare())
		c.due += (r.now - began) * (1000 - share) / share
	}
	if r.cfg.CloneRate > 0 {
		c.due = max(c.due, began+ft.Time(len(part))*ft.Second/ft.Time(r.cfg.CloneRate))
	}
	r.noteProgress()
	if r.source.Ended() {
		r.stats.Clones++
		r.report(Event{Kind: CloneSent, Seq: c.seq, Text: fmt.Sprintf("%d MiB in %.2f s; the guest stood still for %.1f ms",
			r.stats.CloneBytes>>20, float64(r.stats.CloneTime)/float64(ft.Second), float64(r.stats.ClonePause)/float64(ft.Millisecond))})
		r.endClone()
	}
}

// cloneShare is the part of the time that a clone takes from a busy guest: more in
// each round, so that one that writes faster than its pages leave is slowed, and most
// in the last one, behind which the log waits for the backup.
func (r *Replica) cloneShare() int {
	const more, most = 100, 900
	if r.source.Frozen() {
		return max(most, r.cfg.CloneShare)
	}
	return max(r.cfg.CloneShare, min(r.cfg.CloneShare+more*r.stats.CloneRound, most))
}

func (r *Replica) noteProgress() {
	p := r.source.Progress()
	r.stats.CloneTime = r.now - r.clone.began
	r.stats.CloneBytes, r.stats.CloneRound, r.stats.CloneLeft = uint64(p.Bytes), p.Round, p.Left+p.Written
	if p.Round != r.clone.round {
		r.clone.round = p.Round
		r.report(Event{Kind: CloneRound, Text: fmt.Sprintf("round %d: %d pages written meanwhile; %d MiB sent in %.2f s",
			p.Round, p.Pages, p.Bytes>>20, float64(r.stats.CloneTime)/float64(ft.Second))})
	}
}

// endClone gives up what is left of a clone; the machine is as it was.
func (r *Replica) endClone() {
	r.resyncing.disks = nil
	if r.source != nil {
		r.source.Close()
		r.source, r.stats.CloneLeft = nil, 0
	}
}
