// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e tests tandem as its users meet it: the binary, real kernels, real
// sockets, real kills. TANDEM names the binary.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/demo"
	"tandem/host/codemem"
	"tandem/image"
)

// patience bounds one command; it is no measure of anything.
const patience = 5 * time.Minute

func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TANDEM")
	if path == "" {
		t.Fatal("TANDEM does not name the binary: run make e2e")
	}
	return path
}

// tandem runs a command and returns its output and exit code.
func tandem(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("tandem %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), diag.String(), cmd.ProcessState.ExitCode()
}

// imageDir builds the demo's guest, once, in the user's cache.
var imageDir = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tandem", "images", "demo")
	if img, err := image.Open(dir); err == nil && img.Current() {
		return dir, nil
	}
	cmd := exec.Command(os.Getenv("TANDEM"), "image", "build", dir, "--packages", "redis-server")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return dir, cmd.Run()
})

// guest makes a copy of the image that a test may write to.
func guest(t *testing.T) string {
	t.Helper()
	binary(t)
	from, err := imageDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755) // for replicas with a user of their own
	for _, name := range []string{"kernel", "initrd", "image.json", "disk.raw"} {
		if b, err := exec.Command("cp", "--sparse=always", filepath.Join(from, name), dir).CombinedOutput(); err != nil {
			t.Fatalf("copy the image: %v: %s", err, b)
		}
	}
	return dir
}

// console is a VM whose console the test reads and types at.
type console struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	seen  strings.Builder
}

func start(t *testing.T, args ...string) *console {
	t.Helper()
	c := &console{t: t, cmd: exec.Command(binary(t), args...), lines: make(chan string, 10_000)}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			c.lines <- in.Text()
		}
		close(c.lines)
	}()
	return c
}

func (c *console) typeLine(s string) { fmt.Fprintln(c.in, s) }

// expect reads up to a line that contains text.
func (c *console) expect(text string) string {
	c.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				c.t.Fatalf("the VM ended before it printed %q:\n%s", text, c.tail())
			}
			c.seen.WriteString(line + "\n")
			if strings.Contains(line, text) {
				return line
			}
		case <-limit:
			c.t.Fatalf("the VM never printed %q:\n%s", text, c.tail())
		}
	}
}

// ask types a line until it is answered: what is typed before the guest's shell
// has opened its console may be lost, as on any terminal.
func (c *console) ask(line, answer string) {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			c.typeLine(line)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	c.expect(answer)
}

// powerOff ends the guest from its shell and returns the exit code.
func (c *console) powerOff() int {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			c.typeLine("poweroff -f")
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	return c.wait()
}

func (c *console) tail() string {
	s := c.seen.String()
	return s[max(0, len(s)-4000):]
}

