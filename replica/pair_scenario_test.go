// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/migrate"
	"tandem/replay"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

// The primary is killed at any moment: the backup goes on where the world saw
// it last. With another backup it works again, the other way round.
func TestKillPrimary(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		p.protected()
		if p.w.Chance().OneIn(2) {
			p.a.p.Kill()
		} else {
			p.a.p.PullPlug()
		}
		p.goesOn(p.b)
		p.check()
	})
}

// Copies are killed again and again, and each time the survivor, whichever it is,
// takes a new backup while the guest runs on: the VM is protected again.
func TestGenerations(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		now, next := p.a, p.b
		for epoch := event.Epoch(2); epoch <= 5; epoch++ {
			p.await("a protected VM", 10*sim.Second, func() bool { return now.state() == ft.Protected })
			p.w.Run(p.w.Chance().Between(0, 100*ms))
			on, out := now, next
			if !p.w.Chance().OneIn(3) {
				on, out = next, now
			}
			if p.w.Chance().OneIn(2) {
				out.p.Kill()
			} else {
				out.p.PullPlug()
			}
			if p.w.Chance().OneIn(2) { // the new one may be there before anybody knows of the loss
				p.goesOn(on)
			}
			now, next = on, p.another()
			p.await("the next epoch", 10*sim.Second, func() bool { return now.Status().Epoch == epoch })
		}
		p.await("a protected VM", 10*sim.Second, func() bool { return now.state() == ft.Protected })
		p.progress(5)
		p.check()
	})
}

// The backup is killed: the primary goes on, and is protected by another one.
func TestKillBackup(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		if p.w.Chance().OneIn(2) {
			p.b.p.Kill()
		} else {
			p.b.p.PullPlug()
		}
		p.goesOn(p.a)
		c := p.another()
		p.protected()
		p.progress(5)
		p.a.p.Kill()
		p.goesOn(c)
		p.check()
	})
}

// A primary that was stopped and wakes finds the backup live: it halts, and
// nothing of it reaches the world.
func TestStoppedPrimary(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.a.p.Pause()
		p.goesOn(p.b)
		p.a.p.Resume()
		p.await("the end of the old primary", 5e9, func() bool { return p.a.p.Gone() })
		if p.a.state() != ft.Halted {
			p.t.Errorf("the old primary is %v", p.a.state())
		}
		p.progress(5)
		p.check()
	})
}

// The host of a new backup, or of the primary, loses power just when they are connected,
// before either has said a word. The primary gives the attempt up and takes the next
// backup; the backup dials again.
func TestSilentFromTheStart(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.await("a connection", sim.Second, func() bool { return p.a.saw(replica.CloneBegan, "") })
		p.b.p.PullPlug()
		p.await("the end of the attempt", 20*sim.Second, func() bool { return p.a.state() == ft.Solo })
		p.another()
		p.protected()
		p.check()
	})
}

// A copy that went live announces itself for some seconds. If it is stopped meanwhile,
// and its own backup goes on, it says nothing when it wakes, though an announcement is
// overdue: on a bare bridge that would draw the VM's frames to it.
func TestStoppedAnnouncer(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.a.p.Kill()
		p.await("the backup live", 10*sim.Second, func() bool { return p.b.state() == ft.Solo })
		c := p.another()
		p.await("a protected VM", 10*sim.Second, func() bool { return p.b.state() == ft.Protected })
		p.b.p.Pause()
		c.site.Slow = 5 * sim.Second // it wins at once, and fences later
		p.await("a claim", 10*sim.Second, func() bool { return p.owner() == c.p.Name })
		sent := len(p.vm.LAN.Sent)
		p.b.p.Resume()
		p.w.Run(3 * sim.Second)
		for _, f := range p.vm.LAN.Sent[sent:] {
			p.t.Errorf("a stopped copy sends %x", f[:14])
		}
		p.goesOn(c)
		p.check()
	})
}

