// SPDX-License-Identifier: Apache-2.0

package machine

import "tandem/machine/jit"

// Translated says how translated code was used.
func (m *Machine) Translated() jit.Stats { return m.sys.Stats().Translated }

// Poke stores to RAM between two steps as a device does.
func (m *Machine) Poke(pa uint64, b []byte) {
	m.ram.Write(pa, b)
	for _, h := range m.sys.Harts {
		h.EndTurn()
	}
}

// Registers returns pc and the integer registers of a hart, with pc in the place of x0.
func (m *Machine) Registers(hart int) (x [32]uint64) {
	h := m.sys.Harts[hart]
	for i := range x {
		x[i] = h.X(i)
	}
	x[0] = h.PC()
	return x
}
