// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// allBlocks is no bound on the blocks that exec runs.
const allBlocks = -1

// exec runs so many blocks, of each up to so many instructions, until left is 0,
// an instruction ended with resample set, or a trap. It is the interpreter's one
// loop: a case is one instruction of the manual, and whatever needs more than a
// line is in the file of its extension.
//
// In a block, left counts the steps to go before its first instruction. The slow
// ways store h.left and h.pc by at and report whether the block may go on.
func (h *Hart) exec(count int, insts uint64) {
	x, ram := &h.x, h.ram
	data := h.dataContext()
	read, write := &data.read, &data.write
	pc, left := h.pc, h.left
	var page *codePage // decoded from the page at cur
	cur := noPage
blocks:
	for ; left > 0 && count != 0; count-- {
		vpage := pc &^ mem.PageMask
		var block []inst
		if vpage != cur || !page.live {
			var ok bool
			if page, ok = h.fetchPage(pc); !ok {
				h.left, h.pc = left, pc
				h.trap()
				return
			}
			cur = vpage
			if h.resample { // the walk dropped translations: read and write may be of the past
				data = h.dataContext()
				read, write = &data.read, &data.write
			}
		}
		if page == nil {
			block, cur = h.scratch.insts, noPage
		} else {
			entry := page.entry[pc&mem.PageMask>>1]
			if entry == 0 {
				entry = h.sys.decode(page, pc&mem.PageMask)
			}
			if entry != 0 {
				block = page.insts[entry-1:]
				block = block[:min(uint64(block[0].left), left, insts)]
			} else if h.fetchOne(pc) { // it straddles two pages
				block = h.scratch.insts
			} else {
				h.left, h.pc = left, pc
				h.trap()
				return
			}
		}
		for i := range block {
			in := &block[i]
			switch in.op {
			case riscv.LUI:
				x[in.rd] = uint64(int64(in.imm))
			case riscv.AUIPC:
				x[in.rd] = vpage + uint64(in.off) + uint64(int64(in.imm))
			case riscv.ADDI:
				x[in.rd] = x[in.rs1] + uint64(int64(in.imm))
			case riscv.SLTI:
				x[in.rd] = b2u(int64(x[in.rs1]) < int64(in.imm))
			case riscv.SLTIU:
				x[in.rd] = b2u(x[in.rs1] < uint64(int64(in.imm)))
			case riscv.XORI:
				x[in.rd] = x[in.rs1] ^ uint64(int64(in.imm))
			case riscv.ORI:
				x[in.rd] = x[in.rs1] | uint64(int64(in.imm))
			case riscv.ANDI:
				x[in.rd] = x[in.rs1] & uint64(int64(in.imm))
			case riscv.SLLI:
				x[in.rd] = x[in.rs1] << (uint32(in.imm) & 63)
			case riscv.SRLI:
				x[in.rd] = x[in.rs1] >> (uint32(in.imm) & 63)
			case riscv.SRAI:
				x[in.rd] = uint64(int64(x[in.rs1]) >> (uint32(in.imm) & 63))
			case riscv.ADD:
				x[in.rd] = x[in.rs1] + x[in.rs2]
			case riscv.SUB:
				x[in.rd] = x[in.rs1] - x[in.rs2]
			case riscv.SLL:
				x[in.rd] = x[in.rs1] << (x[in.rs2] & 63)
			case riscv.SLT:
				x[in.rd] = b2u(int64(x[in.rs1]) < int64(x[in.rs2]))
			case riscv.SLTU:
				x[in.rd] = b2u(x[in.rs1] < x[in.rs2])
			case riscv.XOR:
				x[in.rd] = x[in.rs1] ^ x[in.rs2]
			case riscv.SRL:
				x[in.rd] = x[in.rs1] >> (x[in.rs2] & 63)
			case riscv.SRA:
				x[in.rd] = uint64(int64(x[in.rs1]) >> (x[in.rs2] & 63))
			case riscv.OR:
				x[in.rd] = x[in.rs1] | x[in.rs2]
			case riscv.AND:
				x[in.rd] = x[in.rs1] & x[in.rs2]
			case riscv.ADDIW:
				x[in.rd] = sext32(uint32(x[in.rs1]) + uint32(in.imm))
			case riscv.SLLIW:
				x[in.rd] = sext32(uint32(x[in.rs1]) << (uint32(in.imm) & 31))
			case riscv.SRLIW:
				x[in.rd] = sext32(uint32(x[in.rs1]) >> (uint32(in.imm) & 31))
			case riscv.SRAIW:
				x[in.rd] = uint64(int64(int32(x[in.rs1]) >> (uint32(in.imm) & 31)))
			case riscv.ADDW:
				x[in.rd] = sext32(uint32(x[in.rs1]) + uint32(x[in.rs2]))
			case riscv.SUBW:
				x[in.rd] = sext32(uint32(x[in.rs1]) - uint32(x[in.rs2]))
			case riscv.SLLW:
				x[in.rd] = sext32(uint32(x[in.rs1]) << (x[in.rs2] & 31))
			case riscv.SRLW:
				x[in.rd] = sext32(uint32(x[in.rs1]) >> (x[in.rs2] & 31))
			case riscv.SRAW:
				x[in.rd] = uint64(int64(int32(x[in.rs1]) >> (x[in.rs2] & 31)))
			case riscv.MUL:
				x[in.rd] = x[in.rs1] * x[in.rs2]
			case riscv.MULW:
				x[in.rd] = sext32(uint32(x[in.rs1]) * uint32(x[in.rs2]))
			case riscv.ADD_UW:
				x[in.rd] = x[in.rs2] + uint64(uint32(x[in.rs1]))
			case riscv.SH1ADD:
				x[in.rd] = x[in.rs2] + x[in.rs1]<<1
			case riscv.SH2ADD:
				x[in.rd] = x[in.rs2] + x[in.rs1]<<2
			case riscv.SH3ADD:
				x[in.rd] = x[in.rs2] + x[in.rs1]<<3
			case riscv.SH1ADD_UW:
				x[in.rd] = x[in.rs2] + uint64(uint32(x[in.rs1]))<<1
			case riscv.SH2ADD_UW:
				x[in.rd] = x[in.rs2] + uint64(uint32(x[in.rs1]))<<2
			case riscv.SH3ADD_UW:
				x[in.rd] = x[in.rs2] + uint64(uint32(x[in.rs1]))<<3
			case riscv.SLLI_UW:
				x[in.rd] = uint64(uint32(x[in.rs1])) << (uint32(in.imm) & 63)
			case riscv.ANDN:
				x[in.rd] = x[in.rs1] &^ x[in.rs2]
			case riscv.ORN:
				x[in.rd] = x[in.rs1] | ^x[in.rs2]
			case riscv.XNOR:
				x[in.rd] = ^(x[in.rs1] ^ x[in.rs2])
			case riscv.SEXT_B:
				x[in.rd] = uint64(int64(int8(x[in.rs1])))
			case riscv.SEXT_H:
				x[in.rd] = uint64(int64(int16(x[in.rs1])))
			case riscv.ZEXT_H:
				x[in.rd] = uint64(uint16(x[in.rs1]))
			case riscv.CZERO_EQZ:
				v := x[in.rs1]
				if x[in.rs2] == 0 {
					v = 0
				}
				x[in.rd] = v
			case riscv.CZERO_NEZ:
				v := x[in.rs1]
				if x[in.rs2] != 0 {
					v = 0
				}
				x[in.rd] = v
			case riscv.BEQ:
				if x[in.rs1] == x[in.rs2] {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.BNE:
				if x[in.rs1] != x[in.rs2] {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.BLT:
				if int64(x[in.rs1]) < int64(x[in.rs2]) {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.BGE:
				if int64(x[in.rs1]) >= int64(x[in.rs2]) {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.BLTU:
				if x[in.rs1] < x[in.rs2] {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.BGEU:
				if x[in.rs1] >= x[in.rs2] {
					pc = vpage + uint64(in.off) + uint64(int64(in.imm))
					left -= uint64(i) + 1
					continue blocks
				}
			case riscv.JAL:
				here := vpage + uint64(in.off)
				x[in.rd] = here + uint64(in.len)
				pc = here + uint64(int64(in.imm))
				left -= uint64(i) + 1
				continue blocks
			case riscv.JALR:
				target := (x[in.rs1] + uint64(int64(in.imm))) &^ 1
				x[in.rd] = vpage + uint64(in.off) + uint64(in.len)
				pc = target
				left -= uint64(i) + 1
				continue blocks
			case riscv.LB:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^mem.PageMask {
					x[in.rd] = uint64(int64(int8(ram.Load8(e.add + va))))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LH:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^1) {
					x[in.rd] = uint64(int64(int16(ram.Load16(e.add + va))))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LW:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^3) {
					x[in.rd] = uint64(int64(int32(ram.Load32(e.add + va))))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LD:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^7) {
					x[in.rd] = ram.Load64(e.add + va)
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LBU:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^mem.PageMask {
					x[in.rd] = uint64(ram.Load8(e.add + va))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LHU:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^1) {
					x[in.rd] = uint64(ram.Load16(e.add + va))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.LWU:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^3) {
					x[in.rd] = uint64(ram.Load32(e.add + va))
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.SB:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^mem.PageMask {
					ram.Store8(e.add+va, uint8(x[in.rs2]))
				} else if !h.slowStore(in, va, x[in.rs2], vpage, left-uint64(i)) {
					return
				}
			case riscv.SH:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^(mem.PageMask&^1) {
					ram.Store16(e.add+va, uint16(x[in.rs2]))
				} else if !h.slowStore(in, va, x[in.rs2], vpage, left-uint64(i)) {
					return
				}
			case riscv.SW:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^(mem.PageMask&^3) {
					ram.Store32(e.add+va, uint32(x[in.rs2]))
				} else if !h.slowStore(in, va, x[in.rs2], vpage, left-uint64(i)) {
					return
				}
			case riscv.SD:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^(mem.PageMask&^7) {
					ram.Store64(e.add+va, x[in.rs2])
				} else if !h.slowStore(in, va, x[in.rs2], vpage, left-uint64(i)) {
					return
				}
			case riscv.FLD:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^7) && h.mstatus&riscv.StatusFS != 0 {
					h.f[in.rd&31] = ram.Load64(e.add + va)
					h.dirtyFS()
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.FLW:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &read[readIndex(va)]; e.tag == va&^(mem.PageMask&^3) && h.mstatus&riscv.StatusFS != 0 {
					h.f[in.rd&31] = boxed(ram.Load32(e.add + va))
					h.dirtyFS()
				} else if !h.slowLoad(in, va, vpage, left-uint64(i)) {
					return
				}
			case riscv.FSD:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^(mem.PageMask&^7) && h.mstatus&riscv.StatusFS != 0 {
					ram.Store64(e.add+va, h.f[in.rs2&31])
				} else if !h.slowStore(in, va, h.f[in.rs2&31], vpage, left-uint64(i)) {
					return
				}
			case riscv.FSW:
				va := x[in.rs1] + uint64(int64(in.imm))
				if e := &write[writeIndex(va)]; e.tag == va&^(mem.PageMask&^3) && h.mstatus&riscv.StatusFS != 0 {
					ram.Store32(e.add+va, uint32(h.f[in.rs2&31]))
				} else if !h.slowStore(in, va, h.f[in.rs2&31], vpage, left-uint64(i)) {
					return
				}
			case riscv.FENCE, riscv.FENCE_I:
				// Harts take turns and fetches are coherent: nothing is out of order.
			case riscv.MULH, riscv.MULHSU, riscv.MULHU, riscv.DIV, riscv.DIVU, riscv.REM, riscv.REMU,
				riscv.DIVW, riscv.DIVUW, riscv.REMW, riscv.REMUW:
				x[in.rd] = divide(in.op, x[in.rs1], x[in.rs2])
			case riscv.CLZ, riscv.CTZ, riscv.CPOP, riscv.CLZW, riscv.CTZW, riscv.CPOPW, riscv.MIN, riscv.MINU,
				riscv.MAX, riscv.MAXU, riscv.ROL, riscv.ROR, riscv.RORI, riscv.ROLW, riscv.RORW, riscv.RORIW,
				riscv.ORC_B, riscv.REV8, riscv.CLMUL, riscv.CLMULR, riscv.CLMULH, riscv.BSET, riscv.BCLR,
				riscv.BINV, riscv.BEXT, riscv.BSETI, riscv.BCLRI, riscv.BINVI, riscv.BEXTI:
				x[in.rd] = bitmanip(in.op, x[in.rs1], x[in.rs2], uint64(in.imm))
			default:
				// Floating point, atomics, CSRs and the rest of the system.
				if !h.special(in, vpage, left-uint64(i)) {
					return
				}
			}
		}
		last := &block[len(block)-1]
		left -= uint64(len(block))
		pc = vpage + uint64(last.off) + uint64(last.len)
	}
	h.left, h.pc = left, pc
}

// noPage is no page's address.
const noPage = uint64(1)

// at stores where the instruction at hand is.
func (h *Hart) at(in *inst, vpage, left uint64) {
	h.pc, h.left = vpage+uint64(in.off), left
}

// retire ends the instruction at hand, and reports whether the block may go on.
func (h *Hart) retire(in *inst) bool {
	if !h.resample {
		return true
	}
	h.pc += uint64(in.len)
	h.left--
	return false
}

// trap takes the exception that was recorded, as a step.
func (h *Hart) trap() bool {
	h.enter(h.fault.cause, h.fault.tval)
	h.traps++
	h.left--
	return false
}

// except records an exception and takes it.
func (h *Hart) except(cause riscv.Cause, tval uint64) bool {
	h.fault = fault{cause, tval}
	return h.trap()
}

// illegal raises an illegal-instruction exception; tval is the instruction.
func (h *Hart) illegal() bool {
	pc := h.pc
	low, _ := h.fetch16(pc, pc)
	w := uint64(low)
	if low&3 == 3 {
		high, _ := h.fetch16(pc+2, pc)
		w |= uint64(high) << 16
	}
	return h.except(riscv.IllegalInst, w)
}

// loads and stores tell the slow ways what an operation moves.
var accessSize = [riscv.NumOps]uint8{
	riscv.LB: 1, riscv.LBU: 1, riscv.LH: 2, riscv.LHU: 2, riscv.LW: 4, riscv.LWU: 4, riscv.LD: 8,
	riscv.FLW: 4, riscv.FLD: 8, riscv.SB: 1, riscv.SH: 2, riscv.SW: 4, riscv.SD: 8, riscv.FSW: 4, riscv.FSD: 8,
}

// slowLoad is a load that missed the TLB, is misaligned or not to RAM.
func (h *Hart) slowLoad(in *inst, va, vpage, left uint64) bool {
	h.at(in, vpage, left)
	if isFloat(in.op) && h.mstatus&riscv.StatusFS == 0 {
		return h.illegal()
	}
	v, ok := h.readValue(va, uint64(accessSize[in.op]))
	if !ok {
		return h.trap()
	}
	switch in.op {
	case riscv.LB:
		v = uint64(int64(int8(v)))
	case riscv.LH:
		v = uint64(int64(int16(v)))
	case riscv.LW:
		v = sext32(uint32(v))
	case riscv.FLW:
		v = boxed(uint32(v))
	}
	if isFloat(in.op) {
		h.f[in.rd&31] = v
		h.dirtyFS()
	} else {
		h.x[in.rd] = v
	}
	return h.retire(in)
}

// slowStore is a store that missed the TLB, is misaligned, not to RAM, or to a
// page with a note.
func (h *Hart) slowStore(in *inst, va, v, vpage, left uint64) bool {
	h.at(in, vpage, left)
	if isFloat(in.op) && h.mstatus&riscv.StatusFS == 0 {
		return h.illegal()
	}
	if !h.writeValue(va, uint64(accessSize[in.op]), v) {
		return h.trap()
	}
	return h.retire(in)
}

// dirtyFS notes that floating-point state was written.
func (h *Hart) dirtyFS() { h.mstatus |= riscv.StatusFS | riscv.StatusSD }

func sext32(v uint32) uint64 { return uint64(int64(int32(v))) }

// boxed is a single-precision value in a double-precision register (Unpriv. 21.2).
func boxed(v uint32) uint64 { return uint64(v) | 0xffff_ffff_0000_0000 }

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
