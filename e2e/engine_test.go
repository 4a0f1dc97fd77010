// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tandem/host/codemem"
	"tandem/host/perfmap"
)

// spin counts to 3 million, reads a CSR that is the interpreter's now and then,
// and ends well.
const spin = `
	.globl	_start, tohost, spin
_start:	li	a0, 3000000
spin:	addi	a0, a0, -1
	andi	a1, a0, 1023
	bnez	a1, 1f
	csrr	a2, minstret
1:	bnez	a0, spin
	la	t0, tohost
	li	t1, 1
	sd	t1, 0(t0)
2:	j	2b
	.data
	.align	6
tohost:	.dword	0
`

// assemble makes a bare-metal program.
func assemble(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "spin.S"), filepath.Join(dir, "spin")
	if err := os.WriteFile(in, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("riscv64-linux-gnu-gcc", "-march=rv64gc", "-nostdlib", "-static", "-no-pie",
		"-Wl,-N,--build-id=none,-Ttext=0x80000000", "-o", out, in).CombinedOutput(); err != nil {
		t.Fatalf("%v: apt install gcc-riscv64-linux-gnu\n%s", err, msg)
	}
	return out
}

// engineRun runs a command and returns what it printed, the table of --stats by
// the names of its rows, and the map of --perf if there is one.
func engineRun(t *testing.T, args ...string) (stdout string, stats map[string]uint64, names string) {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		t.Fatalf("tandem %s: %v: %s", strings.Join(args, " "), err, diag.String())
	}
	stats = map[string]uint64{}
	for in := bufio.NewScanner(&diag); in.Scan(); {
		line := in.Text()
		if len(line) < 68 {
			t.Fatalf("no row of the table: %q", line)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(line[52:68]), 10, 64)
		if err != nil {
			t.Fatalf("no row of the table: %q", line)
		}
		stats[strings.TrimSpace(line[:52])] = n
	}
	path := perfmap.Path(cmd.ProcessState.Pid())
	b, err := os.ReadFile(path)
	if err == nil {
		os.Remove(path)
	}
	return out.String(), stats, string(b)
}

// The rows of --stats add up to the steps that the replay of the run counts, for
// either engine, and the program's CSR is what was left to the interpreter.
func TestStats(t *testing.T) {
	program, log := assemble(t, spin), filepath.Join(t.TempDir(), "log")
	_, interpreted, _ := engineRun(t, "run", "--elf", program, "--engine", "interpreter", "--stats", "--record", log)
	tables := map[string]map[string]uint64{"run --engine interpreter": interpreted}
	var entries, steps, hashes uint64
	for _, engine := range []string{"interpreter", "jit"} {
		if engine == "jit" && !codemem.Supported() {
			continue
		}
		out, stats, names := engineRun(t, "replay", log, "--engine", engine, "--stats")
		if _, err := fmt.Sscanf(out, "replayed %d entries, %d steps; %d hashes equal", &entries, &steps, &hashes); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if names != "" {
			t.Error("a map without --perf")
		}
		tables["replay --engine "+engine] = stats
	}
	for name, s := range tables {
		sum := s["by translated code"] + s["by the interpreter"] + s["interrupts taken"]
		if s["steps"] != steps || sum != steps || steps < 9_000_000 {
			t.Errorf("%s: %d steps, the parts have %d, the replay %d", name, s["steps"], sum, steps)
		}
	}
	if s := tables["replay --engine jit"]; s != nil &&
		(s["by translated code"] < steps*9/10 || s["csrrs"] < 2000 || s["csrrs"] > 3000 || s["code cache, bytes"] != 64<<20) {
		t.Errorf("the loop was to be translated but for its CSR: %v", s)
	}
}

// The map of --perf has the thunks and the blocks of the program, none of which
// lies outside of the code cache; symbols give them names.
func TestPerfMap(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("there is no translator for this host yet")
	}
	program, log := assemble(t, spin), filepath.Join(t.TempDir(), "log")
	const size = 1 << 20
	run := []string{"run", "--elf", program, "--engine", "jit", "--code-cache", "1M", "--perf", "--record", log}
	replay := []string{"replay", log, "--engine", "jit", "--code-cache", "1M", "--perf"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{run, "guest M 0x8000000"},
		{append(run, "--symbols", program), "guest spin+0x"},
		{append(replay, "--symbols", program), "guest spin+0x"},
	} {
		_, _, names := engineRun(t, c.args...)
		var first, end uint64
		for line := range strings.Lines(names) {
			var at, n uint64
			if _, err := fmt.Sscanf(line, "%x %x ", &at, &n); err != nil || n == 0 {
				t.Fatalf("%v: line %q: %v", c.args, line, err)
			}
			if first == 0 {
				first = at
			}
			if at < first || at+n > first+size {
				t.Errorf("%v: line %q is outside of the cache at %x", c.args, line, first)
			}
			end = max(end, at+n)
		}
		if first&4095 != 0 || end == 0 || !strings.Contains(names, " translator: enter\n") || !strings.Contains(names, c.want) {
			t.Errorf("%v: want %q in\n%s", c.args, c.want, names)
		}
	}
}
