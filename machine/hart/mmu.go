// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// access is what a translation is for.
type access uint8

const (
	fetch access = iota
	load
	store
)

// pageFault and accessFault give the cause by access (Priv. table 14).
var (
	pageFault   = [...]riscv.Cause{riscv.FetchPageFault, riscv.LoadPageFault, riscv.StorePageFault}
	accessFault = [...]riscv.Cause{riscv.FetchAccess, riscv.LoadAccess, riscv.StoreAccess}
)

// flushAll forgets every translation of all harts, and so all marks on page
// table pages.
func (s *System) flushAll() {
	for _, h := range s.Harts {
		h.flushContexts()
	}
	s.walkGen++
	s.fillGen++
}

// DropWrites implements mem.Watcher.
func (s *System) DropWrites() {
	for _, h := range s.Harts {
		for i := range h.contexts {
			if h.contexts[i].live {
				h.contexts[i].clearWrites()
			}
		}
		h.resample = true
	}
	s.fillGen++
}

// fillInfo remembers where a page of RAM has write entries, so that they can be
// taken back when the page gets a note.
type fillInfo struct {
	gen   uint32
	many  bool // at more than one virtual page
	vpage uint64
}

func (s *System) noteFill(p mem.PFN, vpage uint64) {
	f := &s.fills[p]
	if f.gen != s.fillGen {
		*f = fillInfo{gen: s.fillGen, vpage: vpage}
	} else if f.vpage != vpage {
		f.many = true
	}
}

// dropFills takes back the write entries of a page of RAM.
func (s *System) dropFills(p mem.PFN) {
	f := &s.fills[p]
	switch {
	case f.gen != s.fillGen:
	case f.many:
		s.DropWrites()
	default:
		s.dropPage(f.vpage)
	}
	f.gen = 0
}

// walkPath is the page table pages that one walk read, from the root down.
type walkPath struct {
	n     int
	pages [5]mem.PFN
	level [5]uint8
}

// mode is the virtual-memory scheme of satp: the number of levels, 0 for Bare.
func levels(satp uint64) int {
	switch satp >> 60 {
	case 8:
		return 3
	case 9:
		return 4
	case 10:
		return 5
	}
	return 0
}

// translate returns the physical address of va for acc by privilege priv and
// fills the TLB of the present context, or records a fault.
func (h *Hart) translate(va uint64, acc access) (pa uint64, ok bool) {
	priv, mxr := h.priv, h.mstatus&riscv.StatusMXR != 0
	special := false // what the context does not stand for
	if acc != fetch {
		if h.mstatus&riscv.StatusMPRV != 0 && h.priv == riscv.Machine {
			priv, special = riscv.Privilege(h.mstatus>>11&3), true
		}
		special = special || mxr
	}
	n := 0
	if priv != riscv.Machine {
		n = levels(h.satp)
	}
	pa = va
	var path walkPath
	if n > 0 {
		if pa, ok = h.walk(va, n, priv, acc, mxr, &path); !ok {
			return 0, false
		}
	}
	if !h.pmp.allows(pa, 1, acc, priv) {
		return 0, h.fail(accessFault[acc], va)
	}
	if !special {
		h.fill(va, pa, acc, priv, &path)
	}
	return pa, true
}

// fail records an exception.
func (h *Hart) fail(cause riscv.Cause, tval uint64) bool {
	h.fault = fault{cause, tval}
	return false
}

// walk is the algorithm of Priv. 11.3.2 with Svadu, Svnapot and Svpbmt.
func (h *Hart) walk(va uint64, n int, priv riscv.Privilege, acc access, mxr bool, path *walkPath) (uint64, bool) {
	width := uint(12 + 9*n)
	if int64(va)<<(64-width)>>(64-width) != int64(va) {
		return 0, h.fail(pageFault[acc], va)
	}
	table := h.satp & (1<<44 - 1) << 12
	for level := n - 1; level >= 0; level-- {
		shift := uint(12 + 9*level)
		addr := table + va>>shift&511*8
		off, ok := h.sys.RAM.Offset(addr, 8)
		if !ok || !h.pmp.allows(addr, 8, load, riscv.Supervisor) {
			return 0, h.fail(accessFault[acc], va)
		}
		pte := h.ram.Load64(off)
		path.pages[path.n], path.level[path.n] = mem.PFN(off>>mem.PageShift), uint8(level)
		path.n++
		if pte&riscv.PTEV == 0 || pte&(riscv.PTER|riscv.PTEW) == riscv.PTEW || !h.reservedOK(pte, level) {
			return 0, h.fail(pageFault[acc], va)
		}
		if pte&(riscv.PTER|riscv.PTEX) != 0 {
			return h.leaf(va, off, pte, level, priv, acc, mxr)
		}
		if pte&(riscv.PTEA|riscv.PTED|riscv.PTEU|riscv.PTEN|riscv.PTEPBMT) != 0 {
			return 0, h.fail(pageFault[acc], va)
		}
		table = pte >> 10 & (1<<44 - 1) << 12
	}
	return 0, h.fail(pageFault[acc], va)
}

