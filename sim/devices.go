// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"

	"tandem/machine/event"
	"tandem/world"
	"tandem/world/overlap"
)

// Storage is the shared disk. A Disk is one process's connection to it; opening
// one for a newer epoch ends and drains all older ones.
type Storage struct {
	Bytes []byte
	Delay [2]world.Time // least and greatest, of an operation
	Fail  int           // one operation in so many fails; 0 for none
	// Readers lets backups read the disk, of whose reads one in FailReads fails.
	Readers   bool
	FailReads int
	// Torn leaves something else where a write failed.
	Torn bool

	w    *World
	v    *VM
	slot event.DeviceID
	disk *Disk // of the newest epoch
	own  bool  // of one host: nobody else writes there
}

// Disk implements world.Disk.
type Disk struct {
	s      *Storage
	site   *Site
	queue  overlap.Queue
	busy   []event.DiskRequest // started, in order
	done   []event.DiskDone
	fenced bool
	reader bool
}

func newStorage(w *World, v *VM, size uint64, slot event.DeviceID) *Storage {
	return &Storage{Bytes: make([]byte, size), Delay: [2]world.Time{50 * Microsecond, 600 * Microsecond}, w: w, v: v, slot: slot}
}

func (s *Storage) open(site *Site) *Disk {
	if old := s.disk; old != nil {
		old.drain()
	}
	s.disk = &Disk{s: s, site: site}
	return s.disk
}

// reader returns a connection that only reads, and is in nobody's way.
func (s *Storage) reader(site *Site) *Disk { return &Disk{s: s, site: site, reader: true} }

// drain ends a connection: each operation that was started happens, or doesn't.
func (d *Disk) drain() {
	for _, q := range d.busy {
		if d.s.w.chance.OneIn(2) {
			d.s.run(q)
		}
	}
	d.fenced, d.busy, d.done = true, nil, nil
	if d.s.own {
		d.queue = overlap.Queue{}
	}
	d.site.p.Wake()
}

// Submit implements world.Disk.
func (d *Disk) Submit(q event.DiskRequest) {
	if q.Op != event.DiskRead && q.Op != event.DiskFlush {
		if d.reader {
			d.s.w.Breach("%s writes by a connection that is to read", d.site.p.Name)
		}
		if !d.s.own {
			d.site.owns("a write")
		}
	}
	if d.fenced {
		return
	}
	d.queue.Submit(q)
	d.start()
}

func (d *Disk) start() {
	for {
		q, ok := d.queue.Next()
		if !ok {
			return
		}
		d.busy = append(d.busy, q)
		d.s.w.After(d.s.w.chance.Between(d.s.Delay[0], d.s.Delay[1]), func() { d.finish(q) })
	}
}

func (d *Disk) finish(q event.DiskRequest) {
	if d.fenced {
		return
	}
	for i := range d.busy {
		if d.busy[i].ID == q.ID {
			d.busy = append(d.busy[:i], d.busy[i+1:]...)
			break
		}
	}
	done := event.DiskDone{ID: q.ID, Status: event.DiskIOError}
	often := d.s.Fail
	if d.reader {
		often = d.s.FailReads
	}
	if !d.s.w.chance.OneIn(often) {
		done.Status, done.Data = event.DiskOK, d.s.run(q)
	} else if d.s.Torn && q.Op == event.DiskWrite {
		d.s.w.chance.Fill(d.s.Bytes[q.Offset : q.Offset+q.Length/2])
	}
	d.done = append(d.done, done)
	d.queue.Done(q.ID)
	d.start()
	d.site.p.Wake()
}

// run does an operation; it returns what was read.
func (s *Storage) run(q event.DiskRequest) []byte {
	place := s.Bytes[q.Offset : q.Offset+q.Length]
	switch q.Op {
	case event.DiskRead:
		return bytes.Clone(place)
	case event.DiskWrite:
		copy(place, q.Data)
	case event.DiskDiscard, event.DiskWriteZeroes:
		clear(place)
	}
	return nil
}

// Poll implements world.Disk.
func (d *Disk) Poll() (done event.DiskDone, ok bool) {
	if len(d.done) == 0 {
		return done, false
	}
	done = d.done[0]
	d.done = d.done[1:]
	return done, true
}

// Fenced implements world.Disk.
func (d *Disk) Fenced() bool { return d.fenced }

// Size implements world.Disk.
func (d *Disk) Size() uint64 { return uint64(len(d.s.Bytes)) }

// Close implements world.Disk.
func (d *Disk) Close() error { return nil }

// LAN is the VM's network: whoever answers its frames.
type LAN struct {
	// Answer returns what comes back for a frame, nil for nothing.
	Answer func(f []byte) []byte
	Delay  [2]world.Time
	Loss   int      // one frame in so many is lost
	Sent   [][]byte // all frames that left the VM, in order

	w    *World
	v    *VM
	slot event.DeviceID
	port *Port // where the VM is known to be
	last *Port // that was opened
}

// Port is one process's port; it implements world.Network.
type Port struct {
	l    *LAN
	site *Site
	out  []event.Frame
	in   []event.Frame
}

func newLAN(w *World, v *VM, slot event.DeviceID) *LAN {
	return &LAN{Answer: func([]byte) []byte { return nil }, Delay: [2]world.Time{50 * Microsecond, 500 * Microsecond}, w: w, v: v, slot: slot}
}

func (l *LAN) open(site *Site) *Port {
	l.last = &Port{l: l, site: site}
	return l.last
}

// Send implements world.Network.
func (p *Port) Send(f event.Frame) { p.out = append(p.out, f) }

// Flush implements world.Network.
func (p *Port) Flush() {
	for _, f := range p.out {
		if p.site.owns("a frame") {
			p.l.send(p, f.Data)
		}
	}
	p.out = nil
}

func (l *LAN) send(p *Port, b []byte) {
	l.port = p
	l.Sent = append(l.Sent, b)
	if l.w.chance.OneIn(l.Loss) {
		return
	}
	l.w.After(l.w.chance.Between(l.Delay[0], l.Delay[1]), func() {
		if back := l.Answer(b); back != nil {
			l.w.After(l.w.chance.Between(l.Delay[0], l.Delay[1]), func() { l.Deliver(event.Frame{Data: back}) })
		}
	})
}

// Deliver sends a frame to the VM.
func (l *LAN) Deliver(f event.Frame) {
	if p := l.port; p != nil && !p.site.p.Gone() {
		p.in = append(p.in, f)
		p.site.p.Wake()
	}
}

// Recv implements world.Network.
func (p *Port) Recv() (f event.Frame, ok bool) {
	if len(p.in) == 0 {
		return f, false
	}
	f = p.in[0]
	p.in = p.in[1:]
	return f, true
}

// Fenced implements world.Network.
func (p *Port) Fenced() bool { return p.l.last != p }

// Close implements world.Network.
func (p *Port) Close() error { return nil }
