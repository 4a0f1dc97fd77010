// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tandem/machine/event"
)

// pair returns a protected pair.
func pair(t *testing.T) (w *world, a, b *proc) {
	t.Helper()
	w = newWorld(scenarioConfig())
	a = w.start("A")
	b = w.attach(a, "B", 7, 0, Millisecond)
	w.advance(20*Millisecond, nil)
	if a.p.State() != Protected || b.b.State() != Replaying {
		t.Fatalf("A is %v, B is %v", a.p.State(), b.b.State())
	}
	return w, a, b
}

func mark(seq event.Seq, step event.Step) event.Entry {
	return event.Entry{Seq: seq, Step: step, GoLive: true, Input: event.OutputMark{Last: 1}}
}

// TestPrimaryDistrustsBackup shows that a backup that says what can't be is given
// up: it can never make the primary release anything.
func TestPrimaryDistrustsBackup(t *testing.T) {
	far := Second * 1000
	for name, m := range map[string]Message{
		"entries never sent":   Ack{Received: 1000, Echo: 1},
		"executed, not sent":   Ack{Received: 2, Progress: Progress{Executed: 1000}},
		"executed, not had":    Ack{Received: 1, Progress: Progress{Executed: 3}},
		"echo from the future": Ack{Received: 2, Echo: far},
		"a second ready":       Ready{},
		"a beginning":          Begin{Seq: 2},
		"a second hello":       Hello{Version: 1},
		"entries":              Entries{},
	} {
		w, a, b := pair(t)
		b.stopped = true
		a.record(event.ConsoleIn{Data: []byte("say")}, true)
		a.p.Receive(a.now(), m)
		if a.p.State() != Claiming {
			t.Errorf("%s: the primary is %v", name, a.p.State())
		}
		if a.act(); len(w.emits) != 0 {
			t.Errorf("%s: an output left", name)
		}
	}
}

// TestBackupDistrustsPrimary shows that a backup whose primary breaks the rules
// halts rather than go on from a log that may be wrong.
func TestBackupDistrustsPrimary(t *testing.T) {
	big := event.Entry{Seq: 4, Input: event.ConsoleIn{Data: make([]byte, 40<<20)}}
	activate := func(arg uint64) event.Entry {
		return event.Entry{Seq: 3, GoLive: true, Input: event.Control{Op: event.Activate, Arg: arg}}
	}
	for name, m := range map[string]Message{
		"a hole":                Entries{Stamp: Never, Entries: []event.Entry{mark(4, 0)}},
		"a repeat":              Entries{Stamp: Never, Entries: []event.Entry{mark(2, 0)}},
		"no input":              Entries{Stamp: Never, Entries: []event.Entry{{Seq: 3}}},
		"steps back":            Entries{Stamp: Never, Entries: []event.Entry{mark(3, 9), mark(4, 8)}},
		"too much":              Entries{Stamp: Never, Entries: []event.Entry{mark(3, 0), big}},
		"an old stamp":          Entries{Stamp: 1},
		"another epoch opened":  Entries{Stamp: Never, Entries: []event.Entry{activate(3)}},
		"its epoch opened anew": Entries{Stamp: Never, Entries: []event.Entry{activate(2)}},
		"another handed over": Entries{Stamp: Never, Entries: []event.Entry{
			{Seq: 3, GoLive: true, Input: event.Control{Op: event.Switch, Arg: 9}}}},
		"a second hello": Hello{Version: 1},
		"an ack":         Ack{},
		"a second begin": Begin{Seq: 2},
	} {
		_, _, b := pair(t)
		if b.b.Receive(b.now(), m); b.b.State() != Halted {
			t.Errorf("%s: the backup is %v", name, b.b.State())
		}
	}
}

