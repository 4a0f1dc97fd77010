// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"math/bits"

	"tandem/machine/jit/arm64"
)

// tlbBias is where register tlb points, from the pairs of reads, so that all of
// them are within reach of a load of two words: -512 to 504.
const tlbBias = 504

// inTLB is the offset from register tlb of what Layout says of a TLB.
func (t *translator) inTLB(off int32) int32 { return off - t.layout.ReadPairs - tlbBias }

// slowAccess is what an access does whose page is not the one that its base
// register was used for last; it is written behind the region.
type slowAccess struct {
	slow, back arm64.Label
	address    arm64.Reg
	give       int32
	fix        fix
	off        uint16
	pair       int32 // its place among Pairs
	size       int32
	store      bool
	computing  bool       // floating point is as the guest wants it
	kept       keptFloats // in vector registers
}

// lookup finds the host's memory of the access at rs1+imm, or leaves the block
// before the instruction. tmp3 and tmp4 are free then.
func (t *translator) lookup(in *Inst, i int, size int32, store bool) arm64.Mem {
	address := t.base(in.Rs1, tmp)
	if in.Imm != 0 {
		t.add(tmp, address, int64(in.Imm))
		address = tmp
	}
	a := slowAccess{t.NewLabel(), t.NewLabel(), address, int32(t.n - i), t.fixFor(i), in.Off, t.pairOf(in.Rs1), size, store,
		t.fp.level == computing, t.fp.kept}
	t.pageOf(address, size)
	if pair := t.pair(&a); pairFits(pair) {
		t.LoadPair(arm64.S64, tmp4, tmp2, pair)
	} else {
		t.Load(arm64.S64, tmp4, pair)
		pair.Disp += 8
		t.Load(arm64.S64, tmp2, pair)
	}
	t.Cmp(arm64.S64, tmp4, tmp3)
	t.BCond(arm64.NE, a.slow)
	t.Bind(a.back)
	t.slow = append(t.slow, a)
	return arm64.Mem{Base: address, Index: tmp2, Mode: arm64.Indexed}
}

// pageOf puts the page of an address into tmp3, with bits that make a misaligned
// address no page at all.
func (t *translator) pageOf(address arm64.Reg, size int32) {
	t.RRI(arm64.AND, arm64.S64, tmp3, address, int64(-pageSize|(size-1)))
}

// pair is where the last page of a base register is.
func (t *translator) pair(a *slowAccess) arm64.Mem {
	at := t.layout.ReadPairs
	if a.store {
		at = t.layout.WritePairs
	}
	return arm64.At(tlb, t.inTLB(at+a.pair*16))
}

// pairFits says whether both words are within reach of one instruction.
func pairFits(m arm64.Mem) bool { return m.Disp >= -512 && m.Disp <= 504 }

