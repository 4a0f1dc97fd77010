// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/machine/event"
)

// spec describes a frame to build.
type spec struct {
	v6         bool
	vlan       bool
	ipOptions  int // bytes of IPv4 options, or of an IPv6 hop-by-hop header
	tcpOptions int
	payload    int
	flags      byte
	gsoSize    int
}

// build makes the frame that a guest with segmentation offload would send.
func (s spec) build() event.Frame {
	b := make([]byte, 12, 128+s.payload)
	for i := range b {
		b[i] = byte(2 * i)
	}
	if s.vlan {
		b = append(b, 0x81, 0, 0, 5)
	}
	tcpLen := 20 + s.tcpOptions + s.payload
	if s.v6 {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(s.ipOptions+tcpLen))
		next := byte(protocolTCP)
		if s.ipOptions > 0 {
			next = 0
		}
		b = append(b, next, 64)
		for i := range 32 {
			b = append(b, byte(i+7))
		}
		if s.ipOptions > 0 {
			ext := make([]byte, s.ipOptions)
			ext[0], ext[1] = protocolTCP, byte(s.ipOptions/8-1)
			b = append(b, ext...)
		}
	} else {
		b = append(b, 0x08, 0, byte(0x45+s.ipOptions/4), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+s.ipOptions+tcpLen))
		b = append(b, 0xff, 0xfe, 0x40, 0, 64, protocolTCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
		b = append(b, bytes.Repeat([]byte{1}, s.ipOptions)...)
	}
	tcp := len(b)
	b = append(b, 0, 80, 0x12, 0x34, 0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4, byte(5+s.tcpOptions/4)<<4, s.flags, 1, 0, 0, 0, 0, 0)
	b = append(b, bytes.Repeat([]byte{1}, s.tcpOptions)...)
	for i := range s.payload {
		b = append(b, byte(i*7+i>>8))
	}
	f := event.Frame{Data: b}
	f.Offload = event.Offload{Flags: NeedsChecksum, CsumStart: uint16(tcp), CsumOffset: 16, HdrLen: 1, GSOType: GSOTCPv4, GSOSize: uint16(s.gsoSize)}
	if s.v6 {
		f.Offload.GSOType = GSOTCPv6
	}
	if s.gsoSize == 0 {
		f.Offload.GSOType = GSONone
	}
	// The partial checksum is the folded pseudo-header (Virtio 1.2 §5.1.6.2.1).
	binary.BigEndian.PutUint16(b[tcp+16:], onesSum(pseudoHeader(b, tcp)))
	return f
}

// onesSum is the Internet checksum written as RFC 1071 defines it, word by word
// with end-around carry, to judge the faster one by.
func onesSum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		if s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

func ipStart(b []byte) int {
	if b[12] == 0x81 {
		return 18
	}
	return 14
}

func pseudoHeader(b []byte, tcp int) []byte {
	ip := b[ipStart(b):]
	n := len(b) - tcp
	if ip[0]>>4 == 6 {
		return append(append([]byte(nil), ip[8:40]...), 0, 0, byte(n>>8), byte(n), 0, 0, 0, protocolTCP)
	}
	return append(append([]byte(nil), ip[12:20]...), 0, protocolTCP, byte(n>>8), byte(n))
}

// Segments of every shape of frame are what a sender without offload would have
// sent: lengths, ids, sequence numbers, flags and checksums, recomputed here, and
// the payload comes out whole.
func TestSegment(t *testing.T) {
	const flags = flagFIN | flagPSH | flagCWR | 0x10 // and ACK
	for _, s := range []spec{
		{payload: 10_000, gsoSize: 1448, tcpOptions: 12, flags: flags},
		{payload: 1448, gsoSize: 1448, tcpOptions: 12, flags: flags},
		{payload: 1449, gsoSize: 1448, tcpOptions: 12, flags: flags},
		{payload: 2896, gsoSize: 1448, flags: flags},
		{payload: 0, gsoSize: 1448, flags: flags},
		{payload: 65_000, gsoSize: 1460, flags: flags},
		{payload: 65_000, gsoSize: 8, flags: flags},
		{payload: 7001, gsoSize: 1001, ipOptions: 8, flags: flags},
		{payload: 9000, gsoSize: 1428, vlan: true, flags: flags},
		{v6: true, payload: 65_001, gsoSize: 1428, tcpOptions: 12, flags: flags},
		{v6: true, payload: 9000, gsoSize: 1400, ipOptions: 8, vlan: true, flags: flags},
		{v6: true, payload: 1, gsoSize: 1400},
	} {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) { checkSegments(t, s) })
	}
}

