// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/jit"
	"tandem/machine/jit/native"
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// nativeState is what translated code reads and leaves; it lies behind x.
type nativeState struct {
	float native.Float // first

	pc, vpage, ram uint64
	off, reason    uint32

	pending                        uint64             // interrupts pending and enabled in mie, during one slice
	tlb                            int64              // where the TLB in use is, from x
	tlbs                           [jit.NumTLBs]int64 // where those of the present satp are, 0 if none
	clockEnd, clockBase, clockRate uint64
	timeOK                         [4]bool // by privilege

	near [jit.NumTLBs]*context // what tlbs stands for
	satp uint64                // of near
	cold int                   // blocks that the interpreter runs next, where they are its own
}

// jumpEntry is a place of the jump cache: the address of translated code by the
// guest's.
type jumpEntry struct {
	tag  uint64 // virtual address, or noJump
	code uint64
}

// noJump equals no address of an instruction.
const noJump = 1

func (c *context) clearJumps() {
	c.jumping = false
	for i := range c.jumps {
		c.jumps[i].tag = noJump
	}
}

// dropJumps forgets the jumps into a virtual page.
func (c *context) dropJumps(vpage uint64) {
	if !c.jumping {
		return
	}
	first := jit.JumpIndex(vpage)
	for i := range c.jumps[first : first+64] {
		if e := &c.jumps[first+i]; e.tag&^mem.PageMask == vpage {
			e.tag = noJump
		}
	}
}

// dropAllJumps forgets all jumps of all harts.
func (s *System) dropAllJumps() {
	for _, h := range s.Harts {
		for i := range h.contexts {
			if h.contexts[i].jumping {
				h.contexts[i].clearJumps()
			}
		}
	}
}

// Translate makes the harts run translated code that lives in memory with a
// writable view rw and an executable one at rx.
func (s *System) Translate(rw []byte, rx uintptr) {
	s.jit = jit.NewCache(rw, rx, layout)
	for _, h := range s.Harts {
		h.native.ram = h.ram.Address()
	}
}

// Translated says how the translated code of the harts is used.
func (s *System) Translated() jit.Stats {
	if s.jit == nil {
		return jit.Stats{}
	}
	return s.jit.Stats
}

// execute runs up to h.left steps, translated where a block is hot.
func (h *Hart) execute() {
	if h.sys.jit == nil {
		h.exec(allBlocks, maxBlock)
		return
	}
	h.prepare()
	for h.left > 0 && !h.resample {
		if blocks := h.runNative(); blocks == oneInst {
			h.exec(1, 1)
		} else if blocks > 0 {
			h.exec(blocks, maxBlock)
		}
	}
}

// prepare tells translated code what holds until the slice ends.
func (h *Hart) prepare() {
	n := &h.native
	n.pending = h.pending(h.Step()) & h.mie
	at, base, rate := h.sys.Clock.Line()
	n.clockEnd, n.clockBase, n.clockRate = uint64(h.end-at), uint64(base), rate
	supervisor := h.mcounteren>>1&1 != 0
	n.timeOK = [4]bool{supervisor && h.scounteren>>1&1 != 0, supervisor, false, true}
}

// near tells translated code of a context that the present satp can use next.
func (h *Hart) nearby(c *context) {
	n := &h.native
	if n.satp != h.satp {
		n.satp, n.near, n.tlbs = h.satp, [jit.NumTLBs]*context{}, [jit.NumTLBs]int64{}
	}
	i := jit.UserTLB
	switch {
	case c.key.priv == riscv.Machine:
		return
	case c.key.sum:
		i = jit.SupervisorUserTLB
	case c.key.priv == riscv.Supervisor:
		i = jit.SupervisorTLB
	}
	n.near[i], n.tlbs[i] = c, h.place(c)
}

// forgetNear is for a context that becomes another's, or all of them for nil.
func (h *Hart) forgetNear(c *context) {
	n := &h.native
	for i := range n.near {
		if c == nil || n.near[i] == c {
			n.near[i], n.tlbs[i] = nil, 0
		}
	}
}

// followTLB makes ctx the context that translated code has gone over to.
func (h *Hart) followTLB() {
	n := &h.native
	for i := range n.tlbs {
		if n.tlbs[i] == n.tlb {
			h.ctx = n.near[i]
		}
	}
}

// maxCold is the most blocks that the interpreter runs before it is seen whether
// it comes upon translated code.
const maxCold = 16

