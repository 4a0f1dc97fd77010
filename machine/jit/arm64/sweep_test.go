// SPDX-License-Identifier: Apache-2.0

package arm64

import (
	"fmt"
	"math"
	"sync"
)

// sweep is instructions, one each, and what they should be in the assembler's words.
type sweep struct {
	Asm
	text []string
}

// is ends an instruction.
func (s *sweep) is(format string, args ...any) {
	s.text = append(s.text, fmt.Sprintf(format, args...))
	if len(s.Code) != 4*len(s.text) {
		panic("not one instruction: " + s.text[len(s.text)-1])
	}
}

// code is the i-th instruction.
func (s *sweep) code(i int) []byte { return s.Code[4*i : 4*i+4] }

var (
	wide       = []Size{S32, S64}
	conds      = []string{"eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"}
	shiftNames = []string{"lsl", "lsr", "asr", "ror"}
	extNames   = []string{"uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx"}
)

// name is a register in the assembler's words.
func name(s Size, r Reg) string {
	letter := "w"
	if s == S64 {
		letter = "x"
	}
	switch r {
	case ZR:
		return letter + "zr"
	case SP:
		return map[string]string{"w": "wsp", "x": "sp"}[letter]
	}
	return fmt.Sprint(letter, r)
}

// fname is a vector register as a float.
func fname(s Size, v Vec) string { return fmt.Sprint(map[Size]string{S32: "s", S64: "d"}[s], v) }

// withSP is r, or SP for ZR.
func withSP(r Reg) Reg {
	if r == ZR {
		return SP
	}
	return r
}

// each calls f with every register.
func each(f func(r Reg)) {
	for r := X0; r <= ZR; r++ {
		f(r)
	}
}

// some calls f with every register in each of four places, each with several others.
func some(f func(x, y, z, w Reg)) {
	each(func(r Reg) {
		f(r, (r*5+3)%32, (r*11+7)%32, (r*7+1)%32)
		f(r, r, (r*3+9)%32, (r*13+5)%32)
		f((r*9+2)%32, r, r, (r*5+8)%32)
	})
}

// everything is each instruction with each register in each place.
var everything = sync.OnceValue(func() *sweep {
	s := new(sweep)
	for _, z := range wide {
		s.alus(z)
		s.arithmeticImm(z)
		s.logicalImm(z)
		s.moves(z)
		s.fields(z)
		s.registers(z)
		s.conditions(z)
	}
	s.products()
	s.memories()
	s.floats()
	s.vectors()
	s.others()
	return s
})

var aluNames = []string{
	"add", "adds", "sub", "subs", "and", "bic", "orr", "orn", "eor", "eon", "ands", "bics", "adc", "adcs", "sbc", "sbcs",
}

func (s *sweep) alus(z Size) {
	for i, text := range aluNames {
		op := ALU(i)
		some(func(d, x, y, _ Reg) {
			s.RRR(op, z, d, x, y)
			s.is("%s %s, %s, %s", text, name(z, d), name(z, x), name(z, y))
			n := uint(d*5+x) % z.bits()
			for shift := LSL; shift <= ROR && op < ADC; shift++ {
				if shift == ROR && op < AND {
					continue
				}
				s.RRS(op, z, d, x, y, shift, n)
				s.is("%s %s, %s, %s, %s #%d", text, name(z, d), name(z, x), name(z, y), shiftNames[shift], n)
			}
			for e := UXTB; e <= SXTX && op < AND; e++ {
				from := S32
				if e&3 == 3 {
					from = S64
				}
				if from > z {
					continue
				}
				d, x, n := d, withSP(x), uint(d+y)%5
				if op == ADD || op == SUB {
					d = withSP(d)
				}
				s.RRX(op, z, d, x, y, e, n)
				s.is("%s %s, %s, %s, %s #%d", text, name(z, d), name(z, x), name(from, y), extNames[e], n)
			}
		})
	}
	some(func(x, y, _, _ Reg) {
		s.Cmp(z, x, y)
		s.is("cmp %s, %s", name(z, x), name(z, y))
		s.Cmn(z, x, y)
		s.is("cmn %s, %s", name(z, x), name(z, y))
		s.Tst(z, x, y)
		s.is("tst %s, %s", name(z, x), name(z, y))
		if x != ZR || y != ZR { // mov sp, xzr does not exist
			s.Mov(z, withSP(x), y)
			s.is("mov %s, %s", name(z, withSP(x)), name(z, y))
		}
		if y != ZR {
			s.Mov(z, y, SP)
			s.is("mov %s, %s", name(z, y), name(z, SP))
		}
		s.Mov(z, ZR, y)
		s.is("mov %s, %s", name(z, ZR), name(z, y))
		s.Mvn(z, x, y)
		s.is("mvn %s, %s", name(z, x), name(z, y))
		s.Neg(z, x, y)
		s.is("neg %s, %s", name(z, x), name(z, y))
	})
}

