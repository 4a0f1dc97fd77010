// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"tandem/host/codemem"
	. "tandem/machine/jit/arm64"
)

// The fixed registers, as translated code names them.
const (
	ctx   = X19
	tlb   = X20
	steps = X21
)

// guest are the guest registers that the code of tests has in X0 to X9.
var guest = []int{2, 8, 10, 11, 12, 13, 14, 15, 16, 17}

// context begins with guest registers, as that of a hart does.
type context struct {
	x     [256]uint64
	float Float
	extra [8]uint64
}

// still does not move, as a stack might.
var still struct {
	context
	entries [4]uint64
}

// slot is an extra's place.
func slot(i int) Mem { return At(ctx, int32(unsafe.Offsetof(context{}.extra))+8*int32(i)) }

// arena is where a test puts code: every piece at a place that was not run before.
type arena struct {
	*codemem.Memory
	used int
	Asm
}

func newArena(t *testing.T) *arena {
	m, err := codemem.New(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	a := &arena{Memory: m}
	begin(&a.Asm)
	return a
}

// begin loads the guest's registers, and end stores them.
func begin(a *Asm) {
	for i, r := range guest {
		a.Load(S64, Reg(i), At(ctx, int32(r)*8))
	}
}

func end(a *Asm) {
	for i, r := range guest {
		a.Store(S64, At(ctx, int32(r)*8), Reg(i))
	}
	a.Ret()
}

// finish makes the code that was written callable.
func (a *arena) finish(t *testing.T) uintptr {
	t.Helper()
	end(&a.Asm)
	if err := a.Asm.Finish(); err != nil {
		t.Fatal(err)
	}
	at := a.RX() + uintptr(a.used)
	n := copy(a.RW[a.used:], a.Asm.Code)
	a.used += (n + 63) &^ 63
	Flush(at, n)
	a.Asm.Reset()
	begin(&a.Asm)
	return at
}

// Enter brings context, TLB and steps to translated code, and the steps left back.
func TestEnter(t *testing.T) {
	a := newArena(t)
	for i := range guest {
		a.RRI(ADD, S64, Reg(i), Reg(i), int64(i)+1)
	}
	a.Store(S64, slot(0), tlb)
	a.Store(S64, slot(1), ctx)
	a.RRI(SUB, S64, steps, steps, 5)
	code := a.finish(t)
	c, entries, want := &still.context, &still.entries, context{}
	for r := range c.x {
		c.x[r] = uint64(r) << 40
	}
	want = *c
	for i, r := range guest {
		want.x[r] += uint64(i) + 1
	}
	want.extra[0] = uint64(uintptr(unsafe.Pointer(entries)))
	want.extra[1] = uint64(uintptr(unsafe.Pointer(c)))
	if left := Enter(code, unsafe.Pointer(c), unsafe.Pointer(entries), 1<<63+7); left != 1<<63+2 {
		t.Errorf("%#x steps left", left)
	}
	if *c != want {
		t.Errorf("left  %x\nwanted %x", *c, want)
	}
}

// Translated code may change every scratch register and the flags: Go, its
// collector and its stacks do not mind, on any goroutine.
func TestScratch(t *testing.T) {
	a := newArena(t)
	loop := a.NewLabel()
	for r := X10; r <= X27; r++ {
		if r != X18 && r != ctx && r != tlb && r != steps {
			a.MovImm(r, 0xdead_beef_0000_0001*uint64(r))
		}
	}
	for v := range Vec(32) {
		a.MovVR(S64, v, X10)
	}
	a.Bind(loop)
	a.RRI(ADD, S64, X2, X2, 1)
	a.RRI(SUBS, S64, steps, steps, 1)
	a.BCond(NE, loop)
	a.MovImm(X10, 0xf0000000)
	a.Msr(NZCV, X10)
	code := a.finish(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			c := new(context)
			for i := range 20 {
				if left := Enter(code, unsafe.Pointer(c), nil, 50_000); left != 0 {
					t.Errorf("%d steps left", left)
				}
				if deep(100*i) != 100*i || c.x[10] != uint64(i+1)*50_000 {
					t.Errorf("round %d: x10 %d", i, c.x[10])
				}
				runtime.GC()
			}
		})
	}
	all.Wait()
}

// deep makes the stack grow.
func deep(n int) int {
	var frame [64]byte
	if n == 0 {
		return int(frame[n])
	}
	return deep(n-1) + 1 + int(frame[n%64])
}

