// SPDX-License-Identifier: Apache-2.0

// Package hart executes RISC-V instructions: the state of a hardware thread,
// its privileged architecture and an interpreter that decodes once.
//
// Run executes an exact number of steps. A step is an instruction retired, or a
// trap or interrupt taken; both engines, the interpreter here and any
// translator, must count alike and stop at the same step with the same bits.
// Interrupts are sampled before a fetch. What decides them changes only at a
// step that Run knows: an input applied between two calls, a timer whose step
// the clock gives by a formula, or an instruction that ends its block.
//
// Nothing that is cached here can be seen by the guest: neither translations
// nor decoded instructions outlive a store to what they were made from (see
// package mem), so they are not part of the state.
//
// Spec: RISC-V Unprivileged and Privileged Architectures, 2025 editions.
package hart

import (
	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/jit"
	"tandem/machine/mem"
	"tandem/machine/riscv"
	"tandem/machine/state"
)

// Clock tells guest time by the step.
type Clock interface {
	// At is the time CSR at step s.
	At(s event.Step) event.Ticks
	// StepOf is the first step from s on at which the time CSR is at least t,
	// and the largest Step where it never gets there.
	StepOf(s event.Step, t event.Ticks) event.Step
	// Line is At as a formula: base + (s - from) × rate / 2^event.RateShift.
	Line() (from event.Step, base event.Ticks, rate uint64)
}

// Config is what the harts of one machine share.
type Config struct {
	RAM   *mem.RAM
	Bus   *bus.Bus
	Clock Clock
	// Levels is the number of page table levels that satp accepts: 3 (Sv39), 4 or 5.
	Levels int
	// SBI answers environment calls from S-mode in the place of firmware; it
	// reports whether the hart goes on. Nil where firmware runs in M-mode.
	SBI func(h *Hart, regs *[8]uint64) (resume bool)
	// MTimeCmp is the hart's CLINT comparator.
	MTimeCmp func(hart int) event.Ticks
	// OnHost hears of stores to the page of tohost, by offset in RAM.
	OnHost func(off, n uint64)
}

// System is the harts of one machine with the caches they share.
type System struct {
	Config
	Harts []*Hart
	// Break ends the current turn after the instruction at hand: a device has
	// emitted an output, or the machine was reset.
	Break bool

	code  codeCache
	jit   *jit.Cache // nil where the interpreter runs everything
	walks []walkInfo
	fills []fillInfo
	// Marks in walks and fills count only while they carry these generations.
	walkGen, fillGen uint32

	stats    Stats
	observer Observer // of translated code, or nil
}

// NewSystem makes n harts. cfg.RAM may be nil until SetRAM.
func NewSystem(n int, cfg Config) *System {
	s := &System{Config: cfg, walkGen: 1, fillGen: 1}
	for i := range n {
		s.Harts = append(s.Harts, newHart(s, i))
	}
	return s
}

// SetRAM gives the harts their memory, which needs the System as its Watcher.
func (s *System) SetRAM(r *mem.RAM) {
	s.RAM = r
	s.code.pages = make([]*codePage, r.Pages())
	s.walks = make([]walkInfo, r.Pages())
	s.fills = make([]fillInfo, r.Pages())
	for _, h := range s.Harts {
		h.ram = r.Ptr()
	}
}

// Wait says why a hart executes nothing.
type Wait uint8

const (
	Running Wait = iota
	WaitWFI      // until an enabled interrupt is pending
	Stopped      // by SBI HSM, until another hart starts it
)

// sink is the register that writes to x0 go to, so that x[0] stays zero.
const sink = 32