func (s *sweep) arithmeticImm(z Size) {
	values := []int64{0, 1, 0x7ff, 0xfff, 0x1000, 0x7ff000, 0xfff000, -1, -0x800, -0xfff, -0x1000, -0xfff000}
	for op := ADD; op <= SUBS; op++ {
		some(func(d, x, y, _ Reg) {
			x, v := withSP(x), values[(d*3+y)%Reg(len(values))]
			if op == ADD || op == SUB {
				d = withSP(d)
			}
			s.RRI(op, z, d, x, v)
			s.is("%s %s, %s, #%d", aluNames[op], name(z, d), name(z, x), v)
		})
	}
	each(func(r Reg) {
		for _, v := range values {
			s.CmpI(z, withSP(r), v)
			s.is("cmp %s, #%d", name(z, withSP(r)), v)
		}
	})
}

// bitmasks is every constant of 64 bits that logical instructions have.
func bitmasks() (list []uint64) {
	for period := uint(2); period <= 64; period *= 2 {
		for ones := uint(1); ones < period; ones++ {
			run := uint64(1)<<ones - 1
			for at := range period {
				v := run<<at | run>>(period-at)
				if period < 64 {
					v &= 1<<period - 1
				}
				for p := period; p < 64; p *= 2 {
					v |= v << p
				}
				list = append(list, v)
			}
		}
	}
	return list
}

// immediate is a constant as the assembler wants it.
func immediate(z Size, v uint64) uint64 {
	if z == S32 {
		return uint64(uint32(v))
	}
	return v
}

func (s *sweep) logicalImm(z Size) {
	for i, v := range bitmasks() {
		if z == S32 && v != uint64(uint32(v))*(1<<32+1) {
			continue
		}
		r := Reg(i*5) % 31
		s.RRI(ORR, z, r, (r*3+1)%31, int64(immediate(z, v)))
		s.is("orr %s, %s, #%#x", name(z, r), name(z, (r*3+1)%31), immediate(z, v))
	}
	values := []uint64{1, 0xff, 0xffff0000ffff0000, 0x8000000080000000, 0x7fffffff7fffffff, 0x5555555555555555, 0xfffffff0fffffff0}
	for op := AND; op <= BICS; op++ {
		some(func(d, x, y, _ Reg) {
			v := values[(d*3+y)%Reg(len(values))]
			if z == S64 && v == 1 {
				v = math.MaxInt64
			}
			if op != ANDS && op != BICS {
				d = withSP(d)
			}
			if op == ORN || op == EON || op == BIC || op == BICS {
				// the assembler has no such form
				s.RRI(op, z, d, x, int64(immediate(z, ^v)))
				plain := map[ALU]string{ORN: "orr", EON: "eor", BIC: "and", BICS: "ands"}[op]
				s.is("%s %s, %s, #%#x", plain, name(z, d), name(z, x), immediate(z, v))
				return
			}
			s.RRI(op, z, d, x, int64(immediate(z, v)))
			s.is("%s %s, %s, #%#x", aluNames[op], name(z, d), name(z, x), immediate(z, v))
		})
	}
	each(func(r Reg) {
		for _, v := range values[1:] {
			s.TstI(z, r, int64(immediate(z, v)))
			s.is("tst %s, #%#x", name(z, r), immediate(z, v))
		}
	})
	s.RRI(AND, S32, X1, X2, -16)
	s.is("and w1, w2, #0xfffffff0")
}

