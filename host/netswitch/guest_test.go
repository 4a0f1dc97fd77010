// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tandem/machine/event"
	"tandem/vswitch"
)

// patience is how long a test waits for what must come. Nothing passes or fails
// by how long it took.
const patience = 30 * time.Second

var (
	guestMAC = vswitch.MAC{0x52, 0x54, 0, 0, 0, 1}
	guestIP  = netip.MustParseAddr("10.77.0.2")
	alias    = netip.MustParseAddr("10.77.0.254")
)

// guest is a fake guest: a TCP/IP stack of its own whose network card can be
// moved from one port to another, as the guest's is in a failover.
type guest struct {
	t     *testing.T
	stack *stack.Stack
	link  *link
	woken chan struct{}
	dhcp  chan []byte // UDP payloads to port 68
	seen  chan []byte // frames that are not for the stack: test marks

	mu  sync.Mutex
	net Network // nil: the guest is between two primaries
}

// plainLink is a card without offloads: it verifies every checksum that it
// receives and computes all that it sends.
type plainLink struct{ *link }

func (plainLink) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}
func (plainLink) SupportedGSO() stack.SupportedGSO { return stack.GSONotSupported }

func newGuest(t *testing.T, mac vswitch.MAC, offloads bool) *guest {
	g := &guest{t: t, woken: make(chan struct{}, 1), dhcp: make(chan []byte, 16), seen: make(chan []byte, 1024)}
	g.link = &link{mtu: 1500, mac: linkAddress(mac), emit: g.send}
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	for _, set := range receiveWindow(g.stack) { // for the reason given at receiveBuffer
		if err := set(); err != nil {
			t.Fatal(err)
		}
	}
	var card stack.LinkEndpoint = g.link
	if !offloads {
		card = plainLink{g.link}
	}
	if err := g.stack.CreateNIC(nic, card); err != nil {
		t.Fatal(err)
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: tcpip.AddressWithPrefix{Address: address(guestIP), PrefixLen: 24}.Subnet(), NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: address(netip.MustParseAddr("10.77.0.1")), NIC: nic}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; g.stack.Destroy() })
	return g
}

func (g *guest) wake() {
	select {
	case g.woken <- struct{}{}:
	default:
	}
}

func (g *guest) send(f event.Frame) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.net != nil {
		g.net.Send(f)
		g.net.Flush()
	}
}

// plug moves the card to another port, or to none. The test's end unplugs it
// before the port is closed.
func (g *guest) plug(n Network) {
	if n != nil {
		g.t.Cleanup(func() { g.plug(nil) })
	}
	g.mu.Lock()
	g.net = n
	g.mu.Unlock()
	g.wake()
}

func (g *guest) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.woken:
		}
		for {
			f, ok := g.recv()
			if !ok {
				break
			}
			g.arrive(f.Data)
		}
	}
}

func (g *guest) recv() (event.Frame, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.net == nil {
		return event.Frame{}, false
	}
	return g.net.Recv()
}

func (g *guest) arrive(b []byte) {
	packet := b[header.EthernetMinimumSize:]
	switch protocol := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(b[12:])); protocol {
	case header.IPv4ProtocolNumber:
		if ip := header.IPv4(packet); ip.Protocol() == 17 && header.UDP(ip.Payload()).DestinationPort() == dhcpClientPort {
			g.dhcp <- header.UDP(ip.Payload()).Payload()
			return
		}
		if vswitch.MAC(b) == vswitch.MAC([]byte(g.link.mac)) {
			g.link.deliver(protocol, packet)
		}
	case header.ARPProtocolNumber:
		g.link.deliver(protocol, packet)
	default:
		g.seen <- b
	}
}

// address gives the stack an address.
func (g *guest) address(a netip.Addr) {
	err := g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a), PrefixLen: 24}}, stack.AddressProperties{})
	if err != nil {
		g.t.Fatal(err)
	}
}

// lease gets an address by DHCP.
func (g *guest) lease() netip.Addr {
	g.t.Helper()
	offer := g.ask(dhcpDiscover, netip.Addr{})
	ack := g.ask(dhcpRequest, offer)
	if ack != offer {
		g.t.Fatalf("offered %v, then gave %v", offer, ack)
	}
	g.address(ack)
	return ack
}

