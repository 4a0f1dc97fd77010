// SPDX-License-Identifier: Apache-2.0

package softfloat

import (
	"math"
	"math/big"
	"testing"
)

// TestIntegersMatchGo shows that the integer path, in RNE, gives the bits that
// Go's own arithmetic gives on the host, of operands near and far.
func TestIntegersMatchGo(t *testing.T) {
	g := newGenerator(2)
	for range 200_000 {
		o := g.operands()
		a, b, c := f64(o.A), f64(o.B), f64(o.C)
		s, u := f32(o.S), f32(o.T)
		for _, x := range []struct {
			name string
			got  uint64
			want float64
		}{
			{"a+b", Add64(o.A, o.B, RNE, new(Flags)), float64(a + b)},
			{"a-b", Sub64(o.A, o.B, RNE, new(Flags)), float64(a - b)},
			{"a*b", Mul64(o.A, o.B, RNE, new(Flags)), float64(a * b)},
			{"a/b", Div64(o.A, o.B, RNE, new(Flags)), float64(a / b)},
			{"√a", Sqrt64(o.A, RNE, new(Flags)), math.Sqrt(a)},
			{"a*b+c", MulAdd64(o.A, o.B, o.C, RNE, new(Flags)), math.FMA(a, b, c)},
			{"i", I64ToF64(o.I, RNE, new(Flags)), float64(o.I)},
			{"u", U64ToF64(uint64(o.I), RNE, new(Flags)), float64(uint64(o.I))},
			{"wide s", F32ToF64(o.S, new(Flags)), float64(s)},
		} {
			if x.got != canonical64(x.want) {
				t.Fatalf("%s = %#x, Go has %#x; operands %#x", x.name, x.got, canonical64(x.want), o)
			}
		}
		for _, x := range []struct {
			name string
			got  uint32
			want float32
		}{
			{"s+t", Add32(o.S, o.T, RNE, new(Flags)), float32(s + u)},
			{"s-t", Sub32(o.S, o.T, RNE, new(Flags)), float32(s - u)},
			{"s*t", Mul32(o.S, o.T, RNE, new(Flags)), float32(s * u)},
			{"s/t", Div32(o.S, o.T, RNE, new(Flags)), float32(s / u)},
			{"√s", Sqrt32(o.S, RNE, new(Flags)), float32(math.Sqrt(float64(s)))},
			{"narrow a", F64ToF32(o.A, RNE, new(Flags)), float32(a)},
			{"i", I64ToF32(o.I, RNE, new(Flags)), float32(o.I)},
		} {
			if x.got != canonical32(x.want) {
				t.Fatalf("%s = %#x, Go has %#x; operands %#x", x.name, x.got, canonical32(x.want), o)
			}
		}
	}
}

func canonical64(v float64) uint64 {
	if v != v {
		return NaN64
	}
	return math.Float64bits(v)
}

func canonical32(v float32) uint32 {
	if v != v {
		return NaN32
	}
	return math.Float32bits(v)
}

// TestHostMatchesIntegers shows that an operation does the same whether NX is
// set before it, so that the host's arithmetic may serve, or not.
func TestHostMatchesIntegers(t *testing.T) {
	g := newGenerator(3)
	for range 60_000 {
		o := g.operands()
		bothPaths(t, o, RNE)
		bothPaths(t, o, RTZ)
	}
}

// FuzzHostMatchesIntegers is TestHostMatchesIntegers on operands chosen by the
// fuzzer; it also shows that no operand and no rounding mode, reserved or not, panics.
func FuzzHostMatchesIntegers(f *testing.F) {
	g := newGenerator(4)
	for range 20 {
		o := g.operands()
		f.Add(o.A, o.B, o.C, o.I, o.S, o.T, o.U)
	}
	f.Fuzz(func(t *testing.T, a, b, c uint64, i int64, r, s, u uint32) {
		for rm := RM(0); rm < 8; rm++ {
			bothPaths(t, operands{A: a, B: b, C: c, I: i, S: r, T: s, U: u}, rm)
			// Addends that cancel are beyond a fuzzer's luck.
			c, u := Mul64(a, b, rm, new(Flags))^1<<63, Mul32(r, s, rm, new(Flags))^1<<31
			bothPaths(t, operands{A: a, B: b, C: c, I: i, S: r, T: s, U: u}, rm)
		}
	})
}

func bothPaths(t *testing.T, o operands, rm RM) {
	t.Helper()
	for name, run := range instructions {
		clean, set := Flags(0), NX
		integers, host := run(o, rm, &clean), run(o, rm, &set)
		if integers != host || clean|NX != set {
			t.Fatalf("%s mode %d: integers %#x flags %#x, host %#x flags %#x\noperands %#x",
				name, rm, integers, clean, host, set, o)
		}
	}
}

// TestSqrtScaled shows that Heron's steps end on the integer part of the root.
// Only where m·2^62 is one below a square they hover between two integers; no
// float unpacks to one of these four.
func TestSqrtScaled(t *testing.T) {
	g := newGenerator(7)
	list := []uint64{1<<62 + 2, 9<<60 - 3, 9<<60 + 3, 1<<64 - 4}
	for range 100_000 {
		root := 1<<31 + g.Uint64N(1<<31)
		square := root * root // its neighbours have roots all but integer
		list = append(list, 1<<62+g.Uint64N(3<<62), square, square+1, max(square-1, 1<<62))
	}
	for _, m := range list {
		r := sqrtScaled(m)
		n := new(big.Int).Lsh(new(big.Int).SetUint64(m), 62)
		if want := n.Sqrt(n); !want.IsUint64() || r != want.Uint64() {
			t.Fatalf("sqrtScaled(%#x) = %#x, want %#x", m, r, want)
		}
	}
}

