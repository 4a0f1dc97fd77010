// SPDX-License-Identifier: Apache-2.0

package fdt

import (
	"fmt"

	"tandem/machine/aclint"
	"tandem/machine/event"
	"tandem/machine/plic"
	"tandem/machine/rtc"
	"tandem/machine/testdev"
	"tandem/machine/uart"
)

// The address map of the board: that of QEMU's virt.
const (
	ROMBase    = 0x1000 // reset vector
	TestBase   = 0x10_0000
	RTCBase    = 0x10_1000
	CLINTBase  = 0x200_0000
	PLICBase   = 0xc00_0000
	UARTBase   = 0x1000_0000
	VirtioBase = 0x1000_1000 // slot i is at VirtioBase + i*VirtioSize
	ButtonBase = 0x1000_9000 // the power button, behind the last slot; QEMU has nothing there
	// BalloonBase is that of the memory balloon; nor there.
	BalloonBase = 0x1000_a000
	RAMBase     = 0x8000_0000

	ROMSize    = 0xf000
	VirtioSize = 0x1000
)

// Interrupt sources of the PLIC.
const (
	VirtioIRQ   = 1 // of slot 0; slot i has VirtioIRQ + i
	VirtioSlots = 8
	ButtonIRQ   = 9
	UARTIRQ     = 10
	RTCIRQ      = 11
	BalloonIRQ  = 12
)

const (
	uartClock = 3_686_400
	// BlockSize is that of the cache-block instructions (Zicbom, Zicboz, Zicbop), in bytes.
	BlockSize = 64
)

// Interrupts of a hart (Priv. 3.1.9), as its interrupt-controller numbers them.
const (
	machineSoft   = 3
	machineTimer  = 7
	supervisorExt = 9
	machineExt    = 11
)

// VirtConfig is what differs from board to board.
type VirtConfig struct {
	Harts      int
	RAM        uint64   // bytes
	ISA        string   // "rv64imafdc_…", riscv,isa
	Extensions []string // riscv,isa-extensions
	MMU        string   // largest mode: "sv39", "sv48" or "sv57"

	Bootargs               string // none if empty
	InitrdStart, InitrdEnd uint64 // physical addresses; none if equal
	RNGSeed                []byte // none if empty
	KASLRSeed              uint64 // none if 0
}

// Virt returns the tree of the board, as QEMU builds it for virt less what we lack.
func Virt(cfg VirtConfig) *Node {
	v := virt{cfg: cfg, root: New()}
	v.root.U32("#address-cells", 2)
	v.root.U32("#size-cells", 2)
	v.root.String("compatible", "riscv-virtio")
	v.root.String("model", "riscv-virtio,tandem")
	v.root.Add("aliases").String("serial0", v.uartPath())
	v.chosen()
	v.memory()
	v.cpus()
	v.soc()
	v.power("poweroff", "syscon-poweroff", testdev.Pass)
	v.power("reboot", "syscon-reboot", testdev.Reset)
	return v.root
}

type virt struct {
	cfg  VirtConfig
	root *Node
}

// Phandles: two for each hart, then one for each node that others refer to.
func (v *virt) cpuPhandle(hart int) uint32  { return uint32(2*hart + 1) }
func (v *virt) intcPhandle(hart int) uint32 { return uint32(2*hart + 2) }
func (v *virt) plicPhandle() uint32         { return uint32(2*v.cfg.Harts + 1) }
func (v *virt) testPhandle() uint32         { return uint32(2*v.cfg.Harts + 2) }

func (v *virt) uartPath() string { return fmt.Sprintf("/soc/serial@%x", UARTBase) }

func (v *virt) chosen() {
	n := v.root.Add("chosen")
	n.String("stdout-path", v.uartPath())
	if v.cfg.Bootargs != "" {
		n.String("bootargs", v.cfg.Bootargs)
	}
	if v.cfg.InitrdStart != v.cfg.InitrdEnd {
		n.U64("linux,initrd-start", v.cfg.InitrdStart)
		n.U64("linux,initrd-end", v.cfg.InitrdEnd)
	}
	if len(v.cfg.RNGSeed) > 0 {
		n.Bytes("rng-seed", v.cfg.RNGSeed)
	}
	if v.cfg.KASLRSeed != 0 {
		n.U64("kaslr-seed", v.cfg.KASLRSeed)
	}
}

func (v *virt) memory() {
	n := v.root.Add(fmt.Sprintf("memory@%x", RAMBase))
	n.String("device_type", "memory")
	n.U64("reg", RAMBase, v.cfg.RAM)
}

