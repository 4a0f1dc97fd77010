// SPDX-License-Identifier: Apache-2.0

package softfloat

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const records = 25000

// TestAgainstQEMU shows that results and flags of every instruction in every
// rounding mode are those of QEMU, which shares no code with us.
func TestAgainstQEMU(t *testing.T) {
	oracle := buildOracle(t)
	names := oracleNames(t, oracle)
	g := newGenerator(1)
	cases := make([]operands, records)
	for i := range cases {
		cases[i] = g.operands()
	}
	var stdin bytes.Buffer
	if err := binary.Write(&stdin, binary.LittleEndian, cases); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-riscv64", oracle)
	cmd.Stdin, cmd.Stderr = &stdin, os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	compare(t, names, cases, bufio.NewReaderSize(stdout, 1<<20))
	stdout.Close() // after a failure the oracle may still be writing
	if err := cmd.Wait(); err != nil && !t.Failed() {
		t.Fatalf("qemu-riscv64: %v", err)
	}
}

// compare reads the oracle's answers. Each operation is tried with no flag set,
// which takes the integer path, and with NX set, which may take the host's.
func compare(t *testing.T, names []string, cases []operands, answers io.Reader) {
	ops := make([]instruction, len(names))
	seen := make([]Flags, len(names))
	for i, name := range names {
		ops[i] = lookUp(t, name)
	}
	answer := make([]byte, 9*len(names))
	failures := 0
	for _, o := range cases {
		if _, err := io.ReadFull(answers, answer); err != nil {
			t.Errorf("reading the oracle's answers: %v", err)
			return
		}
		for i, op := range ops {
			want, wantFlags := binary.LittleEndian.Uint64(answer[9*i:]), Flags(answer[9*i+8])
			seen[i] |= wantFlags
			for _, before := range []Flags{0, NX} {
				flags := before
				got := op.run(o, op.rm, &flags)
				if got == want && flags == before|wantFlags {
					continue
				}
				t.Errorf("%s with flags %#x before: got %#x flags %#x, want %#x flags %#x\noperands %#x",
					names[i], before, got, flags, want, before|wantFlags, o)
				if failures++; failures > 20 {
					return
				}
			}
		}
	}
	for i, name := range names {
		if seen[i] != possible(name) {
			t.Errorf("%s: operands raised flags %#x, want all of %#x", name, seen[i], possible(name))
		}
	}
}

// instruction is one operation in one rounding mode.
type instruction struct {
	run func(o operands, rm RM, f *Flags) uint64
	rm  RM
}

// lookUp parses a name like "fadd.d rne".
func lookUp(t *testing.T, name string) instruction {
	mnemonic, mode, rounded := strings.Cut(name, " ")
	op := instruction{run: instructions[mnemonic]}
	if rounded {
		op.rm = RM(strings.Index("rne rtz rdn rup rmm", mode) / 4)
	}
	if op.run == nil {
		t.Fatalf("the oracle has an instruction %q that the test has not", mnemonic)
	}
	return op
}

// possible is the set of flags that an instruction can raise, all of which the
// operands must have raised somewhere: rare paths were reached.
func possible(name string) Flags {
	for _, p := range []struct {
		prefixes string
		flags    Flags
	}{
		{"fclass fcvt.d.w", 0},
		{"fmin fmax feq flt fle fcvt.d.s", NV},
		{"fcvt.w fcvt.l", NX | NV},
		{"fcvt.s.d", NX | UF | OF | NV},
		{"fcvt.", NX}, // from integers
		{"fsqrt", NX | NV},
		{"fadd fsub", NX | OF | NV}, // a tiny sum is exact
		{"fdiv", NX | UF | OF | DZ | NV},
		{"", NX | UF | OF | NV},
	} {
		for _, prefix := range strings.Split(p.prefixes, " ") {
			if strings.HasPrefix(name, prefix) {
				return p.flags
			}
		}
	}
	panic("unreachable: the last row matches all")
}