// reservedOK checks the reserved bits and encodings of a PTE.
func (h *Hart) reservedOK(pte uint64, level int) bool {
	if pte&riscv.PTEReserved != 0 {
		return false
	}
	if pbmt := pte & riscv.PTEPBMT; pbmt != 0 && (h.menvcfg&riscv.EnvPBMTE == 0 || pbmt == riscv.PTEPBMT) {
		return false
	}
	return pte&riscv.PTEN == 0 || level == 0 && pte>>10&15 == 8 // 64 KiB is the only NAPOT size
}

// leaf checks the permissions of a leaf PTE, sets A and D and forms the address.
func (h *Hart) leaf(va, off, pte uint64, level int, priv riscv.Privilege, acc access, mxr bool) (uint64, bool) {
	perm := [...]uint64{fetch: riscv.PTEX, load: riscv.PTER, store: riscv.PTEW}[acc]
	if acc == load && mxr {
		perm |= riscv.PTEX
	}
	user := pte&riscv.PTEU != 0
	ok := pte&perm != 0
	if priv == riscv.User {
		ok = ok && user
	} else if user {
		ok = ok && acc != fetch && h.mstatus&riscv.StatusSUM != 0
	}
	ppn := pte >> 10 & (1<<44 - 1)
	low := uint64(1)<<(9*level) - 1
	if !ok || ppn&low != 0 {
		return 0, h.fail(pageFault[acc], va)
	}
	need := riscv.PTEA
	if acc == store {
		need |= riscv.PTED
	}
	if pte&need != need {
		if h.menvcfg&riscv.EnvADUE == 0 {
			return 0, h.fail(pageFault[acc], va)
		}
		if !h.pmp.allows(mem.Base+off, 8, store, riscv.Supervisor) {
			return 0, h.fail(accessFault[acc], va)
		}
		h.sys.RAM.Touch(off, 8)
		h.ram.Store64(off, pte|need)
	}
	if pte&riscv.PTEN != 0 {
		ppn = ppn&^15 | va>>12&15
	}
	return (ppn&^low|va>>12&low)<<12 | va&mem.PageMask, true
}

// fill enters a translation into the TLB where every byte of the page is RAM
// and subject to one and the same PMP rule.
func (h *Hart) fill(va, pa uint64, acc access, priv riscv.Privilege, path *walkPath) {
	vpage, page := va&^mem.PageMask, pa&^mem.PageMask
	off, ok := h.sys.RAM.Offset(page, mem.PageSize)
	if !ok || !h.pmp.uniform(page) {
		return
	}
	s, p := h.sys, mem.PFN(off>>mem.PageShift)
	if acc == store {
		// First: a store to a table that is walked here may drop all marks.
		s.RAM.Touch(pa-mem.Base, 1)
	}
	for i := range path.n {
		s.noteWalk(path.pages[i], path.level[i], i == 0, vpage, h.satp)
	}
	h.ctx.note(vpage)
	switch acc {
	case load:
		h.ctx.read[readIndex(vpage)] = tlbEntry{vpage, off - vpage}
	case fetch:
		e := &h.ctx.exec[vpage>>12%execEntries]
		if e.page != nil && e.tag != vpage {
			h.ctx.dropJumps(e.tag, e.page)
		}
		*e = execEntry{vpage, s.codePage(p)}
	case store:
		if s.RAM.Note(p) == 0 {
			h.ctx.write[writeIndex(vpage)] = tlbEntry{vpage, off - vpage}
			s.noteFill(p, vpage)
		}
	}
}

// fetchPage returns the decoded page that holds pc, or nil where there is none
// that a block could stand for: then the one instruction at pc is in scratch,
// or a fault was recorded (ok false).
func (h *Hart) fetchPage(pc uint64) (cp *codePage, ok bool) {
	vpage := pc &^ mem.PageMask
	e := &h.ctx.exec[vpage>>12%execEntries]
	if e.tag == vpage && e.page != nil && e.page.live {
		return e.page, true
	}
	if _, ok := h.translate(pc, fetch); !ok {
		return nil, false
	}
	if e.tag == vpage && e.page != nil && e.page.live {
		return e.page, true
	}
	return nil, h.fetchOne(pc)
}

// fetchOne puts the instruction at pc into scratch: one that crosses a page, or
// lies in ROM or in a page with several PMP rules.
func (h *Hart) fetchOne(pc uint64) bool {
	low, ok := h.fetch16(pc, pc)
	if !ok {
		return false
	}
	w, length := uint32(low), uint8(2)
	if low&3 == 3 {
		high, ok := h.fetch16(pc+2, pc)
		if !ok {
			return false
		}
		w, length = w|uint32(high)<<16, 4
	}
	in := makeInst(w, length, pc&mem.PageMask)
	in.left = 1
	h.scratch.insts[0] = in
	return true
}

