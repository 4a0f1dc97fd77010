// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"tandem/machine/event"
	"tandem/vswitch"
)

func forwardConfig() Config {
	return Config{
		HostAlias: alias,
		Leases:    []Lease{{guestMAC, guestIP}},
		Forwards:  []Forward{{"127.0.0.1:0", netip.AddrPortFrom(guestIP, 7)}},
	}
}

func dialHost(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A guest gets its lease and serves a client of the host through a port forward,
// over either kind of socket, with offloads (64 KiB segments and partial checksums
// both ways) and without (every frame segmented, every checksum verified).
func TestForward(t *testing.T) {
	for _, c := range []struct {
		name, network, addr string
		offloads            bool
	}{
		{"unix, offloads", "unix", filepath.Join(t.TempDir(), "s"), true},
		{"tcp, plain", "tcp", "127.0.0.1:0", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSwitch(t, c.network, c.addr, forwardConfig())
			g := newGuest(t, guestMAC, c.offloads)
			h := primary(1)
			h.Offloads = c.offloads
			g.plug(dialPort(t, s.addr, h, g.wake))
			if ip := g.lease(); ip != guestIP {
				t.Fatalf("the lease is %v, want %v", ip, guestIP)
			}
			g.echo(7)
			client := dialHost(t, s.Addrs()[0])
			exchange(t, client, []byte("hello"))
			exchange(t, client, pattern(32<<20)) // more than all buffers hold: both directions fill up
			client.(*net.TCPConn).CloseWrite()
			if n, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end of both sides: %d bytes, %v; want EOF", n, err)
			}
		})
	}
}

// A guest without a lease, known by ARP only, is reached too.
func TestForwardByARP(t *testing.T) {
	ip := netip.MustParseAddr("10.77.0.77")
	s := unixSwitch(t, Config{Forwards: []Forward{{"127.0.0.1:0", netip.AddrPortFrom(ip, 7)}}})
	g := newGuest(t, guestMAC, true)
	g.plug(dialPort(t, s.addr, primary(1), g.wake))
	g.address(ip)
	g.echo(7)
	exchange(t, dialHost(t, s.Addrs()[0]), []byte("hello"))
}

// A client of a port that nobody serves sees a broken connection, not a hanging one.
func TestForwardRefused(t *testing.T) {
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, true)
	g.plug(dialPort(t, s.addr, primary(1), g.wake))
	g.lease()
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err == nil { // else the reset came before Dial was done
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// The guest reaches the host's network through NAT, by TCP and UDP; the host's
// loopback only by the alias, and a port without listener refuses.
func TestOutbound(t *testing.T) {
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, true)
	g.plug(dialPort(t, s.addr, primary(1), g.wake))
	g.lease()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveEcho(l)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	c, err := g.dial(netip.AddrPortFrom(alias, port))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, pattern(1<<20))
	c.Close()
	for _, a := range []string{"10.77.0.1", "169.254.169.254"} {
		if c, err := g.dial(netip.AddrPortFrom(netip.MustParseAddr(a), port)); err == nil {
			c.Close()
			t.Errorf("the guest reached %s:%d", a, port)
		}
	}

	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go echoUDP(u)
	to := tcpip.FullAddress{NIC: nic, Addr: address(alias), Port: uint16(u.LocalAddr().(*net.UDPAddr).Port)}
	d, err := gonet.DialUDP(g.stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, n := range []int{1, 1400, 9000} { // the last in fragments
		exchange(t, d, pattern(n))
	}
}

func echoUDP(u net.PacketConn) {
	b := make([]byte, 65535)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		u.WriteTo(b[:n], from)
	}
}

// An open connection through a forward survives the loss of the primary: what the
// client sent meanwhile is repeated to the backup, and the old port is fenced.
func TestFailover(t *testing.T) {
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, true)
	stale := make(chan struct{}, 16)
	old := dialPort(t, s.addr, primary(1), func() {
		g.wake()
		select {
		case stale <- struct{}{}:
		default:
		}
	})
	next := dialPort(t, s.addr, backup(1), g.wake)
	g.plug(old)
	g.lease()
	g.echo(7)
	client := dialHost(t, s.Addrs()[0])
	exchange(t, client, []byte("before"))
	if _, ok := next.Recv(); ok {
		t.Error("the backup received a frame")
	}

	g.plug(nil) // the primary has died
	client.SetDeadline(time.Now().Add(patience))
	during := pattern(100_000)
	go client.Write(during)
	if err := next.Activate(2); err != nil {
		t.Fatal(err)
	}
	g.plug(next)
	g.send(event.Frame{Data: vswitch.Announce(guestMAC)})
	got := make([]byte, len(during))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, during) {
		t.Fatalf("what was sent while nobody ran did not come back: %v", err)
	}
	exchange(t, client, []byte("after"))
	exchange(t, dialHost(t, s.Addrs()[0]), []byte("a new client"))

	waitStale(t, old, stale)
	if err := old.Activate(3); !errors.Is(err, vswitch.ErrStale) {
		t.Errorf("the replaced port activated: %v", err)
	}
	if _, err := Dial(s.addr, primary(1), func() {}); !errors.Is(err, vswitch.ErrStale) {
		t.Errorf("a replica of epoch 1 attached: %v", err)
	}
}