// buildOracle compiles testdata/oracle.c.
func buildOracle(t *testing.T) string {
	for tool, pkg := range map[string]string{
		"riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu and libc6-dev-riscv64-cross",
		"qemu-riscv64":          "qemu-user",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: install the Debian package %s", tool, pkg)
		}
	}
	path := filepath.Join(t.TempDir(), "oracle")
	out, err := exec.Command("riscv64-linux-gnu-gcc", "-static", "-O1", "-o", path, "testdata/oracle.c").CombinedOutput()
	if err != nil {
		t.Fatalf("riscv64-linux-gnu-gcc testdata/oracle.c: %v\n%s", err, out)
	}
	return path
}

func oracleNames(t *testing.T, oracle string) []string {
	out, err := exec.Command("qemu-riscv64", oracle, "names").Output()
	if err != nil {
		t.Fatalf("qemu-riscv64 oracle names: %v", err)
	}
	names := strings.Split(strings.TrimSpace(string(out)), "\n")
	asked := map[string]bool{}
	for _, name := range names {
		mnemonic, _, _ := strings.Cut(name, " ")
		asked[mnemonic] = true
	}
	if len(asked) != len(instructions) {
		t.Fatalf("the oracle has %d instructions, the test %d", len(asked), len(instructions))
	}
	return names
}

