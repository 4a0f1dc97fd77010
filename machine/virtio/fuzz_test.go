// SPDX-License-Identifier: Apache-2.0

package virtio_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
	"tandem/machine/virtio"
	"tandem/machine/virtio/balloon"
	"tandem/machine/virtio/blk"
	"tandem/machine/virtio/console"
	"tandem/machine/virtio/input"
	"tandem/machine/virtio/internal/virtiotest"
	"tandem/machine/virtio/net"
	"tandem/machine/virtio/rng"
)

const fuzzSlot = 1

// kinds are the devices under attack, each with what the world may do to it:
// answer what the device asked for, and bring what nobody asked for.
var kinds = []struct {
	name   string
	queues []uint16
	make   virtiotest.Maker
	answer func(dev bus.Device, s *script)
	forge  func(dev bus.Device, s *script)
	quiet  bool // it asks nothing of the world
}{
	{
		"blk", []uint16{256},
		func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
			return blk.New(fuzzSlot, mem, line, emit, blk.Config{Capacity: 1 << 24, Serial: "fuzz"})
		},
		func(dev bus.Device, s *script) {
			d := dev.(*blk.Device)
			if p := d.Pending(); len(p) > 0 {
				r := p[int(s.byte())%len(p)]
				done := event.DiskDone{Device: fuzzSlot, ID: r.ID, Status: event.DiskStatus(s.byte() % 3)}
				if r.Op == event.DiskRead && done.Status == event.DiskOK {
					done.Data = bytes.Repeat([]byte{s.byte()}, int(r.Length))
				}
				s.must(d.Done(done))
			}
		},
		func(dev bus.Device, s *script) {
			_ = dev.(*blk.Device).Done(event.DiskDone{
				Device: fuzzSlot, ID: s.u64(), Status: event.DiskStatus(s.byte()), Data: s.bytes()})
			dev.(*blk.Device).Resize(1<<16 | s.u64())
		},
		false,
	},
	{
		"net", []uint16{256, 256},
		func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
			return net.New(fuzzSlot, mem, line, emit, net.Config{MTU: 1500})
		},
		func(dev bus.Device, s *script) {
			frame := event.Frame{Data: make([]byte, 14+int(s.byte())*6)}
			s.must(dev.(*net.Device).Receive(event.Frames{Device: fuzzSlot, Frames: []event.Frame{frame, frame}}))
		},
		func(dev bus.Device, s *script) {
			o := event.Offload{Flags: s.byte(), GSOType: s.byte() & 7, GSOSize: s.u16(), CsumStart: s.u16() % 64, CsumOffset: s.u16() % 64}
			_ = dev.(*net.Device).Receive(event.Frames{Device: fuzzSlot, Frames: []event.Frame{{Offload: o, Data: make([]byte, s.u16())}}})
			dev.(*net.Device).SetLink(s.byte() > 20)
		},
		false,
	},
	{
		"rng", []uint16{64},
		func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
			return rng.New(fuzzSlot, mem, line, emit, rng.Config{})
		},
		func(dev bus.Device, s *script) {
			d := dev.(*rng.Device)
			if p := d.Pending(); len(p) > 0 {
				r := p[int(s.byte())%len(p)]
				s.must(d.Entropy(event.Entropy{Device: fuzzSlot, ID: r.ID, Data: make([]byte, r.Length)}))
			}
		},
		func(dev bus.Device, s *script) {
			_ = dev.(*rng.Device).Entropy(event.Entropy{Device: fuzzSlot, ID: s.u64(), Data: s.bytes()})
		},
		false,
	},
	{
		"console", []uint16{64, 64},
		func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
			return console.New(fuzzSlot, mem, line, emit, console.Config{Columns: 80, Rows: 25})
		},
		func(dev bus.Device, s *script) {
			s.must(dev.(*console.Device).In(event.ConsoleIn{Device: fuzzSlot, Data: s.bytes()}))
		},
		func(dev bus.Device, s *script) {
			s.must(dev.(*console.Device).In(event.ConsoleIn{Device: fuzzSlot, Data: make([]byte, s.u16())}))
		},
		false,
	},
	{
		"input", []uint16{64, 64},
		func(mem bus.Memory, line bus.Line, _ bus.Emit) bus.Device {
			return input.New(mem, line, input.Config{})
		},
		func(dev bus.Device, _ *script) { dev.(*input.Device).Press() },
		func(dev bus.Device, s *script) {
			for range s.byte() {
				dev.(*input.Device).Press()
			}
		},
		true,
	},
	{
		"balloon", []uint16{16, 16},
		func(mem bus.Memory, line bus.Line, _ bus.Emit) bus.Device {
			return balloon.New(mem, line, balloon.Config{Wanted: 3, Release: func(pa uint64) bool { return mem.Write(pa, make([]byte, balloon.PageSize)) }})
		},
		func(dev bus.Device, s *script) { dev.(*balloon.Device).Want(uint32(s.u16())) },
		func(dev bus.Device, s *script) { dev.(*balloon.Device).Want(uint32(s.u64())) },
		true,
	},
}

