// SPDX-License-Identifier: Apache-2.0

package site

import (
	"crypto/sha256"
	"net/netip"
)

// firstGuest is the address that a user network gives to its one guest.
var firstGuest = netip.MustParseAddr("10.77.0.2")

// GuestAddress is the address of the guest on a user network.
func GuestAddress() netip.Addr { return firstGuest }

// MAC is the locally administered address of a VM's network device with an index,
// the same on every host.
func MAC(vm string, index int) [6]byte {
	sum := sha256.Sum256(append([]byte(vm), 0, byte(index)))
	return [6]byte{0x02, 't', sum[0], sum[1], sum[2], sum[3]}
}
