// SPDX-License-Identifier: Apache-2.0

package amd64

import (
	"fmt"
	"math"
)

// sweep is instructions and what they should be in the assembler's words.
type sweep struct {
	Asm
	text []string
	ends []int
}

// is ends an instruction.
func (s *sweep) is(format string, args ...any) {
	s.text = append(s.text, fmt.Sprintf(format, args...))
	s.ends = append(s.ends, len(s.Code))
}

// code is the i-th instruction.
func (s *sweep) code(i int) []byte {
	if i == 0 {
		return s.Code[:s.ends[0]]
	}
	return s.Code[s.ends[i-1]:s.ends[i]]
}

var (
	regNames = [4][16]string{
		{"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"},
		{"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"},
		{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"},
		{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"},
	}
	ptrNames = [4]string{"byte ptr ", "word ptr ", "dword ptr ", "qword ptr "}
	conds    = []string{"o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"}

	sizes  = []Size{S8, S16, S32, S64}
	wide   = []Size{S32, S64}
	disps  = []int32{0, 1, 127, -128, 128, -129, math.MaxInt32, math.MinInt32}
	imms   = []int32{0, 1, -1, 127, -128, 128, -129, 0x1234, -0x8000, 0x12345678, math.MaxInt32, math.MinInt32}
	counts = []uint8{0, 1, 2, 7, 31, 63}
)

// name is a register in the assembler's words.
func name(s Size, r Reg) string { return regNames[s][r] }

// xname is an XMM register.
func xname(x Xmm) string { return fmt.Sprintf("xmm%d", x) }

// address is a memory operand without its size.
func address(m Mem) string {
	text := "[" + name(S64, m.Base)
	if m.Scale != 0 {
		text += fmt.Sprintf("+%s*%d", name(S64, m.Index), m.Scale)
	}
	if m.Disp != 0 {
		text += fmt.Sprintf("%+d", m.Disp)
	}
	return text + "]"
}

// mname is a memory operand of a size.
func mname(s Size, m Mem) string { return ptrNames[s] + address(m) }

// mems is every base with every index and scale and displacement, or a few that
// hold each special case.
func mems(all bool) []Mem {
	var list []Mem
	for base := RAX; base <= R15; base++ {
		for _, d := range disps {
			list = append(list, At(base, d))
		}
	}
	if !all {
		for _, base := range []Reg{RAX, RSP, RBP, R12, R13} {
			list = append(list, Mem{base, RBX, 1, 0}, Mem{base, R12, 2, 8}, Mem{base, RBP, 4, -300}, Mem{base, R13, 8, 0})
		}
		return list
	}
	for base := RAX; base <= R15; base++ {
		for index := RAX; index <= R15; index++ {
			for scale := uint8(1); scale <= 8 && index != RSP; scale *= 2 {
				for _, d := range disps {
					list = append(list, Mem{base, index, scale, d})
				}
			}
		}
	}
	return list
}

// pairs calls f with every two registers.
func pairs(f func(x, y Reg)) {
	for x := RAX; x <= R15; x++ {
		for y := RAX; y <= R15; y++ {
			f(x, y)
		}
	}
}

// triples calls f with every two registers and a third that meets each of them.
func triples(f func(x, y, z Reg)) {
	pairs(func(x, y Reg) {
		f(x, y, (x*3+y*5+1)%16)
		f(x, (x*7+y*3+2)%16, y)
	})
}

// fits says whether an immediate has its meaning at the size.
func fits(s Size, v int32) bool {
	return s > S16 || s == S16 && v == int32(int16(v)) || short(v)
}

// everything is each instruction with each register in each place.
func everything() *sweep {
	s := new(sweep)
	s.moves()
	s.arithmetic()
	s.shifts()
	s.bits()
	s.conditions()
	s.vectors()
	s.conversions()
	s.others()
	return s
}

func (s *sweep) moves() {
	for _, z := range sizes {
		pairs(func(x, y Reg) {
			s.Mov(z, x, y)
			s.is("mov %s, %s", name(z, x), name(z, y))
		})
		for i, m := range mems(z == S64) {
			r := Reg(i*5) % 16
			s.Load(z, r, m)
			s.is("mov %s, %s", name(z, r), mname(z, m))
			s.Store(z, m, r)
			s.is("mov %s, %s", mname(z, m), name(z, r))
		}
		for i, m := range mems(false) {
			if v := imms[i%len(imms)]; fits(z, v) {
				s.StoreImm(z, m, v)
				s.is("mov %s, %d", mname(z, m), v)
			}
			r := Reg(i*7) % 16
			s.LoadZX(z, r, m)
			if z < S32 {
				s.is("movzx %s, %s", name(S32, r), mname(z, m))
			} else {
				s.is("mov %s, %s", name(z, r), mname(z, m))
			}
		}
		pairs(func(x, y Reg) {
			s.MovZX(z, x, y)
			if z < S32 {
				s.is("movzx %s, %s", name(S32, x), name(z, y))
			} else {
				s.is("mov %s, %s", name(z, x), name(z, y))
			}
		})
		for _, to := range wide {
			if z <= to {
				s.signs(z, to)
			}
		}
	}
	for _, z := range wide {
		for i, m := range mems(z == S64) {
			r := Reg(i*3) % 16
			s.Lea(z, r, m)
			s.is("lea %s, %s", name(z, r), address(m))
		}
	}
	s.immediates()
}

func (s *sweep) signs(from, to Size) {
	op := map[Size]string{S8: "movsx", S16: "movsx", S32: "movsxd"}[from]
	if from == to {
		op = "mov"
	}
	pairs(func(x, y Reg) {
		s.MovSX(from, to, x, y)
		s.is("%s %s, %s", op, name(to, x), name(from, y))
	})
	for i, m := range mems(false) {
		r := Reg(i*11) % 16
		s.LoadSX(from, to, r, m)
		s.is("%s %s, %s", op, name(to, r), mname(from, m))
	}
}

func (s *sweep) immediates() {
	for r := RAX; r <= R15; r++ {
		s.MovImm(r, 0)
		s.is("xor %[1]s, %[1]s", name(S32, r))
		s.MovImmKeep(r, 0)
		s.is("mov %s, 0", name(S32, r))
		for _, v := range []uint64{1, 0x80, 0x7fffffff, 0x80000000, 0xffffffff} {
			s.MovImm(r, v)
			s.is("mov %s, %d", name(S32, r), v)
		}
		for _, v := range []int64{-1, -0x80, math.MinInt32} {
			s.MovImm(r, uint64(v))
			s.is("mov %s, %d", name(S64, r), v)
		}
		for _, v := range []int64{1 << 32, math.MinInt32 - 1, math.MaxInt64, math.MinInt64, 0x0123456789abcdef} {
			s.MovImm(r, uint64(v))
			s.is("movabs %s, %d", name(S64, r), v)
		}
	}
}

func (s *sweep) arithmetic() {
	for op, text := range []string{"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"} {
		for _, z := range sizes {
			s.alu(ALU(op), text, z)
		}
	}
	for _, z := range sizes {
		pairs(func(x, y Reg) {
			s.Test(z, x, y)
			s.is("test %s, %s", name(z, x), name(z, y))
		})
		for i, m := range mems(false) {
			r, v := Reg(i*3)%16, imms[i%len(imms)]
			s.TestM(z, m, r)
			s.is("test %s, %s", mname(z, m), name(z, r))
			if fits(z, v) {
				s.TestMI(z, m, v)
				s.is("test %s, %d", mname(z, m), v)
				s.TestI(z, r, v)
				s.is("test %s, %d", name(z, r), v)
			}
		}
		for i, text := range []string{"not", "neg", "mul", "imul", "div", "idiv"} {
			for r := RAX; r <= R15; r++ {
				s.Unary(NOT+Unary(i), z, r)
				s.is("%s %s", text, name(z, r))
				s.UnaryM(NOT+Unary(i), z, At(r, 4))
				s.is("%s %s", text, mname(z, At(r, 4)))
			}
		}
	}
	for _, z := range wide {
		s.products(z)
	}
	s.SignRDX(S32)
	s.is("cdq")
	s.SignRDX(S64)
	s.is("cqo")
}

func (s *sweep) alu(op ALU, text string, z Size) {
	pairs(func(x, y Reg) {
		s.RR(op, z, x, y)
		s.is("%s %s, %s", text, name(z, x), name(z, y))
	})
	for i, m := range mems(false) {
		r, v := Reg(i*5)%16, imms[i%len(imms)]
		s.RM(op, z, r, m)
		s.is("%s %s, %s", text, name(z, r), mname(z, m))
		s.MR(op, z, m, r)
		s.is("%s %s, %s", text, mname(z, m), name(z, r))
		if fits(z, v) {
			s.MI(op, z, m, v)
			s.is("%s %s, %d", text, mname(z, m), v)
		}
		if op != CMP && z != S16 { // S16: as writes 66 and F0 the other way round
			s.Lock()
			s.MR(op, z, m, r)
			s.is("lock %s %s, %s", text, mname(z, m), name(z, r))
		}
	}
	for r := RAX; r <= R15; r++ {
		for _, v := range imms {
			if fits(z, v) {
				s.RI(op, z, r, v)
				s.is("%s %s, %d", text, name(z, r), v)
			}
		}
	}
}

func (s *sweep) products(z Size) {
	pairs(func(x, y Reg) {
		s.Imul(z, x, y)
		s.is("imul %s, %s", name(z, x), name(z, y))
		v := imms[int(x+y)%len(imms)]
		s.ImulI(z, x, y, v)
		s.is("imul %s, %s, %d", name(z, x), name(z, y), v)
	})
	for i, m := range mems(false) {
		r := Reg(i*7) % 16
		s.ImulM(z, r, m)
		s.is("imul %s, %s", name(z, r), mname(z, m))
	}
}

func (s *sweep) shifts() {
	names := map[Shift]string{ROL: "rol", ROR: "ror", SHL: "shl", SHR: "shr", SAR: "sar"}
	for _, op := range []Shift{ROL, ROR, SHL, SHR, SAR} {
		for _, z := range sizes {
			for r := RAX; r <= R15; r++ {
				s.ShiftCL(op, z, r)
				s.is("%s %s, cl", names[op], name(z, r))
				for _, n := range counts {
					s.ShiftI(op, z, r, n)
					s.is("%s %s, %d", names[op], name(z, r), n)
				}
			}
		}
	}
	for i, op := range []ShiftX{SHLX, SHRX, SARX} {
		text := []string{"shlx", "shrx", "sarx"}[i]
		for _, z := range wide {
			triples(func(x, y, n Reg) {
				s.ShiftX(op, z, x, y, n)
				s.is("%s %s, %s, %s", text, name(z, x), name(z, y), name(z, n))
			})
			for i, m := range mems(false) {
				x, n := Reg(i*5)%16, Reg(i*7)%16
				s.ShiftXM(op, z, x, m, n)
				s.is("%s %s, %s, %s", text, name(z, x), mname(z, m), name(z, n))
			}
		}
	}
	for _, z := range wide {
		pairs(func(x, y Reg) {
			n := counts[int(x+y)%len(counts)]
			s.Rorx(z, x, y, n)
			s.is("rorx %s, %s, %d", name(z, x), name(z, y), n)
		})
	}
}

func (s *sweep) bits() {
	for _, z := range wide {
		triples(func(x, y, w Reg) {
			s.Andn(z, x, y, w)
			s.is("andn %s, %s, %s", name(z, x), name(z, y), name(z, w))
		})
		for i, m := range mems(false) {
			x, y := Reg(i*5)%16, Reg(i*7)%16
			s.AndnM(z, x, y, m)
			s.is("andn %s, %s, %s", name(z, x), name(z, y), mname(z, m))
		}
		for r := RAX; r <= R15; r++ {
			s.Bswap(z, r)
			s.is("bswap %s", name(z, r))
		}
	}
	for _, z := range sizes[1:] {
		for i, op := range []Count{POPCNT, TZCNT, LZCNT} {
			text := []string{"popcnt", "tzcnt", "lzcnt"}[i]
			pairs(func(x, y Reg) {
				s.Count(op, z, x, y)
				s.is("%s %s, %s", text, name(z, x), name(z, y))
			})
			for i, m := range mems(false) {
				r := Reg(i*3) % 16
				s.CountM(op, z, r, m)
				s.is("%s %s, %s", text, name(z, r), mname(z, m))
			}
		}
		for i, m := range mems(false) {
			r := Reg(i*3) % 16
			s.LoadBE(z, r, m)
			s.is("movbe %s, %s", name(z, r), mname(z, m))
			s.StoreBE(z, m, r)
			s.is("movbe %s, %s", mname(z, m), name(z, r))
		}
		for i, text := range []string{"bt", "bts", "btr", "btc"} {
			s.bitOps(BT+Bit(i), text, z)
		}
	}
}

func (s *sweep) bitOps(op Bit, text string, z Size) {
	pairs(func(x, y Reg) {
		s.Bit(op, z, x, y)
		s.is("%s %s, %s", text, name(z, x), name(z, y))
	})
	for i, m := range mems(false) {
		r, n := Reg(i*3)%16, counts[i%len(counts)]
		s.BitI(op, z, r, n)
		s.is("%s %s, %d", text, name(z, r), n)
		s.BitMI(op, z, m, n)
		s.is("%s %s, %d", text, mname(z, m), n)
	}
}

func (s *sweep) conditions() {
	for i, text := range conds {
		c := Cond(i)
		for r := RAX; r <= R15; r++ {
			s.Set(c, r)
			s.is("set%s %s", text, name(S8, r))
			s.SetM(c, At(r, 1))
			s.is("set%s %s", text, mname(S8, At(r, 1)))
		}
		for _, z := range wide {
			pairs(func(x, y Reg) {
				s.Cmov(c, z, x, y)
				s.is("cmov%s %s, %s", text, name(z, x), name(z, y))
				s.CmovM(c, z, x, At(y, 16))
				s.is("cmov%s %s, %s", text, name(z, x), mname(z, At(y, 16)))
			})
		}
	}
}

func (s *sweep) others() {
	for _, m := range mems(false) {
		s.LdMXCSR(m)
		s.is("ldmxcsr %s", mname(S32, m))
		s.StMXCSR(m)
		s.is("stmxcsr %s", mname(S32, m))
		s.JmpM(m)
		s.is("jmp %s", mname(S64, m))
		s.CallM(m)
		s.is("call %s", mname(S64, m))
	}
	for r := RAX; r <= R15; r++ {
		s.JmpR(r)
		s.is("jmp %s", name(S64, r))
		s.CallR(r)
		s.is("call %s", name(S64, r))
	}
	s.Ret()
	s.is("ret")
	s.Int3()
	s.is("int3")
	s.Ud2()
	s.is("ud2")
	for i, text := range []string{
		"nop", "xchg ax, ax", "nop dword ptr [rax]", "{disp8} nop dword ptr [rax]",
		"{disp8} nop dword ptr [rax+rax*1]", "{disp8} nop word ptr [rax+rax*1]", "{disp32} nop dword ptr [rax]",
		"{disp32} nop dword ptr [rax+rax*1]", "{disp32} nop word ptr [rax+rax*1]",
	} {
		s.Nop(i + 1)
		s.is("%s", text)
	}
}
