// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"slices"

	"tandem/machine/event"
	"tandem/vswitch"
	"tandem/world"
	"tandem/world/overlap"
)

// Storage is the shared disk. A Disk is one process's connection to it; opening
// one for a newer epoch ends and drains all older ones.
//
// Bytes is what a reader sees. What was written since the last flush may be in a
// cache only, so PowerLoss forgets some of it, sector by sector.
type Storage struct {
	Bytes   []byte
	Delay   [2]world.Time // least and greatest, of an operation
	Fail    int           // one operation in so many fails; 0 for none
	Torn    bool          // a failed write leaves something else there
	Stall   int           // one operation in so many takes up to StallBy more
	StallBy world.Time
	Down    bool // nothing is done
	// Readers lets backups read the disk, of whose reads one in FailReads fails.
	Readers   bool
	FailReads int
	// Wrote, if set, sees each write and discard as it is submitted.
	Wrote func(p *Process, epoch event.Epoch, q event.DiskRequest)

	w      *World
	v      *VM
	slot   event.DeviceID
	disk   *Disk // of the newest epoch
	own    bool  // of one host: nobody else writes there
	stable []byte
	unsafe []bool // by sector: written since it was stable
}

const sector = 512

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
	return &Storage{Bytes: make([]byte, size), stable: make([]byte, size), unsafe: make([]bool, (size+sector-1)/sector),
		Delay: [2]world.Time{50 * Microsecond, 600 * Microsecond}, w: w, v: v, slot: slot}
}

func (s *Storage) open(site *Site) *Disk {
	if old := s.disk; old != nil {
		old.drain()
	}
	s.disk = &Disk{s: s, site: site}
	return s.disk
}

// Holder names the process that has the newest connection, if it is open.
func (s *Storage) Holder() string {
	if s.disk == nil || s.disk.fenced {
		return ""
	}
	return s.disk.site.p.Name
}

// reader returns a connection that only reads, and is in nobody's way.
func (s *Storage) reader(site *Site) *Disk { return &Disk{s: s, site: site, reader: true} }

// drain ends a connection: each operation that was started happens, doesn't, or is torn.
func (d *Disk) drain() {
	for _, q := range d.busy {
		d.s.tear(q)
	}
	d.fenced, d.busy, d.done = true, nil, nil
	if d.s.own {
		d.queue = overlap.Queue{}
	}
	d.site.p.Wake()
}

// tear does some sectors of an operation.
func (s *Storage) tear(q event.DiskRequest) {
	if q.Op == event.DiskGrow {
		return
	}
	switch s.w.chance.IntN(3) {
	case 0:
		s.run(q)
	case 1:
		if q.Op == event.DiskFlush {
			return
		}
		for i := uint64(0); i < q.Length; i += sector {
			part := q
			part.Offset, part.Length = q.Offset+i, min(sector, q.Length-i)
			if q.Op == event.DiskWrite {
				part.Data = q.Data[i : i+part.Length]
			}
			if s.w.chance.OneIn(2) {
				s.run(part)
			} else if q.Length > sector && q.Op == event.DiskWrite {
				s.w.Mark("a write is torn")
			}
		}
	}
}

// PowerLoss ends the connection, tears what was under way and forgets some of what was
// not flushed.
func (s *Storage) PowerLoss() {
	s.w.Trace("the store loses power")
	if s.disk != nil {
		s.disk.drain()
	}
	for i, lost := range s.unsafe {
		if at := i * sector; lost && s.w.chance.OneIn(2) {
			s.w.Mark("a write that was not flushed is lost")
			copy(s.Bytes[at:min(at+sector, len(s.Bytes))], s.stable[at:])
		}
	}
	copy(s.stable, s.Bytes)
	clear(s.unsafe)
}

