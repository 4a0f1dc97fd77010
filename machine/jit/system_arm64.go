// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/arm64"
	"tandem/machine/riscv"
)

// The path of a system call, without leaving translated code: what S-mode does
// to its CSRs, the trap of an ecall from U-mode, sret, and reading the time.
// Whatever could let an interrupt in, or needs an address space that is not at
// hand, is left to the interpreter before anything has changed.

// inMode leaves the block unless the hart has a privilege.
func (t *translator) inMode(p riscv.Privilege, out arm64.Label) {
	t.word(arm64.S8, tmp, t.layout.Priv)
	t.CmpI(arm64.S32, tmp, int64(p))
	t.BCond(arm64.NE, out)
}

// unlessBits leaves the block where a register has one of the bits, a bitmask.
func (t *translator) unlessBits(r arm64.Reg, mask uint64, out arm64.Label) {
	t.TstI(arm64.S64, r, int64(mask))
	t.BCond(arm64.NE, out)
}

// quiet leaves the block where an interrupt waits to be let in.
func (t *translator) quiet(out arm64.Label) {
	t.word(arm64.S64, tmp3, t.layout.Pending)
	t.Cbnz(arm64.S64, tmp3, out)
}

// csr translates an instruction of Zicsr.
func (t *translator) csr(in *Inst, i int) {
	out := t.out(in, i)
	if n := riscv.CSR(in.Imm); n == riscv.CSRTime {
		t.time(in, i, out)
		return
	} else if n == riscv.CSRSStatus {
		t.inMode(riscv.Supervisor, out)
		t.status(in, out)
		return
	}
	t.inMode(riscv.Supervisor, out)
	c, _ := t.plainCSR(riscv.CSR(in.Imm))
	t.word(arm64.S64, tmp, c.place)
	if writesCSR(in) {
		with := t.operand(in)
		switch in.Op {
		case riscv.CSRRS, riscv.CSRRSI:
			t.RRR(arm64.ORR, arm64.S64, tmp3, tmp, with)
			with = tmp3
		case riscv.CSRRC, riscv.CSRRCI:
			t.RRR(arm64.BIC, arm64.S64, tmp3, tmp, with)
			with = tmp3
		}
		if c.clear != 0 {
			t.RRI(arm64.AND, arm64.S64, tmp3, with, int64(^c.clear))
			with = tmp3
		}
		t.set(arm64.S64, c.place, with)
	}
	t.put(in.Rd, tmp)
}

// operand is a register with the operand of a CSR instruction, tmp3 where it is
// no guest register's.
func (t *translator) operand(in *Inst) arm64.Reg {
	if in.Op < riscv.CSRRWI {
		return t.get(in.Rs1, tmp3)
	}
	t.MovImm(tmp3, uint64(in.Rs1))
	return tmp3
}

// status translates an access to sstatus. old is in tmp, new in tmp2, and what
// changes in tmp3.
func (t *translator) status(in *Inst, out arm64.Label) {
	l := &t.layout
	t.word(arm64.S64, tmp, l.MStatus)
	if !writesCSR(in) {
		t.statusValue(in)
		return
	}
	may := uint64(statusWrite) // bits that may change
	if in.Op == riscv.CSRRSI || in.Op == riscv.CSRRCI {
		may &= uint64(in.Rs1)
	}
	with := t.operand(in)
	if in.Op == riscv.CSRRW || in.Op == riscv.CSRRWI {
		t.RRR(arm64.EOR, arm64.S64, tmp3, with, tmp)
		with = tmp3
	}
	t.MovImm(tmp2, may)
	t.RRR(arm64.AND, arm64.S64, tmp3, with, tmp2)
	switch in.Op {
	case riscv.CSRRS, riscv.CSRRSI:
		t.RRR(arm64.ORR, arm64.S64, tmp2, tmp, tmp3)
	case riscv.CSRRC, riscv.CSRRCI:
		t.RRR(arm64.BIC, arm64.S64, tmp2, tmp, tmp3)
	default:
		t.RRR(arm64.EOR, arm64.S64, tmp2, tmp, tmp3)
	}
	if may&riscv.StatusSIE != 0 && in.Op != riscv.CSRRCI && in.Op != riscv.CSRRC {
		closed := t.NewLabel() // interrupts stay as they were, or off
		t.RRR(arm64.BIC, arm64.S64, tmp3, tmp2, tmp)
		t.TstI(arm64.S64, tmp3, int64(riscv.StatusSIE))
		t.BCond(arm64.EQ, closed)
		t.quiet(out)
		t.Bind(closed)
	}
	if may&riscv.StatusFS != 0 {
		t.changeFS()
	}
	if may&riscv.StatusSUM != 0 {
		same := t.NewLabel()
		t.RRR(arm64.EOR, arm64.S64, tmp3, tmp2, tmp)
		t.TstI(arm64.S64, tmp3, int64(riscv.StatusSUM))
		t.BCond(arm64.EQ, same)
		t.supervisorTLB(tmp2, out)
		t.useTLB()
		t.Bind(same)
	}
	t.set(arm64.S64, l.MStatus, tmp2)
	t.statusValue(in)
}