// The same in the middle of a turn, for any while: one of the two goes on.
func TestFrozenPrimary(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		for range 5 {
			p.a.p.Freeze(p.w.Chance().IntN(200), p.w.Chance().Between(0, 600*ms))
		}
		p.w.Run(4e9)
		p.progress(5)
		p.check()
	})
}

// A stopped backup that wakes in time is a backup still; later it halts.
func TestStoppedBackup(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.b.p.Pause()
		p.w.Run(p.w.Chance().Between(0, 500*ms))
		p.b.p.Resume()
		p.progress(20)
		if p.a.p.Gone() {
			p.t.Error("the primary has ended")
		}
		if p.a.state() == ft.Solo {
			p.await("the end of the backup", 5e9, func() bool { return p.b.p.Gone() })
		}
		p.check()
	})
}

// The guest runs on while it is cloned over a slow network, in rounds and while the
// last of it is sent; the clone goes live as well as any.
func TestPreCopy(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		lines := func() int { return bytes.Count(p.vm.Console.Printed, []byte("\n")) }
		p.await("a clone", 5*sim.Second, func() bool { return p.a.saw(replica.CloneBegan, "") })
		began, at := lines(), p.w.Now()
		p.await("the end of the rounds", 60*sim.Second, func() bool { return p.a.saw(replica.CloneFrozen, "") })
		if took := p.w.Now() - at; took < 20*ms || lines() < began+int(took/(10*ms)) {
			p.t.Errorf("the guest printed %d lines in %d ms of pre-copy", lines()-began, took/ms)
		}
		if !p.a.saw(replica.CloneRound, "round 1") {
			p.t.Errorf("no rounds\n%s", p.describe())
		}
		p.await("a protected VM", 60*sim.Second, func() bool { return p.a.state() == ft.Protected })
		if s := p.a.Stats(); s.Clones != 1 || s.CloneLeft != 0 || s.CloneBytes == 0 || s.CloneTime == 0 {
			p.t.Errorf("stats of the clone: %+v", s)
		}
		p.w.Run(p.w.Chance().Between(0, 100*ms))
		p.a.p.Kill()
		p.goesOn(p.b)
		p.check()
	}, func(p *pair) { p.rate = 100_000 })
}

// A guest that writes all of its memory again and again, faster than the network
// takes it: the rounds are bounded, what its stores save is too, it waits for that,
// and the backup is one in the end.
func TestStubbornGuest(t *testing.T) {
	const mib = 80
	cfg := machinetest.Config(t, 1)
	cfg.RAM, cfg.Boot = mib<<20, machinetest.Writer(mib)
	p := newPair(t, *first, cfg, func(p *pair) { p.rate = 4 << 20 })
	most := 0
	p.await("a protected VM", 60*sim.Second, func() bool {
		most = max(most, p.a.Saved())
		return p.a.state() == ft.Protected
	})
	if slice := 2000 / 3; most < migrate.MaxSaved || most > migrate.MaxSaved+slice {
		t.Errorf("up to %d pages were saved", most)
	}
	if s := p.a.Stats(); s.CloneRound > 8 || s.ClonePause == 0 {
		t.Errorf("stats of the clone: %+v", s)
	}
	p.w.Run(300 * ms)
	p.catchUp()
	if a, b := p.a.Machine(), p.b.Machine(); a.Step() != b.Step() || a.HashAll() != b.HashAll() {
		t.Errorf("%s\n%s", a.Describe(), b.Describe())
	}
}

