// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/riscv"
)

// Writable bits (WARL fields keep the rest as it is).
const (
	mstatusMask = riscv.StatusSIE | riscv.StatusMIE | riscv.StatusSPIE | riscv.StatusMPIE | riscv.StatusSPP |
		riscv.StatusMPP | riscv.StatusFS | riscv.StatusMPRV | riscv.StatusSUM | riscv.StatusMXR |
		riscv.StatusTVM | riscv.StatusTW | riscv.StatusTSR
	sstatusMask = riscv.StatusSIE | riscv.StatusSPIE | riscv.StatusSPP | riscv.StatusFS | riscv.StatusSUM | riscv.StatusMXR
	sstatusRead = sstatusMask | riscv.StatusUXL | riscv.StatusSD
	xlen64      = 2<<32 | 2<<34 // UXL and SXL

	supervisorInts = riscv.SSIP | riscv.STIP | riscv.SEIP
	mieMask        = supervisorInts | riscv.MSIP | riscv.MTIP | riscv.MEIP
	medelegMask    = 0xb3ff // no ecall from M, no reserved causes
	senvcfgMask    = riscv.EnvFIOM | riscv.EnvCBIE | riscv.EnvCBCFE | riscv.EnvCBZE
	menvcfgMask    = senvcfgMask | riscv.EnvADUE | riscv.EnvPBMTE | riscv.EnvSTCE
	inhibitMask    = 1<<0 | 1<<2

	// misa: MXL 2; A, B, C, D, F, I, M, S, U.
	misa = 2<<62 | 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<8 | 1<<12 | 1<<18 | 1<<20

	satpMask = 0xf<<60 | 0xffff<<44 | (1<<44 - 1)
)

// csrInst executes Zicsr (Unpriv. 6): a read is skipped for csrrw to x0, a write
// for csrrs and csrrc of x0 or 0.
func (h *Hart) csrInst(in *inst) bool {
	n := riscv.CSR(in.imm)
	operand := h.x[in.rs1]
	if in.op >= riscv.CSRRWI {
		operand = uint64(in.rs1)
	}
	swap := in.op == riscv.CSRRW || in.op == riscv.CSRRWI
	writes := swap || in.rs1 != 0
	if riscv.Privilege(n>>8&3) > h.priv || writes && n>>10 == 3 {
		return h.illegal()
	}
	old, ok := h.readCSR(n)
	if !ok {
		return h.illegal()
	}
	if writes {
		v := operand
		switch in.op {
		case riscv.CSRRS, riscv.CSRRSI:
			v |= h.softIP(n, old)
		case riscv.CSRRC, riscv.CSRRCI:
			v = h.softIP(n, old) &^ operand
		}
		if !h.writeCSR(n, v) {
			return h.illegal()
		}
	}
	h.x[in.rd] = old
	return h.retire(in)
}

// softIP is what csrrs and csrrc of mip modify: the software bit SEIP, not the
// wire that the read also shows (Priv. 3.1.9).
func (h *Hart) softIP(n riscv.CSR, old uint64) uint64 {
	if n == riscv.CSRMIP {
		return old&^riscv.SEIP | h.mip&riscv.SEIP
	}
	return old
}

