// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// special executes what the main loop does not: it reports whether the block
// may go on.
func (h *Hart) special(in *inst, vpage, left uint64) bool {
	h.at(in, vpage, left)
	switch op := in.op; {
	case op >= riscv.CSRRW && op <= riscv.CSRRCI:
		return h.csrInst(in)
	case op >= riscv.LR_W && op <= riscv.AMOMAXU_D:
		return h.atomic(in)
	case isFloat(op):
		return h.float(in)
	case op >= riscv.CBO_INVAL && op <= riscv.CBO_ZERO:
		return h.cacheBlock(in)
	default:
		return h.system(in)
	}
}

// system executes the instructions that change the flow of control or privilege.
func (h *Hart) system(in *inst) bool {
	s := h.sys
	switch in.op {
	case riscv.ECALL:
		if h.priv == riscv.Supervisor && s.SBI != nil && h.medeleg>>riscv.EcallS&1 == 0 {
			return h.callSBI(in)
		}
		return h.except(riscv.EcallU+riscv.Cause(h.priv), 0)
	case riscv.EBREAK:
		return h.except(riscv.Breakpoint, h.pc)
	case riscv.SRET:
		if h.priv == riscv.User || h.priv == riscv.Supervisor && h.mstatus&riscv.StatusTSR != 0 {
			return h.illegal()
		}
		h.sret()
	case riscv.MRET:
		if h.priv != riscv.Machine {
			return h.illegal()
		}
		h.mret()
	case riscv.WFI:
		if h.priv == riscv.User || h.priv == riscv.Supervisor && h.mstatus&riscv.StatusTW != 0 {
			return h.illegal()
		}
		h.wait = WaitWFI
		return h.endTurn(in)
	case riscv.PAUSE, riscv.WRS_NTO, riscv.WRS_STO:
		return h.endTurn(in)
	case riscv.SFENCE_VMA, riscv.SINVAL_VMA:
		// Translations are coherent with memory: only the privilege matters.
		if h.priv == riscv.User || h.priv == riscv.Supervisor && h.mstatus&riscv.StatusTVM != 0 {
			return h.illegal()
		}
		return h.retire(in)
	case riscv.SFENCE_W_INVAL, riscv.SFENCE_INVAL_IR:
		if h.priv == riscv.User {
			return h.illegal()
		}
		return h.retire(in)
	default:
		return h.illegal()
	}
	h.left--
	h.useContext()
	return false
}

// endTurn retires the instruction and gives the turn to the next hart.
func (h *Hart) endTurn(in *inst) bool {
	h.yield, h.resample = true, true
	return h.retire(in)
}

// callSBI lets the board answer an environment call.
func (h *Hart) callSBI(in *inst) bool {
	regs := [8]uint64(h.x[10:18])
	h.resample = true
	h.pc += uint64(in.len)
	resume := h.sys.SBI(h, &regs)
	if resume {
		copy(h.x[10:18], regs[:])
	}
	h.left--
	return false
}

// sret and mret return from a trap (Priv. 3.1.6.1, 10.1.1).
func (h *Hart) sret() {
	h.pc = h.sepc
	h.priv = riscv.Privilege(h.mstatus >> 8 & 1)
	h.mstatus = move(h.mstatus, riscv.StatusSPIE, riscv.StatusSIE) | riscv.StatusSPIE
	h.mstatus &^= riscv.StatusSPP | riscv.StatusMPRV
}

func (h *Hart) mret() {
	h.pc = h.mepc
	h.priv = riscv.Privilege(h.mstatus >> 11 & 3)
	h.mstatus = move(h.mstatus, riscv.StatusMPIE, riscv.StatusMIE) | riscv.StatusMPIE
	h.mstatus &^= riscv.StatusMPP
	if h.priv != riscv.Machine {
		h.mstatus &^= riscv.StatusMPRV
	}
}

// envAllows checks a control bit in menvcfg and senvcfg.
func (h *Hart) envAllows(bits uint64) bool {
	return (h.priv == riscv.Machine || h.menvcfg&bits != 0) &&
		(h.priv != riscv.User || h.senvcfg&bits != 0)
}

const cacheBlockSize = 64

// cacheBlock executes Zicbom and Zicboz. There is no cache to manage: what
// remains are the checks, and the zeroing.
func (h *Hart) cacheBlock(in *inst) bool {
	va := h.x[in.rs1]
	if in.op == riscv.CBO_ZERO {
		return h.zeroBlock(in, va)
	}
	bits := riscv.EnvCBCFE
	if in.op == riscv.CBO_INVAL {
		bits = riscv.EnvCBIE
	}
	if !h.envAllows(bits) {
		return h.illegal()
	}
	if _, ok := h.translate(va, load); !ok {
		if _, ok := h.translate(va, store); !ok {
			return h.trap()
		}
	}
	return h.retire(in)
}

