// SPDX-License-Identifier: Apache-2.0

package jit

import "tandem/machine/jit/native"

// HotAfter is how often a block is interpreted before it is translated. Tests
// set it to 1, so that all code is translated at once.
var HotAfter uint8 = 30

// Cache is the memory that translations live in. It is filled from one end to
// the other and then emptied as a whole.
type Cache struct {
	// Stats says how it is used.
	Stats Stats

	rw     []byte
	base   uintptr // of the executable view
	used   int
	sites  []site
	thunks thunks
	tr     translator
	first  int // where regions begin, behind the thunks
	last   int // where the latest region begins
}

// Sizes of a Cache in bytes. A smaller one would be emptied for every few regions;
// a larger one has places that a jump of some host cannot reach (arm64: ±128 MiB).
const (
	MinCache = 512 << 10
	MaxCache = 128 << 20
)

// site is an access to memory that may miss the TLB: where translated code goes
// on once the TLB has the page, and where it leaves instead.
type site struct {
	resume, quit uint32
	size         uint8
	store        bool
	float        bool // floating-point state is in the host's registers
}

// Missed describes the access of a site: its size in bytes, whether it stores, and
// the addresses to resume at if the TLB has the page now and to quit at if the
// interpreter must execute it. Float says which way to Resume.
type Missed struct {
	Size          uint64
	Stores, Float bool
	Resume, Quit  uintptr
}

// thunks are the pieces that all translations share, as offsets in the Cache.
type thunks struct {
	enter  int // loads the fixed registers and goes to Target
	leave  int // stores them and returns
	miss   int // puts all registers by and returns
	resume int // loads those again and goes to Target

	missFloat, resumeFloat int // the same with floating-point registers
}

// entry is a place where a region can be entered.
type entry struct {
	off     uint16
	place   int
	replace bool // an older entry
}

// link is a jump to another region of the page.
type link struct {
	target uint16
	place  int // of the jump, as patchJump wants it
}

// sharedJump is a jump to a thunk.
type sharedJump struct {
	place int
	thunk func(*thunks) int
}

// Page holds the translations of one page of code.
type Page struct {
	entry   map[uint16]int32    // offset in the Cache, by that in the page
	heads   []uint16            // the offsets of entry
	waiting map[uint16][]int32  // jumps that wait for an entry: places as patchJump wants them
	copies  [pageSize / 2]uint8 // how often an instruction was translated, by halfword
}

// NewPage returns a Page without translations.
func NewPage() *Page { return &Page{entry: map[uint16]int32{}, waiting: map[uint16][]int32{}} }

const pageSize = 4096

// NewCache returns a Cache in memory with a writable and an executable view of
// the same bytes.
func NewCache(rw []byte, rx uintptr, l Layout) *Cache {
	c := &Cache{rw: rw, base: rx}
	c.tr.layout = l
	c.tr.former.knows = c.tr.knows
	c.writeThunks()
	c.first = c.used
	return c
}

// Full reports whether the next region might not fit: then the owner drops all
// Pages and calls Reset.
func (c *Cache) Full() bool { return len(c.rw)-c.used < maxRegionBytes }

// Reset empties the cache. No Page of it may be used again.
func (c *Cache) Reset() {
	c.sites = c.sites[:0]
	c.writeThunks()
	c.Stats.Resets++
}

// Enter is the address to run to go to a translation; Target says where to.
func (c *Cache) Enter() uintptr { return c.base + uintptr(c.thunks.enter) }

// Resume is the address to run to go on after a miss.
func (c *Cache) Resume(float bool) uintptr {
	if float {
		return c.base + uintptr(c.thunks.resumeFloat)
	}
	return c.base + uintptr(c.thunks.resume)
}

// Entry returns the address of the translation at an offset of the page, or 0.
func (c *Cache) Entry(p *Page, off uint64) uintptr {
	if at, ok := p.entry[uint16(off)]; ok {
		return c.base + uintptr(at)
	}
	return 0
}

// Heads are the offsets that have an Entry.
func (p *Page) Heads() []uint16 { return p.heads }

// Copied reports whether the instruction at an offset is translated, as part of a
// region that begins elsewhere or as its first.
func (p *Page) Copied(off uint64) bool { return p.copies[off>>1&2047] != 0 }

// Missed describes the access of a site that missed.
func (c *Cache) Missed(n uint32) Missed {
	s := c.sites[n]
	return Missed{uint64(s.size), s.store, s.float, c.base + uintptr(s.resume), c.base + uintptr(s.quit)}
}

// Translate makes the region of a head, and reports whether there is one: not
// where the first instructions are the interpreter's.
func (c *Cache) Translate(p *Page, head uint16, src Source) bool {
	if !c.tr.former.form(p, head, src) {
		return false
	}
	at := c.used
	code, ok := c.tr.region(head, uint32(len(c.sites)))
	if !ok || len(code) > len(c.rw)-at {
		return false
	}
	c.Stats.Regions++
	c.last = at
	copy(c.rw[at:], code)
	c.flush(at, len(code))
	c.used = (at + len(code) + 15) &^ 15
	for _, j := range c.tr.shared {
		c.patch(int32(at+j.place), int32(j.thunk(&c.thunks)))
	}
	for _, s := range c.tr.sites {
		s.resume, s.quit = s.resume+uint32(at), s.quit+uint32(at)
		c.sites = append(c.sites, s)
	}
	for _, e := range c.tr.entries {
		c.enter(p, e.off, int32(at+e.place), e.off == head)
	}
	for _, l := range c.tr.links {
		place := int32(at + l.place)
		if to, ok := p.entry[l.target]; ok {
			c.Stats.Chained++
			c.patch(place, to)
		} else {
			p.waiting[l.target] = append(p.waiting[l.target], place)
		}
	}
	for i := range c.tr.former.blocks {
		for _, in := range c.tr.former.blocks[i].insts {
			c.Stats.Insts++
			if n := &p.copies[in.Off>>1]; *n < maxCopies {
				*n++
			}
		}
	}
	return true
}

// enter makes translated code at an offset of the page known, in the place of
// older code if it is the head of a region or part of its loop.
func (c *Cache) enter(p *Page, off uint16, at int32, replace bool) {
	_, known := p.entry[off]
	if known && !replace {
		return
	}
	if !known {
		p.heads = append(p.heads, off)
	}
	p.entry[off] = at
	places := p.waiting[off]
	c.Stats.Chained += uint64(len(places))
	for _, place := range places {
		c.patch(place, at)
	}
	delete(p.waiting, off)
}

// patch points the jump at place to an offset in the Cache.
func (c *Cache) patch(place, to int32) {
	patchJump(c.rw, place, to)
	c.flush(int(place), jumpBytes)
}

// flush makes n bytes of code be fetched as they are now.
func (c *Cache) flush(at, n int) { native.Flush(c.base+uintptr(at), n) }
