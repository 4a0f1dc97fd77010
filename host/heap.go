// SPDX-License-Identifier: Apache-2.0

package host

import "runtime/debug"

// LeanHeap keeps the memory of the emulator small beside the guest's: a garbage
// collection each time that the heap has grown by half, for a heap that hardly
// grows once the guest runs.
func LeanHeap() {
	program()
	debug.SetGCPercent(50)
}

// ReturnMemory gives the host what a start or a clone has left behind: a kernel and
// its copies, and code that only a start runs. It takes some milliseconds, beside what
// else runs.
func ReturnMemory() {
	debug.FreeOSMemory()
	dropProgram()
}
