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
	timeOK, zeroOK                 [4]bool // by privilege

	target, address uint64
	site            uint32
	save            [jit.Saved]uint64
	wasOn           uint32 // floating point, at a miss

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

// dropJumps forgets the jumps into a virtual page, which maps a page of code.
func (c *context) dropJumps(vpage uint64, cp *codePage) {
	if !c.jumping || cp.native == nil {
		return
	}
	for _, off := range cp.native.Heads() {
		va := vpage + uint64(off)
		if e := &c.jumps[jit.JumpIndex(va)]; e.tag == va {
			e.tag = noJump
		}
	}
}

// dropJumpsTo forgets the jumps to a page of code: there are none but to pages
// that exec has.
func (s *System) dropJumpsTo(cp *codePage) {
	for _, h := range s.Harts {
		for i := range h.contexts {
			c := &h.contexts[i]
			if !c.jumping {
				continue
			}
			for j := range c.exec {
				if e := &c.exec[j]; e.page == cp {
					c.dropJumps(e.tag, cp)
				}
			}
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

// execute runs up to h.left steps, translated where a block is hot.
func (h *Hart) execute() {
	if h.sys.jit == nil {
		h.interpret(allBlocks, maxBlock)
		return
	}
	h.prepare()
	for h.left > 0 && !h.resample {
		switch blocks := h.runNative(); blocks {
		case 0:
		case oneInst: // even if a walk for it has dropped translations
			again := h.resample
			h.resample = false
			h.countSingle()
			h.interpret(1, 1)
			h.resample = h.resample || again
		default:
			h.interpret(blocks, maxBlock)
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
	supervisor = h.menvcfg&riscv.EnvCBZE != 0
	n.zeroOK = [4]bool{supervisor && h.senvcfg&riscv.EnvCBZE != 0, supervisor, false, true}
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
const oneInst = -2

// runNative runs translated code from pc on, as far as it gets, and returns how
// many blocks the interpreter must execute from where pc is then.
func (h *Hart) runNative() (blocks int) {
	n := &h.native
	cp, code := h.lookupNative(h.pc)
	if cp == nil {
		if _, ok := h.translate(h.pc, fetch); !ok {
			h.trap()
			h.sys.stats.Interpreted++
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
		h.report()
		_, code = h.lookupNative(h.pc)
	}
	n.cold = 0
	data := h.dataContext()
	if jit.Reason(n.reason) == jit.AtPC && n.pc == h.pc && data == h.ctx {
		data.jumping = true
		h.sys.jit.Stats.Jumps++
		data.jumps[jit.JumpIndex(n.pc)] = jumpEntry{n.pc, uint64(code)}
	}
	h.runFrom(code, data)
	if jit.Reason(n.reason) == jit.AtPC {
		h.pc = n.pc
		return 0
	}
	h.pc = n.vpage + uint64(n.off)
	switch jit.Reason(n.reason) {
	case jit.Interpret:
		return oneInst
	case jit.Short:
		return allBlocks
	}
	return 0
}

// runFrom runs translated code until it leaves for another reason than a miss.
func (h *Hart) runFrom(code uintptr, data *context) {
	n, cache := &h.native, h.sys.jit
	n.vpage = h.pc &^ mem.PageMask
	before, way := h.left, cache.Enter()
	for {
		place := h.place(data)
		n.tlb, n.reason, n.target = place, uint32(jit.AtOffset), uint64(code)
		h.armFloat()
		h.left = enter(h, way, data)
		h.takeFlags()
		cache.Stats.Entries++
		cache.Stats.Leave(jit.Reason(n.reason))
		if n.tlb != place {
			h.followTLB()
			data = h.ctx
		}
		if jit.Reason(n.reason) != jit.Miss {
			break
		}
		m := cache.Missed(n.site)
		code, way = m.Quit, cache.Resume(false)
		if data == h.ctx && h.refill(n.address, m.Size, m.Stores) {
			cache.Stats.Refills++
			n.wasOn = 0
			if n.float.WhenDirty == uint32(jit.FloatOn) {
				n.wasOn = 1
			}
			code, way = m.Resume, cache.Resume(m.Float)
		}
	}
	cache.Stats.Steps += before - h.left
}

// refill brings the page of an address into the TLB, and reports whether
// translated code finds it there.
func (h *Hart) refill(va, size uint64, stores bool) bool {
	if va&(size-1) != 0 {
		return false
	}
	acc, vpage := load, va&^mem.PageMask
	if stores {
		acc = store
	}
	if _, ok := h.translate(va, acc); !ok || h.resample {
		return false
	}
	if stores {
		return h.ctx.write[writeIndex(vpage)].tag == vpage
	}
	return h.ctx.read[readIndex(vpage)].tag == vpage
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
// hot. Where it is translated as part of a region that it does not begin, such
// as behind an interrupt, it has to be hotter.
func (s *System) heat(cp *codePage, off uint64) heat {
	if cp.heat == nil {
		cp.heat = new([mem.PageSize / 2]uint8)
	}
	n, hot := &cp.heat[off>>1], jit.HotAfter
	if cp.native != nil && cp.native.Copied(off) {
		hot *= 8
	}
	if *n == cold {
		return untranslatable
	}
	if *n++; *n < hot {
		return warming
	}
	*n = cold
	if cp.entry[off>>1] == 0 && s.decode(cp, off) == 0 { // it straddles two pages
		return untranslatable
	}
	if s.jit.Full() {
		s.dropNative()
		cp.heat = new([mem.PageSize / 2]uint8)
	}
	if cp.native == nil {
		cp.native = jit.NewPage()
	}
	if s.jit.Translate(cp.native, uint16(off), cp) {
		return translatedNow
	}
	return untranslatable
}

// cold is the heat of a block that was tried.
const cold = 255

// Decoded implements jit.Source.
func (cp *codePage) Decoded(to []jit.Inst, off uint16) []jit.Inst {
	entry := cp.entry[off>>1]
	if entry == 0 {
		return to
	}
	insts := cp.insts[entry-1:]
	for i := range insts[:insts[0].left] {
		in := &insts[i]
		to = append(to, jit.Inst{Op: in.op, Off: in.off, Imm: in.imm, Rd: in.rd, Rs1: in.rs1, Rs2: in.rs2, Len: in.len, Rs3: in.rs3, RM: in.rm})
	}
	return to
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
