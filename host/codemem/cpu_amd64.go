// SPDX-License-Identifier: Apache-2.0

package codemem

import "golang.org/x/sys/cpu"

// Supported reports whether this host runs translated code: it uses the bit
// counts that came with x86-64-v3.
func Supported() bool { return cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT }
