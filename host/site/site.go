// SPDX-License-Identifier: Apache-2.0

// Package site opens the disks and networks of a VM for a replica, and claims
// epochs for it. It is where a URL becomes a device:
//
//	disk     FILE, also one on each host (mark.go) · nbd://HOST:PORT/EXPORT · nbd+unix:///EXPORT?socket=PATH · nbds: with TLS
//	network  user · switch:ADDRESS · tap:NAME[,bridge=BRIDGE][,mtu=BYTES] · none
package site

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"tandem/host/filedisk"
	"tandem/host/nbd"
	"tandem/host/netswitch"
	"tandem/host/tap"
	"tandem/machine/event"
	"tandem/vswitch"
	"tandem/world"
	"tandem/world/mirror"
)

// Slot is one virtio device's other end; both fields empty for none.
type Slot struct {
	Disk     string
	ReadOnly bool
	Drive    bool // for a disk that an operator may put in later
	Network  string
	Reads    bool // a backup reads the disk itself (paper §4.2)
	Mode     event.DiskMode
	Size     uint64 // of a replicated disk, to be made if there is none; 0: it must be there
	MAC      [6]byte
	Forwards []netswitch.Forward // of a user network
}

// Config is what a replica's site is made from.
type Config struct {
	VM      string
	Owner   string        // token of this process, never used by another
	Arbiter world.Arbiter // nil for a VM without a backup
	Slots   []Slot
	Wake    func()
}

// Site implements world.Site.
type Site struct {
	cfg  Config
	taps [8]*tap.Tap // of a backup: silent, for the day it goes live

	mu  sync.Mutex
	own [8]*filedisk.Disk // replicated disks, open for the life of the process

	media map[event.DeviceID]medium // what operators have put into drives since, and taken out
}

// New returns a Site.
func New(cfg Config) *Site { return &Site{cfg: cfg, media: map[event.DeviceID]medium{}} }

// Prepare makes ready what a backup can hold without being heard of: its taps. What
// is wrong with them is known at once so, and not at a failover. Release gives up
// what Open has not taken.
func (s *Site) Prepare() (err error) {
	for i, slot := range s.cfg.Slots {
		if cfg, ok := strings.CutPrefix(slot.Network, tapPrefix); ok {
			if s.taps[i], err = openTap(cfg, slot.MAC); err != nil {
				s.Release()
				return err
			}
		}
	}
	return nil
}

// Release undoes Prepare.
func (s *Site) Release() {
	for i, t := range s.taps {
		if t != nil {
			t.Close()
			s.taps[i] = nil
		}
	}
}

// Claim implements world.Site.
func (s *Site) Claim(epoch event.Epoch) world.Pending[bool] {
	return begin(s.cfg.Wake, func() (bool, error) {
		if s.cfg.Arbiter == nil {
			return false, errors.New("this VM has no arbiter: give one with --arbiter")
		}
		won, _, err := s.ClaimNow(epoch)
		return won, err
	})
}

// ClaimNow marks the VM's own disks as those of an epoch and claims it, for which the
// record's generation is the epoch too.
func (s *Site) ClaimNow(epoch event.Epoch) (won bool, cur world.Record, err error) {
	gen := uint64(0)
	for _, slot := range s.cfg.Slots {
		if slot.Mode.Own() {
			gen = uint64(epoch)
		}
	}
	if err := s.markClaim(epoch); err != nil {
		return false, cur, err
	}
	return s.cfg.Arbiter.Claim(epoch, s.cfg.Owner, gen)
}

// CheckDisks opens the VM's own disks and says if one is not the VM's newest, by the
// arbiter's record.
func (s *Site) CheckDisks(rec world.Record) error {
	for i, slot := range s.cfg.Slots {
		if !slot.Mode.Own() {
			continue
		}
		if _, err := s.ownDisk(i); err != nil {
			return err
		}
		if err := s.checkMark(slot.Disk, rec); err != nil {
			return err
		}
	}
	return nil
}

// ownDisk opens a replicated disk, once.
func (s *Site) ownDisk(i int) (*filedisk.Disk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own[i] != nil {
		return s.own[i], nil
	}
	slot := s.cfg.Slots[i]
	if nbd.IsURL(slot.Disk) {
		return nil, fmt.Errorf("disk %s: a replicated disk is a file of each host, not a server's export", slot.Disk)
	}
	if err := makeDisk(slot.Disk, slot.Size); err != nil {
		return nil, fmt.Errorf("make the disk %s: %w", slot.Disk, err)
	}
	d, err := filedisk.Open(slot.Disk, slot.ReadOnly, s.cfg.Wake)
	if err != nil {
		return nil, err
	}
	s.own[i] = d
	return d, nil
}

