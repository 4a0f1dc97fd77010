// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// priority is the nice value of a replica: its peer takes silence for death, so
// other work of the host must not keep it from the CPU.
const priority = -10

// slice is how long a thread of ours may keep another one from a processor that both
// want, before Linux looks again: the one that brings an acknowledgement must not
// wait out the 3 ms of the one that runs the guest. Kernels before 6.12 don't know it.
const slice = 200 * time.Microsecond

// Prioritize raises the scheduling priority of this process, with the threads that
// it will have. Without the right to (CAP_SYS_NICE, RLIMIT_NICE) nothing changes,
// and a host that is short of CPU may see needless failovers.
func Prioritize() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, priority); err != nil && err != unix.ESRCH {
			return err
		}
		unix.SchedSetAttr(tid, &unix.SchedAttr{Nice: priority, Runtime: uint64(slice)}, 0)
	}
	return nil
}