// Hart is one hardware thread.
type Hart struct {
	// x has 256 elements so that no uint8 index needs a bounds check.
	x      [256]uint64
	native nativeState // of translated code, right behind x
	f      [32]uint64
	pc     uint64
	priv   riscv.Privilege
	wait   Wait

	mstatus, mie, mip, mideleg, medeleg   uint64
	mtvec, mscratch, mepc, mcause, mtval  uint64
	stvec, sscratch, sepc, scause, stval  uint64
	satp, menvcfg, senvcfg, stimecmp      uint64
	mcounteren, scounteren, mcountinhibit uint64
	cycleOffset, instretOffset            uint64 // counter = derived count + offset
	cycleFrozen, instretFrozen            uint64 // value while mcountinhibit stops it
	fflags                                uint8
	frm                                   uint8
	pmp                                   pmp
	resvValid                             bool
	resvAddr                              uint64 // physical
	steps                                 uint64 // of this hart, traps included
	traps                                 uint64 // steps that retired nothing
	lines                                 uint64 // mip bits driven by PLIC and CLINT
	ram                                   mem.Ptr
	sys                                   *System
	ctx                                   *context // of loads, stores and fetches
	contexts                              [numContexts]context
	none                                  *context // never filled
	age                                   uint32
	id                                    int

	// Of the Run under way.
	began    event.Step // the step at which it began
	end      event.Step // the step at which left reaches 0
	left     uint64
	resample bool // the block must end: interrupts, context or translations may have changed
	yield    bool // the turn ends: WFI, pause, wrs
	fault    fault
	scratch  codePage
}

// fault is the exception that a slow path found.
type fault struct {
	cause riscv.Cause
	tval  uint64
}

func newHart(s *System, id int) *Hart {
	h := &Hart{sys: s, id: id, none: new(context)}
	h.none.clear()
	h.scratch.insts = make([]inst, 1)
	h.Reset()
	return h
}

// ID is mhartid.
func (h *Hart) ID() int { return h.id }

// Reset brings the hart to its state at power-on: M-mode, waiting to be started
// by Start (Priv. 3.4).
func (h *Hart) Reset() {
	lines := h.lines
	h.x, h.f = [256]uint64{}, [32]uint64{}
	h.pc, h.priv, h.wait = 0, riscv.Machine, Stopped
	h.mstatus, h.mie, h.mip, h.mideleg, h.medeleg = 0, 0, 0, 0, 0
	h.mtvec, h.mscratch, h.mepc, h.mcause, h.mtval = 0, 0, 0, 0, 0
	h.stvec, h.sscratch, h.sepc, h.scause, h.stval = 0, 0, 0, 0, 0
	h.satp, h.senvcfg, h.stimecmp = 0, 0, ^uint64(0)
	h.menvcfg = riscv.EnvADUE
	h.mcounteren, h.scounteren, h.mcountinhibit = 0, 0, 0
	h.cycleOffset, h.instretOffset = -h.done(), -(h.done() - h.traps)
	h.cycleFrozen, h.instretFrozen = 0, 0
	h.fflags, h.frm = 0, 0
	h.pmp = pmp{}
	h.resvValid = false
	h.lines = lines
	h.flushContexts()
}

// Start sets the hart running at pc in M-mode with a0, a1 and a2: how the reset
// vector hands over to firmware.
func (h *Hart) Start(pc, a0, a1, a2 uint64) {
	h.pc, h.x[10], h.x[11], h.x[12] = pc, a0, a1, a2
	h.wait = Running
}

// StartSupervisor sets the hart running at pc in S-mode, translation off, with
// all that Linux needs from M-mode set up as OpenSBI does (SBI 2.0 §9.1).
func (h *Hart) StartSupervisor(pc, a0, a1 uint64) {
	h.Reset()
	h.Start(pc, a0, a1, 0)
	h.priv = riscv.Supervisor
	h.medeleg = medelegMask &^ (1 << riscv.EcallS)
	h.mideleg = riscv.SSIP | riscv.STIP | riscv.SEIP
	h.menvcfg = menvcfgMask &^ riscv.EnvFIOM
	h.mcounteren, h.scounteren = 7, 7
	h.pmp.allowAll()
	h.useContext()
}

// Stop is SBI HSM's hart_stop.
func (h *Hart) Stop() { h.wait = Stopped; h.yield, h.resample = true, true }

// Suspend waits as WFI does: SBI HSM's retentive suspend.
func (h *Hart) Suspend() { h.wait = WaitWFI; h.yield, h.resample = true, true }

// Waiting tells why the hart executes nothing.
func (h *Hart) Waiting() Wait { return h.wait }

// SetTimer sets stimecmp: SBI's set_timer.
func (h *Hart) SetTimer(t uint64) { h.stimecmp = t; h.resample = true }

