// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/riscv"
)

// Registers that testdata/privileged/fuzz.S points somewhere, and those that
// random code mostly writes to.
var (
	pointers = []uint32{2, 2, 8, 9, 9, 10, 10, 11, 12, 13}
	results  = []uint32{5, 6, 7, 14, 15, 16, 17, 19, 20, 21, 22}
)

// A page begins with functions, which the same program points to.
const functions, functionGap = 4, 128

// codePages is how much random code there is.
const codePages = 8

// coder writes random code with a taste for what an engine could get wrong.
type coder struct {
	*rand.Rand
	code []byte
}

func randomCode(seed uint64) []byte {
	c := coder{Rand: rand.New(rand.NewPCG(seed, 7))}
	for len(c.code) < codePages*4096 {
		c.item()
	}
	all := c.code[:codePages*4096]
	for at := 0; at < len(all); at += 4096 {
		for i := range functions {
			c.code = nil
			c.function()
			copy(all[at+i*functionGap:], c.code)
		}
	}
	return all
}

func (c *coder) word(w uint32)    { c.code = binary.LittleEndian.AppendUint32(c.code, w) }
func (c *coder) half(w uint16)    { c.code = binary.LittleEndian.AppendUint16(c.code, w) }
func (c *coder) reg() uint32      { return uint32(c.IntN(32)) }
func (c *coder) ptr() uint32      { return pointers[c.IntN(len(pointers))] }
func (c *coder) even(n int) int32 { return int32(c.IntN(n)) &^ 1 }
func (c *coder) rd() uint32 {
	if c.IntN(8) == 0 {
		return c.reg()
	}
	return results[c.IntN(len(results))]
}

// op writes an instruction of an operation drawn from a range, its operands random.
func (c *coder) op(first, last riscv.Op) {
	op := first + riscv.Op(c.IntN(int(last-first)+1))
	match, mask := riscv.Encoding(op)
	w := c.Uint32()&^0xf80 | c.rd()<<7
	c.word(match | w&^mask)
}

func encode(op riscv.Op, rd, rs1, rs2 uint32, imm int32) uint32 {
	w, _ := riscv.Encoding(op)
	v := uint32(imm)
	switch riscv.FormatOf(op) {
	case riscv.FormatS:
		return w | v&31<<7 | rs1<<15 | rs2<<20 | v>>5<<25
	case riscv.FormatB:
		return w | v>>11&1<<7 | v>>1&15<<8 | rs1<<15 | rs2<<20 | v>>5&63<<25 | v>>12&1<<31
	case riscv.FormatJ:
		return w | rd<<7 | v>>12&255<<12 | v>>11&1<<20 | v>>1&1023<<21 | v>>20&1<<31
	case riscv.FormatU:
		return w | rd<<7 | v&^0xfff
	}
	return w | rd<<7 | rs1<<15 | rs2<<20 | v<<20
}

// function is what is called often, from everywhere and by pages that come and
// go: a few instructions and a return.
func (c *coder) function() {
	for range 1 + c.IntN(4) {
		c.op(riscv.ADDI, riscv.SRAW)
	}
	if c.IntN(4) > 0 {
		c.half(0x8082) // ret
	}
}

// item writes a few instructions.
func (c *coder) item() {
	switch n := c.IntN(100); {
	case n < 12:
		c.op(riscv.ADDI, riscv.SRAW)
	case n < 18:
		c.op(riscv.MUL, riscv.REMUW)
	case n < 23:
		c.op(riscv.ADD_UW, riscv.CZERO_NEZ)
	case n < 27:
		c.words()
	case n < 30:
		c.op(riscv.LUI, riscv.AUIPC)
	case n < 42:
		c.word(encode(c.among(riscv.LB, riscv.LWU), c.rd(), c.ptr(), 0, c.offset()))
	case n < 52:
		c.word(encode(c.among(riscv.SB, riscv.SD), 0, c.ptr(), c.reg(), c.offset()))
	case n < 64:
		if w := uint16(c.Uint32()); w&3 != 3 {
			c.half(w)
		}
	case n < 72:
		c.branch(4 + c.even(60))
	case n < 75:
		c.branch(-4 - c.even(60))
	case n < 77:
		c.branch(c.even(8192) - 4096)
	case n < 81:
		c.loop()
	case n < 84:
		c.word(encode(riscv.JAL, c.rd()&1, 0, 0, c.even(256)-128))
	case n < 85:
		c.word(encode(riscv.JAL, c.rd(), 0, 0, c.even(1<<15)-1<<14))
	case n < 87:
		c.word(encode(riscv.JALR, 1, 18, 0, int32(c.IntN(2)))) // call, and bit 0 is dropped
	case n < 88:
		c.word(encode(riscv.JALR, c.rd(), [...]uint32{1, 18, 11}[c.IntN(3)], 0, int32(c.IntN(32))))
	case n < 89:
		c.word(encode(riscv.AUIPC, 5, 0, 0, int32(c.IntN(3)-1)<<12))
		c.word(encode(riscv.JALR, c.reg(), 5, 0, int32(c.IntN(2048)-1024)))
	case n < 93:
		c.atomic()
	case n < 95:
		c.csr()
	case n < 97:
		c.floats()
	default:
		c.special()
	}
}

