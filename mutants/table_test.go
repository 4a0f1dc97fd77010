// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

// Each mutant still finds what it replaces: make mutants takes too long to be run with
// every change.
func TestTable(t *testing.T) {
	for _, m := range mutants {
		b, err := os.ReadFile("../" + m.file)
		if err != nil {
			t.Errorf("%s: %v", m.bug, err)
		} else if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: %s has %d times what is to be replaced: say it anew in table.go:\n%s", m.bug, m.file, n, m.old)
		}
	}
}
