// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math"
	"math/rand/v2"

	"tandem/machine/riscv"
)

// group is a set of instructions that one case draws from.
type group struct {
	name  string
	first riscv.Op
	last  riscv.Op
	fill  func(g *generator, code []uint32) []uint32 // instead of first to last
}

// groups are the extensions that QEMU 7.2 knows. For Zicond see spec_test.go.
var groups = []group{
	{"RV64I", riscv.ADDI, riscv.SRAW, nil},
	{"RV64I memory", 0, 0, (*generator).memory},
	{"RV64I control", 0, 0, (*generator).control},
	{"M", riscv.MUL, riscv.REMUW, nil},
	{"A", 0, 0, (*generator).atomic},
	{"F", riscv.FMADD_S, riscv.FCVT_S_LU, nil},
	{"F flags", 0, 0, (*generator).flags},
	{"D", riscv.FMADD_D, riscv.FCVT_D_LU, nil},
	{"D near", 0, 0, (*generator).nearFloat},
	{"C", 0, 0, (*generator).compressed},
	{"Zba", riscv.ADD_UW, riscv.SLLI_UW, nil},
	{"Zbb", riscv.ANDN, riscv.REV8, nil},
	{"Zbc", riscv.CLMUL, riscv.CLMULH, nil},
	{"Zbs", riscv.BSET, riscv.BEXTI, nil},
}

const (
	casesPerGroup = 2000
	length        = 10         // instructions of a case at most
	returnWord    = 0x000f8067 // jr x31
)

// Registers with a fixed role: never a destination.
const (
	sp      = 2  // points to scratch memory
	s0      = 8  // likewise, for compressed instructions
	base    = 30 // likewise, at any alignment
	reserve = 31 // where the case returns to
)

type generator struct {
	*rand.Rand
	scratch uint64
}

func newGenerator(seed, scratch uint64) *generator {
	return &generator{rand.New(rand.NewPCG(seed, 0x7a6e)), scratch}
}

func (g *generator) newCase(gr group) testCase {
	var c testCase
	for i := 1; i < 31; i++ {
		c.X[i] = g.integer()
	}
	for i := range c.F {
		c.F[i] = g.float()
	}
	c.FCSR = uint64(g.IntN(5))<<5 | uint64(g.IntN(2)*g.IntN(32))
	c.X[sp], c.X[s0] = g.scratch, g.scratch+8*uint64(g.IntN(4))
	c.X[base] = g.scratch + 32 + uint64(g.IntN(64))
	code := c.Code[:0]
	if gr.fill != nil {
		code = gr.fill(g, code)
	} else {
		for range 1 + g.IntN(length) {
			code = g.add(code, g.pick(gr.first, gr.last))
		}
	}
	if g.IntN(4) == 0 && gr.first >= riscv.FMADD_S { // near-equal operands
		c.F[5] = c.F[4] ^ uint64(g.IntN(4))<<29
	}
	code = append(code, returnWord)
	return c
}

// pick draws an operation between first and last.
func (g *generator) pick(first, last riscv.Op) riscv.Op {
	return first + riscv.Op(g.IntN(int(last-first)+1))
}

// add appends an instruction of op. QEMU 7.2 counts ctzw of a register whose low
// half is zero into the high half, so ctzw gets one that is sign-extended.
func (g *generator) add(code []uint32, op riscv.Op) []uint32 {
	w := g.word(op)
	if op == riscv.CTZW {
		const x5 = 5
		code = append(code, 0x0000029b|w&(31<<15)) // addiw x5, rs1, 0
		w = w&^(31<<15) | x5<<15
	}
	return append(code, w)
}

// word makes an instruction of op with random operands.
func (g *generator) word(op riscv.Op) uint32 {
	match, mask := riscv.Encoding(op)
	for {
		w := match | g.Uint32()&^mask
		d := riscv.Decode(w)
		if d.Op != op || fixed(d.Rd) || riscv.FormatOf(op) == riscv.FormatU && g.IntN(2) == 0 {
			continue
		}
		return w
	}
}

// fixed reports whether a register has a role and must keep its value.
func fixed(rd uint8) bool { return rd == sp || rd == s0 || rd >= base }

func (g *generator) rd() uint32 {
	for {
		if r := uint8(g.IntN(32)); !fixed(r) {
			return uint32(r)
		}
	}
}

