// SPDX-License-Identifier: Apache-2.0

package amd64

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// assemble is what the GNU assembler makes of a source in Intel syntax.
func assemble(t *testing.T, source []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath("as"); err != nil {
		t.Fatal("the GNU assembler is missing; install the Debian package binutils")
	}
	object := filepath.Join(t.TempDir(), "a.o")
	cmd := exec.Command("as", "--64", "-o", object, "-")
	cmd.Stdin = bytes.NewReader(append([]byte(".intel_syntax noprefix\n.text\n"), source...))
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

// slots is what the assembler makes of each instruction, padded to 16 bytes; an
// instruction has 15 at most.
func slots(t *testing.T, texts []string) [][]byte {
	t.Helper()
	var source bytes.Buffer
	for _, text := range texts {
		fmt.Fprintf(&source, "%s\n.balign 16, 0xcc\n", text)
	}
	code := assemble(t, source.Bytes())
	if len(code) != 16*len(texts) {
		t.Fatalf("as made %d bytes of %d instructions", len(code), len(texts))
	}
	return slices.Collect(slices.Chunk(code, 16))
}

// pad pads as the assembler does.
func pad(code []byte) []byte {
	return append(bytes.Clone(code), bytes.Repeat([]byte{0xcc}, max(0, 16-len(code)))...)
}

// Every instruction, with every register in every place and every kind of
// address, has the bytes that the GNU assembler gives it.
func TestAssembler(t *testing.T) {
	s := everything()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i, want := range slots(t, s.text) {
		if bytes.Equal(pad(s.code(i)), want) {
			continue
		}
		t.Errorf("%s\n\tours % x\n\tas   % x", s.text[i], pad(s.code(i)), want)
		if bad++; bad == 40 {
			t.Fatal("and so on")
		}
	}
	t.Logf("%d instructions", len(s.text))
}

var update = flag.Bool("update", false, "rewrite testdata/encodings.txt")

// form is an instruction's text with operands reduced to their kinds: one line
// of the manual.
func form(text string) string {
	mnemonic, operands, _ := strings.Cut(text, " ")
	if strings.HasPrefix(mnemonic, "{") || mnemonic == "lock" {
		return text[:strings.IndexByte(text, '[')]
	}
	kinds := []string{mnemonic}
	for o := range strings.SplitSeq(operands, ", ") {
		kinds = append(kinds, kind(o))
	}
	return strings.Join(kinds, " ")
}

func kind(operand string) string {
	for s, names := range regNames {
		for _, n := range names {
			if operand == n {
				return fmt.Sprintf("r%d", 8<<s)
			}
		}
	}
	switch {
	case strings.HasPrefix(operand, "xmm") && !strings.Contains(operand, "["):
		return "xmm"
	case strings.Contains(operand, "["):
		return operand[:strings.IndexByte(operand, '[')]
	case operand == "":
		return ""
	}
	return "imm"
}

// The bytes are those of testdata/encodings.txt, which names each form of
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
		var pick []string // one of each form, with a mixture of operands
		for i, f := range forms {
			pick = append(pick, having[f][(i*37+11)%len(having[f])])
		}
		var b bytes.Buffer
		fmt.Fprintln(&b, "# Each form of instruction: bytes, then the assembler's words for them.")
		for i, code := range slots(t, pick) {
			fmt.Fprintf(&b, "%-26x %s\n", code[:len(s.code(at[pick[i]]))], pick[i])
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
		code, text, _ := strings.Cut(line, " ")
		text = strings.TrimSpace(text)
		seen[form(text)] = true
		if i, ok := at[text]; !ok {
			t.Errorf("%s: nothing writes it", text)
		} else if got := hex.EncodeToString(s.code(i)); got != code {
			t.Errorf("%s: wrote %s, should be %s", text, got, code)
		}
	}
	for _, f := range forms {
		if !seen[f] {
			t.Errorf("%s has no line in %s", f, file)
		}
	}
}

