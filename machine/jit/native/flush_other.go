// SPDX-License-Identifier: Apache-2.0

//go:build !arm64

package native

// Flush makes n bytes of code at addr, in the executable view, run as they were
// last written. This host sees to that by itself.
func Flush(addr uintptr, n int) {}