// TestNotActivated shows that a backup whose snapshot isn't loaded can't be made a
// candidate, and that one that is none halts when its primary is lost.
func TestNotActivated(t *testing.T) {
	w := newWorld(scenarioConfig())
	a := w.start("A")
	b := w.attach(a, "B", 7, 0, Second)
	w.advance(10*Millisecond, nil)
	b.b.Receive(b.now(), Entries{Stamp: Never, Entries: []event.Entry{
		{Seq: 1, GoLive: true, Input: event.Control{Op: event.Activate, Arg: 2}}}})
	if b.b.State() != Halted {
		t.Errorf("activated without a machine: %v", b.b.State())
	}
}

// TestRefused shows a refusal for each thing that peers must agree on, on both
// sides, with its remedy.
func TestRefused(t *testing.T) {
	for what, change := range map[string]func(*Hello){
		"protocol version":  func(h *Hello) { h.Version++ },
		"machine version":   func(h *Hello) { h.Machine++ },
		"VM":                func(h *Hello) { h.VM[3]++ },
		"epoch":             func(h *Hello) { h.Epoch++ },
		"arbiter":           func(h *Hello) { h.Arbiter = "another" },
		"detection timeout": func(h *Hello) { h.Timeout++ },
		"peer's role":       func(h *Hello) { h.Role = 3 - h.Role },
		"session":           func(h *Hello) { h.Session = 99 - h.Session*99/7 },
	} {
		cfg := scenarioConfig()
		p, _ := NewPrimary(0, cfg, 1, 0, 0, 0)
		b, _ := NewBackup(0, cfg, 1)
		if err := p.Attach(0, 7); err != nil {
			t.Fatal(err)
		}
		p.Connected(0)
		b.Connected(0)
		toBackup, toPrimary := hello(p.Actions()), hello(b.Actions())
		change(&toBackup)
		change(&toPrimary)
		p.Receive(0, toPrimary)
		b.Receive(0, toBackup)
		for _, actions := range [][]Action{p.Actions(), b.Actions()} {
			bye, ok := actions[0].(Send)
			if !ok || bye.Message.(Bye).Why != Refused || !strings.HasPrefix(bye.Message.(Bye).Text, what+" differs: ") {
				t.Errorf("%s: %+v", what, actions)
			}
		}
		if p.State() != Solo || b.State() != Halted {
			t.Errorf("%s: the primary is %v, the backup %v", what, p.State(), b.State())
		}
	}
}

func hello(actions []Action) Hello {
	for _, a := range actions {
		if s, ok := a.(Send); ok {
			return s.Message.(Hello)
		}
	}
	return Hello{}
}

// TestRestartedBackup shows that a process that takes the place of a restarted
// backup is told to come again, for it has met nobody; that alone costs the
// primary's backup nothing. Its process is gone here, and the primary notices that.
func TestRestartedBackup(t *testing.T) {
	w, a, b := pair(t)
	w.reset(a)
	w.advance(Millisecond, nil)
	b.b, _ = NewBackup(b.now(), w.cfg, 1)
	b.channel = 0
	w.connect(a, b)
	var lines strings.Builder
	w.trace = func(format string, args ...any) { fmt.Fprintf(&lines, format+"\n", args...) }
	w.advance(10*Millisecond, nil)
	for _, want := range []string{"A sends Bye: occupied", "A: Protected → Claiming: backup lost: its process is gone"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("no sign of %q:\n%s", want, lines.String())
		}
	}
	if a.p.State() != Solo || a.p.Status().Epoch != 2 {
		t.Errorf("A is %v in epoch %d", a.p.State(), a.p.Status().Epoch)
	}
}

// TestOtherPrimary shows that a backup does not go on with the log of another
// session than its own.
func TestOtherPrimary(t *testing.T) {
	_, _, b := pair(t)
	b.b.Disconnected(b.now())
	b.b.Connected(b.now())
	b.b.Actions()
	h := b.b.hello(2, 0)
	h.Role, h.Session = RolePrimary, 8
	b.b.Receive(b.now(), h)
	if b.b.State() != Halted {
		t.Errorf("it is %v", b.b.State())
	}
}

