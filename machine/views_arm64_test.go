// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tandem/machine/jit/arm64"
	"tandem/machine/jit/native"
)

// codeMemory is memory with two views, or with one where an emulator runs on with
// what it had seen before code was written through another view: QEMU's user mode
// before 8.1 does. Translated code is rewritten only in a cache that was full.
func codeMemory(t testing.TB, size int) (rw []byte, rx uintptr) {
	t.Helper()
	if rw, rx = twoViews(t, size); sees(rw, rx) {
		return rw, rx
	}
	rw, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(rw) })
	return rw, uintptr(unsafe.Pointer(&rw[0]))
}

// sees reports whether code that was run, and then written anew, runs anew.
func sees(rw []byte, rx uintptr) bool {
	for want := range uint64(2) {
		var a arm64.Asm
		a.MovImm(arm64.X21, want) // the steps left
		a.Ret()
		native.Flush(rx, copy(rw, a.Code))
		if native.Enter(rx, unsafe.Pointer(new([512]uint64)), nil, 2) != want {
			return false
		}
	}
	return true
}
