// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"tandem/machine/event"
)

// samples has each kind of entry, at its edges.
func samples() []event.Entry {
	in := []event.Input{
		event.Clock{Base: 1000, Rate: 42949673, Limit: 2_000_000},
		event.Clock{Base: 1000, Rate: 42949673, Limit: 2_000_010},
		event.Clock{Base: 0, Rate: math.MaxUint64, Limit: 0},
		event.Clock{Base: math.MaxUint64, Rate: 0, Limit: math.MaxUint64},
		event.Frames{Device: 1},
		event.Frames{Device: 7, Frames: []event.Frame{
			{Data: []byte("frame")}, {},
			{Offload: event.Offload{Flags: 3, GSOType: 0x81, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 65535}, Data: []byte("x")},
		}},
		event.DiskDone{Device: 0, ID: 9, Data: bytes.Repeat([]byte{7}, 512)},
		event.DiskDone{Device: 0, ID: math.MaxUint64, Status: event.DiskUnsupported, FromDisk: true},
		event.ConsoleIn{Device: event.UART, Data: []byte("ls\r")},
		event.Entropy{Device: 3, ID: 1, Data: []byte{1, 2, 3}},
		event.OutputMark{Last: 1}, event.OutputMark{Last: math.MaxUint64}, event.OutputMark{Last: 500},
		event.Released{Last: 499}, event.Released{},
		event.Hash{State: 1, Memory: math.MaxUint64},
		event.Medium{Device: 7, Capacity: math.MaxUint64, Source: "nbd://host/export", Mirror: "nbd://host/old"}, event.Medium{},
	}
	for op := event.PowerOff; op <= event.Dismiss; op++ {
		in = append(in, event.Control{Op: op, Arg: uint64(op) << 40})
	}
	for op := event.Link; op <= event.Balloon; op++ {
		in = append(in, event.Control{Op: op, Arg: uint64(op) << 40})
	}
	var out []event.Entry
	for i, v := range in {
		out = append(out, event.Entry{Seq: event.Seq(i + 1), Step: event.Step(10 * i), GoLive: i%3 == 0, Input: v})
	}
	return out
}

// Each kind of entry comes back from a batch as it went in.
func TestBatchRoundTrip(t *testing.T) {
	want := samples()
	b, err := AppendBatch([]byte("before"), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadBatch(b[6:])
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

// The bytes of Version 1 are those of the package comment.
func TestEncodingBytes(t *testing.T) {
	const step = 300
	var c Encoder
	if got := hex.EncodeToString(c.Begin(nil, 5, 200)); got != "05c801" {
		t.Fatalf("batch head %s", got)
	}
	for i, tt := range []struct {
		in   event.Input
		want string
	}{
		{event.Clock{Base: 64, Rate: 1 << 31, Limit: step + 100}, "8164 8001 8080808010 c801"},
		{event.Clock{Base: 64 + 50 + 1, Rate: 1 << 31, Limit: step + 200}, "9164 02"},
		{event.Frames{Device: 1, Frames: []event.Frame{{Data: []byte("ab")}, {Offload: event.Offload{Flags: 1, CsumStart: 128}}}}, "8264 01 02 04 6162 01 01 00 00 00 8001 00"},
		{event.DiskDone{Device: 2, ID: 3, Status: event.DiskIOError, Data: []byte("d")}, "9364 02 03 01 64"},
		{event.DiskDone{Device: 2, ID: 4, FromDisk: true}, "c364 02 04"},
		{event.ConsoleIn{Device: event.UART, Data: []byte("c")}, "8464 ff 01 63"},
		{event.Entropy{Device: 3, ID: 1, Data: []byte("e")}, "8564 03 01 01 65"},
		{event.OutputMark{Last: 7}, "8664 0e"},
		{event.Released{Last: 5}, "8764 04"},
		{event.Control{Op: event.Activate, Arg: 2}, "8864 04 02"},
		{event.Hash{State: 1, Memory: 2}, "8964 0100000000000000 0200000000000000"},
		{event.Medium{Device: 3, Capacity: 512, Source: "s", Mirror: "m"}, "8a64 03 8004 01 73 01 6d"},
	} {
		e := event.Entry{Seq: event.Seq(5 + i), Step: event.Step(step + 100*i), GoLive: true, Input: tt.in}
		b, err := c.Append(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := hex.EncodeToString(b), strings.ReplaceAll(tt.want, " ", ""); got != want {
			t.Errorf("%s: %s, want %s", Text(e), got, want)
		}
	}
}

// What is not the one encoding of an entry is refused, with the reason.
func TestReadRefuses(t *testing.T) {
	for _, tt := range []struct{ hex, want string }{
		{"", "0 are left"},
		{"86", "cut short"},
		{"86800002", "shortest form"},
		{"8664ffffffffffffffffffff01", "64 bits"},
		{"86ffffffffffffffffff0100", "overflows"},
		{"800000", "unknown kind 0"},
		{"8b0000", "unknown kind 11"},
		{"960000", "unknown flags"},
		{"c1000002", "unknown flags"},
		{"8100000000", "repeats the rate"},
		{"82000800", "unknown device 8"},
		{"82000181080101", "1025 frames"},
		{"82000103", "3 frames"},
		{"820001010100000000000000", "empty offload"},
		{"820001010104000000000000", "offload flags"},
		{"820001010100020000000000", "GSO type"},
		{"8200010101000080800400000000", "16 bits"},
		{"8200010182a00800", "the limit is 67584"},
		{"b300000000", "disk status 3"},
		{"8300000081808004", "the limit is 8388608"},
		{"83000000046162", "4 bytes wanted, 2 are left"},
		{"88000000", "control operation 0"},
		{"88000900", "control operation 9"},
		{"890001", "1 are left"},
		{"8a000300818001", "the limit is 4096"},
		{"8a0008000000", "unknown device 8"},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(tt.hex, err)
		}
		var c Decoder
		if _, err := c.Begin([]byte{1, 1}); err != nil {
			t.Fatal(err)
		}
		before := c
		_, rest, err := c.Read(b)
		if err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.hex, err, tt.want)
		}
		if c != before || len(rest) != len(b) {
			t.Errorf("%s: an error changed the decoder", tt.hex)
		}
	}
	for _, b := range [][]byte{nil, {0, 1}, {1}, {1, 1}, {0x81, 0, 1, 0x86, 0, 0}} {
		if _, err := ReadBatch(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("batch % x: error %v", b, err)
		}
	}
}