// TestHeartbeatIsLife shows which heartbeats are signs of life: not those of this
// side itself, of another VM or epoch, nor any that was heard before.
func TestHeartbeatIsLife(t *testing.T) {
	_, _, b := pair(t)
	good := Heartbeat{VM: b.w.cfg.VM.Hash(), Epoch: 2, Counter: 100, Role: RolePrimary}
	for name, c := range map[string]struct {
		change func(*Heartbeat)
		life   bool
	}{
		"new":        {func(h *Heartbeat) {}, true},
		"old":        {func(h *Heartbeat) { h.Counter = 99 }, false},
		"repeated":   {func(h *Heartbeat) { h.Counter = 100 }, false},
		"reflected":  {func(h *Heartbeat) { h.Role = RoleBackup }, false},
		"other VM":   {func(h *Heartbeat) { h.VM++ }, false},
		"last epoch": {func(h *Heartbeat) { h.Epoch = 1 }, false},
	} {
		h := good
		h.Counter = 101
		c.change(&h)
		b.b.beats.heard = 100
		b.b.life.silence = 50 * Millisecond
		b.b.Heartbeat(b.now(), h)
		if life := b.b.life.silence == 0; life != c.life {
			t.Errorf("%s: life is %v", name, life)
		}
	}
}

// TestBreath shows that a silent peer whose host answers is given more time, on either
// side, and not for ever; and that the time ends when the host is silent too.
func TestBreath(t *testing.T) {
	for name, breathes := range map[string]Time{"hung": 10 * Second, "stopped, then dead": 500 * Millisecond, "silent from the start": 0} {
		_, a, b := pair(t)
		for _, side := range []struct {
			breath, tick func(Time)
			state        func() State
			from         Time
			timeout      Time
		}{
			{a.p.Breath, a.p.Tick, a.p.State, a.now(), 250 * Millisecond},
			{b.b.Breath, b.b.Tick, b.b.State, b.now(), 300 * Millisecond},
		} {
			before, silent := side.state(), Time(0)
			for ; side.state() == before && silent < 2*Second; silent += 5 * Millisecond {
				if silent < breathes {
					side.breath(side.from + silent)
				}
				side.tick(side.from + silent)
			}
			want := min(breathes+side.timeout, hungTimes*side.timeout)
			if silent < want-30*Millisecond || silent > want+30*Millisecond { // it had heard of its peer a moment before
				t.Errorf("%s: %v is given up after %d ms, want %d", name, before, silent/Millisecond, want/Millisecond)
			}
		}
	}
}

// TestProbeIsAnswered shows that a heartbeat that asks for an answer gets one at
// once, and that the answer asks for none.
func TestProbeIsAnswered(t *testing.T) {
	_, _, b := pair(t)
	b.b.Heartbeat(b.now(), Heartbeat{VM: b.w.cfg.VM.Hash(), Epoch: 2, Counter: 1 << 40, Role: RolePrimary, Probe: true})
	actions := b.b.Actions()
	if len(actions) != 1 || actions[0].(Beat).Heartbeat.Probe || actions[0].(Beat).Heartbeat.Role != RoleBackup {
		t.Errorf("answered by %+v", actions)
	}
}

// TestUnreachableNeedsBoth shows that neither "port unreachable" nor the channel's
// end alone is a proof of death, and that life takes the first back.
func TestUnreachableNeedsBoth(t *testing.T) {
	_, _, b := pair(t)
	b.b.Unreachable(b.now())
	if b.b.State() != Replaying {
		t.Fatal("taken for dead with a channel")
	}
	b.b.Heard(b.now())
	b.b.Disconnected(b.now())
	if b.b.State() != Replaying {
		t.Fatal("taken for dead without a proof")
	}
	b.b.Unreachable(b.now())
	if b.b.State() == Replaying {
		t.Fatal("not taken for dead with a proof")
	}
}