// memory mixes loads and stores of any alignment with a little arithmetic.
func (g *generator) memory(code []uint32) []uint32 {
	for range 1 + g.IntN(length) {
		switch g.IntN(5) {
		case 0, 1:
			op := []riscv.Op{riscv.LB, riscv.LH, riscv.LW, riscv.LD, riscv.LBU, riscv.LHU, riscv.LWU, riscv.FLW, riscv.FLD}[g.IntN(9)]
			match, _ := riscv.Encoding(op)
			code = append(code, match|g.rd()<<7|base<<15|uint32(g.IntN(56)-24)<<20)
		case 2, 3:
			op := []riscv.Op{riscv.SB, riscv.SH, riscv.SW, riscv.SD, riscv.FSW, riscv.FSD}[g.IntN(6)]
			match, _ := riscv.Encoding(op)
			imm := uint32(g.IntN(56) - 24)
			code = append(code, match|uint32(g.IntN(31))<<20|base<<15|imm>>5<<25|imm&31<<7)
		default:
			code = append(code, g.word(g.pick(riscv.ADDI, riscv.SRAW)))
		}
	}
	return code
}

// control is LUI, AUIPC, jumps and branches over one instruction.
func (g *generator) control(code []uint32) []uint32 {
	for range 3 {
		switch g.IntN(5) {
		case 0:
			code = append(code, g.word(riscv.LUI))
		case 1:
			code = append(code, g.word(riscv.AUIPC))
		case 2: // jal rd, +8
			code = append(code, 0x0080006f|g.rd()<<7, g.word(riscv.ADDI))
		case 3: // auipc x5, 0; jalr rd, 12 or 13(x5): bit 0 is dropped
			code = append(code, 0x00000297, 0x00c28067|g.rd()<<7|uint32(g.IntN(2))<<20, g.word(riscv.XORI))
		default: // branch +8
			match, _ := riscv.Encoding(g.pick(riscv.BEQ, riscv.BGEU))
			rs := uint32(g.IntN(31))<<15 | uint32(g.IntN(31))<<20
			if g.IntN(3) == 0 {
				rs = rs&^(31<<20) | rs>>15&31<<20
			}
			code = append(code, match|rs|8<<7, g.word(riscv.ADD))
		}
	}
	return code
}

// atomic is AMOs, and reservations that hold, fail and were never made. An LR
// is always followed by an SC: QEMU's reservation outlives the case, ours the turn.
func (g *generator) atomic(code []uint32) []uint32 {
	const a0 = 10
	code = append(code, 0xfc0f0513&^(0xfff<<20)|uint32(g.IntN(8)<<2)<<20) // addi a0, x30, n
	code = append(code, 0xff857513)                                       // andi a0, a0, -8
	for range 4 {
		wide := riscv.Op(g.IntN(2)) * (riscv.LR_D - riscv.LR_W)
		word := func(op riscv.Op, rd uint32) uint32 {
			match, _ := riscv.Encoding(op + wide)
			return match | rd<<7 | a0<<15 | uint32(g.IntN(4))<<25
		}
		rd := func() uint32 {
			for {
				if r := g.rd(); r != a0 {
					return r
				}
			}
		}
		switch g.IntN(5) {
		case 0:
			code = append(code, word(riscv.LR_W, rd()), word(riscv.SC_W, rd())|uint32(g.IntN(31))<<20)
		case 1: // at another address
			code = append(code, word(riscv.LR_W, rd()), 0x00850513, word(riscv.SC_W, rd())|uint32(g.IntN(31))<<20, 0xff850513)
		case 2:
			code = append(code, word(riscv.SC_W, rd())|uint32(g.IntN(31))<<20)
		default:
			code = append(code, word(g.pick(riscv.AMOSWAP_W, riscv.AMOMAXU_W), rd())|uint32(g.IntN(31))<<20)
		}
	}
	return code
}

// flags reads and writes fflags and frm between operations.
func (g *generator) flags(code []uint32) []uint32 {
	for range 4 {
		csr := []uint32{0x00101073, 0x00102073, 0x00103073, 0x00105073, 0x00106073, 0x00107073}[g.IntN(6)]
		code = append(code, csr|g.rd()<<7|uint32(g.IntN(31))<<15, g.word(g.pick(riscv.FMADD_S, riscv.FCVT_S_LU)))
		if g.IntN(2) == 0 { // csrrwi frm, a mode that exists
			code = append(code, 0x00205073|g.rd()<<7|uint32(g.IntN(5))<<15)
		}
		code = append(code, 0x00302073|g.rd()<<7) // frcsr
	}
	return code
}

