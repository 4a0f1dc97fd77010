// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

// reading makes a pair whose backup reads the disk itself, and whose guest writes
// over what it has just read: on few sectors.
func reading(p *pair) { p.reads, p.ring = true, 2 }

const fewSectors = "-DSECTORS=2"

// readsFromDisk counts the reads of a's log that carry no data.
func (p *pair) readsFromDisk() (n int) {
	for _, e := range p.log {
		if d, ok := e.Input.(event.DiskDone); ok && d.FromDisk {
			n++
		}
	}
	return n
}

// The backup reads the shared disk itself, although reads fail on both sides, and a
// write waits until it has read what the write changes. Whoever is killed then, the
// other has the same machine.
func TestReadsByBackup(t *testing.T) {
	marks := map[string]int{}
	eachSeed(t, machinetest.Config(t, 2, fewSectors), func(p *pair) {
		p.vm.Storage.Fail, p.vm.Storage.FailReads = 30, 10
		p.protected()
		p.progress(40)
		s := p.a.Stats()
		marks["reads"] += p.readsFromDisk()
		marks["waits"] += int(s.ReadWaits)
		marks["retries"] += int(p.b.Stats().DiskRetries)
		switch p.w.Chance().IntN(3) {
		case 0:
			p.a.p.Kill()
			p.goesOn(p.b)
		case 1:
			p.b.p.Kill()
			p.goesOn(p.a)
			p.another()
			p.protected()
			p.progress(10)
		default:
			p.a.p.PullPlug()
			p.goesOn(p.b)
		}
		p.check()
	}, reading)
	for _, what := range []string{"reads", "waits", "retries"} {
		if marks[what] == 0 && !t.Failed() {
			t.Errorf("no %s in any run", what)
		}
	}
}

// Faults of the channel and stopped processes change nothing of that.
func TestReadsByBackupChaos(t *testing.T) { chaos(t, machinetest.Config(t, 1, fewSectors), reading) }

// Nor of disks of each copy's own.
func TestReplicatedChaos(t *testing.T) {
	chaos(t, ownDisks(t, event.ReplicatedFlush), replicated, func(p *pair) { p.reads = true })
}

func chaos(t *testing.T, cfg machine.Config, options ...func(p *pair)) {
	t.Helper()
	eachSeed(t, cfg, func(p *pair) {
		p.protected()
		for range 4 {
			c := []*copyOf{p.a, p.b}[p.w.Chance().IntN(2)]
			switch p.w.Chance().IntN(3) {
			case 0:
				p.link.Reset()
			case 1:
				c.p.Freeze(p.w.Chance().IntN(100), p.w.Chance().Between(0, 400*ms))
			default:
				c.p.Pause()
				p.w.Run(p.w.Chance().Between(0, 400*ms))
				c.p.Resume()
			}
			p.w.Run(p.w.Chance().Between(0, 100*ms))
		}
		p.w.Run(2 * sim.Second)
		p.progress(5)
		p.check()
	}, options...)
}

// A backup whose disk fails for good loses its place, with the reason; the VM goes on.
func TestBackupCannotRead(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1, fewSectors), func(p *pair) {
		p.protected()
		if p.readsFromDisk() == 0 {
			p.t.Skip("this backup could not open the disk")
		}
		p.vm.Storage.FailReads = 1
		p.await("the end of the backup", 20*sim.Second, func() bool { return p.b.p.Gone() })
		if !p.b.saw(replica.StateChanged, "has failed to read") {
			p.t.Error("no reason")
		}
		p.vm.Storage.FailReads = 0
		p.goesOn(p.a)
		p.another()
		p.protected()
		p.check()
	}, reading)
}

// A primary that dies while its backup can't read is not lost: the backup goes on
// as soon as it can.
func TestDrainWaitsForDisk(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1, fewSectors), func(p *pair) {
		p.protected()
		p.vm.Storage.FailReads = 1
		p.w.Run(p.w.Chance().Between(0, 50*ms))
		p.a.p.Kill()
		p.w.Run(10 * sim.Second)
		p.vm.Storage.FailReads = 0
		p.goesOn(p.b)
		p.check()
	}, reading)
}

// replicated gives each copy a disk of its own.
func replicated(p *pair) { p.own, p.ring = true, 64 }

func ownDisks(t testing.TB, mode event.DiskMode, macros ...string) machine.Config {
	cfg := machinetest.Config(t, 1, append(macros, "-DSECTORS=64")...)
	cfg.Devices[machinetest.DiskSlot].Disk = mode
	return cfg
}

