// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is the result; its JSON form has every single reading too.
type report struct {
	CPU      string    `json:"cpu"`
	CPUs     int       `json:"cpus"`
	Rounds   int       `json:"rounds"`
	Seconds  int       `json:"seconds"`
	Memory   string    `json:"memory"`
	Beside   bool      `json:"beside"`
	Load     string    `json:"load_average"` // of the machine at the end
	Rows     []row     `json:"rows"`
	Readings []reading `json:"readings"`
}

// row is one load with a backup, in medians. What was not measured is 0.
type row struct {
	Name       string  `json:"name"`
	Alone      float64 `json:"alone"`
	Paired     float64 `json:"with_a_backup"`
	Ratio      float64 `json:"ratio"`
	PaperRatio string  `json:"paper_ratio,omitempty"`
	Log        float64 `json:"log_bits"`
	Wire       float64 `json:"wire_bits"`
	PaperLog   string  `json:"paper_log_mbits"`
	Primary    float64 `json:"primary_cpu"`
	Backup     float64 `json:"backup_cpu"`
}

func newReport(o options, all []reading) *report {
	r := &report{CPU: cpuModel(), CPUs: runtime.NumCPU(), Rounds: o.rounds, Seconds: o.seconds, Memory: o.memory,
		Beside: o.beside, Load: loadAverage(), Readings: all}
	for _, l := range loads {
		for _, mode := range l.modes {
			if mode == alone || !slices.ContainsFunc(all, func(x reading) bool { return x.Load == l.name && x.Mode == mode }) {
				continue
			}
			r.Rows = append(r.Rows, newRow(l, mode, all))
		}
	}
	return r
}

func newRow(l load, mode string, all []reading) row {
	middle := func(mode string, of func(reading) float64) float64 {
		var v []float64
		for _, x := range all {
			if x.Load == l.name && x.Mode == mode {
				v = append(v, of(x))
			}
		}
		return median(v)
	}
	speed := func(x reading) float64 { return x.Speed }
	w := row{Name: l.name, PaperRatio: l.ratio, PaperLog: l.log, Alone: middle(alone, speed), Paired: middle(mode, speed),
		Log: middle(mode, func(x reading) float64 { return x.Log }), Wire: middle(mode, func(x reading) float64 { return x.Wire }),
		Primary: middle(mode, func(x reading) float64 { return x.Primary }), Backup: middle(mode, func(x reading) float64 { return x.Backup })}
	if w.Alone > 0 {
		w.Ratio = w.Paired / w.Alone
	}
	if slices.Contains(l.modes, readsBackup) {
		w.Name += ", " + mode
	}
	if mode == readsBackup {
		w.PaperRatio, w.PaperLog = onBackup.ratio, onBackup.log
	}
	return w
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

var header = []string{"", "alone, 1/s", "with a backup, 1/s", "FT / non-FT", "paper", "log, Mbit/s", "wire, Mbit/s", "paper", "CPU, primary", "backup"}

func (w row) cells() []string {
	number := func(format string, v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf(format, v)
	}
	text := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	return []string{w.Name, number("%.3g", w.Alone), number("%.3g", w.Paired), number("%.3f", w.Ratio), text(w.PaperRatio),
		number("%.3f", w.Log/1e6), number("%.3f", w.Wire/1e6), text(w.PaperLog), number("%.1f %%", w.Primary*100), number("%.1f %%", w.Backup*100)}
}

// about says under what conditions the table was made.
func (r *report) about() string {
	beside := "the VM that is alone beside a second one that is as busy"
	if !r.Beside {
		beside = "the VM that is alone with the processors for itself"
	}
	return fmt.Sprintf("medians of %d rounds of %d s; %s, %d CPUs, load average %s at the end; guests of %s, %s",
		r.Rounds, r.Seconds, r.CPU, r.CPUs, r.Load, r.Memory, beside)
}

func (r *report) print(w io.Writer, format string) error {
	switch format {
	case "json":
		return json.NewEncoder(w).Encode(r)
	case "markdown":
		fmt.Fprintf(w, "| %s |\n|---%s|\n", strings.Join(header, " | "), strings.Repeat("|---:", len(header)-1))
		for _, x := range r.Rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(x.cells(), " | "))
		}
		_, err := fmt.Fprintf(w, "\n%s\n", r.about())
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, x := range r.Rows {
		fmt.Fprintln(t, strings.Join(x.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.about())
	return err
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if name, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return "unknown"
	}
	return f[0]
}