func (h *Hart) readCSR(n riscv.CSR) (uint64, bool) {
	switch n {
	case riscv.CSRFFlags, riscv.CSRFRM, riscv.CSRFCSR:
		return h.readFCSR(n), h.mstatus&riscv.StatusFS != 0
	case riscv.CSRSStatus:
		return (h.mstatus | xlen64) & sstatusRead, true
	case riscv.CSRSIE:
		return h.mie & h.mideleg, true
	case riscv.CSRSTVec:
		return h.stvec, true
	case riscv.CSRSCounterEn:
		return h.scounteren, true
	case riscv.CSRSEnvCfg:
		return h.senvcfg, true
	case riscv.CSRSScratch:
		return h.sscratch, true
	case riscv.CSRSEPC:
		return h.sepc, true
	case riscv.CSRSCause:
		return h.scause, true
	case riscv.CSRSTVal:
		return h.stval, true
	case riscv.CSRSIP:
		return h.pending(h.Step()) & h.mideleg, true
	case riscv.CSRSTimeCmp:
		return h.stimecmp, h.priv == riscv.Machine || h.menvcfg&riscv.EnvSTCE != 0 && h.mcounteren&2 != 0
	case riscv.CSRSATP:
		return h.satp, h.priv != riscv.Supervisor || h.mstatus&riscv.StatusTVM == 0
	case riscv.CSRCycle, riscv.CSRTime, riscv.CSRInstret:
		return h.readUserCounter(n)
	}
	if n>>8&3 == 3 {
		return h.readMachineCSR(n)
	}
	if n > riscv.CSRInstret && n < riscv.CSRHPMCounter3+29 {
		return 0, h.priv == riscv.Machine // no event counters: mcounteren has no bits for them
	}
	return 0, false
}

func (h *Hart) readMachineCSR(n riscv.CSR) (uint64, bool) {
	switch n {
	case riscv.CSRMVendorID, riscv.CSRMArchID, riscv.CSRMImpID, riscv.CSRMConfigPtr:
		return 0, true
	case riscv.CSRMHartID:
		return uint64(h.id), true
	case riscv.CSRMStatus:
		return h.mstatus | xlen64, true
	case riscv.CSRMISA:
		return misa, true
	case riscv.CSRMEDeleg:
		return h.medeleg, true
	case riscv.CSRMIDeleg:
		return h.mideleg, true
	case riscv.CSRMIE:
		return h.mie, true
	case riscv.CSRMTVec:
		return h.mtvec, true
	case riscv.CSRMCounterEn:
		return h.mcounteren, true
	case riscv.CSRMEnvCfg:
		return h.menvcfg, true
	case riscv.CSRMCountInhibit:
		return h.mcountinhibit, true
	case riscv.CSRMScratch:
		return h.mscratch, true
	case riscv.CSRMEPC:
		return h.mepc, true
	case riscv.CSRMCause:
		return h.mcause, true
	case riscv.CSRMTVal:
		return h.mtval, true
	case riscv.CSRMIP:
		return h.pending(h.Step()), true
	case riscv.CSRMCycle:
		return h.cycle(), true
	case riscv.CSRMInstret:
		return h.instret(), true
	case riscv.CSRTSelect, riscv.CSRTData1, riscv.CSRTData2, riscv.CSRTData3:
		return 0, true // no triggers
	}
	switch {
	case n >= riscv.CSRPMPCfg0 && n < riscv.CSRPMPCfg0+16 && n&1 == 0:
		return h.readPMPCfg(int(n-riscv.CSRPMPCfg0) * 4), true
	case n >= riscv.CSRPMPAddr0 && n < riscv.CSRPMPAddr0+64:
		if i := n - riscv.CSRPMPAddr0; i < pmpEntries {
			return h.pmp.addr[i], true
		}
		return 0, true
	case n >= riscv.CSRMHPMEvent3 && n < riscv.CSRMHPMEvent3+29, n >= riscv.CSRMHPMCounter3 && n < riscv.CSRMHPMCounter3+29:
		return 0, true
	}
	return 0, false
}

// readUserCounter checks mcounteren and scounteren (Priv. 3.1.11, 10.1.5).
func (h *Hart) readUserCounter(n riscv.CSR) (uint64, bool) {
	bit := uint64(1) << (n & 31)
	if h.priv < riscv.Machine && h.mcounteren&bit == 0 || h.priv == riscv.User && h.scounteren&bit == 0 {
		return 0, false
	}
	switch n {
	case riscv.CSRTime:
		return uint64(h.sys.Clock.At(h.Step())), true
	case riscv.CSRCycle:
		return h.cycle(), true
	}
	return h.instret(), true
}

