// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"tandem/machine/event"
)

// counter is a machine that counts: each step changes n, every 97th prints, every
// 61st asks for entropy, every 500th waits for an input.
type counter struct {
	step    event.Step
	n, mem  uint64
	limit   event.Step // of the clock, 0 if there is none
	idle    bool
	id      event.OutputID
	outputs []event.Output
	mute    event.Step // prints nothing at this step: a fault
	over    event.Step // runs past this limit: a fault
}

func (c *counter) Step() event.Step { return c.step }

func (c *counter) emit(body event.OutputBody) {
	c.id++
	c.outputs = append(c.outputs, event.Output{ID: c.id, Step: c.step, Body: body})
}

func (c *counter) Run(limit event.Step) event.Stop {
	if c.over != 0 && limit == c.over {
		limit++
	}
	for c.step < limit {
		switch {
		case c.idle:
			return event.StopIdle
		case c.limit != 0 && c.step >= c.limit:
			return event.StopClock
		}
		c.step++
		c.n = c.n*6364136223846793005 + uint64(c.step)
		c.idle = c.step%500 == 0
		switch {
		case c.step == c.mute:
		case c.step%97 == 0:
			c.emit(event.ConsoleOut{Device: event.UART, Data: []byte(fmt.Sprint(c.n))})
			return event.StopOutput
		case c.step%61 == 0:
			c.emit(event.EntropyRequest{ID: uint64(c.step), Length: 1})
			return event.StopOutput
		}
	}
	return event.StopLimit
}

func (c *counter) Apply(in event.Input) error {
	switch in := in.(type) {
	case event.Clock:
		c.limit = in.Limit
	case event.ConsoleIn:
		for _, b := range in.Data {
			c.n, c.mem = c.n^uint64(b), c.mem*31+uint64(b)
		}
		if string(in.Data) == "echo" {
			c.emit(event.ConsoleOut{Device: in.Device, Data: in.Data})
		}
	case event.DiskDone:
		if len(in.Data) == 0 {
			return errors.New("no data")
		}
		c.mem += uint64(in.Data[0])
	default:
		return errors.New("unknown input")
	}
	c.idle = false
	return nil
}

func (c *counter) Outputs() []event.Output {
	out := c.outputs
	c.outputs = nil
	return out
}

func (c *counter) Hash(seq event.Seq) event.Hash {
	return event.Hash{State: c.n ^ uint64(c.step), Memory: c.mem + uint64(seq)}
}

