// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
)

// A snapshot restored and saved again has the same bytes.
func TestSnapshotBytes(t *testing.T) {
	cfg := machinetest.Config(t, 2)
	for seed := range uint64(5) {
		o, m := newOutside(seed), power(t, cfg)
		o.record(t, m, event.Step(100_000*(seed+1)+seed), func(event.Entry) {})
		var first, second bytes.Buffer
		if err := m.Save(&first); err != nil {
			t.Fatal(err)
		}
		if err := restored(t, m).Save(&second); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("seed %d: snapshots of %d and %d bytes differ", seed, first.Len(), second.Len())
		}
	}
}

// A disk that became larger is so in a snapshot, and after a reset; another machine of the
// same Config keeps its own. It can't become smaller, and nothing else can be resized.
func TestResizeDisk(t *testing.T) {
	cfg := machinetest.Config(t, 1)
	m := power(t, cfg)
	const larger = 2 * machinetest.DiskSize
	apply(t, m, event.Control{Op: event.Resize, Arg: event.ResizeArg(machinetest.DiskSlot, larger)})
	apply(t, m, event.Control{Op: event.Reset})
	n := restored(t, m)
	for _, m := range []*machine.Machine{m, n} {
		if got := m.Config().Devices[machinetest.DiskSlot].Capacity; got != larger {
			t.Errorf("the disk has %d bytes", got)
		}
	}
	if m.HashAll() != n.HashAll() || m.HashAll() == power(t, cfg).HashAll() {
		t.Error("the state does not tell")
	}
	if cfg.Devices[machinetest.DiskSlot].Capacity != machinetest.DiskSize {
		t.Error("the Config of others has changed")
	}
	for _, arg := range []uint64{event.ResizeArg(machinetest.DiskSlot, larger-512), event.ResizeArg(machinetest.NetSlot, larger), event.ResizeArg(7, larger)} {
		if err := m.Apply(event.Control{Op: event.Resize, Arg: arg}); !errors.Is(err, machine.ErrInput) {
			t.Errorf("resize %#x: %v", arg, err)
		}
	}
}

