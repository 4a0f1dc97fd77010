// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"encoding/binary"

	"tandem/machine/jit/amd64"
)

// slowAccess is what an access does whose page is not the one that its base
// register was used for last; it is written behind the region.
type slowAccess struct {
	slow, back amd64.Label
	base       amd64.Reg // of the address
	imm        int32
	give       int32
	fix        fix
	off        uint16
	pair       int32 // its place among Pairs
	size       int32
	store      bool
	float      bool
}

// lookup finds the host's memory of the access at rs1+imm, or leaves the block
// before the instruction. tmp3 is free then.
func (t *translator) lookup(in *Inst, i int, size int32, store bool) amd64.Mem {
	base := t.get(in.Rs1, tmp2)
	t.recent = 0
	a := slowAccess{t.NewLabel(), t.NewLabel(), base, in.Imm, int32(t.n - i), t.fixFor(i), in.Off, t.pairOf(in.Rs1), size, store, t.fp.live()}
	t.add(tmp3, base, in.Imm)
	t.pageBits(size)
	pair := t.pair(&a)
	t.RM(amd64.CMP, amd64.S64, tmp3, pair)
	t.Jcc(amd64.NE, a.slow)
	t.Bind(a.back)
	pair.Disp += 8
	t.Load(amd64.S64, tmp, pair)
	t.slow = append(t.slow, a)
	return amd64.Mem{Base: tmp, Index: base, Scale: 1, Disp: in.Imm}
}

// point is lookup for several accesses to one place: tmp points there, tmp2 and
// tmp3 are free.
func (t *translator) point(in *Inst, i int, size int32, store bool) {
	t.Lea(amd64.S64, tmp, t.lookup(in, i, size, store))
}

// pointed is where that is.
var pointed = amd64.At(tmp, 0)

// add is to = from + n.
func (t *translator) add(to, from amd64.Reg, n int32) {
	if n == 0 {
		t.Mov(amd64.S64, to, from)
		return
	}
	t.Lea(amd64.S64, to, amd64.At(from, n))
}

// pageBits makes a page of the address in tmp3, with bits that make a misaligned
// address no page at all.
func (t *translator) pageBits(size int32) {
	t.RI(amd64.AND, amd64.S64, tmp3, -pageSize|(size-1))
}

// pair is where the last page of a base register is.
func (t *translator) pair(a *slowAccess) amd64.Mem {
	at := t.layout.ReadPairs
	if a.store {
		at = t.layout.WritePairs
	}
	return amd64.At(tlb, at+a.pair*16)
}

// writeSlow looks into the TLB for what the pairs did not have.
func (t *translator) writeSlow() {
	l := &t.layout
	for i := range t.slow {
		a := &t.slow[i]
		array, entries := l.Read, l.ReadEntries
		if a.store {
			array, entries = l.Write, l.WriteEntries
		}
		again, miss, pair := t.NewLabel(), t.NewLabel(), t.pair(a)
		t.Bind(a.slow)
		t.add(tmp, a.base, a.imm)
		t.Bind(again)
		t.Mov(amd64.S64, tmp2, tmp) // (va>>12 ^ va>>26) * 16
		t.ShiftI(amd64.SHR, amd64.S64, tmp2, 14)
		t.RR(amd64.XOR, amd64.S64, tmp2, tmp)
		t.ShiftI(amd64.SHR, amd64.S64, tmp2, pageShift-4)
		t.RI(amd64.AND, amd64.S32, tmp2, (entries-1)<<4)
		entry := amd64.Mem{Base: tlb, Index: tmp2, Scale: 1, Disp: array}
		t.RM(amd64.CMP, amd64.S64, tmp3, entry)
		t.JccShort(amd64.NE, miss)
		t.Store(amd64.S64, pair, tmp3)
		entry.Disp += 8
		t.Load(amd64.S64, tmp2, entry)
		t.RM(amd64.ADD, amd64.S64, tmp2, t.word(l.RAM))
		pair.Disp += 8
		t.Store(amd64.S64, pair, tmp2)
		t.StoreImm(amd64.S8, amd64.At(tlb, l.Paired), 1)
		if a.base == tmp2 {
			t.add(tmp2, tmp, -a.imm)
		}
		t.Jmp(a.back)

		t.Bind(miss)
		t.StoreImm(amd64.S32, t.word(l.Site), int32(t.firstSite)+int32(len(t.sites)))
		if a.float {
			t.jumpShared(func(s *thunks) int { return s.missFloat })
		} else {
			t.jumpShared(func(s *thunks) int { return s.miss })
		}
		s := site{resume: uint32(len(t.Code)), size: uint8(a.size), store: a.store, float: a.float}
		t.Mov(amd64.S64, tmp3, tmp)
		t.pageBits(a.size)
		t.Jmp(again)
		s.quit = uint32(len(t.Code))
		t.giveBack(a.give)
		t.repair(a.fix)
		t.quit(int32(a.off))
		t.sites = append(t.sites, s)
	}
}

