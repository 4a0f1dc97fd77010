// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"tandem/machine/jit/amd64"
	"tandem/machine/riscv"
)

// The fixed registers; package native loads and stores those of the guest.
const (
	state = amd64.RBX // x, and the State behind it
	tlb   = amd64.R14
	steps = amd64.R15
	tmp   = amd64.RAX // results on their way, addresses
	tmp2  = amd64.RCX
	tmp3  = amd64.RDX
)

// fixed maps guest registers to host registers; RSP stands for none.
var fixed = func() (f [256]amd64.Reg) {
	for i := range f {
		f[i] = amd64.RSP
	}
	for i, r := range [...]uint8{2, 8, 10, 11, 12, 13, 14, 15} {
		f[r] = [...]amd64.Reg{amd64.RSI, amd64.RDI, amd64.R8, amd64.R9, amd64.R10, amd64.R11, amd64.R12, amd64.R13}[i]
	}
	return f
}()

// maxUnitBytes is more than any unit takes.
const maxUnitBytes = 64 << 10

// link is a jump to another unit of the page.
type link struct {
	target uint16
	place  int // of its rel32
}

// exit is a way out of a unit, written behind it.
type exit struct {
	label  amd64.Label
	give   int32 // steps not executed
	off    uint16
	reason Reason
	chain  bool // to a unit of the same page
}

// translator makes units.
type translator struct {
	amd64.Asm
	layout Layout
	exits  []exit
	links  []link
	n      int // instructions in the unit
	fp     floatUnit
}

// minUnit is how many instructions pay for a way out to the interpreter.
const minUnit = 3

// unit translates a block; nil where its first instruction is the interpreter's.
func (t *translator) unit(block []Inst) ([]byte, []link) {
	n := 0
	for n < len(block) && n < MaxUnit && t.knows(&block[n]) {
		n++
	}
	stop := n < len(block) && !t.knows(&block[n])
	if n == 0 || stop && n < minUnit {
		return nil, nil
	}
	t.Reset()
	t.exits, t.links, t.n = t.exits[:0], t.links[:0], n
	t.fp.forget()
	short := t.exit(n, block[0].Off, Interpret, false)
	t.RI(amd64.SUB, amd64.S64, steps, int32(n))
	t.Jcc(amd64.B, short)
	for i := range block[:n] {
		t.inst(&block[i], i)
	}
	if last := &block[n-1]; !ends(last.Op) {
		next := last.Off + uint16(last.Len)
		switch {
		case stop:
			t.leave(next, Interpret)
		case next >= pageSize:
			t.Load(amd64.S64, tmp, amd64.At(state, t.layout.VPage))
			t.RI(amd64.ADD, amd64.S64, tmp, int32(next))
			t.dispatch()
		default:
			t.chain(next)
		}
	}
	t.writeStubs()
	t.writeExits()
	if t.Finish() != nil {
		return nil, nil
	}
	return t.Code, t.links
}

const pageSize = 4096

// exit plans a way out that gives back steps.
func (t *translator) exit(give int, off uint16, r Reason, chain bool) amd64.Label {
	l := t.NewLabel()
	t.exits = append(t.exits, exit{l, int32(give), off, r, chain})
	return l
}

func (t *translator) writeExits() {
	for i := 0; i < len(t.exits); i++ {
		e := t.exits[i]
		t.Bind(e.label)
		if e.give != 0 {
			t.RI(amd64.ADD, amd64.S64, steps, e.give)
		}
		if e.chain {
			t.chain(e.off)
		} else {
			t.leave(e.off, e.reason)
		}
	}
}

// leave returns to Go, to go on at an offset of the page.
func (t *translator) leave(off uint16, r Reason) {
	t.StoreImm(amd64.S32, amd64.At(state, t.layout.Off), int32(off))
	if r != AtOffset {
		t.StoreImm(amd64.S32, amd64.At(state, t.layout.Reason), int32(r))
	}
	t.Ret()
}

// chain jumps to the unit at an offset; until there is one it returns to Go.
func (t *translator) chain(off uint16) {
	next := len(t.Code)
	t.Code = append(t.Code, 0xe9, 0, 0, 0, 0) // jmp rel32, at first to what follows
	t.links = append(t.links, link{off, next + 1})
	t.leave(off, AtOffset)
}

