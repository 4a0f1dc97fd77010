// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"fmt"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
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
func TestReadsByBackupChaos(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1, fewSectors), func(p *pair) {
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
	}, reading)
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
		if !p.b.saw(replica.StateChanged, "does not read") {
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
