// SPDX-License-Identifier: Apache-2.0

package blk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
	"tandem/machine/virtio/blk"
	"tandem/machine/virtio/internal/virtiotest"
)

const (
	slot     = 3
	features = virtio.RingEventIdx | virtio.RingIndirectDesc | blk.FeatureFlush | blk.FeatureDiscard | blk.FeatureWriteZeroes
	capacity = 1 << 30
)

const (
	in, out, flush, getID, discard, writeZeroes = 0, 1, 4, 8, 11, 13
)

type fixture struct {
	*virtiotest.Guest
	dev *blk.Device
}

func maker(dev **blk.Device, cfg blk.Config) virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
		*dev = blk.New(slot, mem, line, emit, cfg)
		return *dev
	}
}

func boot(t testing.TB) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev, blk.Config{Capacity: capacity, Serial: "tandem-0"}))
	f.Start(features, 256)
	return f
}

func (f *fixture) fork() *fixture {
	n := &fixture{}
	n.Guest = f.Guest.Fork(maker(&n.dev, blk.Config{Capacity: capacity, Serial: "tandem-0"}))
	return n
}

func header(kind uint32, sector uint64) []byte {
	h := binary.LittleEndian.AppendUint32(nil, kind)
	h = binary.LittleEndian.AppendUint32(h, 0)
	return binary.LittleEndian.AppendUint64(h, sector)
}

func segment(sector uint64, n, flags uint32) []byte {
	s := binary.LittleEndian.AppendUint64(nil, sector)
	s = binary.LittleEndian.AppendUint32(s, n)
	return binary.LittleEndian.AppendUint32(s, flags)
}

// ask makes a request available and kicks; it returns the buffer of the status.
func (f *fixture) ask(kind uint32, sector uint64, data ...virtiotest.Buf) virtiotest.Buf {
	status := f.Space(1)
	f.RAM.Write(status.Addr, []byte{0xff})
	f.Rings[0].Add(append(append([]virtiotest.Buf{f.Data(header(kind, sector))}, data...), status)...)
	f.Rings[0].Kick()
	return status
}

func (f *fixture) status(b virtiotest.Buf) byte { return f.Bytes(b)[0] }

// request returns the only output, a DiskRequest.
func (f *fixture) request() event.DiskRequest {
	f.T.Helper()
	o := f.Take()
	if len(o) != 1 {
		f.T.Fatalf("%d outputs instead of one", len(o))
	}
	return o[0].(event.DiskRequest)
}