func (c *coder) among(first, last riscv.Op) riscv.Op {
	return first + riscv.Op(c.IntN(int(last-first)+1))
}

// offset is mostly small and a multiple of 8.
func (c *coder) offset() int32 {
	switch c.IntN(8) {
	case 0:
		return int32(c.IntN(4096) - 2048)
	case 1:
		return int32(c.IntN(32) - 8)
	}
	return int32(c.IntN(8)) * 8
}

func (c *coder) branch(imm int32) {
	c.word(encode(c.among(riscv.BEQ, riscv.BGEU), 0, c.reg(), c.reg(), imm))
}

// loop counts down over a few items.
func (c *coder) loop() {
	const counter = 23
	c.word(encode(riscv.ADDI, counter, 0, 0, int32(1+c.IntN(40))))
	start := len(c.code)
	for range 1 + c.IntN(4) {
		switch c.IntN(4) {
		case 0:
			c.word(encode(c.among(riscv.SB, riscv.SD), 0, c.ptr(), c.reg(), c.offset()))
		case 1:
			c.word(encode(c.among(riscv.LB, riscv.LWU), c.rd(), c.ptr(), 0, c.offset()))
		case 2:
			c.word(encode(riscv.ADDI, 9, 9, 0, 8))
		default:
			if c.IntN(3) == 0 {
				c.floats()
			} else if c.IntN(3) == 0 {
				c.words()
			}
			c.op(riscv.ADDI, riscv.SRAW)
		}
	}
	c.word(encode(riscv.ADDI, counter, counter, 0, -1))
	c.word(encode(riscv.BNE, 0, counter, 0, int32(start-len(c.code))))
}

// words computes in 32 bits with few registers, so that results are overwritten
// soon: rotations in parts and extensions, between what may leave the block.
func (c *coder) words() {
	few := c.Perm(len(results))[:3]
	reg := func() uint32 { return results[few[c.IntN(len(few))]] }
	for range 3 + c.IntN(10) {
		switch c.IntN(9) {
		case 0, 1: // a rotation, or nearly
			n, size := int32(1+c.IntN(31)), int32(32)
			left, right := riscv.SLLIW, riscv.SRLIW
			if c.IntN(3) == 0 {
				left, right, size = riscv.SLLI, riscv.SRLI, 64
			}
			from, a, b := reg(), reg(), reg()
			c.word(encode(left, a, from, 0, n))
			if c.IntN(4) == 0 {
				c.word(encode(riscv.LW, reg(), c.ptr(), 0, c.offset()))
			}
			c.word(encode(right, b, from, 0, size-n))
			op := []riscv.Op{riscv.OR, riscv.XOR, riscv.ADD, riscv.ADDW}[c.IntN(4)]
			c.word(encode(op, reg(), a, b, 0))
		case 2: // an extension by zeros, or nearly
			a := reg()
			c.word(encode(riscv.SLLI, a, reg(), 0, 32))
			c.word(encode(riscv.SRLI, reg(), a, 0, int32(28+c.IntN(6))))
		case 3:
			c.word(encode(riscv.ADDIW, reg(), reg(), 0, int32(c.IntN(3)-1)))
		case 4:
			c.word(encode(c.among(riscv.XOR, riscv.AND), reg(), reg(), reg(), 0))
		case 5:
			c.word(encode([]riscv.Op{riscv.ADDW, riscv.SUBW}[c.IntN(2)], reg(), c.reg()%2*reg(), reg(), 0))
		case 6:
			c.word(encode(c.among(riscv.LB, riscv.LWU), reg(), c.ptr(), 0, c.offset()))
		case 7:
			c.word(encode(c.among(riscv.SB, riscv.SD), 0, c.ptr(), reg(), c.offset()))
		default:
			if c.IntN(2) == 0 {
				c.word(encode(riscv.ANDI, reg(), reg(), 0, int32(c.IntN(4)-1)))
			} else {
				c.branch(4 + c.even(24))
			}
		}
	}
}

