// SPDX-License-Identifier: Apache-2.0

// Package machine is the deterministic guest: a RISC-V computer, compatible
// with QEMU's virt board, as a pure function of its inputs.
//
// A Machine changes only by executing steps (Run) and by inputs at a step
// (Apply); what it wants from the world it leaves in Outputs. Given the same
// Config and the same inputs at the same steps, two machines are equal in every
// bit, on any host (paper §2.1). Time is an input too: see event.Clock.
//
//	          ┌───────────── Machine ─────────────┐
//	Apply ───►│ harts ── bus ── devices           │──► Outputs
//	(inputs)  │   └───── RAM ─────┘               │   (requests, frames,
//	          └───────────────────────────────────┘    console, exit)
//
// Several harts run on one thread in rotation: a turn ends after a quantum of
// steps, or when the hart waits. At one step all inputs are applied first, then
// interrupts are sampled, then an instruction is fetched.
package machine

import (
	"errors"
	"fmt"
	"slices"

	"tandem/machine/aclint"
	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/fdt"
	"tandem/machine/hart"
	"tandem/machine/mem"
	"tandem/machine/plic"
	"tandem/machine/riscv"
	"tandem/machine/rtc"
	"tandem/machine/testdev"
	"tandem/machine/uart"
	"tandem/machine/virtio"
	"tandem/machine/virtio/balloon"
	"tandem/machine/virtio/blk"
	"tandem/machine/virtio/console"
	"tandem/machine/virtio/input"
	"tandem/machine/virtio/net"
	"tandem/machine/virtio/rng"
)

// Version names the behaviour of the machine: two copies of a VM must agree on
// it. It changes whenever the same inputs could lead to other bits.
const Version = 5

// quantum is the number of steps in one hart's turn.
const quantum = 20_000

// Limits of a machine.
const (
	MaxHarts = 64
	MinRAM   = 1 << 20
	MaxRAM   = 1 << 40
)

// ErrInput is wrapped by the error for an input that this machine refuses.
var ErrInput = errors.New("input does not fit this machine")

// Machine is one copy of a virtual machine.
type Machine struct {
	cfg Config

	step     event.Step
	clock    event.Clock
	clockAt  event.Step // the step at which clock began
	current  int        // the hart whose turn it is
	turn     uint64     // steps left in its turn
	lastID   event.OutputID
	exited   bool
	exitCode int
	reset    bool // the board must be reset before the next step

	sys     *hart.System
	ram     *mem.RAM
	bus     bus.Bus
	plic    *plic.PLIC
	aclint  *aclint.ACLINT
	uart    *uart.UART
	rtc     *rtc.RTC
	slots   [fdt.VirtioSlots]bus.Device
	button  *input.Device
	balloon *balloon.Device
	outputs []event.Output
	running *hart.Hart // the hart inside Run, nil between steps
	host    hostInterface
}

// New builds the board around ram, whose bytes must be zero, and powers it on.
func New(cfg Config, ram []byte) (*Machine, error) {
	m, err := build(cfg, ram)
	if err != nil {
		return nil, err
	}
	m.powerOn()
	return m, nil
}

// build assembles the board.
func build(cfg Config, ram []byte) (*Machine, error) {
	if err := cfg.check(uint64(len(ram))); err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, turn: quantum}
	m.sys = hart.NewSystem(cfg.Harts, hart.Config{
		Bus: &m.bus, Clock: (*clock)(m), Levels: cfg.Levels,
		MTimeCmp: func(h int) event.Ticks { return m.aclint.MTimeCmp(h) },
	})
	m.ram = mem.New(ram, m.sys)
	m.sys.SetRAM(m.ram)
	if cfg.Boot.Mode == BootKernel {
		m.sys.SBI = m.callSBI
	}
	m.addBoard()
	for i, d := range cfg.Devices {
		m.addVirtio(event.DeviceID(i), d)
	}
	for i := len(cfg.Devices); i < fdt.VirtioSlots; i++ {
		m.addVirtio(event.DeviceID(i), Device{})
	}
	m.button = input.New(m.ram, m.plic.Source(fdt.ButtonIRQ), input.Config{})
	m.bus.Add(bus.Region{Name: "button", Base: fdt.ButtonBase, Size: fdt.VirtioSize, Device: m.button})
	m.balloon = balloon.New(m.ram, m.plic.Source(fdt.BalloonIRQ), balloon.Config{Wanted: balloonPages(cfg.Balloon), Release: m.ram.Release})
	m.bus.Add(bus.Region{Name: "balloon", Base: fdt.BalloonBase, Size: fdt.VirtioSize, Device: m.balloon})
	m.rtc.SetWall(cfg.Wall)
	return m, nil
}