// TestWrongSnapshot shows that a backup whose snapshot was not taken where its log
// begins halts.
func TestWrongSnapshot(t *testing.T) {
	for _, at := range []struct {
		seq  event.Seq
		step event.Step
	}{{1, 0}, {0, 1}} {
		w := newWorld(scenarioConfig())
		b := w.attach(w.start("A"), "B", 7, 0, Second)
		w.advance(10*Millisecond, nil)
		if err := b.b.Loaded(b.now(), at.seq, at.step, 0); err == nil || b.b.State() != Halted {
			t.Errorf("entry %d, step %d: %v, it is %v", at.seq, at.step, err, b.b.State())
		}
	}
}

// TestReleasedEvery shows that the backup is told what has left after so many
// outputs, however short the time.
func TestReleasedEvery(t *testing.T) {
	_, a, b := pair(t)
	a.p.cfg.ReleasedEvery = 3
	b.stopped = true
	for range 3 {
		a.record(event.ConsoleIn{Data: []byte("say")}, true)
	}
	a.p.Receive(a.now(), Ack{Received: a.seq, Progress: Progress{Executed: 2}, Echo: a.p.stamp})
	actions := a.p.Actions()
	if len(actions) != 2 || actions[1].(Record).Inputs[0] != (event.Released{Last: 3}) {
		t.Errorf("%+v", actions)
	}
}

// TestLateActivation shows that an Activate recorded for a backup that is gone
// does not make a candidate of the next one.
func TestLateActivation(t *testing.T) {
	w := newWorld(scenarioConfig())
	a := w.start("A")
	w.attach(a, "B", 7, 0, Second)
	w.advance(10*Millisecond, nil)
	a.record(event.Control{Op: event.Activate, Arg: 2}, true)
	for _, action := range a.p.Actions() {
		if s, ok := action.(Send); ok {
			if _, ok := s.Message.(Entries); ok {
				t.Errorf("sent %s", text(s.Message))
			}
		}
	}
	if a.p.State() != Solo {
		t.Errorf("the primary is %v", a.p.State())
	}
}

// TestBrokenInvariants shows that a primary whose machine or recorder breaks the
// order halts at once, and says why.
func TestBrokenInvariants(t *testing.T) {
	for name, call := range map[string]func(*proc) error{
		"a hole in the log":      func(r *proc) error { return r.p.Append(r.now(), mark(9, 0)) },
		"steps back":             func(r *proc) error { return r.p.Append(r.now(), mark(3, 5), mark(4, 4)) },
		"no input":               func(r *proc) error { return r.p.Append(r.now(), event.Entry{Seq: 3}) },
		"outputs back":           func(r *proc) error { return r.p.Hold(r.now(), Output{ID: 0, Mark: 2}) },
		"mark not in the log":    func(r *proc) error { return r.p.Hold(r.now(), Output{ID: 1, Mark: 3}) },
		"mark before the last's": func(r *proc) error { r.p.out.mark = 2; return r.p.Hold(r.now(), Output{ID: 1, Mark: 1}) },
	} {
		_, a, _ := pair(t)
		if err := call(a); err == nil || a.p.State() != Halted {
			t.Errorf("%s: %v, the primary is %v", name, err, a.p.State())
		}
	}
}

// TestHaltedStaysHalted shows that nothing brings a copy that has ended back.
func TestHaltedStaysHalted(t *testing.T) {
	_, a, _ := pair(t)
	a.p.Fail(a.now(), "broken")
	a.p.Actions()
	off := event.Entry{Seq: 3, GoLive: true, Input: event.Control{Op: event.PowerOff}}
	if err := errors.Join(a.p.Append(a.now(), off), a.p.Hold(a.now(), Output{ID: 1, Mark: 2})); err != nil {
		t.Error(err)
	}
	a.p.Claimed(a.now(), 2, Won)
	a.p.Tick(Never)
	if actions := a.p.Actions(); a.p.State() != Halted || len(actions) != 0 || a.p.Deadline() != Never {
		t.Errorf("it is %v, %+v", a.p.State(), actions)
	}
}

