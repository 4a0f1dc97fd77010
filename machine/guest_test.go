// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replay"
)

func power(t testing.TB, cfg machine.Config) *machine.Machine {
	t.Helper()
	m, err := machine.New(cfg, make([]byte, cfg.RAM))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// outside is a world of chance around the guest of machinetest: it answers
// requests some slices later, echoes frames, types, and tells the time.
type outside struct {
	rnd     *rand.Rand
	disk    []byte
	answers []event.Input
	console []byte
	slice   int         // most steps between two looks at the world
	typing  []byte      // what is typed, at random
	rate    uint64      // of the clock
	idle    event.Ticks // that a wait is overslept at most
}

func newOutside(seed uint64) *outside {
	return &outside{rnd: rand.New(rand.NewPCG(seed, 1)), disk: make([]byte, machinetest.DiskSize), slice: 3000,
		rate: 1 << event.RateShift / 16, idle: 100}
}

func (o *outside) take(t testing.TB, outs []event.Output) {
	t.Helper()
	for _, out := range outs {
		switch b := out.Body.(type) {
		case event.ConsoleOut:
			if b.Offset != uint64(len(o.console)) {
				t.Fatalf("console output at %d, %d bytes were printed", b.Offset, len(o.console))
			}
			o.console = append(o.console, b.Data...)
		case event.DiskRequest:
			o.answers = append(o.answers, o.serve(b))
		case event.FrameOut:
			o.answers = append(o.answers, event.Frames{Device: b.Device, Frames: []event.Frame{{Data: b.Frame.Data}}})
		}
	}
}

// serve does a request at once, so in order; only its answer is late.
func (o *outside) serve(q event.DiskRequest) event.DiskDone {
	done := event.DiskDone{Device: q.Device, ID: q.ID}
	switch {
	case q.Op == event.DiskFlush:
	case o.rnd.IntN(20) == 0:
		done.Status = event.DiskIOError
	case q.Op == event.DiskRead:
		done.Data = bytes.Clone(o.disk[q.Offset : q.Offset+q.Length])
	case q.Op == event.DiskWrite:
		copy(o.disk[q.Offset:], q.Data)
	}
	return done
}

// next is what arrives before the next slice, nil for nothing.
func (o *outside) next() event.Input {
	if len(o.answers) > 0 && o.rnd.IntN(3) == 0 {
		i := o.rnd.IntN(len(o.answers))
		in := o.answers[i]
		o.answers = append(o.answers[:i], o.answers[i+1:]...)
		return in
	}
	if len(o.typing) > 0 && o.rnd.IntN(50) == 0 {
		in := event.ConsoleIn{Device: event.UART, Data: o.typing[:1]}
		o.typing = o.typing[1:]
		return in
	}
	return nil
}

// tell is the clock for a machine: it jumps to the next timer if that is idle.
func (o *outside) tell(m *machine.Machine, idle bool) event.Clock {
	base := m.Time()
	if due, ok := m.NextTimer(); idle && ok {
		base = max(base, due) + event.Ticks(o.rnd.Uint64N(uint64(o.idle)))
	}
	return event.Clock{Base: base, Rate: o.rate - o.rate/10 + o.rnd.Uint64N(o.rate/5), Limit: m.Step() + 20_000}
}

// record runs a machine in the world up to a step, or its end, and returns its log.
func (o *outside) record(t testing.TB, m *machine.Machine, to event.Step, sink func(event.Entry)) *replay.Recorder {
	t.Helper()
	rec := replay.NewRecorder(m, 0, m.LastOutput(), sink)
	put := func(in event.Input) {
		if err := rec.Record(in, true); err != nil {
			t.Fatal(err)
		}
	}
	put(o.tell(m, false))
	for m.Step() < to {
		stop, err := rec.Run(min(to, m.Step()+1+event.Step(o.rnd.IntN(o.slice))))
		if err != nil {
			t.Fatal(err)
		}
		o.take(t, rec.Outputs())
		switch stop {
		case event.StopExit:
			rec.RecordHash(true)
			return rec
		case event.StopIdle:
			put(o.tell(m, true))
		case event.StopClock:
			put(o.tell(m, false))
		}
		if in := o.next(); in != nil {
			put(in)
			o.take(t, rec.Outputs())
		}
		if o.rnd.IntN(20) == 0 {
			rec.RecordHash(true)
		}
	}
	rec.RecordHash(true)
	return rec
}

// follow replays a log in random slices. at is called between them.
func follow(t testing.TB, m *machine.Machine, log []event.Entry, rnd *rand.Rand, slice int, at func(m *machine.Machine) *machine.Machine) *machine.Machine {
	t.Helper()
	rep := replay.NewReplayer(m, 0, m.LastOutput())
	if err := rep.Feed(log...); err != nil {
		t.Fatal(err)
	}
	for {
		wait, err := rep.Advance(event.Step(1 + rnd.IntN(slice)))
		if err != nil {
			t.Fatal(err)
		}
		rep.Outputs()
		if wait == replay.WaitEntries {
			return m
		}
		if n := at(m); n != m {
			last, _ := rep.Executed()
			m, rep = n, replay.NewReplayer(n, last, n.LastOutput())
			if err := rep.Feed(log[last:]...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func stay(m *machine.Machine) *machine.Machine { return m }

// A guest that uses every device, on one hart and on several, replays to the same
// bits: at once, in small slices, and from a snapshot at any step.
func TestReplay(t *testing.T) {
	for _, harts := range []int{1, 3} {
		cfg := machinetest.Config(t, harts, "-DROUNDS=12")
		for seed := range uint64(4) {
			o := newOutside(seed)
			o.typing = []byte("abrcd")
			var log []event.Entry
			m := power(t, cfg)
			o.record(t, m, 3_000_000, func(e event.Entry) { log = append(log, e) })
			want := m.HashAll()
			if code, ended := m.Exited(); !ended || code != 0 {
				t.Fatalf("%d harts, seed %d: exit code %d, %v after\n%s\n%s", harts, seed, code, ended, o.console, m.Describe())
			}
			if !bytes.Contains(o.console, []byte("bye\n")) || bytes.Count(o.console, []byte("boot\n")) != 2 {
				t.Fatalf("%d harts, seed %d: the guest did not boot twice and end:\n%s", harts, seed, o.console)
			}
			rnd := rand.New(rand.NewPCG(seed, 2))
			restores := 0
			for _, c := range []struct {
				name  string
				slice int
				at    func(m *machine.Machine) *machine.Machine
			}{
				{"at once", 1 << 40, stay},
				{"in slices", 500, stay},
				{"from snapshots", 100_000, func(m *machine.Machine) *machine.Machine {
					restores++
					n := restored(t, m)
					if n.HashAll() != m.HashAll() {
						t.Fatalf("%d harts, seed %d: restored at step %d: hash differs", harts, seed, m.Step())
					}
					return n
				}},
			} {
				if got := follow(t, power(t, cfg), log, rnd, c.slice, c.at); got.HashAll() != want {
					t.Errorf("%d harts, seed %d, %s: %s, want %s", harts, seed, c.name, got.Describe(), m.Describe())
				}
			}
			if restores < 5 {
				t.Errorf("only %d snapshots", restores)
			}
		}
	}
}

// A day of an idle guest with a timer of 100 ms costs seconds, and its replay is exact.
func TestIdleDay(t *testing.T) {
	const day = 24 * 3600 * event.TicksPerSecond
	cfg := machinetest.Config(t, 1, "-DTICK=1000000", "-DPAUSE=1000000000", "-DWORK=100")
	m, backup := power(t, cfg), power(t, cfg)
	rep := replay.NewReplayer(backup, 0, 0)
	n := 0
	sink := func(e event.Entry) {
		n++
		if err := rep.Feed(e); err != nil {
			t.Fatal(err)
		}
	}
	o := newOutside(1)
	rec := replay.NewRecorder(m, 0, 0, sink)
	for m.Time() < day {
		stop, err := rec.Run(m.Step() + 1e6)
		if err != nil {
			t.Fatal(err)
		}
		if stop == event.StopExit {
			t.Fatalf("the guest ended: %s\n%s", m.Describe(), o.console)
		}
		o.take(t, rec.Outputs())
		if in := o.next(); in != nil {
			err = rec.Record(in, true)
		} else {
			err = rec.Record(o.tell(m, stop == event.StopIdle), true)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%1000 == 0 {
			rec.RecordHash(true)
			if _, err := rep.Advance(1 << 40); err != nil {
				t.Fatal(err)
			}
			rep.Outputs()
		}
	}
	if wait, err := rep.Advance(1 << 40); err != nil || wait != replay.WaitEntries {
		t.Fatal(wait, err)
	}
	if m.HashAll() != backup.HashAll() {
		t.Errorf("after a day: %s, want %s", backup.Describe(), m.Describe())
	}
	if n < 800_000 || m.Step() > 500_000_000 {
		t.Errorf("%d entries and %d steps in a day of ticks", n, m.Step())
	}
}

// A guest that resets the board begins anew at that very instruction, and so does
// one whose reset button is pressed, also from bytes that are kept elsewhere; the console
// goes on.
func TestReset(t *testing.T) {
	cfg := machinetest.Config(t, 2)
	for _, in := range []event.Input{
		event.ConsoleIn{Device: event.UART, Data: []byte("r")},
		event.Control{Op: event.Reset},
	} {
		var log []event.Entry
		sink := func(e event.Entry) { log = append(log, e) }
		o, m := newOutside(7), power(t, cfg)
		rec := o.record(t, m, 400_000, sink)
		if err := rec.Record(in, true); err != nil {
			t.Fatal(err)
		}
		for m.Step() < 800_000 {
			stop, err := rec.Run(800_000)
			if err != nil {
				t.Fatal(err)
			}
			if stop == event.StopExit {
				t.Fatalf("%+v: the guest ended:\n%s", in, o.console)
			}
			o.take(t, rec.Outputs())
			next := o.next()
			if next == nil {
				next = o.tell(m, stop == event.StopIdle)
			}
			if err := rec.Record(next, true); err != nil {
				t.Fatal(err)
			}
			o.take(t, rec.Outputs())
		}
		text := string(o.console)
		if strings.Count(text, "boot\n0 ") != 2 {
			t.Errorf("%+v: no second boot in\n%s", in, text)
		}
		rnd := rand.New(rand.NewPCG(3, 3))
		for _, slice := range []int{1 << 40, 300} {
			again, kept := power(t, cfg), 0
			again.KeepBoot(func(b []byte) []byte { kept += len(b); return bytes.Clone(b) })
			if got := follow(t, again, log, rnd, slice, stay); got.HashAll() != m.HashAll() || kept == 0 {
				t.Errorf("%+v, slices up to %d, %d bytes kept: %s, want %s", in, slice, kept, got.Describe(), m.Describe())
			}
		}
	}
}

// What a device writes to tohost is no command: it would be found wherever the
// next run happened to end.
func TestHostByDevice(t *testing.T) {
	cfg := machinetest.Config(t, 1, "-DROUNDS=5", "-DHOST_IN_FRAME")
	if cfg.Boot.ToHost == 0 {
		t.Fatal("the guest has no tohost")
	}
	var log []event.Entry
	o, m := newOutside(2), power(t, cfg)
	o.record(t, m, 3_000_000, func(e event.Entry) { log = append(log, e) })
	if !bytes.Contains(o.console, []byte("\n4 ")) {
		t.Errorf("the guest was ended:\n%s", o.console)
	}
	rnd := rand.New(rand.NewPCG(5, 5))
	if got := follow(t, power(t, cfg), log, rnd, 200, stay); got.HashAll() != m.HashAll() {
		t.Errorf("%s, want %s", got.Describe(), m.Describe())
	}
}

// Inputs that are not for this machine are refused, change nothing and never panic.
func TestHostileInputs(t *testing.T) {
	o, m := newOutside(5), power(t, machinetest.Config(t, 2))
	o.record(t, m, 300_000, func(event.Entry) {})
	now, step := m.Time(), m.Step()
	before := m.HashAll()
	big := bytes.Repeat([]byte{1}, 9<<20)
	for _, in := range []event.Input{
		nil,
		event.Clock{Base: now - 1, Rate: 1, Limit: step + 1},
		event.Clock{Base: now, Rate: 1, Limit: step - 1},
		event.Clock{Base: now, Rate: 1 << 60, Limit: step + 1},
		event.Clock{Base: now, Rate: ^uint64(0), Limit: ^event.Step(0)},
		event.Clock{Base: ^event.Ticks(0), Rate: 1 << event.RateShift, Limit: step + 1},
		event.Clock{Base: now, Rate: 1 << (event.RateShift + 1), Limit: ^event.Step(0)},
		event.Frames{Device: 0, Frames: []event.Frame{{Data: big[:60]}}},
		event.Frames{Device: 7}, event.Frames{Device: 8}, event.Frames{Device: 255},
		event.DiskDone{Device: 0, ID: 1 << 40}, event.DiskDone{Device: 0, ID: 0},
		event.DiskDone{Device: 1, ID: 1}, event.DiskDone{Device: 99, ID: 1},
		event.DiskDone{Device: 0, ID: m.PendingID(), Data: big},
		event.DiskDone{Device: 0, ID: m.PendingID(), Status: 77},
		event.Entropy{Device: 0, ID: 1, Data: big[:9]}, event.Entropy{Device: 200, ID: 1},
		event.ConsoleIn{Device: 0, Data: big[:9]}, event.ConsoleIn{Device: 9, Data: big[:9]},
		event.OutputMark{Last: 1}, event.Released{Last: 1}, event.Hash{},
		event.Control{}, event.Control{Op: event.Dismiss + 1}, event.Control{Op: 200},
	} {
		if err := m.Apply(in); err == nil {
			t.Errorf("%#v was accepted", in)
		}
		if m.HashAll() != before || len(m.Outputs()) > 0 {
			t.Fatalf("%#v was refused and changed the machine", in)
		}
	}
	for _, in := range []event.Input{
		event.Clock{Base: ^event.Ticks(0), Rate: 0, Limit: ^event.Step(0)},
		event.Frames{Device: 1, Frames: []event.Frame{{}, {Data: big[:70000]}, {Data: big[:60], Offload: event.Offload{Flags: 255, GSOType: 255, HdrLen: 65535, GSOSize: 65535, CsumStart: 65535, CsumOffset: 65535}}}},
		event.ConsoleIn{Device: event.UART, Data: big},
		event.ConsoleIn{Device: event.UART, Data: big},
	} {
		if err := m.Apply(in); err != nil {
			t.Errorf("%T: %v", in, err)
		}
		m.Outputs()
		m.Run(m.Step() + 1000)
		m.Outputs()
	}
}

// StepOf is the first step at which the clock's formula reads at least a time.
func TestStepOf(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 11))
	for range 200_000 {
		rate := rnd.Uint64() >> rnd.IntN(64) % (1<<52 + 1)
		base, from := event.Ticks(rnd.Uint64()>>rnd.IntN(64)), event.Step(rnd.Uint64()>>(1+rnd.IntN(63)))
		c, ok := machine.NewClock(event.Clock{Base: base, Rate: rate, Limit: from + event.Step(rnd.Uint64()>>rnd.IntN(64))}, from)
		if !ok {
			continue
		}
		at := from + event.Step(rnd.Uint64N(uint64(c.Limit()-from)+1))
		want := c.At(at) + event.Ticks(rnd.Uint64()>>rnd.IntN(64)) - event.Ticks(rnd.Uint64N(3))
		got := c.StepOf(at, want)
		switch {
		case got < at:
			t.Fatalf("%+v: StepOf(%d, %d) = %d, in the past", c, at, want, got)
		case got > at && got <= c.Limit() && (c.At(got) < want || c.At(got-1) >= want):
			t.Fatalf("%+v: StepOf(%d, %d) = %d, where it reads %d after %d", c, at, want, got, c.At(got), c.At(got-1))
		case got == at && c.At(at) < want:
			t.Fatalf("%+v: StepOf(%d, %d) is now, where it reads %d", c, at, want, c.At(at))
		case got > c.Limit() && c.At(c.Limit()) >= want:
			t.Fatalf("%+v: StepOf(%d, %d) = %d, but at the limit it reads %d", c, at, want, got, c.At(c.Limit()))
		}
	}
}

// A register that differs is found at the next hash; a bit of memory that nobody
// touches within one round over RAM. The report names step and place.
func TestDivergence(t *testing.T) {
	cfg := machinetest.Config(t, 1)
	var log []event.Entry
	o, m := newOutside(9), power(t, cfg)
	o.record(t, m, 600_000, func(e event.Entry) { log = append(log, e) })
	hashes := func(after event.Seq) (list []event.Entry) {
		for _, e := range log[after:] {
			if e.Input.Kind() == event.KindHash {
				list = append(list, e)
			}
		}
		return list
	}
	for _, c := range []struct {
		name  string
		place replay.Place
		flip  func(m *machine.Machine)
		found func(after event.Seq) event.Entry
	}{
		{"register", replay.PlaceState, (*machine.Machine).FlipRegister,
			func(after event.Seq) event.Entry { return hashes(after)[0] }},
		{"memory", replay.PlaceMemory, func(m *machine.Machine) { m.FlipMemory(machinetest.RAM - 5) },
			func(after event.Seq) event.Entry { return hashes(after)[machinetest.RAM/4096/machine.HashScrub-1] }},
	} {
		b := power(t, cfg)
		rep := replay.NewReplayer(b, 0, 0)
		rep.Feed(log...)
		if _, err := rep.Advance(200_000); err != nil {
			t.Fatal(err)
		}
		after, _ := rep.Executed()
		c.flip(b)
		_, err := rep.Advance(1 << 40)
		d, ok := err.(*replay.Divergence)
		if !ok {
			t.Fatalf("%s: %v", c.name, err)
		}
		if last := c.found(after); d.Place != c.place || d.Seq > last.Seq || d.Step > last.Step {
			t.Errorf("%s: found in %s at entry %d, step %d; want entry %d, step %d at the latest", c.name, d.Place, d.Seq, d.Step, last.Seq, last.Step)
		}
	}
}
