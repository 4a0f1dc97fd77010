// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"unsafe"

	"tandem/machine/jit"
	"tandem/machine/jit/native"
)

// floatLayout is the part of layout that concerns floating point, sound as that is.
var floatLayout = func() jit.FloatLayout {
	var h Hart
	f := &h.native.float
	base := unsafe.Offsetof(h.x)
	state := int32(unsafe.Offsetof(h.native) + unsafe.Offsetof(h.native.float) - base)
	return jit.FloatLayout{
		F: int32(unsafe.Offsetof(h.f) - base), FRM: int32(unsafe.Offsetof(h.frm) - base),
		Mode: state + int32(unsafe.Offsetof(f.Mode)), WhenDirty: state + int32(unsafe.Offsetof(f.WhenDirty)),
		WasOn: int32(unsafe.Offsetof(h.native) + unsafe.Offsetof(h.native.wasOn) - base),
		Guest: state + int32(unsafe.Offsetof(f.Guest)), Host: state + int32(unsafe.Offsetof(f.Host)),
	}
}()

// Package native finds nativeState.float where it expects it.
var _ = [1]struct{}{}[unsafe.Offsetof(Hart{}.native)+unsafe.Offsetof(nativeState{}.float)-unsafe.Offsetof(Hart{}.x)-native.FloatAt]
