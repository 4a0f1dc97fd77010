// SPDX-License-Identifier: Apache-2.0

package net_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/virtio"
	"tandem/machine/virtio/internal/virtiotest"
	"tandem/machine/virtio/net"
)

const (
	slot    = 2
	rx, tx  = 0, 1
	plain   = virtio.RingEventIdx | virtio.RingIndirectDesc | net.FeatureMAC | net.FeatureStatus
	offload = plain | net.FeatureMrgRxBuf | net.FeatureCSum | net.FeatureGuestCSum |
		net.FeatureHostTSO4 | net.FeatureHostTSO6 | net.FeatureGuestTSO4 | net.FeatureGuestTSO6
)

var config = net.Config{MAC: [6]byte{2, 0, 0, 1, 2, 3}, MTU: 1500}

type fixture struct {
	*virtiotest.Guest
	dev *net.Device
}

func maker(dev **net.Device) virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
		*dev = net.New(slot, mem, line, emit, config)
		return *dev
	}
}

func boot(t testing.TB, features uint64) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev))
	f.Start(features, 256, 256)
	return f
}

func (f *fixture) fork() *fixture {
	n := &fixture{}
	n.Guest = f.Guest.Fork(maker(&n.dev))
	return n
}

func header(o event.Offload, buffers uint16) []byte {
	h := []byte{o.Flags, o.GSOType}
	for _, v := range []uint16{o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset, buffers} {
		h = binary.LittleEndian.AppendUint16(h, v)
	}
	return h
}

func frame(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i + i>>8)
	}
	return p
}

func (f *fixture) transmit(o event.Offload, data []byte) {
	f.Rings[tx].Add(f.Data(header(o, 0)), f.Data(data))
	f.Rings[tx].Kick()
}

func (f *fixture) receive(frames ...event.Frame) {
	f.T.Helper()
	if err := f.dev.Receive(event.Frames{Device: slot, Frames: frames}); err != nil {
		f.T.Fatal(err)
	}
}

// post gives the device n receive buffers of a size.
func (f *fixture) post(n, size int) []virtiotest.Buf {
	var list []virtiotest.Buf
	for range n {
		b := f.Space(size)
		f.Rings[rx].Add(b)
		list = append(list, b)
	}
	f.Rings[rx].Kick()
	return list
}

var tso4 = event.Offload{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}

// The configuration tells MAC, link and MTU, and a link that goes away is announced.
func TestConfig(t *testing.T) {
	f := boot(t, plain)
	if got := f.Config(0, 8); got != 0x0001_0302_0100_0002 {
		t.Errorf("MAC and status are %#x", got)
	}
	if got := f.Config(10, 2); got != 1500 {
		t.Errorf("MTU is %d", got)
	}
	f.dev.SetLink(false)
	if f.Config(6, 2) != 0 || f.Interrupt() != virtio.InterruptConfig {
		t.Error("the driver isn't told that the link is down")
	}
	f.dev.SetLink(false)
	if f.Interrupt() != 0 {
		t.Error("the driver is told of no change")
	}
	f.transmit(event.Offload{}, frame(60))
	f.receive(event.Frame{Data: frame(60)})
	if got, want := f.dev.Stats(), (net.Stats{RxDropped: 1, TxDropped: 1}); len(f.Out) != 0 || got != want {
		t.Errorf("frames pass a link that is down: %+v", got)
	}
}

// Packets leave in order, one output each, with what is left to be done to them.
func TestTransmit(t *testing.T) {
	f := boot(t, offload)
	big := frame(60_000)
	csum := event.Offload{Flags: 1, CsumStart: 34, CsumOffset: 16}
	tso6 := tso4
	tso6.GSOType = 4
	for _, p := range []event.Frame{{Data: frame(60)}, {Offload: csum, Data: frame(100)}, {Offload: tso4, Data: big}, {Offload: tso6, Data: big}} {
		f.Rings[tx].Add(f.Data(header(p.Offload, 0)), f.Data(p.Data[:20]), f.Data(p.Data[20:]))
		f.Out = append(f.Out, event.FrameOut{Device: slot, Frame: p})
	}
	want := f.Take()
	f.Rings[tx].Kick()
	if !reflect.DeepEqual(f.Out, want) {
		t.Error("frames sent differ from those given")
	}
	if len(f.Rings[tx].Collect()) != 4 || f.Interrupt() != virtio.InterruptUsed {
		t.Error("buffers don't come back")
	}
}

