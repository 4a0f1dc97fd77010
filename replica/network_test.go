// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/vswitch"
	"tandem/world"
)

// A copy that has gone live says where the VM's MAC address is now, not before its
// claim and its fence, and again four times with growing gaps.
func TestAnnouncements(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.vm.LAN.Loss, p.vm.LAN.Delay = 0, [2]world.Time{sim.Microsecond, sim.Microsecond}
		var at []world.Time
		answer := p.vm.LAN.Answer
		p.vm.LAN.Answer = func(f []byte) []byte {
			if bytes.Equal(f, vswitch.Announce(p.mac())) {
				if r, _ := p.vm.Arbiter.Read(); r.Owner != p.b.p.Name {
					p.t.Errorf("announced while %s owns the VM", r.Owner)
				}
				at = append(at, p.w.Now())
			}
			return answer(f)
		}
		p.protected()
		if p.a.p.Kill(); len(at) > 0 {
			p.t.Error("announced before a failover")
		}
		p.goesOn(p.b)
		p.w.Run(10 * sim.Second)
		if len(at) != 5 {
			p.t.Fatalf("announced at %v", at)
		}
		for i, least := range []world.Time{50 * ms, 200 * ms, 1000 * ms, 4000 * ms} {
			if gap := at[i+1] - at[i]; gap < least || gap > least+100*ms {
				p.t.Errorf("announcement %d came after %v", i+2, gap)
			}
		}
		p.check()
	})
}

// mac is the guest's.
func (p *pair) mac() vswitch.MAC {
	return vswitch.MAC(p.b.Machine().Config().Devices[machinetest.NetSlot].MAC)
}

// The guest's link follows the cable on both copies, and on the host of the copy
// that goes live.
func TestLink(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		for _, unplugged := range []bool{true, false, true} {
			p.vm.LAN.Unplugged = unplugged
			p.await("the link in both copies", sim.Second, func() bool {
				return p.a.Machine().LinkUp(machinetest.NetSlot) != unplugged && p.b.Machine().LinkUp(machinetest.NetSlot) != unplugged
			})
		}
		p.a.p.Kill()
		p.vm.LAN.Unplugged = false
		p.goesOn(p.b)
		if p.b.state() != ft.Solo || !p.b.Machine().LinkUp(machinetest.NetSlot) {
			p.t.Error("the link is down on the new primary")
		}
		links := 0
		for _, e := range p.log {
			if c, ok := e.Input.(event.Control); ok && c.Op == event.Link {
				links++
			}
		}
		if links != 3 {
			p.t.Errorf("%d entries tell of the link", links)
		}
		p.check()
	})
}

// More frames than the card could keep wait in the network for the guest to make
// room: none is dropped.
func TestBurst(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		before := p.a.Machine().NetStats(machinetest.NetSlot).RxDropped
		f := make([]byte, 29)
		f[12] = 0x08
		for range 400 {
			p.vm.LAN.Deliver(event.Frame{Data: f})
		}
		received := 0
		p.await("all frames", 20*sim.Second, func() bool {
			received = 0
			for _, e := range p.log {
				if in, ok := e.Input.(event.Frames); ok {
					for i := range in.Frames {
						if len(in.Frames[i].Data) == len(f) {
							received++
						}
					}
				}
			}
			return received == 400
		})
		p.progress(5)
		if n := p.a.Machine().NetStats(machinetest.NetSlot).RxDropped - before; n != 0 {
			p.t.Errorf("%d frames were dropped", n)
		}
		p.check()
	})
}

// A network that keeps frames until they are logged loses none at a failover: each
// is in the log that the backup executed, or in the one that it goes on with.
func TestKept(t *testing.T) {
	sometimes := 0 // a frame was only in the second
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.vm.LAN.Keeps = true
		p.protected()
		var after []event.Entry
		p.sinks[p.b] = func(e event.Entry) { after = append(after, e) }
		const all = 600
		for i := range uint16(all) {
			p.w.After(world.Time(i)*100*sim.Microsecond, func() { p.vm.LAN.Deliver(numbered(i)) })
		}
		p.w.Run(p.w.Chance().Between(0, 60*ms))
		p.a.p.Kill()
		p.goesOn(p.b)
		p.w.Run(100 * ms)
		var last event.Seq
		for _, e := range p.b.events {
			if e.Kind == replica.WentLive {
				last = e.Seq
			}
		}
		before := numbers(p.log, last)
		again := numbers(after, 1<<62)
		for i := range uint16(all) {
			switch {
			case !before[i] && !again[i]:
				p.t.Errorf("frame %d is lost", i)
			case !before[i]:
				sometimes++
			}
		}
		p.check()
	}, func(p *pair) { p.sinks = map[*copyOf]func(event.Entry){} })
	if sometimes == 0 {
		t.Error("no frame had to be kept")
	}
}

// numbered is a frame that no guest heeds.
func numbered(n uint16) event.Frame {
	f := make([]byte, 29)
	f[12], f[13] = 0x08, 0x99
	binary.BigEndian.PutUint16(f[27:], n)
	return event.Frame{Data: f}
}

// numbers are those of the frames in a log, up to an entry.
func numbers(log []event.Entry, last event.Seq) map[uint16]bool {
	found := map[uint16]bool{}
	for _, e := range log {
		in, ok := e.Input.(event.Frames)
		if !ok || e.Seq > last {
			continue
		}
		for _, f := range in.Frames {
			if len(f.Data) == 29 && f.Data[13] == 0x99 {
				found[binary.BigEndian.Uint16(f.Data[27:])] = true
			}
		}
	}
	return found
}