func (h *Hart) zeroBlock(in *inst, va uint64) bool {
	if !h.envAllows(riscv.EnvCBZE) {
		return h.illegal()
	}
	pa, ok := h.translate(va&^(cacheBlockSize-1), store)
	if !ok {
		h.fault.tval = va
		return h.trap()
	}
	off, ok := h.sys.RAM.Offset(pa, cacheBlockSize)
	if !ok || !h.pmp.allows(pa, cacheBlockSize, store, h.dataPrivilege()) {
		return h.except(riscv.StoreAccess, va)
	}
	h.sys.RAM.Touch(off, cacheBlockSize)
	for i := uint64(0); i < cacheBlockSize; i += 8 {
		h.ram.Store64(off+i, 0)
	}
	return h.retire(in)
}

// atomic executes LR, SC and AMO. A misaligned one is an address-misaligned
// exception, one on a device an access fault (Unpriv. 13).
func (h *Hart) atomic(in *inst) bool {
	va, size := h.x[in.rs1], uint64(4)
	if in.op >= riscv.LR_D {
		size = 8
	}
	isLR := in.op == riscv.LR_W || in.op == riscv.LR_D
	acc := store
	if isLR {
		acc = load
	}
	if va&(size-1) != 0 {
		return h.except([...]riscv.Cause{load: riscv.LoadMisaligned, store: riscv.StoreMisaligned}[acc], va)
	}
	off, ok := h.atomicOffset(va, size, acc)
	if !ok {
		return h.trap()
	}
	switch {
	case isLR:
		h.resvValid, h.resvAddr = true, off
		h.x[in.rd] = h.loadSigned(off, size)
	case in.op == riscv.SC_W || in.op == riscv.SC_D:
		h.x[in.rd] = h.storeConditional(off, size, h.x[in.rs2])
	default:
		old := h.loadSigned(off, size)
		h.sys.RAM.Touch(off, size)
		h.storeRAM(off, size, amo(in.op, old, h.x[in.rs2]))
		h.x[in.rd] = old
	}
	return h.retire(in)
}

// atomicOffset is the RAM offset of an aligned atomic.
func (h *Hart) atomicOffset(va, size uint64, acc access) (off uint64, ok bool) {
	if acc == store && h.mstatus&riscv.StatusMPRV == 0 {
		if e := &h.ctx.write[writeIndex(va)]; e.tag == va&^mem.PageMask {
			return e.add + va, true
		}
	}
	pa, ok := h.translate(va, acc)
	if !ok {
		return 0, false
	}
	off, ok = h.sys.RAM.Offset(pa, size)
	if !ok || !h.pmp.allows(pa, size, acc, h.dataPrivilege()) {
		return 0, h.fail(accessFault[acc], va)
	}
	return off, true
}

func (h *Hart) loadSigned(off, size uint64) uint64 {
	if size == 4 {
		return sext32(h.ram.Load32(off))
	}
	return h.ram.Load64(off)
}

// storeConditional returns 0 where the reservation still held.
func (h *Hart) storeConditional(off, size, v uint64) uint64 {
	held := h.resvValid && h.resvAddr == off
	h.resvValid = false
	if !held {
		return 1
	}
	h.sys.RAM.Touch(off, size)
	h.storeRAM(off, size, v)
	return 0
}

// amo combines the old value with the operand; .w operands are compared as words.
func amo(op riscv.Op, old, v uint64) uint64 {
	if op < riscv.LR_D {
		op += riscv.LR_D - riscv.LR_W
		v = sext32(uint32(v)) // also keeps the unsigned order of words
	}
	switch op {
	case riscv.AMOSWAP_D:
		return v
	case riscv.AMOADD_D:
		return old + v
	case riscv.AMOXOR_D:
		return old ^ v
	case riscv.AMOAND_D:
		return old & v
	case riscv.AMOOR_D:
		return old | v
	case riscv.AMOMIN_D:
		return uint64(min(int64(old), int64(v)))
	case riscv.AMOMAX_D:
		return uint64(max(int64(old), int64(v)))
	case riscv.AMOMINU_D:
		return min(old, v)
	}
	return max(old, v) // AMOMAXU_D
}
