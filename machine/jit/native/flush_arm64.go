// SPDX-License-Identifier: Apache-2.0

package native

// flush is in assembly, for a range that is not empty.
//
//go:noescape
func flush(addr, end uintptr)

// Flush makes n bytes of code at addr, in the executable view, run as they were
// last written.
func Flush(addr uintptr, n int) {
	if n > 0 {
		flush(addr, addr+uintptr(n))
	}
}