// done is the number of this hart's steps before the one at hand.
func (h *Hart) done() uint64 { return h.steps + uint64(h.Step()-h.began) }

func (h *Hart) cycle() uint64 {
	if h.mcountinhibit&1 != 0 {
		return h.cycleFrozen
	}
	return h.done() + h.cycleOffset
}

func (h *Hart) instret() uint64 {
	if h.mcountinhibit&4 != 0 {
		return h.instretFrozen
	}
	return h.done() - h.traps + h.instretOffset
}

// setCycle and setInstret write a counter; the writing instruction itself does
// not count (Priv. 3.1.10), so the derived count is that of the next one.
func (h *Hart) setCycle(v uint64) {
	h.cycleFrozen = v
	h.cycleOffset = v - (h.done() + 1)
}

func (h *Hart) setInstret(v uint64) {
	h.instretFrozen = v
	h.instretOffset = v - (h.done() + 1 - h.traps)
}

// writeInhibit stops or starts counters. The instruction that stops one still
// counts, the one that starts it does not: what is in force as it begins decides.
func (h *Hart) writeInhibit(v uint64) {
	v &= inhibitMask
	started, stopped := h.mcountinhibit&^v, v&^h.mcountinhibit
	if started&1 != 0 {
		h.setCycle(h.cycleFrozen)
	}
	if started&4 != 0 {
		h.setInstret(h.instretFrozen)
	}
	if stopped&1 != 0 {
		h.cycleFrozen = h.cycle() + 1
	}
	if stopped&4 != 0 {
		h.instretFrozen = h.instret() + 1
	}
	h.mcountinhibit = v
}

func (h *Hart) readFCSR(n riscv.CSR) uint64 {
	switch n {
	case riscv.CSRFFlags:
		return uint64(h.fflags)
	case riscv.CSRFRM:
		return uint64(h.frm)
	}
	return uint64(h.frm)<<5 | uint64(h.fflags)
}

func (h *Hart) writeFCSR(n riscv.CSR, v uint64) {
	h.dirtyFS()
	switch n {
	case riscv.CSRFFlags:
		h.fflags = uint8(v & 31)
	case riscv.CSRFRM:
		h.frm = uint8(v & 7)
	default:
		h.fflags, h.frm = uint8(v&31), uint8(v>>5&7)
	}
}

func (h *Hart) writeCSR(n riscv.CSR, v uint64) bool {
	switch n {
	case riscv.CSRFFlags, riscv.CSRFRM, riscv.CSRFCSR:
		h.writeFCSR(n, v)
	case riscv.CSRSStatus:
		h.writeStatus(h.mstatus&^sstatusMask | v&sstatusMask)
	case riscv.CSRSIE:
		h.mie = h.mie&^h.mideleg | v&h.mideleg
		h.resample = true
	case riscv.CSRSTVec:
		h.stvec = v &^ 2
	case riscv.CSRSCounterEn:
		h.scounteren = v & 7
		h.resample = true
	case riscv.CSRSEnvCfg:
		h.senvcfg = warlEnv(v, senvcfgMask)
		h.resample = true
	case riscv.CSRSScratch:
		h.sscratch = v
	case riscv.CSRSEPC:
		h.sepc = v &^ 1
	case riscv.CSRSCause:
		h.scause = v
	case riscv.CSRSTVal:
		h.stval = v
	case riscv.CSRSIP:
		mask := h.mideleg & riscv.SSIP
		h.mip = h.mip&^mask | v&mask
		h.resample = true
	case riscv.CSRSTimeCmp:
		h.stimecmp = v
		h.resample = true
	case riscv.CSRSATP:
		h.writeSATP(v)
	default:
		return h.writeMachineCSR(n, v)
	}
	return true
}

