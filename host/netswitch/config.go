// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"tandem/vswitch"
)

// Config describes a network. The zero value is a network that works: 10.77.0.0/24,
// gateway 10.77.0.1, and addresses by DHCP.
type Config struct {
	Subnet  netip.Prefix // IPv4, /8 to /29; default 10.77.0.0/24
	Gateway netip.Addr   // default: the first address of Subnet
	// HostAlias is an address of Subnet that stands for the host's 127.0.0.1, or
	// none. With it guests can reach what listens on the host's loopback.
	HostAlias netip.Addr
	Leases    []Lease   // addresses that never change
	Forwards  []Forward // TCP ports of the host
	// Resolvers are DNS servers, HOST:PORT or HOST, asked in order. Default: those
	// of /etc/resolv.conf at the time of each question.
	Resolvers []string
	Names     []Name // answered by the network itself
	MTU       int    // of guests, in bytes; 576 to 65,535, default 1500
	Log       *slog.Logger
	// Offloads says, for a User, that the guest takes partial checksums and large
	// segments. For a switch each Hello says so.
	Offloads bool
}

// Lease fixes the address that DHCP gives to a network device.
type Lease struct {
	MAC vswitch.MAC
	IP  netip.Addr
}

// Forward passes the connections to a TCP address of the host on to a guest.
type Forward struct {
	Host  string // HOST:PORT; port 0 picks a free one, see Addrs
	Guest netip.AddrPort
}

// Name is a name that the network's DNS answers, with its address. Names beside
// these: gateway.tandem.internal, and host.tandem.internal if there is a HostAlias.
type Name struct {
	Name string
	IP   netip.Addr
}

// Zone ends the names that the network itself answers; .internal is reserved
// for such use.
const Zone = "tandem.internal"

// gatewayMAC is locally administered.
var gatewayMAC = vswitch.MAC{0x02, 't', 'n', 'd', 'm', 0x01}

var defaultSubnet = netip.MustParsePrefix("10.77.0.0/24")

// complete fills in defaults and says what can't work.
func (c Config) complete() (Config, error) {
	if !c.Subnet.IsValid() {
		c.Subnet = defaultSubnet
	}
	c.Subnet = c.Subnet.Masked()
	if !c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 29 {
		return c, fmt.Errorf("subnet %v: give an IPv4 network of /8 to /29, such as %v", c.Subnet, defaultSubnet)
	}
	if !c.Gateway.IsValid() {
		c.Gateway = c.Subnet.Addr().Next()
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < 576 || c.MTU > 65535 {
		return c, fmt.Errorf("MTU %d: give 576 to 65535", c.MTU)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Names = append([]Name(nil), c.Names...)
	c.Names = append(c.Names, Name{"gateway." + Zone, c.Gateway})
	if c.HostAlias.IsValid() {
		c.Names = append(c.Names, Name{"host." + Zone, c.HostAlias})
	}
	return c, c.check()
}

func (c Config) check() error {
	if !c.station(c.Gateway) {
		return fmt.Errorf("gateway %v is not an address for a host in %v", c.Gateway, c.Subnet)
	}
	if c.HostAlias.IsValid() && (!c.station(c.HostAlias) || c.HostAlias == c.Gateway) {
		return fmt.Errorf("host alias %v: give an address for a host in %v other than the gateway's", c.HostAlias, c.Subnet)
	}
	byMAC, byIP := map[vswitch.MAC]bool{}, map[netip.Addr]bool{c.Gateway: true, c.HostAlias: true}
	for _, l := range c.Leases {
		if !c.station(l.IP) || byIP[l.IP] || byMAC[l.MAC] {
			return fmt.Errorf("lease %v for %v: give each device one free address in %v", l.IP, l.MAC, c.Subnet)
		}
		byIP[l.IP], byMAC[l.MAC] = true, true
	}
	for _, f := range c.Forwards {
		if !f.Guest.Addr().Is4() || f.Guest.Port() == 0 {
			return fmt.Errorf("forward %s to %v: give the guest as IPV4:PORT", f.Host, f.Guest)
		}
		if !c.station(f.Guest.Addr()) {
			return fmt.Errorf("forward %s to %v: the guest's address is not in %v", f.Host, f.Guest, c.Subnet)
		}
	}
	for _, n := range c.Names {
		if n.Name == "" || !n.IP.Is4() {
			return errors.New("a name needs a text and an IPv4 address")
		}
	}
	return nil
}

// station reports an address of the subnet that a host can have.
func (c Config) station(a netip.Addr) bool {
	return c.Subnet.Contains(a) && a != c.Subnet.Addr() && a != broadcast(c.Subnet)
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// name finds the address of a name, which ends in a dot as DNS writes it.
func (c Config) name(q string) (netip.Addr, bool) {
	for _, n := range c.Names {
		if strings.EqualFold(strings.TrimSuffix(q, "."), strings.TrimSuffix(n.Name, ".")) {
			return n.IP, true
		}
	}
	return netip.Addr{}, false
}