// TestNotNow shows that calls that the state forbids are refused and change nothing.
func TestNotNow(t *testing.T) {
	_, a, b := pair(t)
	if err := a.p.Attach(a.now(), 8); !errors.Is(err, ErrState) {
		t.Errorf("a second backup: %v", err)
	}
	if _, err := b.b.Primary(b.now()); !errors.Is(err, ErrState) {
		t.Errorf("a primary out of a backup: %v", err)
	}
	if err := b.b.Loaded(b.now(), 0, 0, 0); !errors.Is(err, ErrState) {
		t.Errorf("a second snapshot: %v", err)
	}
	a.p.Claimed(a.now(), 2, Won)
	b.b.Claimed(b.now(), 2, Won)
	b.b.Tick(b.now())
	b.b.Fenced(b.now(), 2, nil)
	if a.p.State() != Protected || b.b.State() != Replaying {
		t.Errorf("answers that nobody waits for made A %v and B %v", a.p.State(), b.b.State())
	}
}

// TestStaleAnswer shows that the arbiter's answer to another claim wins nothing.
func TestStaleAnswer(t *testing.T) {
	_, a, b := pair(t)
	a.p.Disconnected(a.now())
	a.p.Unreachable(a.now())
	a.p.Claimed(a.now(), 1, Won)
	b.b.Disconnected(b.now())
	b.b.Unreachable(b.now())
	b.b.Claimed(b.now(), 3, Won)
	if a.p.State() != Claiming || b.b.State() != Claiming {
		t.Errorf("A is %v, B is %v", a.p.State(), b.b.State())
	}
}

// TestFenceIsRetried shows that nothing goes live before its fences stand.
func TestFenceIsRetried(t *testing.T) {
	_, _, b := pair(t)
	b.b.Disconnected(b.now())
	b.b.Unreachable(b.now())
	b.b.Claimed(b.now(), 2, Won)
	now := b.now()
	for range 3 {
		b.b.Actions()
		b.b.Fenced(now, 2, errors.New("no answer"))
		if b.b.State() != Fencing {
			t.Fatalf("it is %v", b.b.State())
		}
		now = b.b.Deadline()
		b.b.Tick(now)
		if got := b.b.Actions(); len(got) != 1 || got[0] != (Fence{2}) {
			t.Fatalf("asked for %+v", got)
		}
	}
	if b.b.Fenced(now, 2, nil); b.b.State() != Live {
		t.Errorf("it is %v", b.b.State())
	}
}

// TestDetector shows that only time in which the detector ran counts.
func TestDetector(t *testing.T) {
	const most = 50 * Millisecond
	var d detector
	d.heard(Second, most)
	d.run(Second+20*Millisecond, most)
	d.run(Second+20*Second, most) // stopped
	d.run(Second+20*Second+10*Millisecond, most)
	d.run(Second, most) // time does not run backward
	if want := (20 + 50 + 10) * Millisecond; d.silence != want {
		t.Errorf("silent for %d, want %d", d.silence, want)
	}
	if d.heard(21*Second, most); d.silence != 0 {
		t.Error("silent after a sign of life")
	}
}