// makeDisk makes an empty file of a size, unless there is one.
func makeDisk(path string, size uint64) error {
	if size == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(size)), f.Close())
}

// follow opens a replicated disk for a backup and marks it as a copy.
func (s *Site) follow(i int) (world.Disk, error) {
	d, err := s.ownDisk(i)
	if err != nil {
		return nil, err
	}
	path := s.cfg.Slots[i].Disk
	m, err := loadMark(path + markSuffix)
	if err != nil {
		return nil, err
	}
	rec, err := s.cfg.Arbiter.Read()
	switch {
	case err != nil:
		return nil, err
	case m.vm != "" && m.vm != s.cfg.VM:
		return nil, fmt.Errorf("disk %s belongs to the VM %s, says %s%s: give this VM a disk of its own", path, m.vm, path, markSuffix)
	case rec.Epoch > 0 && m.is(rec):
		return nil, fmt.Errorf("disk %s is the VM's newest, and would be written over: start this copy as the primary", path)
	}
	return d, mark{vm: s.cfg.VM, copy: true}.save(path + markSuffix)
}

// Open implements world.Site.
func (s *Site) Open(epoch event.Epoch) world.Pending[world.Devices] {
	return begin(s.cfg.Wake, func() (world.Devices, error) { return s.OpenNow(epoch) })
}

// Follow implements world.Site.
func (s *Site) Follow() world.Pending[world.Devices] {
	return begin(s.cfg.Wake, func() (d world.Devices, err error) {
		for i, slot := range s.cfg.Slots {
			if slot.Mode.Own() {
				own, e := s.follow(i)
				if err = errors.Join(err, e); e == nil {
					d.Disks[i] = own
				}
				continue
			}
			if slot.Disk == "" || !slot.Reads || !nbd.IsURL(slot.Disk) {
				continue
			}
			r, e := nbd.DialReader(context.Background(), slot.Disk, s.cfg.Wake)
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			d.Disks[i] = r
		}
		return d, err
	})
}

