// SPDX-License-Identifier: Apache-2.0

// Package site opens the disks and networks of a VM for a replica, and claims
// epochs for it. It is where a URL becomes a device:
//
//	disk     FILE · nbd://HOST:PORT/EXPORT · nbd+unix:///EXPORT?socket=PATH · nbds: with TLS
//	network  user · switch:ADDRESS · none
package site

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tandem/host/filedisk"
	"tandem/host/nbd"
	"tandem/host/netswitch"
	"tandem/machine/event"
	"tandem/vswitch"
	"tandem/world"
)

// Slot is one virtio device's other end; both fields empty for none.
type Slot struct {
	Disk     string
	ReadOnly bool
	Network  string
	Reads    bool // a backup reads the disk itself (paper §4.2)
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
type Site struct{ cfg Config }

// New returns a Site.
func New(cfg Config) *Site { return &Site{cfg} }

// Claim implements world.Site.
func (s *Site) Claim(epoch event.Epoch) world.Pending[bool] {
	return begin(s.cfg.Wake, func() (bool, error) {
		if s.cfg.Arbiter == nil {
			return false, errors.New("this VM has no arbiter: give one with --arbiter")
		}
		won, _, err := s.cfg.Arbiter.Claim(epoch, s.cfg.Owner, 0)
		return won, err
	})
}

// Open implements world.Site.
func (s *Site) Open(epoch event.Epoch) world.Pending[world.Devices] {
	return begin(s.cfg.Wake, func() (world.Devices, error) { return s.OpenNow(epoch) })
}

// Follow implements world.Site.
func (s *Site) Follow() world.Pending[world.Devices] {
	return begin(s.cfg.Wake, func() (d world.Devices, err error) {
		for i, slot := range s.cfg.Slots {
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
			Close(d)
			d = world.Devices{}
		}
	}()
	for i, slot := range s.cfg.Slots {
		if slot.Disk != "" {
			if d.Disks[i], err = s.openDisk(slot, epoch); err != nil {
				return d, err
			}
		}
		if slot.Network != "" && slot.Network != "none" {
			if d.Networks[i], err = s.openNetwork(slot, epoch); err != nil {
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

func (s *Site) openDisk(slot Slot, epoch event.Epoch) (world.Disk, error) {
	if nbd.IsURL(slot.Disk) {
		d, err := nbd.Dial(context.Background(), slot.Disk, epoch, s.cfg.Wake)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	if epoch > 0 {
		return nil, fmt.Errorf("disk %s: a file of one host can't be the shared disk of a protected VM: serve it with tandem store and give its nbd:// address", slot.Disk)
	}
	d, err := filedisk.Open(slot.Disk, slot.ReadOnly, s.cfg.Wake)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (s *Site) openNetwork(slot Slot, epoch event.Epoch) (world.Network, error) {
	if slot.Network == "user" {
		if epoch > 0 {
			return nil, errors.New("network user: it ends with its process; a protected VM needs switch:ADDRESS")
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
		return nil, fmt.Errorf("network %q: choose user, switch:ADDRESS or none", slot.Network)
	}
	p, err := netswitch.Dial(addr, netswitch.Hello{VM: s.cfg.VM, Epoch: epoch, Role: vswitch.Primary, MAC: slot.MAC, Offloads: true}, s.cfg.Wake)
	if err != nil {
		return nil, err
	}
	return port{p}, nil
}

// port and user are the networks as a replica sees them.
type port struct{ *netswitch.Port }

// Fenced implements world.Network.
func (p port) Fenced() bool { return errors.Is(p.Err(), vswitch.ErrStale) }

type user struct{ *netswitch.User }

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
