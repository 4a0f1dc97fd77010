// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"tandem/machine/jit"
	"tandem/machine/mem"
	"tandem/machine/riscv"
)

// inst is a decoded instruction as the interpreter wants it: 16 bytes.
type inst struct {
	op           riscv.Op
	off          uint16 // in its page
	imm          int32
	rd, rs1, rs2 uint8
	rs3, rm      uint8
	len          uint8 // 2 or 4 bytes
	left         uint8 // instructions from here to the end of the block, this one included
}

// codePage is what was decoded from one page of RAM. A block is a run of
// consecutive insts; each halfword of the page is decoded at most once.
type codePage struct {
	pfn   mem.PFN
	live  bool     // false once the page was stored to
	entry *entries // never nil
	insts []inst

	native *jit.Page                // translated, nil if nothing is
	heat   *[mem.PageSize / 2]uint8 // executions of a block by the interpreter
}

// entries are places in a page's insts, plus 1, by halfword.
type entries [mem.PageSize / 2]uint16

// noEntries are those of a page of which nothing is decoded, for reading.
var noEntries entries

// maxInsts bounds what is decoded: 16 bytes each and 4 KiB a page that has any. With a
// translator the interpreter runs only what is cold, and can do with less.
const (
	maxInsts      = 2 << 20
	maxInstsByJIT = 256 << 10
	maxCodePages  = 8 << 10
	maxBlock      = 128
)

// codeCache holds the decoded pages, by page of RAM.
type codeCache struct {
	pages []*codePage
	live  []mem.PFN // pages that are not nil, some of them no longer
	insts int
}

// page returns the decoded page p, new and empty if there is none.
func (s *System) codePage(p mem.PFN) *codePage {
	if cp := s.code.pages[p]; cp != nil {
		return cp
	}
	if len(s.code.live) > maxCodePages {
		s.dropCode()
	}
	cp := &codePage{pfn: p, live: true, entry: &noEntries}
	s.code.pages[p] = cp
	s.code.live = append(s.code.live, p)
	s.RAM.AddNote(p, mem.Code)
	s.dropFills(p)
	return cp
}

// dropCode empties the cache.
func (s *System) dropCode() {
	for _, p := range s.code.live {
		s.dropCodePage(p)
	}
	s.code.live, s.code.insts = s.code.live[:0], 0
}

func (s *System) dropCodePage(p mem.PFN) {
	if cp := s.code.pages[p]; cp != nil {
		cp.live = false
		s.code.pages[p] = nil
		if cp.native != nil {
			s.dropJumpsTo(cp)
		}
		for _, h := range s.Harts {
			h.resample = true
		}
	}
}

// Forget drops all that is cached. It changes nothing that a guest can notice;
// tests call it to show that.
func (s *System) Forget() {
	s.dropCode()
	s.flushAll()
}

// CodeWritten implements mem.Watcher.
func (s *System) CodeWritten(p mem.PFN) { s.dropCodePage(p) }

// ForgetDecoded drops what is decoded. What is translated stays.
func (s *System) ForgetDecoded() {
	for _, p := range s.code.live {
		if cp := s.code.pages[p]; cp != nil {
			cp.entry, cp.insts = &noEntries, nil
			if cp.native == nil {
				cp.heat = nil
			}
		}
	}
	s.code.insts = 0
}

// decode decodes the block at offset off of the page and returns its entry, or 0
// where the first instruction straddles two pages. It may drop all other entries.
func (s *System) decode(cp *codePage, off uint64) uint16 {
	if s.code.insts > maxInsts || s.jit != nil && s.code.insts > maxInstsByJIT {
		s.ForgetDecoded()
	}
	if cp.entry == &noEntries {
		cp.entry = new(entries)
	}
	base := uint64(cp.pfn) << mem.PageShift
	first := len(cp.insts)
	for n := 0; n < maxBlock && off < mem.PageSize && cp.entry[off>>1] == 0; n++ {
		in, ok := s.decodeAt(base, off)
		if !ok {
			break
		}
		cp.insts = append(cp.insts, in)
		cp.entry[off>>1] = uint16(len(cp.insts))
		off += uint64(in.len)
		if endsBlock(in.op) {
			break
		}
	}
	if len(cp.insts) == first {
		return 0
	}
	for i := first; i < len(cp.insts); i++ {
		cp.insts[i].left = uint8(len(cp.insts) - i)
	}
	s.code.insts += len(cp.insts) - first
	return uint16(first + 1)
}

// decodeAt decodes the instruction at RAM offset base+off. One that straddles
// two pages is in neither: it is decoded anew each time by fetchOne.
func (s *System) decodeAt(base, off uint64) (in inst, ok bool) {
	ram := s.RAM.Ptr()
	low := ram.Load16(base + off)
	switch {
	case low&3 != 3:
		return makeInst(uint32(low), 2, off), true
	case off == mem.PageSize-2:
		return inst{}, false
	}
	return makeInst(uint32(low)|uint32(ram.Load16(base+off+2))<<16, 4, off), true
}

// makeInst decodes an instruction word of 2 or 4 bytes.
func makeInst(w uint32, length uint8, off uint64) inst {
	raw := w
	if length == 2 {
		w = riscv.Expand(uint16(w))
	}
	d := riscv.Decode(w)
	in := inst{op: d.Op, off: uint16(off), imm: d.Imm, rd: d.Rd, rs1: d.Rs1, rs2: d.Rs2, rs3: d.Rs3, rm: d.RM, len: length}
	if d.Op == riscv.Illegal {
		in.imm = int32(raw)
	}
	if in.rd == 0 && !isFloat(d.Op) {
		in.rd = sink
	}
	return in
}

// isFloat reports whether rd may name a floating-point register.
func isFloat(op riscv.Op) bool { return op >= riscv.FLW && op <= riscv.FCVT_D_LU }

// endsBlock reports whether no instruction can follow in the same block.
func endsBlock(op riscv.Op) bool {
	switch op {
	case riscv.JAL, riscv.JALR, riscv.ECALL, riscv.EBREAK, riscv.SRET, riscv.MRET, riscv.WFI,
		riscv.Illegal, riscv.PAUSE, riscv.WRS_NTO, riscv.WRS_STO:
		return true
	}
	return false
}