// atomic is an AMO, or LR and SC to the same or to another address.
func (c *coder) atomic() {
	wide := riscv.Op(c.IntN(2)) * (riscv.LR_D - riscv.LR_W)
	at := []uint32{9, 2, 9, 2, 10, 13}[c.IntN(6)]
	if c.IntN(2) == 0 {
		c.word(encode(c.among(riscv.AMOSWAP_W, riscv.AMOMAXU_W)+wide, c.rd(), at, c.reg(), 0))
		return
	}
	c.word(encode(riscv.LR_W+wide, c.rd(), at, 0, 0))
	switch c.IntN(4) {
	case 0:
		at = 2
	case 1:
		c.word(encode(riscv.SD, 0, at, c.reg(), 0))
	}
	c.word(encode(riscv.SC_W+wide, c.rd(), at, c.reg(), 0))
}

// floats is floating point on few registers, mostly in the dynamic rounding mode.
func (c *coder) floats() {
	const rm, few = 7 << 12, 8
	for range 1 + c.IntN(8) {
		f := uint32(c.IntN(few))
		switch op := c.among(riscv.FLW, riscv.FCVT_D_LU); {
		case op == riscv.FLW, op == riscv.FLD, c.IntN(8) == 0:
			c.word(encode([]riscv.Op{riscv.FLW, riscv.FLD}[c.IntN(2)], f, c.ptr(), 0, c.offset()))
		case op == riscv.FSW, op == riscv.FSD, c.IntN(8) == 0:
			c.word(encode([]riscv.Op{riscv.FSW, riscv.FSD}[c.IntN(2)], 0, c.ptr(), f, c.offset()))
		default:
			match, mask := riscv.Encoding(op)
			w := c.Uint32()&(rm|(few-1)<<15|(few-1)<<20|(few-1)<<27) | f<<7
			if c.IntN(4) > 0 {
				w |= rm
			}
			if integerResult(op) {
				w = w&^((few-1)<<7) | c.rd()<<7
			}
			c.word(match | w&^mask)
		}
	}
}

func integerResult(op riscv.Op) bool {
	switch {
	case op >= riscv.FCVT_W_S && op <= riscv.FCLASS_S, op >= riscv.FEQ_S && op <= riscv.FLE_S,
		op >= riscv.FEQ_D && op <= riscv.FMV_X_D, op >= riscv.FCVT_W_D && op <= riscv.FCVT_LU_D:
		return true
	}
	return false
}

// csr reads what counts, and writes what does no harm.
func (c *coder) csr() {
	n := []int32{0xc00, 0xc01, 0xc02, 0xb00, 0xb02, 0x105, 0x144, 0x001, 0x002, 0x003, 0x140, 0x142, 0x143, 0x144}[c.IntN(14)]
	op, rs1 := riscv.CSRRS, uint32(0)
	if n == 2 { // mostly a mode that is
		op, rs1 = riscv.CSRRWI, uint32(c.IntN(3)*c.IntN(4))
	} else if n < 0xb00 && n != 0x105 {
		op, rs1 = c.among(riscv.CSRRW, riscv.CSRRCI), c.reg()
	}
	c.word(encode(op, c.rd(), rs1, 0, n))
}

// special is one of the instructions that concern the whole hart.
func (c *coder) special() {
	switch c.IntN(12) {
	case 8:
		c.word(encode(riscv.SRET, 0, 0, 0, 0))
	case 9: // sstatus: SIE at once, or anything
		c.word(encode(c.among(riscv.CSRRWI, riscv.CSRRCI), c.rd(), 2, 0, 0x100))
	case 10:
		c.word(encode(c.among(riscv.CSRRW, riscv.CSRRCI), c.rd(), c.reg(), 0, 0x100))
	case 11: // sepc, to code behind here
		c.word(encode(riscv.AUIPC, 5, 0, 0, int32(c.IntN(2))<<12))
		c.word(encode(riscv.ADDI, 5, 5, 0, int32(c.IntN(64))))
		c.word(encode(riscv.CSRRW, c.rd(), 5, 0, 0x141))
	case 0:
		c.half(0) // illegal
	case 1:
		c.word(encode(riscv.FENCE_I, 0, 0, 0, 0))
	case 2:
		c.word(encode(riscv.SFENCE_VMA, 0, 0, 0, 0))
	case 3:
		c.word(0x0100000f) // pause
	case 4: // sstatus.SUM and MXR, or FS
		c.word(encode(riscv.LUI, 5, 0, 0, int32(1+c.IntN(3))<<[]int{13, 18}[c.IntN(2)]))
		c.word(encode(c.among(riscv.CSRRS, riscv.CSRRC), c.rd(), 5, 0, 0x100))
	case 5:
		c.word(encode(riscv.ECALL, 0, 0, 0, 0))
	case 6:
		c.word(encode(riscv.CBO_ZERO, 0, c.ptr(), 0, 0))
	default:
		c.word(encode(riscv.FENCE, 0, 0, 0, 0x0ff))
	}
}