func (f *fixture) done(r event.DiskRequest, status event.DiskStatus, data []byte) {
	f.T.Helper()
	if err := f.dev.Done(event.DiskDone{Device: slot, ID: r.ID, Status: status, Data: data}); err != nil {
		f.T.Fatal(err)
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

// The configuration tells capacity and limits at the offsets of §5.2.4.
func TestConfig(t *testing.T) {
	f := boot(t)
	for _, c := range []struct {
		name string
		off  uint64
		size int
		want uint64
	}{
		{"capacity", 0, 8, capacity / 512}, {"size_max", 8, 4, 16384}, {"seg_max", 12, 4, 254},
		{"blk_size", 20, 4, 512}, {"max_discard_seg", 40, 4, 1}, {"discard_sector_alignment", 44, 4, 8},
		{"max_write_zeroes_seg", 52, 4, 1},
	} {
		if got := f.Config(c.off, c.size); got != c.want {
			t.Errorf("%s is %d, want %d", c.name, got, c.want)
		}
	}
	f.dev.Resize(capacity * 2)
	if f.Config(0, 8) != capacity/256 || f.Interrupt() != virtio.InterruptConfig {
		t.Error("the driver isn't told of a resize")
	}
}

// An empty drive asks nobody for anything: reads fail, and a flush has nothing to do.
func TestEmptyDrive(t *testing.T) {
	f := boot(t)
	f.dev.Resize(0)
	read, flushed := f.ask(in, 0, f.Space(512)), f.ask(flush, 0)
	if f.status(read) != byte(event.DiskIOError) || f.status(flushed) != byte(event.DiskOK) {
		t.Errorf("a read ends with %d, a flush with %d", f.status(read), f.status(flushed))
	}
	if o := f.Take(); len(o) > 0 {
		t.Errorf("%d outputs", len(o))
	}
}

// A read writes data, status and used length only as its completion is applied.
func TestRead(t *testing.T) {
	f := boot(t)
	a, b := f.Space(512), f.Space(1024)
	st := f.ask(in, 10, a, b)
	r := f.request()
	want := event.DiskRequest{Device: slot, ID: 1, Op: event.DiskRead, Offset: 5120, Length: 1536}
	if !reflect.DeepEqual(r, want) {
		t.Fatalf("request %+v, want %+v", r, want)
	}
	if f.status(st) != 0xff || f.Interrupt() != 0 {
		t.Fatal("the guest sees something before the completion")
	}
	data := pattern(1536)
	f.done(r, event.DiskOK, data)
	if got := append(f.Bytes(a), f.Bytes(b)...); !bytes.Equal(got, data) || f.status(st) != 0 {
		t.Error("data or status is wrong")
	}
	if u := f.Rings[0].Collect(); len(u) != 1 || u[0].Written != 1537 || f.Interrupt() != virtio.InterruptUsed {
		t.Errorf("used %v", u)
	}
}

// A failed read reports its status and leaves the guest's buffer alone.
func TestReadError(t *testing.T) {
	f := boot(t)
	a := f.Space(512)
	st := f.ask(in, 0, a)
	f.done(f.request(), event.DiskIOError, nil)
	if f.status(st) != 1 || !bytes.Equal(f.Bytes(a), make([]byte, 512)) {
		t.Error("status or buffer is wrong")
	}
	if u := f.Rings[0].Collect(); len(u) != 1 || u[0].Written != 0 {
		t.Errorf("used %v, nothing was written from the start on", u)
	}
}

// The payload of a write is what the guest's memory held at the kick, also
// through an indirect table and with header and data in one buffer.
func TestWrite(t *testing.T) {
	f := boot(t)
	for _, indirect := range []bool{false, true} {
		f.Rings[0].Indirect = indirect
		data := pattern(1024)
		buf, st := f.Data(append(header(out, 8), data[:100]...)), f.Space(1)
		rest := f.Data(data[100:])
		f.Rings[0].Add(buf, rest, st)
		f.Rings[0].Kick()
		f.RAM.Write(rest.Addr, make([]byte, 900)) // the guest changes it while in flight
		r := f.request()
		if r.Op != event.DiskWrite || r.Offset != 4096 || r.Length != 1024 || !bytes.Equal(r.Data, data) {
			t.Fatalf("indirect %v: wrong request", indirect)
		}
		f.done(r, event.DiskOK, nil)
		if u := f.Rings[0].Collect(); f.status(st) != 0 || len(u) != 1 || u[0].Written != 1 {
			t.Errorf("indirect %v: status %d, used %v", indirect, f.status(st), u)
		}
	}
}

// Flush, discard and write zeroes become the requests they say.
func TestOperations(t *testing.T) {
	f := boot(t)
	for _, c := range []struct {
		kind uint32
		seg  []byte
		want event.DiskRequest
	}{
		{flush, nil, event.DiskRequest{Op: event.DiskFlush}},
		{discard, segment(16, 8, 0), event.DiskRequest{Op: event.DiskDiscard, Offset: 8192, Length: 4096}},
		{writeZeroes, segment(16, 8, 1), event.DiskRequest{Op: event.DiskWriteZeroes, Offset: 8192, Length: 4096}},
		{writeZeroes, segment(0, 1, 0), event.DiskRequest{Op: event.DiskWriteZeroes, Length: 512}},
	} {
		st := f.ask(c.kind, 0, f.Data(c.seg))
		r := f.request()
		c.want.Device, c.want.ID = slot, r.ID
		if !reflect.DeepEqual(r, c.want) {
			t.Errorf("type %d: %+v, want %+v", c.kind, r, c.want)
		}
		f.done(r, event.DiskOK, nil)
		if f.status(st) != 0 {
			t.Errorf("type %d: status %d", c.kind, f.status(st))
		}
	}
}

// What the device can refuse by itself is answered at the kick.
func TestRefused(t *testing.T) {
	f := boot(t)
	sectors := uint64(capacity / 512)
	for _, c := range []struct {
		name   string
		kind   uint32
		sector uint64
		data   virtiotest.Buf
		want   byte
	}{
		{"read beyond the end", in, sectors, f.Space(512), 1},
		{"read across the end", in, sectors - 1, f.Space(1024), 1},
		{"read at the end of numbers", in, ^uint64(0), f.Space(1024), 1},
		{"read of half a sector", in, 0, f.Space(256), 1},
		{"read of nothing", in, 0, f.Space(0), 1},
		{"write beyond the end", out, sectors, f.Data(pattern(512)), 1},
		{"huge write", out, 0, virtiotest.Buf{Addr: virtiotest.Base, Len: 0xfffffe00}, 1},
		{"discard beyond the end", discard, 0, f.Data(segment(sectors, 8, 0)), 1},
		{"discard of too much", discard, 0, f.Data(segment(0, 1<<30, 0)), 1},
		{"discard of two segments", discard, 0, f.Data(make([]byte, 32)), 1},
		{"discard with unmap", discard, 0, f.Data(segment(0, 8, 1)), 2},
		{"write zeroes with an unknown flag", writeZeroes, 0, f.Data(segment(0, 8, 2)), 2},
		{"write zeroes of too much", writeZeroes, 0, f.Data(segment(0, 1<<18, 0)), 1},
		{"unknown type", 77, 0, f.Data(nil), 2},
		{"secure erase", 14, 0, f.Data(segment(0, 8, 0)), 2},
	} {
		st := f.ask(c.kind, c.sector, c.data)
		if got := f.status(st); got != c.want || len(f.Take()) > 0 || len(f.Rings[0].Collect()) != 1 {
			t.Errorf("%s: status %d, want %d at once", c.name, got, c.want)
		}
	}
	if f.NeedsReset() {
		t.Error("the device failed")
	}
}

// A read-only disk says so and refuses all that changes it.
func TestReadOnly(t *testing.T) {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev, blk.Config{Capacity: capacity, ReadOnly: true}))
	if f.Offered()&(blk.FeatureReadOnly|blk.FeatureDiscard|blk.FeatureWriteZeroes) != blk.FeatureReadOnly {
		t.Errorf("features offered are %#x", f.Offered())
	}
	f.Start(virtio.RingEventIdx|blk.FeatureReadOnly, 256)
	for kind, data := range map[uint32][]byte{out: pattern(512), discard: segment(0, 8, 0), writeZeroes: segment(0, 8, 0)} {
		if st := f.ask(kind, 0, f.Data(data)); f.status(st) != 1 {
			t.Errorf("type %d: status %d", kind, f.status(st))
		}
	}
	f.ask(in, 0, f.Space(512))
	f.request()
}

