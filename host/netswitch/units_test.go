// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"tandem/machine/event"
	"tandem/vswitch"
)

// What is encoded is read back, and the layout is the documented one, byte by byte.
func TestWire(t *testing.T) {
	h := Hello{VM: "vm", Epoch: 0x0102, Role: vswitch.Backup, MAC: guestMAC, Offloads: true}
	b := appendHello(nil, h)
	want := []byte("\x1a\x00\x00\x00\x01TNSW\x01\x00\x03\x01\x02\x01\x00\x00\x00\x00\x00\x00\x52\x54\x00\x00\x00\x01\x02vm")
	if !bytes.Equal(b, want) {
		t.Errorf("hello\n% x, want\n% x", b, want)
	}
	f := event.Frame{Data: pattern(64), Offload: event.Offload{Flags: 1, GSOType: 0, HdrLen: 0x0203, GSOSize: 0x0405, CsumStart: 0x10, CsumOffset: 0x08}}
	b = appendFrame(b, f)
	if !bytes.Equal(b[len(want):len(want)+15], []byte("\x4b\x00\x00\x00\x03\x01\x00\x03\x02\x05\x04\x10\x00\x08\x00")) {
		t.Errorf("frame % x", b[len(want):len(want)+15])
	}
	b = appendAnswer(b, answer{7, statusStale, "why"})
	b = appendActivate(b, 9)
	b = appendClosed(b, strings.Repeat("x", 2*maxReason))

	in := newMessages(bytes.NewReader(b))
	next := func(want messageType) []byte {
		got, body, err := in.next()
		if err != nil || got != want {
			t.Fatalf("message %d, %v; want %d", got, err, want)
		}
		return body
	}
	if got, err := parseHello(next(messageHello)); err != nil || got != h {
		t.Errorf("hello %+v, %v", got, err)
	}
	if got, ok := parseFrame(next(messageFrame)); !ok || got.Offload != f.Offload || !bytes.Equal(got.Data, f.Data) {
		t.Errorf("frame %+v, %v", got, ok)
	}
	if got, err := parseAnswer(next(messageAnswer)); err != nil || got != (answer{7, statusStale, "why"}) {
		t.Errorf("answer %+v, %v", got, err)
	}
	if got, err := parseActivate(next(messageActivate)); err != nil || got != 9 {
		t.Errorf("activate %v, %v", got, err)
	}
	if n := len(next(messageClosed)); n != maxReason {
		t.Errorf("closed: reason of %d bytes, want %d", n, maxReason)
	}
	if in.more() {
		t.Error("more after the last message")
	}
}

