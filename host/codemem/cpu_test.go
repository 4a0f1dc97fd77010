// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && linux

package codemem

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Supported says what the kernel lists of the CPU; "abm" is its word for LZCNT.
func TestSupported(t *testing.T) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip(err)
	}
	line := regexp.MustCompile(`(?m)^flags\s*:.*$`).Find(b)
	if line == nil {
		t.Skip("/proc/cpuinfo lists no flags")
	}
	flags := strings.Fields(string(line))
	if got, want := hasLZCNT(), slices.Contains(flags, "abm"); got != want {
		t.Errorf("hasLZCNT is %v, the kernel says %v", got, want)
	}
	want := true
	for _, f := range []string{"popcnt", "abm", "bmi1", "bmi2", "sse4_1", "avx", "fma"} {
		want = want && slices.Contains(flags, f)
	}
	if Supported() != want {
		t.Errorf("Supported is %v, the kernel's flags say %v", Supported(), want)
	}
}