// writeSlow looks into the TLB for what the pairs did not have. The address is in
// tmp then, its page in tmp3.
func (t *translator) writeSlow() {
	l := &t.layout
	for i := range t.slow {
		a := &t.slow[i]
		array, entries := l.Read, l.ReadEntries
		if a.store {
			array, entries = l.Write, l.WriteEntries
		}
		miss, again := t.NewLabel(), t.NewLabel()
		t.Bind(a.slow)
		if a.address != tmp {
			t.Mov(arm64.S64, tmp, a.address)
		}
		t.Bind(again)
		t.RRS(arm64.EOR, arm64.S64, tmp2, tmp, tmp, arm64.LSR, 14) // (va>>12 ^ va>>26) * 16
		t.Field(arm64.UBFX, arm64.S64, tmp2, tmp2, pageShift, uint(bits.TrailingZeros32(uint32(entries))))
		t.RRS(arm64.ADD, arm64.S64, tmp2, tlb, tmp2, arm64.LSL, 4)
		t.LoadPair(arm64.S64, tmp4, tmp2, t.near(tmp2, t.inTLB(array)))
		t.Cmp(arm64.S64, tmp4, tmp3)
		t.BCond(arm64.NE, miss)
		t.word(arm64.S64, tmp4, l.RAM)
		t.RRR(arm64.ADD, arm64.S64, tmp2, tmp2, tmp4)
		if pair := t.pair(a); pairFits(pair) {
			t.StorePair(arm64.S64, pair, tmp3, tmp2)
		} else {
			t.Store(arm64.S64, pair, tmp3)
			pair.Disp += 8
			t.Store(arm64.S64, pair, tmp2)
		}
		t.MovImm(tmp4, 1)
		t.Store(arm64.S8, t.at(arm64.S8, tlb, t.inTLB(l.Paired)), tmp4)
		t.B(a.back)

		t.Bind(miss)
		t.MovImm(tmp2, uint64(t.firstSite)+uint64(len(t.sites)))
		t.jumpShared(func(s *thunks) int { return s.miss })
		s := site{resume: uint32(len(t.Code)), size: uint8(a.size), store: a.store, float: a.computing}
		t.reload(&a.kept)
		t.pageOf(tmp, a.size)
		t.B(again)
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
	dst := t.into(in.Rd)
	if how.signed {
		t.LoadSX(sizeOf(how.size), arm64.S64, dst, host)
	} else {
		t.Load(sizeOf(how.size), dst, host)
	}
	t.put(in.Rd, dst)
}

func (t *translator) store(in *Inst, i int) {
	size := storeSize[in.Op]
	host := t.lookup(in, i, size, true)
	t.Store(sizeOf(size), host, t.get(in.Rs2, tmp3))
}

// zero clears a cache block, where the privilege may (Zicboz).
func (t *translator) zero(in *Inst, i int) {
	t.allowed(t.layout.ZeroOK, t.out(in, i))
	host := t.lookup(in, i, 1, true)
	t.RRR(arm64.ADD, arm64.S64, tmp, host.Base, host.Index)
	t.RRI(arm64.AND, arm64.S64, tmp, tmp, -64)
	for at := int32(0); at < 64; at += 16 {
		t.StorePair(arm64.S64, arm64.At(tmp, at), arm64.ZR, arm64.ZR)
	}
}

// writeThunks puts what all translations share at the head of the cache. The
// host registers of fixed keep their values during a miss.
func (c *Cache) writeThunks() {
	t := &c.tr
	l := &t.layout
	t.Reset()
	save := func(i int) int32 { return l.Save + int32(i)*8 }
	c.thunks.enter = len(t.Code)
	for _, f := range fixed {
		t.Load(arm64.S64, f.host, x(f.guest))
	}
	t.pointTLB()
	t.word(arm64.S64, tmp2, l.Target)
	t.Br(tmp2)
	c.thunks.leave = len(t.Code)
	for _, f := range fixed {
		t.Store(arm64.S64, x(f.guest), f.host)
	}
	t.Ret()
	c.thunks.miss = len(t.Code)
	for i, f := range fixed {
		t.set(arm64.S64, save(i), f.host)
	}
	t.set(arm64.S64, l.Address, tmp)
	t.set(arm64.S32, l.Site, tmp2)
	t.setImm(arm64.S32, l.Reason, uint64(Miss))
	t.Ret()
	c.thunks.resumeFloat = len(t.Code)
	t.computeAsGuest()
	c.thunks.resume = len(t.Code)
	for i, f := range fixed {
		t.word(arm64.S64, f.host, save(i))
	}
	t.pointTLB()
	t.word(arm64.S64, tmp, l.Address)
	t.word(arm64.S64, tmp2, l.Target)
	t.Br(tmp2)
	c.used = (copy(c.rw, t.Code) + 15) &^ 15
	c.flush(0, c.used)
}

// pointTLB makes register tlb, which has the base of a TLB, what it is in
// translated code.
func (t *translator) pointTLB() { t.add(tlb, tlb, int64(t.layout.ReadPairs+tlbBias)) }

// jumpBytes is the size of what patchJump writes.
const jumpBytes = 4

// patchJump points the jump at place to an offset in the Cache. The Cache is
// smaller than the 128 MiB that it reaches.
func patchJump(rw []byte, place, to int32) { arm64.PatchB(rw, arm64.Patch(place), int(to)) }
