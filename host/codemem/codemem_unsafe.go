// SPDX-License-Identifier: Apache-2.0

package codemem

import "unsafe"

// address is where a mapping lies. Sound: it is outside of Go's heap and never moves.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
