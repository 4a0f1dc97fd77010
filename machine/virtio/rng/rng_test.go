// SPDX-License-Identifier: Apache-2.0

package rng_test

import (
	"bytes"
	"reflect"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/virtio"
	"tandem/machine/virtio/internal/virtiotest"
	"tandem/machine/virtio/rng"
)

const (
	slot     = 5
	features = virtio.RingEventIdx | virtio.RingIndirectDesc
)

type fixture struct {
	*virtiotest.Guest
	dev *rng.Device
}

func maker(dev **rng.Device) virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
		*dev = rng.New(slot, mem, line, emit, rng.Config{})
		return *dev
	}
}

func boot(t testing.TB) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev))
	f.Start(features, 64)
	return f
}

func (f *fixture) ask(n int) virtiotest.Buf {
	b := f.Space(n)
	f.Rings[0].Add(b)
	f.Rings[0].Kick()
	return b
}

func (f *fixture) answer(id uint64, data string) {
	f.T.Helper()
	if err := f.dev.Entropy(event.Entropy{Device: slot, ID: id, Data: []byte(data)}); err != nil {
		f.T.Fatal(err)
	}
}

// Several buffers are asked for and filled as the answers arrive, in any order.
func TestEntropy(t *testing.T) {
	f := boot(t)
	a, b := f.ask(4), f.ask(6)
	want := []event.OutputBody{
		event.EntropyRequest{Device: slot, ID: 1, Length: 4}, event.EntropyRequest{Device: slot, ID: 2, Length: 6},
	}
	if got := f.Take(); !reflect.DeepEqual(got, want) {
		t.Fatalf("outputs %v, want %v", got, want)
	}
	f.answer(2, "random")
	f.answer(1, "bits")
	if string(f.Bytes(a)) != "bits" || string(f.Bytes(b)) != "random" {
		t.Error("answers went astray")
	}
	u := f.Rings[0].Collect()
	if !reflect.DeepEqual(u, []virtiotest.Used{{Head: 1, Written: 6}, {Head: 0, Written: 4}}) || f.Interrupt() != virtio.InterruptUsed {
		t.Errorf("used %v", u)
	}
}

// A large buffer is filled in part, one of no bytes at once.
func TestLength(t *testing.T) {
	f := boot(t)
	f.ask(5000)
	f.ask(0)
	if got := f.Take(); len(got) != 1 || got[0].(event.EntropyRequest).Length != 4096 {
		t.Errorf("outputs %v", got)
	}
	if len(f.Rings[0].Collect()) != 1 {
		t.Error("the empty buffer doesn't come back")
	}
}

// An answer that no request of this machine explains is an error and changes nothing.
func TestRefused(t *testing.T) {
	f := boot(t)
	f.ask(4)
	before := f.Hash()
	for _, e := range []event.Entropy{
		{Device: slot, ID: 2, Data: []byte("bits")}, {Device: 1, ID: 1, Data: []byte("bits")},
		{Device: slot, ID: 1, Data: []byte("bit")}, {Device: slot, ID: 1, Data: []byte("bytes")},
	} {
		if f.dev.Entropy(e) == nil {
			t.Errorf("accepted: %+v", e)
		}
	}
	if f.Hash() != before {
		t.Error("a refused entry changed the state")
	}
}

// Requests outlive a reset, are bounded, and their answers touch nothing.
func TestReset(t *testing.T) {
	f := boot(t)
	for range 3 {
		f.Start(features, 64)
		for range 40 {
			f.ask(4)
		}
	}
	p := f.dev.Pending()
	if len(p) != 64 {
		t.Fatalf("%d requests in flight, want 64", len(p))
	}
	f.Start(features, 64)
	before := bytes.Clone(f.RAM)
	f.answer(1, "late")
	if !bytes.Equal(f.RAM, before) || f.Interrupt() != 0 {
		t.Error("an answer from before the reset reached the guest")
	}
}

// A restored machine lists what it waits for and goes on to the same bits.
func TestSnapshot(t *testing.T) {
	f := boot(t)
	b := f.ask(4)
	n := &fixture{}
	n.Guest = f.Guest.Fork(maker(&n.dev))
	for _, m := range []*fixture{f, n} {
		if p := m.dev.Pending(); len(p) != 1 || p[0].Length != 4 {
			t.Fatalf("pending %v", p)
		}
		m.answer(1, "bits")
		m.ask(2)
	}
	if f.Hash() != n.Hash() || string(n.Bytes(b)) != "bits" {
		t.Error("original and copy differ")
	}
}