// Entries out of order or beyond the limits are not encoded, and an error leaves
// the encoder as it was.
func TestAppendRefuses(t *testing.T) {
	frames := func(n, size int) []event.Frame {
		out := make([]event.Frame, n)
		for i := range out {
			out[i].Data = make([]byte, size)
		}
		return out
	}
	for _, tt := range []struct {
		name string
		e    event.Entry
	}{
		{"gap in Seq", event.Entry{Seq: 6, Step: 10, Input: event.Hash{}}},
		{"step goes back", event.Entry{Seq: 5, Step: 9, Input: event.Hash{}}},
		{"no input", event.Entry{Seq: 5, Step: 10}},
		{"pointer as input", event.Entry{Seq: 5, Step: 10, Input: &event.Hash{}}},
		{"many frames", event.Entry{Seq: 5, Step: 10, Input: event.Frames{Frames: frames(MaxFrames+1, 0)}}},
		{"long frame", event.Entry{Seq: 5, Step: 10, Input: event.Frames{Frames: frames(1, MaxFrame+1)}}},
		{"long burst", event.Entry{Seq: 5, Step: 10, Input: event.Frames{Frames: frames(MaxBurst/MaxFrame+1, MaxFrame)}}},
		{"disk", event.Entry{Seq: 5, Step: 10, Input: event.DiskDone{Data: make([]byte, MaxDisk+1)}}},
		{"from disk with data", event.Entry{Seq: 5, Step: 10, Input: event.DiskDone{FromDisk: true, Data: make([]byte, 1)}}},
		{"status", event.Entry{Seq: 5, Step: 10, Input: event.DiskDone{Status: 3}}},
		{"console", event.Entry{Seq: 5, Step: 10, Input: event.ConsoleIn{Data: make([]byte, MaxConsole+1)}}},
		{"entropy", event.Entry{Seq: 5, Step: 10, Input: event.Entropy{Data: make([]byte, MaxEntropy+1)}}},
		{"device", event.Entry{Seq: 5, Step: 10, Input: event.ConsoleIn{Device: 8}}},
		{"control", event.Entry{Seq: 5, Step: 10, Input: event.Control{}}},
		{"control between", event.Entry{Seq: 5, Step: 10, Input: event.Control{Op: event.Dismiss + 1}}},
		{"control beyond", event.Entry{Seq: 5, Step: 10, Input: event.Control{Op: event.Balloon + 1}}},
	} {
		var c Encoder
		c.Begin(nil, 5, 10)
		before := c
		b, err := c.Append([]byte("x"), tt.e)
		if !errors.Is(err, ErrInvalid) || string(b) != "x" || c != before {
			t.Errorf("%s: error %v, %d bytes", tt.name, err, len(b))
		}
	}
	largest := event.Entry{Seq: 5, Step: 10, Input: event.Frames{Frames: frames(MaxBurst/MaxFrame, MaxFrame)}}
	if b, err := AppendBatch(nil, []event.Entry{largest}); err != nil || len(b) > MaxEntry {
		t.Errorf("the largest burst: %d bytes, error %v", len(b), err)
	} else if _, err := ReadBatch(b); err != nil {
		t.Errorf("the largest burst is not read: %v", err)
	}
}

