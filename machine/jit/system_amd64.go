// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// The path of a system call, without leaving translated code: what S-mode does
// to its CSRs, the trap of an ecall from U-mode, sret, and reading the time.
// Whatever could let an interrupt in, or needs an address space that is not at
// hand, is left to the interpreter before anything has changed.

// supervisor leaves the block unless the hart is in S-mode.
func (t *translator) supervisor(out amd64.Label) {
	t.MI(amd64.CMP, amd64.S8, t.word(t.layout.Priv), int32(riscv.Supervisor))
	t.Jcc(amd64.NE, out)
}

// csr translates an instruction of Zicsr.
func (t *translator) csr(in *Inst, i int) {
	out := t.out(in, i)
	if n := riscv.CSR(in.Imm); n == riscv.CSRTime {
		t.time(in, i, out)
		return
	} else if n == riscv.CSRSStatus {
		t.supervisor(out)
		t.status(in, out)
		return
	}
	t.supervisor(out)
	c, _ := t.plainCSR(riscv.CSR(in.Imm))
	at := t.word(c.place)
	if !writesCSR(in) {
		t.Load(amd64.S64, tmp, at)
		t.put(in.Rd, tmp)
		return
	}
	t.operand(in, tmp3)
	t.Load(amd64.S64, tmp, at)
	switch in.Op {
	case riscv.CSRRS, riscv.CSRRSI:
		t.RR(amd64.OR, amd64.S64, tmp3, tmp)
	case riscv.CSRRC, riscv.CSRRCI:
		t.Unary(amd64.NOT, amd64.S64, tmp3)
		t.RR(amd64.AND, amd64.S64, tmp3, tmp)
	}
	if c.clear != 0 {
		t.RI(amd64.AND, amd64.S64, tmp3, ^c.clear)
	}
	t.Store(amd64.S64, at, tmp3)
	t.put(in.Rd, tmp)
}

// operand puts the operand of a CSR instruction, a register or an immediate, into to.
func (t *translator) operand(in *Inst, to amd64.Reg) {
	if in.Op >= riscv.CSRRWI {
		t.MovImm(to, uint64(in.Rs1))
		return
	}
	t.copy(to, in.Rs1)
}

// status translates an access to sstatus. old is in tmp, new in tmp2, and what
// changes in tmp3.
func (t *translator) status(in *Inst, out amd64.Label) {
	l := &t.layout
	if !writesCSR(in) {
		t.Load(amd64.S64, tmp, t.word(l.MStatus))
		t.statusValue(in)
		return
	}
	may := statusWrite // bits that may change
	if in.Op == riscv.CSRRSI || in.Op == riscv.CSRRCI {
		may &= int32(in.Rs1)
	}
	t.operand(in, tmp2)
	t.Load(amd64.S64, tmp, t.word(l.MStatus))
	switch in.Op {
	case riscv.CSRRS, riscv.CSRRSI:
		t.RI(amd64.AND, amd64.S64, tmp2, may)
		t.RR(amd64.OR, amd64.S64, tmp2, tmp)
	case riscv.CSRRC, riscv.CSRRCI:
		t.RI(amd64.AND, amd64.S64, tmp2, may)
		t.Unary(amd64.NOT, amd64.S64, tmp2)
		t.RR(amd64.AND, amd64.S64, tmp2, tmp)
	default:
		t.RR(amd64.XOR, amd64.S64, tmp2, tmp)
		t.RI(amd64.AND, amd64.S64, tmp2, may)
		t.RR(amd64.XOR, amd64.S64, tmp2, tmp)
	}
	t.Mov(amd64.S64, tmp3, tmp2)
	t.RR(amd64.XOR, amd64.S64, tmp3, tmp)
	if may&int32(riscv.StatusSIE) != 0 && in.Op != riscv.CSRRCI && in.Op != riscv.CSRRC {
		closed := t.NewLabel() // interrupts stay as they were, or off
		t.RR(amd64.AND, amd64.S32, tmp3, tmp2)
		t.TestI(amd64.S32, tmp3, int32(riscv.StatusSIE))
		t.JccShort(amd64.E, closed)
		t.MI(amd64.CMP, amd64.S64, t.word(l.Pending), 0)
		t.Jcc(amd64.NE, out)
		t.Bind(closed)
		t.Mov(amd64.S64, tmp3, tmp2)
		t.RR(amd64.XOR, amd64.S64, tmp3, tmp)
	}
	if may&int32(riscv.StatusFS) != 0 {
		t.changeFS(out)
	}
	if may&int32(riscv.StatusSUM) != 0 {
		t.changeSUM(out)
	}
	t.Store(amd64.S64, t.word(l.MStatus), tmp2)
	t.statusValue(in)
}

