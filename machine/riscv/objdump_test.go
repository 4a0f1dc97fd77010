// SPDX-License-Identifier: Apache-2.0

package riscv

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tool finds a program of the named Debian package.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: apt install %s", name, pkg)
	}
	return path
}

const binutils = "binutils-riscv64-linux-gnu"

// march is the part of our instruction set that binutils 2.40 knows.
const march = "rv64imafdc_zicsr_zifencei_zihintpause_zicbom_zicboz_zawrs_zba_zbb_zbc_zbs_svinval"

// unknown are the operations that it does not know.
func unknown(op Op) bool { return op == CZERO_EQZ || op == CZERO_NEZ }

// run fails the test where a tool fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name, binutils), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.2000s", name, err, out)
	}
	return string(out)
}

// objdump disassembles lines of assembly; the result is one line for each
// instruction, without aliases, its operands separated from it by a space.
func objdump(t *testing.T, source string) []string {
	t.Helper()
	dir := t.TempDir()
	s, o := filepath.Join(dir, "x.s"), filepath.Join(dir, "x.o")
	if err := os.WriteFile(s, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "riscv64-linux-gnu-as", "-march="+march, "-mno-relax", "-o", o, s)
	var lines []string
	for _, line := range strings.Split(run(t, "riscv64-linux-gnu-objdump", "-d", "-z", "-M", "no-aliases", o), "\n") {
		if f := strings.SplitN(line, "\t", 3); len(f) == 3 {
			text, _, _ := strings.Cut(strings.ReplaceAll(f[2], "\t", " "), " #")
			text, _, _ = strings.Cut(text, " <")
			lines = append(lines, strings.TrimSpace(text))
		}
	}
	return lines
}

var relative = regexp.MustCompile(`\.([+-][0-9]+)$`)

// absolute turns a relative target into objdump's: the address, in hexadecimal.
func absolute(text string, pc int) string {
	return relative.ReplaceAllStringFunc(text, func(m string) string {
		n, _ := strconv.Atoi(m[1:])
		return fmt.Sprintf("%x", uint64(pc+n))
	})
}

// Every operation with random operands means the same to us as to objdump.
func TestDecodeAgainstObjdump(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var words []uint32
	var source strings.Builder
	for _, e := range table {
		for i := range 40 {
			w := e.match | rnd.Uint32()&^e.mask
			if e.mask == 0xffffffff && i > 0 || unknown(e.op) {
				break
			}
			if e.format == FormatCSR || e.format == FormatCSRI {
				w = w&0xfffff | uint32(csrNames[rnd.IntN(len(csrNames))].n)<<20
			}
			switch e.op { // the manual says to ignore the other fields, objdump doesn't
			case FENCE:
				w &= 0x0ff0_707f
			case FENCE_I:
				w &= 0x707f
			case FCVT_D_S, FCVT_D_W, FCVT_D_WU: // exact: it knows only the mode rne
				w &^= 7 << 12
			}
			words = append(words, w)
			fmt.Fprintf(&source, ".insn 4, %#x\n", w)
		}
	}
	lines := objdump(t, source.String())
	if len(lines) != len(words) {
		t.Fatalf("objdump shows %d instructions of %d", len(lines), len(words))
	}
	for i, w := range words {
		if ours := absolute(Disassemble(w), 4*i); normal(ours, w) != normal(lines[i], w) {
			t.Errorf("%08x: ours %q, objdump's %q", w, ours, lines[i])
		}
	}
}

// lenient reports whether a word is of an operation where objdump 2.40 is
// stricter than the manual: it wants reserved fields of fences and the rounding
// mode of exact conversions to be 0, and does not know Zicond; or one of the
// privileged instructions that it still knows and the manual no longer has.
func lenient(w uint32) bool {
	const uret, hret, sfenceVM = 0x00200073, 0x20200073, 0x10400073
	if w == uret || w == hret || w&^(31<<15) == sfenceVM {
		return true
	}
	switch op := Decode(w).Op; op {
	case FENCE, FENCE_I, FCVT_D_S, FCVT_D_W, FCVT_D_WU:
		return true
	default:
		return unknown(op)
	}
}

