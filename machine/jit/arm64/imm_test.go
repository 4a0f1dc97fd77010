// SPDX-License-Identifier: Apache-2.0

package arm64

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// Bitmask has all 5334 constants that there are, of 64 bits, and refuses others,
// those that are one bit off among them.
func TestBitmask(t *testing.T) {
	all := map[uint64]bool{}
	for _, v := range bitmasks() {
		all[v] = true
	}
	if len(all) != 5334 {
		t.Fatalf("%d constants", len(all))
	}
	for v := range all {
		if _, ok := Bitmask(S64, v); !ok {
			t.Errorf("%#x refused", v)
		}
		low := uint64(uint32(v))
		if _, ok := Bitmask(S32, v); ok != all[low|low<<32] {
			t.Errorf("%#x of 32 bits: %v", v, ok)
		}
		for bit := range 64 {
			if _, ok := Bitmask(S64, v^1<<bit); ok != all[v^1<<bit] {
				t.Errorf("%#x: %v", v^1<<bit, ok)
			}
		}
	}
	for _, s := range []Size{S8, S16, 4, 255} {
		if _, ok := Bitmask(s, 1); ok {
			t.Errorf("size %d has a bitmask", s)
		}
	}
}

// decodeBitmask is the constant that a field means, by the manual's
// DecodeBitMasks, with none of the encoder's thoughts.
func decodeBitmask(n, immr, imms uint32) uint64 {
	length := bits.Len32(n<<6|^imms&63) - 1
	size := uint(1) << length
	s, r := uint(imms)&(size-1), uint(immr)&(size-1)
	element := uint64(1)<<(s+1) - 1
	var v uint64
	for i := range size {
		v |= element >> ((i + r) % size) & 1 << i
	}
	for ; size < 64; size *= 2 {
		v |= v << size
	}
	return v
}

// run executes the instructions of MovImm, and gives what they leave in dst.
func run(t *testing.T, code []byte, dst Reg) (v uint64) {
	t.Helper()
	for word := range slices.Chunk(code, 4) {
		w := binary.LittleEndian.Uint32(word)
		if Reg(w&31) != dst {
			t.Fatalf("%08x does not write X%d", w, dst)
		}
		shift := w >> 21 & 3 * 16
		field := uint64(w>>5&0xffff) << shift
		switch w &^ (1 << 31) & 0xff800000 {
		case opMovz:
			v = field
		case opMovn:
			v = ^field
		case opMovk:
			v = v&^(0xffff<<shift) | field
		case alus[ORR].imm:
			if w>>5&31 != 31 {
				t.Fatalf("%08x reads a register", w)
			}
			v = decodeBitmask(w>>22&1, w>>16&63, w>>10&63)
		default:
			t.Fatalf("%08x is not of MovImm", w)
		}
		if w>>31 == 0 {
			v &= 0xffffffff
		}
	}
	return v
}

// MovImm makes any constant in four instructions, in fewer by those halves that
// are all zeros or all ones, and in two where a bitmask is but 16 bits away.
func TestMovImm(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	masks := bitmasks()
	var a Asm
	check := func(v uint64, most int) {
		t.Helper()
		a.Reset()
		a.MovImm(X7, v)
		if err := a.Finish(); err != nil {
			t.Fatal(err)
		}
		if got := run(t, a.Code, X7); got != v {
			t.Fatalf("%#x for %#x: % x", got, v, a.Code)
		}
		if n := len(a.Code) / 4; n > most {
			t.Fatalf("%#x in %d instructions, should be at most %d", v, n, most)
		}
	}
	for range 50_000 {
		v, zeros, ones := uint64(0), 0, 0
		for hw := range 4 {
			h := uint16(random.Uint64())
			switch random.IntN(4) {
			case 0:
				h = 0
			case 1:
				h = 0xffff
			}
			zeros += b2i(h == 0)
			ones += b2i(h == 0xffff)
			v |= uint64(h) << (16 * hw)
		}
		check(v, max(1, 4-max(zeros, ones)))
		check(uint64(uint32(v)), 2)
	}
	for _, v := range masks {
		check(v, 1)
		hw := random.IntN(4) * 16
		check(v&^(0xffff<<hw)|uint64(uint16(random.Uint64()))<<hw, 2)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