// The channel is cut or reset while the backup is made, before and after it may
// claim: there is one VM, always.
func TestCutChannel(t *testing.T) {
	moments := []struct {
		name string
		when func(p *pair) bool
	}{
		{"while the clone is sent", func(p *pair) bool { return p.a.saw(replica.CloneBegan, "") }},
		{"in a later round", func(p *pair) bool { return p.a.saw(replica.CloneRound, "") }},
		{"when the rounds have ended", func(p *pair) bool { return p.a.saw(replica.CloneFrozen, "") }},
		{"when the clone is sent", func(p *pair) bool { return p.a.saw(replica.CloneSent, "") }},
		{"when the backup may claim", func(p *pair) bool { return p.b.state() == ft.Replaying }},
		{"when protected", func(p *pair) bool { return p.a.state() == ft.Protected }},
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
				p.await(m.name, 5e9, func() bool { return m.when(p) })
				if p.w.Chance().OneIn(2) {
					p.w.Run(p.w.Chance().Between(0, 5*ms))
				}
				switch p.w.Chance().IntN(4) {
				case 0:
					p.link.Reset()
				case 1:
					p.link.Cut(true, true)
				case 2:
					p.link.Cut(true, false)
				case 3:
					p.link.Cut(false, true)
				}
				if p.w.Chance().OneIn(2) {
					p.w.Run(p.w.Chance().Between(0, 700*ms))
					p.link.Cut(false, false)
				}
				p.progress(20)
				p.w.Run(1e9)
				p.progress(5)
				if p.a.state() == ft.Solo && p.b.state() == ft.Solo {
					p.t.Error("two are live")
				}
				p.check()
			})
		})
	}
}

// Nobody goes on while the arbiter can't be reached, and one does afterwards;
// whose answers are lost asks again.
func TestArbiterAway(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.vm.Arbiter.Forget = 2
		p.vm.Arbiter.Down = true
		if p.w.Chance().OneIn(2) {
			p.a.p.Kill()
		} else {
			p.link.Cut(true, true)
		}
		p.w.Run(500 * ms)
		printed := len(p.vm.Console.Printed)
		p.w.Run(p.w.Chance().Between(0, 3000*ms))
		if n := len(p.vm.Console.Printed); n != printed {
			p.t.Errorf("%d bytes were printed without an arbiter", n-printed)
		}
		p.vm.Arbiter.Down = false
		p.progress(20)
		p.check()
	})
}

// One of the two can't reach the arbiter: the other goes on.
func TestArbiterOutOfReach(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		out, on := p.a, p.b
		if p.w.Chance().OneIn(2) {
			out, on = p.b, p.a
		}
		out.site.Cut = true
		p.link.Cut(true, true)
		p.goesOn(on)
		out.site.Cut = false
		p.await("the end of the other", 5e9, func() bool { return out.p.Gone() })
		p.check()
	})
}

// Both ends are there when a guest ends, is stopped or ends itself: no copy goes live.
func TestPowerOff(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		exit := p.w.Chance().OneIn(2)
		if exit {
			p.vm.Console.Type("q")
		} else {
			p.a.PowerOff()
			p.a.p.Wake()
		}
		p.await("the end", 5e9, func() bool { return p.a.p.Gone() && p.b.p.Gone() })
		for _, c := range p.copies {
			if c.Err() != replica.ErrEnded || c.saw(replica.WentLive, "") {
				p.t.Errorf("%s ended with %v", c.p.Name, c.Err())
			}
		}
		if exit && p.a.ExitCode() != 0 {
			p.t.Errorf("exit code %d", p.a.ExitCode())
		}
		p.check()
	})
}

// A disk that is slow and fails, frames and typing by the handful, and a reset of
// the guest, with a failover among them.
func TestBadWorld(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 3), func(p *pair) {
		p.vm.Storage.Delay = [2]world.Time{ms / 10, 20 * ms}
		p.vm.Storage.Fail = 10
		p.vm.LAN.Loss = 3
		p.protected()
		p.vm.Console.Type("hello r")
		p.w.Run(p.w.Chance().Between(0, 300*ms))
		p.a.p.Kill()
		p.goesOn(p.b)
		p.check()
	})
}