// normal takes away differences of style.
func normal(text string, w uint32) string {
	if strings.HasPrefix(text, ".") || strings.Contains(text, "unknown") && Decode(w).Op == Illegal {
		return "illegal"
	}
	return text
}

// expansion says what a compressed mnemonic of objdump stands for; %0 to %2 are its operands.
var expansion = map[string]string{
	"c.addi4spn": "addi %0,%1,%2", "c.fld": "fld %0,%1", "c.lw": "lw %0,%1", "c.ld": "ld %0,%1",
	"c.fsd": "fsd %0,%1", "c.sw": "sw %0,%1", "c.sd": "sd %0,%1",
	"c.nop": "addi zero,zero,%0", "c.addi": "addi %0,%0,%1", "c.addiw": "addiw %0,%0,%1", "c.li": "addi %0,zero,%1",
	"c.addi16sp": "addi %0,%0,%1", "c.lui": "lui %0,%1",
	"c.srli": "srli %0,%0,%1", "c.srai": "srai %0,%0,%1", "c.andi": "andi %0,%0,%1",
	"c.srli64": "srli %0,%0,0x0", "c.srai64": "srai %0,%0,0x0", "c.slli64": "slli %0,%0,0x0",
	"c.sub": "sub %0,%0,%1", "c.xor": "xor %0,%0,%1", "c.or": "or %0,%0,%1", "c.and": "and %0,%0,%1",
	"c.subw": "subw %0,%0,%1", "c.addw": "addw %0,%0,%1",
	"c.j": "jal zero,%0", "c.beqz": "beq %0,zero,%1", "c.bnez": "bne %0,zero,%1",
	"c.slli": "slli %0,%0,%1", "c.fldsp": "fld %0,%1", "c.lwsp": "lw %0,%1", "c.ldsp": "ld %0,%1",
	"c.jr": "jalr zero,0(%0)", "c.jalr": "jalr ra,0(%0)", "c.mv": "add %0,zero,%1", "c.add": "add %0,%0,%1", "c.ebreak": "ebreak",
	"c.fsdsp": "fsd %0,%1", "c.swsp": "sw %0,%1", "c.sdsp": "sd %0,%1",
	"c.unimp": ".word",
}

// expand rewrites a compressed instruction of objdump's.
func expand(text string) string {
	name, rest, _ := strings.Cut(text, " ")
	form, ok := expansion[name]
	if !ok {
		return text
	}
	if name == "c.nop" && rest == "" {
		rest = "0"
	}
	for i, operand := range strings.Split(rest, ",") {
		form = strings.ReplaceAll(form, fmt.Sprintf("%%%d", i), operand)
	}
	return form
}

// All 16-bit encodings stand for what objdump says, and those that it does not
// know are illegal.
func TestExpandAgainstObjdump(t *testing.T) {
	var words []uint32
	var source strings.Builder
	for c := range uint32(1 << 16) {
		if c&3 != 3 {
			words = append(words, c)
			fmt.Fprintf(&source, ".insn 2, %#x\n", c)
		}
	}
	lines := objdump(t, ".option arch, +c\n"+source.String())
	if len(lines) != len(words) {
		t.Fatalf("objdump shows %d instructions of %d", len(lines), len(words))
	}
	for i, w := range words {
		if w == 0x6101 {
			lines[i] = ".word" // c.addi16sp of 0 is reserved (Unpriv. 26.5); objdump shows it all the same
		}
		ours := absolute(Disassemble(w), 2*i)
		if theirs := expand(lines[i]); normal(ours, w) != normal(theirs, w) {
			t.Errorf("%04x: ours %q, objdump's %q, that is %q", w, ours, lines[i], theirs)
		}
	}
}