// record runs a seeded primary for n inputs and returns its log, outputs and end.
func record(t *testing.T, seed uint64, n int) ([]event.Entry, []event.Output, *counter) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	m := &counter{}
	var log []event.Entry
	rec := NewRecorder(m, 0, 0, func(e event.Entry) { log = append(log, e) })
	for range n {
		for limit := m.step + event.Step(rnd.IntN(300)); m.step < limit; {
			if stop, err := rec.Run(limit); err != nil {
				t.Fatal(err)
			} else if stop == event.StopIdle || stop == event.StopClock {
				break
			}
		}
		var err error
		switch goLive := rnd.IntN(3) > 0; rnd.IntN(5) {
		case 0:
			err = rec.Record(event.Clock{Limit: m.step + 400}, goLive)
		case 1:
			err = rec.Record(event.ConsoleIn{Device: 1, Data: []byte("echo")}, goLive)
		case 2:
			err = rec.Record(event.DiskDone{Data: []byte{byte(rnd.Uint32())}}, goLive)
		case 3:
			err = rec.Record(event.Released{Last: rec.LastOutput()}, goLive)
		case 4:
			rec.RecordHash(goLive)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rec.RecordHash(true)
	return log, rec.Outputs(), m
}

// A backup fed in pieces and run in slices of any size emits the same outputs and
// ends in the same state as its primary.
func TestReplayEqual(t *testing.T) {
	for seed := range uint64(20) {
		log, want, primary := record(t, seed, 300)
		rnd := rand.New(rand.NewPCG(seed, 1))
		backup := &counter{}
		r := NewReplayer(backup, 0, 0)
		var applied []event.Entry
		r.Applied = func(e event.Entry) { applied = append(applied, e) }
		var got []event.Output
		for left := log; ; {
			n := min(len(left), rnd.IntN(20))
			if err := r.Feed(left[:n]...); err != nil {
				t.Fatal(err)
			}
			left = left[n:]
			before := backup.step
			budget := event.Step(rnd.IntN(200))
			wait, err := r.Advance(budget)
			if err != nil {
				t.Fatal(err)
			}
			if backup.step-before > budget {
				t.Fatalf("%d steps of a budget of %d", backup.step-before, budget)
			}
			got = append(got, r.Outputs()...)
			if wait == WaitEntries && len(left) == 0 {
				break
			}
		}
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(applied, log) {
			t.Fatalf("seed %d: %d outputs of %d, %d entries of %d", seed, len(got), len(want), len(applied), len(log))
		}
		primary.outputs, backup.outputs = nil, nil
		if !reflect.DeepEqual(primary, backup) {
			t.Fatalf("seed %d: primary %+v, backup %+v", seed, primary, backup)
		}
		if seq, step := r.Executed(); int(seq) != len(log) || step != primary.step {
			t.Fatalf("executed %d, %d", seq, step)
		}
	}
}

// An external output is followed by its mark at its step, in the group that is
// open, and other outputs have none.
func TestMarks(t *testing.T) {
	m := &counter{}
	var log []string
	rec := NewRecorder(m, 0, 0, func(e event.Entry) { log = append(log, Text(e)) })
	for m.step < 98 {
		if _, err := rec.Run(98); err != nil {
			t.Fatal(err)
		}
	}
	for _, goLive := range []bool{false, true} {
		if err := rec.Record(event.ConsoleIn{Data: []byte("echo")}, goLive); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"#1 @97 OutputMark last 2, go-live",
		"#2 @98 ConsoleIn device 0 bytes 4",
		"#3 @98 OutputMark last 3",
		"#4 @98 ConsoleIn device 0 bytes 4, go-live",
		"#5 @98 OutputMark last 4, go-live",
	}
	if !reflect.DeepEqual(log, want) {
		t.Fatalf("log\n%s", strings.Join(log, "\n"))
	}
}

// An input that the machine or the encoding refuses is not logged, and the
// Recorder goes on.
func TestRecordRefused(t *testing.T) {
	m := &counter{}
	logged := 0
	rec := NewRecorder(m, 0, 0, func(event.Entry) { logged++ })
	for _, in := range []event.Input{
		nil, event.DiskDone{}, event.Entropy{}, event.OutputMark{}, event.Hash{}, event.Released{Last: 1},
		event.ConsoleIn{Device: 9}, event.ConsoleIn{Data: make([]byte, MaxConsole+1)},
	} {
		if err := rec.Record(in, true); err == nil {
			t.Errorf("%v is recorded", in)
		}
	}
	if seq, _ := rec.Executed(); seq != 0 || logged != 0 {
		t.Fatalf("%d entries logged, the last is %d", logged, seq)
	}
	if err := rec.Record(event.ConsoleIn{}, true); err != nil || logged != 1 {
		t.Fatalf("%d entries logged, error %v", logged, err)
	}
}

// A backup executes no step and applies no entry of an incomplete group, and
// going live discards it.
func TestGroups(t *testing.T) {
	m := &counter{step: 10}
	r := NewReplayer(m, 10, 0)
	key := event.ConsoleIn{Data: []byte("k")}
	feed := func(e event.Entry) {
		t.Helper()
		if err := r.Feed(e); err != nil {
			t.Fatal(err)
		}
		if wait, err := r.Advance(^event.Step(0)); err != nil || wait != WaitEntries {
			t.Fatal(wait, err)
		}
	}
	at := func(seq event.Seq, step event.Step) {
		t.Helper()
		if s, at := r.Executed(); s != seq || at != step {
			t.Fatalf("executed entry %d, step %d, want %d, %d", s, at, seq, step)
		}
	}
	feed(event.Entry{Seq: 11, Step: 20, Input: key})
	at(10, 10)
	feed(event.Entry{Seq: 12, Step: 30, GoLive: true, Input: key})
	at(12, 30)
	feed(event.Entry{Seq: 13, Step: 40, Input: key})
	at(12, 30)
	if complete, partial := r.Pending(); complete != 0 || partial != 1 {
		t.Fatal(complete, partial)
	}
	var log []event.Entry
	rec, err := r.GoLive(func(e event.Entry) { log = append(log, e) })
	if err != nil {
		t.Fatal(err)
	}
	if err := rec.Record(key, true); err != nil {
		t.Fatal(err)
	}
	if len(log) != 1 || log[0].Seq != 13 || log[0].Step != 30 {
		t.Fatalf("the new log begins with %v", log)
	}
	if _, err := r.Advance(1); err == nil {
		t.Fatal("a Replayer goes on after going live")
	}
}

// A copy that goes live at any group of a log, its outputs marked or not, writes a
// log that a third machine can follow.
func TestGoLiveAnywhere(t *testing.T) {
	log, _, _ := record(t, 5, 60)
	for n := range log {
		r := NewReplayer(&counter{}, 0, 0)
		if err := r.Feed(log[:n]...); err != nil {
			t.Fatal(err)
		}
		if n > 0 && log[n-1].GoLive {
			if _, err := r.GoLive(nil); err == nil {
				t.Fatal("went live before the log was drained")
			}
		}
		if _, err := r.Advance(1 << 40); err != nil {
			t.Fatal(err)
		}
		seq, _ := r.Executed()
		whole := append([]event.Entry(nil), log[:seq]...)
		rec, err := r.GoLive(func(e event.Entry) { whole = append(whole, e) })
		if err != nil {
			t.Fatal(err)
		}
		if err := rec.Record(event.ConsoleIn{Data: []byte("echo")}, true); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := rec.Run(rec.m.Step() + 100); err != nil {
				t.Fatal(err)
			}
		}
		rec.RecordHash(true)
		third := NewReplayer(&counter{}, 0, 0)
		if err := third.Feed(whole...); err != nil {
			t.Fatal(err)
		}
		if wait, err := third.Advance(1 << 40); err != nil || wait != WaitEntries {
			t.Fatalf("after %d entries: %v, %v", n, wait, err)
		}
		if third.LastOutput() != rec.LastOutput() {
			t.Fatalf("output %d, want %d", third.LastOutput(), rec.LastOutput())
		}
	}
}