// clmul is a carry-less product.
func clmul(x, y uint64) (hi, lo uint64) {
	for i := range 64 {
		if y>>i&1 != 0 {
			lo ^= x << i
			hi ^= x >> 1 >> (63 - i)
		}
	}
	return hi, lo
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// The operands of computations, and their result: x10, x11 and x12.
const x, y, z = X2, X3, X4

// computations is code and what it should compute of two numbers.
var computations = []struct {
	name string
	code func(*arena)
	want func(x, y uint64) uint64
}{
	{"add", func(a *arena) { a.RRR(ADD, S64, z, x, y) }, func(x, y uint64) uint64 { return x + y }},
	{"addw", func(a *arena) { a.RRR(ADD, S32, z, x, y); a.MovSX(S32, S64, z, z) }, func(x, y uint64) uint64 { return uint64(int32(x + y)) }},
	{"sub lsl", func(a *arena) { a.RRS(SUB, S64, z, x, y, LSL, 3) }, func(x, y uint64) uint64 { return x - y<<3 }},
	{"add.uw", func(a *arena) { a.RRX(ADD, S64, z, x, y, UXTW, 2) }, func(x, y uint64) uint64 { return x + uint64(uint32(y))<<2 }},
	{"addi", func(a *arena) { a.RRI(ADD, S64, z, x, -2047) }, func(x, y uint64) uint64 { return x - 2047 }},
	{"andn", func(a *arena) { a.RRR(BIC, S64, z, x, y) }, func(x, y uint64) uint64 { return x &^ y }},
	{"andi", func(a *arena) { a.RRI(AND, S64, z, x, -4096|7) }, func(x, y uint64) uint64 { return x & (1<<64 - 4096 | 7) }},
	{"sltu", func(a *arena) { a.Cmp(S64, x, y); a.Set(LO, z) }, func(x, y uint64) uint64 { return b2u(x < y) }},
	{"slt", func(a *arena) { a.Cmp(S64, x, y); a.Set(LT, z) }, func(x, y uint64) uint64 { return b2u(int64(x) < int64(y)) }},
	{"min", func(a *arena) { a.Cmp(S64, x, y); a.Select(CSEL, S64, LT, z, x, y) }, func(x, y uint64) uint64 { return uint64(min(int64(x), int64(y))) }},
	{"sll", func(a *arena) { a.ShiftR(LSL, S64, z, x, y) }, func(x, y uint64) uint64 { return x << (y & 63) }},
	{"sraw", func(a *arena) { a.ShiftR(ASR, S32, z, x, y); a.MovSX(S32, S64, z, z) }, func(x, y uint64) uint64 { return uint64(int32(x) >> (y & 31)) }},
	{"srai", func(a *arena) { a.ShiftI(ASR, S64, z, x, 13) }, func(x, y uint64) uint64 { return uint64(int64(x) >> 13) }},
	{"rori", func(a *arena) { a.ShiftI(ROR, S64, z, x, 13) }, func(x, y uint64) uint64 { return bits.RotateLeft64(x, -13) }},
	{"bfi", func(a *arena) { a.Mov(S64, z, x); a.Field(BFI, S64, z, y, 8, 20) }, func(x, y uint64) uint64 { return x&^(0xfffff<<8) | y&0xfffff<<8 }},
	{"mulhu", func(a *arena) { a.MulHigh(UMULH, z, x, y) }, func(x, y uint64) uint64 { hi, _ := bits.Mul64(x, y); return hi }},
	{"mulhsu", func(a *arena) {
		a.MulHigh(UMULH, z, x, y)
		a.RRS(AND, S64, X10, y, x, ASR, 63)
		a.RRR(SUB, S64, z, z, X10)
	}, func(x, y uint64) uint64 { hi, _ := bits.Mul64(x, y); return hi - uint64(int64(x)>>63)&y }},
	{"rem", func(a *arena) { a.Binary(SDIV, S64, z, x, y); a.MulAdd(MSUB, S64, z, z, y, x) }, func(x, y uint64) uint64 {
		if y == 0 {
			return x
		}
		return uint64(int64(x) % int64(y))
	}},
	{"ctz", func(a *arena) { a.Unary(RBIT, S64, z, x); a.Unary(CLZ, S64, z, z) }, func(x, y uint64) uint64 { return uint64(bits.TrailingZeros64(x)) }},
	{"rev8", func(a *arena) { a.Unary(REV, S64, z, x) }, func(x, y uint64) uint64 { return bits.ReverseBytes64(x) }},
	{"cpop", func(a *arena) { a.MovVR(S64, 0, x); a.Cnt8(0, 0); a.Addv8(0, 0); a.MovRV(S32, z, 0) }, func(x, y uint64) uint64 { return uint64(bits.OnesCount64(x)) }},
	{"orc.b", func(a *arena) { a.MovVR(S64, 1, x); a.Logic8(VCMTST, 1, 1, 1); a.MovRV(S64, z, 1) }, func(x, y uint64) (v uint64) {
		for i := range 8 {
			v |= b2u(x>>(8*i)&0xff != 0) * 0xff << (8 * i)
		}
		return v
	}},
	{"fadd.d", func(a *arena) { a.MovVR(S64, 0, x); a.MovVR(S64, 1, y); a.VVV(FADD, S64, 2, 0, 1); a.MovRV(S64, z, 2) },
		float2(func(x, y float64) float64 { return x + y })},
	{"fmadd.d", func(a *arena) {
		a.MovVR(S64, 0, x)
		a.MovVR(S64, 1, y)
		a.VVVV(FMADD, S64, 2, 0, 1, 0)
		a.MovRV(S64, z, 2)
	}, float2(func(x, y float64) float64 { return math.FMA(x, y, x) })},
	{"fnmsub.d", func(a *arena) {
		a.MovVR(S64, 0, x)
		a.MovVR(S64, 1, y)
		a.VVVV(FNMSUB, S64, 2, 0, 1, 1)
		a.MovRV(S64, z, 2)
	}, float2(func(x, y float64) float64 { return math.FMA(x, y, -y) })},
	{"flt.d", func(a *arena) { a.MovVR(S64, 0, x); a.MovVR(S64, 1, y); a.Compare(FCMPE, S64, 0, 1); a.Set(MI, z) },
		func(x, y uint64) uint64 { return b2u(math.Float64frombits(x) < math.Float64frombits(y)) }},
	{"fcvt.d.l", func(a *arena) { a.ToFloat(SCVTF, S64, S64, 0, x); a.MovRV(S64, z, 0) }, func(x, y uint64) uint64 { return math.Float64bits(float64(int64(x))) }},
	{"fcvt.wu.s", func(a *arena) { a.MovVR(S32, 0, x); a.ToInt(FCVTZU, S32, S32, z, 0) }, func(x, y uint64) uint64 {
		switch f := float64(math.Float32frombits(uint32(x))); {
		case !(f > 0):
			return 0
		case f >= 1<<32:
			return math.MaxUint32
		default:
			return uint64(uint32(f))
		}
	}},
	{"lb", func(a *arena) { a.Store(S64, slot(3), x); a.LoadSX(S8, S64, z, At(ctx, slot(3).Disp+5)) }, func(x, y uint64) uint64 { return uint64(int8(x >> 40)) }},
	{"lh indexed", func(a *arena) {
		a.Store(S64, slot(3), x)
		a.RRI(AND, S64, X10, y, 3)
		a.RRI(ADD, S64, X11, ctx, int64(slot(3).Disp))
		a.LoadSX(S16, S64, z, Mem{Base: X11, Index: X10, Mode: Indexed, Scaled: true})
	}, func(x, y uint64) uint64 { return uint64(int16(x >> (y & 3 * 16))) }},
	{"pair", func(a *arena) {
		a.RRI(ADD, S64, X12, ctx, int64(slot(4).Disp))
		a.StorePair(S64, At(X12, 0), x, y)
		a.LoadPairV(S64, 6, 7, At(X12, 0))
		a.VV(FNEG, S64, 7, 7)
		a.StorePairV(S64, At(X12, 0), 7, 6)
		a.LoadPair(S64, X10, X11, At(X12, 0))
		a.RRS(EOR, S64, z, X10, X11, LSR, 1)
	}, func(x, y uint64) uint64 { return y ^ 1<<63 ^ x>>1 }},
	{"branches", func(a *arena) {
		odd, table, end := a.NewLabel(), a.NewLabel(), a.NewLabel()
		a.Tbnz(x, 0, odd)
		a.Cbz(S64, y, end)
		a.Adr(X10, table)
		a.RRI(AND, S64, X11, y, 4)
		a.RRR(ADD, S64, X10, X10, X11)
		a.MovImm(z, 8)
		a.Br(X10)
		a.Bind(table)
		a.RRI(ADD, S64, z, z, 1)
		a.RRI(ADD, S64, z, z, 2)
		a.B(end)
		a.Bind(odd)
		a.MovImm(z, 0x1234_5678_9abc_def0)
		a.Bind(end)
	}, func(x, y uint64) uint64 {
		switch {
		case x&1 != 0:
			return 0x1234_5678_9abc_def0
		case y == 0:
			return 0
		case y&4 != 0:
			return 10
		}
		return 11
	}},
	{"fflags", func(a *arena) {
		a.Msr(FPSR, ZR)
		a.MovVR(S64, 0, x)
		a.VV(FSQRT, S64, 0, 0)
		a.Mrs(z, FPSR)
		a.RRI(AND, S64, z, z, 1) // IOC
	}, func(x, y uint64) uint64 {
		f := math.Float64frombits(x)
		return b2u(f < 0 || f != f && x>>51&1 == 0)
	}},
}

// float2 is a function of floats as one of bits.
func float2(f func(x, y float64) float64) func(x, y uint64) uint64 {
	return func(x, y uint64) uint64 { return math.Float64bits(f(math.Float64frombits(x), math.Float64frombits(y))) }
}

// same is equality, of any two NaNs too.
func same(x, y uint64) bool {
	return x == y || math.IsNaN(math.Float64frombits(x)) && math.IsNaN(math.Float64frombits(y))
}

var operands = []uint64{
	0, 1, 2, 4, 5, 7, 63, 64, 0xff, 0x8000, 0xffffffff, 0x80000000, 0x100000000, math.MaxInt64, 1 << 63, math.MaxUint64,
	math.Float64bits(1), math.Float64bits(-2.5), math.Float64bits(1e300), math.Float64bits(math.Inf(-1)), 0x7ff8000000000000, 0x7ff0000000000001,
	uint64(math.Float32bits(3.75)), uint64(math.Float32bits(-1)), uint64(math.Float32bits(1e10)), uint64(math.Float32bits(3e9)),
}

// The encoder's instructions do on this CPU what their names say.
func TestComputations(t *testing.T) {
	a := newArena(t)
	random := rand.New(rand.NewPCG(1, 1))
	xs := append([]uint64(nil), operands...)
	for range 30 {
		xs = append(xs, random.Uint64())
	}
	c := new(context)
	for _, f := range computations {
		f.code(a)
		code := a.finish(t)
		for _, x := range xs {
			for _, y := range xs {
				c.x[10], c.x[11], c.x[12] = x, y, 0
				Enter(code, unsafe.Pointer(c), nil, 0)
				if want := f.want(x, y); !same(c.x[12], want) {
					t.Errorf("%s of %#x, %#x: %#x, want %#x", f.name, x, y, c.x[12], want)
				}
			}
		}
	}
}

// Pmull makes both halves of a carry-less product, where the host has it.
func TestCarryless(t *testing.T) {
	if !cpu.ARM64.HasPMULL {
		t.Skip("the CPU has no PMULL")
	}
	a := newArena(t)
	a.MovVR(S64, 30, x)
	a.MovVR(S64, 31, y)
	a.Pmull(29, 30, 31)
	a.MovRV(S64, z, 29)
	a.High(X5, 29)
	code := a.finish(t)
	c := new(context)
	for _, x := range operands {
		for _, y := range operands {
			c.x[10], c.x[11] = x, y
			Enter(code, unsafe.Pointer(c), nil, 0)
			if hi, lo := clmul(x, y); c.x[12] != lo || c.x[13] != hi {
				t.Errorf("%#x × %#x: %#x:%#x, want %#x:%#x", x, y, c.x[13], c.x[12], hi, lo)
			}
		}
	}
}

// MovImm makes on this CPU the constants that it was asked for.
func TestConstants(t *testing.T) {
	a := newArena(t)
	random := rand.New(rand.NewPCG(5, 6))
	c := new(context)
	for i := range 2000 {
		v := random.Uint64() >> random.IntN(64)
		if i&1 != 0 {
			v = bits.RotateLeft64(1<<random.IntN(64)-1, random.IntN(64)) &^ (0xff << random.IntN(64))
		}
		a.MovImm(z, v)
		if Enter(a.finish(t), unsafe.Pointer(c), nil, 0); c.x[12] != v {
			t.Fatalf("%#x for %#x", c.x[12], v)
		}
	}
}

// After Flush code runs as it was last written, though it had run before as
// something else: whole pieces, at any place in their lines, and single branches.
// The memory has one view here, because user-mode emulators before QEMU 8.1 do
// not see a write through another.
func TestFlush(t *testing.T) {
	memory, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Skipf("the host forbids memory that is writable and executable: %v", err)
	}
	defer unix.Munmap(memory)
	base := uintptr(unsafe.Pointer(&memory[0]))
	c := new(context)
	for round := range uint64(500) {
		at := int(round * 52 % 4096)
		var a Asm
		a.MovImm(X2, round)
		for range round % 70 {
			a.RRI(ADD, S64, X2, X2, 1)
		}
		patch := a.BPatch()
		a.MovImm(X2, 0)
		to := len(a.Code)
		end(&a)
		copy(memory[at:], a.Code)
		Flush(base+uintptr(at), len(a.Code))
		if Enter(base+uintptr(at), unsafe.Pointer(c), nil, 0); c.x[10] != 0 {
			t.Fatalf("round %d: %d before the patch", round, c.x[10])
		}
		if !PatchB(memory, Patch(at)+patch, at+to) {
			t.Fatal("patch refused")
		}
		Flush(base+uintptr(at)+uintptr(patch), 4)
		if Enter(base+uintptr(at), unsafe.Pointer(c), nil, 0); c.x[10] != round+round%70 {
			t.Fatalf("round %d: %d, word %08x", round, c.x[10], binary.LittleEndian.Uint32(memory[at+int(patch):]))
		}
	}
	Flush(base, 0)
	Flush(base, -1)
}
