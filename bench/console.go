// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// reading is what the console of one run said.
type reading struct {
	times map[string]time.Duration
	sums  map[string]string
	names []string // the programs expected
	last  string   // the last line, for errors

	init, done bool
	open       string // the program whose end is awaited
	since      time.Duration
}

func newReading(names []string) *reading {
	return &reading{times: map[string]time.Duration{}, sums: map[string]string{}, names: names}
}

// errCut says that the console ended too early.
var errCut = errors.New("the console ended before the last program")

// maxLine bounds what is kept of one line.
const maxLine = 4096

// scan reads the console to its end, or to an error. Each line's time is that
// of its arrival.
func (r *reading) scan(in *bufio.Reader, start time.Time, measured func(row string, d time.Duration)) error {
	for {
		text, err := readLine(in)
		at := time.Since(start)
		if text != "" {
			r.last = text
			row, bad := r.line(text, at)
			if bad != nil {
				return bad
			}
			if row != "" {
				measured(row, r.times[row])
			}
		}
		if err != nil {
			break
		}
	}
	if !r.done {
		return fmt.Errorf("%w: last line %q", errCut, r.last)
	}
	for _, name := range r.names {
		if r.sums[name] == "" {
			return fmt.Errorf("%s did not run", name)
		}
	}
	return nil
}

// readLine returns a line without its end, cut at maxLine.
func readLine(in *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		if room := maxLine - len(line); room > 0 {
			line = append(line, part[:min(len(part), room)]...)
		}
		if err != nil || !more {
			return strings.TrimSpace(string(line)), err
		}
	}
}

// line takes one line that came at a time, and returns the row it completes.
// Other lines are the firmware's and the kernel's.
func (r *reading) line(text string, at time.Duration) (row string, err error) {
	i := strings.Index(text, "BENCH-")
	if i < 0 {
		if strings.Contains(text, "Kernel panic") {
			err = errors.New(text)
		}
		return "", err
	}
	f := strings.Fields(text[i:])
	switch {
	case f[0] == "BENCH-INIT" && !r.init:
		r.init, r.times[bootRow] = true, at
		return bootRow, nil
	case f[0] == "BENCH-BEGIN" && len(f) == 2 && r.init && r.open == "" && slices.Contains(r.names, f[1]):
		r.open, r.since = f[1], at
		return "", nil
	case f[0] == "BENCH-END" && len(f) == 3 && r.open == f[1]:
		r.times[r.open], r.sums[r.open] = at-r.since, f[2]
		r.open = ""
		return f[1], nil
	case f[0] == "BENCH-DONE" && r.init && r.open == "":
		r.done = true
		return "", nil
	}
	return "", fmt.Errorf("the guest printed %q, which does not fit there", text)
}

// compare holds a reading's checksums against the native ones.
func compare(r *reading, want map[string]string) error {
	for _, name := range r.names {
		if r.sums[name] != want[name] {
			delete(r.times, name)
			return fmt.Errorf("%s computed %s, natively it is %s: the engine is wrong", name, r.sums[name], want[name])
		}
	}
	return nil
}