// What a driver must not send is dropped and counted, and its buffer comes back.
func TestTransmitDropped(t *testing.T) {
	bad := func(change func(o *event.Offload)) event.Offload {
		o := tso4
		change(&o)
		return o
	}
	for _, c := range []struct {
		name     string
		features uint64
		offload  event.Offload
		size     int
	}{
		{"too short", offload, event.Offload{}, 13},
		{"too long", offload, tso4, 65<<10 + 1},
		{"checksum not agreed on", plain, event.Offload{Flags: 1, CsumStart: 34, CsumOffset: 16}, 100},
		{"segmentation not agreed on", plain | net.FeatureCSum, tso4, 5000},
		{"checksum outside", offload, event.Offload{Flags: 1, CsumStart: 34, CsumOffset: 16}, 51},
		{"segments without checksum", offload, bad(func(o *event.Offload) { o.Flags = 0 }), 5000},
		{"segments of nothing", offload, bad(func(o *event.Offload) { o.GSOSize = 0 }), 5000},
		{"UDP fragmentation", offload, bad(func(o *event.Offload) { o.GSOType = 3 }), 5000},
		{"ECN", offload, bad(func(o *event.Offload) { o.GSOType = 0x81 }), 5000},
	} {
		f := boot(t, c.features)
		f.transmit(c.offload, frame(c.size))
		if len(f.Out) != 0 || f.dev.Stats().TxDropped != 1 || len(f.Rings[tx].Collect()) != 1 || f.NeedsReset() {
			t.Errorf("%s: %d outputs, %+v", c.name, len(f.Out), f.dev.Stats())
		}
	}
}

// A packet without a whole header fails the device.
func TestTransmitNoHeader(t *testing.T) {
	f := boot(t, plain)
	f.Rings[tx].Add(f.Data(make([]byte, 11)))
	f.Rings[tx].Kick()
	if !f.NeedsReset() {
		t.Error("the device goes on")
	}
}

// A received frame lies behind its header in one buffer, and with MRG_RXBUF in
// as many as it takes, shown to the driver at once.
func TestReceive(t *testing.T) {
	f := boot(t, offload)
	bufs := f.post(8, 1024)
	small, big := frame(60), frame(3000)
	f.receive(event.Frame{Data: small}, event.Frame{Offload: tso4, Data: big})
	u := f.Rings[rx].Collect()
	if len(u) != 4 || u[0].Written != 72 || u[1].Written != 1024 || u[2].Written != 1024 || u[3].Written != 964 {
		t.Fatalf("used %v", u)
	}
	if got := f.Bytes(bufs[0])[:72]; !bytes.Equal(got, append(header(event.Offload{}, 1), small...)) {
		t.Errorf("small frame arrives as %x", got)
	}
	var all []byte
	for i, b := range bufs[1:4] {
		all = append(all, f.Bytes(b)[:u[i+1].Written]...)
	}
	if !bytes.Equal(all, append(header(tso4, 3), big...)) {
		t.Error("large frame arrives changed")
	}
	if f.Interrupt() != virtio.InterruptUsed {
		t.Error("no interrupt")
	}
}

// Frames without a buffer wait in order, are delivered at the next kick of the
// receive queue, for which the device asks, and survive a snapshot.
func TestBacklog(t *testing.T) {
	f := boot(t, offload)
	f.post(1, 1024)
	for i := range 3 {
		f.receive(event.Frame{Data: frame(1500 + i)})
	}
	if len(f.Rings[rx].Collect()) != 0 || f.Interrupt() != 0 {
		t.Fatal("a frame went into too small a buffer")
	}
	f.transmit(event.Offload{}, frame(1))
	f.receive(event.Frame{})
	n := f.fork()
	if got, want := n.dev.Stats(), (net.Stats{RxDropped: 1, TxDropped: 1}); got != want {
		t.Errorf("the copy counts %+v, want %+v", got, want)
	}
	for _, m := range []*fixture{f, n} {
		kicks := m.Rings[rx].Kicks
		m.post(7, 1024)
		if m.Rings[rx].Kicks != kicks+1 {
			t.Error("the device did not ask for the kick")
		}
		u := m.Rings[rx].Collect()
		if len(u) != 6 || u[1].Written != 12+1500-1024 || u[5].Written != 12+1502-1024 {
			t.Errorf("used %v", u)
		}
	}
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
	kicks := f.Rings[rx].Kicks
	f.receive(event.Frame{Data: frame(60)})
	f.post(8, 1024)
	if f.Rings[rx].Kicks != kicks {
		t.Error("the device asks for kicks while nothing waits")
	}
}

// The backlog is bounded in frames and in bytes, and a reset empties it.
func TestBacklogBounded(t *testing.T) {
	for _, c := range []struct {
		size, held int
	}{{100, 256}, {60_000, 17}} {
		f := boot(t, offload)
		p := event.Frame{Data: frame(c.size)}
		if c.size > 1518 {
			p.Offload = tso4
		}
		for range 300 {
			f.receive(p)
		}
		if got := f.dev.Stats().RxDropped; got != uint64(300-c.held) {
			t.Errorf("%d frames of %d bytes dropped, want %d", got, c.size, 300-c.held)
		}
		f.Start(offload, 256, 256)
		f.post(200, 1024)
		if len(f.Rings[rx].Collect()) != 0 {
			t.Error("a reset driver gets old frames")
		}
	}
}