func (h *Hart) writeMachineCSR(n riscv.CSR, v uint64) bool {
	switch n {
	case riscv.CSRMStatus:
		if v>>11&3 == 2 { // MPP is WARL: there is no such mode
			v = v&^riscv.StatusMPP | h.mstatus&riscv.StatusMPP
		}
		h.writeStatus(h.mstatus&^mstatusMask | v&mstatusMask)
	case riscv.CSRMEDeleg:
		h.medeleg = v & medelegMask
	case riscv.CSRMIDeleg:
		h.mideleg = v & supervisorInts
		h.resample = true
	case riscv.CSRMIE:
		h.mie = v & mieMask
		h.resample = true
	case riscv.CSRMTVec:
		h.mtvec = v &^ 2
	case riscv.CSRMCounterEn:
		h.mcounteren = v & 7
		h.resample = true
	case riscv.CSRMEnvCfg:
		h.menvcfg = warlEnv(v, menvcfgMask)
		h.sys.flushAll()
	case riscv.CSRMCountInhibit:
		h.writeInhibit(v)
	case riscv.CSRMScratch:
		h.mscratch = v
	case riscv.CSRMEPC:
		h.mepc = v &^ 1
	case riscv.CSRMCause:
		h.mcause = v
	case riscv.CSRMTVal:
		h.mtval = v
	case riscv.CSRMIP:
		mask := supervisorInts
		if h.menvcfg&riscv.EnvSTCE != 0 {
			mask &^= riscv.STIP // it follows stimecmp (Sstc)
		}
		h.mip = h.mip&^mask | v&mask
		h.resample = true
	case riscv.CSRMCycle:
		h.setCycle(v)
	case riscv.CSRMInstret:
		h.setInstret(v)
	default:
		h.writePMP(n, v)
	}
	return true // all other machine CSRs that can be read ignore writes
}

// writeStatus writes mstatus and resamples what the changed fields decide.
func (h *Hart) writeStatus(v uint64) {
	v &^= riscv.StatusSD
	if v&riscv.StatusFS == riscv.StatusFS {
		v |= riscv.StatusSD
	}
	changed := v ^ h.mstatus
	h.mstatus = v
	if changed&(riscv.StatusSUM|riscv.StatusMPRV|riscv.StatusMPP) != 0 {
		h.useContext()
	}
	if changed&v&(riscv.StatusSIE|riscv.StatusMIE) != 0 {
		h.resample = true
	}
}

// warlEnv takes the fields of xenvcfg that exist; CBIE 2 is reserved.
func warlEnv(v, mask uint64) uint64 {
	if v>>4&3 == 2 {
		v &^= riscv.EnvCBIE
	}
	return v & mask
}

// writeSATP has no effect with a mode that the machine does not have (Priv. 10.1.11).
func (h *Hart) writeSATP(v uint64) {
	if n := levels(v); v>>60 != 0 && (n == 0 || n > h.sys.Levels) {
		return
	}
	h.satp = v & satpMask
	h.useContext()
}

func (h *Hart) readPMPCfg(first int) (v uint64) {
	for i := range 8 {
		if first+i < pmpEntries {
			v |= uint64(h.pmp.cfg[first+i]) << (8 * i)
		}
	}
	return v
}

func (h *Hart) writePMP(n riscv.CSR, v uint64) {
	switch {
	case n >= riscv.CSRPMPCfg0 && n < riscv.CSRPMPCfg0+4 && n&1 == 0:
		for i := range 8 {
			h.pmp.writeCfg(int(n-riscv.CSRPMPCfg0)*4+i, uint8(v>>(8*i)))
		}
	case n >= riscv.CSRPMPAddr0 && n < riscv.CSRPMPAddr0+pmpEntries:
		h.pmp.writeAddr(int(n-riscv.CSRPMPAddr0), v)
	default:
		return
	}
	h.pmp.derive()
	h.sys.flushAll()
}
