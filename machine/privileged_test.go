// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
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
)

const ramSize = 16 << 20

// program is a test program of testdata/privileged, assembled.
type program struct {
	boot    machine.Boot
	symbols map[string]uint64
}

// assemble builds testdata/privileged/name.S.
func assemble(t testing.TB, name string, defines ...string) program {
	t.Helper()
	const packages = "gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu"
	gcc, err := exec.LookPath("riscv64-linux-gnu-gcc")
	if err != nil {
		t.Fatalf("riscv64-linux-gnu-gcc is not installed: apt install %s", packages)
	}
	dir := filepath.Join("testdata", "privileged")
	for _, f := range []string{name + ".S", "test.h", "paging.h"} { // so that go test sees what the result depends on
		if _, err := os.ReadFile(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), name)
	args := append([]string{"-march=rv64gc_zicbom_zicboz", "-mabi=lp64d", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-mcmodel=medany",
		"-Wl,-N,--build-id=none,--no-relax,--no-warn-rwx-segments,-Ttext=0x80000000", "-o", path,
		filepath.Join(dir, name+".S")}, defines...)
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	prog, err := loader.ELF(ramSize, file)
	if err != nil {
		t.Fatal(err)
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
	p := program{prog.Boot, map[string]uint64{}}
	for _, s := range list {
		p.symbols[s.Name] = s.Value
	}
	return p
}

// start powers a machine on with a program.
func (p program) start(t testing.TB, harts int) *machine.Machine {
	t.Helper()
	m, err := machine.New(machine.Config{Harts: harts, RAM: ramSize, Levels: 5, Boot: p.boot}, make([]byte, ramSize))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// word reads a doubleword of the program's memory.
func (p program) word(m *machine.Machine, symbol string, index uint64) uint64 {
	var b [8]byte
	m.Memory(p.symbols[symbol]+8*index, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// limit is more steps than any program takes.
const limit = 2_000_000

// tick is the clock of these tests: one tick in 16 steps.
var tick = event.Clock{Rate: 1 << event.RateShift / 16, Limit: limit}

// run drives a machine until it ends; idle, it skips to the next timer.
func run(t testing.TB, m *machine.Machine, to event.Step) event.Stop {
	t.Helper()
	for {
		stop := m.Run(to)
		m.Outputs()
		if stop != event.StopIdle && stop != event.StopOutput {
			return stop
		}
		if stop == event.StopIdle {
			c := tick
			due, ok := m.NextTimer()
			if !ok {
				t.Fatalf("idle for ever: %s", m.Describe())
			}
			c.Base = max(due, m.Time())
			apply(t, m, c)
		}
	}
}

func apply(t testing.TB, m *machine.Machine, in event.Input) {
	t.Helper()
	if err := m.Apply(in); err != nil {
		t.Fatal(err)
	}
}

// The privileged architecture, program by program: each checks itself and names
// the line of the check that failed.
func TestPrivileged(t *testing.T) {
	for _, c := range []struct {
		name   string
		levels []int
	}{
		{"coherent", []int{3, 4, 5}},
		{"rights", []int{3, 4, 5}},
		{"pmp", []int{3}},
		{"counters", []int{0}},
		{"traps", []int{0}},
		{"interrupts", []int{0}},
		{"supervisor", []int{0}},
		{"halves", []int{3, 4, 5}},
		{"floats", []int{0}},
	} {
		for _, levels := range c.levels {
			t.Run(fmt.Sprintf("%s/%d", c.name, levels), func(t *testing.T) {
				p := assemble(t, c.name, fmt.Sprint("-DLEVELS=", levels))
				m := p.start(t, 1)
				apply(t, m, tick)
				if stop := run(t, m, limit); stop != event.StopExit {
					t.Fatalf("%v: %s", stop, m.Describe())
				}
				if code, _ := m.Exited(); code != 0 {
					t.Fatalf("testdata/privileged/%s.S:%d: found %#x, want %#x", c.name,
						p.word(m, "failed", 0), p.word(m, "failed", 1), p.word(m, "failed", 2))
				}
			})
		}
	}
}

// A device that writes to the root table in use changes what it maps at once, though
// another address space is cached whose upper half was the same until then.
func TestRootWritten(t *testing.T) {
	p := assemble(t, "halves", "-DLEVELS=3", "-DPOKED")
	m := p.start(t, 1)
	apply(t, m, tick)
	m.Run(20_000)
	entry := m.Registers(0)[22] // s6, for chain2
	m.Poke(p.symbols["second"]+8*256, binary.LittleEndian.AppendUint64(nil, entry))
	if stop := run(t, m, limit); stop != event.StopExit {
		t.Fatalf("%v: %s", stop, m.Describe())
	}
	if code, _ := m.Exited(); code != 0 {
		t.Errorf("testdata/privileged/halves.S:%d: found %#x, want %#x", p.word(m, "failed", 0), p.word(m, "failed", 1), p.word(m, "failed", 2))
	}
}