func (s *sweep) moves(z Size) {
	each(func(r Reg) {
		for hw := range z.bits() / 16 {
			for _, v := range []uint16{0, 1, 0x8000, 0xffff, 0x1234} {
				s.Movz(z, r, v, hw)
				s.is("movz %s, #%#x, lsl #%d", name(z, r), v, 16*hw)
				s.Movn(z, r, v, hw)
				s.is("movn %s, #%#x, lsl #%d", name(z, r), v, 16*hw)
				s.Movk(z, r, v, hw)
				s.is("movk %s, #%#x, lsl #%d", name(z, r), v, 16*hw)
			}
		}
	})
	for i, v := range append(bitmasks(),
		0, 1, 0xffff, 0x10000, 0xffff0000, 0xffffffff, 0x1234000000000000, 0x12340000, 0x1234ffff, 0xffff1234, 1<<48, math.MaxUint64,
		math.MaxUint64-0x1234, math.MaxUint64-0x12340000, 1<<63, 0xedcbffffffffffff) {
		r := Reg(i*7) % 31
		v = immediate(z, v)
		s.MovImm(r, v)
		size := S64
		if v>>32 == 0 {
			size = S32
		}
		s.is("mov %s, #%#x", name(size, r), v)
	}
}

func (s *sweep) fields(z Size) {
	n := z.bits()
	for i, text := range []string{"sbfx", "sbfiz", "ubfx", "ubfiz", "bfxil", "bfi"} {
		for lsb := range n {
			for width := uint(1); width <= n-lsb; width += 1 + width/3 {
				d, x := Reg(lsb*7+width)%32, Reg(lsb+width*11)%32
				s.Field(Field(i), z, d, x, lsb, width)
				s.is("%s %s, %s, #%d, #%d", text, name(z, d), name(z, x), lsb, width)
			}
		}
	}
	some(func(d, x, y, _ Reg) {
		for shift, text := range shiftNames {
			count := uint(d*7+y) % n
			s.ShiftI(Shift(shift), z, d, x, count)
			s.is("%s %s, %s, #%d", text, name(z, d), name(z, x), count)
			s.ShiftR(Shift(shift), z, d, x, y)
			s.is("%s %s, %s, %s", text, name(z, d), name(z, x), name(z, y))
		}
		s.Extr(z, d, x, y, uint(d*3+x)%n)
		s.is("extr %s, %s, %s, #%d", name(z, d), name(z, x), name(z, y), uint(d*3+x)%n)
		for from := S8; from < z; from++ {
			s.MovSX(from, z, d, x)
			s.is("%s %s, %s", []string{"sxtb", "sxth", "sxtw"}[from], name(z, d), name(S32, x))
		}
		s.MovZX(S8, d, x)
		s.is("uxtb %s, %s", name(S32, d), name(S32, x))
		s.MovZX(S16, d, x)
		s.is("uxth %s, %s", name(S32, d), name(S32, x))
		s.MovZX(z, d, x)
		s.is("mov %s, %s", name(z, d), name(z, x))
	})
}