func checkSegments(t *testing.T, s spec) {
	f := s.build()
	before := bytes.Clone(f.Data)
	var got [][]byte
	if !Segment(f, func(b []byte) { got = append(got, b) }) {
		t.Fatal("refused")
	}
	if !bytes.Equal(before, f.Data) {
		t.Fatal("the frame itself was changed")
	}
	if want := max(1, (s.payload+s.gsoSize-1)/s.gsoSize); len(got) != want {
		t.Fatalf("%d segments, want %d", len(got), want)
	}
	tcp := int(f.Offload.CsumStart)
	head := tcp + 20 + s.tcpOptions
	var payload []byte
	for i, b := range got {
		checkHeaders(t, s, b, tcp, i, len(got))
		if seq := binary.BigEndian.Uint32(b[tcp+4:]); seq != 0xffffff00+uint32(len(payload)) {
			t.Errorf("segment %d: sequence %#x", i, seq)
		}
		if !bytes.Equal(b[:12], f.Data[:12]) || !bytes.Equal(b[tcp+20:head], f.Data[tcp+20:head]) {
			t.Errorf("segment %d: addresses or options differ", i)
		}
		payload = append(payload, b[head:]...)
	}
	if !bytes.Equal(payload, f.Data[head:]) {
		t.Error("the payload differs")
	}
}

func checkHeaders(t *testing.T, s spec, b []byte, tcp, i, n int) {
	t.Helper()
	ip := b[ipStart(b):tcp]
	if s.v6 {
		if l := int(binary.BigEndian.Uint16(ip[4:])); l != len(b)-ipStart(b)-40 {
			t.Errorf("segment %d: IPv6 length %d", i, l)
		}
	} else {
		if l := int(binary.BigEndian.Uint16(ip[2:])); l != len(b)-ipStart(b) {
			t.Errorf("segment %d: IPv4 length %d", i, l)
		}
		if id := binary.BigEndian.Uint16(ip[4:]); id != 0xfffe+uint16(i) {
			t.Errorf("segment %d: id %#x", i, id)
		}
		if onesSum(ip) != 0xffff {
			t.Errorf("segment %d: IPv4 checksum", i)
		}
	}
	if onesSum(append(pseudoHeader(b, tcp), b[tcp:]...)) != 0xffff {
		t.Errorf("segment %d: TCP checksum", i)
	}
	want := s.flags
	if i > 0 {
		want &^= flagCWR
	}
	if i < n-1 {
		want &^= flagFIN | flagPSH
	}
	if b[tcp+13] != want {
		t.Errorf("segment %d of %d: flags %#x, want %#x", i, n, b[tcp+13], want)
	}
}

// A partial checksum is completed, zero becomes 0xffff, and a frame without an
// offload goes out untouched.
func TestComplete(t *testing.T) {
	for payload := range 40 {
		f := spec{payload: payload, v6: payload%2 == 1}.build()
		var got []byte
		Segment(f, func(b []byte) { got = b })
		tcp := int(f.Offload.CsumStart)
		if onesSum(append(pseudoHeader(got, tcp), got[tcp:]...)) != 0xffff {
			t.Errorf("payload %d: TCP checksum", payload)
		}
	}
	zero := event.Frame{Data: make([]byte, 60), Offload: event.Offload{Flags: NeedsChecksum, CsumStart: 34, CsumOffset: 6}}
	zero.Data[34], zero.Data[35] = 0xff, 0xff
	Segment(zero, func(b []byte) {
		if binary.BigEndian.Uint16(b[40:]) != 0xffff {
			t.Errorf("checksum %#x, want 0xffff", b[40:42])
		}
	})
	plain := event.Frame{Data: make([]byte, 60)}
	Segment(plain, func(b []byte) {
		if &b[0] != &plain.Data[0] {
			t.Error("a plain frame was copied")
		}
	})
}

