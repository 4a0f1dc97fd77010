// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/mem"
	"tandem/machine/riscv"
	"tandem/machine/state"
)

// pmp is the physical memory protection unit (Priv. 3.7): 16 entries, 4-byte grain.
type pmp struct {
	cfg  [pmpEntries]uint8
	addr [pmpEntries]uint64

	// Derived: entry i covers [lo, hi).
	lo, hi [pmpEntries]uint64
	last   int // entries in use: 1 + the last that is not off
}

const pmpEntries = 16

// Fields of pmpcfg.
const (
	pmpR, pmpW, pmpX = 1, 2, 4
	pmpA             = 3 << 3
	pmpTOR           = 1 << 3
	pmpNA4           = 2 << 3
	pmpNAPOT         = 3 << 3
	pmpL             = 1 << 7
)

// allowAll opens all of memory to S and U.
func (p *pmp) allowAll() {
	*p = pmp{}
	p.cfg[0], p.addr[0] = pmpNAPOT|pmpR|pmpW|pmpX, 1<<54-1
	p.derive()
}

func (p *pmp) derive() {
	p.last = 0
	for i := range p.cfg {
		p.lo[i], p.hi[i] = 0, 0
		switch p.cfg[i] & pmpA {
		case pmpTOR:
			if i > 0 {
				p.lo[i] = p.addr[i-1] << 2
			}
			if p.hi[i] = p.addr[i] << 2; p.hi[i] <= p.lo[i] {
				p.lo[i], p.hi[i] = 0, 0 // matches nothing
			}
		case pmpNA4:
			p.lo[i], p.hi[i] = p.addr[i]<<2, p.addr[i]<<2+4
		case pmpNAPOT:
			size := (p.addr[i] ^ (p.addr[i] + 1)) + 1 // in units of 4 bytes
			p.lo[i] = (p.addr[i] &^ (size - 1)) << 2
			p.hi[i] = p.lo[i] + size<<2
		}
		if p.cfg[i]&pmpA != 0 {
			p.last = i + 1
		}
	}
}

// allows checks [pa, pa+n) for one access: the lowest entry that touches any
// byte decides, and must cover all of them.
func (p *pmp) allows(pa, n uint64, acc access, priv riscv.Privilege) bool {
	for i := range p.last {
		if pa >= p.hi[i] || pa+n <= p.lo[i] {
			continue
		}
		if pa < p.lo[i] || pa+n > p.hi[i] {
			return false
		}
		if priv == riscv.Machine && p.cfg[i]&pmpL == 0 {
			return true
		}
		return p.cfg[i]&[...]uint8{fetch: pmpX, load: pmpR, store: pmpW}[acc] != 0
	}
	return priv == riscv.Machine
}

// uniform reports whether one rule holds for the whole page.
func (p *pmp) uniform(page uint64) bool {
	for i := range p.last {
		if page+mem.PageSize <= p.lo[i] || page >= p.hi[i] {
			continue
		}
		return page >= p.lo[i] && page+mem.PageSize <= p.hi[i]
	}
	return true
}

// writeCfg writes one byte of pmpcfg; locked entries keep their value, and the
// reserved combination W without R is not taken.
func (p *pmp) writeCfg(i int, v uint8) {
	if p.cfg[i]&pmpL != 0 || v&(pmpR|pmpW) == pmpW {
		return
	}
	p.cfg[i] = v & (pmpL | pmpA | pmpX | pmpW | pmpR)
}

// writeAddr writes pmpaddr; a locked TOR entry above locks it too.
func (p *pmp) writeAddr(i int, v uint64) {
	next := i + 1
	if p.cfg[i]&pmpL != 0 || next < pmpEntries && p.cfg[next]&(pmpL|pmpA) == pmpL|pmpTOR {
		return
	}
	p.addr[i] = v & (1<<54 - 1)
}

func (p *pmp) state(c *state.Coder) {
	for i := range p.cfg {
		state.U8(c, &p.cfg[i])
		state.U64(c, &p.addr[i])
	}
	if c.Loading() {
		p.derive()
	}
}
