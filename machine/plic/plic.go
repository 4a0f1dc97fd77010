// SPDX-License-Identifier: Apache-2.0

// Package plic is the platform-level interrupt controller: it brings the
// devices' interrupt lines to the harts, one at a time and by priority.
//
//	line ──► gateway ──► pending ──► enabled? ──► highest priority ──► above threshold? ──► context
//	          ▲  └ busy from request to completion                            │
//	          └──────────────── complete ◄── handler ◄── claim ◄──────────────┘
//
// A gateway turns a level into one request: it sends the next only after a
// handler has completed the last, and only if the line is still high. A request
// once accepted stays pending even if its line falls (RISC-V PLIC
// Specification 1.0.0, "Interrupt Gateways"). Registers lie as in SiFive's PLIC
// and QEMU's virt; context 2h is M-mode of hart h, 2h+1 its S-mode.
package plic

import (
	"math/bits"

	"tandem/machine/bus"
	"tandem/machine/state"
)

const (
	// Sources is the number of the last interrupt source; 0 is no source.
	Sources = 95
	// Size of the register space in bytes.
	Size = 0x600000

	maxPriority = 7
	words       = (Sources + 32) / 32
	maxHarts    = (Size - contextBase) / contextStride / 2
)

// Register map (PLIC 3). All registers are 32 bits wide.
const (
	priorityBase  = 0      // one word per source
	pendingBase   = 0x1000 // one bit per source, read-only
	enableBase    = 0x2000 // one bit per source, per context
	enableStride  = 0x80
	contextBase   = 0x20_0000 // threshold and claim, per context
	contextStride = 0x1000
	thresholdReg  = 0
	claimReg      = 4
)

// PLIC is the controller. Its inputs are the lines of Source, its outputs the
// calls of the function given to New.
type PLIC struct {
	priority [Sources + 1]uint8
	level    set // the lines as the devices drive them
	pending  set // requests accepted and not yet claimed
	claimed  set // claimed and not yet completed
	contexts []context
	out      func(context int, level bool)
}

// set has one bit per source.
type set [words]uint32

func (s *set) has(id uint32) bool { return s[id/32]>>(id%32)&1 != 0 }
func (s *set) add(id uint32)      { s[id/32] |= 1 << (id % 32) }
func (s *set) remove(id uint32)   { s[id/32] &^= 1 << (id % 32) }

// context is one privilege mode of one hart that can take interrupts.
type context struct {
	enable    set
	threshold uint8
	raised    bool // what out was told last; follows from the rest
}

// New returns a controller for a number of harts, with all lines low. out is
// called whenever the external interrupt of a context rises or falls.
func New(harts int, out func(context int, level bool)) *PLIC {
	if harts < 1 || harts > maxHarts {
		panic("plic: number of harts")
	}
	return &PLIC{contexts: make([]context, 2*harts), out: out}
}

// Source returns the line of interrupt source id, from 1 to Sources.
func (p *PLIC) Source(id int) bus.Line {
	if id < 1 || id > Sources {
		panic("plic: no such interrupt source")
	}
	return line{p, uint32(id)}
}

type line struct {
	p  *PLIC
	id uint32
}

// Set drives the line; a level that it already has changes nothing.
func (l line) Set(level bool) {
	switch {
	case level == l.p.level.has(l.id):
		return
	case level:
		l.p.level.add(l.id)
	default:
		l.p.level.remove(l.id)
	}
	l.p.request(l.id)
	l.p.update()
}

// Load reads a register. A load of the claim register claims. Reserved words read as zero.
func (p *PLIC) Load(off uint64, size int) (uint64, bool) {
	if !word(off, size) {
		return 0, false
	}
	switch {
	case off < pendingBase:
		if id := (off - priorityBase) / 4; id <= Sources {
			return uint64(p.priority[id]), true
		}
	case off < enableBase:
		if w := (off - pendingBase) / 4; w < words {
			return uint64(p.pending[w]), true
		}
	case off < contextBase:
		if c, w := p.enableWord(off); c != nil {
			return uint64(c.enable[w]), true
		}
	default:
		if c := p.context((off - contextBase) / contextStride); c != nil {
			switch off % contextStride {
			case thresholdReg:
				return uint64(c.threshold), true
			case claimReg:
				return uint64(p.claim(c)), true
			}
		}
	}
	return 0, true
}