// Offloads that can't be carried out are refused and nothing comes out.
func TestSegmentRefuses(t *testing.T) {
	good := spec{payload: 3000, gsoSize: 1000}
	for _, c := range []struct {
		name   string
		change func(f *event.Frame)
	}{
		{"short frame", func(f *event.Frame) { f.Data = f.Data[:13] }},
		{"long frame", func(f *event.Frame) { f.Data = make([]byte, MaxFrame+1) }},
		{"checksum beyond the end", func(f *event.Frame) { f.Offload.CsumStart = uint16(len(f.Data) - 17) }},
		{"GSO size 0", func(f *event.Frame) { f.Offload.GSOSize = 0 }},
		{"GSO size 7", func(f *event.Frame) { f.Offload.GSOSize = 7 }},
		{"UDP fragmentation", func(f *event.Frame) { f.Offload.GSOType = 3 }},
		{"IPv6 said, IPv4 sent", func(f *event.Frame) { f.Offload.GSOType = GSOTCPv6 }},
		{"not TCP", func(f *event.Frame) { f.Data[14+9] = 17 }},
		{"fragment", func(f *event.Frame) { f.Data[14+7] = 1 }},
		{"IHL 4", func(f *event.Frame) { f.Data[14] = 0x44 }},
		{"IP header beyond the end", func(f *event.Frame) { f.Data = f.Data[:40]; f.Offload.Flags = 0 }},
		{"TCP header beyond the end", func(f *event.Frame) { f.Data = f.Data[:54]; f.Data[46] = 0x60 }},
		{"TCP header of 16 bytes", func(f *event.Frame) { f.Data[46] = 0x40 }},
		{"ethertype", func(f *event.Frame) { f.Data[13] = 6 }},
	} {
		f := good.build()
		c.change(&f)
		if Segment(f, func([]byte) { t.Errorf("%s: a segment came out", c.name) }) {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

// Whatever a guest writes into headers, Segment neither panics nor makes more
// than a bounded number of frames; what Check accepts it can do.
func FuzzSegment(f *testing.F) {
	for _, s := range []spec{{payload: 3000, gsoSize: 1000}, {v6: true, payload: 300, gsoSize: 100, ipOptions: 8, vlan: true}, {payload: 9}} {
		fr := s.build()
		o := fr.Offload
		f.Add(fr.Data, o.Flags, o.GSOType, o.GSOSize, o.CsumStart, o.CsumOffset)
	}
	f.Fuzz(hostile)
}

func hostile(t *testing.T, data []byte, flags, gsoType uint8, gsoSize, csumStart, csumOffset uint16) {
	f := event.Frame{Data: data, Offload: event.Offload{Flags: flags, GSOType: gsoType, GSOSize: gsoSize, CsumStart: csumStart, CsumOffset: csumOffset}}
	n := 0
	ok := Segment(f, func(b []byte) {
		n++
		if len(b) > MaxFrame {
			t.Fatalf("a segment of %d bytes", len(b))
		}
	})
	if ok != Check(f) || ok != (n > 0) || n > MaxFrame/minGSOSize+1 {
		t.Fatalf("Check %v, Segment %v with %d frames", Check(f), ok, n)
	}
}

// Frames with random damage in the headers and the offload are the fuzzer's
// daily bread, run on every test.
func TestSegmentHostile(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	accepted := 0
	for range 20_000 {
		s := spec{v6: r.IntN(2) == 0, vlan: r.IntN(4) == 0, ipOptions: 8 * r.IntN(3), payload: r.IntN(300), gsoSize: r.IntN(64)}
		fr := s.build()
		for range r.IntN(3) {
			fr.Data[r.IntN(min(len(fr.Data), 90))] = byte(r.Uint32())
		}
		if r.IntN(3) == 0 {
			fr.Data = fr.Data[:r.IntN(len(fr.Data)+1)]
		}
		o := fr.Offload
		if r.IntN(4) == 0 {
			o.CsumStart = uint16(r.Uint32() >> r.IntN(16))
		}
		hostile(t, fr.Data, o.Flags, o.GSOType, o.GSOSize, o.CsumStart, o.CsumOffset)
		if Check(event.Frame{Offload: o, Data: fr.Data}) {
			accepted++
		}
	}
	if accepted < 1000 || accepted > 19_000 {
		t.Errorf("%d of 20000 accepted: the damage is too strong or too weak", accepted)
	}
}

func BenchmarkSegment(b *testing.B) {
	f := spec{payload: 64_000, gsoSize: 1448, tcpOptions: 12}.build()
	b.SetBytes(int64(len(f.Data)))
	for b.Loop() {
		Segment(f, func([]byte) {})
	}
}
