// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
)

// running returns a machine in the middle of its run, requests in flight.
func running(t testing.TB, harts int, steps event.Step) (*machine.Machine, []byte) {
	t.Helper()
	cfg := machinetest.Config(t, harts)
	cfg.Boot.Segments = append(cfg.Boot.Segments, machine.Segment{Addr: 0x8014_0000, Data: noise(400 << 10)})
	m, err := machine.New(cfg, make([]byte, cfg.RAM))
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, machinetest.DiskSize)
	drive(t, m, disk, steps)
	return m, disk
}

// noise is bytes that don't compress.
func noise(n int) []byte {
	rnd := rand.New(rand.NewPCG(4, 4))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// drive runs a machine up to a step; all that it asks for is done after a while,
// the same for all machines in one state.
func drive(t testing.TB, m *machine.Machine, disk []byte, to event.Step) {
	t.Helper()
	apply := func(in event.Input) {
		if err := m.Apply(in); err != nil {
			t.Fatal(err)
		}
	}
	for m.Step() < to {
		base := m.Time()
		stop := m.Run(min(to, m.Step()+700))
		if stop == event.StopExit {
			t.Fatalf("the guest ended: %s", m.Describe())
		}
		m.Outputs()
		if due, ok := m.NextTimer(); stop == event.StopIdle && ok {
			base = due
		}
		if p := m.PendingDisk(); len(p) > 0 && m.Step()%3 == 0 {
			done := event.DiskDone{Device: p[0].Device, ID: p[0].ID}
			switch place := disk[p[0].Offset:][:p[0].Length]; p[0].Op {
			case event.DiskRead:
				done.Data = bytes.Clone(place)
			case event.DiskWrite:
				copy(place, p[0].Data)
			}
			apply(done)
		}
		m.Outputs()
		apply(event.Clock{Base: max(base, m.Time()), Rate: 1 << 28, Limit: m.Step() + 1000})
	}
}

// parts are all that a Source makes of a machine that stands still.
func parts(t testing.TB, m *machine.Machine) (list [][]byte) {
	t.Helper()
	s, err := NewSource(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for !s.Ended() {
		if part, ok := s.Next(); ok {
			list = append(list, bytes.Clone(part))
		}
		if s.Settled() {
			if err := s.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return list
}

func smallRAM(size uint64) ([]byte, error) {
	if size > 16<<20 {
		return nil, errors.New("too large for this host")
	}
	return make([]byte, size), nil
}

// feed gives parts to a Target up to the machine or the first error.
func feed(t testing.TB, list [][]byte) (m *machine.Machine, used int, err error) {
	t.Helper()
	target, err := NewTarget(smallRAM)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range list {
		if m, err = target.Part(part); m != nil || err != nil {
			if n, again := target.Part(part); n != nil || again == nil {
				t.Fatal("a part was taken after the end")
			}
			return m, i + 1, err
		}
	}
	return nil, len(list), nil
}

// The machine that arrives is the one that left, with all that is in flight, and
// goes on as it does.
func TestClone(t *testing.T) {
	for i, steps := range []event.Step{0, 1, 5_000, 60_000, 222_222} {
		m, disk := running(t, 1+i%3, steps)
		same := bytes.Clone(disk)
		list := parts(t, m)
		n, used, err := feed(t, list)
		if err != nil || n == nil || used != len(list) {
			t.Fatalf("at step %d: %v, %d of %d parts", steps, err, used, len(list))
		}
		if m.HashAll() != n.HashAll() || m.LastOutput() != n.LastOutput() {
			t.Errorf("at step %d: the clone differs", steps)
		}
		drive(t, m, disk, steps+50_000)
		drive(t, n, same, steps+50_000)
		if m.HashAll() != n.HashAll() {
			t.Errorf("from step %d: the clone went another way", steps)
		}
	}
}

// A machine that runs while it is cloned, in rounds and after them, arrives as it was
// at Freeze, and one that was cloned goes on as one that was not.
func TestCloneRunning(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		m, disk := running(t, 1+int(seed%3), 40_000)
		alone, sameDisk := running(t, 1+int(seed%3), 40_000)
		s, err := NewSource(m)
		if err != nil {
			t.Fatal(err)
		}
		target, err := NewTarget(smallRAM)
		if err != nil {
			t.Fatal(err)
		}
		var n *machine.Machine
		var want uint64
		var at event.Step
		var diskThen []byte
		var slices, later []event.Step // inputs come at their ends
		for n == nil {
			slices = append(slices, m.Step()+event.Step(rnd.IntN(3000)))
			drive(t, m, disk, slices[len(slices)-1])
			later = append(later, slices[len(slices)-1])
			if s.Settled() {
				if err := s.Freeze(); err != nil {
					t.Fatal(err)
				}
				want, at, diskThen, later = m.HashAll(), m.Step(), bytes.Clone(disk), nil
				continue
			}
			if part, ok := s.Next(); ok {
				if n, err = target.Part(part); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !s.Ended() {
			t.Error("the machine is whole before the last part")
		}
		if s.round == 0 || s.round > maxRounds {
			t.Errorf("seed %d: %d rounds", seed, s.round)
		}
		if n.Step() != at || n.HashAll() != want {
			t.Fatalf("seed %d: the clone is not what the machine was at Freeze", seed)
		}
		s.Close()
		for _, to := range later {
			drive(t, n, diskThen, to)
		}
		for _, to := range slices {
			drive(t, alone, sameDisk, to)
		}
		if m.HashAll() != n.HashAll() {
			t.Errorf("seed %d: the clone went another way", seed)
		}
		if m.LastOutput() != alone.LastOutput() || m.Describe() != alone.Describe() {
			t.Errorf("seed %d: cloning a machine has changed it: %s, not %s", seed, m.Describe(), alone.Describe())
		}
	}
}

// A page that was sent and is zero later arrives as zero: pages of zeros are left out in
// the first round only.
func TestZeroedPage(t *testing.T) {
	boot := machinetest.Writer(2)
	binary.LittleEndian.PutUint32(boot.Segments[0].Data[24:], 0x0003b023) // sd zero, 0(t2)
	for page := uint64(100); page < 140; page++ {
		boot.Segments = append(boot.Segments, machine.Segment{Addr: 0x8000_0000 + page<<12, Data: []byte{1}})
	}
	m, err := machine.New(machine.Config{Harts: 1, RAM: 2 << 20, Levels: 3, Boot: boot}, make([]byte, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	run := func(n event.Step) {
		if err := m.Apply(event.Clock{Base: m.Time(), Rate: 1, Limit: m.Step() + n}); err != nil {
			t.Fatal(err)
		}
		m.Run(m.Step() + n)
	}
	s, err := NewSource(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var list [][]byte
	for zeroed := false; !s.Ended(); {
		if part, ok := s.Next(); ok {
			list = append(list, bytes.Clone(part))
		}
		if !zeroed && s.stage == rounds && s.copy.Left() == 0 { // all pages were sent as they were
			run(3000)
			zeroed = true
		}
		if s.Settled() {
			if err := s.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
	}
	n, _, err := feed(t, list)
	if err != nil || n == nil {
		t.Fatal(err)
	}
	if m.HashAll() != n.HashAll() {
		t.Error("the clone has what was erased")
	}
}

// A part fits into a packet, and the source leaves its machine alone.
func TestSource(t *testing.T) {
	m, _ := running(t, 2, 60_000)
	before := m.HashAll()
	list := parts(t, m)
	for _, part := range list {
		if len(part) > maxBody+maxBody/8 {
			t.Errorf("a part of %d bytes", len(part))
		}
	}
	if len(list) < 5 || m.HashAll() != before {
		t.Errorf("%d parts; hash %x, before %x", len(list), m.HashAll(), before)
	}
}

// repack changes the body of a part.
func repack(t testing.TB, part []byte, change func([]byte) []byte) []byte {
	t.Helper()
	r, _ := zstd.NewReader(nil)
	defer r.Close()
	body, err := r.DecodeAll(part[1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(change(body), []byte{part[0]})
}

// Parts that no Source makes are errors, at once and for good, and take no more
// memory than a clone may.
func TestHostileParts(t *testing.T) {
	m, _ := running(t, 2, 60_000)
	list := parts(t, m)
	pages, state := -1, len(list)-2
	for i := range list {
		if list[i][0] == partPages && pages < 0 {
			pages = i
		}
	}
	replace := func(i int, part []byte) [][]byte {
		l := append([][]byte(nil), list...)
		l[i] = part
		return l
	}
	bomb := func(kind byte, n int) []byte {
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll(make([]byte, n), []byte{kind})
	}
	boot := func(i uint32) []byte {
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll(binary.LittleEndian.AppendUint32(nil, i), []byte{partBoot})
	}
	for name, l := range map[string][][]byte{
		"an empty part":           replace(1, nil),
		"an unknown kind":         replace(1, []byte{9, 1, 2}),
		"no zstd":                 replace(0, []byte{partConfig, 1, 2, 3}),
		"pages first":             list[pages:],
		"the state first":         list[state:],
		"config twice":            append(list[:pages:pages], list...),
		"config without an end":   append(list[:pages-1:pages-1], list[pages:]...),
		"a page cut short":        replace(pages, repack(t, list[pages], func(b []byte) []byte { return b[:len(b)-1] })),
		"a page outside RAM":      replace(pages, repack(t, list[pages], func(b []byte) []byte { binary.LittleEndian.PutUint32(b, 1<<30); return b })),
		"a state cut short":       replace(state, repack(t, list[state], func(b []byte) []byte { return b[:len(b)-1] })),
		"more behind the state":   replace(state, repack(t, list[state], func(b []byte) []byte { return append(b, 0) })),
		"a body that explodes":    replace(0, bomb(partConfig, 64<<20)),
		"bodies that explode":     replace(0, append(bomb(partConfig, maxBody), bomb(partConfig, maxBody)[1:]...)),
		"a segment of none":       replace(1, bomb(partBoot, 3)),
		"a segment too many":      append([][]byte{list[0], boot(1000)}, list[1:]...),
		"a segment beyond":        append([][]byte{list[0], boot(1 << 31)}, list[1:]...),
		"a machine of 1 TiB":      replace(0, repack(t, list[0], func(b []byte) []byte { binary.LittleEndian.PutUint64(b[8:], 1<<40); return b })),
		"a machine of 2^32 harts": replace(0, repack(t, list[0], func(b []byte) []byte { binary.LittleEndian.PutUint32(b, 1<<32-1); return b })),
	} {
		if m, _, err := feed(t, l); m != nil || err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Whatever is done to a clone on its way, the target refuses it or makes a
// machine that runs: nothing panics.
func TestDamagedParts(t *testing.T) {
	m, _ := running(t, 2, 60_000)
	list := parts(t, m)
	rnd := rand.New(rand.NewPCG(8, 8))
	refused := 0
	for range 150 {
		l := append([][]byte(nil), list...)
		for range 1 + rnd.IntN(2) {
			i := rnd.IntN(len(l))
			switch rnd.IntN(5) {
			case 0:
				l = append(l[:i:i], l[i+1:]...)
			case 1:
				j := rnd.IntN(len(l))
				l[i], l[j] = l[j], l[i]
			case 2:
				l[i] = l[i][:rnd.IntN(len(l[i])+1)]
			default:
				if len(l[i]) < 6 || l[i][0] > partBoot || bytes.Equal(l[i], []byte{l[i][0]}) {
					continue
				}
				if !whole(l[i]) {
					continue
				}
				l[i] = repack(t, l[i], func(b []byte) []byte {
					for range min(len(b), 3) {
						b[len(b)-1-rnd.IntN(min(len(b), 8000))] = byte(rnd.Uint32())
					}
					return b
				})
			}
			if len(l) == 0 {
				break
			}
		}
		m, _, err := feed(t, l)
		if m == nil {
			refused++
			_ = err
			continue
		}
		m.Apply(event.Clock{Base: m.Time(), Rate: 1 << 28, Limit: m.Step() + 5000})
		m.Run(m.Step() + 5000)
		m.Outputs()
	}
	if refused < 30 || refused == 150 {
		t.Errorf("%d of 150 were refused", refused)
	}
}

// whole reports whether a part can be unpacked.
func whole(part []byte) bool {
	r, _ := zstd.NewReader(nil)
	defer r.Close()
	_, err := r.DecodeAll(part[1:], nil)
	return err == nil
}

// FuzzPart gives a Target, at some point of a clone, a part that nobody made.
func FuzzPart(f *testing.F) {
	m, _ := running(f, 1, 20_000)
	list := parts(f, m)
	for i, part := range list {
		f.Add(i, part)
	}
	f.Fuzz(func(t *testing.T, after int, part []byte) {
		if after < 0 || after >= len(list) {
			return
		}
		l := append(list[:after:after], part)
		feed(t, append(l, list[after:]...))
	})
}
