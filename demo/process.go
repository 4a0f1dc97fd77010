// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host/control"
)

// process is one box of the picture.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs the binary with args. Its diagnostics go to a file.
func (s *story) start(name string, args ...string) error {
	log, err := os.Create(s.path(name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Executable, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own, so that Ctrl-C reaches the demo only, and an end
	// with the demo's even if that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the %s: %w", name, err)
	}
	p := &process{name, cmd, make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	s.procs = append(s.procs, p)
	return nil
}

func (s *story) proc(name string) *process {
	for _, p := range s.procs {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is kill -9.
func (p *process) kill() error { return p.cmd.Process.Kill() }

func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// forget drops a process that has ended, so that another takes its name.
func (s *story) forget(name string) {
	s.procs = slices.DeleteFunc(s.procs, func(p *process) bool { return p.name == name })
}

// until waits for a condition, and gives up when a process has ended.
func (s *story) until(ctx context.Context, limit time.Duration, ok func() bool) error {
	var ended string
	err := waitFor(ctx, limit, func() bool {
		for _, p := range s.procs {
			if p.ended() {
				ended = p.name
				return true
			}
		}
		return ok()
	})
	if ended != "" {
		return fmt.Errorf("the %s has ended", ended)
	}
	return err
}

// waitFor polls a condition.
func waitFor(ctx context.Context, limit time.Duration, ok func() bool) error {
	deadline := time.Now().Add(limit)
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v", limit)
		}
	}
	return nil
}

// cleanUp ends all processes, waits for them and removes the folder.
func (s *story) cleanUp() {
	for _, role := range []string{"primary", "backup", "backup2"} {
		if p := s.proc(role); p != nil && !p.ended() {
			s.control(role).PowerOff()
		}
	}
	deadline := time.After(2 * time.Second)
	for i := len(s.procs) - 1; i >= 0; i-- {
		p := s.procs[i]
		if p.name == "store" || p.name == "switch" {
			p.cmd.Process.Signal(syscall.SIGTERM)
		}
		select {
		case <-p.done:
		case <-deadline:
			p.kill()
			<-p.done
		}
	}
	os.RemoveAll(s.dir)
}

// diagnostics returns the end of what the processes wrote.
func (s *story) diagnostics() string {
	const most = 2000
	var out strings.Builder
	for _, p := range s.procs {
		for _, suffix := range []string{".log", ".events", ".console"} {
			b, err := os.ReadFile(s.path(p.name + suffix))
			if err == nil && len(b) > 0 {
				fmt.Fprintf(&out, "\n--- %s%s\n%s", p.name, suffix, b[max(0, len(b)-most):])
			}
		}
	}
	return out.String()
}

// readEvents reads a file of events; a last line that is cut short is left out.
func readEvents(path string) (list []control.Record) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var r control.Record
		if json.Unmarshal(in.Bytes(), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// freePorts finds ports of the loopback address that nobody listens on.
func freePorts(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// copySparse copies a file and keeps its holes.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	err = copyData(out, in, st.Size())
	return errors.Join(err, out.Truncate(st.Size()), out.Close())
}

// copyData copies the parts of a file that hold data.
func copyData(out, in *os.File, size int64) error {
	for at := int64(0); at < size; {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := in.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
	return nil
}