func balloonPages(bytes uint64) uint32 { return uint32(bytes / balloon.PageSize) }

// addBoard maps the devices that every board has.
func (m *Machine) addBoard() {
	m.plic = plic.New(m.cfg.Harts, func(context int, level bool) {
		line := riscv.MEIP
		if context&1 != 0 {
			line = riscv.SEIP
		}
		m.sys.Harts[context/2].SetLine(line, level)
	})
	m.aclint = aclint.New(m.cfg.Harts, m.Time,
		func(h int, level bool) { m.sys.Harts[h].SetLine(riscv.MSIP, level) },
		func(h int) { m.sys.Harts[h].Resample() })
	m.uart = uart.New(m.plic.Source(fdt.UARTIRQ), m.emit, m.cfg.Console)
	m.rtc = rtc.New(m.Time, m.plic.Source(fdt.RTCIRQ), m.resample)
	finisher := testdev.New(m.emitExit, m.pressReset)
	for _, r := range []bus.Region{
		{Name: "rom", Base: fdt.ROMBase, Size: fdt.ROMSize, Device: newROM(m.cfg.Boot)},
		{Name: "test", Base: fdt.TestBase, Size: testdev.Size, Device: finisher},
		{Name: "rtc", Base: fdt.RTCBase, Size: rtc.Size, Device: m.rtc},
		{Name: "clint", Base: fdt.CLINTBase, Size: aclint.Size, Device: m.aclint},
		{Name: "plic", Base: fdt.PLICBase, Size: plic.Size, Device: m.plic},
		{Name: "uart", Base: fdt.UARTBase, Size: uart.Size, Device: m.uart},
	} {
		m.bus.Add(r)
	}
}

// addVirtio puts a device into a virtio-mmio slot.
func (m *Machine) addVirtio(slot event.DeviceID, d Device) {
	line := m.plic.Source(fdt.VirtioIRQ + int(slot))
	var dev bus.Device = virtio.Empty{}
	switch d.Kind {
	case DiskDevice:
		dev = blk.New(slot, m.ram, line, m.emit, blk.Config{Capacity: d.Capacity, ReadOnly: d.ReadOnly, Serial: d.Serial, Mode: d.Disk})
	case NetDevice:
		dev = net.New(slot, m.ram, line, m.emit, net.Config{MAC: d.MAC, MTU: d.MTU})
	case RNGDevice:
		dev = rng.New(slot, m.ram, line, m.emit, rng.Config{})
	case ConsoleDevice:
		dev = console.New(slot, m.ram, line, m.emit, console.Config{Start: m.cfg.Console})
	}
	m.slots[slot] = dev
	m.bus.Add(bus.Region{Name: fmt.Sprintf("virtio%d", slot), Base: fdt.VirtioBase + uint64(slot)*fdt.VirtioSize, Size: fdt.VirtioSize, Device: dev})
}

// powerOn resets every device and hart and loads what the board starts from.
func (m *Machine) powerOn() {
	for _, r := range m.bus.Regions() {
		r.Device.Reset()
	}
	for _, h := range m.sys.Harts {
		h.Reset()
	}
	m.current, m.turn = 0, quantum
	for _, s := range m.cfg.Boot.Segments {
		m.ram.Write(s.Addr, s.Data)
	}
	m.ram.Write(m.cfg.Boot.DTB, m.deviceTree())
	m.start()
	m.watchHost()
}

// KeepBoot replaces what lies in memory at power-on by equal bytes, which the machine
// only reads, and only when it is reset or cloned. The Config it was made of has them, too.
func (m *Machine) KeepBoot(keep func([]byte) []byte) {
	for i := range m.cfg.Boot.Segments {
		g := &m.cfg.Boot.Segments[i]
		g.Data = keep(g.Data)
	}
}