func (s *sweep) registers(z Size) {
	some(func(d, x, y, w Reg) {
		for i, op := range []Binary{UDIV, SDIV, LSLV, LSRV, ASRV, RORV} {
			s.Binary(op, z, d, x, y)
			s.is("%s %s, %s, %s", []string{"udiv", "sdiv", "lslv", "lsrv", "asrv", "rorv"}[i], name(z, d), name(z, x), name(z, y))
		}
		for i, op := range []Unary{RBIT, REV16, REV, CLZ, CLS, REV32} {
			if op != REV32 || z == S64 {
				s.Unary(op, z, d, x)
				s.is("%s %s, %s", []string{"rbit", "rev16", "rev", "clz", "cls", "rev32"}[i], name(z, d), name(z, x))
			}
		}
		for i, op := range []MulAdd{MADD, MSUB} {
			s.MulAdd(op, z, d, x, y, w)
			s.is("%s %s, %s, %s, %s", []string{"madd", "msub"}[i], name(z, d), name(z, x), name(z, y), name(z, w))
		}
		s.Mul(z, d, x, y)
		s.is("mul %s, %s, %s", name(z, d), name(z, x), name(z, y))
	})
}

func (s *sweep) products() {
	some(func(d, x, y, w Reg) {
		for i, op := range []MulAdd{SMADDL, SMSUBL, UMADDL, UMSUBL} {
			s.MulAdd(op, S64, d, x, y, w)
			s.is("%s %s, %s, %s, %s", []string{"smaddl", "smsubl", "umaddl", "umsubl"}[i], name(S64, d), name(S32, x), name(S32, y), name(S64, w))
		}
		s.MulHigh(SMULH, d, x, y)
		s.is("smulh %s, %s, %s", name(S64, d), name(S64, x), name(S64, y))
		s.MulHigh(UMULH, d, x, y)
		s.is("umulh %s, %s, %s", name(S64, d), name(S64, x), name(S64, y))
	})
}

func (s *sweep) conditions(z Size) {
	some(func(d, x, y, w Reg) {
		c := Cond(d+w) % 14
		for i, op := range []Select{CSEL, CSINC, CSINV, CSNEG} {
			s.Select(op, z, c, d, x, y)
			s.is("%s %s, %s, %s, %s", []string{"csel", "csinc", "csinv", "csneg"}[i], name(z, d), name(z, x), name(z, y), conds[c])
		}
		s.Ccmp(z, c, x, y, uint(w%16))
		s.is("ccmp %s, %s, #%d, %s", name(z, x), name(z, y), w%16, conds[c])
		s.CcmpI(z, c, x, int(y), uint(w%16))
		s.is("ccmp %s, #%d, #%d, %s", name(z, x), y, w%16, conds[c])
		if y != 0 {
			s.CcmpI(z, c, x, -int(y), uint(w%16))
			s.is("ccmn %s, #%d, #%d, %s", name(z, x), y, w%16, conds[c])
		}
	})
	for i, text := range conds {
		c := Cond(i)
		each(func(r Reg) {
			s.SetMask(z, c, r)
			s.is("csetm %s, %s", name(z, r), text)
			if z == S32 {
				s.Set(c, r)
				s.is("cset %s, %s", name(z, r), text)
			}
		})
	}
}

func (s *sweep) others() {
	each(func(r Reg) {
		for reg, text := range map[Sys]string{FPCR: "fpcr", FPSR: "fpsr", NZCV: "nzcv"} {
			s.Mrs(r, reg)
			s.is("mrs %s, %s", name(S64, r), text)
			s.Msr(reg, r)
			s.is("msr %s, %s", text, name(S64, r))
		}
		s.Br(r)
		s.is("br %s", name(S64, r))
		s.Blr(r)
		s.is("blr %s", name(S64, r))
	})
	for b, text := range map[Barrier]string{ISH: "ish", ISHLD: "ishld", ISHST: "ishst"} {
		s.Dmb(b)
		s.is("dmb %s", text)
	}
	s.Ret()
	s.is("ret")
	s.Isb()
	s.is("isb")
	s.Nop()
	s.is("nop")
	for _, n := range []uint16{0, 1, 0xffff} {
		s.Brk(n)
		s.is("brk #%d", n)
		s.Udf(n)
		s.is("udf #%d", n)
	}
}