// dispatch goes on at the address in tmp: by the jump cache, or by Go.
func (t *translator) dispatch() {
	l := &t.layout
	miss := t.NewLabel()
	t.Mov(amd64.S32, tmp2, tmp)
	t.ShiftI(amd64.SHR, amd64.S32, tmp2, 1)
	t.RI(amd64.AND, amd64.S32, tmp2, 63)
	t.Mov(amd64.S32, tmp3, tmp)
	t.ShiftI(amd64.SHR, amd64.S32, tmp3, 6)
	t.RI(amd64.AND, amd64.S32, tmp3, 15<<6)
	t.RR(amd64.OR, amd64.S32, tmp2, tmp3)
	t.ShiftI(amd64.SHL, amd64.S32, tmp2, 4)
	entry := amd64.Mem{Base: tlb, Index: tmp2, Scale: 1, Disp: l.Jumps}
	t.RM(amd64.CMP, amd64.S64, tmp, entry)
	t.JccShort(amd64.NE, miss)
	t.Mov(amd64.S64, tmp3, tmp)
	t.RI(amd64.AND, amd64.S64, tmp3, -pageSize)
	t.Store(amd64.S64, amd64.At(state, l.VPage), tmp3)
	entry.Disp += 8
	t.JmpM(entry)
	t.Bind(miss)
	t.Store(amd64.S64, amd64.At(state, l.PC), tmp)
	t.StoreImm(amd64.S32, amd64.At(state, l.Reason), int32(AtPC))
	t.Ret()
}

func x(r uint8) amd64.Mem { return amd64.At(state, int32(r)*8) }

// get returns a register that holds guest register r: its own, or to.
func (t *translator) get(r uint8, to amd64.Reg) amd64.Reg {
	if f := fixed[r]; f != amd64.RSP {
		return f
	}
	t.copy(to, r)
	return to
}

// copy puts guest register r into a host register.
func (t *translator) copy(to amd64.Reg, r uint8) {
	switch f := fixed[r]; {
	case r == 0:
		t.RR(amd64.XOR, amd64.S32, to, to)
	case f != amd64.RSP:
		if f != to {
			t.Mov(amd64.S64, to, f)
		}
	default:
		t.Load(amd64.S64, to, x(r))
	}
}

// put ends an operation whose result is in from.
func (t *translator) put(rd uint8, from amd64.Reg) {
	switch f := fixed[rd]; {
	case rd == Sink:
	case f != amd64.RSP:
		if f != from {
			t.Mov(amd64.S64, f, from)
		}
	default:
		t.Store(amd64.S64, x(rd), from)
	}
}

// into is the register in which to compute rd, given that the register avoid is
// still needed for it: its own, or tmp.
func into(rd uint8, avoid ...uint8) amd64.Reg {
	f := fixed[rd]
	if f == amd64.RSP {
		return tmp
	}
	for _, a := range avoid {
		if fixed[a] == f {
			return tmp
		}
	}
	return f
}

// op writes dst = dst op guest register r.
func (t *translator) op(o amd64.ALU, s amd64.Size, dst amd64.Reg, r uint8) {
	switch f := fixed[r]; {
	case r == 0 && (o == amd64.ADD || o == amd64.SUB || o == amd64.OR || o == amd64.XOR):
	case r == 0:
		t.RI(o, s, dst, 0)
	case f != amd64.RSP:
		t.RR(o, s, dst, f)
	default:
		t.RM(o, s, dst, x(r))
	}
}

// compare writes cmp of two guest registers.
func (t *translator) compare(a, b uint8) {
	ra := t.get(a, tmp)
	if b == 0 {
		t.Test(amd64.S64, ra, ra)
		return
	}
	t.op(amd64.CMP, amd64.S64, ra, b)
}

// inst translates the instruction with index i of the unit.
func (t *translator) inst(in *Inst, i int) {
	switch f := riscv.FormatOf(in.Op); {
	case isFloat(in.Op):
		t.float(in, i)
	case loads[in.Op].size != 0:
		t.load(in, i)
	case storeSize[in.Op] != 0:
		t.store(in, i)
	case isAtomic(in.Op):
		t.atomic(in, i)
	case f == riscv.FormatB:
		t.branch(in, i)
	case in.Op == riscv.JAL, in.Op == riscv.JALR:
		t.jump(in)
	case in.Op == riscv.FENCE, in.Op == riscv.FENCE_I:
	case isCSR(in.Op):
		t.csr(in, i)
	case in.Op == riscv.ECALL:
		t.ecall(in, i)
	case in.Op == riscv.SRET:
		t.sret(in, i)
	case in.Op >= riscv.SFENCE_VMA && in.Op <= riscv.SFENCE_INVAL_IR:
		t.fence(in, i)
	case in.Rd == Sink: // no effect
	default:
		t.compute(in)
	}
}

