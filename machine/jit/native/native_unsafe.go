// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package native

import "unsafe"

// enter is in assembly. Nothing that it is given escapes or moves: ctx and tlb
// point into heap objects that their owner keeps alive, code into memory outside
// of Go's heap. No pointer is stored by translated code.
//
//go:noescape
func enter(code uintptr, ctx, tlb unsafe.Pointer, steps uint64) (left uint64)

// Enter runs translated code and returns the steps left.
func Enter(code uintptr, ctx, tlb unsafe.Pointer, steps uint64) (left uint64) {
	return enter(code, ctx, tlb, steps)
}