// Each copy has a disk of its own: nothing that is written waits for the other, and
// when both end their disks are the same.
func TestReplicated(t *testing.T) {
	for _, mode := range []event.DiskMode{event.ReplicatedDisk, event.ReplicatedFlush} {
		for _, reads := range []bool{false, true} {
			t.Run(fmt.Sprintf("mode %d, reads %v", mode, reads), func(t *testing.T) {
				eachSeed(t, ownDisks(t, mode), func(p *pair) {
					p.w.Chance().Fill(p.a.site.Own.Bytes[1<<20:]) // the host's disk has something on it
					p.protected()
					p.b.site.Own.Fail = 20
					p.progress(30)
					if reads != (p.readsFromDisk() > 0) {
						p.t.Errorf("%d reads left their data out", p.readsFromDisk())
					}
					p.vm.Console.Type("q")
					p.await("the end", 5*sim.Second, func() bool { return p.a.p.Gone() && p.b.p.Gone() })
					p.check()
					if !bytes.Equal(p.a.site.Own.Bytes, p.b.site.Own.Bytes) {
						p.t.Error("the disks differ")
					}
				}, replicated, func(p *pair) { p.reads, p.rate = reads, 2<<20 }) // a slow clone: the guest writes meanwhile
			})
		}
	}
}

// Copies are killed again and again. The survivor goes on with its own disk, whose
// contents it has told; a host that comes back gets what its disk lacks, and no more.
func TestReplicatedGenerations(t *testing.T) {
	eachSeed(t, ownDisks(t, event.ReplicatedDisk), func(p *pair) {
		p.w.Chance().Fill(p.a.site.Own.Bytes[1<<20:])
		now, next := p.a, p.b
		for epoch := event.Epoch(2); epoch <= 5; epoch++ {
			p.await("a protected VM", 10*sim.Second, func() bool { return now.state() == ft.Protected })
			if sent := now.Stats().ResyncBytes; epoch == 2 && sent < 1<<20 || epoch > 2 && sent > 1<<19 {
				p.t.Errorf("%d KiB were sent for the backup of epoch %d", sent>>10, epoch)
			}
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
			p.goesOn(on)
			now = on
			next = p.returning(out)
		}
		p.await("a protected VM", 10*sim.Second, func() bool { return now.state() == ft.Protected })
		p.progress(5)
		p.check()
	}, replicated, func(p *pair) { p.reads = p.w.Chance().OneIn(2) })
}

// returning starts a backup on the host of a copy that is gone, with its disk.
func (p *pair) returning(old *copyOf) *copyOf {
	p.names++
	c := p.process(fmt.Sprintf("c%d", p.names))
	c.site.Own = old.site.Own
	p.backup(c, p.link.Rewire(c.p))
	return c
}

// With flush=both a guest that was told of a flush has what it wrote on both disks,
// however slow the backup's is; without, on the primary's at least. A backup that is
// lost keeps no flush waiting.
func TestFlushBoth(t *testing.T) {
	behind := 0
	for _, mode := range []event.DiskMode{event.ReplicatedDisk, event.ReplicatedFlush} {
		eachSeed(t, ownDisks(t, mode), func(p *pair) {
			p.protected()
			p.b.site.Own.Delay = [2]world.Time{3 * ms, 9 * ms}
			p.w.Run(50 * ms)
			for range 300 {
				p.w.Run(ms)
				rounds := bytes.Count(p.vm.Console.Printed, []byte("\n"))
				line := bytes.Split(p.vm.Console.Printed, []byte("\n"))[rounds-1]
				var n, hash uint64
				if _, err := fmt.Sscanf(string(line), "%d %x", &n, &hash); err != nil {
					continue
				}
				sector := p.b.site.Own.Bytes[n%64*512:]
				if binary.LittleEndian.Uint64(sector) >= n && n > 0 {
					continue
				}
				if behind++; mode == event.ReplicatedFlush && n > 0 {
					p.t.Fatalf("round %d was told as flushed, the backup's disk has %d", n, binary.LittleEndian.Uint64(sector))
				}
			}
			p.b.p.PullPlug()
			p.goesOn(p.a)
			p.check()
		}, replicated)
	}
	if behind == 0 && !t.Failed() {
		t.Error("the backup's disk never lagged")
	}
}

// A write that fails on the primary's own disk leaves the two disks different; what
// is read there then comes over the log, and the copies stay the same.
func TestReplicatedDoubt(t *testing.T) {
	failed := 0
	eachSeed(t, ownDisks(t, event.ReplicatedDisk), func(p *pair) {
		p.protected()
		p.a.site.Own.Fail, p.a.site.Own.Torn = 5, true
		p.progress(30)
		failed += bytes.Count(p.vm.Console.Printed, []byte("disk error"))
		p.a.p.Kill()
		p.goesOn(p.b)
		p.check()
	}, replicated, func(p *pair) { p.reads = true })
	if failed == 0 && !t.Failed() {
		t.Error("nothing failed")
	}
}