// catchUp brings the backup's machine to where the primary's is, with the rest
// of its log: the two are then at one step.
func (p *pair) catchUp() {
	p.t.Helper()
	p.a.p.Pause()
	p.w.Run(100 * ms) // less than the timeout; all that was sent is executed
	last := p.b.Status().Backup.Executed
	rep := replay.NewReplayer(p.b.Machine(), last, p.b.Machine().LastOutput())
	if err := rep.Feed(p.log[last:]...); err != nil {
		p.t.Fatal(err)
	}
	if wait, err := rep.Advance(1 << 40); err != nil || wait != replay.WaitEntries {
		p.t.Fatal(wait, err)
	}
	rep.Outputs()
	for a, b := p.a.Machine(), p.b.Machine(); b.Step() < a.Step(); b.Outputs() {
		b.Run(a.Step())
	}
}

// A backup made in the middle of a run, whose caches are cold, is equal to its
// primary at every hash, and in all of its state at the end.
func TestEqual(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 3), func(p *pair) {
		p.protected()
		p.w.Run(500 * ms)
		p.catchUp()
		a, b := p.a.Machine(), p.b.Machine()
		if a.Step() != b.Step() || a.HashAll() != b.HashAll() {
			p.t.Errorf("%s\n%s", a.Describe(), b.Describe())
		}
		hashes := 0
		for _, e := range p.log {
			if e.Input.Kind() == event.KindHash {
				hashes++
			}
		}
		if hashes < 20 {
			p.t.Errorf("only %d hashes were compared", hashes)
		}
	})
}

// A bit of the backup's memory that flips is found within a round of the scrub,
// and one of its devices' at the next hash: the backup halts, with a report, and
// the primary goes on.
func TestFlip(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		place, entries := "in memory", machinetest.RAM/4096/64+2
		if p.w.Chance().OneIn(2) {
			p.b.ram[machinetest.RAM-1-p.w.Chance().IntN(1<<20)] ^= 1 << p.w.Chance().IntN(8)
		} else {
			place, entries = "in registers or devices", 2
			if err := p.b.Machine().Apply(event.Frames{Device: machinetest.NetSlot, Frames: []event.Frame{{}}}); err != nil {
				p.t.Fatal(err)
			}
		}
		from := p.b.Status().Backup.Executed
		p.await("the end of the backup", 5e9, func() bool { return p.b.p.Gone() })
		if p.b.state() != ft.Halted || !p.b.saw(replica.Diverged, "diverged at entry") || !p.b.saw(replica.Diverged, place) {
			p.t.Errorf("the backup ended so:\n%s", p.describe())
		}
		hashes := 0
		for _, e := range p.log[from:p.b.Status().Backup.Executed] {
			if e.Input.Kind() == event.KindHash {
				hashes++
			}
		}
		if hashes > entries {
			p.t.Errorf("found after %d hashes, %d cover it", hashes, entries)
		}
		p.goesOn(p.a)
		if !p.a.saw(replica.StateChanged, "diverged") {
			p.t.Errorf("the primary was not told why\n%s", p.describe())
		}
	})
}

// A backup that asks another arbiter is refused, with both named and what to do, and
// the primary goes on: two arbiters would both say yes.
func TestOtherArbiter(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.await("the end of the backup", 5*sim.Second, p.b.p.Gone)
		err := fmt.Sprint(p.b.Err())
		for _, want := range []string{"arbiter differs", "folder 1", "folder 2", "--arbiter"} {
			if !strings.Contains(err, want) {
				p.t.Errorf("the backup ended with %q, which does not say %q", err, want)
			}
		}
		p.goesOn(p.a)
		if !p.a.saw(replica.StateChanged, "arbiter differs") {
			p.t.Errorf("the primary was not told\n%s", p.describe())
		}
		p.check()
	}, func(p *pair) { p.others = "folder 2" })
}

// divergeWhileDraining has the backup stop while the primary goes on for a while,
// kills that, spoils the backup's machine, and lets it drain the log.
func (p *pair) divergeWhileDraining(spoil func()) {
	p.t.Helper()
	p.protected()
	p.b.p.Pause()
	p.w.Run(80 * ms)
	p.a.p.Kill()
	spoil()
	p.b.p.Resume()
	p.await("an end of draining", 10*sim.Second, func() bool { return p.b.state() == ft.Solo || p.b.p.Gone() })
	if !p.b.saw(replica.StateChanged, "diverged from the") {
		p.t.Fatalf("no divergence was found while draining\n%s", p.describe())
	}
}

