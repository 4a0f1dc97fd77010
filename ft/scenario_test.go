// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tandem/machine/event"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/*.txt")

// TestScenarios runs the stories in testdata, each of which says what it shows. A
// block is some commands, "----", what the two sides then do, and an empty line.
// Heartbeats, and acknowledgements that repeat the one before, are left out.
//
//	pair [key=duration …]   A is a protected primary, B its backup; keys are of Config
//	start [key=duration …], attach B LOAD [COPY]  the parts of that; the snapshot takes LOAD to load,
//	                        and before that COPY to be taken while the VM runs
//	run DURATION            time passes
//	input A WORD [open]     an input, in an entry that ends its group unless open
//	output A                an input to which the VM answers with an output
//	exit A, poweroff A, handover A, detach A, quit A
//	chatter A               the VM computes and emits by itself from here on
//	stop A, cont A          the process gets no CPU (SIGSTOP); goes on
//	crash A, fail A         the process dies; its host loses power
//	cut A B, heal A B       nothing from A arrives at B; arrives again
//	reset A, redial         the channel breaks; is made again
//	arbiter up|down [A]     whether it answers
//	slow B N                B executes N steps in a millisecond
//	quiet                   only changes of state are printed from here on
//	diverge B               B differs at its next output
//	status                  of both sides
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScenario(t, file) })
	}
}

func runScenario(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "# ") {
		t.Errorf("%s does not say why", file)
	}
	d := &driver{t: t}
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		out.WriteString(line + "\n")
		switch {
		case line == "----":
			for i++; i < len(lines) && lines[i] != ""; i++ {
			}
			out.WriteString(d.take() + "\n")
		case line != "" && line[0] != '#':
			d.command(strings.Fields(line))
		}
	}
	for _, b := range d.w.broken {
		t.Errorf("%s: %s", file, b)
	}
	got := strings.TrimRight(out.String(), "\n") + "\n"
	if got == string(text) {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: the output differs (go test -update rewrites it):\n%s", file, firstDifference(string(text), got))
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// driver carries out commands and keeps what is to be printed.
type driver struct {
	t    *testing.T
	w    *world
	out  strings.Builder
	acks map[string]string
}

func (d *driver) take() string {
	s := d.out.String()
	d.out.Reset()
	return s
}

func (d *driver) begin() {
	d.w, d.acks = newWorld(scenarioConfig()), map[string]string{}
	begun := d.w.now
	d.w.trace = func(format string, args ...any) {
		line := fmt.Sprintf(format, args...)
		if who, what, ok := strings.Cut(line, " sends Ack "); ok {
			if what, _, _ = strings.Cut(what, ", echo"); d.acks[who] == what {
				return
			}
			d.acks[who] = what
		}
		fmt.Fprintf(&d.out, "%4d  %s\n", (d.w.now-begun)/Millisecond, line)
	}
}

func scenarioConfig() Config {
	cfg := Defaults()
	cfg.VM = VM{1}
	return cfg
}

func (d *driver) proc(name string) *proc {
	for _, r := range d.w.procs {
		if r.name == name {
			return r
		}
	}
	d.t.Fatalf("there is no %s", name)
	return nil
}

func (d *driver) duration(s string) Time {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "ms"))
	if err != nil {
		d.t.Fatalf("duration %q: %v", s, err)
	}
	return Time(n) * Millisecond
}

