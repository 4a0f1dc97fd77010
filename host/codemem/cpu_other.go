// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

package codemem

// Supported reports whether this host runs translated code.
func Supported() bool { return false }