// ask sends a DHCP request and returns the address in the reply.
func (g *guest) ask(kind byte, want netip.Addr) netip.Addr {
	g.t.Helper()
	g.send(event.Frame{Data: dhcpRequestFrame(vswitch.MAC([]byte(g.link.mac)), kind, want)})
	select {
	case b := <-g.dhcp:
		return netip.AddrFrom4([4]byte(b[dhcpYiaddr:]))
	case <-time.After(patience):
		g.t.Fatal("no reply to DHCP")
	}
	return netip.Addr{}
}

func dhcpRequestFrame(mac vswitch.MAC, kind byte, want netip.Addr) []byte {
	m := dhcpRequestMessage(mac, kind, want)
	n := 28 + len(m)
	b := append(append(vswitch.Broadcast[:len(mac):len(mac)], mac[:]...), 8, 0)
	b = append(b, make([]byte, n)...)
	ip := header.IPv4(b[14:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(n), TTL: 64, Protocol: 17, DstAddr: header.IPv4Broadcast})
	ip.SetChecksum(^ip.CalculateChecksum())
	header.UDP(ip.Payload()).Encode(&header.UDPFields{SrcPort: 68, DstPort: 67, Length: uint16(n - 20)})
	copy(b[14+28:], m)
	return b
}

func dhcpRequestMessage(mac vswitch.MAC, kind byte, want netip.Addr) []byte {
	m := make([]byte, dhcpOpts)
	m[0], m[1], m[2] = 1, 1, 6
	copy(m[dhcpXID:], "tndm")
	copy(m[dhcpChaddr:], mac[:])
	copy(m[dhcpCookie:], dhcpMagic[:])
	m = append(m, optPad, optType, 1, kind)
	if want.IsValid() {
		m = appendAddr(m, optRequested, want)
	}
	return append(m, optEnd)
}

// echo serves TCP connections to a port of the guest: each gets back what it sends.
func (g *guest) echo(port uint16) {
	g.t.Helper()
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	go serveEcho(l)
	g.t.Cleanup(func() { l.Close() })
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { io.Copy(c, c); c.Close() }()
	}
}

// dial opens a TCP connection from the guest.
func (g *guest) dial(a netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: nic, Addr: address(a.Addr()), Port: a.Port()}, ipv4.ProtocolNumber)
}

// testSwitch is a running server.
type testSwitch struct {
	*Server
	addr string
	stop func() // and wait
}

func startSwitch(t *testing.T, network, addr string, cfg Config) *testSwitch {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &testSwitch{s, l.Addr().String(), stop}
}

func unixSwitch(t *testing.T, cfg Config) *testSwitch {
	return startSwitch(t, "unix", filepath.Join(t.TempDir(), "switch.sock"), cfg)
}

func dialPort(t *testing.T, addr string, h Hello, wake func()) *Port {
	t.Helper()
	p, err := Dial(addr, h, wake)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func primary(epoch event.Epoch) Hello {
	return Hello{VM: "vm", Epoch: epoch, Role: vswitch.Primary, MAC: guestMAC, Offloads: true}
}

func backup(epoch event.Epoch) Hello {
	h := primary(epoch)
	h.Role = vswitch.Backup
	return h
}

// waitStale waits until a port has been told that it was replaced.
func waitStale(t *testing.T, p *Port, woken <-chan struct{}) {
	t.Helper()
	end := time.After(patience)
	for p.Err() == nil {
		select {
		case <-woken:
		case <-end:
			t.Fatal("the port was not told that it has been replaced")
		}
	}
	if !errors.Is(p.Err(), vswitch.ErrStale) {
		t.Fatalf("Err is %v, want ErrStale", p.Err())
	}
}

// exchange sends a message and wants it back.
func exchange(t *testing.T, c net.Conn, message []byte) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(message)
		wrote <- err
	}()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("echo: %v", err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if string(got) != string(message) {
		t.Fatal("the echo differs")
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}
