// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tandem/machine/event"
	"tandem/vswitch"
	"tandem/world"
	"tandem/world/mirror"
)

// VM is what all replicas of one VM share: the arbiter's record, the disk, the
// network and the console.
type VM struct {
	Arbiter Arbiter
	Storage *Storage
	LAN     *LAN
	Console Console
	Spares  map[string]*Storage // shared disks that operators may put into drives
	Name    string              // at the Switch
	MAC     vswitch.MAC         // the same

	w       *World
	current *Site // that opened the newest epoch
	opened  event.Epoch
	started event.Epoch // by a primary that booted, whatever ran: only fences stop older ones
}

// VM returns a VM with a disk of some bytes in one slot and a network in another.
func (w *World) VM(size uint64, disk, net event.DeviceID) *VM {
	v := &VM{w: w}
	v.Storage = newStorage(w, v, size, disk)
	v.LAN = newLAN(w, v, net)
	v.Console = Console{w: w}
	return v
}

// Arbiter keeps the VM's record. It implements world.Arbiter.
type Arbiter struct {
	Down   bool // nobody reaches it
	Forget int  // one answer in so many is lost, after the claim was entered
	record world.Record
	w      *World
}

var errUnreachable = errors.New("the arbiter does not answer")

// Read implements world.Arbiter.
func (a *Arbiter) Read() (world.Record, error) {
	if a.Down {
		return world.Record{}, errUnreachable
	}
	return a.record, nil
}

// Claim implements world.Arbiter.
func (a *Arbiter) Claim(epoch event.Epoch, owner string, gen uint64) (won bool, cur world.Record, err error) {
	switch {
	case a.Down:
		return false, world.Record{}, errUnreachable
	case epoch == 0 || owner == "":
		return false, world.Record{}, errors.New("a claim needs an epoch and an owner")
	case epoch > a.record.Epoch+1:
		return false, world.Record{}, fmt.Errorf("epoch %d can't follow epoch %d", epoch, a.record.Epoch)
	case a.record.Epoch+1 == epoch:
		a.record = world.Record{Epoch: epoch, Owner: owner, DiskGeneration: gen}
	}
	if a.w != nil && a.w.chance.OneIn(a.Forget) {
		a.w.Mark("the arbiter forgets to answer")
		return false, world.Record{}, errUnreachable
	}
	return a.record.Epoch == epoch && a.record.Owner == owner, a.record, nil
}

// Site is how one process reaches the VM's outside; it implements world.Site.
type Site struct {
	v        *VM
	p        *Process
	Cut      bool       // the arbiter is out of reach from here
	NoStore  bool       // and the store
	NoSwitch bool       // and the switch
	Slow     world.Time // added to claims and fences
	epoch    event.Epoch
	// Own, if set, is the disk of this host, in place of the shared one.
	Own  *Storage
	disk *Disk // of Own, once it is open

	media map[event.DeviceID]medium // names of Spares, put into drives
}

// OwnDisk returns a disk for one host, as large as the shared one.
func (v *VM) OwnDisk() *Storage {
	s := newStorage(v.w, v, uint64(len(v.Storage.Bytes)), v.Storage.slot)
	s.own = true
	return s
}

func (s *Site) ownDisk() *Disk {
	if s.disk == nil {
		s.disk = s.Own.open(s)
	}
	return s.disk
}

// Site returns a process's way to the outside.
func (v *VM) Site(p *Process) *Site {
	v.Arbiter.w = v.w
	return &Site{v: v, p: p, media: map[event.DeviceID]medium{}}
}

// outcome implements world.Pending.
type outcome[T any] struct {
	v    T
	err  error
	done bool
}

func (o *outcome[T]) Poll() (v T, err error, ok bool) { return o.v, o.err, o.done }

// Claim implements world.Site.
func (s *Site) Claim(epoch event.Epoch) world.Pending[bool] {
	s.p.touch()
	o := &outcome[bool]{}
	way := func() world.Time { return s.Slow + s.v.w.chance.Between(100*Microsecond, 2*Millisecond) }
	s.v.w.After(way(), func() {
		o.err = errUnreachable
		if !s.Cut {
			o.v, _, o.err = s.v.Arbiter.Claim(epoch, s.p.Name, 0)
		}
		s.v.w.Trace("%s claims epoch %d: %v %v", s.p.Name, epoch, o.v, o.err)
		s.v.w.After(way(), func() { o.done = true; s.p.Wake() })
	})
	return o
}