// instructions are ours by mnemonic, as a hart would call them.
var instructions = map[string]func(o operands, rm RM, f *Flags) uint64{
	"fadd.d":   func(o operands, rm RM, f *Flags) uint64 { return Add64(o.A, o.B, rm, f) },
	"fsub.d":   func(o operands, rm RM, f *Flags) uint64 { return Sub64(o.A, o.B, rm, f) },
	"fmul.d":   func(o operands, rm RM, f *Flags) uint64 { return Mul64(o.A, o.B, rm, f) },
	"fdiv.d":   func(o operands, rm RM, f *Flags) uint64 { return Div64(o.A, o.B, rm, f) },
	"fsqrt.d":  func(o operands, rm RM, f *Flags) uint64 { return Sqrt64(o.A, rm, f) },
	"fmadd.d":  func(o operands, rm RM, f *Flags) uint64 { return MulAdd64(o.A, o.B, o.C, rm, f) },
	"fmsub.d":  func(o operands, rm RM, f *Flags) uint64 { return MulAdd64(o.A, o.B, o.C^1<<63, rm, f) },
	"fnmadd.d": func(o operands, rm RM, f *Flags) uint64 { return MulAdd64(o.A^1<<63, o.B, o.C^1<<63, rm, f) },
	"fnmsub.d": func(o operands, rm RM, f *Flags) uint64 { return MulAdd64(o.A^1<<63, o.B, o.C, rm, f) },
	"fmin.d":   func(o operands, _ RM, f *Flags) uint64 { return Min64(o.A, o.B, f) },
	"fmax.d":   func(o operands, _ RM, f *Flags) uint64 { return Max64(o.A, o.B, f) },
	"feq.d":    func(o operands, _ RM, f *Flags) uint64 { return truth(Eq64(o.A, o.B, f)) },
	"flt.d":    func(o operands, _ RM, f *Flags) uint64 { return truth(Lt64(o.A, o.B, f)) },
	"fle.d":    func(o operands, _ RM, f *Flags) uint64 { return truth(Le64(o.A, o.B, f)) },
	"fclass.d": func(o operands, _ RM, _ *Flags) uint64 { return Class64(o.A) },

	"fcvt.w.d":  func(o operands, rm RM, f *Flags) uint64 { return extend(F64ToI32(o.A, rm, f)) },
	"fcvt.wu.d": func(o operands, rm RM, f *Flags) uint64 { return extend(int32(F64ToU32(o.A, rm, f))) },
	"fcvt.l.d":  func(o operands, rm RM, f *Flags) uint64 { return uint64(F64ToI64(o.A, rm, f)) },
	"fcvt.lu.d": func(o operands, rm RM, f *Flags) uint64 { return F64ToU64(o.A, rm, f) },
	"fcvt.d.w":  func(o operands, _ RM, _ *Flags) uint64 { return I32ToF64(int32(o.I)) },
	"fcvt.d.wu": func(o operands, _ RM, _ *Flags) uint64 { return U32ToF64(uint32(o.I)) },
	"fcvt.d.l":  func(o operands, rm RM, f *Flags) uint64 { return I64ToF64(o.I, rm, f) },
	"fcvt.d.lu": func(o operands, rm RM, f *Flags) uint64 { return U64ToF64(uint64(o.I), rm, f) },
	"fcvt.d.s":  func(o operands, _ RM, f *Flags) uint64 { return F32ToF64(o.S, f) },

	"fadd.s":   func(o operands, rm RM, f *Flags) uint64 { return uint64(Add32(o.S, o.T, rm, f)) },
	"fsub.s":   func(o operands, rm RM, f *Flags) uint64 { return uint64(Sub32(o.S, o.T, rm, f)) },
	"fmul.s":   func(o operands, rm RM, f *Flags) uint64 { return uint64(Mul32(o.S, o.T, rm, f)) },
	"fdiv.s":   func(o operands, rm RM, f *Flags) uint64 { return uint64(Div32(o.S, o.T, rm, f)) },
	"fsqrt.s":  func(o operands, rm RM, f *Flags) uint64 { return uint64(Sqrt32(o.S, rm, f)) },
	"fmadd.s":  func(o operands, rm RM, f *Flags) uint64 { return uint64(MulAdd32(o.S, o.T, o.U, rm, f)) },
	"fmsub.s":  func(o operands, rm RM, f *Flags) uint64 { return uint64(MulAdd32(o.S, o.T, o.U^1<<31, rm, f)) },
	"fnmadd.s": func(o operands, rm RM, f *Flags) uint64 { return uint64(MulAdd32(o.S^1<<31, o.T, o.U^1<<31, rm, f)) },
	"fnmsub.s": func(o operands, rm RM, f *Flags) uint64 { return uint64(MulAdd32(o.S^1<<31, o.T, o.U, rm, f)) },
	"fmin.s":   func(o operands, _ RM, f *Flags) uint64 { return uint64(Min32(o.S, o.T, f)) },
	"fmax.s":   func(o operands, _ RM, f *Flags) uint64 { return uint64(Max32(o.S, o.T, f)) },
	"feq.s":    func(o operands, _ RM, f *Flags) uint64 { return truth(Eq32(o.S, o.T, f)) },
	"flt.s":    func(o operands, _ RM, f *Flags) uint64 { return truth(Lt32(o.S, o.T, f)) },
	"fle.s":    func(o operands, _ RM, f *Flags) uint64 { return truth(Le32(o.S, o.T, f)) },
	"fclass.s": func(o operands, _ RM, _ *Flags) uint64 { return Class32(o.S) },

	"fcvt.w.s":  func(o operands, rm RM, f *Flags) uint64 { return extend(F32ToI32(o.S, rm, f)) },
	"fcvt.wu.s": func(o operands, rm RM, f *Flags) uint64 { return extend(int32(F32ToU32(o.S, rm, f))) },
	"fcvt.l.s":  func(o operands, rm RM, f *Flags) uint64 { return uint64(F32ToI64(o.S, rm, f)) },
	"fcvt.lu.s": func(o operands, rm RM, f *Flags) uint64 { return F32ToU64(o.S, rm, f) },
	"fcvt.s.w":  func(o operands, rm RM, f *Flags) uint64 { return uint64(I32ToF32(int32(o.I), rm, f)) },
	"fcvt.s.wu": func(o operands, rm RM, f *Flags) uint64 { return uint64(U32ToF32(uint32(o.I), rm, f)) },
	"fcvt.s.l":  func(o operands, rm RM, f *Flags) uint64 { return uint64(I64ToF32(o.I, rm, f)) },
	"fcvt.s.lu": func(o operands, rm RM, f *Flags) uint64 { return uint64(U64ToF32(uint64(o.I), rm, f)) },
	"fcvt.s.d":  func(o operands, rm RM, f *Flags) uint64 { return uint64(F64ToF32(o.A, rm, f)) },
}

func extend(i int32) uint64 { return uint64(int64(i)) }

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
