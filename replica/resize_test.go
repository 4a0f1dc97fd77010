// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
)

const largerDisk = 2 * machinetest.DiskSize

// resized reports that the guest has been told of the larger disk.
func (p *pair) resized(size uint64) bool {
	return bytes.Contains(p.vm.Console.Printed, fmt.Appendf(nil, "capacity %d\n", size/512))
}

// A disk grows under a protected guest, which is told so once and writes to its new
// end; the copy that goes on has the larger disk, and so has a backup that is made later.
func TestResize(t *testing.T) {
	for _, reads := range []bool{false, true} {
		t.Run(fmt.Sprintf("reads %v", reads), func(t *testing.T) {
			eachSeed(t, machinetest.Config(t, 1), func(p *pair) {
				p.protected()
				p.ask(p.a, func() error { return p.a.ResizeDisk(machinetest.DiskSlot, largerDisk) })
				if err := p.a.Switch(); !errors.Is(err, replica.ErrRefused) {
					p.t.Errorf("a switch while a disk grows: %v", err)
				}
				p.await("the guest to know", 5*sim.Second, func() bool { return p.resized(largerDisk) })
				if op := p.a.Operation(); op.Under || op.Err != nil {
					p.t.Errorf("resize: %+v", op)
				}
				p.progress(10)
				p.a.p.Kill()
				p.goesOn(p.b)
				c := p.another()
				p.await("protected", 10*sim.Second, func() bool { return p.b.state() == ft.Protected })
				for _, m := range []*copyOf{p.b, c} {
					if got := m.Machine().Config().Devices[machinetest.DiskSlot].Capacity; got != largerDisk {
						p.t.Errorf("a copy's disk has %d bytes", got)
					}
				}
				p.b.p.Kill()
				p.goesOn(c)
				if bytes.Count(p.vm.Console.Printed, []byte("capacity ")) != 1 {
					p.t.Error("the guest is told more than once")
				}
				p.check()
			}, func(p *pair) { p.reads = reads })
		})
	}
}

// Each copy's own disk grows before the guest can write there.
func TestResizeReplicated(t *testing.T) {
	eachSeed(t, ownDisks(t, event.ReplicatedDisk), func(p *pair) {
		p.protected()
		p.ask(p.a, func() error { return p.a.ResizeDisk(machinetest.DiskSlot, largerDisk) })
		p.await("the guest to know", 5*sim.Second, func() bool { return p.resized(largerDisk) })
		p.progress(10)
		p.a.p.Kill()
		p.goesOn(p.b)
		if n := len(p.b.site.Own.Bytes); n != largerDisk {
			p.t.Errorf("the backup's disk has %d bytes", n)
		}
		p.check()
	}, replicated)
}

// A disk that fails to grow stays as it is, for the guest too, and the operator is told;
// then it can be asked for again.
func TestResizeFails(t *testing.T) {
	p := newPair(t, *first, machinetest.Config(t, 1))
	p.protected()
	p.vm.Storage.Fail = 1
	p.ask(p.a, func() error { return p.a.ResizeDisk(machinetest.DiskSlot, largerDisk) })
	p.await("an end", 5*sim.Second, func() bool { return !p.a.Operation().Under })
	p.vm.Storage.Fail = 0
	if p.a.Operation().Err == nil || p.resized(largerDisk) {
		t.Errorf("it failed, and the operation says %v", p.a.Operation().Err)
	}
	p.vm.Storage.Down = true
	p.ask(p.a, func() error { return p.a.ResizeDisk(machinetest.DiskSlot, largerDisk) })
	p.await("an end", 30*sim.Second, func() bool { return !p.a.Operation().Under })
	if err := p.a.Operation().Err; err == nil || p.resized(largerDisk) {
		t.Errorf("the store is down, and the operation says %v", err)
	}
	p.vm.Storage.Down = false
	p.w.Run(sim.Second)
	p.ask(p.a, func() error { return p.a.ResizeDisk(machinetest.DiskSlot, largerDisk) })
	p.await("the guest to know", 5*sim.Second, func() bool { return p.resized(largerDisk) })
}

// What can't be is refused: a smaller disk, no disk, a part of a sector, a backup.
func TestResizeRefused(t *testing.T) {
	p := newPair(t, *first, machinetest.Config(t, 1))
	p.protected()
	for _, c := range []struct {
		of   *copyOf
		slot event.DeviceID
		size uint64
	}{
		{p.a, machinetest.DiskSlot, machinetest.DiskSize - 512}, {p.a, machinetest.DiskSlot, largerDisk + 1},
		{p.a, machinetest.NetSlot, largerDisk}, {p.a, 7, largerDisk}, {p.a, machinetest.DiskSlot, 1 << 61},
		{p.b, machinetest.DiskSlot, largerDisk},
	} {
		if err := c.of.ResizeDisk(c.slot, c.size); !errors.Is(err, replica.ErrRefused) {
			t.Errorf("slot %d, %d bytes: %v", c.slot, c.size, err)
		}
	}
	if err := p.a.ResizeDisk(machinetest.DiskSlot, machinetest.DiskSize); err != nil || p.a.Operation().Under {
		t.Errorf("the size that it has: %v", err)
	}
}