// A backlog that has been delivered has all of its room again.
func TestBacklogReused(t *testing.T) {
	f := boot(t, offload)
	buf := f.Space(4096)
	for range 3 {
		for range 16 {
			f.receive(event.Frame{Offload: tso4, Data: frame(60_000)})
		}
		for range 16 * 15 {
			f.Rings[rx].Add(buf)
		}
		f.Rings[rx].Kick()
		if n := len(f.Rings[rx].Collect()); n != 16*15 || f.dev.Stats().RxDropped != 0 {
			t.Fatalf("%d buffers used, %+v", n, f.dev.Stats())
		}
	}
}

// What the driver has not agreed to take is finished if it is a checksum, and
// dropped if it is segmentation.
func TestReceiveOffloads(t *testing.T) {
	f := boot(t, plain)
	if got := f.dev.Offloads(); got != (net.Offloads{}) {
		t.Errorf("a plain driver takes %+v", got)
	}
	bufs := f.post(2, 2048)
	data := frame(101)
	original := bytes.Clone(data)
	o := event.Offload{Flags: 1, CsumStart: 34, CsumOffset: 16}
	f.receive(event.Frame{Offload: tso4, Data: frame(4000)}, event.Frame{Offload: o, Data: data})
	if f.dev.Stats().RxDropped != 1 || !bytes.Equal(data, original) {
		t.Error("segments were not dropped, or the entry was changed")
	}
	got := f.Bytes(bufs[0])
	if !bytes.Equal(got[:12], header(event.Offload{}, 1)) {
		t.Errorf("header is %x", got[:12])
	}
	// With the old field's bytes added once more, the whole sums up to ffff.
	sum := uint32(binary.BigEndian.Uint16(data[50:]))
	for i := 34; i < 101; i++ {
		sum += uint32(got[12+i]) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("the checksum leaves %#x", sum)
	}

	f = boot(t, offload)
	if got := f.dev.Offloads(); got != (net.Offloads{CSum: true, TSO4: true, TSO6: true}) {
		t.Errorf("a full driver takes %+v", got)
	}
	f = boot(t, plain|net.FeatureGuestTSO4)
	if f.dev.Offloads().TSO4 {
		t.Error("segments without checksums are taken")
	}
}

// Frames that no driver could take are dropped, one by one.
func TestReceiveDropped(t *testing.T) {
	f := boot(t, offload|net.FeatureMTU)
	f.post(200, 2048)
	bad := tso4
	bad.GSOType = 0x81
	f.receive(event.Frame{}, event.Frame{Data: frame(13)}, event.Frame{Offload: tso4, Data: frame(65<<10 + 1)},
		event.Frame{Data: frame(1519)}, event.Frame{Offload: bad, Data: frame(4000)},
		event.Frame{Offload: event.Offload{Flags: 1, CsumStart: 99, CsumOffset: 0}, Data: frame(100)},
		event.Frame{Offload: event.Offload{Flags: 4}, Data: frame(100)})
	if got := f.dev.Stats().RxDropped; got != 7 || len(f.Rings[rx].Collect()) != 0 {
		t.Errorf("%d frames dropped of 7", got)
	}
	f.receive(event.Frame{Data: frame(1518)})
	if len(f.Rings[rx].Collect()) != 1 {
		t.Error("a frame of MTU size was dropped")
	}
	if f.dev.Receive(event.Frames{Device: slot + 1}) == nil {
		t.Error("another device's frames were taken")
	}
	f.Store(virtio.RegStatus, 0)
	f.receive(event.Frame{Data: frame(60)})
	if f.dev.Stats().RxDropped != 8 {
		t.Error("a frame waits for a driver that isn't there")
	}
}

// A single buffer that is too small drops its frame but stays available, and a
// whole ring too small for a frame doesn't block those behind it.
func TestTooSmallBuffers(t *testing.T) {
	f := boot(t, plain)
	f.post(1, 100)
	f.receive(event.Frame{Data: frame(200)}, event.Frame{Data: frame(80)})
	if u := f.Rings[rx].Collect(); len(u) != 1 || u[0].Written != 92 || f.dev.Stats().RxDropped != 1 {
		t.Errorf("one buffer: used %v, %+v", u, f.dev.Stats())
	}
	f = boot(t, offload)
	f.post(256, 20)
	f.receive(event.Frame{Offload: tso4, Data: frame(10_000)}, event.Frame{Data: frame(100)})
	if u := f.Rings[rx].Collect(); len(u) != 6 || f.dev.Stats().RxDropped != 1 {
		t.Errorf("whole ring: used %v, %+v", u, f.dev.Stats())
	}
	f = boot(t, offload)
	f.post(8, 11)
	f.receive(event.Frame{Data: frame(60)})
	if !f.NeedsReset() {
		t.Error("a header was split over buffers")
	}
}

// What receiving one frame of full size costs the device.
func BenchmarkReceive(b *testing.B) {
	f := boot(b, offload)
	buf := f.Space(2048)
	in := event.Frames{Device: slot, Frames: []event.Frame{{Data: frame(1514)}}}
	b.SetBytes(1514)
	for b.Loop() {
		f.Rings[rx].Add(buf)
		f.dev.Receive(in)
	}
}
