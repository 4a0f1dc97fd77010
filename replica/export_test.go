// SPDX-License-Identifier: Apache-2.0

package replica

// Saved is how many pages a clone has saved.
func (r *Replica) Saved() int {
	if r.source == nil {
		return 0
	}
	return r.source.Saved()
}
