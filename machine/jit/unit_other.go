// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package jit

// maxUnitBytes is the size of no unit.
const maxUnitBytes = 0

// link is a jump to another unit of the page.
type link struct {
	target uint16
	place  int
}

// translator has no backend on this host: the interpreter runs everything.
type translator struct{ layout Layout }

func (t *translator) unit([]Inst) ([]byte, []link) { return nil, nil }