// script is the fuzzer's input, read as numbers; at its end it gives zeros.
type script struct {
	t testing.TB
	b []byte
}

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) u16() uint16 { return uint16(s.byte()) | uint16(s.byte())<<8 }

// u64 gives small numbers and extreme ones.
func (s *script) u64() uint64 {
	v := uint64(s.u16())
	switch s.byte() % 4 {
	case 0:
		return v << 48
	case 1:
		return ^v
	}
	return v % 64
}

func (s *script) bytes() []byte {
	n := min(int(s.byte())%48, len(s.b))
	p := s.b[:n:n]
	s.b = s.b[n:]
	return p
}

func (s *script) must(err error) {
	if err != nil {
		s.t.Errorf("a fitting entry was refused: %v", err)
	}
}

// attack plays one script against one device and returns its end, and how often
// the device gave up. The
// first forks times that the script says so, the device is saved and loaded into
// a new one: that must change nothing.
func attack(t testing.TB, kind int, input []byte, forks int) (g *virtiotest.Guest, failures int) {
	k := kinds[kind]
	g = virtiotest.New(t, k.make)
	s := &script{t, input}
	failed := false
	g.Start(g.Offered(), k.queues...)
	for len(s.b) > 0 {
		switch op := s.byte() % 16; op {
		case 0: // a driver starts anew, with some of the features
			g.FreeAll()
			g.Start(g.Offered()&(s.u64()|s.u64()<<16|1<<29), k.queues...)
		case 1: // a register or the configuration
			off := uint64(s.byte()) * 4
			g.Dev.Load(off, 4)
			g.Dev.Store(off, 4, s.u64())
		case 2, 3: // bytes over the rings
			r := g.Rings[int(s.byte())%len(g.Rings)]
			at := []uint64{r.Desc, r.Avail, r.UsedRing}[s.byte()%3]
			g.RAM.Write(at+uint64(s.byte()), s.bytes())
		case 4: // a descriptor that makes some sense
			r := g.Rings[int(s.byte())%len(g.Rings)]
			r.WriteDesc(r.Desc, s.u16()%8, virtiotest.Base+uint64(s.u16()), uint32(s.u16()), s.u16()%8, s.u16()%8)
			r.MakeAvailable(s.u16() % 8)
		case 5, 6, 7, 8: // an honest chain, 8: one that may lack something
			if g.Load(virtio.RegStatus)&(virtio.StatusDriverOK|virtio.StatusNeedsReset) != virtio.StatusDriverOK {
				g.FreeAll()
				g.Start(g.Offered(), k.queues...)
			}
			r := g.Rings[int(s.byte())%len(g.Rings)]
			r.Add(honest(g, s)[op/8*(s.byte()%3):]...)
			r.Notify()
		case 9, 10:
			g.Store(virtio.RegQueueNotify, uint32(s.byte()%3))
		case 11, 12, 13:
			k.answer(g.Dev, s)
		case 14:
			k.forge(g.Dev, s)
		case 15:
			if forks--; forks >= 0 {
				before := g.Out
				g = g.Fork(k.make)
				g.Out = before
			}
		}
		if now := g.NeedsReset(); now != failed {
			failed = now
			failures++
		}
	}
	return g, failures
}

