// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

package native

import "unsafe"

// Enter is never called where Supported is false.
func Enter(code uintptr, ctx, tlb unsafe.Pointer, steps uint64) (left uint64) {
	panic("native: no translated code on this host")
}
