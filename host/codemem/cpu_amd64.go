// SPDX-License-Identifier: Apache-2.0

package codemem

import "golang.org/x/sys/cpu"

// Supported reports whether this host runs translated code: whether it has what
// the translator may write beyond x86-64's first version. All came by 2013 to
// Intel's CPUs and by 2015 to AMD's, but a hypervisor may hide any of them.
//
//	POPCNT        cpop
//	LZCNT         clz; a CPU without it takes it for BSR, which answers otherwise
//	BMI1          ctz (TZCNT, likewise), andn
//	BMI2          shifts by a register that leave the flags alone, rorx
//	SSE4.1        rounding to integers (ROUNDSD), PEXTRQ
//	AVX, FMA      fused multiplication, if the kernel keeps the registers
func Supported() bool {
	x := &cpu.X86
	return x.HasPOPCNT && hasLZCNT() && x.HasBMI1 && x.HasBMI2 && x.HasSSE41 && x.HasAVX && x.HasFMA
}

// hasLZCNT is CPUID 80000001, ECX bit 5 (SDM volume 2, CPUID), which x/sys leaves
// out.
func hasLZCNT() bool {
	const leaf, bit = 0x8000_0001, 5
	if most, _, _, _ := cpuid(leaf&^0xffff, 0); most < leaf {
		return false
	}
	_, _, c, _ := cpuid(leaf, 0)
	return c>>bit&1 != 0
}

// cpuid is the instruction.
func cpuid(leaf, subleaf uint32) (a, b, c, d uint32)