// Translate makes the harts run translated code, which lives in memory with a
// writable view and an executable one at rx. It changes speed and nothing else.
func (m *Machine) Translate(rw []byte, rx uintptr) { m.sys.Translate(rw, rx) }

// Stats says what the harts executed, and how, since the machine was made or
// restored. Two copies of a VM differ in it: nothing that the guest sees may follow.
func (m *Machine) Stats() *hart.Stats { return m.sys.Stats() }

// Observe makes o hear of translated code as it is made; call it after Translate.
func (m *Machine) Observe(o hart.Observer) { m.sys.Observe(o) }

// Config returns what the machine was built from.
func (m *Machine) Config() Config { return m.cfg }

// Step is the number of steps executed.
func (m *Machine) Step() event.Step {
	if m.running != nil {
		return m.running.Step()
	}
	return m.step
}

// Time is the time CSR at the current step.
func (m *Machine) Time() event.Ticks { return (*clock)(m).At(m.Step()) }

// Clock returns the clock in force and the step at which it began.
func (m *Machine) Clock() (event.Clock, event.Step) { return m.clock, m.clockAt }

// Exited reports whether the guest has ended, and its code: 0 is power-off.
func (m *Machine) Exited() (code int, ok bool) { return m.exitCode, m.exited }

// Outputs takes the outputs emitted since the last call, in order.
func (m *Machine) Outputs() []event.Output {
	out := m.outputs
	m.outputs = nil
	return out
}

// emit numbers an output and stops the hart after the instruction at hand.
func (m *Machine) emit(body event.OutputBody) {
	at := m.step
	if m.running != nil {
		at = m.running.Step() + 1
		m.running.Resample()
	}
	m.lastID++
	m.outputs = append(m.outputs, event.Output{ID: m.lastID, Step: at, Body: body})
	m.sys.Break = true
}

// pressReset resets the board once the instruction at hand is done.
func (m *Machine) pressReset() {
	m.reset, m.sys.Break = true, true
	if m.running != nil {
		m.running.Resample()
	}
}

// emitExit ends the machine.
func (m *Machine) emitExit(body event.OutputBody) {
	if e, ok := body.(event.Exit); ok && !m.exited {
		m.uart.Flush()
		m.exited, m.exitCode = true, e.Code
		m.emit(body)
	}
}

// resample ends the turn's budget at hand: the RTC's alarm or interrupt has changed.
func (m *Machine) resample() {
	m.sys.Break = true
	for _, h := range m.sys.Harts {
		h.Resample()
	}
}

// Run executes until a reason to stop, never past step limit. Run(Step())
// changes nothing.
func (m *Machine) Run(limit event.Step) event.Stop {
	for {
		switch {
		case len(m.outputs) > 0:
			return event.StopOutput
		case m.exited:
			return event.StopExit
		case m.step >= limit:
			return event.StopLimit
		}
		next, ok := m.pickHart()
		switch {
		case !ok:
			return event.StopIdle
		case m.step >= m.clock.Limit:
			return event.StopClock
		}
		m.runTurn(next, min(limit, m.clock.Limit))
	}
}

// runTurn lets a hart execute up to step limit or the end of its turn. All that
// follows from the last step is done here, so that it makes no difference
// where Run was told to stop.
func (m *Machine) runTurn(next int, limit event.Step) {
	if next != m.current {
		m.current, m.turn = next, quantum
	}
	if due, ok := m.rtc.NextAlarm(); ok {
		limit = max(m.step+1, min(limit, (*clock)(m).StepOf(m.step, due)))
	}
	h := m.sys.Harts[m.current]
	h.Wake()
	m.sys.Break = false
	m.running = h
	used, yield := h.Run(m.step, min(uint64(limit-m.step), m.turn))
	m.running = nil
	m.step += event.Step(used)
	m.turn -= used
	m.serveHost()
	if yield || m.turn == 0 {
		h.EndTurn()
		m.uart.Flush()
		m.current, m.turn = (m.current+1)%m.cfg.Harts, quantum
	}
	if m.reset {
		m.uart.Flush()
		m.reset = false
		m.powerOn()
	}
	m.ringAlarm()
}

// pickHart finds the hart to run: the current one or the next that does not
// wait. It changes nothing.
func (m *Machine) pickHart() (next int, ok bool) {
	for i := range m.cfg.Harts {
		next = (m.current + i) % m.cfg.Harts
		if m.sys.Harts[next].Wakeable(m.step) {
			return next, true
		}
	}
	return 0, false
}

// ringAlarm lets the RTC see the time, after whatever moved it.
func (m *Machine) ringAlarm() {
	if due, ok := m.rtc.NextAlarm(); ok && m.Time() >= due {
		m.rtc.Tick(m.Time())
	}
}

// NextTimer is the guest time at which an idle machine has something to do by
// itself; ok is false where only an input can wake it.
func (m *Machine) NextTimer() (t event.Ticks, ok bool) {
	t = ^event.Ticks(0)
	for _, h := range m.sys.Harts {
		t = min(t, h.NextTimer())
	}
	if due, armed := m.rtc.NextAlarm(); armed {
		t = min(t, due)
	}
	return t, t != ^event.Ticks(0)
}

// Apply carries out an input at the current step. One that the machine refuses
// changes nothing; the log is then not this machine's.
func (m *Machine) Apply(in event.Input) error {
	if err := m.apply(in); err != nil {
		return err
	}
	for _, h := range m.sys.Harts {
		h.EndTurn() // what a device writes breaks a reservation
	}
	return nil
}

func (m *Machine) apply(in event.Input) error {
	switch in := in.(type) {
	case event.Clock:
		return m.setClock(in)
	case event.Frames:
		if d, ok := m.device(in.Device).(*net.Device); ok {
			return d.Receive(in)
		}
	case event.DiskDone:
		if d, ok := m.device(in.Device).(*blk.Device); ok {
			return d.Done(in)
		}
	case event.Entropy:
		if d, ok := m.device(in.Device).(*rng.Device); ok {
			return d.Entropy(in)
		}
	case event.ConsoleIn:
		if in.Device == event.UART {
			m.uart.In(in.Data)
			return nil
		}
		if d, ok := m.device(in.Device).(*console.Device); ok {
			return d.In(in)
		}
	case event.Control:
		return m.control(in)
	case event.Medium:
		return m.medium(in)
	}
	return fmt.Errorf("%w: %T", ErrInput, in)
}

func (m *Machine) device(id event.DeviceID) bus.Device {
	if int(id) < len(m.slots) {
		return m.slots[id]
	}
	return nil
}

// control carries out what a control entry asks of the machine itself; the
// others concern the pair only.
func (m *Machine) control(c event.Control) error {
	switch c.Op {
	case event.PowerOff:
		m.exited = true
	case event.Reset:
		m.uart.Flush()
		m.powerOn()
	case event.Link:
		d, ok := m.device(event.DeviceID(c.Arg >> 1)).(*net.Device)
		if !ok || c.Arg >= 2*fdt.VirtioSlots {
			return fmt.Errorf("%w: no network device for link %d", ErrInput, c.Arg)
		}
		d.SetLink(c.Arg&1 != 0)
	case event.PowerButton:
		m.button.Press()
	case event.Resize:
		return m.resize(event.Resized(c.Arg))
	case event.Balloon:
		if c.Arg > m.cfg.RAM {
			return fmt.Errorf("%w: a balloon of %d bytes", ErrInput, c.Arg)
		}
		m.cfg.Balloon = c.Arg
		m.balloon.Want(balloonPages(c.Arg))
	case event.CPUShare, event.Activate, event.Switch, event.Dismiss:
	default:
		return fmt.Errorf("%w: control operation %d", ErrInput, c.Op)
	}
	return nil
}

// resize makes a disk larger. The Config follows: it describes the board as it is, to
// whoever clones it or boots it again.
func (m *Machine) resize(slot event.DeviceID, capacity uint64) error {
	d, cfg := m.disk(slot)
	if d == nil || capacity < cfg.Capacity {
		return fmt.Errorf("%w: no disk in slot %d that could become %d bytes large", ErrInput, slot, capacity)
	}
	cfg.Capacity = capacity
	m.describe(slot, cfg)
	d.Resize(capacity)
	return nil
}

