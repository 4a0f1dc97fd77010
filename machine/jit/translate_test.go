// SPDX-License-Identifier: Apache-2.0

package jit

import (
	"math/rand/v2"
	"testing"

	"tandem/machine/riscv"
)

// straight is a page of loads and sums, with a branch back after every so many.
type straight struct{ loop int }

func (s straight) Decoded(to []Inst, off uint16) []Inst {
	for n := 0; n < maxBlock && off < pageSize-4; n++ {
		in := Inst{Op: riscv.LW, Off: off, Len: 4, Rd: uint8(5 + off>>2%8), Rs1: 2, Imm: int32(off >> 2 % 64)}
		switch i := int(off >> 2); {
		case i%s.loop == s.loop-1:
			in = Inst{Op: riscv.BNE, Off: off, Len: 4, Rd: Sink, Rs1: 5, Rs2: 6, Imm: int32(-4 * (s.loop - 1))}
		case i%2 == 0:
			in = Inst{Op: riscv.ADDW, Off: off, Len: 4, Rd: uint8(5 + i%8), Rs1: uint8(6 + i%7), Rs2: 7}
		}
		to, off = append(to, in), off+4
	}
	return to
}

// BenchmarkTranslate is the time that a guest stands still for its largest regions.
func BenchmarkTranslate(b *testing.B) {
	for name, loop := range map[string]int{"straight": 1000, "loops of 10": 10, "loops of 100": 100} {
		b.Run(name, func(b *testing.B) {
			c := NewCache(make([]byte, MinCache), 0, Layout{ReadPairs: 8192, WritePairs: 12288, VPage: 400, Off: 404, Reason: 408})
			insts := 0
			for b.Loop() {
				c.used = c.first
				before := c.Stats.Insts
				if !c.Translate(NewPage(), 0, straight{loop}) {
					b.Fatal("no region")
				}
				insts = int(c.Stats.Insts - before)
			}
			b.ReportMetric(float64(insts), "instructions")
		})
	}
}

// tangle is a page of sums and branches to anywhere in it.
type tangle struct {
	seed  uint64
	insts []Inst
}

func newTangle(seed uint64) tangle {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var insts []Inst
	for off := uint16(0); off < pageSize; off += 4 {
		in := Inst{Op: riscv.ADD, Off: off, Len: 4, Rd: 5, Rs1: 6, Rs2: 7}
		switch rnd.IntN(8) {
		case 0:
			in = Inst{Op: riscv.BEQ, Off: off, Len: 4, Rd: Sink, Rs1: 5, Imm: int32(rnd.IntN(pageSize/4))*4 - int32(off)}
		case 1:
			if rnd.IntN(8) == 0 {
				in = Inst{Op: riscv.JALR, Off: off, Len: 4, Rd: Sink, Rs1: 1}
			}
		}
		insts = append(insts, in)
	}
	return tangle{seed, insts}
}

func (s tangle) Decoded(to []Inst, off uint16) []Inst {
	for _, in := range s.insts[off/4:] {
		to = append(to, in)
		if len(to) > maxRegion+maxBlock || ends(in.Op) {
			break
		}
	}
	return to
}

// However much a region leaves out of what its branches lead to, no instruction is in
// it twice, and a branch to one of its blocks is the last of its own: it gives back no
// steps.
func TestSplit(t *testing.T) {
	full := false
	for seed := range uint64(300) {
		f := former{knows: func(*Inst) bool { return true }}
		src := newTangle(seed)
		for head := uint16(0); head < pageSize; head += 256 {
			if !f.form(NewPage(), head, src) {
				continue
			}
			full = full || len(f.insts) >= maxRegion
			seen := map[uint16]bool{}
			for i := range f.blocks {
				b := &f.blocks[i]
				for j := range b.insts {
					in := &b.insts[j]
					if seen[in.Off] {
						t.Fatalf("seed %d, head %#x: %#x is there twice", seed, head, in.Off)
					}
					seen[in.Off] = true
					if to, ok := target(in); ok && f.at[to>>1] != 0 && j != len(b.insts)-1 {
						t.Fatalf("seed %d, head %#x: the branch at %#x to the block at %#x does not end its own", seed, head, in.Off, to)
					}
				}
			}
		}
	}
	if !full {
		t.Error("no region was full")
	}
}

// A rotation in two shifts becomes one instruction, whose parts are made where the
// block is left before they are overwritten.
func TestLazy(t *testing.T) {
	insts := []Inst{
		{Op: riscv.SLLIW, Rd: 5, Rs1: 10, Imm: 7},
		{Op: riscv.LW, Rd: 6, Rs1: 2},
		{Op: riscv.SRLIW, Rd: 7, Rs1: 10, Imm: 25},
		{Op: riscv.OR, Rd: 8, Rs1: 5, Rs2: 7},
		{Op: riscv.SW, Rd: Sink, Rs1: 2, Rs2: 8},
		{Op: riscv.ADDI, Rd: 5}, {Op: riscv.ADDI, Rd: 7}, {Op: riscv.ADDI, Rd: 8},
	}
	how := make([]treatment, len(insts))
	l := block{insts: insts, how: how}
	new(lazy).plan(&l)
	if rotate := insts[3]; rotate.Op != riscv.RORIW || rotate.Rs1 != 10 || rotate.Imm != 25 || !how[0].skip || !how[2].skip || !how[3].raw {
		t.Fatalf("%+v, %+v", insts, how)
	}
	for at, want := range [][]Inst{
		1: {insts[0]}, // before the load
		4: {insts[0], insts[2], // before the store
			{Op: riscv.ADDIW, Rd: 8, Rs1: 8}},
		6: {insts[2], {Op: riscv.ADDIW, Rd: 8, Rs1: 8}},
		8: nil,
	} {
		got := l.repair(nil, at)
		if len(got) != len(want) && want != nil {
			t.Errorf("before %d: %+v, want %+v", at, got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("before %d: %+v, want %+v", at, got[i], want[i])
			}
		}
	}
	if got := l.repair(nil, len(insts)); len(got) != 0 {
		t.Errorf("at the end: %+v", got)
	}
}
