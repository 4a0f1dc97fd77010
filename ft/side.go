// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"fmt"

	"tandem/machine/event"
)

// side is what Primary and Backup have in common: a state, a channel, signs of
// life and a claim.
type side struct {
	cfg     Config
	role    Role
	state   State
	owned   event.Epoch // the primary's; the next one is what both may claim
	session uint64
	actions []Action

	up     bool // there is a channel
	agreed bool // and the peer's Hello on it fits
	met    bool // agreed on some channel of this session

	life  detector
	beats struct {
		sent, heard uint64 // counters
		next        Time
	}
	retryAt, retryAfter Time // of a claim or fence
}

// Actions takes the actions that came up since the last call, in order. It is to
// be called after every other call, or after several that belong together.
func (s *side) Actions() []Action {
	a := s.actions
	s.actions = nil
	return a
}

// State returns what the side is doing.
func (s *side) State() State { return s.state }

// paired reports whether there is a peer, as far as is known.
func (s *side) paired() bool {
	switch s.state {
	case Syncing, Protected, Receiving, Replaying:
		return true
	}
	return false
}

func (s *side) do(a Action)    { s.actions = append(s.actions, a) }
func (s *side) send(m Message) { s.do(Send{m}) }

func (s *side) change(to State, why string, args ...any) {
	c := Changed{From: s.state, To: to, Epoch: s.owned, Why: fmt.Sprintf(why, args...)}
	s.state = to
	s.do(c)
}

// Heard reports any authenticated byte from the peer, such as a part of a
// message that is still arriving. Receive and Heartbeat imply it.
func (s *side) Heard(now Time) {
	if s.paired() {
		s.life.heard(now, s.cfg.MaxGap)
	}
}

// Breath reports that the peer says nothing, while its host acknowledges what is sent to
// it and its process has not ended: it may be starved of CPU, or stopped for a moment.
// That is no life, but a reason for patience. Outputs don't leave for it: the lease
// needs an echo.
func (s *side) Breath(now Time) {
	if s.paired() {
		s.life.run(now, s.cfg.MaxGap)
		s.life.breathless = 0
	}
}

// Heartbeat hands over a heartbeat from the peer's UDP port that DecodeHeartbeat
// has found to be authentic. Old ones are ignored: a replayed packet is no life.
func (s *side) Heartbeat(now Time, h Heartbeat) {
	if !s.paired() || h.VM != s.cfg.VM.Hash() || h.Epoch != s.owned+1 ||
		h.Role == s.role || h.Counter <= s.beats.heard {
		return
	}
	s.beats.heard = h.Counter
	s.life.heard(now, s.cfg.MaxGap)
	if h.Probe {
		s.beat(now, false)
	}
}

// beat sends a heartbeat. To a dead process each one is a probe; with probe set a
// live one answers at once.
func (s *side) beat(now Time, probe bool) {
	s.beats.sent++
	s.beats.next = now + s.cfg.BeatEvery
	if !s.up {
		s.beats.next = now + s.cfg.ProbeEvery
	}
	s.do(Beat{Heartbeat{
		VM: s.cfg.VM.Hash(), Epoch: s.owned + 1, Counter: s.beats.sent, Role: s.role, Probe: probe,
	}})
}

// connected opens the channel with our Hello.
func (s *side) connected(now Time, seq event.Seq, step event.Step) {
	s.life.run(now, s.cfg.MaxGap)
	s.up, s.agreed = true, false
	s.send(s.hello(seq, step))
}

func (s *side) hello(seq event.Seq, step event.Step) Hello {
	return Hello{
		Version: ProtocolVersion, Role: s.role, Machine: s.cfg.Machine, VM: s.cfg.VM, Arbiter: s.cfg.Arbiter, Epoch: s.owned + 1,
		Session: s.session, Timeout: s.cfg.Timeout, Buffer: uint64(s.cfg.LogBuffer), Seq: seq, Step: step,
	}
}

