// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// The table has medians over the rounds, the ratio of a load with a backup to the same
// load alone, and the paper's figures for each way to read; what was not measured is "-".
func TestTable(t *testing.T) {
	all := []reading{
		{Load: "idle", Mode: readsLog, Log: 20e3, Wire: 90e3, Primary: 0.004, Backup: 0.005},
		{Load: "pgbench", Mode: alone, Speed: 90}, {Load: "pgbench", Mode: alone, Speed: 110}, {Load: "pgbench", Mode: alone, Speed: 100},
		{Load: "pgbench", Mode: readsLog, Speed: 97, Log: 5e6, Wire: 6e6}, {Load: "pgbench", Mode: readsLog, Speed: 98, Log: 5e6, Wire: 7e6},
		{Load: "pgbench", Mode: readsBackup, Speed: 96, Log: 1e6, Wire: 2e6},
	}
	r := newReport(options{rounds: 3, seconds: 1, memory: "1G", beside: true}, all)
	var out strings.Builder
	if err := r.print(&out, "markdown"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| idle | - | - | - | - | 0.020 | 0.090 | 0.5–1.5 | 0.4 % | 0.5 % |\n",
		"| pgbench, reads=log | 100 | 97.5 | 0.975 | 0.94–0.99 | 5.000 | 6.500 | 12–18 | - | - |\n",
		"| pgbench, reads=backup | 100 | 96 | 0.960 | 0.93–0.95 | 1.000 | 2.000 | 3–8 | - | - |\n",
		"medians of 3 rounds of 1 s",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "compile") {
		t.Errorf("a row that was not measured:\n%s", out.String())
	}
}