// A drive is filled and emptied, which all that describes the machine tells; what does not
// fit is refused.
func TestMedium(t *testing.T) {
	cfg := machinetest.Config(t, 1)
	const slot, size = 3, 1 << 20
	cfg.Devices = append(slices.Grow(cfg.Devices, 2), machine.Device{Kind: machine.DiskDevice, Disk: event.ReplicatedDisk}, machine.Device{})[:slot]
	cfg.Devices = append(cfg.Devices, machine.Device{Kind: machine.DiskDevice})
	m := power(t, cfg)
	empty := m.HashAll()
	in := event.Medium{Device: slot, Capacity: size, Source: "nbd://store/a"}
	apply(t, m, in)
	apply(t, m, event.Control{Op: event.Reset})
	n := restored(t, m)
	for _, m := range []*machine.Machine{m, n} {
		if d := m.Config().Devices[slot]; d.Capacity != size || d.Medium != in.Source {
			t.Errorf("the drive has %+v", d)
		}
		if m.HashAll() == empty || m.HashAll() != n.HashAll() {
			t.Error("the state does not tell")
		}
		state := m.HashState()
		moved := event.Medium{Device: slot, Capacity: size, Source: "nbd://store/b", Mirror: in.Source}
		apply(t, m, moved)
		if d := m.Config().Devices[slot]; d.Medium != moved.Source || d.Mirror != moved.Mirror || m.HashState() != state {
			t.Errorf("moved, the drive has %+v, and the guest may know", d)
		}
		for _, bad := range []event.Medium{{Device: slot, Capacity: size}, {Device: slot, Capacity: 2 * size, Source: "s"},
			{Device: slot, Mirror: "s"}, {Device: slot + 1, Capacity: size, Source: "s"}, {Device: machinetest.NetSlot},
			{Device: event.UART, Capacity: size}} {
			if err := m.Apply(bad); !errors.Is(err, machine.ErrInput) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		apply(t, m, event.Medium{Device: slot})
		if err := m.Apply(event.Medium{Device: slot}); !errors.Is(err, machine.ErrInput) {
			t.Errorf("an empty drive is emptied: %v", err)
		}
		if d := m.Config().Devices[slot]; d.Capacity != 0 || d.Medium != "" || d.Mirror != "" {
			t.Errorf("the drive has %+v", d)
		}
	}
	if cfg.Devices[slot].Capacity != 0 {
		t.Error("the Config of others has changed")
	}
}

// Outputs that nobody took would be lost: such a machine is not saved.
func TestSaveWithOutputs(t *testing.T) {
	m := power(t, machinetest.Config(t, 1))
	apply(t, m, event.Clock{Rate: 1 << 28, Limit: 1e6})
	for m.Run(1e6) != event.StopOutput {
	}
	if err := m.SaveState(&bytes.Buffer{}); err == nil {
		t.Error("saved with outputs not taken")
	}
}

// snapshot is a small one with requests in flight.
func snapshot(t testing.TB) []byte {
	cfg := machinetest.Config(t, 2)
	o, m := newOutside(5), power(t, cfg)
	o.record(t, m, 300_000, func(event.Entry) {})
	var b bytes.Buffer
	if err := m.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// survive restores what may be garbage, and lets what was believed run.
func survive(b []byte) (*machine.Machine, error) {
	m, err := machine.Restore(bytes.NewReader(b), func(size uint64) ([]byte, error) {
		if size > 16<<20 {
			return nil, fmt.Errorf("no %d bytes here", size)
		}
		return make([]byte, size), nil
	})
	if err != nil {
		return nil, err
	}
	for range 20 {
		m.Apply(event.Clock{Base: m.Time(), Rate: 1 << 28, Limit: m.Step() + 1000})
		for _, q := range m.PendingDisk() {
			m.Apply(event.DiskDone{Device: q.Device, ID: q.ID, Data: make([]byte, q.Length*b2u(q.Op == event.DiskRead))})
		}
		m.Apply(event.Frames{Device: 1, Frames: []event.Frame{{Data: make([]byte, 100)}}})
		m.Run(m.Step() + 1000)
		m.Outputs()
	}
	m.HashAll()
	return m, nil
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// A snapshot that is cut short, garbage or hostile is refused or believed, and
// nothing panics.
func TestHostileSnapshots(t *testing.T) {
	good := snapshot(t)
	if _, err := survive(good); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 9))
	for i := range 100 {
		if m, err := survive(good[:rnd.IntN(len(good))]); err == nil || m != nil {
			t.Fatalf("cut %d: accepted", i)
		}
	}
	// The state proper is at the end, where a change means most.
	believed := 0
	for range 800 {
		bad := bytes.Clone(good)
		for range 1 + rnd.IntN(3) {
			at := len(bad) - 1 - rnd.IntN(12<<10)
			bad[at] = [...]byte{0, 1, 0x7f, 0x80, 0xff, bad[at] ^ 1<<rnd.IntN(8), byte(rnd.Uint32())}[rnd.IntN(7)]
		}
		if m, _ := survive(bad); m != nil {
			believed++
		}
	}
	if believed < 50 || believed > 790 {
		t.Errorf("%d of 800 were believed", believed)
	}
	for range 100 {
		bad := bytes.Clone(good)
		at := 8 + rnd.IntN(200)
		binary.LittleEndian.PutUint32(bad[at:], rnd.Uint32()>>rnd.IntN(32))
		survive(bad)
	}
}

// FuzzRestore gives Restore what nobody saved.
func FuzzRestore(f *testing.F) {
	good := snapshot(f)
	f.Add(len(good)-100, []byte{0xff})
	f.Add(16, []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, at int, patch []byte) {
		if at < 0 || at > len(good) || len(patch) > len(good)-at {
			return
		}
		bad := bytes.Clone(good)
		copy(bad[at:], patch)
		survive(bad)
	})
}

// Two machines of one configuration have one configuration after a snapshot too.
func TestConfigSaved(t *testing.T) {
	m := power(t, machinetest.Config(t, 2))
	if got := restored(t, m).Config(); !reflect.DeepEqual(got, m.Config()) {
		t.Errorf("%+v, want %+v", got, m.Config())
	}
}
