// SPDX-License-Identifier: Apache-2.0

//go:build !arm64

package machine_test

import "testing"

func codeMemory(t testing.TB, size int) (rw []byte, rx uintptr) { return twoViews(t, size) }