// Any bytes are read without panic, and what is accepted as a frame is one.
func FuzzMessages(f *testing.F) {
	f.Add(appendHello(appendFrame(nil, mark(guestMAC, "x")), Hello{VM: "vm"}))
	f.Add(appendAnswer(appendActivate(nil, 1), answer{1, 2, "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newMessages(bytes.NewReader(b))
		for {
			_, body, err := in.next()
			if err != nil {
				return
			}
			parseHello(body)
			parseAnswer(body)
			parseActivate(body)
			if fr, ok := parseFrame(body); ok && (len(fr.Data) < 14 || len(fr.Data) > vswitch.MaxFrame) {
				t.Fatalf("a frame of %d bytes was accepted", len(fr.Data))
			}
		}
	})
}

// A peer that does not read costs a bounded queue: frames are dropped, and one
// that makes the switch answer without end loses its connection.
func TestQueueBounds(t *testing.T) {
	o := newOutbox()
	big := event.Frame{Data: make([]byte, vswitch.MaxFrame)}
	for range 2 * queueBytes / len(big.Data) {
		o.frame(big)
	}
	if len(o.buf) > queueBytes+maxMessage || o.dropped.Load() == 0 {
		t.Errorf("%d bytes queued, %d dropped", len(o.buf), o.dropped.Load())
	}
	for range queueBytes / 10 {
		o.control(appendAnswer(nil, answer{}))
	}
	if !o.finished || len(o.buf) > 100 {
		t.Errorf("finished %v with %d bytes", o.finished, len(o.buf))
	}

	var q inbox
	n := 0
	for q.put(event.Frame{Data: make([]byte, 14)}, 0) {
		n++
	}
	if n > queueBytes/14 {
		t.Errorf("%d small frames were taken", n)
	}
	var c cursor
	for range n {
		if _, ok := c.recv(&q); !ok {
			t.Fatal("a frame was lost")
		}
	}
	if _, ok := c.recv(&q); ok {
		t.Error("a frame too many")
	}
}

// One write carries all that has gathered, in order, and finish sends the rest.
func TestOutboxBatches(t *testing.T) {
	o := newOutbox()
	var want []byte
	for i := range 50 {
		f := mark(guestMAC, strings.Repeat("x", i))
		o.frame(f)
		want = appendFrame(want, f)
	}
	o.finish(nil)
	o.frame(mark(guestMAC, "too late"))
	var w batches
	o.write(&w)
	if len(w) != 1 || !bytes.Equal(w[0], want) {
		t.Errorf("%d writes", len(w))
	}
}

type batches [][]byte

func (w *batches) Write(b []byte) (int, error) {
	*w = append(*w, bytes.Clone(b))
	return len(b), nil
}
func (w *batches) Close() error { return nil }

// DHCP gives fixed leases, keeps what a client has, honours what it asks for if
// it is free, says no to what is not, and reuses what has run out.
func TestDHCP(t *testing.T) {
	cfg, err := Config{Subnet: netip.MustParsePrefix("10.1.2.0/29"), HostAlias: netip.MustParseAddr("10.1.2.6"),
		Leases: []Lease{{vswitch.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.1.2.4")}}}.complete()
	if err != nil {
		t.Fatal(err)
	}
	d := newDHCP(cfg)
	now := time.Duration(0)
	for i, c := range []struct {
		after   time.Duration
		client  byte
		kind    byte
		want    string // requested
		replies byte
		ip      string
	}{
		{0, 1, dhcpDiscover, "", dhcpOffer, "10.1.2.4"},
		{0, 1, dhcpRequest, "10.1.2.4", dhcpAck, "10.1.2.4"},
		{0, 1, dhcpRequest, "10.1.2.3", dhcpNak, "0.0.0.0"},
		{0, 2, dhcpDiscover, "", dhcpOffer, "10.1.2.2"}, // .1 is the gateway
		{0, 3, dhcpDiscover, "", dhcpOffer, "10.1.2.3"}, // .2 is reserved for client 2
		{0, 2, dhcpRequest, "10.1.2.2", dhcpAck, "10.1.2.2"},
		{0, 4, dhcpDiscover, "10.1.2.4", dhcpOffer, "10.1.2.5"}, // .4 is fixed
		{0, 5, dhcpDiscover, "", 0, ""},                         // .6 is the alias, .7 broadcast
		{31 * time.Second, 5, dhcpDiscover, "10.1.2.5", dhcpOffer, "10.1.2.5"},
		{0, 4, dhcpRequest, "10.1.2.5", dhcpNak, "0.0.0.0"},
		{0, 2, dhcpRequest, "10.1.2.2", dhcpAck, "10.1.2.2"},
		{2 * time.Hour, 6, dhcpRequest, "10.1.2.2", dhcpAck, "10.1.2.2"},
		{0, 6, dhcpDecline, "10.1.2.2", 0, ""},
		{0, 6, dhcpRequest, "10.1.2.2", dhcpNak, "0.0.0.0"},
		{0, 7, dhcpInform, "", dhcpAck, "0.0.0.0"},
	} {
		now += c.after
		want, _ := netip.ParseAddr(c.want)
		r, ok := d.answer(now, dhcpRequestMessage(vswitch.MAC{2, 0, 0, 0, 0, c.client}, c.kind, want))
		if ok != (c.replies != 0) {
			t.Fatalf("step %d: replied %v", i, ok)
		}
		if !ok {
			continue
		}
		kind, ip := r.message[dhcpOpts+2], netip.AddrFrom4([4]byte(r.message[dhcpYiaddr:]))
		if kind != c.replies || ip.String() != c.ip || r.leased != (kind == dhcpAck && c.ip != "0.0.0.0") {
			t.Errorf("step %d: kind %d %v leased %v, want %d %s", i, kind, ip, r.leased, c.replies, c.ip)
		}
		if len(r.message) < dhcpMinLen || string(r.message[dhcpXID:dhcpXID+4]) != "tndm" {
			t.Errorf("step %d: malformed reply % x", i, r.message)
		}
	}
	if len(d.leases) > 8 || len(d.byMAC) > 8 {
		t.Errorf("%d leases of %d clients in a subnet of 8 addresses", len(d.leases), len(d.byMAC))
	}
}

// DHCP requests of any content are answered or ignored.
func FuzzDHCP(f *testing.F) {
	f.Add(dhcpRequestMessage(guestMAC, dhcpRequest, guestIP))
	cfg, _ := Config{}.complete()
	f.Fuzz(func(t *testing.T, b []byte) { newDHCP(cfg).answer(0, b) })
}

// NAT leads to the host's network and, by the alias, to its loopback: never to
// the host alone by another address, nor to the services of a cloud.
func TestOutward(t *testing.T) {
	cfg, _ := Config{HostAlias: alias}.complete()
	for a, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:80", "10.77.0.254": "127.0.0.1:80", "192.168.1.1": "192.168.1.1:80",
		"127.0.0.1": "", "127.9.9.9": "", "0.0.0.0": "", "224.0.0.1": "", "255.255.255.255": "",
		"169.254.169.254": "", "10.77.0.1": "", "10.77.0.9": "",
	} {
		id := stack.TransportEndpointID{LocalAddress: address(netip.MustParseAddr(a)), LocalPort: 80}
		if to, ok := (&gateway{cfg: cfg}).outward(id); ok != (want != "") || ok && to.String() != want {
			t.Errorf("%s leads to %v %v, want %q", a, to, ok, want)
		}
	}
}

// Settings that can't work are refused with what to do.
func TestConfig(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	m := vswitch.MAC{2}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Subnet: prefix("192.168.5.77/16")}, ""},
		{Config{Subnet: prefix("10.0.0.0/30")}, "/8 to /29"},
		{Config{Subnet: prefix("fd00::/64")}, "IPv4"},
		{Config{Gateway: addr("10.78.0.1")}, "gateway"},
		{Config{Gateway: addr("10.77.0.255")}, "gateway"},
		{Config{HostAlias: addr("10.77.0.1")}, "host alias"},
		{Config{MTU: 100}, "MTU"},
		{Config{Leases: []Lease{{m, addr("10.77.0.1")}}}, "lease"},
		{Config{Leases: []Lease{{m, addr("10.77.0.2")}, {m, addr("10.77.0.3")}}}, "one free address"},
		{Config{Forwards: []Forward{{"127.0.0.1:0", netip.MustParseAddrPort("10.9.0.2:80")}}}, "not in"},
		{Config{Forwards: []Forward{{"127.0.0.1:0", netip.AddrPort{}}}}, "IPV4:PORT"},
		{Config{Names: []Name{{"x", netip.Addr{}}}}, "IPv4 address"},
	} {
		_, err := c.cfg.complete()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = NewServer(Config{Forwards: []Forward{{l.Addr().String(), netip.MustParseAddrPort("10.77.0.2:80")}}})
	if err == nil || !strings.Contains(err.Error(), "choose another port") {
		t.Errorf("a forward on a port in use: %v", err)
	}
}
