// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A VM of 1 GiB costs no more than that and 150 MiB.
func TestMemory(t *testing.T) {
	const guestKiB, mostKiB = 1 << 20, 150 << 10
	c := start(t, "run", guest(t), "--memory", "1G")
	c.expect(ready)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pss := 0
	for line := range strings.Lines(string(b)) {
		fmt.Sscanf(line, "Pss: %d kB", &pss)
	}
	t.Logf("PSS %d MiB", pss>>10)
	if pss == 0 || pss > guestKiB+mostKiB {
		t.Errorf("PSS is %d KiB, at most %d for a guest of 1 GiB", pss, guestKiB+mostKiB)
	}
	c.powerOff()
}
