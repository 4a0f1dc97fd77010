// SPDX-License-Identifier: Apache-2.0

package machine

import "tandem/machine/jit"

// Translated says how translated code was used.
func (m *Machine) Translated() jit.Stats { return m.sys.Translated() }