// roundTrip holds bytes that decode to encode to the same bytes again.
func roundTrip(t *testing.T, b []byte) {
	var in Decoder
	rest, err := in.Begin(b)
	if err != nil {
		return
	}
	var out Encoder
	again := out.Begin(nil, in.next, in.step)
	for len(rest) > 0 {
		e, r, err := in.Read(rest)
		if err != nil {
			break
		}
		if again, err = out.Append(again, e); err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		if len(Text(e)) == 0 || len(r) >= len(rest) {
			t.Fatal("no progress")
		}
		rest = r
	}
	if !bytes.Equal(again, b[:len(b)-len(rest)]) {
		t.Fatalf("% x became % x", b, again)
	}
}

// FuzzReadEntry shows that the decoder takes any bytes without a panic and that
// what it takes has one encoding.
func FuzzReadEntry(f *testing.F) {
	all, err := AppendBatch(nil, samples())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(all)
	for _, e := range samples() {
		b, err := AppendBatch(nil, []event.Entry{e})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(roundTrip)
}

// Twenty thousand seeded mutations of good batches hold to the same property.
func TestReadMutated(t *testing.T) {
	all, err := AppendBatch(nil, samples())
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		b := bytes.Clone(all)
		for range 1 + rnd.IntN(4) {
			b[rnd.IntN(len(b))] = byte(rnd.Uint32())
		}
		roundTrip(t, b[:rnd.IntN(len(b)+1)])
	}
}

// clocks are what a busy primary writes: a Clock every 2 ms, its rate adjusted
// each time by up to a percent.
func clocks(n int) []event.Entry {
	rnd := rand.New(rand.NewPCG(3, 4))
	out := make([]event.Entry, n)
	step, base := event.Step(1e12), event.Ticks(1e11)
	for i := range out {
		step += 1_000_000 + event.Step(rnd.IntN(20_000))
		base += 20_000 + event.Ticks(rnd.IntN(200))
		rate := uint64(85_899_346) + rnd.Uint64N(858_993)
		out[i] = event.Entry{Seq: event.Seq(i + 1), Step: step, GoLive: true,
			Input: event.Clock{Base: base, Rate: rate, Limit: step + 4_000_000}}
	}
	return out
}

// A Clock takes at most 12 bytes when its clock goes on from the one before, and
// 6 when rate and window stay.
func TestClockSize(t *testing.T) {
	var c Encoder
	entries := clocks(1000)
	c.Begin(nil, 1, entries[0].Step)
	for i, e := range entries {
		b, err := c.Append(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && len(b) > 12 {
			t.Fatalf("%s takes %d bytes", Text(e), len(b))
		}
	}
	steady := entries[999]
	steady.Seq++
	steady.Step += 1_000_000
	in := steady.Input.(event.Clock)
	in.Base, in.Limit = c.reading(steady.Step)+5, steady.Step+4_000_000
	steady.Input = in
	if b, err := c.Append(nil, steady); err != nil || len(b) > 6 {
		t.Fatalf("a steady clock takes %d bytes, error %v", len(b), err)
	}
}

func BenchmarkAppendClock(b *testing.B) {
	entries := clocks(1024)
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf, _ = AppendBatch(buf[:0], entries)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1024), "ns/entry")
	b.ReportMetric(float64(len(buf))/1024, "bytes/entry")
}

func BenchmarkReadClock(b *testing.B) {
	buf, err := AppendBatch(nil, clocks(1024))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadBatch(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1024), "ns/entry")
}

func BenchmarkFrames(b *testing.B) {
	in := event.Frames{Device: 1}
	for range 16 {
		in.Frames = append(in.Frames, event.Frame{Data: make([]byte, 1514)})
	}
	entries := []event.Entry{{Seq: 1, Step: 1, GoLive: true, Input: in}}
	b.SetBytes(16 * 1514)
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf, _ = AppendBatch(buf[:0], entries)
		if _, err := ReadBatch(buf); err != nil {
			b.Fatal(err)
		}
	}
}