// A disk that fails stops the VM, and not the pair: it stays protected, the guest is
// told nothing, and goes on once the operator says so. If the primary is lost in the
// meantime its backup does the same.
func TestStopOnDiskError(t *testing.T) {
	stop := func(p *pair) { p.stop = true }
	for name, c := range map[string]struct {
		cfg     machine.Config
		options []func(*pair)
	}{
		"shared":       {machinetest.Config(t, 1), []func(*pair){stop}},
		"backup reads": {machinetest.Config(t, 1, fewSectors), []func(*pair){stop, reading}},
		"replicated":   {ownDisks(t, event.ReplicatedFlush), []func(*pair){stop, replicated}},
	} {
		t.Run(name, func(t *testing.T) {
			eachSeed(t, c.cfg, func(p *pair) {
				fail := func(n int) {
					p.vm.Storage.Fail = n
					if p.own {
						p.a.site.Own.Fail, p.b.site.Own.Fail = n, 0
						if p.a.p.Gone() {
							p.b.site.Own.Fail = n
						}
					}
				}
				p.protected()
				if err := p.a.Resume(); err == nil {
					p.t.Error("a VM that runs was resumed")
				}
				fail(1)
				p.await("the stop", sim.Second, func() bool { return p.a.Paused() != "" })
				printed := len(p.vm.Console.Printed)
				p.w.Run(30 * sim.Second)
				if p.a.state() != ft.Protected || p.b.state() != ft.Replaying || len(p.vm.Console.Printed) > printed+100 {
					p.t.Fatalf("not a protected VM that stands still\n%s", p.describe())
				}
				if err := p.a.Resume(); err != nil {
					p.t.Error(err)
				}
				p.a.p.Wake()
				p.await("it fails again", sim.Second, func() bool { return p.a.Paused() != "" })
				live := p.a
				if p.w.Chance().OneIn(2) {
					p.a.p.Kill()
					fail(1)
					live = p.b
					p.await("the backup alone, and stopped", 5*sim.Second, func() bool { return p.b.Paused() != "" })
				}
				fail(0)
				if err := live.Resume(); err != nil {
					p.t.Error(err)
				}
				live.p.Wake()
				p.progress(20)
				if bytes.Contains(p.vm.Console.Printed, []byte("error")) {
					p.t.Error("the guest was told")
				}
				fail(1)
				if live == p.b && p.own {
					p.b.site.Own.Fail = 1
				}
				p.await("the stop", sim.Second, func() bool { return live.Paused() != "" })
				fail(0)
				if live == p.b && p.own {
					p.b.site.Own.Fail = 0
				}
				if err := live.ReportDiskErrors(); err != nil {
					p.t.Error(err)
				}
				live.p.Wake()
				p.progress(5)
				if !bytes.Contains(p.vm.Console.Printed, []byte("disk error")) {
					p.t.Error("the guest was not told")
				}
				p.check()
			}, c.options...)
		})
	}
}

// A disk that answers nothing for half a minute while the primary is lost: the VM
// waits, and nothing that was acknowledged is lost.
func TestStalledDisk(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.protected()
		fast := p.vm.Storage.Delay
		p.vm.Storage.Delay = [2]world.Time{30 * sim.Second, 30 * sim.Second}
		p.w.Run(p.w.Chance().Between(0, 100*ms))
		p.a.p.Kill()
		p.await("the backup alone", 10*sim.Second, func() bool { return p.b.state() == ft.Solo })
		p.vm.Storage.Delay = fast
		p.w.Run(31 * sim.Second)
		p.progress(20)
		p.check()
	})
}

// A copy with a disk of its own that has diverged from a lost primary's log boots from
// that disk, and brings another up to date.
func TestReplicatedRestart(t *testing.T) {
	eachSeed(t, ownDisks(t, event.ReplicatedFlush), func(p *pair) {
		p.protected()
		fast := p.b.site.Own.Delay
		p.b.site.Own.Delay = [2]world.Time{400 * ms, 900 * ms} // what was begun ends after the boot
		p.w.Run(20 * ms)
		p.divergeWhileDraining(func() {
			if err := p.b.Machine().Apply(event.Frames{Device: machinetest.NetSlot, Frames: []event.Frame{{}}}); err != nil {
				p.t.Fatal(err)
			}
		})
		p.b.site.Own.Delay = fast
		p.goesOn(p.b)
		if boots := bytes.Count(p.vm.Console.Printed, []byte("boot\n")); boots != 2 || !p.b.saw(replica.Restarted, "") {
			p.t.Errorf("%d boots", boots)
		}
		c := p.another()
		p.await("a protected VM", 10*sim.Second, func() bool { return p.b.state() == ft.Protected })
		p.b.p.Kill()
		p.goesOn(c)
		for _, rule := range p.w.Broken() {
			p.t.Error(rule)
		}
	}, replicated)
}

// BenchmarkLog is the log of a second of the guest, in bytes, with the data of reads in it and
// with reads by the backup.
func BenchmarkLog(b *testing.B) {
	for _, reads := range []bool{false, true} {
		b.Run(fmt.Sprintf("reads=%s", map[bool]string{false: "log", true: "backup"}[reads]), func(b *testing.B) {
			bytes, entries := uint64(0), uint64(0)
			for i := 0; b.Loop(); i++ {
				p := newPair(b, uint64(i), machinetest.Config(b, 1), func(p *pair) { p.reads = reads })
				p.await("a protected VM", 10*sim.Second, func() bool { return p.a.state() == ft.Protected })
				before := p.a.Stats()
				p.w.Run(sim.Second)
				after := p.a.Stats()
				bytes, entries = bytes+after.LogBytes-before.LogBytes, entries+after.Entries-before.Entries
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "log-B/s")
			b.ReportMetric(float64(entries)/float64(b.N), "entries/s")
		})
	}
}