// branch leaves the unit for its target, with the steps behind it given back.
func (t *translator) branch(in *Inst, i int) {
	c := branches[in.Op]
	a, b := in.Rs1, in.Rs2
	if a == 0 && b != 0 {
		a, b, c = b, a, swapped(c)
	}
	t.compare(a, b)
	target := int32(in.Off) + in.Imm
	give := t.n - (i + 1)
	if target >= 0 && target < pageSize {
		t.Jcc(c, t.exit(give, uint16(target), AtOffset, true))
		return
	}
	over := t.NewLabel()
	t.Jcc(c.Not(), over)
	if give != 0 {
		t.RI(amd64.ADD, amd64.S64, steps, int32(give))
	}
	t.address(tmp, target)
	t.dispatch()
	t.Bind(over)
}

// swapped is the condition with its operands exchanged.
func swapped(c amd64.Cond) amd64.Cond {
	switch c {
	case amd64.L:
		return amd64.G
	case amd64.GE:
		return amd64.LE
	case amd64.B:
		return amd64.A
	case amd64.AE:
		return amd64.BE
	}
	return c
}

// address puts the virtual address at an offset from the page's into to.
func (t *translator) address(to amd64.Reg, off int32) {
	t.Load(amd64.S64, to, amd64.At(state, t.layout.VPage))
	if off != 0 {
		t.RI(amd64.ADD, amd64.S64, to, off)
	}
}

func (t *translator) jump(in *Inst) {
	after := int32(in.Off) + int32(in.Len)
	if in.Op == riscv.JAL {
		if in.Rd != Sink {
			t.address(tmp, after)
			t.put(in.Rd, tmp)
		}
		target := int32(in.Off) + in.Imm
		if target >= 0 && target < pageSize {
			t.chain(uint16(target))
			return
		}
		t.address(tmp, target)
		t.dispatch()
		return
	}
	t.copy(tmp, in.Rs1)
	if in.Imm != 0 {
		t.RI(amd64.ADD, amd64.S64, tmp, in.Imm)
	}
	t.RI(amd64.AND, amd64.S64, tmp, -2)
	if in.Rd != Sink {
		t.address(tmp2, after)
		t.put(in.Rd, tmp2)
	}
	t.dispatch()
}

// lookup leaves in tmp the host offset of the access at rs1+imm, or leaves the
// unit before the instruction: RAM offset = address + add, RAM's base in tmp3.
func (t *translator) lookup(in *Inst, i int, size, array, entries int32) {
	l := &t.layout
	switch f := fixed[in.Rs1]; {
	case f != amd64.RSP:
		t.Lea(amd64.S64, tmp, amd64.At(f, in.Imm))
	default:
		t.copy(tmp, in.Rs1)
		if in.Imm != 0 {
			t.RI(amd64.ADD, amd64.S64, tmp, in.Imm)
		}
	}
	t.Mov(amd64.S32, tmp2, tmp)
	t.ShiftI(amd64.SHR, amd64.S32, tmp2, 8)
	t.RI(amd64.AND, amd64.S32, tmp2, (entries-1)<<4)
	t.Mov(amd64.S64, tmp3, tmp)
	t.RI(amd64.AND, amd64.S64, tmp3, -pageSize|(size-1))
	entry := amd64.Mem{Base: tlb, Index: tmp2, Scale: 1, Disp: array}
	t.RM(amd64.CMP, amd64.S64, tmp3, entry)
	t.Jcc(amd64.NE, t.exit(t.n-i, in.Off, Interpret, false))
	entry.Disp += 8
	t.RM(amd64.ADD, amd64.S64, tmp, entry)
	t.Load(amd64.S64, tmp3, amd64.At(state, l.RAM))
}

// host is the access that lookup found.
var host = amd64.Mem{Base: tmp, Index: tmp3, Scale: 1}

func (t *translator) load(in *Inst, i int) {
	how := loads[in.Op]
	t.lookup(in, i, how.size, t.layout.Read, t.layout.ReadEntries)
	dst := fixed[in.Rd]
	if dst == amd64.RSP {
		dst = tmp
	}
	switch {
	case how.size == 8:
		t.Load(amd64.S64, dst, host)
	case how.signed:
		t.LoadSX(how.from, amd64.S64, dst, host)
	case how.size == 4:
		t.Load(amd64.S32, dst, host)
	default:
		t.LoadZX(how.from, dst, host)
	}
	if dst == tmp {
		t.put(in.Rd, tmp)
	}
}

func (t *translator) store(in *Inst, i int) {
	size := storeSize[in.Op]
	t.lookup(in, i, size, t.layout.Write, t.layout.WriteEntries)
	t.Store(sizes[size], host, t.get(in.Rs2, tmp2))
}