// honest returns what may be a disk request, a frame, or just buffers.
func honest(g *virtiotest.Guest, s *script) []virtiotest.Buf {
	const header, data, last = virtiotest.Base + 0xf0000, virtiotest.Base + 0xf1000, virtiotest.Base + 0xf2000
	var h []byte
	if s.byte()%2 == 0 {
		h = binary.LittleEndian.AppendUint64(nil, uint64(s.byte()%16))
		h = binary.LittleEndian.AppendUint64(h, uint64(s.byte()))
	}
	g.RAM.Write(header, append(h, make([]byte, 16)...)[:16])
	return []virtiotest.Buf{
		{Addr: header, Len: 16},
		{Addr: data, Len: uint32(s.byte()%5) * 512, Write: s.byte()%2 == 0},
		{Addr: last, Len: []uint32{1, 1, 20, 2000}[s.byte()%4], Write: true},
	}
}

func checkAttack(t *testing.T, kind int, input []byte) (outputs, failures int) {
	g, failures := attack(t, kind, input, 0)
	f, _ := attack(t, kind, input, 8)
	if g.Hash() != f.Hash() || !reflect.DeepEqual(g.Out, f.Out) {
		t.Errorf("%s: a run with snapshots ends as %x with %d outputs, without as %x with %d",
			kinds[kind].name, f.Hash(), len(f.Out), g.Hash(), len(g.Out))
	}
	if n := len(g.Snapshot()); n > 2<<20 {
		t.Errorf("%s: the device grew to %d bytes", kinds[kind].name, n)
	}
	return len(g.Out), failures
}

// FuzzDevices: whatever guest and world do, no device panics, and saving and
// loading it at any moment changes nothing.
func FuzzDevices(f *testing.F) {
	f.Add(uint8(0), []byte{5, 0, 0, 0, 1, 0, 11, 0})
	f.Fuzz(func(t *testing.T, kind uint8, input []byte) {
		if len(input) < 1<<12 {
			checkAttack(t, int(kind)%len(kinds), input)
		}
	})
}

// A seeded short run of FuzzDevices; the marks prove that it is no idle one.
func TestDevicesSurvive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for kind, k := range kinds {
		outputs, failed := 0, 0
		for range 100 {
			input := make([]byte, 100+r.IntN(900))
			for i := range input {
				input[i] = byte(r.Uint32())
			}
			n, failures := checkAttack(t, kind, input)
			outputs += n
			failed += failures
		}
		t.Logf("%s: %d outputs, in and out of NEEDS_RESET %d times", k.name, outputs, failed)
		if outputs < 100 && !k.quiet || failed < 20 {
			t.Errorf("%s: the attack hardly reaches the device: %d outputs, %d times", k.name, outputs, failed)
		}
	}
}

// FuzzState: bytes that claim to be a device's state load or are refused, and
// what was loaded can be used.
func FuzzState(f *testing.F) {
	for i, k := range kinds {
		g := virtiotest.New(f, k.make)
		g.Start(g.Offered(), k.queues...)
		g.Rings[0].Add(virtiotest.Buf{Addr: virtiotest.Base, Len: 16}, g.Space(513))
		g.Rings[0].Notify()
		f.Add(uint8(i), g.Snapshot())
	}
	f.Fuzz(func(t *testing.T, kind uint8, input []byte) {
		k := kinds[int(kind)%len(kinds)]
		g := virtiotest.New(t, k.make)
		c := state.Loader(bytes.NewReader(input))
		g.Dev.State(c)
		for q := range uint32(2) {
			g.Store(virtio.RegQueueNotify, q)
		}
		if c.Err() == nil {
			k.answer(g.Dev, &script{t, []byte{1, 2, 3, 4, 5, 6, 7, 8}})
		}
		g.Snapshot()
	})
}
