// SPDX-License-Identifier: Apache-2.0

package vswitch

import "encoding/binary"

// Ethernet, ARP (RFC 826) and RARP (RFC 903) for IPv4 over Ethernet.
const (
	headerLen = 14
	arpLen    = 28

	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeIPv6 = 0x86dd

	arpRequest  = 1
	rarpRequest = 3
)

// arpPrefix is hardware type 1, protocol IPv4, and their address lengths.
var arpPrefix = [6]byte{0, 1, 0x08, 0x00, 6, 4}

// Announce builds the frame with which a replica that has gone live says where
// a MAC address is now: a RARP request, which needs no IP address (design §7).
func Announce(m MAC) []byte {
	return arpFrame(typeRARP, rarpRequest, m, [4]byte{}, m, [4]byte{})
}

// GratuitousARP builds an announcement for a known IPv4 address (RFC 5227 §3).
func GratuitousARP(m MAC, ip [4]byte) []byte {
	return arpFrame(typeARP, arpRequest, m, ip, MAC{}, ip)
}

func arpFrame(etherType, op uint16, sha MAC, spa [4]byte, tha MAC, tpa [4]byte) []byte {
	b := make([]byte, 0, headerLen+arpLen)
	b = append(b, Broadcast[:]...)
	b = append(b, sha[:]...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	b = append(b, arpPrefix[:]...)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, sha[:]...)
	b = append(b, spa[:]...)
	b = append(b, tha[:]...)
	return append(b, tpa[:]...)
}

// announced returns the hardware address that a RARP request or a gratuitous
// ARP gives as its sender's.
func announced(frame []byte) (m MAC, ok bool) {
	if len(frame) < headerLen+arpLen {
		return m, false
	}
	arp := frame[headerLen:]
	if [6]byte(arp[:6]) != arpPrefix {
		return m, false
	}
	spa, tpa := [4]byte(arp[14:18]), [4]byte(arp[24:28])
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeRARP:
		ok = binary.BigEndian.Uint16(arp[6:]) == rarpRequest
	case typeARP:
		ok = spa == tpa
	}
	m = MAC(arp[8:14])
	return m, ok && !m.group() && m != (MAC{})
}

// SourceIPv4 returns the address that a frame was sent from: that of an IPv4
// packet, or of an ARP packet's sender.
func SourceIPv4(frame []byte) (ip [4]byte, ok bool) {
	at := 0
	switch {
	case len(frame) < headerLen:
		return ip, false
	case binary.BigEndian.Uint16(frame[12:]) == typeIPv4 && len(frame) >= headerLen+20:
		at = headerLen + 12
	case binary.BigEndian.Uint16(frame[12:]) == typeARP && len(frame) >= headerLen+arpLen && [6]byte(frame[headerLen:headerLen+6]) == arpPrefix:
		at = headerLen + 14
	default:
		return ip, false
	}
	ip = [4]byte(frame[at:])
	return ip, ip != [4]byte{}
}
