// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

const newDisk = "nbd://store/new"

// moves begins to move the VM's disk.
func (p *pair) moves(c *copyOf) {
	p.t.Helper()
	p.ask(c, func() error { return c.MoveDisk(machinetest.DiskSlot, newDisk) })
}

func (p *pair) awaitPhase(c *copyOf, phase replica.MovePhase) {
	p.t.Helper()
	p.await(fmt.Sprintf("the phase %q", phase), 20*sim.Second, func() bool { return c.Move().Phase == phase })
}

// settle ends a move for the copy that is live.
func (p *pair) settle(c *copyOf) {
	p.t.Helper()
	p.ask(c, func() error { return c.SettleDisk(machinetest.DiskSlot) })
	p.awaitPhase(c, replica.NotMoving)
	if err := c.Move().Err; err != nil {
		p.t.Error(err)
	}
}

// A disk moves under load; from then on it is the new one that counts, also for backups.
func TestMoveDisk(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		spare := p.vm.Spare(newDisk, machinetest.DiskSize+4096, machinetest.DiskSlot)
		p.protected()
		p.moves(p.a)
		p.awaitPhase(p.a, replica.BothDisks)
		p.progress(10)
		p.check()
		p.settle(p.a)
		p.vm.Storage.Down = true // nobody needs it any more
		p.progress(10)
		if p.vm.Disk() != spare {
			p.t.Error("the old disk counts")
		}
		p.a.p.Kill()
		p.goesOn(p.b)
		c := p.another()
		p.await("protected", 10*sim.Second, func() bool { return p.b.state() == ft.Protected })
		p.b.p.Kill()
		p.goesOn(c)
		p.progress(10)
		if d := c.Machine().Config().Devices[machinetest.DiskSlot]; d.Medium != newDisk || d.Mirror != "" {
			p.t.Errorf("a later backup has %+v", d)
		}
		p.check()
	})
}

// Whenever the primary is lost while a disk moves, the VM goes on with a disk that has
// all that was acknowledged: and so would one that is started with the disk that its
// operator has noted.
func TestMoveDiskKilled(t *testing.T) {
	for _, phase := range []replica.MovePhase{replica.Opening, replica.Copying, replica.Noting, replica.BothDisks, replica.Settling, replica.Ending} {
		t.Run(string(phase), func(t *testing.T) {
			eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
				spare := p.vm.Spare(newDisk, machinetest.DiskSize, machinetest.DiskSlot)
				p.protected()
				p.moves(p.a)
				if phase == replica.Settling || phase == replica.Ending {
					p.awaitPhase(p.a, replica.BothDisks)
					p.ask(p.a, func() error { return p.a.SettleDisk(machinetest.DiskSlot) })
				} else {
					p.awaitPhase(p.a, phase)
				}
				p.w.Run(world.Time(p.w.Chance().IntN(3)) * ms)
				noted := p.vm.Storage
				if phase == replica.Settling || phase == replica.Ending {
					noted = spare
				}
				p.a.p.Kill()
				p.goesOn(p.b)
				p.progress(10)
				switch m := p.b.Move(); m.Phase {
				case replica.BothDisks:
					if phase == replica.Opening {
						p.t.Error("moved at once")
					}
					noted = spare
					p.settle(p.b)
				case replica.NotMoving:
					if p.vm.Disk() != noted {
						p.t.Errorf("in phase %q another disk counts than the operator has noted", phase)
					}
				default:
					p.t.Errorf("%+v", m)
				}
				p.progress(10)
				p.check()
			})
		})
	}
}

// A new disk that fails while it is copied to is given up; the guest notices nothing, and
// the operator may try again.
func TestMoveDiskFails(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		spare := p.vm.Spare(newDisk, machinetest.DiskSize, machinetest.DiskSlot)
		p.protected()
		spare.Fail = 1
		p.moves(p.a)
		p.await("an end", 20*sim.Second, func() bool { return p.a.Move().Err != nil && p.a.Move().Phase == replica.NotMoving })
		spare.Fail = 0
		p.progress(10)
		if strings.Contains(string(p.vm.Console.Printed), "disk error") {
			p.t.Error("the guest knows")
		}
		p.moves(p.a)
		p.awaitPhase(p.a, replica.Copying)
		p.ask(p.a, p.a.CancelMove)
		p.awaitPhase(p.a, replica.NotMoving)
		p.progress(10)
		p.moves(p.a)
		p.awaitPhase(p.a, replica.BothDisks)
		p.settle(p.a)
		p.check()
	})
}

// A backup that is made while a disk moves goes on with whichever counts.
func TestMoveDiskNewBackup(t *testing.T) {
	eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
		p.vm.Spare(newDisk, machinetest.DiskSize, machinetest.DiskSlot)
		p.protected()
		p.moves(p.a)
		p.awaitPhase(p.a, replica.BothDisks)
		p.b.p.Kill()
		p.goesOn(p.a)
		c := p.another()
		p.await("protected", 10*sim.Second, func() bool { return p.a.state() == ft.Protected })
		p.a.p.Kill()
		p.goesOn(c)
		p.awaitPhase(c, replica.BothDisks)
		p.settle(c)
		p.progress(10)
		p.check()
	})
}

// What can't move is refused, with the reason.
func TestMoveDiskRefused(t *testing.T) {
	p := newPair(t, *first, withDrive(t))
	p.vm.Spare(newDisk, machinetest.DiskSize-512, machinetest.DiskSlot)
	p.protected()
	const slot = machinetest.DiskSlot
	for what, err := range map[string]error{
		"a network": p.a.MoveDisk(machinetest.NetSlot, newDisk), "an empty drive": p.a.MoveDisk(driveSlot, newDisk),
		"no address": p.a.MoveDisk(slot, ""), "where it is": p.a.MoveDisk(slot, sim.MainDisk), "a backup": p.b.MoveDisk(slot, newDisk),
		"nothing to settle": p.a.SettleDisk(slot), "nothing to cancel": p.a.CancelMove(),
	} {
		if !errors.Is(err, replica.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.moves(p.a)
	for what, err := range map[string]error{
		"two at a time": p.a.MoveDisk(slot, "another"), "to grow": p.a.ResizeDisk(slot, largerDisk), "to settle early": p.a.SettleDisk(slot),
	} {
		if !errors.Is(err, replica.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.await("an end", 20*sim.Second, func() bool { return p.a.Move().Phase == replica.NotMoving })
	if err := p.a.Move().Err; err == nil {
		t.Error("moved to a smaller disk")
	}
	if d := p.a.Machine().Config().Devices[slot]; d.Medium != "" || d.Mirror != (event.Medium{}).Mirror {
		t.Errorf("%+v", d)
	}
	p.progress(10)
}
