// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/hart"
	"tandem/machine/sbi"
)

// start sets the harts running as the boot mode says.
func (m *Machine) start() {
	b := m.cfg.Boot
	if b.Mode == BootKernel {
		m.sys.Harts[0].StartSupervisor(b.Entry, 0, b.DTB)
		return
	}
	for _, h := range m.sys.Harts {
		h.Start(resetPC, 0, 0, 0)
	}
}

// resetPC is the address of the reset vector.
const resetPC = 0x1000

// callSBI answers an environment call from S-mode.
func (m *Machine) callSBI(h *hart.Hart, regs *[8]uint64) (resume bool) {
	return sbi.Call(platform{m}, h.ID(), regs)
}

// platform is the board as the SBI sees it.
type platform struct{ m *Machine }

func (p platform) hart(i int) *hart.Hart { return p.m.sys.Harts[i] }

func (p platform) Harts() int                       { return p.m.cfg.Harts }
func (p platform) Memory() bus.Memory               { return p.m.ram }
func (p platform) IDs() (vendor, arch, imp uint64)  { return 0, 0, 0 }
func (p platform) SetTimer(hart int, t event.Ticks) { p.hart(hart).SetTimer(uint64(t)) }
func (p platform) SendIPI(hart int)                 { p.hart(hart).SetSSIP() }

func (p platform) HartStatus(hart int) sbi.Status {
	return hartStatus[p.hart(hart).Waiting()]
}

var hartStatus = [...]sbi.Status{hart.Running: sbi.Started, hart.WaitWFI: sbi.Started, hart.Stopped: sbi.Stopped}

func (p platform) StartHart(hart int, addr, opaque uint64) {
	p.hart(hart).StartSupervisor(addr, uint64(hart), opaque)
}
func (p platform) StopHart(hart int) { p.hart(hart).Stop() }
func (p platform) Suspend(hart int)  { p.hart(hart).Suspend() }

// SuspendTo wakes at once, which the specification allows: a wake-up that the
// kernel takes for a spurious one.
func (p platform) SuspendTo(hart int, addr, opaque uint64) { p.StartHart(hart, addr, opaque) }

func (p platform) Shutdown(code int)        { p.m.emitExit(event.Exit{Code: code}) }
func (p platform) Reset()                   { p.m.pressReset() }
func (p platform) ConsoleWrite(b []byte)    { p.m.uart.Print(b) }
func (p platform) ConsoleRead(n int) []byte { return p.m.uart.Take(n) }