// rawPort speaks the wire protocol without the client's good manners.
type rawPort struct {
	net.Conn
	in *messages
}

func dialRaw(t *testing.T, addr string, h Hello) rawPort {
	t.Helper()
	c, err := net.Dial("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	r := rawPort{c, newMessages(c)}
	r.Write(appendHello(nil, h))
	if m, body, err := r.in.next(); err != nil || m != messageAnswer || body[8] != byte(statusDone) {
		t.Fatalf("hello: message %d %q, %v", m, body, err)
	}
	return r
}

// mark is a frame of an unused type that says something.
func mark(src vswitch.MAC, text string) event.Frame {
	b := append(append(bytes.Clone(vswitch.Broadcast[:]), src[:]...), 0x88, 0xb5) // local experiments
	return event.Frame{Data: append(append(b, text...), 0)}
}

// wantMark returns when the text has arrived, failing at any other mark.
func wantMark(t *testing.T, g *guest, text string) {
	t.Helper()
	select {
	case b := <-g.seen:
		if got := string(b[14 : len(b)-1]); got != text {
			t.Fatalf("mark %q came, want %q", got, text)
		}
	case <-time.After(patience):
		t.Fatalf("mark %q did not come", text)
	}
}

// The fence is a point in time: frames sent before it, and read by the switch,
// come before its answer; a replica that sends after it, as one that was stopped
// and wakes does, sends into nothing.
func TestFence(t *testing.T) {
	s := unixSwitch(t, Config{})
	observer := newGuest(t, vswitch.MAC{0x52, 0, 0, 0, 0, 9}, true)
	observer.plug(dialPort(t, s.addr, Hello{VM: "observer", Epoch: 1, Role: vswitch.Primary}, observer.wake))
	old := dialRaw(t, s.addr, primary(1))
	next := dialPort(t, s.addr, backup(2), func() {})

	old.Write(appendFrame(nil, mark(guestMAC, "before")))
	wantMark(t, observer, "before")
	next.Send(mark(guestMAC, "from a backup"))
	next.Flush()
	if err := next.Activate(2); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		old.Write(appendFrame(nil, mark(guestMAC, "after the fence")))
	}
	closed := false
	for {
		m, _, err := old.in.next()
		if err != nil {
			break
		}
		closed = closed || m == messageClosed
	}
	if !closed {
		t.Error("the old port was not told that it is closed")
	}
	next.Send(mark(guestMAC, "epoch 2"))
	next.Flush()
	wantMark(t, observer, "epoch 2")
}

// A port outlives the switch: it attaches to the new one as what it is by then,
// and what it is told while there is no switch holds.
func TestReconnect(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "s")
	first := startSwitch(t, "unix", addr, forwardConfig())
	g := newGuest(t, guestMAC, true)
	p := dialPort(t, addr, backup(1), g.wake)
	first.stop()
	activated := make(chan error, 1)
	go func() {
		for {
			err := p.Activate(2)
			if err == nil || p.Err() != nil {
				activated <- err
				return
			}
		}
	}()
	second := startSwitch(t, "unix", addr, forwardConfig())
	if err := <-activated; err != nil {
		t.Fatal(err)
	}
	g.plug(p)
	g.lease()
	g.echo(7)
	exchange(t, dialHost(t, second.Addrs()[0]), []byte("hello"))
	if _, err := Dial(addr, primary(1), func() {}); !errors.Is(err, vswitch.ErrStale) {
		t.Errorf("epoch 1 attached to the new switch: %v", err)
	}
}

