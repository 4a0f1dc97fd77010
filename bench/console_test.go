// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"strings"
	"testing"
	"time"
)

// Times are differences of the lines' arrival; what firmware and kernel print,
// and what a line begins with, does not matter.
func TestLines(t *testing.T) {
	r := newReading([]string{"calls", "pipe"})
	for _, l := range []struct {
		text string
		at   time.Duration
		row  string
	}{
		{"OpenSBI v1.3", 1, ""},
		{"[    0.000000] Kernel command line: console=ttyS0 bench=calls,pipe", 2, ""},
		{"\x1b[0mBENCH-INIT ready", 5, bootRow},
		{"BENCH-BEGIN calls", 7, ""},
		{"[    9.9] a driver speaks", 8, ""},
		{"BENCH-END calls 00000000000000aa", 17, "calls"},
		{"BENCH-BEGIN pipe", 20, ""},
		{"BENCH-END pipe bb", 50, "pipe"},
		{"BENCH-DONE all", 51, ""},
	} {
		row, err := r.line(l.text, l.at)
		if row != l.row || err != nil {
			t.Fatalf("%q completes %q: %v", l.text, row, err)
		}
	}
	if r.times[bootRow] != 5 || r.times["calls"] != 10 || r.times["pipe"] != 30 || r.sums["pipe"] != "bb" || !r.done {
		t.Errorf("%+v", r)
	}
}

// A guest that fails, says the wrong thing or ends early is an error that quotes it.
func TestBadConsole(t *testing.T) {
	const ok = "BENCH-INIT ready\r\nBENCH-BEGIN calls\r\nBENCH-END calls aa\r\n"
	for _, c := range []struct{ name, console, want string }{
		{"panic", "[ 1.0] Kernel panic - not syncing: no init\n", "no init"},
		{"failure", "BENCH-INIT ready\nBENCH-FAIL calls killed by a signal\n", "killed by a signal"},
		{"end without begin", "BENCH-INIT ready\nBENCH-END calls aa\n", "does not fit"},
		{"begin before init", "BENCH-BEGIN calls\n", "does not fit"},
		{"not asked for", "BENCH-INIT ready\nBENCH-BEGIN pipe\n", "does not fit"},
		{"two boots", ok + "BENCH-INIT ready\n", "does not fit"},
		{"nothing after the dash", "BENCH-\n", "does not fit"},
		{"cut", ok, "ended before"},
		{"empty", "", "ended before"},
		{"not run", "BENCH-INIT ready\nBENCH-DONE all\n", "calls did not run"},
		{"one long line", strings.Repeat("x", 1<<20) + "\n", "ended before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReading([]string{"calls"})
			err := r.scan(bufio.NewReader(strings.NewReader(c.console)), time.Now(), func(string, time.Duration) {})
			if err == nil || !strings.Contains(err.Error(), c.want) || len(r.last) > maxLine {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	r := newReading([]string{"calls"})
	if err := r.scan(bufio.NewReader(strings.NewReader(ok+"BENCH-DONE all")), time.Now(), func(string, time.Duration) {}); err != nil {
		t.Error(err)
	}
	if compare(r, map[string]string{"calls": "aa"}) != nil {
		t.Error("equal checksums are refused")
	}
}

// A wrong checksum is an error, and its time does not count.
func TestWrongChecksum(t *testing.T) {
	r := newReading([]string{"calls"})
	r.sums["calls"], r.times["calls"] = "aa", time.Second
	err := compare(r, map[string]string{"calls": "bb"})
	if err == nil || !strings.Contains(err.Error(), "calls computed aa, natively it is bb") || r.times["calls"] != 0 {
		t.Errorf("%v, time %v", err, r.times["calls"])
	}
}
