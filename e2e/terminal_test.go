// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// person sits at a terminal that tandem runs in.
type person struct {
	t        *testing.T
	keyboard *os.File // and screen
	tty      *os.File
	before   *term.State
	cmd      *exec.Cmd

	mu     sync.Mutex
	screen bytes.Buffer
	from   int // what expect has seen
}

func sit(t *testing.T, args ...string) *person {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, keyboard: keyboard, tty: tty, cmd: exec.Command(binary(t), args...)}
	if p.before, err = term.GetState(int(tty.Fd())); err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); keyboard.Close(); tty.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := keyboard.Read(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.screen.Write(b[:n])
			p.mu.Unlock()
		}
	}()
	return p
}

func (p *person) types(s string) {
	if _, err := p.keyboard.WriteString(s); err != nil {
		p.t.Error(err)
	}
}

// expect waits for text on the screen, after what was expected before.
func (p *person) expect(text string) {
	p.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		p.mu.Lock()
		i := strings.Index(p.screen.String()[p.from:], text)
		if i >= 0 {
			p.from += i + len(text)
		}
		p.mu.Unlock()
		if i >= 0 {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.screen.String()
	p.t.Fatalf("the terminal never showed %q:\n%s", text, s[max(0, len(s)-4000):])
}

// leaves waits for the end and checks its exit code, and the terminal's mode.
func (p *person) leaves(code int) {
	p.t.Helper()
	p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d", got, code)
	}
	if after, err := term.GetState(int(p.tty.Fd())); err != nil || *after != *p.before {
		p.t.Errorf("the terminal's mode changed: %v", err)
	}
}

// A person at a terminal boots a guest, interrupts a command with Ctrl-C, pastes
// 64 KiB, asks for help and leaves; however the run ends, the terminal is as it was.
func TestTerminal(t *testing.T) {
	img := guest(t)
	p := sit(t, "run", img)
	p.expect(ready)
	p.types("echo be\"\"gins; sleep 100000\r")
	p.expect("begins")
	p.types("\x03echo $((6*7))\r")
	p.expect("# 42\r")

	var paste strings.Builder
	for i := range 1024 {
		fmt.Fprintf(&paste, "%06d %056d\n", i, i)
	}
	p.types("echo be\"\"gins; cat > /tmp/pasted; sha256sum /tmp/pasted\r")
	p.expect("begins")
	p.types(strings.ReplaceAll(paste.String(), "\n", "\r") + "\x04")
	p.expect(fmt.Sprintf("%x", sha256.Sum256([]byte(paste.String()))))

	p.types("\x01h")
	p.expect("Ctrl-A x")
	p.types("\x01x")
	p.leaves(0)

	p = sit(t, "run", img)
	p.expect(ready)
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.expect("not shut down")
	p.leaves(1)

	p = sit(t, "run", img)
	p.expect(ready)
	p.types("poweroff\r")
	p.leaves(0)
}

// The terminal can belong to the virtio console, too.
func TestVirtioConsole(t *testing.T) {
	c := start(t, "run", guest(t), "--terminal", "virtio", "--append", "console=hvc0")
	c.expect(ready)
	c.ask("echo consoles=$(ls /dev/hvc0)", "consoles=/dev/hvc0")
	if code := c.powerOff(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
