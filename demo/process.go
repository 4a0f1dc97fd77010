// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host/child"
)

// start runs the binary with args. Its diagnostics go to a file.
func (s *story) start(name string, args ...string) error {
	p, err := child.Start(name, s.path(name+".log"), s.Executable, args...)
	if err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	return nil
}

func (s *story) proc(name string) *child.Process {
	for _, p := range s.procs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// forget drops a process that has ended, so that another takes its name.
func (s *story) forget(name string) {
	s.procs = slices.DeleteFunc(s.procs, func(p *child.Process) bool { return p.Name == name })
}

// until waits for a condition, and gives up when a process has ended.
func (s *story) until(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	var ended string
	err := child.Until(ctx, limit, what, func() bool {
		for _, p := range s.procs {
			if p.Ended() {
				ended = p.Name
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

// cleanUp ends all processes, waits for them and removes the folder.
func (s *story) cleanUp() {
	for _, role := range []string{"primary", "backup", "backup2"} {
		if p := s.proc(role); p != nil && !p.Ended() {
			s.control(role).PowerOff()
		}
	}
	deadline := time.After(2 * time.Second)
	for i := len(s.procs) - 1; i >= 0; i-- {
		p := s.procs[i]
		if p.Name == "store" || p.Name == "switch" {
			p.Signal(syscall.SIGTERM)
		}
		select {
		case <-p.Done():
		case <-deadline:
			p.Kill()
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
			b, err := os.ReadFile(s.path(p.Name + suffix))
			if err == nil && len(b) > 0 {
				fmt.Fprintf(&out, "\n--- %s%s\n%s", p.Name, suffix, b[max(0, len(b)-most):])
			}
		}
	}
	return out.String()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
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
