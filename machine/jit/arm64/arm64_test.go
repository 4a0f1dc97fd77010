// SPDX-License-Identifier: Apache-2.0

package arm64

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// assemble is what the GNU assembler makes of a source.
func assemble(t *testing.T, source []byte) []byte {
	t.Helper()
	const as = "aarch64-linux-gnu-as"
	if _, err := exec.LookPath(as); err != nil {
		t.Fatal("the GNU assembler for AArch64 is missing; install the Debian package binutils-aarch64-linux-gnu")
	}
	object := filepath.Join(t.TempDir(), "a.o")
	cmd := exec.Command(as, "-march=armv8-a+crypto", "-o", object, "-")
	cmd.Stdin = bytes.NewReader(append([]byte(".text\n"), source...))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as: %v\n%.2000s", err, out)
	}
	f, err := elf.Open(object)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code, err := f.Section(".text").Data()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// words is what the assembler makes of each instruction.
func words(t *testing.T, texts []string) [][]byte {
	t.Helper()
	code := assemble(t, []byte(strings.Join(texts, "\n")+"\n"))
	if len(code) != 4*len(texts) {
		t.Fatalf("as made %d bytes of %d instructions", len(code), len(texts))
	}
	return slices.Collect(slices.Chunk(code, 4))
}

// Every instruction, with every register in every place and every kind of
// address and constant, has the bytes that the GNU assembler gives it.
func TestAssembler(t *testing.T) {
	s := everything()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i, want := range words(t, s.text) {
		if bytes.Equal(s.code(i), want) {
			continue
		}
		t.Errorf("%s\n\tours %08x\n\tas   %08x", s.text[i], binary.LittleEndian.Uint32(s.code(i)), binary.LittleEndian.Uint32(want))
		if bad++; bad == 40 {
			t.Fatal("and so on")
		}
	}
	t.Logf("%d instructions", len(s.text))
}

var update = flag.Bool("update", false, "rewrite testdata/encodings.txt")

var (
	register  = regexp.MustCompile(`\b([wxsdbv])(zr|[0-9]+)\b`)
	stack     = regexp.MustCompile(`\bw?sp\b`)
	constant  = regexp.MustCompile(`#-?[0-9][0-9a-fx]*\b`)
	condition = regexp.MustCompile(`\b(` + strings.Join(conds, "|") + `)$`)
)

// form is an instruction's text with operands reduced to their kinds: one line
// of the manual.
func form(text string) string {
	text = stack.ReplaceAllStringFunc(text, func(s string) string { return map[string]string{"sp": "x", "wsp": "w"}[s] })
	text = register.ReplaceAllString(text, "$1")
	return condition.ReplaceAllString(constant.ReplaceAllString(text, "#"), "cond")
}

