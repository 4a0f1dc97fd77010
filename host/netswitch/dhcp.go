// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"tandem/vswitch"
)

const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	leaseTime = time.Hour
	offerTime = 30 * time.Second // an address stays reserved for who was offered it
)

// Fixed part of a message (RFC 2131 §2): offsets, and the cookie before the options.
const (
	dhcpOp     = 0 // 1 request, 2 reply
	dhcpXID    = 4
	dhcpFlags  = 10 // bit 15: reply by broadcast
	dhcpCiaddr = 12 // the client's address, if it has one
	dhcpYiaddr = 16 // your address
	dhcpGiaddr = 24
	dhcpChaddr = 28
	dhcpCookie = 236
	dhcpOpts   = 240

	dhcpMinLen = 300 // BOOTP relays and some clients drop shorter replies (RFC 1542 §2.1)
)

var dhcpMagic = [4]byte{99, 130, 83, 99}

// Options (RFC 2132).
const (
	optPad        = 0
	optMask       = 1
	optRouter     = 3
	optDNS        = 6
	optMTU        = 26
	optBroadcast  = 28
	optRequested  = 50
	optLeaseTime  = 51
	optType       = 53
	optServer     = 54
	optEnd        = 255
	dhcpDiscover  = 1
	dhcpOffer     = 2
	dhcpRequest   = 3
	dhcpDecline   = 4
	dhcpAck       = 5
	dhcpNak       = 6
	dhcpRelease   = 7
	dhcpInform    = 8
	declinedSpell = 10 * time.Minute
)

// dhcp gives out the addresses of a subnet (RFC 2131). It is a function of
// messages and time; nothing in it waits. Its memory is bounded by the subnet.
type dhcp struct {
	cfg Config

	mu     sync.Mutex
	fixed  map[vswitch.MAC]netip.Addr
	taken  map[netip.Addr]bool // never in the pool: fixed, gateway, alias
	leases map[netip.Addr]lease
	byMAC  map[vswitch.MAC]netip.Addr // of leases
}

type lease struct {
	mac   vswitch.MAC
	until time.Duration
}

// dhcpReply is what the server says, and to which IP address.
type dhcpReply struct {
	to      netip.Addr
	message []byte
	leased  bool // ip is mac's from now on
	mac     vswitch.MAC
	ip      netip.Addr
}

func newDHCP(cfg Config) *dhcp {
	d := &dhcp{cfg: cfg, fixed: map[vswitch.MAC]netip.Addr{}, leases: map[netip.Addr]lease{},
		byMAC: map[vswitch.MAC]netip.Addr{}, taken: map[netip.Addr]bool{cfg.Gateway: true, cfg.HostAlias: true}}
	for _, l := range cfg.Leases {
		d.fixed[l.MAC] = l.IP
		d.taken[l.IP] = true
	}
	return d
}

// dhcpMessage is a request, parsed.
type dhcpMessage struct {
	raw       []byte
	kind      byte
	mac       vswitch.MAC
	ciaddr    netip.Addr
	requested netip.Addr // option 50
	server    netip.Addr // option 54
}

// parseDHCP takes requests from Ethernet clients that are not relayed.
func parseDHCP(b []byte) (m dhcpMessage, ok bool) {
	if len(b) < dhcpOpts || b[dhcpOp] != 1 || b[1] != 1 || b[2] != 6 || [4]byte(b[dhcpCookie:]) != dhcpMagic || [4]byte(b[dhcpGiaddr:]) != [4]byte{} {
		return m, false
	}
	m.raw = b
	m.mac = vswitch.MAC(b[dhcpChaddr:])
	m.ciaddr = netip.AddrFrom4([4]byte(b[dhcpCiaddr:]))
	for o := b[dhcpOpts:]; len(o) > 0 && o[0] != optEnd; {
		if o[0] == optPad {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return m, false
		}
		m.option(o[0], o[2:2+int(o[1])])
		o = o[2+int(o[1]):]
	}
	return m, m.kind != 0 && m.mac != (vswitch.MAC{})
}

func (m *dhcpMessage) option(code byte, v []byte) {
	switch {
	case code == optType && len(v) == 1:
		m.kind = v[0]
	case code == optRequested && len(v) == 4:
		m.requested = netip.AddrFrom4([4]byte(v))
	case code == optServer && len(v) == 4:
		m.server = netip.AddrFrom4([4]byte(v))
	}
}

// wants is the address that the client asks for, if any.
func (m dhcpMessage) wants() netip.Addr {
	if m.requested.IsValid() {
		return m.requested
	}
	return m.ciaddr
}