// Open implements world.Site.
func (s *Site) Open(epoch event.Epoch) world.Pending[world.Devices] {
	s.p.touch()
	o := &outcome[world.Devices]{}
	s.v.w.After(s.Slow+s.v.w.chance.Between(100*Microsecond, 3*Millisecond), func() {
		switch r := s.v.Arbiter.record; {
		case s.NoStore || s.NoSwitch || s.v.storage(s.Medium(s.v.Storage.slot)).Down || s.v.w.chance.OneIn(8):
			s.v.w.Mark("a fence fails")
			o.err = errors.New("the store does not answer")
		case s.v.opened > epoch:
			s.v.w.Mark("a fence comes too late")
			o.err = fmt.Errorf("epoch %d is fenced: epoch %d belongs to %s", epoch, r.Epoch, r.Owner)
		default:
			o.v = s.OpenNow(epoch)
		}
		o.done = true
		s.p.Wake()
	})
	return o
}

// Follow implements world.Site.
func (s *Site) Follow() world.Pending[world.Devices] {
	o := &outcome[world.Devices]{done: !s.v.Storage.Readers && s.Own == nil}
	switch {
	case s.Own != nil:
		s.v.w.After(s.Slow+s.v.w.chance.Between(100*Microsecond, 3*Millisecond), func() {
			o.done = true
			o.v.Disks[s.v.Storage.slot] = s.ownDisk()
			s.p.Wake()
		})
	case !o.done:
		s.v.w.After(s.Slow+s.v.w.chance.Between(100*Microsecond, 3*Millisecond), func() {
			if o.done = true; s.v.w.chance.OneIn(8) {
				o.err = errors.New("the store does not answer")
			} else {
				o.v.Disks[s.v.Storage.slot] = s.v.Storage.reader(s)
			}
			s.p.Wake()
		})
	}
	return o
}

// OpenNow opens the devices for an epoch; older ones are fenced.
func (s *Site) OpenNow(epoch event.Epoch) (d world.Devices) {
	s.v.w.Trace("%s opens epoch %d", s.p.Name, epoch)
	if r := s.v.Arbiter.record; r.Epoch == epoch && r.Owner != s.p.Name || r.Epoch < epoch {
		s.v.w.Breach("%s opens epoch %d, which belongs to %q", s.p.Name, epoch, r.Owner)
	}
	s.epoch, s.v.current, s.v.opened = epoch, s, epoch
	if s.Own != nil {
		d.Disks[s.v.Storage.slot] = s.ownDisk()
	} else {
		d.Disks[s.v.Storage.slot] = s.v.Storage.open(s)
	}
	for _, slot := range slices.Sorted(maps.Keys(s.media)) {
		switch m := s.media[slot]; {
		case m.source == "":
		case m.mirror == "":
			d.Disks[slot] = s.v.storage(m.source).open(s)
		default:
			d.Disks[slot] = mirror.Open(s.v.storage(m.mirror).open(s), s.v.storage(m.source).open(s))
		}
	}
	d.Networks[s.v.LAN.slot] = s.v.LAN.open(s)
	return d
}

// Spare adds a shared disk that lies in no drive yet.
func (v *VM) Spare(name string, size uint64, slot event.DeviceID) *Storage {
	if v.Spares == nil {
		v.Spares = map[string]*Storage{}
	}
	v.Spares[name] = newStorage(v.w, v, size, slot)
	return v.Spares[name]
}

// MainDisk names VM.Storage.
const MainDisk = "main"

// storage is a shared disk by its name.
func (v *VM) storage(name string) *Storage {
	if name == MainDisk {
		return v.Storage
	}
	return v.Spares[name]
}

// Disk is the shared disk that counts: Storage, or where it has moved.
func (v *VM) Disk() *Storage {
	if v.current == nil {
		return v.Storage
	}
	return v.storage(v.current.Medium(v.Storage.slot))
}

// medium is what lies in a drive.
type medium struct{ source, mirror string }

// Medium implements world.Site.
func (s *Site) Medium(slot event.DeviceID) string {
	if m, noted := s.media[slot]; noted || slot != s.v.Storage.slot {
		return m.source
	}
	return MainDisk
}