// agree holds the peer's Hello against ours.
func (s *side) agree(peer Hello) error {
	if s.agreed {
		return fmt.Errorf("the %s said hello twice", peer.Role)
	}
	if err := s.hello(0, 0).check(peer); err != nil {
		return err
	}
	s.agreed, s.met = true, true
	s.life.broken, s.life.down = false, 0
	return nil
}

// disconnected notes the end of the channel and looks for the peer at once.
func (s *side) disconnected(now Time) {
	s.life.run(now, s.cfg.MaxGap)
	s.up, s.agreed = false, false
	if s.met {
		s.life.broken = true
		s.beat(now, true)
		s.do(Dial{})
	}
}

func (s *side) hangup() {
	if s.up {
		s.do(Hangup{})
	}
	s.up, s.agreed = false, false
}

func (s *side) bye(b Bye) {
	if s.up {
		s.send(b)
	}
	s.hangup()
}

// verdict says why the peer must be taken for lost, or nothing.
func (s *side) verdict(timeout Time) string {
	d := &s.life
	switch {
	case !s.met:
		return "" // whoever connects the two has a timeout of its own
	case !s.up && d.unreachable:
		return "its process is gone"
	case d.silence >= timeout && d.breathless >= timeout:
		return fmt.Sprintf("silent for %d ms", d.silence/Millisecond)
	case d.silence >= s.hung(timeout):
		return fmt.Sprintf("hung: its host answers, it has been silent for %d ms", d.silence/Millisecond)
	case d.down >= timeout:
		return fmt.Sprintf("alive, but without a channel for %d ms", d.down/Millisecond)
	}
	return ""
}

// hungTimes is how many times longer a peer may be silent while its host answers.
const hungTimes = 4

// hung is the silence after which a peer is lost though its host answers.
func (s *side) hung(timeout Time) Time { return max(timeout, min(hungTimes*timeout, s.cfg.Stall)) }

// doom is when the verdict will be passed if nothing is heard, as far as can be
// said now.
func (s *side) doom(timeout Time) Time {
	d := &s.life
	left := max(timeout-d.silence, min(timeout-d.breathless, s.hung(timeout)-d.silence))
	if d.broken {
		left = min(left, timeout-d.down)
	}
	return d.last + left
}

// tick lets the detector run and sends the heartbeats that are due.
func (s *side) tick(now Time) {
	s.life.run(now, s.cfg.MaxGap)
	if s.met && now >= s.beats.next {
		s.beat(now, !s.up)
	}
}

// ask puts the question of the state to the world, at first or again, and waits
// for the answer.
func (s *side) ask() {
	s.retryAt = Never
	if s.state == Fencing {
		s.do(Fence{s.owned})
	} else {
		s.do(Claim{s.owned + 1})
	}
}

// putOff asks again later, and later each time.
func (s *side) putOff(now Time) {
	s.retryAfter = min(max(2*s.retryAfter, s.cfg.ClaimRetry), s.cfg.ClaimRetryMax)
	s.retryAt = now + s.retryAfter
}

// detector adds up the time in which it ran and saw no life (design §5, rule 5):
// a process that was stopped has not been listening, and what it finds in its
// sockets when it wakes counts before its watch does.
type detector struct {
	last        Time // of the calls to run
	silence     Time // since the last sign of life
	breathless  Time // since the last sign of its host, which a sign of life is too
	broken      bool // the channel is
	down        Time // for so long
	unreachable bool // "port unreachable" came after the last sign of life
}

// run counts the time since the last call, but at most so much of it.
func (d *detector) run(now, most Time) {
	gap := min(max(now-d.last, 0), most)
	d.last = max(d.last, now)
	d.silence += gap
	d.breathless += gap
	if d.broken {
		d.down += gap
	}
}

func (d *detector) heard(now, most Time) {
	d.run(now, most)
	d.silence, d.breathless, d.unreachable = 0, 0, false
}
