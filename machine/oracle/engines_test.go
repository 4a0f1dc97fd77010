// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/host/codemem"
	"tandem/machine/jit"
	"tandem/machine/riscv"
)

// The same random sequences leave the same state where they are translated as
// where they are interpreted, for every operation that there is.
func TestTranslated(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("this host has no translator")
	}
	defer func(before uint8) { jit.HotAfter = before }(jit.HotAfter)
	jit.HotAfter = 1
	program, symbols := buildUser(t)
	var cases []testCase
	perGroup := casesPerGroup
	if testing.Short() {
		perGroup /= 10
	}
	all := append(groups[:len(groups):len(groups)], group{"Zicond", riscv.CZERO_EQZ, riscv.CZERO_NEZ, nil})
	for i, g := range all {
		gen := newGenerator(uint64(i)+1000, symbols["scratch"])
		for range perGroup {
			cases = append(cases, gen.newCase(g))
		}
	}
	var input bytes.Buffer
	binary.Write(&input, binary.LittleEndian, uint64(len(cases)))
	binary.Write(&input, binary.LittleEndian, cases)
	ours, theirs := make([]result, len(cases)), make([]result, len(cases))
	code, err := codemem.New(100 << 20) // never full, see codeMemory in package machine_test
	if err != nil {
		t.Fatal(err)
	}
	defer code.Close()
	translated, interpreted := newMachine(t, program, symbols, input.Bytes()), newMachine(t, program, symbols, input.Bytes())
	translated.Translate(code.RW, code.RX())
	runMachine(t, translated, ours)
	runMachine(t, interpreted, theirs)
	failures := 0
	for i := range cases {
		if ours[i] != theirs[i] {
			t.Errorf("%s, case %d:\n%s", all[i/perGroup].name, i, explain(&cases[i], &ours[i], &theirs[i], "the interpreter's"))
			if failures++; failures == 5 {
				t.FailNow()
			}
		}
	}
	if translated.HashState() != interpreted.HashState() {
		t.Errorf("%s, want %s", translated.Describe(), interpreted.Describe())
	}
}