// Insert implements world.Site.
func (s *Site) Insert(source string, epoch event.Epoch) world.Pending[world.Disk] {
	o := &outcome[world.Disk]{}
	s.reach(source, &o.done, &o.err, func(spare *Storage) {
		if epoch != s.epoch || s.v.opened > epoch {
			o.err = fmt.Errorf("epoch %d is fenced", epoch)
			return
		}
		o.v = spare.open(s)
	})
	return o
}

// Note implements world.Site.
func (s *Site) Note(slot event.DeviceID, source, mirror string) world.Pending[bool] {
	s.media[slot] = medium{source, mirror}
	o := &outcome[bool]{}
	s.reach(source, &o.done, &o.err, func(*Storage) { o.v = true })
	return o
}

// reach finds a spare disk, after a while.
func (s *Site) reach(source string, done *bool, err *error, found func(*Storage)) {
	s.p.touch()
	s.v.w.After(s.Slow+s.v.w.chance.Between(100*Microsecond, 3*Millisecond), func() {
		switch spare := s.v.storage(source); {
		case source == "":
		case spare == nil || s.NoStore || spare.Down:
			*err = fmt.Errorf("the disk %q does not answer", source)
		default:
			found(spare)
		}
		*done = true
		s.p.Wake()
	})
}

// Start claims and opens the first epoch, for the first primary.
func (s *Site) Start() world.Devices { _, d := s.Restart(); return d }

// Restart claims and opens the epoch after the newest, for a primary that boots.
func (s *Site) Restart() (event.Epoch, world.Devices) {
	e := s.v.Arbiter.record.Epoch + 1
	s.v.started = e
	s.v.Arbiter.Claim(e, s.p.Name, 0)
	return e, s.OpenNow(e)
}

// owns reports whether the site's process may emit: it opened the newest epoch
// and nobody has won a newer one. A process that was stopped between its look at
// the lease and its emission can't know; that is what fences are for.
func (s *Site) owns(what string) bool {
	newest := s.v.current == s
	owner := newest && s.v.Arbiter.record.Epoch == s.epoch || s.v.Arbiter.record.Owner == s.p.Name
	if !owner && !s.p.frozen && s.epoch >= s.v.started {
		s.v.w.Breach("%s from %s of epoch %d, but epoch %d belongs to %s", what, s.p.Name, s.epoch, s.v.Arbiter.record.Epoch, s.v.Arbiter.record.Owner)
	}
	return newest
}

// Console is what the VM has printed, and what is typed.
type Console struct {
	Printed []byte
	Boots   []int  // places in Printed where a VM that booted again begins
	at      uint64 // number of the next byte
	typed   []byte
	w       *World
}

// boot times an epoch is where the numbers begin of a VM that boots in it, or in an
// earlier one that printed nothing yet.
const boot = 1 << 40

// Type types bytes; the VM reads them wherever it is live.
func (c *Console) Type(b string) { c.typed = append(c.typed, b...) }

// Terminal is a process's way to the console.
type Terminal struct {
	c *Console
	s *Site
}

// Terminal returns a site's terminal.
func (s *Site) Terminal() *Terminal { return &Terminal{&s.v.Console, s} }

// Write implements world.Terminal, and holds what is printed again to what was
// printed first.
func (t *Terminal) Write(offset uint64, b []byte) {
	t.s.p.touch()
	t.s.owns("console output")
	c := t.c
	if offset%boot == 0 && offset > c.at && offset <= uint64(t.s.epoch)*boot {
		c.Boots, c.at = append(c.Boots, len(c.Printed)), offset
	}
	have := uint64(len(c.Printed))
	if len(c.Boots) > 0 {
		have -= uint64(c.Boots[len(c.Boots)-1])
	}
	if offset > c.at || offset < c.at-have {
		c.w.Breach("%s prints at %d, but %d bytes up to %d were printed", t.s.p.Name, offset, have, c.at)
		return
	}
	n := min(uint64(len(b)), c.at-offset)
	if was := c.Printed[uint64(len(c.Printed))-(c.at-offset):][:n]; !bytes.Equal(was, b[:n]) {
		c.w.Breach("%s prints %q at %d, where %q was printed", t.s.p.Name, b[:n], offset, was)
	}
	c.Printed = append(c.Printed, b[n:]...)
	c.at += uint64(len(b)) - n
}

// Read implements world.Terminal.
func (t *Terminal) Read() []byte {
	t.s.p.touch()
	b := t.c.typed
	if t.s.v.current != t.s {
		return nil
	}
	t.c.typed = nil
	return b
}
