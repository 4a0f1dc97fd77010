// SPDX-License-Identifier: Apache-2.0

// Package mem is guest RAM, with a note on every page that says whether a
// store to it can go unnoticed.
//
// A store is fast only while its page's note is zero. Five things set a note:
// instructions were decoded from the page (Code), a page table walk read an
// entry from it (Walk), somebody who collects written pages has not seen it
// written yet (CleanHash, and Copied for a Copy), its bytes are to be handed on as
// they are (Frozen), or a bare-metal program talks to the machine by it
// (Host). A store to a noted page takes the slow
// way through Touch, which tells the Watcher and clears what it can. So no
// cache of decoded instructions or of translations is ever older than memory,
// whatever the guest stores and wherever a device writes (design: no cache of
// ours is visible to the guest).
package mem

import (
	"tandem/machine/state"
)

// Base is the physical address of the first byte of RAM on QEMU's virt board.
const Base = 0x8000_0000

// Page geometry.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
	PageMask  = PageSize - 1
)

// PFN is a page frame number: the index of a page of RAM, from 0.
type PFN uint32

// Note is the set of reasons why a store to a page must be noticed.
type Note uint8

const (
	Code      Note = 1 << iota // instructions were decoded from it
	Walk                       // a page table walk read it
	CleanHash                  // not written since its last hash
	Host                       // holds a program's tohost: every store is told to the machine
	Copied                     // not written since a Copy handed it on
	Frozen                     // to be handed on by a Copy as it was
)

// Watcher hears of stores to pages noted Code or Walk, before they are made.
type Watcher interface {
	// CodeWritten drops all instructions decoded from the page.
	CodeWritten(p PFN)
	// WalkWritten drops all translations made from the bytes [off, off+n) of
	// the page, and reports whether the page still has to be watched.
	WalkWritten(p PFN, off, n uint64) (keep bool)
	// HostWritten hears that [off, off+n) of RAM, in a page noted Host, is stored to.
	HostWritten(off, n uint64)
	// DropWrites forgets which pages may be stored to unnoticed.
	DropWrites()
}

// RAM is the memory of one machine.
type RAM struct {
	bytes   []byte
	base    Ptr
	notes   []Note
	watcher Watcher

	dirty []PFN // pages written since their last hash, in order of their first store
	scrub PFN   // the next page of the round over all of RAM
	copy  *Copy // under way, or nil

	release func(off, n uint64) // or nil: see OnRelease
}

// New wraps b, whose length is a multiple of the page size, as RAM. The bytes
// must stay where they are for the life of the RAM.
func New(b []byte, w Watcher) *RAM {
	if len(b) == 0 || len(b)%PageSize != 0 {
		panic("mem: RAM is not a whole number of pages")
	}
	r := &RAM{bytes: b, base: pointer(b), notes: make([]Note, len(b)/PageSize), watcher: w}
	for p := range r.notes {
		r.notes[p] = CleanHash
	}
	return r
}

// Size returns the number of bytes.
func (r *RAM) Size() uint64 { return uint64(len(r.bytes)) }

// Pages returns the number of pages.
func (r *RAM) Pages() PFN { return PFN(len(r.notes)) }

// Ptr returns the address of the first byte, for offsets that Offset has checked.
func (r *RAM) Ptr() Ptr { return r.base }

// Offset returns the place of [pa, pa+n) in RAM.
func (r *RAM) Offset(pa, n uint64) (off uint64, ok bool) {
	off = pa - Base
	size := uint64(len(r.bytes))
	return off, off < size && n <= size-off
}

// Page returns the bytes of a page. They must not be changed but through Write.
func (r *RAM) Page(p PFN) []byte { return r.bytes[int(p)<<PageShift:][:PageSize:PageSize] }

// Note returns the page's note.
func (r *RAM) Note(p PFN) Note { return r.notes[p] }

// AddNote adds to a page's note. Whoever adds must also see to it that no fast
// store to the page remains possible.
func (r *RAM) AddNote(p PFN, n Note) { r.notes[p] |= n }