// Each way in which a machine can differ is found, at its place.
func TestDivergence(t *testing.T) {
	log, _, _ := record(t, 1, 200)
	find := func(match func(event.Entry) bool) int {
		for i := 50; i < len(log); i++ {
			if match(log[i]) {
				return i
			}
		}
		t.Fatal("the log has no such entry")
		return 0
	}
	kind := func(k event.Kind) int {
		return find(func(e event.Entry) bool { return e.Input.Kind() == k })
	}
	hash, mark, disk := kind(event.KindHash), kind(event.KindOutputMark), kind(event.KindDiskDone)
	released := find(func(e event.Entry) bool { r, ok := e.Input.(event.Released); return ok && r.Last > 0 })
	printed := find(func(e event.Entry) bool { return e.Input.Kind() == event.KindOutputMark && e.Step%97 == 0 })
	stepped := find(func(e event.Entry) bool {
		return e.Input.Kind() == event.KindClock && e.Step > log[e.Seq-2].Step && e.Step%500 > 10
	})
	late := find(func(e event.Entry) bool {
		return e.Input.Kind() == event.KindOutputMark && e.Step%97 == 0 && log[e.Seq].Step > e.Step
	})
	setInput := func(i int, in event.Input) func(*counter, []event.Entry) {
		return func(_ *counter, log []event.Entry) { log[i].Input = in }
	}
	state := log[hash].Input.(event.Hash)
	for _, tt := range []struct {
		name  string
		seq   int // of the entry that shows it, 0 if any
		place Place
		fault func(m *counter, log []event.Entry)
	}{
		{"state", hash + 1, PlaceState, setInput(hash, event.Hash{State: state.State ^ 1, Memory: state.Memory})},
		{"memory", hash + 1, PlaceMemory, setInput(hash, event.Hash{State: state.State, Memory: state.Memory ^ 1})},
		{"another start", 0, PlaceState, func(m *counter, _ []event.Entry) { m.n = 1 }},
		{"mark too high", mark + 1, PlaceOutput, setInput(mark, event.OutputMark{Last: 1 << 40})},
		{"mark too low", mark + 1, PlaceOutput, setInput(mark, event.OutputMark{})},
		{"mark too late", late + 1, PlaceOutput, func(_ *counter, log []event.Entry) { log[late].Step++ }},
		{"no mark", mark + 1, PlaceOutput, setInput(mark, event.ConsoleIn{})},
		{"release of what was not emitted", released + 1, PlaceOutput, setInput(released, event.Released{Last: 1 << 40})},
		{"output missing", printed + 1, PlaceOutput, func(m *counter, log []event.Entry) { m.mute = log[printed].Step }},
		{"output number skipped", 0, PlaceOutput, func(m *counter, _ []event.Entry) { m.id = 5 }},
		{"input refused", disk + 1, PlaceInput, setInput(disk, event.DiskDone{})},
		{"idle before the entry", 0, PlaceStep, func(m *counter, _ []event.Entry) { m.idle = true }},
		{"clock before the entry", 0, PlaceStep, func(m *counter, _ []event.Entry) { m.limit = 1 }},
		{"past the entry", stepped + 1, PlaceStep, func(m *counter, log []event.Entry) { m.over = log[stepped].Step }},
	} {
		m, faulty := &counter{}, append([]event.Entry(nil), log...)
		tt.fault(m, faulty)
		r := NewReplayer(m, 0, 0)
		if err := r.Feed(faulty...); err != nil {
			t.Fatal(err)
		}
		_, err := r.Advance(1 << 40)
		var d *Divergence
		if !errors.As(err, &d) || d.Place != tt.place || tt.seq != 0 && int(d.Seq) != tt.seq || d.Step != m.step {
			t.Errorf("%s: error %v", tt.name, err)
			continue
		}
		want := []string{fmt.Sprintf("entry %d, step %d", d.Seq, d.Step), string(d.Place), d.Want, d.Got}
		if tt.seq > 8 {
			want = append(want, Text(log[tt.seq-2]), Text(log[tt.seq-9]))
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %v", tt.name, w, err)
			}
		}
		if _, again := r.Advance(1); again != err {
			t.Errorf("%s: the error did not stay", tt.name)
		}
		if _, err := r.GoLive(nil); !errors.As(err, &d) {
			t.Errorf("%s: went live: %v", tt.name, err)
		}
	}
}

