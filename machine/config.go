// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"

	"tandem/machine/event"
	"tandem/machine/fdt"
	"tandem/machine/mem"
	"tandem/machine/state"
)

// Config is all that a machine is built from. Two copies of a VM have equal ones.
type Config struct {
	Harts  int
	RAM    uint64 // bytes
	Levels int    // page table levels: 3 is Sv39, 4 Sv48, 5 Sv57
	Wall   uint64 // Unix time in nanoseconds at guest tick 0
	Seed   []byte // rng-seed of the device tree, from the world's entropy
	Append string // kernel command line
	// Console is the number of the first byte that each console prints. A VM that
	// boots again goes on above all that it may have printed: see ConsoleStart.
	Console uint64

	// Balloon is how many bytes of RAM the guest is to do without.
	Balloon uint64
	Devices []Device // by virtio-mmio slot
	Boot    Boot
}

// DeviceKind is the kind of a virtio device.
type DeviceKind uint8

const (
	NoDevice DeviceKind = iota
	DiskDevice
	NetDevice
	RNGDevice
	ConsoleDevice
)

// Device describes a virtio device; fields that its kind lacks are zero.
type Device struct {
	Kind     DeviceKind
	Capacity uint64 // of a disk, in bytes
	ReadOnly bool
	Serial   string
	Disk     event.DiskMode
	Medium   string // event.Medium's Source, of a disk that was put in or moved while the machine ran
	Mirror   string // event.Medium's
	MAC      [6]byte
	MTU      uint16
}

// Boot is what lies in memory at power-on and where execution starts.
type Boot struct {
	Mode     BootMode
	Segments []Segment
	Entry    uint64
	DTB      uint64 // address of the device tree
	Next     uint64 // address that firmware goes on to in S-mode, 0 for none

	InitrdStart, InitrdEnd uint64

	ToHost, FromHost uint64 // Spike's host interface, 0 for none
}

// BootMode says who runs in M-mode.
type BootMode uint8

const (
	BootKernel   BootMode = iota // a kernel in S-mode over tandem's own SBI
	BootFirmware                 // firmware in M-mode, from the reset vector
	BootELF                      // a bare-metal program in M-mode
)

// Segment is bytes at a physical address.
type Segment struct {
	Addr uint64
	Data []byte
}

// ConsoleStart is Config.Console of a VM that boots in an epoch. It is a function of
// the epoch alone, so that two boots never give one number to two bytes, whatever
// either printed unseen: nobody prints 2^40 bytes in an epoch.
func ConsoleStart(e event.Epoch) uint64 { return uint64(e) << 40 }

// Limits of what a machine keeps in order to reset.
const (
	MaxBootBytes = 1 << 30
	MaxSegments  = 1024
)

const (
	isaString = "rv64imafdc_zicbom_zicbop_zicboz_zicntr_zicond_zicsr_zifencei_zihintpause_zawrs_" +
		"zba_zbb_zbc_zbs_sstc_svadu_svinval_svnapot_svpbmt_svvptc"
)

var isaExtensions = []string{"i", "m", "a", "f", "d", "c", "zicbom", "zicbop", "zicboz", "zicntr", "zicond",
	"zicsr", "zifencei", "zihintpause", "zawrs", "zba", "zbb", "zbc", "zbs", "sstc", "svadu", "svinval",
	"svnapot", "svpbmt", "svvptc"}