// Store writes a register. A store to the claim register completes. Stores to
// pending bits and reserved words are ignored.
func (p *PLIC) Store(off uint64, size int, v uint64) bool {
	if !word(off, size) {
		return false
	}
	switch {
	case off < pendingBase:
		if id := (off - priorityBase) / 4; id >= 1 && id <= Sources {
			p.priority[id] = uint8(v & maxPriority)
		}
	case off < enableBase:
	case off < contextBase:
		if c, w := p.enableWord(off); c != nil {
			c.enable[w] = uint32(v)
			c.enable.remove(0)
		}
	default:
		if c := p.context((off - contextBase) / contextStride); c != nil {
			switch off % contextStride {
			case thresholdReg:
				c.threshold = uint8(v & maxPriority)
			case claimReg:
				p.complete(c, uint32(v))
			}
		}
	}
	p.update()
	return true
}

// Reset returns to power-on. The lines keep the levels their devices give them,
// so a source that is high asks again.
func (p *PLIC) Reset() {
	p.priority = [Sources + 1]uint8{}
	p.pending, p.claimed = set{}, set{}
	for i := range p.contexts {
		p.contexts[i].enable = set{}
		p.contexts[i].threshold = 0
	}
	for id := uint32(1); id <= Sources; id++ {
		p.request(id)
	}
	p.update()
}

// State saves, loads or hashes the controller. Loading tells out every level.
func (p *PLIC) State(c *state.Coder) {
	for i := range p.priority {
		state.U8(c, &p.priority[i])
		check(c, p.priority[i])
	}
	for _, s := range []*set{&p.level, &p.pending, &p.claimed} {
		s.state(c)
	}
	for i := range p.contexts {
		p.contexts[i].enable.state(c)
		state.U8(c, &p.contexts[i].threshold)
		check(c, p.contexts[i].threshold)
	}
	if c.Loading() && c.Err() == nil {
		for i := range p.contexts {
			p.contexts[i].raised = p.above(&p.contexts[i])
			p.out(i, p.contexts[i].raised)
		}
	}
}

func (s *set) state(c *state.Coder) {
	for i := range s {
		state.U32(c, &s[i])
	}
	if s.has(0) {
		c.Fail("plic: source 0 in use")
	}
}

func check(c *state.Coder, priority uint8) {
	if priority > maxPriority {
		c.Fail("plic: priority %d", priority)
	}
}

func word(off uint64, size int) bool { return size == 4 && off%4 == 0 && off < Size }

// enableWord finds the context and the word of its enable bits at off.
func (p *PLIC) enableWord(off uint64) (*context, uint64) {
	w := (off - enableBase) % enableStride / 4
	if w >= words {
		return nil, 0
	}
	return p.context((off - enableBase) / enableStride), w
}

func (p *PLIC) context(i uint64) *context {
	if i >= uint64(len(p.contexts)) {
		return nil
	}
	return &p.contexts[i]
}

// request is the gateway of a source: it passes a high level on unless an
// earlier request is still to be completed.
func (p *PLIC) request(id uint32) {
	if p.level.has(id) && !p.claimed.has(id) {
		p.pending.add(id)
	}
}

// best finds the pending and enabled source of highest priority, the lowest
// number among equals. Priority 0 never interrupts (PLIC 4).
func (p *PLIC) best(c *context) (id uint32, priority uint8) {
	for w := range words {
		for m := p.pending[w] & c.enable[w]; m != 0; m &= m - 1 {
			i := uint32(w*32 + bits.TrailingZeros32(m))
			if p.priority[i] > priority {
				id, priority = i, p.priority[i]
			}
		}
	}
	return id, priority
}

func (p *PLIC) above(c *context) bool {
	_, priority := p.best(c)
	return priority > c.threshold
}

// claim takes the best source. The threshold decides only whether a context is
// notified, not what it may claim, so that a handler can poll (PLIC 8: a claim
// "is not affected by the setting of the priority threshold register"). QEMU differs there; Linux can't tell.
func (p *PLIC) claim(c *context) uint32 {
	id, _ := p.best(c)
	if id != 0 {
		p.pending.remove(id)
		p.claimed.add(id)
		p.update()
	}
	return id
}

// complete reopens a source's gateway. It is ignored unless the context has the
// source enabled; who claimed it is not checked (PLIC 9).
func (p *PLIC) complete(c *context, id uint32) {
	if id < 1 || id > Sources || !c.enable.has(id) {
		return
	}
	p.claimed.remove(id)
	p.request(id)
}

func (p *PLIC) update() {
	for i := range p.contexts {
		c := &p.contexts[i]
		if raised := p.above(c); raised != c.raised {
			c.raised = raised
			p.out(i, raised)
		}
	}
}