// wait returns the exit code.
func (c *console) wait() int {
	c.t.Helper()
	for range c.lines {
	}
	c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

const ready = "tandem: guest ready"

// A stock Debian kernel boots with 1, 2 and 4 harts; reboot and poweroff in the guest work.
func TestHarts(t *testing.T) {
	for _, n := range []string{"1", "2", "4"} {
		t.Run(n, func(t *testing.T) {
			c := start(t, "run", guest(t), "--cpus", n)
			c.expect(ready)
			c.ask("echo harts=$(nproc)", "harts="+n)
			if n != "4" {
				c.typeLine("reboot -f")
				c.expect(ready)
			}
			if code := c.powerOff(); code != 0 {
				t.Errorf("exit code %d after poweroff", code)
			}
		})
	}
}

// A recording of a boot with disk and network traffic replays with equal hashes;
// a flipped bit in the log is found.
func TestRecordReplay(t *testing.T) {
	log := filepath.Join(t.TempDir(), "boot.log")
	c := start(t, "run", guest(t), "--record", log, "--cpus", "2")
	c.expect(ready)
	c.ask("redis-cli set key recorded; sync; busybox wget -O /dev/null http://10.77.0.1:9/; echo done=$((40+2))", "done=42")
	if code := c.powerOff(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	replays(t, log)
	flip(t, log)
	out, diag, code := tandem(t, "replay", log)
	if code != 1 || !strings.Contains(diag, "step") || strings.Contains(diag, "goroutine") {
		t.Errorf("replay of a damaged log: exit code %d: %s%s", code, out, diag)
	}
}

// replays expects a recording to replay with equal hashes.
func replays(t *testing.T, log string, flags ...string) {
	t.Helper()
	out, diag, code := tandem(t, append([]string{"replay", log}, flags...)...)
	if code != 0 || !strings.Contains(out, "hashes equal") || strings.Contains(out, " 0 hashes") {
		t.Fatalf("replay: exit code %d: %s%s", code, out, diag)
	}
	t.Log(strings.TrimSpace(out))
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	at := st.Size() * 9 / 10
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// runDemo runs the demo and returns its summary.
func runDemo(t *testing.T, args ...string) demo.Summary {
	t.Helper()
	out, diag, code := tandem(t, append([]string{"demo", "--format", "json"}, args...)...)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s%s", code, out, diag)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var s demo.Summary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		t.Fatalf("the last line is no object: %v:\n%s", err, out)
	}
	t.Log(out)
	return s
}

func check(t *testing.T, s demo.Summary) {
	t.Helper()
	if s.Acknowledged == 0 || s.Lost != 0 || s.Reconnects != 0 {
		t.Errorf("%d writes acknowledged, %d lost, %d reconnects", s.Acknowledged, s.Lost, s.Reconnects)
	}
}

// Killing the backup costs nothing: the primary goes on alone.
func TestKillBackup(t *testing.T) { check(t, runDemo(t, "--kill", "backup")) }

// The survivor of a kill takes a new backup under load, and may be killed in turn:
// one connection, nothing lost, two failovers.
func TestKillAgain(t *testing.T) {
	s := runDemo(t, "--again", "--before", "3s", "--after", "2s")
	if check(t, s); s.Reprotection == 0 {
		t.Error("no new backup was made")
	}
}

// Killing both loses nothing that was acknowledged: redis flushed it first.
func TestKillBoth(t *testing.T) {
	if s := runDemo(t, "--kill", "both", "--before", "3s", "--after", "2s"); s.Acknowledged == 0 || s.Lost != 0 {
		t.Errorf("%d writes acknowledged, %d lost", s.Acknowledged, s.Lost)
	}
}

// A backup that reads the disk itself goes live as well as any, and the log of a boot is
// a fraction of what the guest has read.
func TestReadsByBackup(t *testing.T) {
	sum := runDemo(t, "--reads", "backup")
	check(t, sum)
	if sum.BootLogBytes > 4<<20 {
		t.Errorf("%d bytes of log until the database answered: the data of reads are in it", sum.BootLogBytes)
	}
}

// Each copy has a disk of its own: the survivor's has all that was acknowledged, and so
// has that of the backup that is made anew.
func TestReplicatedDisks(t *testing.T) {
	check(t, runDemo(t, "--disks", "replicated", "--reads", "backup", "--again", "--before", "2s", "--after", "2s"))
}

// Roles change three times under load, each time with a new backup: nothing is lost,
// and the client keeps its one connection.
func TestSwitchRoles(t *testing.T) {
	check(t, runDemo(t, "--kill", "switch", "--before", "2s", "--after", "2s", "--engine", "jit"))
}

// A primary that is stopped until the backup is live halts when it wakes.
func TestStoppedPrimary(t *testing.T) { check(t, runDemo(t, "--kill", "stopped")) }

// Killing copies, once or twice, at random moments of a load loses no acknowledged write and
// opens no second connection.
func TestChaos(t *testing.T) {
	rounds := 2
	if s := os.Getenv("TANDEM_CHAOS"); s != "" {
		fmt.Sscan(s, &rounds)
	}
	for i := range rounds {
		before := time.Second + rand.N(3*time.Second)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			args := []string{"--before", before.String(), "--after", "3s", "--kill", []string{"primary", "backup"}[rand.N(2)]}
			if rand.N(2) == 0 {
				args = append(args, "--again")
			}
			check(t, runDemo(t, args...))
		})
	}
}

// Bad input gets one line that says what and what to do, exit code 1, no stack trace.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	img := guest(t)
	kernel, err := os.ReadFile(filepath.Join(img, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no kernel file", []string{"run", "--kernel", dir + "/none"}, "none: no such file"},
		{"truncated kernel", []string{"run", "--kernel", write("cut", kernel[:len(kernel)/2])}, "cut short"},
		{"text as kernel", []string{"run", "--kernel", write("text", []byte("hello"))}, "not a Linux Image"},
		{"ELF of this host", []string{"run", "--elf", binary(t)}, "EM_X86_64"},
		{"no disk", []string{"run", img, "--disk", dir + "/nodisk"}, "nodisk"},
		{"no image", []string{"run", dir}, "tandem image build"},
		{"too little memory", []string{"run", img, "--memory", "16M"}, "--memory"},
		{"log that is none", []string{"replay", write("nolog", []byte("no log at all, but long enough for a prefix"))}, "nolog"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, diag, code := tandem(t, c.args...)
			lines := strings.Count(strings.TrimSpace(diag), "\n") + 1
			if code != 1 || lines != 1 || !strings.Contains(diag, c.want) || strings.Contains(diag, "goroutine") {
				t.Errorf("exit code %d, want %q in one line: %s%s", code, c.want, out, diag)
			}
		})
	}
}

// A recording made by the translator replays on either engine with equal hashes.
func TestEngines(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("there is no translator for this host yet")
	}
	log := filepath.Join(t.TempDir(), "jit.log")
	c := start(t, "run", guest(t), "--engine", "jit", "--record", log, "--cpus", "2")
	c.expect(ready)
	c.ask("sha256sum /usr/bin/redis-server; redis-cli set key jit; sync; echo done=$((40+2))", "done=42")
	if code := c.powerOff(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	replays(t, log, "--engine", "interpreter")
	replays(t, log, "--engine", "jit")
}