// fetch16 fetches a halfword of the instruction that begins at pc.
func (h *Hart) fetch16(va, pc uint64) (uint16, bool) {
	if e := &h.ctx.exec[va>>12%execEntries]; e.tag == va&^mem.PageMask && e.page != nil {
		return h.ram.Load16(uint64(e.page.pfn)<<mem.PageShift | va&mem.PageMask), true
	}
	pa, ok := h.translate(va, fetch)
	if !ok {
		return 0, false
	}
	if !h.pmp.allows(pa, 2, fetch, h.priv) {
		return 0, h.fail(riscv.FetchAccess, va)
	}
	if off, ok := h.sys.RAM.Offset(pa, 2); ok {
		return h.ram.Load16(off), true
	}
	v, ok := h.sys.Bus.Load(pa, 2)
	if !ok {
		return 0, h.fail(riscv.FetchAccess, va)
	}
	return uint16(v), true
}

// readValue loads size bytes at va the slow way: any alignment, any place.
func (h *Hart) readValue(va uint64, size uint64) (v uint64, ok bool) {
	if va&mem.PageMask > mem.PageSize-size {
		return h.readAcross(va, size)
	}
	pa, ok := h.translate(va, load)
	if !ok {
		return 0, false
	}
	if size > 1 && !h.pmp.allows(pa, size, load, h.dataPrivilege()) {
		return 0, h.fail(riscv.LoadAccess, va)
	}
	if off, ok := h.sys.RAM.Offset(pa, size); ok {
		return h.loadRAM(off, size), true
	}
	if pa&(size-1) == 0 {
		if v, ok := h.sys.Bus.Load(pa, int(size)); ok {
			return v, true
		}
	}
	return 0, h.fail(riscv.LoadAccess, va)
}

// readAcross loads a value that crosses a page, byte by byte.
func (h *Hart) readAcross(va, size uint64) (v uint64, ok bool) {
	for i := range size {
		b, ok := h.readValue(va+i, 1)
		if !ok {
			return 0, false
		}
		v |= b << (8 * i)
	}
	return v, true
}

// writeValue stores size bytes at va the slow way. A store that crosses a page
// checks both before it writes to either.
func (h *Hart) writeValue(va, size, v uint64) bool {
	if va&mem.PageMask > mem.PageSize-size {
		if _, ok := h.translate(va, store); !ok {
			return false
		}
		if _, ok := h.translate(va+size-1, store); !ok {
			h.fault.tval = (va + size - 1) &^ mem.PageMask
			return false
		}
		for i := range size {
			if !h.writeValue(va+i, 1, v>>(8*i)) {
				return false
			}
		}
		return true
	}
	pa, ok := h.translate(va, store)
	if !ok {
		return false
	}
	if size > 1 && !h.pmp.allows(pa, size, store, h.dataPrivilege()) {
		return h.fail(riscv.StoreAccess, va)
	}
	if off, ok := h.sys.RAM.Offset(pa, size); ok {
		h.sys.RAM.Touch(off, size)
		h.storeRAM(off, size, v)
		return true
	}
	if pa&(size-1) == 0 {
		if size < 8 {
			v &= 1<<(8*size) - 1
		}
		if h.sys.Bus.Store(pa, int(size), v) {
			h.resample = true
			return true
		}
	}
	return h.fail(riscv.StoreAccess, va)
}

// modifiesPrivilege reports whether loads and stores have another privilege than
// the hart (MPRV): no context stands for that.
func (h *Hart) modifiesPrivilege() bool {
	return h.priv == riscv.Machine && h.mstatus&riscv.StatusMPRV != 0
}

// dataPrivilege is the privilege of loads and stores (MPRV).
func (h *Hart) dataPrivilege() riscv.Privilege {
	if h.mstatus&riscv.StatusMPRV != 0 && h.priv == riscv.Machine {
		return riscv.Privilege(h.mstatus >> 11 & 3)
	}
	return h.priv
}

func (h *Hart) loadRAM(off, size uint64) uint64 {
	switch size {
	case 1:
		return uint64(h.ram.Load8(off))
	case 2:
		return uint64(h.ram.Load16(off))
	case 4:
		return uint64(h.ram.Load32(off))
	}
	return h.ram.Load64(off)
}

func (h *Hart) storeRAM(off, size, v uint64) {
	switch size {
	case 1:
		h.ram.Store8(off, uint8(v))
	case 2:
		h.ram.Store16(off, uint16(v))
	case 4:
		h.ram.Store32(off, uint32(v))
	default:
		h.ram.Store64(off, v)
	}
}

// HostWritten implements mem.Watcher.
func (s *System) HostWritten(off, n uint64) {
	s.OnHost(off, n)
	for _, h := range s.Harts {
		h.resample = true
	}
}

var _ mem.Watcher = (*System)(nil)