// nearFloat makes operands that cancel and round in rare ways: results of one
// operation are operands of the next.
func (g *generator) nearFloat(code []uint32) []uint32 {
	dyn := uint32(g.IntN(2) * 7 << 12) // all in the same mode, in half of the cases
	for range length {
		op := []riscv.Op{riscv.FADD_D, riscv.FSUB_D, riscv.FMUL_D, riscv.FDIV_D, riscv.FSQRT_D, riscv.FMADD_D,
			riscv.FMSUB_D, riscv.FNMSUB_D, riscv.FNMADD_D, riscv.FCVT_S_D, riscv.FCVT_D_S, riscv.FADD_S, riscv.FMADD_S, riscv.FSUB_S,
			riscv.FSGNJ_D, riscv.FSGNJN_S, riscv.FSGNJX_D, riscv.FMV_D_X, riscv.FMV_W_X, riscv.FMIN_D, riscv.FMAX_S}[g.IntN(21)]
		_, mask := riscv.Encoding(op)
		for {
			w := g.word(op)
			d := riscv.Decode(w)
			if d.Rd < 6 && d.Rs1 < 6 && (d.Rs2 < 6 || mask>>20&31 == 31) && (d.Rs3 < 8 || riscv.FormatOf(op) != riscv.FormatR4) {
				code = append(code, w|dyn&^mask)
				break
			}
		}
	}
	return code
}

// compressed packs pairs of 16-bit instructions.
func (g *generator) compressed(code []uint32) []uint32 {
	for range length {
		code = append(code, uint32(g.half())|uint32(g.half())<<16)
	}
	return code
}

// half is a compressed instruction that a case can hold: no jump, and memory
// only through sp and s0.
func (g *generator) half() uint16 {
	for {
		c := uint16(g.Uint32())
		if c&3 == 3 {
			continue
		}
		d := riscv.Decode(riscv.Expand(c))
		switch riscv.FormatOf(d.Op) {
		case riscv.FormatB, riscv.FormatJ, riscv.FormatNone:
			continue
		case riscv.FormatS:
			if d.Rs1 != sp && d.Rs1 != s0 || d.Imm > 64 {
				continue
			}
			return c
		}
		load := d.Op >= riscv.LB && d.Op <= riscv.LWU || d.Op == riscv.FLD
		if d.Op == riscv.Illegal || d.Op == riscv.JALR || d.Op != riscv.FLD && fixed(d.Rd) ||
			load && (d.Rs1 != sp && d.Rs1 != s0 || d.Imm > 64) {
			continue
		}
		return c
	}
}

// integer is an operand with a taste for the edges.
func (g *generator) integer() uint64 {
	edges := [...]uint64{0, 1, 2, 31, 32, 63, 64, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32,
		1<<63 - 1, 1 << 63, 1<<63 + 1, math.MaxUint64, math.MaxUint64 - 1, 0xffff_ffff_8000_0000, 0xffff_ffff_7fff_ffff, 0x00ff_00ff_00ff_00ff, 0x8000_0000_8000_0000}
	switch v := g.Uint64(); g.IntN(4) {
	case 0, 1:
		return edges[v%uint64(len(edges))]
	case 2:
		return uint64(int64(v) >> g.IntN(64))
	default:
		return v
	}
}

// float is a register with a double, a boxed single or a badly boxed one.
func (g *generator) float() uint64 {
	doubles := [...]float64{0, math.Copysign(0, -1), 1, -1, 1.5, 2, 0.1, math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64,
		math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64, 0x1p-1022, 0x1.fffffep127, 0x1p-126, 0x1p-149, 0x1p-150, 0x1.8p-150, 0x1.ffffffp127,
		1<<31 - 1, 1 << 31, -1 << 31, 1<<31 - 0.5, 1<<32 - 1, 1 << 32, 1 << 63, -1 << 63, 0x1.fffffffffffffp62, 1 << 64, 0x1.fffffffffffffp63, -0.5, 0.5, 2.5, -0.9999, 3e-310, 0x1.0000001p0}
	singles := [...]uint32{0, 1 << 31, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffc00001, 0xff800001, 1, 0x80000001,
		0x007fffff, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x4effffff, 0x4f000000, 0xcf000000, 0x4f800000, 0x5f000000, 0xdf000000, 0x5f800000, 0x3effffff, 0x3f000000, 0xbf000000}
	const box = 0xffff_ffff_0000_0000
	switch v := g.Uint64(); g.IntN(12) {
	case 0, 1, 2:
		return math.Float64bits(doubles[v%uint64(len(doubles))])
	case 3:
		return 0x7ff0_0000_0000_0000 | v&(1<<63|1<<51|3) // infinities and NaNs of both kinds
	case 4:
		return math.Float64bits(float64(int64(v) >> g.IntN(64)))
	case 5:
		return v&^(0x7ff<<52) | (1023+uint64(g.IntN(80))-40)<<52 // near 1
	case 6, 7, 8:
		return box | uint64(singles[v%uint64(len(singles))])
	case 9:
		return box | v&0x807f_ffff | (127+uint64(g.IntN(80))-40)<<23
	case 10:
		return box | v&0xffff_ffff
	default:
		return v
	}
}