// GET_ID gives the serial in 20 bytes padded with zeros, or as many as fit.
func TestGetID(t *testing.T) {
	f := boot(t)
	for _, n := range []int{20, 8, 30} {
		b := f.Space(n)
		st := f.ask(getID, 0, b)
		want := make([]byte, n)
		copy(want, "tandem-0")
		if !bytes.Equal(f.Bytes(b), want) || f.status(st) != 0 {
			t.Errorf("room for %d: %q, status %d", n, f.Bytes(b), f.status(st))
		}
	}
}

// Requests complete in any order, and Pending keeps the order of submission.
func TestOutOfOrder(t *testing.T) {
	f := boot(t)
	var stat []virtiotest.Buf
	for i := range 5 {
		stat = append(stat, f.ask(out, uint64(i), f.Data(pattern(512))))
	}
	reqs := f.Take()
	f.done(reqs[3].(event.DiskRequest), event.DiskOK, nil)
	f.done(reqs[0].(event.DiskRequest), event.DiskIOError, nil)
	if p := f.dev.Pending(); fmt.Sprint(p) != fmt.Sprint([]event.OutputBody{reqs[1], reqs[2], reqs[4]}) {
		t.Error("pending requests are not what is left, in order")
	}
	if f.status(stat[3]) != 0 || f.status(stat[0]) != 1 || f.status(stat[1]) != 0xff {
		t.Error("a completion went to another request")
	}
	u := f.Rings[0].Collect()
	if len(u) != 2 || u[0].Head != 9 || u[1].Head != 0 {
		t.Errorf("used %v", u)
	}
}