// answer is the server: §4.3 of the RFC, message by message.
func (d *dhcp) answer(now time.Duration, request []byte) (r dhcpReply, ok bool) {
	m, ok := parseDHCP(request)
	if !ok {
		return r, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch m.kind {
	case dhcpDiscover:
		ip, ok := d.pick(now, m.mac, m.wants())
		if !ok {
			return r, false
		}
		d.hold(m.mac, ip, now+offerTime)
		return d.reply(m, dhcpOffer, ip), true
	case dhcpRequest:
		if m.server.IsValid() && m.server != d.cfg.Gateway {
			return r, false // the client took another server's offer
		}
		ip, ok := d.pick(now, m.mac, m.wants())
		if !ok || ip != m.wants() {
			return d.reply(m, dhcpNak, netip.Addr{}), true
		}
		d.hold(m.mac, ip, now+leaseTime)
		r = d.reply(m, dhcpAck, ip)
		r.leased, r.mac, r.ip = true, m.mac, ip
		return r, true
	case dhcpDecline: // somebody else uses the address: leave it alone for a while
		if d.byMAC[m.mac] == m.requested {
			d.drop(m.mac)
			d.leases[m.requested] = lease{until: now + declinedSpell}
		}
	case dhcpRelease:
		if d.byMAC[m.mac] == m.ciaddr {
			d.drop(m.mac)
		}
	case dhcpInform:
		return d.reply(m, dhcpAck, netip.Addr{}), true
	}
	return r, false
}

// pick chooses a client's address: the fixed one, the one it has, the one it
// wants if that is free, or the first that is.
func (d *dhcp) pick(now time.Duration, m vswitch.MAC, want netip.Addr) (netip.Addr, bool) {
	if ip, ok := d.fixed[m]; ok {
		return ip, true
	}
	if ip, ok := d.byMAC[m]; ok {
		return ip, true
	}
	if d.free(now, want) {
		return want, true
	}
	for ip := d.cfg.Subnet.Addr().Next(); d.cfg.station(ip); ip = ip.Next() {
		if d.free(now, ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (d *dhcp) free(now time.Duration, ip netip.Addr) bool {
	if !d.cfg.station(ip) || d.taken[ip] {
		return false
	}
	l, ok := d.leases[ip]
	return !ok || l.until < now
}

// hold notes a lease of the pool; whoever had the address before has it no more.
func (d *dhcp) hold(m vswitch.MAC, ip netip.Addr, until time.Duration) {
	if d.taken[ip] {
		return // fixed: nothing to note
	}
	if old, ok := d.leases[ip]; ok && old.mac != m {
		delete(d.byMAC, old.mac)
	}
	if old, ok := d.leases[ip]; ok && old.mac == m {
		until = max(until, old.until)
	}
	d.leases[ip] = lease{m, until}
	d.byMAC[m] = ip
}

func (d *dhcp) drop(m vswitch.MAC) {
	delete(d.leases, d.byMAC[m])
	delete(d.byMAC, m)
}

// reply builds a message of a kind that gives ip, or none.
func (d *dhcp) reply(m dhcpMessage, kind byte, ip netip.Addr) dhcpReply {
	b := make([]byte, dhcpOpts, dhcpMinLen)
	b[dhcpOp], b[1], b[2] = 2, 1, 6
	copy(b[dhcpXID:dhcpXID+4], m.raw[dhcpXID:])
	copy(b[dhcpFlags:dhcpFlags+2], m.raw[dhcpFlags:])
	copy(b[dhcpChaddr:dhcpChaddr+16], m.raw[dhcpChaddr:])
	copy(b[dhcpCookie:], dhcpMagic[:])
	to := broadcastAll
	if ip.IsValid() {
		copy(b[dhcpYiaddr:], ip.AsSlice())
		to = ip
	}
	if m.ciaddr.IsValid() && !m.ciaddr.IsUnspecified() && kind != dhcpNak {
		copy(b[dhcpCiaddr:], m.ciaddr.AsSlice())
		to = m.ciaddr
	} else if m.raw[dhcpFlags]&0x80 != 0 {
		to = broadcastAll
	}
	b = append(b, optType, 1, kind)
	b = appendAddr(b, optServer, d.cfg.Gateway)
	if kind != dhcpNak {
		b = d.settings(b)
	}
	if ip.IsValid() {
		b = append(b, optLeaseTime, 4)
		b = binary.BigEndian.AppendUint32(b, uint32(leaseTime/time.Second))
	}
	b = append(b, optEnd)
	if len(b) < dhcpMinLen {
		b = b[:dhcpMinLen]
	}
	return dhcpReply{to: to, message: b}
}

// settings appends what holds for all clients.
func (d *dhcp) settings(b []byte) []byte {
	mask := ^uint32(0) << (32 - d.cfg.Subnet.Bits())
	b = append(b, optMask, 4)
	b = binary.BigEndian.AppendUint32(b, mask)
	b = appendAddr(b, optRouter, d.cfg.Gateway)
	b = appendAddr(b, optDNS, d.cfg.Gateway)
	b = appendAddr(b, optBroadcast, broadcast(d.cfg.Subnet))
	b = append(b, optMTU, 2)
	return binary.BigEndian.AppendUint16(b, uint16(d.cfg.MTU))
}

func appendAddr(b []byte, option byte, a netip.Addr) []byte {
	return append(append(b, option, 4), a.AsSlice()...)
}