// OpenNow opens all devices for an epoch and waits until older epochs are fenced.
func (s *Site) OpenNow(epoch event.Epoch) (d world.Devices, err error) {
	defer func() {
		if err != nil {
			for i, slot := range s.cfg.Slots {
				if slot.Mode.Own() {
					d.Disks[i] = nil // stays open
				}
			}
			Close(d)
			d = world.Devices{}
		}
	}()
	for i, slot := range s.cfg.Slots {
		if slot.Mode.Own() {
			d.Disks[i], err = s.ownDisk(i)
		} else if m := s.medium(event.DeviceID(i)); m.source != "" {
			d.Disks[i], err = s.openMedium(m, slot.ReadOnly, epoch)
		}
		if err != nil {
			return d, err
		}
		if slot.Network != "" && slot.Network != "none" {
			if d.Networks[i], err = s.openNetwork(i, epoch); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

// Close closes all devices.
func Close(d world.Devices) {
	for i := range d.Disks {
		if d.Disks[i] != nil {
			d.Disks[i].Close()
		}
		if d.Networks[i] != nil {
			d.Networks[i].Close()
		}
	}
}

func (s *Site) openShared(disk string, readOnly bool, epoch event.Epoch) (world.Disk, error) {
	if nbd.IsURL(disk) {
		d, err := nbd.Dial(context.Background(), disk, epoch, s.cfg.Wake)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	if epoch > 0 {
		return nil, fmt.Errorf("disk %s: a file of one host can't be the shared disk of a protected VM: serve it with tandem store and give its nbd:// address, or give each copy a disk of its own with mode=replicated", disk)
	}
	d, err := filedisk.Open(disk, readOnly, s.cfg.Wake)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// medium is a shared disk, with the mirror that is as complete.
type medium struct{ source, mirror string }

// medium is what is in a slot.
func (s *Site) medium(slot event.DeviceID) medium {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, noted := s.media[slot]; noted {
		return m
	}
	return medium{source: s.cfg.Slots[slot].Disk}
}

// openMedium opens it, and its mirror.
func (s *Site) openMedium(m medium, readOnly bool, epoch event.Epoch) (world.Disk, error) {
	d, err := s.openShared(m.source, readOnly, epoch)
	if err != nil || m.mirror == "" {
		return d, err
	}
	old, err := s.openShared(m.mirror, readOnly, epoch)
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("the disk is moving from %s, which must answer until it has moved: %w", m.mirror, err)
	}
	return mirror.Open(old, d), nil
}

// Medium implements world.Site.
func (s *Site) Medium(slot event.DeviceID) string { return s.medium(slot).source }

// Insert implements world.Site.
func (s *Site) Insert(source string, epoch event.Epoch) world.Pending[world.Disk] {
	return begin(s.cfg.Wake, func() (world.Disk, error) { return s.openShared(source, false, epoch) })
}

// Note implements world.Site.
func (s *Site) Note(slot event.DeviceID, source, mirror string) world.Pending[bool] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.media[slot] = medium{source, mirror}
	return begin(s.cfg.Wake, func() (bool, error) {
		for _, disk := range []string{source, mirror} {
			if disk == "" {
				continue
			}
			if !nbd.IsURL(disk) {
				return false, fmt.Errorf("disk %s: it is no nbd:// address, which any host could reach", disk)
			}
			d, err := nbd.DialReader(context.Background(), disk, s.cfg.Wake)
			if err != nil {
				return false, err
			}
			d.Close()
		}
		return true, nil
	})
}

func (s *Site) openNetwork(i int, epoch event.Epoch) (world.Network, error) {
	slot := s.cfg.Slots[i]
	if cfg, ok := strings.CutPrefix(slot.Network, tapPrefix); ok {
		return s.startTap(i, cfg)
	}
	if slot.Network == "user" {
		if epoch > 0 {
			return nil, errors.New("network user: it ends with its process; a protected VM needs switch:ADDRESS or tap:NAME")
		}
		u, err := netswitch.NewUser(netswitch.Config{Forwards: slot.Forwards, Offloads: true,
			Leases: []netswitch.Lease{{MAC: slot.MAC, IP: firstGuest}}}, s.cfg.Wake)
		if err != nil {
			return nil, err
		}
		return user{u}, nil
	}
	addr, ok := strings.CutPrefix(slot.Network, "switch:")
	if !ok {
		return nil, fmt.Errorf("network %q: choose user, switch:ADDRESS, tap:NAME or none", slot.Network)
	}
	p, err := netswitch.Dial(addr, netswitch.Hello{VM: s.cfg.VM, Epoch: epoch, Role: vswitch.Primary, MAC: slot.MAC, Offloads: true, Keep: true}, s.cfg.Wake)
	if err != nil {
		return nil, err
	}
	return port{p}, nil
}

const tapPrefix = "tap:"

func openTap(s string, mac vswitch.MAC) (*tap.Tap, error) {
	cfg, err := tap.Parse(s)
	if err != nil {
		return nil, err
	}
	cfg.MAC = mac
	return tap.Open(cfg)
}

// startTap plugs in the tap that was prepared, or one made now.
func (s *Site) startTap(i int, cfg string) (world.Network, error) {
	t := s.taps[i]
	s.taps[i] = nil
	if t == nil {
		var err error
		if t, err = openTap(cfg, s.cfg.Slots[i].MAC); err != nil {
			return nil, err
		}
	}
	if err := t.Start(s.cfg.Wake); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// port and user are the networks as a replica sees them.
type port struct{ *netswitch.Port }

// Fenced implements world.Network.
func (p port) Fenced() bool { return errors.Is(p.Err(), vswitch.ErrStale) }

// Up implements world.Network: without a switch there is nobody at the other end.
func (p port) Up() bool { return p.Connected() }

type user struct{ *netswitch.User }

// Mark and Logged implement world.Network: nobody goes live next.
func (user) Mark() uint64  { return 0 }
func (user) Logged(uint64) {}

// Up implements world.Network.
func (user) Up() bool { return true }

// Fenced implements world.Network: nobody else has this network.
func (user) Fenced() bool { return false }

// outcome is a world.Pending that a goroutine fills.
type outcome[T any] struct{ c chan result[T] }

type result[T any] struct {
	v   T
	err error
}

func begin[T any](wake func(), f func() (T, error)) world.Pending[T] {
	o := outcome[T]{make(chan result[T], 1)}
	go func() {
		v, err := f()
		o.c <- result[T]{v, err}
		wake()
	}()
	return o
}

// Poll implements world.Pending.
func (o outcome[T]) Poll() (v T, err error, ok bool) {
	select {
	case r := <-o.c:
		return r.v, r.err, true
	default:
		return v, nil, false
	}
}
