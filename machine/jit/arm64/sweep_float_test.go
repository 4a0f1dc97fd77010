// SPDX-License-Identifier: Apache-2.0

package arm64

import "fmt"

// mems are addresses for accesses of a size: each kind of offset at its ends,
// each base, each index.
func mems(z Size) (list []Mem) {
	unit := int32(1) << z
	for i, d := range []int32{0, unit, 2047 * unit, 4095 * unit, -1, -256, 1, 255, 255 &^ (unit - 1)} {
		list = append(list, At(Reg(i), d))
	}
	each(func(r Reg) {
		list = append(list, At(withSP(r), int32(r)*unit))
		for mode := Indexed; mode <= IndexedS; mode++ {
			for _, scaled := range []bool{false, true} {
				list = append(list,
					Mem{Base: withSP(r), Index: (r*3 + 2) % 32, Mode: mode, Scaled: scaled},
					Mem{Base: withSP((r*7 + 5) % 32), Index: r, Mode: mode, Scaled: scaled})
			}
		}
	})
	return list
}

// address is a memory operand in the assembler's words.
func address(z Size, m Mem) string {
	base := name(S64, m.Base)
	index := ""
	switch m.Mode {
	case Offset:
		if m.Disp != 0 {
			index = fmt.Sprintf(", #%d", m.Disp)
		}
		return "[" + base + index + "]"
	case Indexed:
		index = name(S64, m.Index)
		if m.Scaled {
			index += ", lsl"
		}
	case IndexedU:
		index = name(S32, m.Index) + ", uxtw"
	case IndexedS:
		index = name(S32, m.Index) + ", sxtw"
	}
	if m.Scaled {
		index += fmt.Sprintf(" #%d", z)
	}
	return "[" + base + ", " + index + "]"
}

func (s *sweep) memories() {
	for z := S8; z <= S64; z++ {
		suffix := []string{"b", "h", "", ""}[z]
		for i, m := range mems(z) {
			r := Reg(i*5) % 32
			s.Load(z, r, m)
			s.is("ldr%s %s, %s", suffix, name(z, r), address(z, m))
			s.Store(z, m, r)
			s.is("str%s %s, %s", suffix, name(z, r), address(z, m))
			for to := S32; to <= S64 && z < S64; to++ {
				if z < to {
					s.LoadSX(z, to, r, m)
					s.is("ldrs%s %s, %s", []string{"b", "h", "w"}[z], name(to, r), address(z, m))
				}
			}
			if z >= S32 {
				s.LoadV(z, Vec(r), m)
				s.is("ldr %s, %s", fname(z, Vec(r)), address(z, m))
				s.StoreV(z, m, Vec(r))
				s.is("str %s, %s", fname(z, Vec(r)), address(z, m))
			}
		}
	}
	for _, z := range wide {
		for i, n := range []int32{0, 1, 63, -1, -64} {
			some(func(x, y, b, _ Reg) {
				m := At(withSP(b), n<<z)
				s.StorePair(z, m, x, y)
				s.is("stp %s, %s, %s", name(z, x), name(z, y), address(z, m))
				s.StorePairV(z, m, Vec(x), Vec(y))
				s.is("stp %s, %s, %s", fname(z, Vec(x)), fname(z, Vec(y)), address(z, m))
				if y = (x + 1 + Reg(i)) % 32; y != x {
					s.LoadPair(z, x, y, m)
					s.is("ldp %s, %s, %s", name(z, x), name(z, y), address(z, m))
					s.LoadPairV(z, Vec(x), Vec(y), m)
					s.is("ldp %s, %s, %s", fname(z, Vec(x)), fname(z, Vec(y)), address(z, m))
				}
			})
		}
	}
}