// oneInst is a single instruction for the interpreter, in the place of blocks.
const oneInst = -1

// runNative runs translated code from pc on, as far as it gets, and returns how
// many blocks the interpreter must execute from where pc is then.
func (h *Hart) runNative() (blocks int) {
	n := &h.native
	cp, code := h.lookupNative(h.pc)
	if cp == nil {
		if _, ok := h.translate(h.pc, fetch); !ok {
			h.trap()
			return 0
		}
		if h.resample { // the walk dropped translations
			return 0
		}
		if cp, code = h.lookupNative(h.pc); cp == nil {
			return 1
		}
	}
	if code == 0 {
		switch h.sys.heat(cp, h.pc&mem.PageMask) {
		case warming:
			return 1
		case untranslatable:
			n.cold = min(2*n.cold+1, maxCold)
			return n.cold
		}
		_, code = h.lookupNative(h.pc)
	}
	n.cold = 0
	data := h.dataContext()
	if jit.Reason(n.reason) == jit.AtPC && n.pc == h.pc && data == h.ctx {
		data.jumping = true
		data.jumps[jit.JumpIndex(n.pc)] = jumpEntry{n.pc, uint64(code)}
	}
	n.vpage, n.reason = h.pc&^mem.PageMask, uint32(jit.AtOffset)
	place := h.place(data)
	n.tlb = place
	before := h.left
	h.armFloat()
	h.left = enter(h, code, data)
	h.takeFlags()
	h.sys.jit.Stats.Entries++
	h.sys.jit.Stats.Steps += before - h.left
	if n.tlb != place {
		h.followTLB()
	}
	if jit.Reason(n.reason) == jit.AtPC {
		h.pc = n.pc
		return 0
	}
	h.pc = n.vpage + uint64(n.off)
	if jit.Reason(n.reason) == jit.Interpret {
		return oneInst
	}
	return 0
}

// dataContext is the TLB of loads and stores.
func (h *Hart) dataContext() *context {
	if h.modifiesPrivilege() {
		return h.none
	}
	return h.ctx
}

// lookupNative finds the page and the translated code at pc by the TLB alone.
func (h *Hart) lookupNative(pc uint64) (*codePage, uintptr) {
	vpage := pc &^ mem.PageMask
	e := &h.ctx.exec[vpage>>12%execEntries]
	if e.tag != vpage || e.page == nil || !e.page.live {
		return nil, 0
	}
	if e.page.native == nil {
		return e.page, 0
	}
	return e.page, h.sys.jit.Entry(e.page.native, pc&mem.PageMask)
}

// heat is what is known of a block.
type heat uint8

const (
	warming        heat = iota // not executed often enough
	untranslatable             // the interpreter's for ever
	translatedNow
)

// heat counts an execution of the block at an offset and translates it once it is
// hot.
func (s *System) heat(cp *codePage, off uint64) heat {
	if cp.heat == nil {
		cp.heat = new([mem.PageSize / 2]uint8)
	}
	n := &cp.heat[off>>1]
	if *n >= jit.HotAfter {
		return untranslatable
	}
	if *n++; *n < jit.HotAfter {
		return warming
	}
	entry := cp.entry[off>>1]
	if entry == 0 {
		entry = s.decode(cp, off)
	}
	if entry == 0 { // it straddles two pages
		return untranslatable
	}
	if s.jit.Full() {
		s.dropNative()
	}
	if cp.native == nil {
		cp.native = new(jit.Page)
	}
	if s.jit.Translate(cp.native, s.unit(cp.insts[entry-1:])) {
		return translatedNow
	}
	return untranslatable
}

// unit is the block at the head of insts as the translator wants it.
func (s *System) unit(insts []inst) []jit.Inst {
	s.block = s.block[:0]
	for _, in := range insts[:min(int(insts[0].left), jit.MaxUnit+1)] {
		s.block = append(s.block, jit.Inst{Op: in.op, Off: in.off, Imm: in.imm, Rd: in.rd, Rs1: in.rs1, Rs2: in.rs2, Len: in.len, Rs3: in.rs3, RM: in.rm})
	}
	return s.block
}

// dropNative empties the cache of translated code.
func (s *System) dropNative() {
	for _, p := range s.code.live {
		if cp := s.code.pages[p]; cp != nil {
			cp.native, cp.heat = nil, nil
		}
	}
	s.dropAllJumps()
	s.jit.Reset()
}