// statusValue makes what a read of sstatus shows from mstatus in tmp.
func (t *translator) statusValue(in *Inst) {
	if in.Rd == Sink {
		return
	}
	t.MovImm(tmp3, statusRead)
	t.RR(amd64.AND, amd64.S64, tmp, tmp3)
	t.MovImm(tmp3, userXLEN)
	t.RR(amd64.OR, amd64.S64, tmp, tmp3)
	t.put(in.Rd, tmp)
}

// changeFS keeps SD, which sums FS up, in the new mstatus.
func (t *translator) changeFS(out amd64.Label) {
	same, clean := t.NewLabel(), t.NewLabel()
	t.TestI(amd64.S32, tmp3, int32(riscv.StatusFS))
	t.JccShort(amd64.E, same)
	t.BitI(amd64.BTR, amd64.S64, tmp2, 63)
	t.Mov(amd64.S32, tmp3, tmp2)
	t.Unary(amd64.NOT, amd64.S32, tmp3)
	t.TestI(amd64.S32, tmp3, int32(riscv.StatusFS))
	t.JccShort(amd64.NE, clean)
	t.BitI(amd64.BTS, amd64.S64, tmp2, 63)
	t.Bind(clean)
	t.changedFS(tmp3)
	t.Mov(amd64.S64, tmp3, tmp2)
	t.RR(amd64.XOR, amd64.S64, tmp3, tmp)
	t.Bind(same)
}

// changeSUM goes over to the TLB of the supervisor with or without the user's pages.
func (t *translator) changeSUM(out amd64.Label) {
	same := t.NewLabel()
	t.TestI(amd64.S32, tmp3, int32(riscv.StatusSUM))
	t.JccShort(amd64.E, same)
	t.supervisorTLB(tmp2, out)
	t.useTLB()
	t.Bind(same)
}

// supervisorTLB puts the place of the TLB of S-mode under an mstatus into tmp3.
func (t *translator) supervisorTLB(status amd64.Reg, out amd64.Label) {
	l := &t.layout
	t.Load(amd64.S64, tmp3, t.word(l.TLBs+8*SupervisorTLB))
	t.TestI(amd64.S32, status, int32(riscv.StatusSUM))
	t.CmovM(amd64.NE, amd64.S64, tmp3, t.word(l.TLBs+8*SupervisorUserTLB))
	t.Test(amd64.S64, tmp3, tmp3)
	t.Jcc(amd64.E, out)
}

// useTLB goes over to the TLB whose place is in tmp3.
func (t *translator) useTLB() {
	t.Store(amd64.S64, t.word(t.layout.TLB), tmp3)
	t.Lea(amd64.S64, tlb, amd64.Mem{Base: state, Index: tmp3, Scale: 1})
}

// allowed leaves the block unless a table by privilege says that it may go on.
func (t *translator) allowed(table int32, out amd64.Label) {
	t.LoadZX(amd64.S8, tmp, t.word(t.layout.Priv))
	t.MI(amd64.CMP, amd64.S8, amd64.Mem{Base: state, Index: tmp, Scale: 1, Disp: table}, 0)
	t.Jcc(amd64.E, out)
}

// time reads the time CSR: base + (steps since the clock began) × rate.
func (t *translator) time(in *Inst, i int, out amd64.Label) {
	l := &t.layout
	t.allowed(l.TimeOK, out)
	t.Load(amd64.S64, tmp, t.word(l.ClockEnd))
	t.RR(amd64.SUB, amd64.S64, tmp, steps)
	t.RI(amd64.SUB, amd64.S64, tmp, int32(t.n-i))
	t.UnaryM(amd64.MUL, amd64.S64, t.word(l.ClockRate))
	t.ShiftI(amd64.SHR, amd64.S64, tmp, l.RateShift)
	t.ShiftI(amd64.SHL, amd64.S64, tmp3, 64-l.RateShift)
	t.RR(amd64.OR, amd64.S64, tmp, tmp3)
	t.RM(amd64.ADD, amd64.S64, tmp, t.word(l.ClockBase))
	t.put(in.Rd, tmp)
}