// fuzzRound is after how many steps the program begins anew.
const fuzzRound = 20_000

// fuzz runs random code in lockstep. What happens between slices is random too:
// devices write to code, data and page tables, caches are dropped, and the
// translated machine goes on from a snapshot.
func fuzz(t *testing.T, p program, seed uint64, code []byte, steps event.Step) (native uint64) {
	rnd := rand.New(rand.NewPCG(seed, 8))
	at := p.symbols["code"]
	p.boot.Segments = append(slices.Clone(p.boot.Segments), machine.Segment{Addr: at, Data: code},
		machine.Segment{Addr: p.symbols["seed"], Data: binary.LittleEndian.AppendUint64(nil, seed)})
	cache := []int{tinyCache, tinyCache + 40<<10, largeCache}[seed%3]
	l := p.lockstep(t, 1, cache)
	l.apply(event.Clock{Rate: 1 << event.RateShift / 2, Limit: 1 << 40})
	for anew := event.Step(fuzzRound); l.oracle.Step() < steps; {
		if l.oracle.Step() >= anew { // the program may have broken itself
			anew += fuzzRound
			l.apply(event.Control{Op: event.Reset})
			l.poke(p.symbols["seed"], binary.LittleEndian.AppendUint64(nil, rnd.Uint64()))
		}
		slice := 50
		if rnd.IntN(4) == 0 {
			slice = 2000
		}
		switch l.run(min(steps, l.oracle.Step()+1+event.Step(rnd.IntN(slice)))) {
		case event.StopExit: // a store hit tohost
			steps = l.oracle.Step()
		case event.StopIdle:
			anew = l.oracle.Step()
		}
		switch rnd.IntN(60) {
		case 0:
			b := code[rnd.IntN(len(code)/2):][:2+2*rnd.IntN(4)]
			l.poke(at+uint64(rnd.IntN(len(code)-8))&^1, b)
		case 1:
			var b [8]byte
			pa := p.symbols["leaf"] + uint64(rnd.IntN(32))*8 + uint64(rnd.IntN(2))<<12
			l.oracle.Memory(p.symbols["leaf"]+uint64(rnd.IntN(32))*8, b[:])
			l.poke(pa, b[:])
		case 2:
			switch rnd.IntN(3) {
			case 0:
				l.jit.Forget()
			case 1:
				l.jit.ForgetDecoded()
			case 2:
				l.oracle.Forget()
			}
		case 3:
			if rnd.IntN(40) == 0 {
				native += l.jit.Translated().Steps
				l.jit, l.born = translated(t, restored(t, l.jit), cache), l.jit.Step()
			}
		}
	}
	l.finish()
	return native + l.jit.Translated().Steps
}

// Random code does the same on both engines, in all modes, while it changes
// itself and the page tables that it runs in.
func TestLockstepRandom(t *testing.T) {
	atOnce(t)
	p := assemble(t, "fuzz")
	const steps = 200_000
	seeds := uint64(9)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		if native := fuzz(t, p, seed, randomCode(seed), steps); native < steps/10 {
			t.Errorf("seed %d: only %d of %d steps were translated", seed, native, steps)
		}
	}
}

// FuzzLockstep is TestLockstepRandom for any seed, with bytes in the place of
// the first instructions.
func FuzzLockstep(f *testing.F) {
	atOnce(f)
	p := assemble(f, "fuzz")
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), randomCode(100)[:512])
	f.Fuzz(func(t *testing.T, seed uint64, code []byte) {
		b := randomCode(seed)
		copy(b, code)
		fuzz(t, p, seed, b, 20_000)
	})
}