func (d *driver) command(f []string) {
	for len(f) < 4 {
		f = append(f, "")
	}
	switch f[0] {
	case "pair":
		d.begin()
		for _, kv := range f[1:] {
			d.configure(kv)
		}
		d.w.attach(d.w.start("A"), "B", 1, 0, 5*Millisecond)
		d.w.advance(20*Millisecond, nil)
		d.out.Reset()
		d.status()
	case "start":
		d.begin()
		for _, kv := range f[1:] {
			d.configure(kv)
		}
		d.w.start("A")
	case "attach":
		var copying Time
		if f[3] != "" {
			copying = d.duration(f[3])
		}
		for _, r := range d.w.procs {
			if r.p != nil && r.p.State() == Solo {
				d.w.attach(r, f[1], uint64(len(d.w.procs)), copying, d.duration(f[2]))
				break
			}
		}
	case "run":
		d.w.advance(d.duration(f[1]), nil)
	case "arbiter":
		if d.w.arbiter.down = f[1] == "down"; f[2] != "" {
			d.w.arbiter.cut[d.proc(f[2])], d.w.arbiter.down = d.w.arbiter.down, false
		}
	case "redial":
		d.w.redial()
	case "quiet":
		trace := d.w.trace
		d.w.trace = func(format string, args ...any) {
			if strings.Contains(format, "→") {
				trace(format, args...)
			}
		}
	case "status":
		d.status()
	default:
		d.on(d.proc(f[1]), f)
	}
}

func (d *driver) configure(kv string) {
	k, v, ok := strings.Cut(kv, "=")
	if !ok {
		return
	}
	switch c := &d.w.cfg; k {
	case "logbuffer":
		c.LogBuffer, _ = strconv.Atoi(v)
	case "stall":
		c.Stall = d.duration(v)
	case "divergence":
		c.OnDivergence = map[string]Policy{"restart": RestartOnDivergence, "continue": ContinueOnDivergence}[v]
	default:
		d.t.Fatalf("unknown setting %s", kv)
	}
}

// on carries out a command upon one process.
func (d *driver) on(r *proc, f []string) {
	say := func(what string, goLive bool) { r.record(event.ConsoleIn{Data: []byte(what)}, goLive) }
	switch f[0] {
	case "input":
		say(f[2], f[3] != "open")
	case "output":
		say("say", true)
	case "exit":
		say("exit", true)
	case "poweroff":
		r.record(event.Control{Op: event.PowerOff}, true)
	case "handover":
		if err := r.p.HandOver(r.now()); err != nil {
			fmt.Fprintf(&d.out, "      %v\n", err)
		}
	case "quit":
		r.p.Fail(r.now(), "its disk has failed")
	case "detach":
		if err := r.p.Detach(r.now(), "the operator asked for it"); err != nil {
			fmt.Fprintf(&d.out, "      %v\n", err)
		}
	case "chatter":
		if r.vm.chatty = true; r.peer != nil {
			r.peer.vm.chatty = true
		}
	case "stop":
		r.stopped = true
	case "cont":
		r.stopped = false
	case "crash":
		d.w.crash(r)
	case "fail":
		r.hostDown, r.dead = true, true
	case "cut", "heal":
		d.proc(f[2]).deaf[r] = f[0] == "cut"
	case "reset":
		d.w.reset(r, r.peer)
	case "slow":
		n, _ := strconv.Atoi(f[2])
		r.perTick = event.Step(n)
	case "diverge":
		r.odd = true
	default:
		d.t.Fatalf("unknown command %q", f[0])
	}
	if !r.dead {
		r.act()
	}
}

func (d *driver) status() {
	for _, r := range d.w.procs {
		var s Status
		switch {
		case r.dead && !r.ended:
			fmt.Fprintf(&d.out, "      %s is dead\n", r.name)
			continue
		case r.p != nil:
			s = r.p.Status()
		default:
			s = r.b.Status()
		}
		fmt.Fprintf(&d.out, "      %s %v epoch %d, log %d, executed %d, held %d, released %d", r.name, s.State, s.Epoch,
			s.Last, s.Backup.Executed, s.Held, s.Released)
		if s.Lag > 0 {
			fmt.Fprintf(&d.out, ", lag %d ms", s.Lag/Millisecond)
		}
		if s.Share != FullShare {
			fmt.Fprintf(&d.out, ", share %d", s.Share)
		}
		if s.Wait != "" && !r.ended {
			fmt.Fprintf(&d.out, ", waits: %s", s.Wait)
		}
		d.out.WriteString("\n")
	}
}