func (c *Config) check(ram uint64) error {
	switch {
	case c.Harts < 1 || c.Harts > MaxHarts:
		return fmt.Errorf("%d harts: a machine has 1 to %d", c.Harts, MaxHarts)
	case c.RAM != ram:
		return fmt.Errorf("%d bytes of memory for a machine of %d", ram, c.RAM)
	case c.Levels < 3 || c.Levels > 5:
		return fmt.Errorf("%d page table levels: choose 3, 4 or 5", c.Levels)
	case len(c.Devices) > fdt.VirtioSlots:
		return fmt.Errorf("%d virtio devices: a machine has %d slots", len(c.Devices), fdt.VirtioSlots)
	}
	if err := c.CheckRAM(); err != nil {
		return err
	}
	if c.Balloon > c.RAM {
		return fmt.Errorf("a guest of %d bytes of memory can't do without %d", c.RAM, c.Balloon)
	}
	for i, d := range c.Devices {
		if d.Kind > ConsoleDevice {
			return fmt.Errorf("virtio slot %d: a device of unknown kind %d", i, d.Kind)
		}
		if d.Disk > event.ReplicatedFlush {
			return fmt.Errorf("virtio slot %d: a disk of unknown mode %d", i, d.Disk)
		}
	}
	for _, s := range c.Boot.Segments {
		if off := s.Addr - mem.Base; s.Addr < mem.Base || off > ram || uint64(len(s.Data)) > ram-off {
			return fmt.Errorf("%d bytes at %#x do not fit into %d MiB of memory: give the machine more", len(s.Data), s.Addr, ram>>20)
		}
	}
	return nil
}

// CheckRAM reports a size of memory that no machine has.
func (c *Config) CheckRAM() error {
	if c.RAM < MinRAM || c.RAM > MaxRAM || c.RAM%mem.PageSize != 0 {
		return fmt.Errorf("%d bytes of memory: a machine has a multiple of 4096 from 1 MiB to 1 TiB", c.RAM)
	}
	return nil
}

// deviceTree is the flattened device tree of this board.
func (m *Machine) deviceTree() []byte {
	return fdt.Virt(fdt.VirtConfig{
		Harts: m.cfg.Harts, RAM: m.cfg.RAM, ISA: isaString, Extensions: isaExtensions,
		MMU:      [...]string{3: "sv39", 4: "sv48", 5: "sv57"}[m.cfg.Levels],
		Bootargs: m.cfg.Append, InitrdStart: m.cfg.Boot.InitrdStart, InitrdEnd: m.cfg.Boot.InitrdEnd,
		RNGSeed: m.cfg.Seed,
	}).Marshal()
}

// State visits the Config.
func (c *Config) State(s *state.Coder) {
	harts, levels := uint32(c.Harts), uint32(c.Levels)
	state.U32(s, &harts)
	state.U32(s, &levels)
	c.Harts, c.Levels = int(harts), int(levels)
	state.U64(s, &c.RAM)
	state.U64(s, &c.Wall)
	s.Bytes(&c.Seed, 4096)
	str(s, &c.Append, 64<<10)
	state.U64(s, &c.Console)
	state.U64(s, &c.Balloon)
	state.List(s, &c.Devices, fdt.VirtioSlots, func(d *Device) {
		state.U8(s, &d.Kind)
		state.U64(s, &d.Capacity)
		s.Bool(&d.ReadOnly)
		str(s, &d.Serial, 64)
		state.U8(s, &d.Disk)
		str(s, &d.Medium, event.MaxSource)
		str(s, &d.Mirror, event.MaxSource)
		s.Fixed(d.MAC[:])
		state.U16(s, &d.MTU)
	})
	c.Boot.state(s)
}

func (b *Boot) state(s *state.Coder) {
	state.U8(s, &b.Mode)
	if b.Mode > BootELF {
		s.Fail("boot mode %d", b.Mode)
	}
	state.List(s, &b.Segments, MaxSegments, func(g *Segment) {
		state.U64(s, &g.Addr)
		s.Bytes(&g.Data, MaxBootBytes)
	})
	for _, v := range [...]*uint64{&b.Entry, &b.DTB, &b.Next, &b.InitrdStart, &b.InitrdEnd, &b.ToHost, &b.FromHost} {
		state.U64(s, v)
	}
}

func str(s *state.Coder, v *string, max int) {
	b := []byte(*v)
	s.Bytes(&b, max)
	*v = string(b)
}