// statusValue makes what a read of sstatus shows from mstatus in tmp.
func (t *translator) statusValue(in *Inst) {
	if in.Rd == Sink {
		return
	}
	t.MovImm(tmp3, statusRead)
	t.RRR(arm64.AND, arm64.S64, tmp, tmp, tmp3)
	t.RRI(arm64.ORR, arm64.S64, tmp, tmp, int64(userXLEN))
	t.put(in.Rd, tmp)
}

// changeFS keeps SD, which says that FS is Dirty, in the new mstatus.
func (t *translator) changeFS() {
	t.RRI(arm64.AND, arm64.S64, tmp3, tmp2, int64(riscv.StatusFS))
	t.MovImm(tmp4, riscv.StatusFS)
	t.Cmp(arm64.S64, tmp3, tmp4)
	t.Set(arm64.EQ, tmp3)
	t.Field(arm64.BFI, arm64.S64, tmp2, tmp3, 63, 1)
	t.changedFS()
}

// supervisorTLB puts the place of the TLB of S-mode under an mstatus into tmp3.
func (t *translator) supervisorTLB(status arm64.Reg, out arm64.Label) {
	l := &t.layout
	t.word(arm64.S64, tmp3, l.TLBs+8*SupervisorTLB)
	t.word(arm64.S64, tmp4, l.TLBs+8*SupervisorUserTLB)
	t.TstI(arm64.S64, status, int64(riscv.StatusSUM))
	t.Select(arm64.CSEL, arm64.S64, arm64.EQ, tmp3, tmp3, tmp4)
	t.Cbz(arm64.S64, tmp3, out)
}

// useTLB goes over to the TLB whose place is in tmp3.
func (t *translator) useTLB() {
	t.set(arm64.S64, t.layout.TLB, tmp3)
	t.RRR(arm64.ADD, arm64.S64, tlb, state, tmp3)
	t.pointTLB()
}

// allowed leaves the block unless a table by privilege says that it may go on.
func (t *translator) allowed(table int32, out arm64.Label) {
	t.word(arm64.S8, tmp, t.layout.Priv)
	t.RRR(arm64.ADD, arm64.S64, tmp, tmp, state)
	t.Load(arm64.S8, tmp, t.at(arm64.S8, tmp, table))
	t.Cbz(arm64.S32, tmp, out)
}

// time reads the time CSR: base + (steps since the clock began) × rate.
func (t *translator) time(in *Inst, i int, out arm64.Label) {
	l := &t.layout
	t.allowed(l.TimeOK, out)
	t.word(arm64.S64, tmp, l.ClockEnd)
	t.RRR(arm64.SUB, arm64.S64, tmp, tmp, steps)
	t.RRI(arm64.SUB, arm64.S64, tmp, tmp, int64(t.n-i))
	t.word(arm64.S64, tmp2, l.ClockRate)
	t.MulHigh(arm64.UMULH, tmp3, tmp, tmp2)
	t.Mul(arm64.S64, tmp, tmp, tmp2)
	t.Extr(arm64.S64, tmp, tmp3, tmp, uint(l.RateShift))
	t.word(arm64.S64, tmp2, l.ClockBase)
	t.RRR(arm64.ADD, arm64.S64, tmp, tmp, tmp2)
	t.put(in.Rd, tmp)
}