// medium fills an empty drive, or empties one that is at rest, or notes that a disk has
// moved, which the guest does not see.
func (m *Machine) medium(in event.Medium) error {
	d, cfg := m.disk(in.Device)
	moved := in.Capacity == cfg.Capacity && in.Capacity > 0 && in.Source != ""
	changed := (in.Capacity == 0) != (cfg.Capacity == 0) && in.Mirror == ""
	if d == nil || cfg.ReadOnly || cfg.Disk.Own() || !moved && !(changed && len(d.Pending()) == 0) {
		return fmt.Errorf("%w: no drive in slot %d that could take a medium of %d bytes", ErrInput, in.Device, in.Capacity)
	}
	cfg.Capacity, cfg.Medium, cfg.Mirror = in.Capacity, in.Source, in.Mirror
	m.describe(in.Device, cfg)
	if changed {
		d.Resize(in.Capacity)
	}
	return nil
}

// disk is the disk in a slot, nil if there is none, and its description.
func (m *Machine) disk(slot event.DeviceID) (*blk.Device, Device) {
	if d, ok := m.device(slot).(*blk.Device); ok && int(slot) < len(m.cfg.Devices) {
		return d, m.cfg.Devices[slot]
	}
	return nil, Device{}
}

// describe replaces the description of a device.
func (m *Machine) describe(slot event.DeviceID, d Device) {
	m.cfg.Devices = slices.Clone(m.cfg.Devices) // others may have the same
	m.cfg.Devices[slot] = d
}

// PendingDisk lists the disk requests that have no completion, in the order
// they were emitted: what is issued again at go-live (paper §3.4).
func (m *Machine) PendingDisk() []event.DiskRequest {
	var list []event.DiskRequest
	for _, s := range m.slots {
		if d, ok := s.(*blk.Device); ok {
			list = append(list, d.Pending()...)
		}
	}
	return list
}

// PendingEntropy lists the entropy requests without an answer.
func (m *Machine) PendingEntropy() []event.EntropyRequest {
	var list []event.EntropyRequest
	for _, s := range m.slots {
		if d, ok := s.(*rng.Device); ok {
			list = append(list, d.Pending()...)
		}
	}
	return list
}

// ConsoleRoom is how many typed bytes a console takes now; more would be lost.
func (m *Machine) ConsoleRoom(id event.DeviceID) int {
	if id == event.UART {
		return m.uart.Room()
	}
	if d, ok := m.device(id).(*console.Device); ok {
		return d.Room()
	}
	return 0
}

// Offloads tells what the driver of a network device takes.
func (m *Machine) Offloads(id event.DeviceID) net.Offloads {
	if d, ok := m.device(id).(*net.Device); ok {
		return d.Offloads()
	}
	return net.Offloads{}
}

// LinkUp tells whether the cable of a network device is plugged in.
func (m *Machine) LinkUp(id event.DeviceID) bool {
	d, ok := m.device(id).(*net.Device)
	return ok && d.Link()
}

// ButtonDriven tells whether the guest has a driver for the power button.
func (m *Machine) ButtonDriven() bool { return m.button.Driven() }

// Given tells how many bytes of memory the guest says that it does without; driven is false
// if it has no driver for the balloon.
func (m *Machine) Given() (bytes uint64, driven bool) {
	pages, driven := m.balloon.Given()
	return uint64(pages) * balloon.PageSize, driven
}

// OnRelease sets what is told of parts of memory that the guest has given back, so that the
// host can have them. It must leave them zero.
func (m *Machine) OnRelease(f func(off, n uint64)) { m.ram.OnRelease(f) }

// FramesWait tells whether a network device has frames that its driver has no room for.
func (m *Machine) FramesWait(id event.DeviceID) bool {
	d, ok := m.device(id).(*net.Device)
	return ok && d.Waiting()
}

// NetStats counts the frames that a network device has dropped.
func (m *Machine) NetStats(id event.DeviceID) net.Stats {
	if d, ok := m.device(id).(*net.Device); ok {
		return d.Stats()
	}
	return net.Stats{}
}

// LastOutput returns the number of the last output emitted.
func (m *Machine) LastOutput() event.OutputID { return m.lastID }

// Describe tells where the harts are, for diagnostics.
func (m *Machine) Describe() string {
	s := fmt.Sprintf("step %d, time %d", m.step, m.Time())
	for _, h := range m.sys.Harts {
		s += fmt.Sprintf("; hart %d pc %#x ra %#x", h.ID(), h.PC(), h.X(1))
	}
	return s
}
