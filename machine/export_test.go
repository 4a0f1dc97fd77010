// SPDX-License-Identifier: Apache-2.0

package machine

// Forget drops the translations and the decoded instructions of all harts.
func (m *Machine) Forget() { m.sys.Forget() }

// ForgetDecoded drops the decoded instructions alone.
func (m *Machine) ForgetDecoded() { m.sys.ForgetDecoded() }