// The words are those of testdata/encodings.txt, which names each form of
// instruction once, and can be read beside the manual without tools.
func TestEncodings(t *testing.T) {
	const file = "testdata/encodings.txt"
	s := everything()
	var forms []string
	at, having := map[string]int{}, map[string][]string{}
	for i, text := range s.text {
		f := form(text)
		if having[f] == nil {
			forms = append(forms, f)
		}
		at[text], having[f] = i, append(having[f], text)
	}
	if *update {
		slices.Sort(forms)
		var pick []string // one of each form, with a mixture of operands
		for i, f := range forms {
			pick = append(pick, having[f][(i*37+11)%len(having[f])])
		}
		var b bytes.Buffer
		fmt.Fprintln(&b, "# Each form of instruction: its word, then the assembler's words for it.")
		for i, code := range words(t, pick) {
			fmt.Fprintf(&b, "%08x %s\n", binary.LittleEndian.Uint32(code), pick[i])
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(golden)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		code, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		seen[form(text)] = true
		if i, ok := at[text]; !ok {
			t.Errorf("%s: nothing writes it", text)
		} else if got := fmt.Sprintf("%08x", binary.LittleEndian.Uint32(s.code(i))); got != code {
			t.Errorf("%s: wrote %s, should be %s", text, got, code)
		}
	}
	for _, f := range forms {
		if !seen[f] {
			t.Errorf("%s has no line in %s", f, file)
		}
	}
}

// Branches back and forward end where the assembler's do, each kind of them.
func TestBranches(t *testing.T) {
	var a Asm
	var source bytes.Buffer
	both := func(l Label, to string) {
		emit := func(format string, args ...any) { fmt.Fprintf(&source, format+", "+to+"\n", args...) }
		a.B(l)
		fmt.Fprintf(&source, "b %s\n", to)
		a.Bl(l)
		fmt.Fprintf(&source, "bl %s\n", to)
		for c := EQ; c < AL; c++ {
			a.BCond(c, l)
			fmt.Fprintf(&source, "b.%s %s\n", conds[c], to)
		}
		each(func(r Reg) {
			for _, z := range wide {
				a.Cbz(z, r, l)
				emit("cbz %s", name(z, r))
				a.Cbnz(z, r, l)
				emit("cbnz %s", name(z, r))
			}
			for _, bit := range []uint{uint(r), uint(r) + 32} {
				a.Tbz(r, bit, l)
				emit("tbz %s, #%d", name(S64, r), bit)
				a.Tbnz(r, bit, l)
				emit("tbnz %s, #%d", name(S64, r), bit)
			}
			a.Adr(r, l)
			emit("adr %s", name(S64, r))
		})
	}
	for i, distance := range []int{0, 1, 3, 1000, 7000} {
		back, ahead := a.NewLabel(), a.NewLabel()
		a.Bind(back)
		if a.Offset(ahead) != -1 || a.Offset(back) != len(a.Code) {
			t.Errorf("Offset says %d and %d at %d", a.Offset(ahead), a.Offset(back), len(a.Code))
		}
		fmt.Fprintf(&source, "back%d:\n", i)
		both(ahead, fmt.Sprint("ahead", i))
		for range distance {
			a.Nop()
		}
		fmt.Fprintf(&source, ".rept %d\nnop\n.endr\n", distance)
		both(back, fmt.Sprint("back", i))
		a.Bind(ahead)
		fmt.Fprintf(&source, "ahead%d:\n", i)
	}
	if err := a.Finish(); err != nil {
		t.Fatal(err)
	}
	want := assemble(t, source.Bytes())
	if len(want) != len(a.Code) {
		t.Fatalf("%d bytes, as has %d", len(a.Code), len(want))
	}
	for i := 0; i < len(want); i += 4 {
		if !bytes.Equal(a.Code[i:i+4], want[i:i+4]) {
			t.Fatalf("at %#x ours % x, as % x", i, a.Code[i:i+4], want[i:i+4])
		}
	}
}

// A branch is written up to the end of its reach and refused one step further,
// ahead and back.
func TestReach(t *testing.T) {
	kinds := []struct {
		name   string
		write  func(*Asm, Label)
		k      reach
		ahead  int64 // the farthest
		behind int64
		step   int64
	}{
		{"b", func(a *Asm, l Label) { a.B(l) }, imm26, 1<<27 - 4, -1 << 27, 4},
		{"b.eq", func(a *Asm, l Label) { a.BCond(EQ, l) }, imm19, 1<<20 - 4, -1 << 20, 4},
		{"cbz", func(a *Asm, l Label) { a.Cbz(S64, X1, l) }, imm19, 1<<20 - 4, -1 << 20, 4},
		{"tbz", func(a *Asm, l Label) { a.Tbz(X1, 1, l) }, imm14, 1<<15 - 4, -1 << 15, 4},
		{"adr", func(a *Asm, l Label) { a.Adr(X1, l) }, imm21, 1<<20 - 1, -1 << 20, 1},
	}
	for _, c := range kinds {
		for d, want := range map[int64]bool{
			c.ahead: true, c.ahead + c.step: false, c.behind: true, c.behind - c.step: false,
			0: true, c.step: true, -c.step: true, 1 << 40: false, -1 << 40: false,
		} {
			if _, ok := c.k.field(d); ok != want {
				t.Errorf("%s over %d: %v", c.name, d, ok)
			}
		}
		if c.k == imm26 {
			continue // its buffer would be too large
		}
		for _, over := range []int64{0, 4} {
			want := map[int64]error{4: ErrRange}[over]
			var a Asm
			l := a.NewLabel()
			c.write(&a, l)
			a.Code = append(a.Code, make([]byte, c.ahead&^3-4+over)...)
			a.Bind(l)
			if err := a.Finish(); !errors.Is(err, want) {
				t.Errorf("%s ahead, %d beyond: %v", c.name, over, err)
			}
			a.Reset()
			l = a.NewLabel()
			a.Bind(l)
			a.Code = append(a.Code, make([]byte, -c.behind+over)...)
			c.write(&a, l)
			if err := a.Finish(); !errors.Is(err, want) {
				t.Errorf("%s back, %d beyond: %v", c.name, over, err)
			}
		}
	}
}

// A patched branch goes where it was sent, and before that it falls through.
func TestPatch(t *testing.T) {
	var a Asm
	a.Nop()
	p := a.BPatch()
	a.Ret()
	if !slices.Equal(a.Patches, []Patch{p}) || p != 4 {
		t.Fatalf("patches %v, returned %d", a.Patches, p)
	}
	before := bytes.Clone(a.Code)
	for target, want := range map[int]string{
		0: "ffffff17", 4: "00000014", 8: "01000014", 4 + 1<<27 - 4: "ffffff15", 4 - 1<<27: "00000016",
	} {
		if !PatchB(a.Code, p, target) {
			t.Fatalf("refused to patch to %d", target)
		}
		if got := hex.EncodeToString(a.Code[4:8]); got != want {
			t.Errorf("to %d: %s, want %s", target, got, want)
		}
	}
	PatchB(a.Code, p, int(p)+4)
	if !bytes.Equal(a.Code, before) {
		t.Error("undoing a patch leaves a trace")
	}
}

// A patch outside the code or between instructions, or to a target that is out
// of reach or between instructions, is refused.
func TestPatchRefused(t *testing.T) {
	code := make([]byte, 8)
	for _, p := range []struct {
		at     Patch
		target int
	}{{-4, 0}, {8, 0}, {5, 1}, {2, 2}, {1 << 30, 1 << 30}, {0, 2}, {0, 1 << 27}, {4, -1 << 27}, {0, 1 << 60}} {
		if PatchB(code, p.at, p.target) {
			t.Errorf("patched %d to %d", p.at, p.target)
		}
	}
	if PatchB(nil, 0, 0) || !bytes.Equal(code, make([]byte, 8)) {
		t.Errorf("a refused patch wrote % x", code)
	}
}

// Each mistake of a caller is an error of Finish, not a panic, and Reset
// forgives it.
func TestMistakes(t *testing.T) {
	var a Asm
	for i, mistake := range []struct {
		do   func()
		want error
	}{
		{func() { a.RRR(ADD, S64, X0, SP, X1) }, ErrReg},
		{func() { a.RRR(ADD, S64, X0, X1, 33) }, ErrReg},
		{func() { a.RRI(ADD, S64, X0, ZR, 1) }, ErrReg},
		{func() { a.RRI(ADD, S64, ZR, X0, 1) }, ErrReg},
		{func() { a.RRI(ADDS, S64, SP, X0, 1) }, ErrReg},
		{func() { a.RRI(AND, S64, ZR, X0, 1) }, ErrReg},
		{func() { a.RRI(ANDS, S64, SP, X0, 1) }, ErrReg},
		{func() { a.RRX(ADD, S64, X0, ZR, X1, UXTX, 0) }, ErrReg},
		{func() { a.Mov(S64, SP, ZR) }, ErrReg},
		{func() { a.MovImm(SP, 1) }, ErrReg},
		{func() { a.Load(S64, X0, At(ZR, 0)) }, ErrReg},
		{func() { a.Load(S64, SP, At(X0, 0)) }, ErrReg},
		{func() { a.LoadPair(S64, X0, X0, At(X1, 0)) }, ErrReg},
		{func() { a.LoadPairV(S64, 3, 3, At(X1, 0)) }, ErrReg},
		{func() { a.VVV(FADD, S64, 0, 1, 32) }, ErrReg},
		{func() { a.RRR(ADD, S8, X0, X1, X2) }, ErrSize},
		{func() { a.RRR(ADD, 4, X0, X1, X2) }, ErrSize},
		{func() { a.VV(FNEG, S16, 0, 1) }, ErrSize},
		{func() { a.Fcvt(S64, S64, 0, 1) }, ErrSize},
		{func() { a.MovSX(S64, S64, X0, X1) }, ErrSize},
		{func() { a.LoadSX(S32, S32, X0, At(X1, 0)) }, ErrSize},
		{func() { a.LoadV(S16, 0, At(X1, 0)) }, ErrSize},
		{func() { a.Load(4, X0, At(X1, 0)) }, ErrSize},
		{func() { a.StorePair(S16, At(X1, 0), X0, X2) }, ErrSize},
		{func() { a.MulAdd(SMADDL, S32, X0, X1, X2, X3) }, ErrSize},
		{func() { a.RRI(ADD, S64, X0, X1, 0x1001) }, ErrImm},
		{func() { a.RRI(ADD, S64, X0, X1, 1<<24) }, ErrImm},
		{func() { a.RRI(ADD, S64, X0, X1, -1<<63) }, ErrImm},
		{func() { a.RRI(ADD, S32, X0, X1, 1<<32) }, ErrImm},
		{func() { a.RRI(AND, S64, X0, X1, 0) }, ErrImm},
		{func() { a.RRI(AND, S64, X0, X1, -1) }, ErrImm},
		{func() { a.RRI(AND, S64, X0, X1, 5) }, ErrImm},
		{func() { a.RRI(BIC, S64, X0, X1, 5) }, ErrImm},
		{func() { a.RRI(ORR, S32, X0, X1, 0x1fffffffe) }, ErrImm},
		{func() { a.RRS(ADD, S32, X0, X1, X2, LSL, 32) }, ErrImm},
		{func() { a.RRX(ADD, S64, X0, X1, X2, UXTB, 5) }, ErrImm},
		{func() { a.Movz(S32, X0, 1, 2) }, ErrImm},
		{func() { a.ShiftI(LSL, S32, X0, X1, 32) }, ErrImm},
		{func() { a.ShiftI(ROR, S64, X0, X1, 64) }, ErrImm},
		{func() { a.Field(UBFX, S64, X0, X1, 60, 5) }, ErrImm},
		{func() { a.Field(BFI, S64, X0, X1, 0, 0) }, ErrImm},
		{func() { a.Field(BFI, S64, X0, X1, 64, 1) }, ErrImm},
		{func() { a.Field(BFI, S64, X0, X1, 1, 1<<63) }, ErrImm},
		{func() { a.Ccmp(S64, EQ, X0, X1, 16) }, ErrImm},
		{func() { a.CcmpI(S64, EQ, X0, 32, 0) }, ErrImm},
		{func() { a.CcmpI(S64, EQ, X0, -32, 0) }, ErrImm},
		{func() { a.CcmpI(S64, EQ, X0, -1<<63, 0) }, ErrImm},
		{func() { a.Tbz(X0, 64, a.NewLabel()) }, ErrImm},
		{func() { a.Set(AL, X0) }, ErrCond},
		{func() { a.BCond(AL, a.NewLabel()) }, ErrCond},
		{func() { a.Select(CSEL, S64, 15, X0, X1, X2) }, ErrCond},
		{func() { a.SelectV(S64, 15, 0, 1, 2) }, ErrCond},
		{func() { a.Ccmp(S64, 15, X0, X1, 0) }, ErrCond},
		{func() { a.Load(S64, X0, At(X1, 4095*8+8)) }, ErrMem},
		{func() { a.Load(S64, X0, At(X1, 257)) }, ErrMem},
		{func() { a.Load(S8, X0, At(X1, -257)) }, ErrMem},
		{func() { a.Load(S8, X0, Mem{Base: X1, Mode: Indexed, Disp: 1}) }, ErrMem},
		{func() { a.Load(S8, X0, Mem{Base: X1, Mode: 4}) }, ErrMem},
		{func() { a.LoadPair(S64, X0, X1, At(X2, 512)) }, ErrMem},
		{func() { a.LoadPair(S64, X0, X1, At(X2, 4)) }, ErrMem},
		{func() { a.StorePair(S64, Mem{Base: X1, Mode: Indexed}, X0, X1) }, ErrMem},
		{func() { a.RRS(ADC, S64, X0, X1, X2, LSL, 1) }, ErrOp},
		{func() { a.RRS(ADD, S64, X0, X1, X2, ROR, 1) }, ErrOp},
		{func() { a.RRX(AND, S64, X0, X1, X2, UXTB, 0) }, ErrOp},
		{func() { a.RRI(ADC, S64, X0, X1, 0) }, ErrOp},
		{func() { a.RRR(200, S64, X0, X1, X2) }, ErrOp},
		{func() { a.ShiftI(9, S64, X0, X1, 0) }, ErrOp},
		{func() { a.ShiftR(9, S64, X0, X1, X2) }, ErrOp},
		{func() { a.Field(9, S64, X0, X1, 0, 1) }, ErrOp},
		{func() { a.B(a.NewLabel()) }, ErrLabel},
		{func() { a.B(0) }, ErrLabel},
		{func() { a.BCond(EQ, 7) }, ErrLabel},
		{func() { a.Bind(-1) }, ErrLabel},
		{func() { l := a.NewLabel(); a.Bind(l); a.Bind(l) }, ErrLabel},
		{func() { a.Align(0); a.Align(-4); a.Align(6); a.Nop(); a.Align(16) }, nil},
	} {
		a.Reset()
		mistake.do()
		if err := a.Finish(); !errors.Is(err, mistake.want) {
			t.Errorf("mistake %d: %v, want %v", i, err, mistake.want)
		}
	}
}

// No operands at all make a method panic, whatever they are.
func TestNonsense(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var a Asm
	for range 100_000 {
		n := random.Uint64()
		z, r, q, x, y := Size(n), Reg(n>>8), Reg(n>>16), Reg(n>>24), Reg(n>>32)
		m := Mem{q, x, Mode(n >> 40 & 7), n&1 != 0, int32(n >> 8)}
		a.Reset()
		a.RRS(ALU(n>>48), z, r, q, x, Shift(n>>56), uint(n>>40))
		a.RRX(ALU(n>>48), z, r, q, x, Extend(n>>56), uint(n>>40))
		a.RRI(ALU(n>>48), z, r, q, int64(n))
		a.Field(Field(n>>48), z, r, q, uint(n>>50), uint(n>>40))
		a.ShiftI(Shift(n>>48), z, r, q, uint(n>>40))
		a.MovZX(z, r, q)
		a.MovSX(z, Size(x), r, q)
		a.MovImm(r, n)
		a.Load(z, r, m)
		a.LoadSX(z, Size(y), r, m)
		a.StoreV(z, m, Vec(r))
		a.LoadPair(z, r, x, m)
		a.Set(Cond(y), r)
		a.CcmpI(z, Cond(y), r, int(n), uint(n>>7))
		a.Fcvt(z, Size(y), Vec(r), Vec(q))
		a.Tbz(r, uint(n>>5), Label(n>>3))
	}
}

// Fits and AddFits say what Load and RRI accept.
func TestFits(t *testing.T) {
	var a Asm
	for d := int32(-300); d < 33000; d++ {
		for z := S8; z <= S64; z++ {
			a.Reset()
			if a.Load(z, X0, At(X1, d)); Fits(z, d) != (a.Finish() == nil) {
				t.Fatalf("size %d, offset %d: Fits %v, Load %v", z, d, Fits(z, d), a.Finish())
			}
		}
		for _, v := range []int64{int64(d), int64(d) << 11, int64(d) << 12} {
			a.Reset()
			if a.RRI(SUBS, S64, X0, X1, v); AddFits(v) != (a.Finish() == nil) {
				t.Fatalf("%d: AddFits %v, RRI %v", v, AddFits(v), a.Finish())
			}
		}
	}
}

// Align reaches the next multiple, and nothing when it is there.
func TestAlign(t *testing.T) {
	for n := range 20 {
		var a Asm
		for range n {
			a.Nop()
		}
		a.Align(32)
		if want := (4*n + 31) / 32 * 32; len(a.Code) != want {
			t.Errorf("from %d to %d, want %d", 4*n, len(a.Code), want)
		}
	}
}

// region is twenty instructions as a translator would write them.
func region(a *Asm) {
	slow, loop := a.NewLabel(), a.NewLabel()
	a.Bind(loop)
	a.Load(S64, X10, At(X19, 0x50))
	a.RRI(ADD, S64, X11, X10, 16)
	a.Field(UBFX, S64, X12, X11, 12, 10)
	a.RRS(ADD, S64, X12, X20, X12, LSL, 4)
	a.LoadPair(S64, X13, X14, At(X12, 0))
	a.RRI(AND, S64, X15, X11, -4096)
	a.Cmp(S64, X13, X15)
	a.BCond(NE, slow)
	a.Load(S64, X10, Mem{Base: X14, Index: X11, Mode: Indexed})
	a.RRR(ADD, S64, X1, X10, X2)
	a.MovSX(S32, S64, X1, X1)
	a.Store(S64, At(X19, 0x158), X1)
	a.ShiftR(LSL, S64, X3, X1, X2)
	a.MovImm(X10, 0x12340000)
	a.VVV(FADD, S64, 1, 2, 3)
	a.VVVV(FMADD, S64, 1, 2, 3, 4)
	a.RRI(SUBS, S64, X21, X21, 20)
	a.BCond(PL, loop)
	a.BPatch()
	a.Bind(slow)
	a.Ret()
}

// A used Asm allocates nothing.
func TestAllocations(t *testing.T) {
	var a Asm
	if n := testing.AllocsPerRun(100, func() { a.Reset(); region(&a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A translator's mixture of instructions.
func BenchmarkInstruction(b *testing.B) {
	var a Asm
	for b.Loop() {
		a.Reset()
		for range 25 {
			region(&a)
		}
	}
	if err := a.Finish(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(25*20), "ns/instruction")
}