func (t *translator) load(in *Inst, i int) {
	how := loads[in.Op]
	host := t.lookup(in, i, how.size, false)
	dst := t.home[in.Rd]
	if dst == none {
		dst = tmp
	}
	switch {
	case how.size == 8:
		t.Load(amd64.S64, dst, host)
	case how.signed:
		t.LoadSX(sizeOf(how.size), amd64.S64, dst, host)
	case how.size == 4:
		t.Load(amd64.S32, dst, host)
	default:
		t.LoadZX(sizeOf(how.size), dst, host)
	}
	if dst == tmp {
		t.put(in.Rd, tmp)
	}
}

func (t *translator) store(in *Inst, i int) {
	size := storeSize[in.Op]
	host := t.lookup(in, i, size, true)
	t.Store(sizeOf(size), host, t.get(in.Rs2, tmp3))
}

// zero clears a cache block, where the privilege may (Zicboz).
func (t *translator) zero(in *Inst, i int) {
	t.allowed(t.layout.ZeroOK, t.out(in, i))
	t.point(in, i, 1, true)
	t.RI(amd64.AND, amd64.S64, tmp, -64)
	for at := int32(0); at < 64; at += 8 {
		t.StoreImm(amd64.S64, amd64.At(tmp, at), 0)
	}
}

// held are the host registers that keep their values during a miss.
var held = func() (r []amd64.Reg) {
	for _, f := range fixed {
		r = append(r, f.host)
	}
	return append(r, spares[:]...)
}()

// writeThunks puts what all translations share at the head of the cache.
func (c *Cache) writeThunks() {
	t := &c.tr
	l := &t.layout
	t.Reset()
	save := func(i int) amd64.Mem { return t.word(l.Save + int32(i)*8) }
	c.thunks.enter = len(t.Code)
	for _, f := range fixed {
		t.Load(amd64.S64, f.host, x(f.guest))
	}
	t.JmpM(t.word(l.Target))
	c.thunks.leave = len(t.Code)
	for _, f := range fixed {
		t.Store(amd64.S64, x(f.guest), f.host)
	}
	t.Ret()
	c.thunks.missFloat = len(t.Code)
	for x := firstKept; x < 16; x++ {
		t.StoreX(amd64.S64, save(len(held)+x-firstKept), amd64.Xmm(x))
	}
	c.thunks.miss = len(t.Code)
	for i, r := range held {
		t.Store(amd64.S64, save(i), r)
	}
	t.Store(amd64.S64, t.word(l.Address), tmp)
	t.StoreImm(amd64.S32, t.word(l.Reason), int32(Miss))
	t.Ret()
	c.thunks.resumeFloat = len(t.Code)
	for x := firstKept; x < 16; x++ {
		t.LoadX(amd64.S64, amd64.Xmm(x), save(len(held)+x-firstKept))
	}
	off := t.NewLabel()
	t.MI(amd64.CMP, amd64.S32, t.word(l.Float.WasOn), 0)
	t.JccShort(amd64.E, off)
	t.computeAsGuest()
	t.Bind(off)
	c.thunks.resume = len(t.Code)
	for i, r := range held {
		t.Load(amd64.S64, r, save(i))
	}
	t.Load(amd64.S64, tmp, t.word(l.Address))
	t.JmpM(t.word(l.Target))
	c.used = (copy(c.rw, t.Code) + 15) &^ 15
}

// jumpBytes is the size of what patchJump writes.
const jumpBytes = 4

// patchJump points the jump with its rel32 at place to an offset in the Cache.
func patchJump(rw []byte, place, to int32) {
	binary.LittleEndian.PutUint32(rw[place:], uint32(to-(place+jumpBytes)))
}
