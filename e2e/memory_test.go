// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Beside the memory of its guest, which is a mapping of its own, a VM costs no more than
// 150 MiB.
func TestMemory(t *testing.T) {
	const guestBytes, mostKiB = 1 << 30, 150 << 10
	c := start(t, "run", guest(t), "--memory", "1G")
	c.expect(ready)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var size uint64 // of the mapping that lines are about
	guest, beside := 0, 0
	for line := range strings.Lines(string(b)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			size = to - from
		}
		var pss int
		fmt.Sscanf(line, "Pss: %d kB", &pss)
		if size >= guestBytes {
			guest += pss
		} else {
			beside += pss
		}
	}
	t.Logf("PSS %d MiB, and %d beside it", guest>>10, beside>>10)
	if guest == 0 || beside == 0 || beside > mostKiB {
		t.Errorf("PSS of the guest's memory is %d KiB, beside it %d, at most %d", guest, beside, mostKiB)
	}
	c.powerOff()
}