// SetSSIP raises a supervisor software interrupt: SBI's send_ipi.
func (h *Hart) SetSSIP() { h.mip |= riscv.SSIP; h.resample = true }

// SetLine drives mip bits from the PLIC and the CLINT.
func (h *Hart) SetLine(bits uint64, level bool) {
	if level {
		h.lines |= bits
	} else {
		h.lines &^= bits
	}
	h.resample = true
}

// Resample ends the block at hand, so that interrupts are sampled again.
func (h *Hart) Resample() { h.resample = true }

// PC returns the address of the next instruction.
func (h *Hart) PC() uint64 { return h.pc }

// X returns an integer register.
func (h *Hart) X(i int) uint64 { return h.x[i&31] }

// Step is the step at hand: of the instruction that is being executed.
func (h *Hart) Step() event.Step { return h.end - event.Step(h.left) }

// Retired counts the hart's own steps, for statistics.
func (h *Hart) Retired() uint64 { return h.steps }

// Run executes exactly n steps from step s on, or fewer if the turn must end
// (yield), an output was emitted (System.Break) or the hart waits. It returns
// the number of steps executed.
func (h *Hart) Run(s event.Step, n uint64) (used uint64, yield bool) {
	h.began, h.end, h.left = s, s+event.Step(n), n
	h.yield = false
	for h.left > 0 && h.wait == Running && !h.sys.Break && !h.yield {
		h.resample = false
		if cause := h.interrupt(); cause != 0 {
			h.enter(cause, 0)
			h.traps++
			h.left--
			h.sys.stats.Interrupts++
			continue
		}
		h.runUntilTimer()
	}
	used = n - h.left
	h.steps += used
	h.began = h.Step() // so that done is right between two Runs too
	return used, h.yield
}

// runUntilTimer executes up to the next step at which a timer of this hart
// becomes pending, so that interrupts are sampled there.
func (h *Hart) runUntilTimer() {
	here := h.Step()
	budget := h.left
	for _, t := range [2]event.Ticks{h.timeCompare(), h.sys.MTimeCmp(h.id)} {
		if fire := h.sys.Clock.StepOf(here, t); fire > here {
			budget = min(budget, uint64(fire-here))
		}
	}
	beyond := h.left - budget
	h.end, h.left = h.end-event.Step(beyond), budget
	h.execute()
	h.end, h.left = h.end+event.Step(beyond), h.left+beyond
}

// timeCompare is stimecmp where Sstc is enabled.
func (h *Hart) timeCompare() event.Ticks {
	if h.menvcfg&riscv.EnvSTCE == 0 {
		return ^event.Ticks(0)
	}
	return event.Ticks(h.stimecmp)
}

// pending is mip at step s with all that is derived.
func (h *Hart) pending(s event.Step) uint64 {
	p := h.mip | h.lines
	now := h.sys.Clock.At(s)
	if h.menvcfg&riscv.EnvSTCE != 0 {
		p &^= riscv.STIP
		if uint64(now) >= h.stimecmp {
			p |= riscv.STIP
		}
	}
	if now >= h.sys.MTimeCmp(h.id) {
		p |= riscv.MTIP
	}
	return p
}

// Wakeable reports whether the hart has something to execute at step s: it does
// not wait, or an interrupt enabled in mie is pending, whatever the global
// enables say (Priv. 3.3.3).
func (h *Hart) Wakeable(s event.Step) bool {
	return h.wait == Running || h.wait == WaitWFI && h.pending(s)&h.mie != 0
}

// Wake ends the wait of a hart that is Wakeable.
func (h *Hart) Wake() { h.wait = Running }

// NextTimer is the guest time at which a waiting hart wakes by itself.
func (h *Hart) NextTimer() event.Ticks {
	t := ^event.Ticks(0)
	if h.wait != WaitWFI {
		return t
	}
	if h.mie&riscv.STIP != 0 {
		t = min(t, h.timeCompare())
	}
	if h.mie&riscv.MTIP != 0 {
		t = min(t, h.sys.MTimeCmp(h.id))
	}
	return t
}

// EndTurn drops the reservation: harts take turns, and it lasts for one.
func (h *Hart) EndTurn() { h.resvValid = false }

