// SPDX-License-Identifier: Apache-2.0

package ram

import "unsafe"

// address is where memory is that doesn't move: mapped, or kept alive by the caller
// on the heap, which Go doesn't move either.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