// pieces asks for more than a DiskRequest carries: 256 KiB of RAM again and again.
func (f *fixture) pieces(kind uint32, sector uint64, total int) (status, buf virtiotest.Buf) {
	buf = virtiotest.Buf{Addr: virtiotest.Base + 512<<10, Len: 256 << 10, Write: kind == in}
	var data []virtiotest.Buf
	for ; total > 0; total -= int(buf.Len) {
		b := buf
		b.Len = min(b.Len, uint32(total))
		data = append(data, b)
	}
	return f.ask(kind, sector, data...), buf
}

// A read longer than a DiskRequest carries is done in pieces, one at a time; the
// driver sees one request.
func TestReadInPieces(t *testing.T) {
	const total = 2*blk.MaxData + 1024
	f := boot(t)
	st, buf := f.pieces(in, 100, total)
	n := f.fork()
	for _, g := range []*fixture{f, n} {
		got := 0
		for i, want := range []uint64{blk.MaxData, blk.MaxData, 1024} {
			p := g.dev.Pending()
			if len(p) != 1 || p[0].ID != uint64(i+1) || p[0].Offset != 100*512+uint64(got) || p[0].Length != want {
				t.Fatalf("piece %d is %+v", i, p)
			}
			if g.status(st) != 0xff || g.Interrupt() != 0 {
				t.Fatal("the guest sees the end too early")
			}
			g.done(p[0], event.DiskOK, bytes.Repeat([]byte{byte(i + 1)}, int(want)))
			got += int(want)
			if i == 0 {
				c := g.fork() // with a piece in flight
				if !reflect.DeepEqual(c.dev.Pending(), g.dev.Pending()) || c.Hash() != g.Hash() {
					t.Error("the copy has other requests pending")
				}
			}
		}
		if b := g.Bytes(buf); b[0] != 3 || b[1023] != 3 || b[1024] != 2 {
			t.Errorf("the pieces went to other places")
		}
		if u := g.Rings[0].Collect(); len(u) != 1 || u[0].Written != total+1 || g.status(st) != 0 || len(g.dev.Pending()) > 0 {
			t.Errorf("used %v, status %d", u, g.status(st))
		}
	}
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
}

// So is a write; what each piece carries is what memory holds as the one before it ends.
func TestWriteInPieces(t *testing.T) {
	const total = blk.MaxData + 512
	f := boot(t)
	data := pattern(256 << 10)
	f.RAM.Write(virtiotest.Base+512<<10, data)
	st, _ := f.pieces(out, 7, total)
	f = f.fork()
	first := f.dev.Pending()[0]
	if first.Length != blk.MaxData || !bytes.Equal(first.Data, bytes.Repeat(data, blk.MaxData>>18)) {
		t.Fatal("the first piece is wrong")
	}
	f.done(first, event.DiskOK, nil)
	second := f.request()
	if second.Offset != 7*512+blk.MaxData || !bytes.Equal(second.Data, data[:512]) || f.status(st) != 0xff {
		t.Fatalf("the second piece is wrong: %d bytes at %d", len(second.Data), second.Offset)
	}
	f.done(second, event.DiskOK, nil)
	if u := f.Rings[0].Collect(); len(u) != 1 || u[0].Written != 1 || f.status(st) != 0 {
		t.Errorf("used %v, status %d", u, f.status(st))
	}
}

