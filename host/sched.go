// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// timeSlice is what a thread may run before others that woke get their turn, in
// nanoseconds: the least that Linux takes.
const timeSlice = 100_000

// ShortSlices asks the kernel to switch between this process's threads and those
// of others in short turns. A replica runs without a pause, and the threads that
// hear its peer and its disk share its processors: with the usual slices, of 3 ms,
// each held output would wait for one. It is a wish: Linux before 6.12 ignores it.
//
// Threads inherit the setting from the one that starts them.
func ShortSlices() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Runtime: timeSlice}, 0)
		}
	}
}