// sret returns from a trap (Priv. 10.1.1).
func (t *translator) sret(in *Inst, i int) {
	l, out := &t.layout, t.out(in, i)
	user, found := t.NewLabel(), t.NewLabel()
	t.inMode(riscv.Supervisor, out)
	t.quiet(out)
	t.word(arm64.S64, tmp, l.MStatus)
	t.unlessBits(tmp, riscv.StatusTSR, out)
	t.Field(arm64.UBFX, arm64.S64, tmp2, tmp, 8, 1) // SPP: the privilege to return to
	t.Cbz(arm64.S64, tmp2, user)
	t.supervisorTLB(tmp, out)
	t.B(found)
	t.Bind(user)
	t.word(arm64.S64, tmp3, l.TLBs+8*UserTLB)
	t.Cbz(arm64.S64, tmp3, out)
	t.Bind(found)
	t.set(arm64.S8, l.Priv, tmp2)
	t.Field(arm64.UBFX, arm64.S64, tmp2, tmp, 5, 1) // SPIE to SIE
	t.Field(arm64.BFI, arm64.S64, tmp, tmp2, 1, 1)
	t.RRI(arm64.ORR, arm64.S64, tmp, tmp, int64(riscv.StatusSPIE))
	t.RRI(arm64.BIC, arm64.S64, tmp, tmp, int64(riscv.StatusSPP))
	t.RRI(arm64.BIC, arm64.S64, tmp, tmp, int64(riscv.StatusMPRV))
	t.set(arm64.S64, l.MStatus, tmp)
	t.useTLB()
	t.word(arm64.S64, tmp, l.SEPC)
	t.dispatch()
}

// ecall takes the trap of a system call to S-mode (Priv. 10.1.1).
func (t *translator) ecall(in *Inst, i int) {
	l, out := &t.layout, t.out(in, i)
	t.inMode(riscv.User, out)
	t.word(arm64.S64, tmp, l.MEDeleg)
	t.TstI(arm64.S64, tmp, 1<<riscv.EcallU)
	t.BCond(arm64.EQ, out)
	t.word(arm64.S64, tmp, l.MStatus)
	t.supervisorTLB(tmp, out)
	t.useTLB()
	t.address(tmp2, int32(in.Off))
	t.set(arm64.S64, l.SEPC, tmp2)
	t.setImm(arm64.S64, l.SCause, uint64(riscv.EcallU))
	t.set(arm64.S64, l.STVal, arm64.ZR)
	t.Field(arm64.UBFX, arm64.S64, tmp2, tmp, 1, 1) // SIE to SPIE
	t.Field(arm64.BFI, arm64.S64, tmp, tmp2, 5, 1)
	t.RRI(arm64.BIC, arm64.S64, tmp, tmp, int64(riscv.StatusSIE))
	t.RRI(arm64.BIC, arm64.S64, tmp, tmp, int64(riscv.StatusSPP))
	t.set(arm64.S64, l.MStatus, tmp)
	t.setImm(arm64.S8, l.Priv, uint64(riscv.Supervisor))
	t.word(arm64.S64, tmp, l.Traps)
	t.RRI(arm64.ADD, arm64.S64, tmp, tmp, 1)
	t.set(arm64.S64, l.Traps, tmp)
	t.word(arm64.S64, tmp, l.STVec)
	t.RRI(arm64.AND, arm64.S64, tmp, tmp, -4)
	t.dispatch()
}

// fence translates sfence.vma and its like: translations are coherent with
// memory, so that only the right to execute it matters.
func (t *translator) fence(in *Inst, i int) {
	out := t.out(in, i)
	t.inMode(riscv.Supervisor, out)
	if in.Op == riscv.SFENCE_VMA || in.Op == riscv.SINVAL_VMA {
		t.word(arm64.S64, tmp, t.layout.MStatus)
		t.unlessBits(tmp, riscv.StatusTVM, out)
	}
}