// An error ends a request at its piece, and after a reset none follows.
func TestPiecesEnd(t *testing.T) {
	f := boot(t)
	st, _ := f.pieces(in, 0, 3*blk.MaxData)
	f.done(f.request(), event.DiskOK, make([]byte, blk.MaxData))
	f.done(f.request(), event.DiskIOError, nil)
	if u := f.Rings[0].Collect(); len(u) != 1 || u[0].Written != blk.MaxData || f.status(st) != 1 || len(f.Take()) > 0 {
		t.Errorf("used %v, status %d", u, f.status(st))
	}
	for _, kind := range []uint32{in, out} {
		f = boot(t)
		f.pieces(kind, 0, 3*blk.MaxData)
		r := f.request()
		f.Start(features, 256)
		var data []byte
		if kind == in {
			data = make([]byte, blk.MaxData)
		}
		f.done(r, event.DiskOK, data)
		if len(f.Take()) > 0 || len(f.dev.Pending()) > 0 || f.NeedsReset() {
			t.Errorf("type %d goes on after a reset", kind)
		}
	}
}

// An entry that no request of this machine explains is an error and changes nothing.
func TestDoneRefused(t *testing.T) {
	f := boot(t)
	f.ask(in, 0, f.Space(512))
	f.ask(out, 0, f.Data(pattern(512)))
	before := f.Hash()
	for _, d := range []event.DiskDone{
		{Device: slot, ID: 3}, {Device: slot, ID: 0}, {Device: 1, ID: 1},
		{Device: slot, ID: 1, Data: make([]byte, 511)}, {Device: slot, ID: 1, Data: make([]byte, 513)},
		{Device: slot, ID: 1, FromDisk: true}, {Device: slot, ID: 1, Status: 1, Data: make([]byte, 512)},
		{Device: slot, ID: 2, Data: []byte{1}}, {Device: slot, ID: 2, Status: 3},
	} {
		if f.dev.Done(d) == nil {
			t.Errorf("accepted: %+v", d)
		}
	}
	if f.Hash() != before {
		t.Error("a refused entry changed the state")
	}
}

// A request in flight over a reset stays pending and ends without a trace in
// the guest, even when the same ring is in use again.
func TestResetInFlight(t *testing.T) {
	f := boot(t)
	f.ask(in, 0, f.Space(512))
	f.ask(out, 1, f.Data(pattern(512)))
	old := f.Take()
	f.Start(features, 256)
	if n := len(f.dev.Pending()); n != 2 {
		t.Fatalf("%d requests pending after the reset, want 2", n)
	}
	st := f.ask(out, 2, f.Data(pattern(512)))
	r := f.request()
	if r.ID != 3 {
		t.Errorf("request after the reset is %d, want 3", r.ID)
	}
	ram := bytes.Clone(f.RAM)
	f.done(old[0].(event.DiskRequest), event.DiskOK, pattern(512))
	f.done(old[1].(event.DiskRequest), event.DiskOK, nil)
	f.RAM.Write(f.Rings[0].UsedRing+4+8*256, ram[f.Rings[0].UsedRing+4+8*256-virtiotest.Base:][:2]) // avail_event may move
	if !bytes.Equal(f.RAM, ram) || f.Interrupt() != 0 {
		t.Error("a completion from before the reset reached the guest")
	}
	f.done(r, event.DiskOK, nil)
	if f.status(st) != 0 || len(f.Rings[0].Collect()) != 1 || len(f.dev.Pending()) != 0 {
		t.Error("the request after the reset is lost")
	}
}

