// SPDX-License-Identifier: Apache-2.0

package codemem

import "golang.org/x/sys/cpu"

// Supported reports whether this host runs translated code: it uses the bit
// counts and the fused multiplication that came with x86-64-v3.
func Supported() bool {
	x := &cpu.X86
	return x.HasBMI1 && x.HasBMI2 && x.HasPOPCNT && x.HasSSE41 && x.HasFMA
}
