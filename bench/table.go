// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is the result; its JSON form has what the table shows and every single time.
type report struct {
	Host     host               `json:"host"`
	Versions map[string]string  `json:"versions"`
	Rounds   int                `json:"rounds"`
	Engines  []string           `json:"engines"`
	Rows     []*row             `json:"rows"`
	Mean     map[string]float64 `json:"geometric_mean"` // of each ratio
}

type host struct {
	CPU  string `json:"cpu"`
	CPUs int    `json:"cpus"`
}

type row struct {
	Name   string               `json:"name"`
	Times  map[string][]float64 `json:"seconds"` // by engine, one for each round
	Median map[string]float64   `json:"median"`
	Ratio  map[string]float64   `json:"ratio"`
}

// ratios are the columns that compare medians: above 1, the second is faster.
var ratios = []struct{ name, over, under string }{
	{"qemu/tandem", "qemu", "tandem"},
	{"other/tandem", "other", "tandem"},
	{"qemu/tandem record", "qemu-record", "tandem-record"},
	{"qemu/tandem replay", "qemu-replay", "tandem-replay"},
	{"tandem/native", "tandem", native},
}

func newReport(ctx context.Context, o options, chosen []engine) *report {
	r := &report{Host: host{cpuModel(), runtime.NumCPU()}, Versions: map[string]string{}, Rounds: o.rounds}
	for _, e := range chosen {
		r.Engines = append(r.Engines, e.name)
	}
	if slices.ContainsFunc(chosen, func(e engine) bool { return strings.HasPrefix(e.name, "qemu") }) {
		r.Versions["qemu"] = version(ctx, o.paths.qemu, "--version")
	}
	r.Versions["gcc"] = version(ctx, hostCompiler.name, "--version")
	r.Versions["riscv64 gcc"] = version(ctx, guestCompiler.name, "--version")
	for _, name := range append([]string{bootRow}, programs...) {
		if len(o.only) == 0 || slices.Contains(o.only, name) {
			r.Rows = append(r.Rows, &row{Name: name, Times: map[string][]float64{}})
		}
	}
	return r
}

// add enters one run. A native process boots nothing.
func (r *report) add(engine string, got *reading) {
	for _, row := range r.Rows {
		t, ok := got.times[row.Name]
		if ok && !(engine == native && row.Name == bootRow) {
			row.Times[engine] = append(row.Times[engine], t.Seconds())
		}
	}
}

// evaluate computes medians, ratios and their geometric means.
func (r *report) evaluate() {
	logs, counts := map[string]float64{}, map[string]int{}
	for _, row := range r.Rows {
		row.Median, row.Ratio = map[string]float64{}, map[string]float64{}
		for engine, times := range row.Times {
			row.Median[engine] = median(times)
		}
		for _, q := range ratios {
			over, under := row.Median[q.over], row.Median[q.under]
			if over > 0 && under > 0 {
				row.Ratio[q.name] = over / under
				logs[q.name] += math.Log(over / under)
				counts[q.name]++
			}
		}
	}
	r.Mean = map[string]float64{}
	for name, n := range counts {
		r.Mean[name] = math.Exp(logs[name] / float64(n))
	}
}

// median of at least one number; of an even count, the middle of the middle two.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func (r *report) print(w io.Writer, format string) error {
	r.evaluate()
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "markdown":
		return r.markdown(w)
	}
	return r.text(w)
}

// cells is the table: the head, the rows, the geometric means.
func (r *report) cells() [][]string {
	var shown []string
	for _, q := range ratios {
		if r.Mean[q.name] > 0 {
			shown = append(shown, q.name)
		}
	}
	table := [][]string{slices.Concat([]string{"seconds"}, r.Engines, shown)}
	for _, row := range r.Rows {
		line := []string{row.Name}
		for _, e := range r.Engines {
			line = append(line, cell(row.Median[e], "%.3f"))
		}
		for _, name := range shown {
			line = append(line, cell(row.Ratio[name], "%.2f"))
		}
		table = append(table, line)
	}
	if len(shown) == 0 {
		return table
	}
	mean := append([]string{"geometric mean"}, make([]string, len(r.Engines))...)
	for _, name := range shown {
		mean = append(mean, cell(r.Mean[name], "%.2f"))
	}
	return append(table, mean)
}

func cell(v float64, format string) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// caption says on what it was measured.
func (r *report) caption() string {
	rounds := fmt.Sprintf("medians of %d rounds", r.Rounds)
	if r.Rounds == 1 {
		rounds = "one round"
	}
	parts := []string{rounds, fmt.Sprintf("%s, %d CPUs", r.Host.CPU, r.Host.CPUs)}
	for _, name := range []string{"qemu", "gcc", "riscv64 gcc"} {
		if v := r.Versions[name]; v != "" {
			parts = append(parts, v)
		}
	}
	return strings.Join(parts, "; ")
}

func (r *report) text(w io.Writer) error {
	fmt.Fprintln(w, r.caption())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, line := range r.cells() {
		fmt.Fprintln(t, strings.Join(line, "\t")+"\t")
	}
	return t.Flush()
}

func (r *report) markdown(w io.Writer) error {
	var err error
	for i, line := range r.cells() {
		_, err = fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|---|%s\n", strings.Repeat("---:|", len(line)-1))
		}
	}
	fmt.Fprintf(w, "\n%s\n", r.caption())
	return err
}