// sret returns from a trap (Priv. 10.1.1).
func (t *translator) sret(in *Inst, i int) {
	l, out := &t.layout, t.out(in, i)
	user, found := t.NewLabel(), t.NewLabel()
	t.supervisor(out)
	t.MI(amd64.CMP, amd64.S64, t.word(l.Pending), 0)
	t.Jcc(amd64.NE, out)
	t.Load(amd64.S64, tmp, t.word(l.MStatus))
	t.TestI(amd64.S32, tmp, int32(riscv.StatusTSR))
	t.Jcc(amd64.NE, out)
	t.Mov(amd64.S32, tmp2, tmp)
	t.ShiftI(amd64.SHR, amd64.S32, tmp2, 8)
	t.RI(amd64.AND, amd64.S32, tmp2, 1) // SPP: the privilege to return to
	t.JccShort(amd64.E, user)
	t.supervisorTLB(tmp, out)
	t.JmpShort(found)
	t.Bind(user)
	t.Load(amd64.S64, tmp3, t.word(l.TLBs+8*UserTLB))
	t.Test(amd64.S64, tmp3, tmp3)
	t.Jcc(amd64.E, out)
	t.Bind(found)
	t.Store(amd64.S8, t.word(l.Priv), tmp2)
	t.Mov(amd64.S32, tmp2, tmp)
	t.ShiftI(amd64.SHR, amd64.S32, tmp2, 4) // SPIE to SIE
	t.RI(amd64.AND, amd64.S32, tmp2, int32(riscv.StatusSIE))
	t.RI(amd64.AND, amd64.S64, tmp, ^int32(riscv.StatusSIE|riscv.StatusSPP|riscv.StatusMPRV))
	t.RI(amd64.OR, amd64.S64, tmp, int32(riscv.StatusSPIE))
	t.RR(amd64.OR, amd64.S64, tmp, tmp2)
	t.Store(amd64.S64, t.word(l.MStatus), tmp)
	t.useTLB()
	t.Load(amd64.S64, tmp, t.word(l.SEPC))
	t.dispatch()
}

// ecall takes the trap of a system call to S-mode (Priv. 10.1.1).
func (t *translator) ecall(in *Inst, i int) {
	l, out := &t.layout, t.out(in, i)
	t.MI(amd64.CMP, amd64.S8, t.word(l.Priv), int32(riscv.User))
	t.Jcc(amd64.NE, out)
	t.TestMI(amd64.S32, t.word(l.MEDeleg), 1<<riscv.EcallU)
	t.Jcc(amd64.E, out)
	t.Load(amd64.S64, tmp, t.word(l.MStatus))
	t.supervisorTLB(tmp, out)
	t.useTLB()
	t.address(tmp2, int32(in.Off))
	t.Store(amd64.S64, t.word(l.SEPC), tmp2)
	t.StoreImm(amd64.S64, t.word(l.SCause), int32(riscv.EcallU))
	t.StoreImm(amd64.S64, t.word(l.STVal), 0)
	t.Mov(amd64.S32, tmp2, tmp)
	t.RI(amd64.AND, amd64.S32, tmp2, int32(riscv.StatusSIE))
	t.ShiftI(amd64.SHL, amd64.S32, tmp2, 4) // SIE to SPIE
	t.RI(amd64.AND, amd64.S64, tmp, ^int32(riscv.StatusSIE|riscv.StatusSPIE|riscv.StatusSPP))
	t.RR(amd64.OR, amd64.S64, tmp, tmp2)
	t.Store(amd64.S64, t.word(l.MStatus), tmp)
	t.StoreImm(amd64.S8, t.word(l.Priv), int32(riscv.Supervisor))
	t.MI(amd64.ADD, amd64.S64, t.word(l.Traps), 1)
	t.Load(amd64.S64, tmp, t.word(l.STVec))
	t.RI(amd64.AND, amd64.S64, tmp, -4)
	t.dispatch()
}

// fence translates sfence.vma and its like: translations are coherent with
// memory, so that only the right to execute it matters.
func (t *translator) fence(in *Inst, i int) {
	out := t.out(in, i)
	t.supervisor(out)
	if in.Op == riscv.SFENCE_VMA || in.Op == riscv.SINVAL_VMA {
		t.TestMI(amd64.S32, t.word(t.layout.MStatus), int32(riscv.StatusTVM))
		t.Jcc(amd64.NE, out)
	}
}
