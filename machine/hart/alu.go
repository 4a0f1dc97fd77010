// SPDX-License-Identifier: Apache-2.0

package hart

import (
	"math/bits"

	"tandem/machine/riscv"
)

// divide computes the rest of M: high products, quotients and remainders, with
// the results that the manual gives for zero and overflow (Unpriv. 12.2).
func divide(op riscv.Op, a, b uint64) uint64 {
	switch op {
	case riscv.MULHU:
		hi, _ := bits.Mul64(a, b)
		return hi
	case riscv.MULH:
		hi, _ := bits.Mul64(a, b)
		return hi - uint64(int64(a)>>63)&b - uint64(int64(b)>>63)&a
	case riscv.MULHSU:
		hi, _ := bits.Mul64(a, b)
		return hi - uint64(int64(a)>>63)&b
	case riscv.DIV:
		if b == 0 {
			return ^uint64(0)
		}
		return uint64(int64(a) / int64(b)) // Go defines MinInt64 / -1 as MinInt64
	case riscv.DIVU:
		if b == 0 {
			return ^uint64(0)
		}
		return a / b
	case riscv.REM:
		if b == 0 {
			return a
		}
		return uint64(int64(a) % int64(b))
	case riscv.REMU:
		if b == 0 {
			return a
		}
		return a % b
	}
	return divideWord(op, uint32(a), uint32(b))
}

func divideWord(op riscv.Op, a, b uint32) uint64 {
	switch {
	case b == 0 && (op == riscv.DIVW || op == riscv.DIVUW):
		return ^uint64(0)
	case b == 0:
		return sext32(a)
	case op == riscv.DIVW:
		return uint64(int64(int32(a) / int32(b)))
	case op == riscv.DIVUW:
		return sext32(a / b)
	case op == riscv.REMW:
		return uint64(int64(int32(a) % int32(b)))
	}
	return sext32(a % b) // REMUW
}

// bitmanip computes Zbb, Zbc and Zbs, but for what the main loop does itself.
func bitmanip(op riscv.Op, a, b, imm uint64) uint64 {
	switch op {
	case riscv.CLZ:
		return uint64(bits.LeadingZeros64(a))
	case riscv.CTZ:
		return uint64(bits.TrailingZeros64(a))
	case riscv.CPOP:
		return uint64(bits.OnesCount64(a))
	case riscv.CLZW:
		return uint64(bits.LeadingZeros32(uint32(a)))
	case riscv.CTZW:
		return uint64(bits.TrailingZeros32(uint32(a)))
	case riscv.CPOPW:
		return uint64(bits.OnesCount32(uint32(a)))
	case riscv.MIN:
		return uint64(min(int64(a), int64(b)))
	case riscv.MINU:
		return min(a, b)
	case riscv.MAX:
		return uint64(max(int64(a), int64(b)))
	case riscv.MAXU:
		return max(a, b)
	case riscv.ROL:
		return bits.RotateLeft64(a, int(b&63))
	case riscv.ROR:
		return bits.RotateLeft64(a, -int(b&63))
	case riscv.RORI:
		return bits.RotateLeft64(a, -int(imm&63))
	case riscv.ROLW:
		return sext32(bits.RotateLeft32(uint32(a), int(b&31)))
	case riscv.RORW:
		return sext32(bits.RotateLeft32(uint32(a), -int(b&31)))
	case riscv.RORIW:
		return sext32(bits.RotateLeft32(uint32(a), -int(imm&31)))
	case riscv.ORC_B:
		return orcB(a)
	case riscv.REV8:
		return bits.ReverseBytes64(a)
	case riscv.CLMUL:
		_, lo := clmul(a, b)
		return lo
	case riscv.CLMULH:
		hi, _ := clmul(a, b)
		return hi
	case riscv.CLMULR:
		hi, lo := clmul(a, b)
		return hi<<1 | lo>>63
	case riscv.BSET:
		return a | 1<<(b&63)
	case riscv.BCLR:
		return a &^ (1 << (b & 63))
	case riscv.BINV:
		return a ^ 1<<(b&63)
	case riscv.BEXT:
		return a >> (b & 63) & 1
	case riscv.BSETI:
		return a | 1<<(imm&63)
	case riscv.BCLRI:
		return a &^ (1 << (imm & 63))
	case riscv.BINVI:
		return a ^ 1<<(imm&63)
	}
	return a >> (imm & 63) & 1 // BEXTI
}

// orcB sets each byte that is not zero to all ones.
func orcB(a uint64) uint64 {
	const low7 = 0x7f7f7f7f7f7f7f7f
	t := ((a&low7 + low7) | a) &^ low7 // bit 7 of each byte: the byte is not zero
	return t | (t - t>>7)
}

// clmul is the 128-bit carry-less product.
func clmul(a, b uint64) (hi, lo uint64) {
	for b != 0 {
		i := bits.TrailingZeros64(b)
		b &= b - 1
		lo ^= a << i
		hi ^= a >> 1 >> (63 - i)
	}
	return hi, lo
}
