// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/jit"
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// A context is the TLB of one address space seen with one privilege: arrays
// that are indexed by the virtual page number. Translations never outlive what
// they were made from, so a context is as good as new after any time away, and
// sfence.vma has nothing to do.
type context struct {
	key     contextKey
	live    bool
	used    bool // ever: a new one must be cleared as a whole
	age     uint32
	read    [readEntries]tlbEntry
	write   [writeEntries]tlbEntry
	exec    [execEntries]execEntry
	jumps   [jit.JumpEntries]jumpEntry
	jumping bool // jumps has entries

	// The page that each base register was last used for, by translated code.
	readPairs, writePairs [jit.Pairs]pair
	paired                bool // there are any

	low, high filled // pages of either half of the address space that were filled in
}

// filled lists virtual pages, so that a TLB in which little was used is cheap to
// clear. One may be listed twice.
type filled struct {
	n     int // more than len(pages) if not all are listed
	pages [512]uint64
}

// half is the list for a virtual page.
func (c *context) half(vpage uint64) *filled {
	if int64(vpage) < 0 {
		return &c.high
	}
	return &c.low
}

// note remembers that a page was filled in.
func (c *context) note(vpage uint64) {
	f := c.half(vpage)
	if f.n < len(f.pages) {
		f.pages[f.n] = vpage
	}
	f.n = min(f.n+1, len(f.pages)+1)
}

func (f *filled) all() bool { return f.n <= len(f.pages) }

const (
	numContexts  = 16
	readEntries  = 16384
	writeEntries = 4096
	execEntries  = 1024
)

// readIndex and writeIndex are the places of an address; arrays that lie a power
// of two apart, as large ones do, must not have the same.
func readIndex(va uint64) uint64  { return (va>>12 ^ va>>26) % readEntries }
func writeIndex(va uint64) uint64 { return (va>>12 ^ va>>26) % writeEntries }

type contextKey struct {
	satp uint64
	priv riscv.Privilege
	sum  bool
}

// tlbEntry maps a virtual page to RAM: RAM offset = virtual address + add.
type tlbEntry struct {
	tag uint64 // page-aligned virtual address, or noTag
	add uint64
}

// pair is like a tlbEntry, but leads to the host's memory.
type pair struct{ tag, add uint64 }

type execEntry struct {
	tag  uint64
	page *codePage
}

// noTag equals no virtual address masked for comparison: bit 3 is always cleared there.
const noTag = 8

// clear forgets everything.
func (c *context) clear() {
	if c.used && c.low.all() && c.high.all() {
		c.clearHalf(&c.low)
		c.clearHalf(&c.high)
		return
	}
	c.used = true
	for i := range c.read {
		c.read[i].tag = noTag
	}
	c.paired = true
	c.clearWrites()
	c.exec = [execEntries]execEntry{}
	c.clearJumps()
	c.low.n, c.high.n = 0, 0
}

// clearLow forgets the lower half of the address space.
func (c *context) clearLow() {
	if c.low.all() {
		c.clearHalf(&c.low)
	} else {
		c.clear()
	}
}

func (c *context) clearHalf(f *filled) {
	for _, vpage := range f.pages[:f.n] {
		c.drop(vpage)
	}
	f.n = 0
}

func (c *context) clearPairs() {
	if !c.paired {
		return
	}
	for i := range c.readPairs {
		c.readPairs[i].tag, c.writePairs[i].tag = noTag, noTag
	}
	c.paired = false
}

func (c *context) clearWrites() {
	c.clearPairs()
	for i := range c.write {
		c.write[i].tag = noTag
	}
}

// drop forgets the translation of one virtual page.
func (c *context) drop(vpage uint64) {
	if e := &c.read[readIndex(vpage)]; e.tag == vpage {
		e.tag = noTag
	}
	if e := &c.write[writeIndex(vpage)]; e.tag == vpage {
		e.tag = noTag
	}
	if e := &c.exec[vpage>>12%execEntries]; e.tag == vpage && e.page != nil {
		c.dropJumps(vpage, e.page)
		e.page = nil
	}
	c.clearPairs()
}

// useContext finds the context of the present privilege and address space.
func (h *Hart) useContext() {
	h.resample = true
	key := contextKey{satp: h.satp, priv: h.priv}
	if h.priv == riscv.Machine {
		key.satp = 0
	}
	if h.priv == riscv.Supervisor {
		key.sum = h.mstatus&riscv.StatusSUM != 0
	}
	h.age++
	if h.ctx != nil && h.ctx.live && h.ctx.key == key {
		h.ctx.age = h.age
		h.nearby(h.ctx)
		return
	}
	for _, c := range h.native.near {
		if c != nil {
			c.age = h.age
		}
	}
	oldest := &h.contexts[0]
	for i := range h.contexts {
		c := &h.contexts[i]
		if c.live && c.key == key {
			c.age = h.age
			h.ctx = c
			h.nearby(c)
			return
		}
		if !c.live {
			c.age = 0
		}
		if c.age < oldest.age {
			oldest = c
		}
	}
	if c := h.moved(key); c != nil {
		c.age, h.ctx = h.age, c
		h.nearby(c)
		return
	}
	h.forgetNear(oldest)
	oldest.clear()
	oldest.key, oldest.live, oldest.age = key, true, h.age
	h.ctx = oldest
	h.nearby(oldest)
}

// moved makes the supervisor's context of another address space that of key, if
// the upper halves of both are the same: those entries of the two root tables
// are equal, and what they lead to is one and the same. A kernel keeps its own
// translations from process to process that way.
func (h *Hart) moved(key contextKey) *context {
	if key.priv != riscv.Supervisor {
		return nil
	}
	root, ok := h.rootTable(key.satp)
	if !ok {
		return nil
	}
	for i := range h.contexts {
		c := &h.contexts[i]
		if !c.live || c.key.priv != key.priv || c.key.sum != key.sum || c.key.satp>>60 != key.satp>>60 {
			continue
		}
		if old, ok := h.rootTable(c.key.satp); !ok || !h.sameUpper(old, root) {
			continue
		}
		h.forgetNear(c)
		c.clearLow()
		c.key = key
		h.sys.noteWalk(mem.PFN(root>>mem.PageShift), uint8(levels(key.satp)-1), true, 0, key.satp)
		return c
	}
	return nil
}

// rootTable is the offset in RAM of the root page table.
func (h *Hart) rootTable(satp uint64) (off uint64, ok bool) {
	if levels(satp) == 0 {
		return 0, false
	}
	return h.sys.RAM.Offset(satp&(1<<44-1)<<mem.PageShift, mem.PageSize)
}

// sameUpper compares the upper halves of two root tables.
func (h *Hart) sameUpper(a, b uint64) bool {
	for i := uint64(mem.PageSize / 2); i < mem.PageSize; i += 8 {
		if h.ram.Load64(a+i) != h.ram.Load64(b+i) {
			return false
		}
	}
	return true
}

// flush forgets a context. The present one is emptied, and no other looked for: the
// store that asks for it is yet to be made, and memory still what it was.
func (h *Hart) flush(c *context) {
	if h.ctx == c {
		c.clear()
	} else {
		h.forgetNear(c)
		c.live = false
	}
	h.resample = true
}

// flushContexts forgets every translation of this hart.
func (h *Hart) flushContexts() {
	for i := range h.contexts {
		h.contexts[i].live = false
	}
	h.forgetNear(nil)
	h.ctx = nil
	h.useContext()
}