// Touch prepares a store of n bytes at RAM offset off, which may cross a page.
// Afterwards fast stores are allowed if the page's note is zero.
func (r *RAM) Touch(off, n uint64) {
	for n > 0 {
		p, in := PFN(off>>PageShift), off&PageMask
		k := min(n, PageSize-in)
		if r.notes[p] != 0 {
			r.touch(p, in, k)
		}
		off, n = off+k, n-k
	}
}

func (r *RAM) touch(p PFN, off, n uint64) {
	note := r.notes[p]
	if note&Code != 0 {
		r.notes[p] &^= Code
		r.watcher.CodeWritten(p)
	}
	if note&Walk != 0 && !r.watcher.WalkWritten(p, off, n) {
		r.notes[p] &^= Walk
	}
	if note&Host != 0 {
		r.watcher.HostWritten(uint64(p)<<PageShift+off, n)
	}
	if note&CleanHash != 0 {
		r.dirty = append(r.dirty, p)
	}
	if note&(Copied|Frozen) != 0 {
		r.copy.touch(p, note)
	}
	r.notes[p] &^= CleanHash | Copied | Frozen
}

// Read copies RAM at physical address pa to b.
func (r *RAM) Read(pa uint64, b []byte) bool {
	off, ok := r.Offset(pa, uint64(len(b)))
	if ok {
		copy(b, r.bytes[off:])
	}
	return ok
}

// Write copies b to RAM at physical address pa: how devices and loaders store.
func (r *RAM) Write(pa uint64, b []byte) bool {
	off, ok := r.Offset(pa, uint64(len(b)))
	if ok {
		r.Touch(off, uint64(len(b)))
		copy(r.bytes[off:], b)
	}
	return ok
}

// OnRelease sets what is told of parts of RAM that hold nothing any more, so that the host
// can have their memory. It must leave them zero.
func (r *RAM) OnRelease(f func(off, n uint64)) { r.release = f }

// Release makes the page at physical address pa zero, as a store of zeros would.
func (r *RAM) Release(pa uint64) bool {
	off, ok := r.Offset(pa, PageSize)
	if !ok || off&PageMask != 0 {
		return false
	}
	r.Touch(off, PageSize)
	clear(r.bytes[off : off+PageSize])
	if r.release != nil {
		r.release(off, PageSize)
	}
	return true
}

// Choose picks the pages that one hash entry covers: at most budget pages that
// were written since their last hash, oldest first, and then scrub pages of a
// round over all of RAM. They count as clean from here on.
func (r *RAM) Choose(budget, scrub int) []PFN {
	n := min(budget, len(r.dirty))
	pages := append([]PFN(nil), r.dirty[:n]...)
	r.dirty = append(r.dirty[:0], r.dirty[n:]...)
	for _, p := range pages {
		r.notes[p] |= CleanHash
	}
	if n > 0 {
		r.watcher.DropWrites()
	}
	for range min(scrub, int(r.Pages())) {
		pages = append(pages, r.scrub)
		r.scrub = (r.scrub + 1) % r.Pages()
	}
	return pages
}

// State visits what Choose depends on, but not the pages: whoever moves a
// machine moves those by Page and SetPage.
func (r *RAM) State(c *state.Coder) {
	size := r.Size()
	if state.U64(c, &size); size != r.Size() {
		c.Fail("RAM is %d bytes, this machine has %d", size, r.Size())
		return
	}
	state.U32(c, &r.scrub)
	if r.scrub >= r.Pages() {
		r.scrub = 0
		c.Fail("scrub position is outside RAM")
	}
	state.List(c, &r.dirty, int(r.Pages()), func(p *PFN) { state.U32(c, p) })
	if c.Loading() {
		r.restoreNotes(c)
	}
}

// restoreNotes sets the notes that the list of written pages implies.
func (r *RAM) restoreNotes(c *state.Coder) {
	for p := range r.notes {
		r.notes[p] |= CleanHash
	}
	for _, p := range r.dirty {
		if p >= r.Pages() {
			c.Fail("page %d is outside RAM", p)
			r.dirty = nil
			return
		}
		r.notes[p] &^= CleanHash
	}
}

// Dirty returns how many written pages wait for their hash.
func (r *RAM) Dirty() int { return len(r.dirty) }