// Jumps back are short where they reach, jumps forward are as long as asked, and
// all end where the assembler's do.
func TestJumps(t *testing.T) {
	var a Asm
	var source bytes.Buffer
	fill := func(n int) {
		a.Nop(n)
		for ; n > 0; n -= 9 {
			fmt.Fprintf(&source, "%s\n", []string{
				"", "nop", "xchg ax, ax", "nop dword ptr [rax]", "{disp8} nop dword ptr [rax]",
				"{disp8} nop dword ptr [rax+rax*1]", "{disp8} nop word ptr [rax+rax*1]", "{disp32} nop dword ptr [rax]",
				"{disp32} nop dword ptr [rax+rax*1]", "{disp32} nop word ptr [rax+rax*1]",
			}[min(n, 9)])
		}
	}
	for i, distance := range []int{0, 1, 100, 117, 122, 123, 124, 126, 127, 130, 1000} {
		back, far, near := a.NewLabel(), a.NewLabel(), a.NewLabel()
		if a.Offset(far) != -1 {
			t.Errorf("Offset says %d before Bind", a.Offset(far))
		}
		a.Bind(back)
		fmt.Fprintf(&source, "back%d:\n", i)
		fill(distance)
		c := Cond(i)
		a.Jcc(c, back)
		a.Jmp(back)
		a.Jcc(c.Not(), far)
		a.Jmp(far)
		a.Jmp(far)
		a.JccShort(c, near)
		a.JmpShort(near)
		fmt.Fprintf(&source, "j%s back%d\njmp back%[2]d\n", conds[c], i)
		fmt.Fprintf(&source, "{disp32} j%s far%d\n{disp32} jmp far%[2]d\n{disp32} jmp far%[2]d\n", conds[c.Not()], i)
		fmt.Fprintf(&source, "j%s near%d\njmp near%[2]d\n", conds[c], i)
		fill(min(distance, 125))
		a.Bind(near)
		fmt.Fprintf(&source, "near%d:\n", i)
		fill(distance)
		a.Bind(far)
		fmt.Fprintf(&source, "far%d:\n", i)
		if a.Offset(far) != len(a.Code) {
			t.Errorf("Offset says %d at %d", a.Offset(far), len(a.Code))
		}
	}
	if err := a.Finish(); err != nil {
		t.Fatal(err)
	}
	want := assemble(t, source.Bytes())
	if !bytes.Equal(a.Code, want) {
		for i := range min(len(want), len(a.Code)) {
			if a.Code[i] != want[i] {
				t.Fatalf("at %#x ours % x, as % x", i, a.Code[i:min(i+16, len(a.Code))], want[i:min(i+16, len(want))])
			}
		}
		t.Fatalf("%d bytes, as has %d", len(a.Code), len(want))
	}
}

// A patched jump goes where it was sent, its displacement never crosses a line,
// and before that it falls through.
func TestPatch(t *testing.T) {
	for lead := range 130 {
		var a Asm
		a.Nop(lead)
		a.JmpPatch()
		a.JccPatch(NE)
		a.Ret()
		if len(a.Patches) != 2 {
			t.Fatalf("%d patches", len(a.Patches))
		}
		for i, p := range a.Patches {
			if p/64 != (p+3)/64 {
				t.Errorf("after %d bytes: displacement at %d crosses a line", lead, p)
			}
			if op := a.Code[p-1]; op != [2]byte{0xe9, 0x85}[i] {
				t.Errorf("after %d bytes: opcode %x before the displacement", lead, op)
			}
			if !bytes.Equal(a.Code[p:p+4], make([]byte, 4)) {
				t.Errorf("unpatched jump does not fall through: % x", a.Code[p:p+4])
			}
			before := bytes.Clone(a.Code)
			for _, target := range []int{0, int(p), int(p) + 4, 100000} {
				if !PatchRel32(a.Code, p, target) {
					t.Fatalf("refused to patch %d to %d", p, target)
				}
				d := int32(uint32(a.Code[p]) | uint32(a.Code[p+1])<<8 | uint32(a.Code[p+2])<<16 | uint32(a.Code[p+3])<<24)
				if int(p)+4+int(d) != target {
					t.Errorf("sent to %d, goes to %d", target, int(p)+4+int(d))
				}
			}
			PatchRel32(a.Code, p, int(p)+4)
			if !bytes.Equal(a.Code, before) {
				t.Error("undoing a patch leaves a trace")
			}
		}
	}
}