// Random words are legal to us where they are to objdump.
func TestLegalAgainstObjdump(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var words []uint32
	var source strings.Builder
	for len(words) < 60_000 {
		w := rnd.Uint32() | 3
		if rnd.IntN(2) == 0 { // near a row: one of its fixed bits is wrong
			e := table[rnd.IntN(len(table))]
			w = e.match | w&^e.mask ^ 1<<(2+rnd.IntN(30))
		}
		if w&0x1f == 0x1f {
			continue // longer than 32 bits
		}
		words = append(words, w)
		fmt.Fprintf(&source, ".insn 4, %#x\n", w)
	}
	for i, line := range objdump(t, source.String()) {
		ours, theirs := Decode(words[i]).Op != Illegal, !strings.HasPrefix(line, ".") && !strings.Contains(line, "unknown")
		if ours != theirs && !lenient(words[i]) {
			t.Errorf("%08x: ours %q, objdump's %q", words[i], Disassemble(words[i]), line)
		}
	}
}

var rewrite = flag.Bool("rewrite", false, "write testdata/instructions.txt anew")

const instructionsFile = "testdata/instructions.txt"

// Each operation of the table has a line in testdata/instructions.txt: Decode
// and Disassemble read it as the GNU assembler writes it.
func TestInstructions(t *testing.T) {
	if *rewrite {
		writeInstructions(t)
	}
	file, err := os.ReadFile(instructionsFile)
	if err != nil {
		t.Fatal(err)
	}
	var words []uint32
	var source strings.Builder
	seen := map[Op]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(file)), "\n") {
		hex, text, _ := strings.Cut(line, " ")
		word, err := strconv.ParseUint(hex, 16, 32)
		if err != nil {
			continue // a comment
		}
		w := uint32(word)
		if got := Disassemble(w); got != text {
			t.Errorf("%08x is %q, want %q", w, got, text)
		}
		op := Decode(w).Op
		if seen[op] = true; !unknown(op) {
			words = append(words, w)
			fmt.Fprintln(&source, text)
		}
	}
	for op := Illegal + 1; op < numOps; op++ {
		if !seen[op] {
			t.Errorf("%v has no line", op)
		}
	}
	for i, w := range assemble(t, source.String()) {
		if w != words[i] {
			t.Errorf("the assembler makes %08x of %q, the file has %08x", w, Disassemble(words[i]), words[i])
		}
	}
}

// assemble returns the words of a program without compressed instructions.
func assemble(t *testing.T, source string) (words []uint32) {
	t.Helper()
	dir := t.TempDir()
	s, o, b := filepath.Join(dir, "x.s"), filepath.Join(dir, "x.o"), filepath.Join(dir, "x.bin")
	if err := os.WriteFile(s, []byte(".option norvc\n"+source), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "riscv64-linux-gnu-as", "-march="+march, "-mno-relax", "-o", o, s)
	run(t, "riscv64-linux-gnu-ld", "-Ttext=0", "-e", "0", "-o", s, o)
	run(t, "riscv64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", s, b)
	bytes, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 <= len(bytes); i += 4 {
		words = append(words, binary.LittleEndian.Uint32(bytes[i:]))
	}
	return words
}

func writeInstructions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var b strings.Builder
	b.WriteString("# One line for each row of the instruction table: a word and what the GNU assembler calls it.\n")
	b.WriteString("# go test ./machine/riscv -run Instructions -rewrite\n")
	for _, e := range table {
		w := e.match
		if e.op != FENCE_I {
			w |= rnd.Uint32() &^ e.mask
		}
		switch e.format {
		case FormatRM, FormatRM1, FormatR4:
			w &^= 7 << 12
			if !(e.op == FCVT_D_S || e.op == FCVT_D_W || e.op == FCVT_D_WU) {
				w |= []uint32{0, 1, 2, 3, 4, 7}[rnd.IntN(6)] << 12
			}
		case FormatCSR, FormatCSRI:
			w = w&0xfffff | uint32(csrNames[rnd.IntN(len(csrNames))].n)<<20
		}
		if e.op == FENCE {
			w = w&0x000_707f | 0x0310_0000
		}
		fmt.Fprintf(&b, "%08x %s\n", w, Disassemble(w))
	}
	if err := os.WriteFile(instructionsFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