func (s *sweep) floats() {
	for _, z := range wide {
		some(func(rd, rx, ry, rw Reg) {
			d, x, y, w := Vec(rd), Vec(rx), Vec(ry), Vec(rw)
			for i, op := range []Float2{FMUL, FDIV, FADD, FSUB, FMAX, FMIN, FMAXNM, FMINNM, FNMUL} {
				text := []string{"fmul", "fdiv", "fadd", "fsub", "fmax", "fmin", "fmaxnm", "fminnm", "fnmul"}[i]
				s.VVV(op, z, d, x, y)
				s.is("%s %s, %s, %s", text, fname(z, d), fname(z, x), fname(z, y))
			}
			for i, op := range []Float1{FMOV, FABS, FNEG, FSQRT, FRINTN, FRINTP, FRINTM, FRINTZ, FRINTA, FRINTX, FRINTI} {
				text := []string{"fmov", "fabs", "fneg", "fsqrt", "frintn", "frintp", "frintm", "frintz", "frinta", "frintx", "frinti"}[i]
				s.VV(op, z, d, x)
				s.is("%s %s, %s", text, fname(z, d), fname(z, x))
			}
			for i, op := range []Float3{FMADD, FMSUB, FNMADD, FNMSUB} {
				s.VVVV(op, z, d, x, y, w)
				s.is("%s %s, %s, %s, %s", []string{"fmadd", "fmsub", "fnmadd", "fnmsub"}[i], fname(z, d), fname(z, x), fname(z, y), fname(z, w))
			}
			for i, op := range []Compare{FCMP, FCMPE} {
				text := []string{"fcmp", "fcmpe"}[i]
				s.Compare(op, z, x, y)
				s.is("%s %s, %s", text, fname(z, x), fname(z, y))
				s.CompareZ(op, z, x)
				s.is("%s %s, #0.0", text, fname(z, x))
			}
			c := Cond(rd+rw) % 14
			s.SelectV(z, c, d, x, y)
			s.is("fcsel %s, %s, %s, %s", fname(z, d), fname(z, x), fname(z, y), conds[c])
			s.Fcvt(z, z^1, d, x)
			s.is("fcvt %s, %s", fname(z^1, d), fname(z, x))
			s.MovVR(z, d, rx)
			s.is("fmov %s, %s", fname(z, d), name(z, rx))
			s.MovRV(z, rd, x)
			s.is("fmov %s, %s", name(z, rd), fname(z, x))
			for _, other := range wide {
				s.ToFloat(SCVTF, other, z, d, rx)
				s.is("scvtf %s, %s", fname(z, d), name(other, rx))
				s.ToFloat(UCVTF, other, z, d, rx)
				s.is("ucvtf %s, %s", fname(z, d), name(other, rx))
				for i, op := range []ToInt{FCVTNS, FCVTNU, FCVTAS, FCVTAU, FCVTPS, FCVTPU, FCVTMS, FCVTMU, FCVTZS, FCVTZU} {
					s.ToInt(op, z, other, rd, x)
					s.is("fcvt%c%c %s, %s", "napmz"[i/2], "su"[i%2], name(other, rd), fname(z, x))
				}
			}
		})
	}
}

func (s *sweep) vectors() {
	some(func(rd, rx, ry, _ Reg) {
		d, x, y := Vec(rd), Vec(rx), Vec(ry)
		for i, op := range []Logic8{VAND, VBIC, VORR, VORN, VEOR, VBSL, VBIT, VBIF, VCMTST} {
			text := []string{"and", "bic", "orr", "orn", "eor", "bsl", "bit", "bif", "cmtst"}[i]
			s.Logic8(op, d, x, y)
			s.is("%s v%d.8b, v%d.8b, v%d.8b", text, d, x, y)
		}
		s.Cnt8(d, x)
		s.is("cnt v%d.8b, v%d.8b", d, x)
		s.Addv8(d, x)
		s.is("addv b%d, v%d.8b", d, x)
		s.Pmull(d, x, y)
		s.is("pmull v%d.1q, v%d.1d, v%d.1d", d, x, y)
		s.Pmull2(d, x, y)
		s.is("pmull2 v%d.1q, v%d.2d, v%d.2d", d, x, y)
		s.High(rd, x)
		s.is("mov %s, v%d.d[1]", name(S64, rd), x)
	})
}
