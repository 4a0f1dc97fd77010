// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const native = "native"

// engine is one column: how to start a run, and whose recording it needs.
type engine struct {
	name    string
	needs   string // the engine that makes the recording it replays
	program func(*paths) string
	install string
	command func(p *paths, names []string) []string
}

func tandemPath(p *paths) string { return p.tandem }
func qemuPath(p *paths) string   { return p.qemu }
func otherPath(p *paths) string  { return p.other }

const (
	installTandem = "build it with make build, or name it with --tandem"
	installQEMU   = "apt-get install qemu-system-misc, or name it with --qemu, or leave it out of --engines"
)

// engines in the order of the columns; a replay comes after its recording.
var engines = []engine{
	{native, "", func(p *paths) string { return p.native }, "apt-get install gcc libc6-dev",
		func(p *paths, names []string) []string { return names }},
	{"tandem", "", tandemPath, installTandem, func(p *paths, names []string) []string {
		return tandemRun(p, names, "jit")
	}},
	{"interpreter", "", tandemPath, installTandem, func(p *paths, names []string) []string {
		return tandemRun(p, names, "interpreter")
	}},
	{"tandem-record", "", tandemPath, installTandem, func(p *paths, names []string) []string {
		return append(tandemRun(p, names, "jit"), "--record", p.recording("tandem"))
	}},
	{"tandem-replay", "tandem-record", tandemPath, installTandem, func(p *paths, _ []string) []string {
		return []string{"replay", "--console", p.recording("tandem")}
	}},
	{"qemu", "", qemuPath, installQEMU, func(p *paths, names []string) []string {
		return qemuRun(p, names)
	}},
	{"qemu-record", "", qemuPath, installQEMU, func(p *paths, names []string) []string {
		return append(qemuRun(p, names), "-icount", "shift=auto,rr=record,rrfile="+p.recording("qemu"))
	}},
	{"qemu-replay", "qemu-record", qemuPath, installQEMU, func(p *paths, names []string) []string {
		return append(qemuRun(p, names), "-icount", "shift=auto,rr=replay,rrfile="+p.recording("qemu"))
	}},
	{"other", "", otherPath, "give a program with --other", func(p *paths, names []string) []string {
		return []string{p.kernel, p.initrd, appendLine(names)}
	}},
}

func (p *paths) recording(of string) string { return filepath.Join(p.dir, of+".log") }

// appendLine is the kernel's command line; the first process reads it too.
func appendLine(names []string) string {
	return "console=ttyS0 bench=" + strings.Join(names, ",")
}

func tandemRun(p *paths, names []string, engine string) []string {
	return []string{"run", "--engine", engine, "--memory", "1G", "--network", "none",
		"--kernel", p.kernel, "--initrd", p.initrd, "--append", appendLine(names)}
}

func qemuRun(p *paths, names []string) []string {
	return []string{"-M", "virt", "-smp", "1", "-m", "1G", "-nographic", "-nic", "none",
		"-kernel", p.kernel, "-initrd", p.initrd, "-append", appendLine(names)}
}

func engineNames() []string {
	var names []string
	for _, e := range engines {
		names = append(names, e.name)
	}
	return names
}

// choose returns the engines asked for and the recordings that replays need,
// and refuses those that are not installed.
func choose(o *options) ([]engine, error) {
	for _, name := range o.engines {
		i := slices.Index(engineNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("--engines %s: no such engine: choose from %s", name, strings.Join(engineNames(), ","))
		}
		if needs := engines[i].needs; needs != "" && !slices.Contains(o.engines, needs) {
			o.engines = append(o.engines, needs)
		}
	}
	var chosen []engine
	for _, e := range engines {
		if !slices.Contains(o.engines, e.name) {
			continue
		}
		if path := e.program(&o.paths); path != "" || e.name == "other" {
			if _, err := exec.LookPath(path); err != nil {
				return nil, fmt.Errorf("engine %s: %w: %s", e.name, err, e.install)
			}
		}
		chosen = append(chosen, e)
	}
	if len(chosen) == 0 {
		return nil, errors.New("--engines: give at least one")
	}
	return chosen, nil
}

// run goes once through the programs and returns what it read, also with an error.
func (o *options) run(ctx context.Context, e engine, who string) (*reading, error) {
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, e.program(&o.paths), e.command(&o.paths, o.names())...)
	cmd.WaitDelay = 5 * time.Second
	var diag tail
	cmd.Stderr = &diag
	got := newReading(o.names())
	stdin, err := cmd.StdinPipe() // held open: an emulator may take the end of its input for a wish to leave
	if err != nil {
		return got, err
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return got, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return got, err
	}
	bad := got.scan(bufio.NewReader(out), start, func(row string, d time.Duration) {
		fmt.Fprintf(os.Stderr, "%s: %s %.3f s\n", who, row, d.Seconds())
	})
	if bad != nil && !errors.Is(bad, errCut) {
		cancel() // the guest goes on, for nothing
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return got, ctx.Err()
	case bad != nil && !errors.Is(bad, errCut):
		return got, bad
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return got, fmt.Errorf("no end after %v, last line %q: give more with --timeout, or it hangs", o.timeout, got.last)
	case err != nil:
		return got, fmt.Errorf("%w: %s (last line %q)", err, diag.text(), got.last)
	}
	return got, bad
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - 2000; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) text() string { return strings.TrimSpace(string(t.b)) }
