// SPDX-License-Identifier: Apache-2.0

package amd64

func (s *sweep) vectors() {
	for _, op := range []struct {
		SSE
		text, ptr string
	}{
		{ADDSS, "addss", "dword"}, {ADDSD, "addsd", "qword"}, {SUBSS, "subss", "dword"}, {SUBSD, "subsd", "qword"},
		{MULSS, "mulss", "dword"}, {MULSD, "mulsd", "qword"}, {DIVSS, "divss", "dword"}, {DIVSD, "divsd", "qword"},
		{MINSS, "minss", "dword"}, {MINSD, "minsd", "qword"}, {MAXSS, "maxss", "dword"}, {MAXSD, "maxsd", "qword"},
		{SQRTSS, "sqrtss", "dword"}, {SQRTSD, "sqrtsd", "qword"}, {CVTSS2SD, "cvtss2sd", "dword"}, {CVTSD2SS, "cvtsd2ss", "qword"},
		{ANDPS, "andps", "xmmword"}, {ANDNPS, "andnps", "xmmword"}, {ORPS, "orps", "xmmword"}, {XORPS, "xorps", "xmmword"},
		{PAND, "pand", "xmmword"}, {PANDN, "pandn", "xmmword"}, {POR, "por", "xmmword"}, {PXOR, "pxor", "xmmword"},
		{PUNPCKHQDQ, "punpckhqdq", "xmmword"},
	} {
		pairs(func(x, y Reg) {
			s.XX(op.SSE, Xmm(x), Xmm(y))
			s.is("%s %s, %s", op.text, xname(Xmm(x)), xname(Xmm(y)))
		})
		triples(func(x, y, z Reg) {
			s.XXX(op.SSE, Xmm(x), Xmm(y), Xmm(z))
			s.is("v%s %s, %s, %s", op.text, xname(Xmm(x)), xname(Xmm(y)), xname(Xmm(z)))
		})
		for i, m := range mems(false) {
			x, y := Xmm(i*3)%16, Xmm(i*7)%16
			s.XM(op.SSE, x, m)
			s.is("%s %s, %s ptr %s", op.text, xname(x), op.ptr, address(m))
			s.XXM(op.SSE, x, y, m)
			s.is("v%s %s, %s, %s ptr %s", op.text, xname(x), xname(y), op.ptr, address(m))
		}
	}
	for i, op := range []Compare{UCOMISS, UCOMISD, COMISS, COMISD} {
		text, z := []string{"ucomiss", "ucomisd", "comiss", "comisd"}[i], wide[i%2]
		pairs(func(x, y Reg) {
			s.Compare(op, Xmm(x), Xmm(y))
			s.is("%s %s, %s", text, xname(Xmm(x)), xname(Xmm(y)))
		})
		for i, m := range mems(false) {
			s.CompareM(op, Xmm(i)%16, m)
			s.is("%s %s, %s", text, xname(Xmm(i)%16), mname(z, m))
		}
	}
	s.fused()
}

func (s *sweep) fused() {
	for i, op := range []FMA{
		VFMADD132, VFMSUB132, VFNMADD132, VFNMSUB132,
		VFMADD213, VFMSUB213, VFNMADD213, VFNMSUB213,
		VFMADD231, VFMSUB231, VFNMADD231, VFNMSUB231,
	} {
		for j, z := range wide {
			text := []string{"vfmadd", "vfmsub", "vfnmadd", "vfnmsub"}[i%4] + []string{"132", "213", "231"}[i/4] + []string{"ss", "sd"}[j]
			triples(func(x, y, w Reg) {
				s.FMA(op, z, Xmm(x), Xmm(y), Xmm(w))
				s.is("%s %s, %s, %s", text, xname(Xmm(x)), xname(Xmm(y)), xname(Xmm(w)))
			})
			for i, m := range mems(false) {
				x, y := Xmm(i*3)%16, Xmm(i*7)%16
				s.FMAM(op, z, x, y, m)
				s.is("%s %s, %s, %s", text, xname(x), xname(y), mname(z, m))
			}
		}
	}
}

func (s *sweep) conversions() {
	for i, z := range wide {
		mov, load := []string{"movd", "movq"}[i], []string{"movss", "movsd"}[i]
		pairs(func(r, x Reg) {
			s.MovXR(z, Xmm(x), r)
			s.is("%s %s, %s", mov, xname(Xmm(x)), name(z, r))
			s.MovRX(z, r, Xmm(x))
			s.is("%s %s, %s", mov, name(z, r), xname(Xmm(x)))
			s.Extract(z, r, Xmm(x), 1)
			s.is("%s %s, %s, 1", []string{"pextrd", "pextrq"}[i], name(z, r), xname(Xmm(x)))
		})
		for i, m := range mems(false) {
			x := Xmm(i*3) % 16
			s.LoadX(z, x, m)
			s.is("%s %s, %s", load, xname(x), mname(z, m))
			s.StoreX(z, m, x)
			s.is("%s %s, %s", load, mname(z, m), xname(x))
		}
		for j, op := range []ToFloat{CVTSI2SS, CVTSI2SD} {
			text := []string{"cvtsi2ss", "cvtsi2sd"}[j]
			pairs(func(r, x Reg) {
				s.ToFloat(op, z, Xmm(x), r)
				s.is("%s %s, %s", text, xname(Xmm(x)), name(z, r))
			})
			for i, m := range mems(false) {
				s.ToFloatM(op, z, Xmm(i)%16, m)
				s.is("%s %s, %s", text, xname(Xmm(i)%16), mname(z, m))
			}
		}
		for j, op := range []ToInt{CVTTSS2SI, CVTTSD2SI, CVTSS2SI, CVTSD2SI} {
			pairs(func(r, x Reg) {
				s.ToInt(op, z, r, Xmm(x))
				s.is("%s %s, %s", []string{"cvttss2si", "cvttsd2si", "cvtss2si", "cvtsd2si"}[j], name(z, r), xname(Xmm(x)))
			})
		}
	}
	pairs(func(x, y Reg) {
		s.MovX(Xmm(x), Xmm(y))
		s.is("movaps %s, %s", xname(Xmm(x)), xname(Xmm(y)))
		for i, op := range []Round{ROUNDSS, ROUNDSD} {
			mode := []uint8{RoundNearest, RoundDown, RoundUp, RoundZero, RoundMXCSR | NoInexact}[(x+y)%5]
			s.Round(op, Xmm(x), Xmm(y), mode)
			s.is("%s %s, %s, %d", []string{"roundss", "roundsd"}[i], xname(Xmm(x)), xname(Xmm(y)), mode)
		}
		halves := []uint8{0, 1, 0x10, 0x11}[(x+y)%4]
		s.Clmul(Xmm(x), Xmm(y), halves)
		s.is("pclmulqdq %s, %s, %d", xname(Xmm(x)), xname(Xmm(y)), halves)
	})
}
