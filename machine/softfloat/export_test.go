// SPDX-License-Identifier: Apache-2.0

package softfloat

// Operands is a record of operands.
type Operands = operands

// Draw draws n of them.
func Draw(seed uint64, n int) []Operands {
	g, all := newGenerator(seed), make([]operands, n)
	for i := range all {
		all[i] = g.operands()
	}
	return all
}

// Execute executes an instruction; ok is false if the package has no such.
func Execute(mnemonic string, o Operands, rm RM, f *Flags) (result uint64, ok bool) {
	run := instructions[mnemonic]
	if run == nil {
		return 0, false
	}
	return run(o, rm, f), true
}