// interrupt returns the interrupt to take before the next fetch, or 0
// (Priv. 3.1.9, priorities MEI, MSI, MTI, SEI, SSI, STI).
func (h *Hart) interrupt() riscv.Cause {
	if h.mie == 0 {
		return 0
	}
	p := h.pending(h.Step()) & h.mie
	if p == 0 {
		return 0
	}
	enabled := uint64(0)
	if h.priv < riscv.Machine || h.mstatus&riscv.StatusMIE != 0 {
		enabled = p &^ h.mideleg
	}
	if enabled == 0 && (h.priv < riscv.Supervisor || h.priv == riscv.Supervisor && h.mstatus&riscv.StatusSIE != 0) {
		enabled = p & h.mideleg
	}
	for _, c := range [...]riscv.Cause{riscv.MachineExtern, riscv.MachineSoft, riscv.MachineTimer,
		riscv.SupervisorExtern, riscv.SupervisorSoft, riscv.SupervisorTimer} {
		if enabled>>(c&63)&1 != 0 {
			return c
		}
	}
	return 0
}

// enter takes a trap from pc (Priv. 3.1.6.1, 3.1.7, 3.1.8).
func (h *Hart) enter(cause riscv.Cause, tval uint64) {
	deleg := h.medeleg
	if cause&riscv.Interrupt != 0 {
		deleg = h.mideleg
	}
	if h.priv <= riscv.Supervisor && deleg>>(cause&63)&1 != 0 {
		h.scause, h.sepc, h.stval = uint64(cause), h.pc, tval
		h.mstatus = move(h.mstatus, riscv.StatusSIE, riscv.StatusSPIE) &^ riscv.StatusSPP
		if h.priv == riscv.Supervisor {
			h.mstatus |= riscv.StatusSPP
		}
		h.priv, h.pc = riscv.Supervisor, vector(h.stvec, cause)
	} else {
		h.mcause, h.mepc, h.mtval = uint64(cause), h.pc, tval
		h.mstatus = move(h.mstatus, riscv.StatusMIE, riscv.StatusMPIE)&^riscv.StatusMPP | uint64(h.priv)<<11
		h.priv, h.pc = riscv.Machine, vector(h.mtvec, cause)
	}
	h.useContext()
}

// move copies bit from to bit to and clears from.
func move(v, from, to uint64) uint64 {
	if v&from != 0 {
		return v&^from | to
	}
	return v &^ to
}

// vector applies the mode of xtvec.
func vector(tvec uint64, cause riscv.Cause) uint64 {
	base := tvec &^ 3
	if tvec&1 != 0 && cause&riscv.Interrupt != 0 {
		return base + 4*uint64(cause&^riscv.Interrupt)
	}
	return base
}

// State visits all that a guest could ever notice.
func (h *Hart) State(c *state.Coder) {
	for i := 1; i < 32; i++ {
		state.U64(c, &h.x[i])
	}
	for i := range h.f {
		state.U64(c, &h.f[i])
	}
	state.U64(c, &h.pc)
	state.U8(c, &h.priv)
	state.U8(c, &h.wait)
	for _, v := range [...]*uint64{&h.mstatus, &h.mie, &h.mip, &h.mideleg, &h.medeleg,
		&h.mtvec, &h.mscratch, &h.mepc, &h.mcause, &h.mtval, &h.stvec, &h.sscratch, &h.sepc,
		&h.scause, &h.stval, &h.satp, &h.menvcfg, &h.senvcfg, &h.stimecmp, &h.mcounteren,
		&h.scounteren, &h.mcountinhibit, &h.cycleOffset, &h.instretOffset, &h.cycleFrozen,
		&h.instretFrozen, &h.resvAddr, &h.steps, &h.traps, &h.lines} {
		state.U64(c, v)
	}
	state.U8(c, &h.fflags)
	state.U8(c, &h.frm)
	c.Bool(&h.resvValid)
	h.pmp.state(c)
	if !c.Loading() {
		return
	}
	if h.priv == 2 || h.priv > riscv.Machine || h.wait > Stopped {
		c.Fail("hart %d: privilege %d, wait %d", h.id, h.priv, h.wait)
		h.priv, h.wait = riscv.Machine, Stopped
	}
	h.flushContexts()
}