// The answer to an Activate waits for a frame of the old epoch that is still on
// its way, although the old port is closed at once.
func TestFenceDrains(t *testing.T) {
	s := unixSwitch(t, Config{})
	dialPort(t, s.addr, primary(1), func() {})
	dialPort(t, s.addr, backup(1), func() {})
	infos := s.Ports()
	oldID, nextID := infos[1].ID, infos[2].ID
	s.mu.Lock()
	old, next := s.ports[oldID], s.ports[nextID]
	s.mu.Unlock()
	old.moving.Lock() // as while a frame is being forwarded
	answered := make(chan error, 1)
	go func() { answered <- s.activate(nextID, next, 2) }()
	for len(s.Ports()) == 3 {
		runtime.Gosched()
	}
	for range 10_000 {
		runtime.Gosched()
	}
	select {
	case <-answered:
		t.Error("the fence was said to be complete while a frame was on its way")
		old.moving.Unlock()
	default:
		old.moving.Unlock()
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// hookConn calls after once it has written the hello.
type hookConn struct {
	net.Conn
	after func()
}

func (c hookConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.after()
	return n, err
}

// An Activate that comes while the port is attaching as a backup is not lost.
func TestActivateWhileAttaching(t *testing.T) {
	s := unixSwitch(t, Config{})
	var p *Port
	dials := 0
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", s.addr)
		dials++
		if dials != 2 || err != nil {
			return c, err
		}
		return hookConn{c, sync.OnceFunc(func() {
			p.mu.Lock() // what Activate does without a connection
			p.hello.Role, p.hello.Epoch = vswitch.Primary, 2
			p.mu.Unlock()
		})}, nil
	}
	p, err := DialWith("test", dial, backup(1), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s.mu.Lock()
	for _, q := range s.ports {
		q.conn.Close() // the port attaches again
	}
	s.mu.Unlock()
	for end := time.After(patience); ; {
		p.mu.Lock()
		done, changed := p.confirmed == 2, p.changed
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-end:
			t.Fatal("the switch was never told of epoch 2")
		}
	}
}

// Two VMs reach each other, and what is wrong about an attachment is said.
func TestTwoVMs(t *testing.T) {
	s := unixSwitch(t, Config{})
	mac2 := vswitch.MAC{0x52, 0x54, 0, 0, 0, 2}
	a, b := newGuest(t, guestMAC, true), newGuest(t, mac2, false)
	a.plug(dialPort(t, s.addr, primary(1), a.wake))
	b.plug(dialPort(t, s.addr, Hello{VM: "other", Epoch: 1, Role: vswitch.Primary, MAC: mac2}, b.wake))
	ip := a.lease()
	if ip == b.lease() {
		t.Fatal("two devices have one address")
	}
	a.echo(7)
	c, err := b.dial(netip.AddrPortFrom(ip, 7))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, pattern(1<<20))

	for _, c := range []struct {
		h    Hello
		want string
	}{
		{Hello{VM: "third", Epoch: 1, Role: vswitch.Primary, MAC: mac2}, "in use by VM \"other\""},
		{Hello{VM: "third", Epoch: 1, Role: vswitch.Uplink}, "use primary or backup"},
		{Hello{VM: "", Epoch: 1, Role: vswitch.Primary}, "VM id"},
		{Hello{VM: "third", Role: vswitch.Primary}, "epoch 0"},
	} {
		p, err := Dial(s.addr, c.h, func() {})
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.h, err, c.want)
		}
	}
	if _, err := Dial(filepath.Join(t.TempDir(), "none"), primary(1), func() {}); err == nil || !strings.Contains(err.Error(), "tandem switch") {
		t.Errorf("no switch: %v", err)
	}
}

