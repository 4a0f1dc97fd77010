// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// walkInfo remembers what was translated through a page of RAM, so that a store
// to that page forgets no more than it must.
type walkInfo struct {
	gen    uint32
	level  uint8
	top    bool  // it was the root
	stores uint8 // since the page was last walked
	many   bool  // as table of more than one range, or level
	any    bool  // by more than one satp
	base   uint64
	satp   uint64
}

// maxWalkStores is how many stores to a leaf table in a row, with no walk in
// between, make it likely that it is one no longer.
const maxWalkStores = 64

// noteWalk remembers that a translation of va under satp read page p.
func (s *System) noteWalk(p mem.PFN, level uint8, top bool, va, satp uint64) {
	base := uint64(0)
	if !top {
		base = va >> (21 + 9*level) << (21 + 9*level)
	}
	w := &s.walks[p]
	if w.gen != s.walkGen {
		// What the upper halves of several roots lead to serves them all.
		*w = walkInfo{gen: s.walkGen, level: level, top: top, base: base, satp: satp, any: int64(base) < 0}
		s.RAM.AddNote(p, mem.Walk)
		s.dropFills(p)
	} else {
		w.many = w.many || w.level != level || w.base != base || w.top != top
		w.any = w.any || w.satp != satp
	}
	w.stores = 0
}

// WalkWritten implements mem.Watcher. Only a valid entry can have been used:
// making a new mapping drops nothing.
func (s *System) WalkWritten(p mem.PFN, off, n uint64) (keep bool) {
	w := &s.walks[p]
	if w.gen != s.walkGen {
		return false
	}
	page := uint64(p) << mem.PageShift
	for i := off &^ 7; i < off+n; i += 8 {
		if s.RAM.Ptr().Load64(page+i)&riscv.PTEV == 0 {
			continue
		}
		switch {
		case w.many:
			s.flushAll()
			return false
		case w.level > 0:
			if !s.dropTable(w, i) {
				w.gen = 0
				return false
			}
		default:
			s.dropMapped(w, w.base+i<<9)
		}
	}
	if w.stores++; w.stores < maxWalkStores || w.level > 0 {
		return true
	}
	for i := range uint64(mem.PageSize / 8) {
		s.dropMapped(w, w.base+i<<12)
	}
	w.gen = 0
	return false
}

// serves reports whether a context may have been filled through a table.
func (w *walkInfo) serves(c *context) bool { return c.live && (w.any || c.key.satp == w.satp) }

// dropMapped forgets what a leaf table maps at a virtual page.
func (s *System) dropMapped(w *walkInfo, vpage uint64) {
	for _, h := range s.Harts {
		for i := range h.contexts {
			if c := &h.contexts[i]; w.serves(c) {
				c.drop(vpage)
			}
		}
		h.resample = true
	}
}

// dropTable forgets the half of the address space that an entry of a table that
// is no leaf is in, and reports whether the page is to be watched still: a root
// as long as it may have served the other half.
func (s *System) dropTable(w *walkInfo, off uint64) (keep bool) {
	upper := int64(w.base) < 0
	if w.top {
		upper = off >= mem.PageSize/2
	}
	for _, h := range s.Harts {
		for i := range h.contexts {
			c := &h.contexts[i]
			switch {
			case !w.serves(c):
			case upper:
				h.flush(c)
			default:
				c.clearLow()
				keep = keep || w.top
			}
		}
		h.resample = true
	}
	return keep
}

// dropPage forgets the translations of one virtual page in all address spaces.
func (s *System) dropPage(vpage uint64) {
	for _, h := range s.Harts {
		for i := range h.contexts {
			if h.contexts[i].live {
				h.contexts[i].drop(vpage)
			}
		}
		h.resample = true
	}
}
