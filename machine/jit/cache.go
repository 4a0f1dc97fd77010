// SPDX-License-Identifier: Apache-2.0

package jit

// HotAfter is how often a block is interpreted before it is translated. Tests
// set it to 1, so that all code is translated at once.
var HotAfter uint8 = 30

// Cache is the memory that translations live in. It is filled from one end to
// the other and then emptied as a whole.
type Cache struct {
	// Stats says how it is used.
	Stats Stats

	rw   []byte
	base uintptr // of the executable view
	used int
	tr   translator
}

// Stats counts what was done with a Cache.
type Stats struct {
	Units   uint64 // translated
	Resets  uint64 // times that it was emptied
	Entries uint64 // of translated code, from Go
	Steps   uint64 // executed by it
}

// Page holds the units of one page of code.
type Page struct {
	entry [2048]uint32       // 1 + offset in the Cache, by halfword
	links map[uint16][]int32 // jumps that wait for a unit, by its offset in the page: places of their rel32
}

// NewCache returns a Cache in memory with a writable and an executable view of
// the same bytes.
func NewCache(rw []byte, rx uintptr, l Layout) *Cache {
	return &Cache{rw: rw, base: rx, tr: translator{layout: l}}
}

// Full reports whether the next unit might not fit: then the owner drops all
// Pages and calls Reset.
func (c *Cache) Full() bool { return len(c.rw)-c.used < maxUnitBytes }

// Reset empties the cache. No Page of it may be used again.
func (c *Cache) Reset() {
	c.used = 0
	c.Stats.Resets++
}

// Entry returns the address of the unit at an offset of the page, or 0.
func (c *Cache) Entry(p *Page, off uint64) uintptr {
	if e := p.entry[off>>1&2047]; e != 0 {
		return c.base + uintptr(e-1)
	}
	return 0
}

// Translate makes the unit of a block, and reports whether there is one: not
// where the first instruction is the interpreter's.
func (c *Cache) Translate(p *Page, block []Inst) bool {
	code, out := c.tr.unit(block)
	if code == nil || len(code) > len(c.rw)-c.used {
		return false
	}
	c.Stats.Units++
	at := c.used
	copy(c.rw[at:], code)
	c.used += len(code)
	c.used = (c.used + 15) &^ 15
	off := block[0].Off
	p.entry[off>>1] = uint32(at) + 1
	if p.links == nil {
		p.links = map[uint16][]int32{}
	}
	for _, l := range out {
		place := int32(at + l.place)
		if e := p.entry[l.target>>1]; e != 0 {
			c.patch(place, int32(e-1))
		} else {
			p.links[l.target] = append(p.links[l.target], place)
		}
	}
	for _, place := range p.links[off] {
		c.patch(place, int32(at))
	}
	delete(p.links, off)
	return true
}

// patch points the jump with its rel32 at place to a unit.
func (c *Cache) patch(place, to int32) {
	rel := to - (place + 4)
	b := c.rw[place:]
	b[0], b[1], b[2], b[3] = byte(rel), byte(rel>>8), byte(rel>>16), byte(rel>>24)
}
