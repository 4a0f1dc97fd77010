// SPDX-License-Identifier: Apache-2.0

package codemem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is where a mapping lies. Sound: it is outside of Go's heap and never moves.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// again maps the pages of a shared mapping a second time, elsewhere: what mremap
// does where the old size is 0. Sound: the address is of a mapping, and the kernel
// chooses a new one that is free.
func again(b []byte) ([]byte, error) {
	at, err := unix.MremapPtr(unsafe.Pointer(unsafe.SliceData(b)), 0, nil, uintptr(len(b)), unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(at), len(b)), nil
}

// unmapAgain unmaps what again has mapped. Sound: nobody runs code there any more.
func unmapAgain(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}
