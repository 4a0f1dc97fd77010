// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/machine/riscv"
)

// specified is what the manual says of instructions that QEMU 7.2 lacks or gets
// wrong: Zicond, and ctzw of Zbb.
var specified = []struct {
	op      riscv.Op
	a, b, r uint64
}{
	{riscv.CZERO_EQZ, 5, 0, 0}, {riscv.CZERO_EQZ, 5, 1, 5}, {riscv.CZERO_EQZ, 1 << 63, 1 << 63, 1 << 63},
	{riscv.CZERO_EQZ, ^uint64(0), 1 << 32, ^uint64(0)}, {riscv.CZERO_EQZ, 0, 7, 0},
	{riscv.CZERO_NEZ, 5, 0, 5}, {riscv.CZERO_NEZ, 5, 1, 0}, {riscv.CZERO_NEZ, 1 << 63, 1 << 63, 0},
	{riscv.CZERO_NEZ, ^uint64(0), 1 << 32, 0}, {riscv.CZERO_NEZ, 1<<32 | 1, 0, 1<<32 | 1},
	{riscv.CTZW, 0, 0, 32}, {riscv.CTZW, 1 << 32, 0, 32}, {riscv.CTZW, 1 << 63, 0, 32}, {riscv.CTZW, 1 << 31, 0, 31},
	{riscv.CTZW, 0xffff_ffff_ffff_ff00, 0, 8},
}

// Instructions without an oracle do what the manual's text says.
func TestSpecified(t *testing.T) {
	program, symbols := buildUser(t)
	var cases []testCase
	for _, s := range specified {
		match, mask := riscv.Encoding(s.op)
		w := match | 12<<7 | 10<<15 | 11<<20&^mask
		c := testCase{}
		c.X[10], c.X[11] = s.a, s.b
		c.Code[0], c.Code[1] = w, returnWord
		cases = append(cases, c)
	}
	var input bytes.Buffer
	binary.Write(&input, binary.LittleEndian, uint64(len(cases)))
	binary.Write(&input, binary.LittleEndian, cases)
	results := make([]result, len(cases))
	runTandem(t, program, symbols, input.Bytes(), results)
	for i, s := range specified {
		if r := results[i].X[12]; r != s.r {
			t.Errorf("%v %#x, %#x is %#x, want %#x", s.op, s.a, s.b, r, s.r)
		}
	}
}