// Submit implements world.Disk.
func (d *Disk) Submit(q event.DiskRequest) {
	d.site.p.touch()
	if q.Changes() {
		if d.reader {
			d.s.w.Breach("%s writes by a connection that is to read", d.site.p.Name)
		}
		if !d.s.own {
			d.site.owns("a write")
		}
		if d.s.Wrote != nil && !d.fenced {
			d.s.Wrote(d.site.p, d.site.epoch, q)
		}
	}
	if d.fenced {
		return
	}
	d.queue.Submit(q)
	d.start()
}

func (d *Disk) start() {
	s := d.s
	for {
		q, ok := d.queue.Next()
		if !ok {
			return
		}
		d.busy = append(d.busy, q)
		delay := s.w.chance.Between(s.Delay[0], s.Delay[1])
		if s.w.chance.OneIn(s.Stall) {
			s.w.Mark("a disk stalls")
			delay += s.w.chance.Between(0, s.StallBy)
		}
		s.w.After(delay, func() { d.finish(q) })
	}
}

func (d *Disk) finish(q event.DiskRequest) {
	if d.fenced {
		return
	}
	if d.s.Down || d.site.NoStore { // until it is back
		d.s.w.After(10*Millisecond, func() { d.finish(q) })
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
	if d.s.w.chance.OneIn(often) {
		d.s.w.Mark("a disk operation fails")
		if d.s.Torn && q.Op == event.DiskWrite {
			d.s.w.chance.Fill(d.s.Bytes[q.Offset : q.Offset+q.Length/2])
		} else {
			d.s.tear(q)
		}
	} else {
		done.Status, done.Data = event.DiskOK, d.s.run(q)
	}
	d.done = append(d.done, done)
	d.queue.Done(q.ID)
	d.start()
	d.site.p.Wake()
}

// run does an operation; it returns what was read.
func (s *Storage) run(q event.DiskRequest) []byte {
	if q.Op == event.DiskFlush {
		copy(s.stable, s.Bytes)
		clear(s.unsafe)
		return nil
	}
	if q.Op == event.DiskGrow {
		s.grow(q.Length)
		return nil
	}
	place := s.Bytes[q.Offset : q.Offset+q.Length]
	switch q.Op {
	case event.DiskRead:
		return bytes.Clone(place)
	case event.DiskWrite:
		copy(place, q.Data)
	case event.DiskDiscard, event.DiskWriteZeroes:
		clear(place)
	}
	for i := q.Offset / sector; i*sector < q.Offset+q.Length; i++ {
		s.unsafe[i] = true
	}
	return nil
}

// grow makes the disk larger, for good.
func (s *Storage) grow(size uint64) {
	if old := uint64(len(s.Bytes)); size > old {
		s.Bytes = append(s.Bytes, make([]byte, size-old)...)
		s.stable = append(s.stable, make([]byte, size-old)...)
		s.unsafe = append(s.unsafe, make([]bool, (size+sector-1)/sector-uint64(len(s.unsafe)))...)
	}
}

// Poll implements world.Disk.
func (d *Disk) Poll() (done event.DiskDone, ok bool) {
	d.site.p.touch()
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
func (d *Disk) Close() error {
	if d.s.disk == d && !d.s.own {
		d.drain()
		d.s.disk = nil
	}
	return nil
}

// LAN is the VM's network: whoever answers its frames.
type LAN struct {
	// Answer returns what comes back for a frame, nil for nothing.
	Answer func(f []byte) []byte
	Delay  [2]world.Time
	// One frame in so many is lost, comes twice, is spoilt, or comes up to LateBy later.
	Loss, Twice, Spoil, Late int
	LateBy                   world.Time
	Sent                     [][]byte // all frames that left the VM, in order; only without a Switch

	Unplugged bool // the cable is
	Keeps     bool // frames for the VM until they are logged, and those that came while no port was there
	kept      []event.Frame
	logged    uint64 // frames that are no longer kept

	w    *World
	v    *VM
	slot event.DeviceID
	port *Port // where the VM is known to be
	last *Port // that was opened
	sw   *Switch
}

// Port is one process's port; it implements world.Network.
type Port struct {
	l    *LAN
	site *Site
	id   vswitch.PortID // at the Switch
	out  []event.Frame
	in   []event.Frame

	first, taken uint64 // frames before the first one; returned by Recv
}

func newLAN(w *World, v *VM, slot event.DeviceID) *LAN {
	return &LAN{Answer: func([]byte) []byte { return nil }, Delay: [2]world.Time{50 * Microsecond, 500 * Microsecond}, w: w, v: v, slot: slot}
}

func (l *LAN) open(site *Site) *Port {
	l.last = &Port{l: l, site: site, first: l.logged}
	if l.Keeps {
		l.last.in, l.port = slices.Clone(l.kept), l.last
	}
	if l.sw != nil {
		l.sw.open(l.last)
	}
	return l.last
}

// Send implements world.Network.
func (p *Port) Send(f event.Frame) { p.site.p.touch(); p.out = append(p.out, f) }

// Flush implements world.Network.
func (p *Port) Flush() {
	p.site.p.touch()
	for _, f := range p.out {
		if p.site.owns("a frame") {
			p.l.send(p, f.Data)
		}
	}
	p.out = nil
}

func (l *LAN) send(p *Port, b []byte) {
	if l.sw != nil {
		l.sw.sent(p, b)
		l.travel(b, func(b []byte) {
			if !p.site.NoSwitch {
				l.sw.forward(p.id, b)
			}
		})
		return
	}
	l.port = p
	l.Sent = append(l.Sent, b)
	l.travel(b, func(b []byte) {
		if back := l.Answer(b); back != nil {
			l.w.After(l.w.chance.Between(l.Delay[0], l.Delay[1]), func() { l.Deliver(event.Frame{Data: back}) })
		}
	})
}

// travel has a frame arrive, as this network does it.
func (l *LAN) travel(b []byte, arrives func([]byte)) {
	c := &l.w.chance
	if c.OneIn(l.Loss) {
		l.w.Mark("a frame is lost")
		return
	}
	for again := true; again; {
		delay := c.Between(l.Delay[0], l.Delay[1])
		if c.OneIn(l.Late) {
			l.w.Mark("a frame is late")
			delay += c.Between(0, l.LateBy)
		}
		sent := b
		if c.OneIn(l.Spoil) {
			l.w.Mark("a frame is spoilt")
			sent = bytes.Clone(b)
			sent[c.IntN(len(b))] ^= 1 << c.IntN(8)
		}
		l.w.After(delay, func() { arrives(sent) })
		if again = c.OneIn(l.Twice); again {
			l.w.Mark("a frame comes twice")
		}
	}
}

// Deliver sends a frame to the VM.
func (l *LAN) Deliver(f event.Frame) {
	if l.Keeps {
		l.kept = append(l.kept, f)
	}
	if p := l.port; p != nil {
		p.deliver(f)
	}
}

func (p *Port) deliver(f event.Frame) {
	if !p.site.p.Gone() && !p.site.NoSwitch {
		p.in = append(p.in, f)
		p.site.p.Wake()
	}
}

// Recv implements world.Network.
func (p *Port) Recv() (f event.Frame, ok bool) {
	p.site.p.touch()
	if len(p.in) == 0 {
		return f, false
	}
	f = p.in[0]
	p.in = p.in[1:]
	p.taken++
	return f, true
}

// Mark implements world.Network.
func (p *Port) Mark() uint64 { return p.first + p.taken }

// Logged implements world.Network.
func (p *Port) Logged(mark uint64) {
	if mark > p.Mark() {
		p.l.w.Breach("%s says that frame %d is logged, but has received %d", p.site.p.Name, mark, p.Mark())
	}
	if l := p.l; l.Keeps && l.port == p && mark > l.logged {
		l.kept, l.logged = l.kept[mark-l.logged:], mark
	}
}

// Up implements world.Network.
func (p *Port) Up() bool { return !p.l.Unplugged }

// Fenced implements world.Network.
func (p *Port) Fenced() bool { return p.l.last != p }

// Close implements world.Network.
func (p *Port) Close() error { return nil }
