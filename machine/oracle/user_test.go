// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/loader"
	"tandem/machine/riscv"
)

// Where testdata/user.S is linked, on both sides.
const (
	textAt    = 0x8000_0000
	casesAt   = 0x8200_0000
	resultsAt = 0x8400_0000
	ramSize   = 128 << 20
)

// state is what a case begins with.
type state struct {
	X, F [32]uint64
	FCSR uint64
}

// testCase and result have the layout of testdata/user.S.
type testCase struct {
	state
	Code [24]uint32
}

type result struct {
	state
	Scratch [16]uint64
}

// tool finds a program of the named Debian package.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: apt install %s", name, pkg)
	}
	return path
}

// buildUser assembles and links testdata/user.S.
func buildUser(t *testing.T) (path string, symbols map[string]uint64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "user")
	args := []string{"-march=rv64gc", "-mabi=lp64d", "-nostdlib", "-static", "-fno-pic", "-no-pie",
		"-Wl,-N,--build-id=none,--no-relax,--no-warn-rwx-segments", "-o", path, "testdata/user.S"}
	for section, addr := range map[string]int{".text": textAt, ".cases": casesAt, ".results": resultsAt} {
		args = append(args, fmt.Sprintf("-Wl,--section-start=%s=%#x", section, addr))
	}
	gcc := tool(t, "riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu")
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	symbols = map[string]uint64{}
	for _, s := range list {
		symbols[s.Name] = s.Value
	}
	return path, symbols
}

// runQEMU executes the cases as a process of QEMU's user emulation.
func runQEMU(t *testing.T, program string, input []byte, results any) {
	t.Helper()
	cmd := exec.Command(tool(t, "qemu-riscv64", "qemu-user"), "-cpu", "rv64,zba=true,zbb=true,zbc=true,zbs=true", program)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("qemu-riscv64: %v (%d bytes of results)", err, len(out))
	}
	if err := binary.Read(bytes.NewReader(out), binary.LittleEndian, results); err != nil {
		t.Fatal(err)
	}
}

// runTandem executes the cases on a bare hart.
func runTandem(t *testing.T, program string, symbols map[string]uint64, input []byte, results any) {
	t.Helper()
	runMachine(t, newMachine(t, program, symbols, input), results)
}

func newMachine(t *testing.T, program string, symbols map[string]uint64, input []byte) *machine.Machine {
	t.Helper()
	file, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	prog, err := loader.ELF(ramSize, file)
	if err != nil {
		t.Fatal(err)
	}
	prog.Boot.Entry = symbols["bare"]
	prog.Boot.Segments = append(prog.Boot.Segments, machine.Segment{Addr: casesAt, Data: input})
	m, err := machine.New(machine.Config{Harts: 1, RAM: ramSize, Levels: 5, Boot: prog.Boot}, make([]byte, ramSize))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func runMachine(t *testing.T, m *machine.Machine, results any) {
	t.Helper()
	const limit = 100_000_000
	if err := m.Apply(event.Clock{Rate: 1 << 28, Limit: limit}); err != nil {
		t.Fatal(err)
	}
	if stop := m.Run(limit); stop != event.StopOutput {
		t.Fatalf("the cases did not end: %v, %s", stop, m.Describe())
	}
	out := make([]byte, binary.Size(results))
	m.Memory(resultsAt, out)
	if err := binary.Read(bytes.NewReader(out), binary.LittleEndian, results); err != nil {
		t.Fatal(err)
	}
}

// Random sequences of unprivileged instructions leave the same integer
// registers, floating-point registers, fcsr and memory on our hart as in QEMU.
func TestUserInstructions(t *testing.T) {
	program, symbols := buildUser(t)
	var cases []testCase
	for i, g := range groups {
		gen := newGenerator(uint64(i)+1, symbols["scratch"])
		for range casesPerGroup {
			cases = append(cases, gen.newCase(g))
		}
	}
	var input bytes.Buffer
	binary.Write(&input, binary.LittleEndian, uint64(len(cases)))
	binary.Write(&input, binary.LittleEndian, cases)
	ours, theirs := make([]result, len(cases)), make([]result, len(cases))
	runTandem(t, program, symbols, input.Bytes(), ours)
	runQEMU(t, program, input.Bytes(), theirs)
	failures := 0
	for i := range cases {
		if ours[i] == theirs[i] {
			continue
		}
		t.Errorf("%s, case %d:\n%s", groups[i/casesPerGroup].name, i, explain(&cases[i], &ours[i], &theirs[i], "QEMU's"))
		if failures++; failures == 5 {
			t.FailNow()
		}
	}
}

// explain shows a case and what differs after it.
func explain(c *testCase, ours, theirs *result, whose string) string {
	var b bytes.Buffer
	for i := 0; i < len(c.Code) && c.Code[i] != returnWord; i++ {
		fmt.Fprintf(&b, "\t%08x  %s\n", c.Code[i], riscv.Disassemble(c.Code[i]))
	}
	show := func(name string, before, a, b2 uint64) {
		if a != b2 {
			fmt.Fprintf(&b, "\t%s was %#x: ours %#x, %s %#x\n", name, before, a, whose, b2)
		}
	}
	for i := range 32 {
		show(fmt.Sprint("x", i), c.X[i], ours.X[i], theirs.X[i])
		show(fmt.Sprint("f", i), c.F[i], ours.F[i], theirs.F[i])
	}
	show("fcsr", c.FCSR, ours.FCSR, theirs.FCSR)
	for i := range ours.Scratch {
		show(fmt.Sprint("scratch+", 8*i), 0, ours.Scratch[i], theirs.Scratch[i])
	}
	fmt.Fprintf(&b, "\tbefore: x %x\n\tf %x fcsr %x\n", c.X, c.F, c.FCSR)
	return b.String()
}
