// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"reflect"
	"strings"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/virtio"
	"tandem/machine/virtio/console"
	"tandem/machine/virtio/internal/virtiotest"
)

const (
	slot     = 7
	rx, tx   = 0, 1
	features = virtio.RingEventIdx | virtio.RingIndirectDesc | console.FeatureSize
)

type fixture struct {
	*virtiotest.Guest
	dev *console.Device
}

func maker(dev **console.Device) virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
		*dev = console.New(slot, mem, line, emit, console.Config{Columns: 80, Rows: 25})
		return *dev
	}
}

func boot(t testing.TB) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev))
	f.Start(features, 64, 64)
	return f
}

func (f *fixture) print(s string) {
	f.Rings[tx].Add(f.Data([]byte(s)))
	f.Rings[tx].Kick()
}

func (f *fixture) post(n int) virtiotest.Buf {
	b := f.Space(n)
	f.Rings[rx].Add(b)
	f.Rings[rx].Kick()
	return b
}

func (f *fixture) typed(s string) {
	f.T.Helper()
	if err := f.dev.In(event.ConsoleIn{Device: slot, Data: []byte(s)}); err != nil {
		f.T.Fatal(err)
	}
}

// What is printed carries its offset, which goes on over a reset; emerg_wr
// prints without a driver.
func TestOut(t *testing.T) {
	f := boot(t)
	f.print("one")
	f.print("")
	f.print("two")
	f.Store(virtio.RegStatus, 0)
	f.Store(virtio.RegConfig+8, 'x')
	f.Start(features, 64, 64)
	f.print("three")
	want := []event.OutputBody{
		event.ConsoleOut{Device: slot, Offset: 0, Data: []byte("one")},
		event.ConsoleOut{Device: slot, Offset: 3, Data: []byte("two")},
		event.ConsoleOut{Device: slot, Offset: 6, Data: []byte("x")},
		event.ConsoleOut{Device: slot, Offset: 7, Data: []byte("three")},
	}
	if !reflect.DeepEqual(f.Out, want) {
		t.Errorf("printed %v, want %v", f.Out, want)
	}
	if len(f.Rings[tx].Collect()) != 1 || f.Interrupt() != virtio.InterruptUsed {
		t.Error("the buffer doesn't come back")
	}
}

// Bytes typed fill the driver's buffers; the rest waits for the next one, also
// over a snapshot.
func TestIn(t *testing.T) {
	f := boot(t)
	a := f.post(4)
	f.typed("hello")
	f.typed(", you")
	n := &fixture{}
	n.Guest = f.Guest.Fork(maker(&n.dev))
	for _, m := range []*fixture{f, n} {
		b := m.post(16)
		u := m.Rings[rx].Collect()
		if !reflect.DeepEqual(u, []virtiotest.Used{{Head: 0, Written: 4}, {Head: 1, Written: 6}}) {
			t.Fatalf("used %v", u)
		}
		if got := string(m.Bytes(a)) + string(m.Bytes(b)[:6]); got != "hello, you" {
			t.Errorf("got %q", got)
		}
	}
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
}

// The backlog is bounded, what exceeds it is counted, a reset empties it, and
// input for another console is an error.
func TestBacklog(t *testing.T) {
	f := boot(t)
	f.typed(strings.Repeat("x", 60<<10))
	f.typed(strings.Repeat("y", 10<<10))
	if got := f.dev.Dropped(); got != 6<<10 {
		t.Errorf("%d bytes dropped, want 6144", got)
	}
	f.Start(features, 64, 64)
	f.post(16)
	if len(f.Rings[rx].Collect()) != 0 {
		t.Error("a reset driver gets old input")
	}
	if f.dev.In(event.ConsoleIn{Device: 1}) == nil {
		t.Error("another console's input was taken")
	}
}

// The size of the terminal is in the configuration, where it is known.
func TestConfig(t *testing.T) {
	f := boot(t)
	if got := f.Config(0, 8); got != 80|25<<16|1<<32 {
		t.Errorf("config is %#x", got)
	}
	g := virtiotest.New(t, func(mem bus.Memory, line bus.Line, emit bus.Emit) bus.Device {
		return console.New(slot, mem, line, emit, console.Config{})
	})
	if g.Offered()&console.FeatureSize != 0 {
		t.Error("an unknown size is offered")
	}
}

// A chain longer than any driver prints fails the device instead of its memory.
func TestTooLong(t *testing.T) {
	f := boot(t)
	f.Rings[tx].Add(virtiotest.Buf{Addr: virtiotest.Base, Len: 64 << 10})
	f.Rings[tx].Kick()
	if o := f.Take(); len(o) != 1 || len(o[0].(event.ConsoleOut).Data) != 64<<10 || f.NeedsReset() {
		t.Error("64 KiB can't be printed")
	}
	f.Rings[tx].Add(virtiotest.Buf{Addr: virtiotest.Base, Len: 64<<10 + 1})
	f.Rings[tx].Kick()
	if len(f.Out) != 0 || !f.NeedsReset() {
		t.Error("the device goes on")
	}
}
