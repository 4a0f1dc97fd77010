// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"errors"
	"strings"
	"testing"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
)

const (
	driveSlot = 3
	spareName = "nbd://store/spare"
	spareSize = 1 << 20
)

// withDrive is a machine with an empty drive.
func withDrive(t *testing.T) machine.Config {
	cfg := machinetest.Config(t, 1)
	for len(cfg.Devices) <= driveSlot {
		cfg.Devices = append(cfg.Devices, machine.Device{})
	}
	cfg.Devices[driveSlot] = machine.Device{Kind: machine.DiskDevice, Serial: "drive"}
	return cfg
}

// inDrive is what a copy's machine has in its drive, in bytes.
func (c *copyOf) inDrive() uint64 { return c.Machine().Config().Devices[driveSlot].Capacity }

func (p *pair) insert(c *copyOf) {
	p.t.Helper()
	p.ask(c, func() error { return c.InsertDisk(driveSlot, spareName) })
	p.await("an end", 30*sim.Second, func() bool { return !c.Operation().Under })
}

// A disk that was put into a protected VM is there on the copy that goes on, and on a
// backup that is made later; taken out, it is gone on all.
func TestMedium(t *testing.T) {
	eachSeed(t, withDrive(t), func(p *pair) {
		spare := p.vm.Spare(spareName, spareSize, driveSlot)
		p.protected()
		p.insert(p.a)
		if err := p.a.Operation().Err; err != nil {
			p.t.Fatal(err)
		}
		if p.a.inDrive() != spareSize || spare.Holder() != p.a.p.Name {
			p.t.Errorf("%d bytes in the drive, %q has the disk", p.a.inDrive(), spare.Holder())
		}
		p.await("the backup to know", 5*sim.Second, func() bool { return p.b.inDrive() == spareSize })
		p.a.p.Kill()
		p.goesOn(p.b)
		if spare.Holder() != p.b.p.Name {
			p.t.Errorf("after the failover %q has the disk", spare.Holder())
		}
		c := p.another()
		p.await("protected", 10*sim.Second, func() bool { return p.b.state() == ft.Protected })
		p.b.p.Kill()
		p.goesOn(c)
		if c.inDrive() != spareSize || spare.Holder() != c.p.Name {
			p.t.Errorf("on a later backup: %d bytes in the drive, %q has the disk", c.inDrive(), spare.Holder())
		}
		d := p.another()
		p.await("protected", 10*sim.Second, func() bool { return c.state() == ft.Protected })
		p.ask(c, func() error { return c.EjectDisk(driveSlot) })
		p.await("the backup to know", 5*sim.Second, func() bool { return d.inDrive() == 0 })
		if spare.Holder() != "" {
			p.t.Errorf("taken out, and %q has the disk", spare.Holder())
		}
		c.p.Kill()
		p.goesOn(d)
		if d.inDrive() != 0 || spare.Holder() != "" {
			p.t.Errorf("taken out: %d bytes in the drive, %q has the disk", d.inDrive(), spare.Holder())
		}
		p.check()
	})
}

// A disk that can't be opened, or too late, stays out, and the operator is told; then
// another one can be put in.
func TestMediumFails(t *testing.T) {
	p := newPair(t, *first, withDrive(t))
	p.protected()
	p.insert(p.a)
	if err := p.a.Operation().Err; err == nil || p.a.inDrive() != 0 {
		t.Errorf("a disk that nobody has: %v", err)
	}
	spare := p.vm.Spare(spareName, spareSize, driveSlot)
	p.a.site.Slow = 21 * sim.Second
	p.insert(p.a)
	if err := p.a.Operation().Err; err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("a slow store: %v", err)
	}
	if err := p.a.InsertDisk(driveSlot, spareName); !errors.Is(err, replica.ErrRefused) {
		t.Errorf("while the first one may yet answer: %v", err)
	}
	p.w.Run(3 * sim.Second)
	if p.a.inDrive() != 0 || spare.Holder() != "" {
		t.Errorf("too late: %d bytes in the drive, %q has the disk", p.a.inDrive(), spare.Holder())
	}
	p.a.site.Slow = 0
	p.insert(p.a)
	if err := p.a.Operation().Err; err != nil || p.a.inDrive() != spareSize {
		t.Errorf("at last: %v, %d bytes", err, p.a.inDrive())
	}
	p.progress(10)
}

// A backup that does not reach the disk could not go live with it: it ends, and the VM
// goes on without.
func TestMediumOutOfReach(t *testing.T) {
	p := newPair(t, *first, withDrive(t))
	p.vm.Spare(spareName, spareSize, driveSlot)
	p.protected()
	p.b.site.NoStore = true
	p.insert(p.a)
	p.goesOn(p.a)
	if !p.b.saw(replica.Trouble, "can't be reached from here") || p.a.inDrive() != spareSize {
		t.Errorf("%d bytes in the drive, %v", p.a.inDrive(), p.b.Err())
	}
}

// What can't be is refused: no drive, one that is full or empty, no address, a backup.
func TestMediumRefused(t *testing.T) {
	p := newPair(t, *first, withDrive(t))
	p.vm.Spare(spareName, spareSize, driveSlot)
	p.protected()
	for what, err := range map[string]error{
		"a network": p.a.InsertDisk(machinetest.NetSlot, spareName), "no slot": p.a.InsertDisk(7, spareName),
		"a disk": p.a.InsertDisk(machinetest.DiskSlot, spareName), "no address": p.a.InsertDisk(driveSlot, ""),
		"two lines": p.a.InsertDisk(driveSlot, "a\nb"), "long": p.a.InsertDisk(driveSlot, strings.Repeat("x", event.MaxSource+1)),
		"a backup": p.b.InsertDisk(driveSlot, spareName), "out of nothing": p.a.EjectDisk(driveSlot),
		"out of a network": p.a.EjectDisk(machinetest.NetSlot), "out of a backup": p.b.EjectDisk(driveSlot),
	} {
		if !errors.Is(err, replica.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.insert(p.a)
	if err := p.a.InsertDisk(driveSlot, spareName); !errors.Is(err, replica.ErrRefused) {
		t.Errorf("a drive that is full: %v", err)
	}
}