// A copy that differs from the log of a dead primary boots the VM from its disk, in
// the new epoch: what was printed is on the disk, no number of the console is given
// twice, and the VM is protected again by a new backup, which can go on in turn.
func TestDivergedRestart(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 2), func(p *pair) {
		p.divergeWhileDraining(func() {
			if err := p.b.Machine().Apply(event.Frames{Device: machinetest.NetSlot, Frames: []event.Frame{{}}}); err != nil {
				p.t.Fatal(err)
			}
		})
		if !p.b.saw(replica.Restarted, "boots from its disk") || !p.b.saw(replica.Diverged, "diverged at entry") {
			p.t.Fatalf("no report of a restart\n%s", p.describe())
		}
		if p.b.Status().Epoch != 2 || p.b.Machine().Config().Devices[machinetest.NetSlot].MAC != machinetest.MAC {
			p.t.Errorf("not the same VM in a new epoch: %+v", p.b.Status())
		}
		p.goesOn(p.b)
		if boots := bytes.Count(p.vm.Console.Printed, []byte("boot\n")); boots != 2 || len(p.vm.Console.Boots) != 1 {
			p.t.Errorf("%d boots, %d of them from the disk", boots, len(p.vm.Console.Boots))
		}
		p.checkConsole()
		for _, rule := range p.w.Broken() {
			p.t.Error(rule)
		}
	})
}

// With the other policy such a copy goes on from where it is, and says so. It lacks
// what the primary did after that: what left then may be contradicted, and is not
// checked here.
func TestDivergedContinue(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.divergeWhileDraining(func() {
			for i := machinetest.RAM - 1<<20; i < machinetest.RAM; i += 4096 {
				p.b.ram[i] ^= 4 // where the guest never looks
			}
		})
		if !p.b.saw(replica.Trouble, "goes on all the same") || p.b.saw(replica.Restarted, "") {
			p.t.Fatalf("no report of going on\n%s", p.describe())
		}
		p.goesOn(p.b)
		if boots := bytes.Count(p.vm.Console.Printed, []byte("boot\n")); boots != 1 {
			p.t.Errorf("%d boots", boots)
		}
	}, func(p *pair) { p.policy = ft.ContinueOnDivergence })
}

// A network that sends more than fits into an entry, frames too large for the log
// and segments for a driver that takes none costs frames, not the VM.
func TestHostileNetwork(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		big := tcpSegment(60_000)
		for range 64 {
			p.vm.LAN.Deliver(event.Frame{Data: big, Offload: event.Offload{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 40, CsumStart: 34, CsumOffset: 16}})
		}
		p.vm.LAN.Deliver(event.Frame{Data: make([]byte, 100_000)})
		p.vm.LAN.Deliver(event.Frame{})
		p.vm.LAN.Deliver(event.Frame{Data: make([]byte, 60), Offload: event.Offload{Flags: 0xff, GSOType: 0x77}})
		p.vm.Console.Type(string(make([]byte, 100_000)))
		p.progress(20)
		if p.a.state() != ft.Protected {
			p.t.Errorf("not protected any more\n%s", p.describe())
		}
		p.check()
	})
}

// tcpSegment is a frame with so many bytes of TCP payload.
func tcpSegment(n int) []byte {
	f := make([]byte, 54+n)
	f[12], f[14], f[23], f[46] = 8, 0x45, 6, 0x50
	binary.BigEndian.PutUint16(f[16:], uint16(40+n))
	return f
}

// Everything that is typed arrives, however much at once.
func TestTyping(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		p.vm.Console.Type(string(make([]byte, 10_000)) + "q")
		p.await("the end", 5e9, func() bool { return p.a.p.Gone() && p.b.p.Gone() })
		if p.a.Err() != replica.ErrEnded {
			p.t.Errorf("the q was lost: %v", p.a.Err())
		}
		p.check()
	})
}
