// SPDX-License-Identifier: Apache-2.0

package jit

import "tandem/machine/riscv"

// loads and storeSize are the loads and stores of x registers, by their bytes; the
// size of other operations is 0.
var (
	loads = [riscv.NumOps]struct {
		size   int32
		signed bool
	}{
		riscv.LB: {1, true}, riscv.LBU: {1, false}, riscv.LH: {2, true}, riscv.LHU: {2, false},
		riscv.LW: {4, true}, riscv.LWU: {4, false}, riscv.LD: {8, false},
	}

	storeSize = [riscv.NumOps]int32{riscv.SB: 1, riscv.SH: 2, riscv.SW: 4, riscv.SD: 8}
)
