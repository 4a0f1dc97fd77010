// SPDX-License-Identifier: Apache-2.0

package codemem

// Supported reports whether this host runs translated code: any ARMv8-A does.
func Supported() bool { return true }