// TestOutputBuffer shows that a primary with too much held must wait.
func TestOutputBuffer(t *testing.T) {
	_, a, b := pair(t)
	b.stopped = true
	a.record(event.ConsoleIn{Data: []byte("x")}, true)
	if err := a.p.Hold(a.now(), Output{ID: 1, Mark: 3, Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if why := a.p.Status().Wait; why != "the buffer of held outputs is full" {
		t.Errorf("waits: %q", why)
	}
}

// TestValidate shows that each rule of the config is held to, and that the
// derived configs hold to all.
func TestValidate(t *testing.T) {
	for _, timeout := range []Time{30 * Millisecond, 300 * Millisecond, 5 * Second} {
		if err := scenarioConfig().WithTimeout(timeout).Validate(); err != nil {
			t.Errorf("timeout %d: %v", timeout, err)
		}
	}
	for what, change := range map[string]func(*Config){
		"id":          func(c *Config) { c.VM = VM{} },
		"lease":       func(c *Config) { c.Lease = c.Timeout },
		"shorter":     func(c *Config) { c.PrimaryTimeout = c.Timeout },
		"three":       func(c *Config) { c.BeatEvery = c.PrimaryTimeout / 2 },
		"probes":      func(c *Config) { c.ProbeEvery = 0 },
		"largest gap": func(c *Config) { c.MaxGap = c.Timeout },
		"stall":       func(c *Config) { c.Stall = c.Timeout },
		"batches":     func(c *Config) { c.Batch = MaxMessage },
		"buffers":     func(c *Config) { c.LogBuffer = 0 },
		"lag":         func(c *Config) { c.LagStop = c.LagCut },
		"retry":       func(c *Config) { c.ClaimRetry = 0 },
		"policy":      func(c *Config) { c.OnDivergence = 9 },
	} {
		c := scenarioConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestMayEmit shows that what was released and has not left is bound by the lease as
// what is held: it may leave while the backup was heard of lately, and then only
// when the claim is won.
func TestMayEmit(t *testing.T) {
	w, a, b := pair(t)
	if !a.p.MayEmit(a.now()) || !a.p.Followed() {
		t.Fatal("a protected primary may not emit")
	}
	b.stopped = true
	seen := map[State]bool{}
	w.advance(2*Second, func() {
		may := a.p.MayEmit(a.now())
		switch s := a.p.State(); {
		case s == Claiming && may:
			t.Fatal("it may emit while it claims")
		case s == Protected && !may:
			seen[s] = true
		case s == Solo:
			if seen[s] = true; !may || a.p.Followed() {
				t.Fatal("alone, it may not emit")
			}
		}
	})
	if !seen[Protected] || !seen[Solo] {
		t.Errorf("the lease never ended before the claim, or it was not won: %v", seen)
	}
}

// TestLogged shows that what came in counts as logged once the backup has it in a whole
// group; and when the backup is lost, only after the claim is won.
func TestLogged(t *testing.T) {
	w, a, b := pair(t)
	first, n := a.p.Logged(), 0
	partial := false
	w.advance(100*Millisecond, func() {
		if n++; n < 1000 {
			a.record(event.ConsoleIn{Data: []byte("typed")}, n%3 == 0)
		}
		if got, has := a.p.Logged(), b.b.Status().Acked; got > has {
			t.Fatalf("entry %d counts as logged, the backup has whole groups up to %d", got, has)
		}
		partial = partial || a.p.Logged() < a.p.Status().Acked
	})
	if a.p.Logged() <= first || !partial {
		t.Errorf("from %d to %d of %d, a group in parts: %v", first, a.p.Logged(), a.p.Status().Last, partial)
	}
	b.stopped = true
	claimed := false
	w.advance(2*Second, func() {
		switch a.p.State() {
		case Claiming:
			if claimed = true; a.p.Logged() != 0 {
				t.Fatal("something counts as logged while the claim is open")
			}
		case Solo:
			if a.p.Logged() != a.p.Status().Last {
				t.Fatal("alone, not all counts as logged")
			}
		}
	})
	if !claimed || a.p.State() != Solo {
		t.Errorf("it claimed: %v, and is %v", claimed, a.p.State())
	}
}

// TestReadySlots shows that a primary leaves out what is read of those disks only that
// its backup has said it reads, and of none once the backup is lost.
func TestReadySlots(t *testing.T) {
	w := newWorld(scenarioConfig())
	a := w.start("A")
	b := w.attach(a, "B", 7, 0, Millisecond)
	b.reads = Slots(0).With(3)
	w.advance(20*Millisecond, nil)
	for d := range event.DeviceID(10) {
		if got := a.p.Reads(d); got != (d == 3) {
			t.Errorf("disk %d: %v", d, got)
		}
	}
	w.crash(b)
	w.advance(2*Second, nil)
	if a.p.State() != Solo || a.p.Reads(3) {
		t.Errorf("in state %v the disk is read by a backup: %v", a.p.State(), a.p.Reads(3))
	}
}