// A patch outside the code, or to a target out of reach, is refused.
func TestPatchRefused(t *testing.T) {
	code := make([]byte, 8)
	for _, p := range []struct {
		at     Patch
		target int
	}{{-1, 0}, {5, 0}, {1 << 30, 0}, {0, 1<<31 + 4}, {4, -1 << 32}} {
		if PatchRel32(code, p.at, p.target) {
			t.Errorf("patched %d to %d", p.at, p.target)
		}
	}
	if !bytes.Equal(code, make([]byte, 8)) {
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
		{func() { a.Load(S64, RAX, Mem{RAX, RSP, 1, 0}) }, ErrMem},
		{func() { a.Load(S64, RAX, Mem{RAX, RBX, 3, 0}) }, ErrMem},
		{func() { a.Load(S64, RAX, Mem{RAX, RBX, 16, 0}) }, ErrMem},
		{func() { a.Jmp(a.NewLabel()) }, ErrLabel},
		{func() { a.Jmp(0) }, ErrLabel},
		{func() { a.Jcc(E, 7) }, ErrLabel},
		{func() { a.Bind(-1) }, ErrLabel},
		{func() { l := a.NewLabel(); a.Bind(l); a.Bind(l) }, ErrLabel},
		{func() { l := a.NewLabel(); a.JmpShort(l); a.Nop(128); a.Bind(l) }, ErrShort},
		{func() { l := a.NewLabel(); a.JmpShort(l); a.Nop(127); a.Bind(l) }, nil},
		{func() { a.RR(200, 200, 200, 200); a.XX(0xffff, 99, 99); a.Nop(-1); a.Align(0); a.Align(-1) }, nil},
	} {
		a.Reset()
		mistake.do()
		if err := a.Finish(); !errors.Is(err, mistake.want) {
			t.Errorf("mistake %d: %v, want %v", i, err, mistake.want)
		}
	}
}

// Align reaches the next multiple, and nothing when it is there.
func TestAlign(t *testing.T) {
	for n := range 70 {
		var a Asm
		a.Nop(n)
		a.Align(32)
		if want := (n + 31) / 32 * 32; len(a.Code) != want {
			t.Errorf("from %d to %d, want %d", n, len(a.Code), want)
		}
	}
}

// region is twenty instructions as a translator would write them.
func region(a *Asm) {
	slow, loop := a.NewLabel(), a.NewLabel()
	a.Bind(loop)
	a.Load(S64, RAX, At(RBP, 0x50))
	a.Lea(S64, RCX, At(RAX, 16))
	a.Mov(S64, RDX, RCX)
	a.ShiftI(SHR, S64, RDX, 12)
	a.RI(AND, S32, RDX, 0x3fff)
	a.RM(CMP, S64, RCX, Mem{R12, RDX, 8, 0})
	a.Jcc(NE, slow)
	a.Load(S64, RSI, Mem{RCX, R13, 1, 0})
	a.RR(ADD, S64, RSI, R8)
	a.MovSX(S32, S64, RSI, RSI)
	a.Store(S64, At(RBP, 0x158), RSI)
	a.ShiftX(SHLX, S64, R9, RSI, RCX)
	a.MovImm(R10, 0x12345678)
	a.RR(XOR, S64, R9, R10)
	a.XX(ADDSD, 1, 2)
	a.FMA(VFMADD231, S64, 3, 1, 2)
	a.RI(SUB, S64, R14, 20)
	a.Jcc(NS, loop)
	a.JmpPatch()
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
	b.ReportMetric(float64(len(a.Code))/(25*20), "bytes/instruction")
}
