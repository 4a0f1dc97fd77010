// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"encoding/binary"

	"tandem/machine/event"
)

// Values of event.Offload (Virtio 1.2 §5.1.6).
const (
	NeedsChecksum = 1

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOECN   = 0x80
)

// MaxFrame is the longest frame in bytes: the longest IPv4 packet, the Ethernet
// header and one VLAN tag.
const MaxFrame = 65535 + headerLen + 4

// minGSOSize bounds how many frames one can become. TCP's smallest segment is
// 48 bytes with at most 40 of options (RFC 879, RFC 6691).
const minGSOSize = 8

// TCP flags (RFC 9293 §3.1, RFC 3168 §6.1).
const (
	flagFIN = 0x01
	flagPSH = 0x08
	flagCWR = 0x80
)

const protocolTCP = 6

// Check reports whether a frame is well formed: its length is that of a frame,
// and its offload says something that Segment can do. Frames that fail must be
// dropped, since the next to read them might trust the header.
func Check(f event.Frame) bool {
	if len(f.Data) < headerLen || len(f.Data) > MaxFrame {
		return false
	}
	o := f.Offload
	if o.Flags&NeedsChecksum != 0 && int(o.CsumStart)+int(o.CsumOffset)+2 > len(f.Data) {
		return false
	}
	if o.GSOType == GSONone {
		return true
	}
	_, ok := parseTCP(f)
	return ok
}

// Segment does what a frame's offload leaves to be done: it completes the
// checksum, or cuts a large TCP segment into frames as a network card would.
// A frame with nothing to do goes out as it is; out may keep what it gets but
// must not write to it. It reports false, without output, if Check would.
func Segment(f event.Frame, out func([]byte)) bool {
	if !Check(f) {
		return false
	}
	if f.Offload.GSOType == GSONone {
		if f.Offload.Flags&NeedsChecksum == 0 {
			out(f.Data)
		} else {
			out(complete(f))
		}
		return true
	}
	h, _ := parseTCP(f)
	end, size := len(f.Data), int(f.Offload.GSOSize)
	for n := 0; ; n++ {
		from := h.payload + n*size
		to := min(from+size, end)
		out(h.cut(f.Data, n, from, to))
		if to == end {
			return true
		}
	}
}

// complete fills in a partial checksum: the field holds the sum of the
// pseudo-header, and all from CsumStart on is to be added.
func complete(f event.Frame) []byte {
	b := append([]byte(nil), f.Data...)
	start := int(f.Offload.CsumStart)
	field := b[start+int(f.Offload.CsumOffset):]
	c := ^fold(sum(b[start:], 0))
	if c == 0 {
		c = 0xffff // 0 is "no checksum" to UDP and the same number to the rest
	}
	binary.BigEndian.PutUint16(field, c)
	return b
}

// tcpFrame is where the parts of a TCP frame begin.
type tcpFrame struct {
	ip, tcp, payload int
	v6               bool
}

// parseTCP finds the headers of a frame whose offload asks for segmentation.
func parseTCP(f event.Frame) (h tcpFrame, ok bool) {
	b := f.Data
	etherType := uint16(0)
	h.ip, etherType = etherPayload(b)
	switch f.Offload.GSOType &^ GSOECN {
	case GSOTCPv4:
		h.tcp, ok = ipv4Payload(b, h.ip)
		ok = ok && etherType == typeIPv4
	case GSOTCPv6:
		h.v6 = true
		h.tcp, ok = ipv6Payload(b, h.ip)
		ok = ok && etherType == typeIPv6
	}
	if !ok || f.Offload.GSOSize < minGSOSize || len(b) < h.tcp+20 || len(b)-h.ip > 65535 {
		return h, false
	}
	h.payload = h.tcp + int(b[h.tcp+12]>>4)*4
	return h, h.payload >= h.tcp+20 && h.payload <= len(b)
}

// etherPayload skips the Ethernet header and up to two VLAN tags (802.1Q, 802.1ad).
func etherPayload(b []byte) (off int, etherType uint16) {
	off = headerLen
	etherType = binary.BigEndian.Uint16(b[12:])
	for tags := 0; tags < 2 && (etherType == 0x8100 || etherType == 0x88a8) && len(b) >= off+4; tags++ {
		etherType = binary.BigEndian.Uint16(b[off+2:])
		off += 4
	}
	return off, etherType
}

// ipv4Payload returns where TCP begins in an unfragmented IPv4 packet (RFC 791).
func ipv4Payload(b []byte, ip int) (off int, ok bool) {
	if len(b) < ip+20 || b[ip]>>4 != 4 || b[ip+9] != protocolTCP {
		return 0, false
	}
	ihl := int(b[ip]&15) * 4
	fragment := binary.BigEndian.Uint16(b[ip+6:])&0x3fff != 0 // more fragments, or an offset
	return ip + ihl, ihl >= 20 && !fragment
}

// ipv6Payload returns where TCP begins (RFC 8200). Of the extension headers only
// those are passed over that leave the pseudo-header as it is.
func ipv6Payload(b []byte, ip int) (off int, ok bool) {
	if len(b) < ip+40 || b[ip]>>4 != 6 {
		return 0, false
	}
	next := b[ip+6]
	off = ip + 40
	for next == 0 || next == 60 { // hop-by-hop options, destination options
		if len(b) < off+8 {
			return 0, false
		}
		next = b[off]
		off += (int(b[off+1]) + 1) * 8
	}
	return off, next == protocolTCP
}

// cut builds the n-th segment, which carries bytes from to to of the whole: its
// headers, brought up to date, and that part of its payload.
func (h tcpFrame) cut(whole []byte, n, from, to int) []byte {
	b := make([]byte, 0, h.payload+to-from)
	b = append(b, whole[:h.payload]...)
	b = append(b, whole[from:to]...)

	tcp := b[h.tcp:]
	seq := binary.BigEndian.Uint32(tcp[4:])
	binary.BigEndian.PutUint32(tcp[4:], seq+uint32(from-h.payload))
	if to != len(whole) {
		tcp[13] &^= flagFIN | flagPSH
	}
	if n > 0 {
		tcp[13] &^= flagCWR // RFC 3168 §6.1.2: said once
	}
	pseudo := h.setIP(b, n)
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], ^fold(sum(tcp, pseudo+protocolTCP+uint64(len(tcp)))))
	return b
}

// setIP writes what differs in the IP header of the n-th segment and returns the
// sum of the addresses, which the TCP checksum covers (RFC 9293 §3.1, RFC 8200 §8.1).
func (h tcpFrame) setIP(b []byte, n int) (addresses uint64) {
	ip := b[h.ip:h.tcp]
	if h.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(b)-h.ip-40))
		return sum(ip[8:40], 0)
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-h.ip))
	id := binary.BigEndian.Uint16(ip[4:])
	binary.BigEndian.PutUint16(ip[4:], id+uint16(n))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip, 0)))
	return sum(ip[12:20], 0)
}

// sum adds big-endian 16-bit words to an Internet checksum, unfolded (RFC 1071).
// Four bytes at a time: the carries meet in fold.
func sum(b []byte, s uint64) uint64 {
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