func (v *virt) cpus() {
	cpus := v.root.Add("cpus")
	cpus.U32("#address-cells", 1)
	cpus.U32("#size-cells", 0)
	cpus.U32("timebase-frequency", event.TicksPerSecond)
	for hart := range v.cfg.Harts {
		v.cpu(cpus.Add(fmt.Sprintf("cpu@%x", hart)), hart)
	}
	cluster := cpus.Add("cpu-map").Add("cluster0")
	for hart := range v.cfg.Harts {
		cluster.Add(fmt.Sprintf("core%d", hart)).U32("cpu", v.cpuPhandle(hart))
	}
}

func (v *virt) cpu(n *Node, hart int) {
	n.U32("phandle", v.cpuPhandle(hart))
	n.String("device_type", "cpu")
	n.U32("reg", uint32(hart))
	n.String("status", "okay")
	n.String("compatible", "riscv")
	n.String("riscv,isa", v.cfg.ISA)
	n.String("riscv,isa-base", "rv64i")
	n.String("riscv,isa-extensions", v.cfg.Extensions...)
	n.String("mmu-type", "riscv,"+v.cfg.MMU)
	for _, block := range []string{"cbom", "cbop", "cboz"} {
		n.U32("riscv,"+block+"-block-size", BlockSize)
	}
	intc := n.Add("interrupt-controller")
	intc.U32("phandle", v.intcPhandle(hart))
	intc.String("compatible", "riscv,cpu-intc")
	intc.Empty("interrupt-controller")
	intc.U32("#interrupt-cells", 1)
}

func (v *virt) soc() {
	soc := v.root.Add("soc")
	soc.U32("#address-cells", 2)
	soc.U32("#size-cells", 2)
	soc.String("compatible", "simple-bus")
	soc.Empty("ranges")

	test := device(soc, "test", TestBase, testdev.Size, "sifive,test1", "sifive,test0", "syscon")
	test.U32("phandle", v.testPhandle())

	v.interrupt(device(soc, "rtc", RTCBase, rtc.Size, "google,goldfish-rtc"), RTCIRQ)

	clint := device(soc, "clint", CLINTBase, aclint.Size, "sifive,clint0", "riscv,clint0")
	v.hartInterrupts(clint, machineSoft, machineTimer)

	intc := device(soc, "plic", PLICBase, plic.Size, "sifive,plic-1.0.0", "riscv,plic0")
	intc.U32("phandle", v.plicPhandle())
	intc.U32("#address-cells", 0)
	intc.U32("#interrupt-cells", 1)
	intc.Empty("interrupt-controller")
	intc.U32("riscv,ndev", plic.Sources)
	v.hartInterrupts(intc, machineExt, supervisorExt)

	serial := device(soc, "serial", UARTBase, uart.Size, "ns16550a")
	serial.U32("clock-frequency", uartClock)
	v.interrupt(serial, UARTIRQ)

	// Button and balloon come last: they take no number from another device of the guest.
	for i := range uint64(VirtioSlots) {
		v.interrupt(device(soc, "virtio_mmio", VirtioBase+i*VirtioSize, VirtioSize, "virtio,mmio"), VirtioIRQ+uint32(i))
	}
	v.interrupt(device(soc, "virtio_mmio", ButtonBase, VirtioSize, "virtio,mmio"), ButtonIRQ)
	v.interrupt(device(soc, "virtio_mmio", BalloonBase, VirtioSize, "virtio,mmio"), BalloonIRQ)
}

// device adds a node with its compatible strings and registers.
func device(soc *Node, name string, base, size uint64, compatible ...string) *Node {
	n := soc.Add(fmt.Sprintf("%s@%x", name, base))
	n.String("compatible", compatible...)
	n.U64("reg", base, size)
	return n
}

// interrupt connects a device to the PLIC.
func (v *virt) interrupt(n *Node, source uint32) {
	n.U32("interrupt-parent", v.plicPhandle())
	n.U32("interrupts", source)
}

// hartInterrupts connects an interrupt controller to two inputs of every hart.
// The order is that of the PLIC's contexts.
func (v *virt) hartInterrupts(n *Node, first, second uint32) {
	var cells []uint32
	for hart := range v.cfg.Harts {
		intc := v.intcPhandle(hart)
		cells = append(cells, intc, first, intc, second)
	}
	n.U32("interrupts-extended", cells...)
}

// power adds a node by which a kernel without SBI powers off or reboots: a
// value to store to the test device.
func (v *virt) power(name, compatible string, value uint32) {
	n := v.root.Add(name)
	n.String("compatible", compatible)
	n.U32("regmap", v.testPhandle())
	n.U32("offset", 0)
	n.U32("value", value)
}
