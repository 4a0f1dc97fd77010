// SPDX-License-Identifier: Apache-2.0

package input_test

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/virtio"
	"tandem/machine/virtio/input"
	"tandem/machine/virtio/internal/virtiotest"
)

const (
	eventq, statusq = 0, 1
	features        = virtio.RingEventIdx | virtio.RingIndirectDesc
)

type fixture struct {
	*virtiotest.Guest
	dev *input.Device
}

func maker(dev **input.Device) virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, _ bus.Emit) bus.Device {
		*dev = input.New(mem, line, input.Config{})
		return *dev
	}
}

func boot(t testing.TB) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, maker(&f.dev))
	f.Start(features, 64, 64)
	return f
}

// post gives the device buffers for events.
func (f *fixture) post(n int) (bufs []virtiotest.Buf) {
	for range n {
		b := f.Space(8)
		f.Rings[eventq].Add(b)
		bufs = append(bufs, b)
	}
	f.Rings[eventq].Kick()
	return bufs
}

// told is what the device has written into buffers: type, code, value.
func (f *fixture) told(bufs []virtiotest.Buf) (list [][3]uint32) {
	for i := range f.Rings[eventq].Collect() {
		p := f.Bytes(bufs[i])
		list = append(list, [3]uint32{uint32(binary.LittleEndian.Uint16(p)), uint32(binary.LittleEndian.Uint16(p[2:])), binary.LittleEndian.Uint32(p[4:])})
	}
	return list
}

// pressed is KEY_POWER down, SYN_REPORT, KEY_POWER up, SYN_REPORT.
var pressed = [][3]uint32{{1, 116, 1}, {}, {1, 116, 0}, {}}

// A press comes as key down and key up, each followed by a report, and interrupts.
func TestPress(t *testing.T) {
	f := boot(t)
	bufs := f.post(10)
	if f.Interrupt() != 0 {
		t.Error("an interrupt before anything was pressed")
	}
	f.dev.Press()
	if got := f.told(bufs); !reflect.DeepEqual(got, pressed) {
		t.Errorf("the driver is told %v, want %v", got, pressed)
	}
	if f.Interrupt() != virtio.InterruptUsed {
		t.Error("no interrupt")
	}
}

// Without buffers a press waits for them, event by event, over a snapshot too, and the
// wait is bounded.
func TestBacklog(t *testing.T) {
	f := boot(t)
	for range 100 {
		f.dev.Press()
	}
	n := &fixture{}
	n.Guest = f.Fork(maker(&n.dev))
	for _, m := range []*fixture{f, n} {
		if got := m.told(m.post(3)); !reflect.DeepEqual(got, pressed[:3]) {
			t.Errorf("the first three buffers tell %v", got)
		}
		total := 3
		for range 4 {
			total += len(m.told(m.post(20)))
		}
		if total != 64 {
			t.Errorf("%d events were kept, want those of 16 presses", total)
		}
	}
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
}

// A reset forgets presses that nobody took, and only then is no driver there.
func TestReset(t *testing.T) {
	f := boot(t)
	f.dev.Press()
	if !f.dev.Driven() {
		t.Error("a driver runs the device, but it doesn't know")
	}
	f.Store(virtio.RegStatus, 0)
	if f.dev.Driven() {
		t.Error("the device takes a driver that is gone for one")
	}
	f.Start(features, 64, 64)
	if got := f.told(f.post(4)); len(got) != 0 {
		t.Errorf("the new driver is told %v", got)
	}
}

// ask reads what a driver is shown (§5.8.5.1).
func (f *fixture) ask(sel, sub uint64) string {
	f.Dev.Store(virtio.RegConfig, 1, sel)
	f.Dev.Store(virtio.RegConfig+1, 1, sub)
	var b strings.Builder
	for i := range f.Config(2, 1) {
		b.WriteByte(byte(f.Config(8+i, 1)))
	}
	return b.String()
}

// The configuration names the device and its one key, and nothing else: a system that
// looks for power buttons finds a device with KEY_POWER.
func TestConfig(t *testing.T) {
	f := boot(t)
	key := strings.Repeat("\x00", 14) + "\x10" // bit 116
	for _, c := range []struct {
		sel, sub uint64
		want     string
	}{
		{0, 0, ""}, {1, 0, "tandem power button"}, {1, 1, ""}, {2, 0, "power0"},
		{3, 0, "\x06\x00TD\x01\x00\x01\x00"}, {0x10, 0, ""}, {0x11, 0, ""}, {0x11, 1, key},
		{0x11, 2, ""}, {0x11, 20, ""}, {0x12, 0, ""}, {0x12, 1, ""}, {255, 255, ""},
	} {
		if got := f.ask(c.sel, c.sub); got != c.want {
			t.Errorf("select %#x, %d shows %q, want %q", c.sel, c.sub, got, c.want)
		}
	}
	f.Dev.Store(virtio.RegConfig+2, 4, 0x77777777) // read only
	if got := f.ask(1, 0); got != input.Name {
		t.Errorf("after a store elsewhere the name is %q", got)
	}
}

// What the driver says of lights and sounds comes back unread; a buffer that can't
// take an event stops the device.
func TestOddBuffers(t *testing.T) {
	f := boot(t)
	f.Rings[statusq].Add(f.Data(make([]byte, 8)))
	f.Rings[statusq].Kick()
	if u := f.Rings[statusq].Collect(); len(u) != 1 || u[0].Written != 0 {
		t.Errorf("the status queue has used %v", u)
	}
	f.Rings[eventq].Add(f.Space(7))
	f.Rings[eventq].Kick()
	f.dev.Press()
	if !f.NeedsReset() {
		t.Error("the device goes on")
	}
}