// Whatever bytes come, the switch drops the connection that sent them and goes on.
func TestHostilePeers(t *testing.T) {
	s := unixSwitch(t, forwardConfig())
	hello := appendHello(nil, Hello{VM: "x", Epoch: 1, Role: vswitch.Primary})
	version := bytes.Clone(hello)
	version[9] = 99
	for name, b := range map[string][]byte{
		"garbage":         []byte("GET / HTTP/1.1\r\nHost: switch\r\n\r\n"),
		"length 0":        {0, 0, 0, 0, 1},
		"length 4 GiB":    {255, 255, 255, 255, 1, 2, 3},
		"version":         version,
		"two hellos":      append(bytes.Clone(hello), hello...),
		"short activate":  append(bytes.Clone(hello), 2, 0, 0, 0, byte(messageActivate), 1),
		"frame first":     appendFrame(nil, mark(guestMAC, "x")),
		"unknown message": append(bytes.Clone(hello), 1, 0, 0, 0, 77),
	} {
		c, err := net.Dial("unix", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		c.Write(b)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		c.Close()
	}
	g := newGuest(t, guestMAC, true)
	p := dialPort(t, s.addr, primary(1), g.wake)
	g.plug(p)
	for _, f := range hostileFrames() {
		g.send(f)
	}
	g.lease()
	g.echo(7)
	exchange(t, dialHost(t, s.Addrs()[0]), []byte("still here"))
}

// hostileFrames are damaged in their headers, lengths and offloads; each is made
// from a frame that the gateway takes.
func hostileFrames() (frames []event.Frame) {
	whole := dhcpRequestFrame(guestMAC, dhcpDiscover, netip.Addr{})
	copy(whole, gatewayMAC[:])
	copy(whole[14+12:], []byte{10, 77, 0, 2, 10, 77, 0, 1})
	for i := range 80 {
		for _, v := range []byte{0, 1, 6, 17, 0x4f, 0x60, 0xff} {
			b := bytes.Clone(whole)
			b[i] = v
			if b[14+16] == 255 || b[14+28+dhcpOpts+3] == dhcpDiscover {
				b[14+28+dhcpOpts+3] = dhcpRelease // ask for no reply
			}
			o := event.Offload{Flags: v & 1, CsumStart: uint16(i), CsumOffset: uint16(v)}
			frames = append(frames, event.Frame{Data: b}, event.Frame{Data: b[:14+i]}, event.Frame{Data: b, Offload: o},
				event.Frame{Data: b, Offload: event.Offload{GSOType: v, GSOSize: uint16(i)}})
		}
	}
	return frames
}

// The user network is the same inside the process.
func TestUser(t *testing.T) {
	for _, offloads := range []bool{true, false} {
		g := newGuest(t, guestMAC, offloads)
		cfg := forwardConfig()
		cfg.Offloads = offloads
		u, err := NewUser(cfg, g.wake)
		if err != nil {
			t.Fatal(err)
		}
		g.plug(u)
		for _, f := range hostileFrames() {
			g.send(f)
		}
		g.lease()
		g.echo(7)
		exchange(t, dialHost(t, u.Addrs()[0]), pattern(1<<20))
		g.plug(nil)
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The gateway answers names of its own, and passes other questions to the host's
// resolver and its answers back, over UDP and TCP.
func TestDNS(t *testing.T) {
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	l, err := net.Listen("tcp", u.LocalAddr().String())
	if err != nil {
		t.Skip("the port is taken for TCP:", err)
	}
	defer l.Close()
	go fakeResolver(u, l)
	cfg := forwardConfig()
	cfg.Resolvers = []string{u.LocalAddr().String()}
	cfg.Names = []Name{{"db.example", guestIP}}
	s := unixSwitch(t, cfg)
	g := newGuest(t, guestMAC, true)
	g.plug(dialPort(t, s.addr, primary(1), g.wake))
	g.lease()
	for _, network := range []string{"udp", "tcp"} {
		r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			to := tcpip.FullAddress{NIC: nic, Addr: address(netip.MustParseAddr("10.77.0.1")), Port: 53}
			if network == "tcp" {
				return gonet.DialTCP(g.stack, to, ipv4.ProtocolNumber)
			}
			return gonet.DialUDP(g.stack, nil, &to, ipv4.ProtocolNumber)
		}}
		for name, want := range map[string]string{
			"gateway.tandem.internal.": "10.77.0.1",
			"HOST.tandem.internal.":    "10.77.0.254",
			"db.example.":              "10.77.0.2",
			"elsewhere.example.":       "192.0.2.1",
		} {
			ips, err := r.LookupNetIP(context.Background(), "ip4", name)
			if err != nil || len(ips) != 1 || ips[0].String() != want {
				t.Errorf("%s over %s: %v %v, want %s", name, network, ips, err, want)
			}
		}
		var notFound *net.DNSError
		if _, err := r.LookupNetIP(context.Background(), "ip4", "no.tandem.internal."); !errors.As(err, &notFound) || !notFound.IsNotFound {
			t.Errorf("no.tandem.internal: %v, want not found", err)
		}
	}
}

// fakeResolver says 192.0.2.1 to every question.
func fakeResolver(u net.PacketConn, l net.Listener) {
	g := &gateway{cfg: Config{Names: []Name{{"elsewhere.example", netip.MustParseAddr("192.0.2.1")}}}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if q, err := readDNS(c); err == nil {
				writeDNS(c, g.resolve("tcp", q))
			}
			c.Close()
		}
	}()
	b := make([]byte, 65535)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		u.WriteTo(g.resolve("udp", b[:n]), from)
	}
}