// Entries that do not follow each other are no log.
func TestFeedOrder(t *testing.T) {
	for _, e := range []event.Entry{
		{Seq: 5, Step: 100, Input: event.Hash{}},
		{Seq: 7, Step: 100, Input: event.Hash{}},
		{Seq: 6, Step: 99, Input: event.Hash{}},
		{Seq: 6, Step: 100},
	} {
		r := NewReplayer(&counter{}, 4, 0)
		err := r.Feed(event.Entry{Seq: 5, Step: 100, Input: event.Hash{}}, e)
		if !errors.Is(err, ErrOrder) {
			t.Errorf("%v: error %v", e, err)
		}
		if _, again := r.Advance(1); again != err {
			t.Errorf("%v: the error did not stay: %v", e, again)
		}
	}
}

// The payload of a read from the backup's disk is not logged but comes from
// Ready, which may keep the backup waiting; without Ready there is none.
func TestFromDisk(t *testing.T) {
	primary, backup := &counter{}, &counter{}
	r := NewReplayer(backup, 0, 0)
	alone := NewReplayer(&counter{}, 0, 0)
	rec := NewRecorder(primary, 0, 0, func(e event.Entry) {
		if err := errors.Join(r.Feed(e), alone.Feed(e)); err != nil {
			t.Fatal(err)
		}
	})
	read := event.DiskDone{ID: 1, FromDisk: true, Data: []byte("payload")}
	if err := rec.Record(read, true); err != nil {
		t.Fatal(err)
	}
	rec.RecordHash(true)
	ready := false
	r.Ready = func(e event.Entry) (event.Input, bool) {
		in, ok := e.Input.(event.DiskDone)
		if !ok {
			return e.Input, true
		}
		if in.Data != nil {
			t.Fatalf("the payload is logged: %s", Text(e))
		}
		in.Data = []byte("payload")
		return in, ready
	}
	if wait, err := r.Advance(10); wait != WaitReady || err != nil {
		t.Fatal(wait, err)
	}
	ready = true
	if wait, err := r.Advance(10); wait != WaitEntries || err != nil {
		t.Fatal(wait, err)
	}
	if backup.mem != primary.mem || primary.mem == 0 {
		t.Fatalf("backup %d, primary %d", backup.mem, primary.mem)
	}
	if _, err := alone.Advance(10); err == nil || !strings.Contains(err.Error(), "reads=log") {
		t.Fatal(err)
	}
}
