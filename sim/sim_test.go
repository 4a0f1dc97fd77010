// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"fmt"
	"sync"
	"testing"

	"tandem/machine/event"
	"tandem/sim"
	"tandem/world"
	"tandem/world/worldtest"
)

// The sim's arbiter keeps the contract that the real ones keep.
func TestArbiter(t *testing.T) {
	worldtest.Arbiter(t, func(*testing.T) (a, b world.Arbiter) {
		r := &locked{}
		return r, r
	})
}

// locked lets goroutines ask the arbiter: the contract's test does.
type locked struct {
	mu sync.Mutex
	sim.Arbiter
}

func (l *locked) Claim(epoch event.Epoch, owner string, gen uint64) (bool, world.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Arbiter.Claim(epoch, owner, gen)
}

// pingPong runs two processes that answer each other among faults, and returns
// what they saw, with the times.
func pingPong(seed uint64) (seen []string) {
	w := sim.New(seed)
	a, b := w.Process("a"), w.Process("b")
	l := w.Link(a, b)
	l.Loss = 3
	turn := func(p *sim.Process, e *sim.End) func() (world.Time, bool) {
		return func() (world.Time, bool) {
			for {
				ev, ok := e.Recv()
				if !ok {
					break
				}
				seen = append(seen, fmt.Sprint(p.Name, p.Now(), ev.Kind, ev.Data))
				if ev.Kind == world.Disconnected {
					e.Redial()
				}
			}
			e.Send([]byte(p.Name))
			e.Flush()
			e.Beat([]byte{1})
			return p.Now() + sim.Millisecond, false
		}
	}
	a.Turn, b.Turn = turn(a, l.End(0)), turn(b, l.End(1))
	a.Start()
	b.Start()
	l.Connect()
	w.Run(20 * sim.Millisecond)
	l.Cut(true, false)
	w.Run(10 * sim.Millisecond)
	l.Cut(false, false)
	l.Reset()
	w.Run(20 * sim.Millisecond)
	a.Freeze(1, 5*sim.Millisecond)
	w.Run(10 * sim.Millisecond)
	b.Kill()
	w.Run(10 * sim.Millisecond)
	return seen
}

// One seed is one run, to the nanosecond; another is another.
func TestSeed(t *testing.T) {
	first, again, other := fmt.Sprint(pingPong(1)), fmt.Sprint(pingPong(1)), fmt.Sprint(pingPong(2))
	if len(pingPong(1)) < 100 || first != again {
		t.Error("one seed gave two runs")
	}
	if first == other {
		t.Error("two seeds gave one run")
	}
}

// Packets come in order and whole, also through a cut; a dead process is noticed:
// its peer's channel ends and its port does not exist.
func TestLink(t *testing.T) {
	for seed := range uint64(20) {
		w := sim.New(seed)
		a, b := w.Process("a"), w.Process("b")
		l := w.Link(a, b)
		for _, p := range []*sim.Process{a, b} {
			p.Turn = func() (world.Time, bool) { return 1 << 62, false }
		}
		l.Connect()
		w.Run(sim.Millisecond)
		for i := range byte(50) {
			if i == 20 {
				l.Cut(false, true)
			}
			if i == 40 {
				w.Run(sim.Millisecond)
				l.Cut(false, false)
			}
			l.End(0).Send([]byte{i})
			l.End(0).Flush()
			w.Run(w.Chance().Between(0, 100*sim.Microsecond))
		}
		var kinds []world.ChannelKind
		next := byte(0)
		fetch := func() {
			for ev, ok := l.End(1).Recv(); ok; ev, ok = l.End(1).Recv() {
				if ev.Kind != world.Packet {
					kinds = append(kinds, ev.Kind)
				} else if ev.Data[0] != next {
					t.Fatalf("seed %d: packet %d after %d", seed, ev.Data[0], next)
				} else {
					next++
				}
			}
		}
		a.Kill()
		w.Run(sim.Second)
		fetch()
		l.End(1).Beat(nil) // to the peer of the connection shown last
		w.Run(sim.Second)
		fetch()
		if next != 50 || fmt.Sprint(kinds) != fmt.Sprint([]world.ChannelKind{world.Connected, world.Disconnected, world.Unreachable}) {
			t.Errorf("seed %d: %d packets, events %v", seed, next, kinds)
		}
	}
}

// The disk of an older epoch does nothing any more once a newer one is open, and
// emissions of its process are found.
func TestFence(t *testing.T) {
	for seed := range uint64(20) {
		w := sim.New(seed)
		vm := w.VM(4096, 0, 1)
		a, b := w.Process("a"), w.Process("b")
		turn := func() (world.Time, bool) { return 1 << 62, false }
		a.Turn, b.Turn = turn, turn
		old := vm.Site(a).Start()
		write := func(d world.Devices, id uint64, x byte) {
			d.Disks[0].Submit(event.DiskRequest{ID: id, Op: event.DiskWrite, Length: 4, Data: []byte{x, x, x, x}})
		}
		write(old, 1, 1)
		write(old, 2, 2)
		w.Run(w.Chance().Between(0, 800*sim.Microsecond))
		site := vm.Site(b)
		if won, _, err := vm.Arbiter.Claim(2, "b", 0); !won || err != nil {
			t.Fatal(won, err)
		}
		now := site.OpenNow(2)
		write(now, 1, 3)
		w.Run(sim.Second)
		if done, ok := now.Disks[0].Poll(); !ok || done.Status != event.DiskOK || vm.Storage.Bytes[0] != 3 {
			t.Fatalf("seed %d: the new epoch's write is not done", seed)
		}
		if len(w.Broken()) > 0 {
			t.Fatal(w.Broken())
		}
		write(old, 3, 4)
		old.Networks[1].Send(event.Frame{Data: []byte{1}})
		old.Networks[1].Flush()
		w.Run(sim.Second)
		if !old.Disks[0].Fenced() || vm.Storage.Bytes[0] != 3 || len(vm.LAN.Sent) != 0 || len(w.Broken()) != 2 {
			t.Errorf("seed %d: the old epoch goes on: %d, broken %v", seed, vm.Storage.Bytes[0], w.Broken())
		}
	}
}