// TestHostServes shows that the host's path is taken for everyday operands, so
// that the comparison above compares two things.
func TestHostServes(t *testing.T) {
	g := newGenerator(5)
	two := math.Float64bits(2)
	const rounds = 10_000
	midpoints := 0
	for range rounds {
		a, b := binary64.make(0, 1023+g.int32n(-50, 50), g.Uint64()), binary64.make(0, 1023+g.int32n(-50, 50), g.Uint64())
		for _, r := range []uint64{hostAdd64(a, b), hostMul64(a, b), hostDiv64(a, b), hostSqrt64(a), hostMulAdd64(a, b, two)} {
			if !settled64(r) {
				t.Fatalf("host's result %#x of %#x and %#x is not used", r, a, b)
			}
		}
		s, u := uint32(binary32.make(0, 127+g.int32n(-9, 9), g.Uint64())), uint32(binary32.make(0, 127+g.int32n(-9, 9), g.Uint64()))
		if r, ok := hostMulAdd32(s, u, s); !ok {
			midpoints++
		} else if !settled32(r) {
			t.Fatalf("host's result %#x of %#x and %#x is not used", r, s, u)
		}
	}
	if midpoints > rounds/100 {
		t.Errorf("%d of %d binary32 multiply-adds fell on midpoints", midpoints, rounds)
	}
	if hostMay(RNE, ^NX) || hostMay(RTZ, NX) || !hostMay(RNE, NX) {
		t.Error("hostMay is not RNE with NX set")
	}
	if _, ok := hostTruncate(-1.5, RTZ, NX); !ok {
		t.Error("hostTruncate leaves -1.5")
	}
	for _, x := range []float64{1 << 62, -1 << 62, math.Inf(1), math.NaN()} {
		if _, ok := hostTruncate(x, RTZ, NX); ok {
			t.Errorf("hostTruncate takes %v", x)
		}
	}
	for _, r := range []uint64{0, 1, 1 << 52, 2<<52 - 1, 0x7ff << 52, NaN64} {
		if settled64(r) || settled64(r|1<<63) {
			t.Errorf("settled64(%#x)", r)
		}
	}
	for _, r := range []uint32{0, 1, 1 << 23, 2<<23 - 1, 0xff << 23, NaN32} {
		if settled32(r) || settled32(r|1<<31) {
			t.Errorf("settled32(%#x)", r)
		}
	}
}

// BenchmarkOps measures each operation on everyday operands in RNE, by the
// integer path (NX clear before each) and by the host's (NX set).
func BenchmarkOps(b *testing.B) {
	g := newGenerator(6)
	var v64 [256]uint64
	var v32 [256]uint32
	for i := range v64 {
		v64[i] = binary64.make(0, 1023+g.int32n(-9, 9), g.Uint64())
		v32[i] = uint32(binary32.make(0, 127+g.int32n(-9, 9), g.Uint64()))
	}
	paths := []struct {
		name   string
		before Flags
	}{{"integers", 0}, {"host", NX}}
	var flags Flags
	for _, op := range []struct {
		name string
		run  func(a, b, c uint64) uint64
	}{
		{"Add64", func(a, b, _ uint64) uint64 { return Add64(a, b, RNE, &flags) }},
		{"Sub64", func(a, b, _ uint64) uint64 { return Sub64(a, b, RNE, &flags) }},
		{"Mul64", func(a, b, _ uint64) uint64 { return Mul64(a, b, RNE, &flags) }},
		{"Div64", func(a, b, _ uint64) uint64 { return Div64(a, b, RNE, &flags) }},
		{"Sqrt64", func(a, _, _ uint64) uint64 { return Sqrt64(a, RNE, &flags) }},
		{"MulAdd64", func(a, b, c uint64) uint64 { return MulAdd64(a, b, c, RNE, &flags) }},
		{"Lt64", func(a, b, _ uint64) uint64 { return truth(Lt64(a, b, &flags)) }},
		{"Min64", func(a, b, _ uint64) uint64 { return Min64(a, b, &flags) }},
		{"F64ToI64", func(a, _, _ uint64) uint64 { return uint64(F64ToI64(a, RTZ, &flags)) }},
		{"I64ToF64", func(a, _, _ uint64) uint64 { return I64ToF64(int64(a), RNE, &flags) }},
		{"F64ToF32", func(a, _, _ uint64) uint64 { return uint64(F64ToF32(a, RNE, &flags)) }},
	} {
		for _, path := range paths {
			b.Run(op.name+"/"+path.name, func(b *testing.B) {
				for i := range b.N {
					flags = path.before
					sink += op.run(v64[i&255], v64[i/2&255], v64[i/3&255])
				}
			})
		}
	}
	for _, op := range []struct {
		name string
		run  func(a, b, c uint32) uint32
	}{
		{"Add32", func(a, b, _ uint32) uint32 { return Add32(a, b, RNE, &flags) }},
		{"Mul32", func(a, b, _ uint32) uint32 { return Mul32(a, b, RNE, &flags) }},
		{"Div32", func(a, b, _ uint32) uint32 { return Div32(a, b, RNE, &flags) }},
		{"Sqrt32", func(a, _, _ uint32) uint32 { return Sqrt32(a, RNE, &flags) }},
		{"MulAdd32", func(a, b, c uint32) uint32 { return MulAdd32(a, b, c, RNE, &flags) }},
	} {
		for _, path := range paths {
			b.Run(op.name+"/"+path.name, func(b *testing.B) {
				for i := range b.N {
					flags = path.before
					sink += uint64(op.run(v32[i&255], v32[i/2&255], v32[i/3&255]))
				}
			})
		}
	}
}

var sink uint64 // keeps the compiler from dropping the work