// Whatever the driver resets and submits, requests and payload in flight stay
// bounded; what waits in the ring goes on as completions arrive.
func TestInFlightBounded(t *testing.T) {
	f := boot(t)
	big := virtiotest.Buf{Addr: virtiotest.Base, Len: 1 << 20}
	for range 10 {
		f.Start(features, 256)
		f.Rings[0].Indirect = false
		for range 20 {
			f.ask(out, 0, big)
		}
	}
	p := f.dev.Pending()
	if len(p) != 64 {
		t.Fatalf("%d requests of 1 MiB in flight, want 64", len(p))
	}
	f.Take()
	for _, r := range p {
		f.done(r, event.DiskOK, nil)
	}
	if n := len(f.dev.Pending()); n != 20 || len(f.Take()) != 20 {
		t.Errorf("%d requests went on, want the last 20", n)
	}
	f = boot(t)
	for range 3 {
		f.Start(features, 256)
		for range 120 {
			f.ask(flush, 0)
		}
	}
	if n := len(f.dev.Pending()); n != 256 {
		t.Errorf("%d requests in flight, want 256", n)
	}
}

// A machine restored from a snapshot with requests in flight lists them with
// their payloads and goes on to the same bits.
func TestSnapshotInFlight(t *testing.T) {
	f := boot(t)
	f.ask(in, 4, f.Space(1024))
	f.ask(out, 8, f.Data(pattern(512)))
	f.ask(flush, 0)
	n := f.fork()
	if !reflect.DeepEqual(n.dev.Pending(), f.dev.Pending()) || len(n.dev.Pending()) != 3 {
		t.Fatal("the copy has other requests pending")
	}
	for _, m := range []*fixture{f, n} {
		p := m.dev.Pending()
		m.done(p[1], event.DiskOK, nil)
		m.done(p[0], event.DiskOK, pattern(1024))
		m.ask(out, 1, m.Data(pattern(1024)))
		m.done(p[2], event.DiskUnsupported, nil)
	}
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
	if f.Line != n.Line || !reflect.DeepEqual(f.Out[3:], n.Out) {
		t.Error("original and copy differ in outputs or interrupt")
	}
}

// A hostile snapshot is refused, not believed.
func TestHostileState(t *testing.T) {
	f := boot(t)
	f.ask(out, 8, f.Data(pattern(512)))
	good := f.Snapshot()
	// The request begins with id 1, op, offset and length; see State.
	at := bytes.Index(good, binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2}, 4096))
	if at < 0 {
		t.Fatal("the test doesn't know the layout")
	}
	for off, v := range map[int]byte{8: 0, 17: 1, 19: 0x40, 28: 0xff} {
		bad := bytes.Clone(good)
		bad[at+off] = v
		c := state.Loader(bytes.NewReader(bad))
		boot(t).dev.State(c)
		if c.Err() == nil {
			t.Errorf("byte %d of the request as %d was accepted", off, v)
		}
	}
}

// Chains that leave no room for header or status fail the device.
func TestNoRoom(t *testing.T) {
	for _, bufs := range []func(f *fixture) []virtiotest.Buf{
		func(f *fixture) []virtiotest.Buf { return []virtiotest.Buf{f.Data(header(in, 0))} },
		func(f *fixture) []virtiotest.Buf { return []virtiotest.Buf{f.Data(pattern(15)), f.Space(513)} },
	} {
		f := boot(t)
		f.Rings[0].Add(bufs(f)...)
		f.Rings[0].Kick()
		if !f.NeedsReset() {
			t.Error("the device goes on")
		}
	}
}

// What a kick with one 4 KiB write and its completion cost the device.
func BenchmarkWrite4K(b *testing.B) {
	f := boot(b)
	h, data, st := f.Data(header(out, 0)), f.Data(pattern(4096)), f.Space(1)
	for b.Loop() {
		f.Rings[0].Add(h, data, st)
		f.Rings[0].Kick()
		f.done(f.request(), event.DiskOK, nil)
	}
}
