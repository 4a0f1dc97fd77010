// SPDX-License-Identifier: Apache-2.0

package site

import (
	"path/filepath"
	"strings"

	"tandem/host/confine"
	"tandem/host/nbd"
	"tandem/host/netswitch"
)

// Needs are what the site's methods may open at any later time. Disks that are open
// already, and taps, are not among it.
func (s *Site) Needs() (n confine.Needs) {
	for _, slot := range s.cfg.Slots {
		n.Names = n.Names || slot.Drive
		switch {
		case nbd.IsURL(slot.Disk):
			certificates, socket, host := nbd.Opens(slot.Disk)
			n.Read = appendSome(n.Read, certificates)
			n.Sockets = appendSome(n.Sockets, socket)
			n.Host(host)
		case slot.Mode.Own(): // and the mark beside it
			n.Write = append(n.Write, filepath.Dir(slot.Disk))
		}
		addr, isSwitch := strings.CutPrefix(slot.Network, "switch:")
		switch {
		case strings.HasPrefix(slot.Network, tapPrefix):
			n.Links = true
		case slot.Network == "user": // which resolves for its guest
			n.Names = true
		case isSwitch:
			if network, address := netswitch.Split(addr); network == "unix" {
				n.Sockets = append(n.Sockets, address)
			} else {
				n.Address(address)
			}
		}
	}
	return n
}

func appendSome(list []string, s string) []string {
	if s == "" {
		return list
	}
	return append(list, s)
}
