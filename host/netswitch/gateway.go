// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tandem/machine/event"
	"tandem/vswitch"
)

const nic = 1

// TCP of the gateway. A guest is one hop away and answers within milliseconds,
// unless its primary has just died: then what was lost is repeated soon after
// the backup runs, and a connection outlives minutes of silence.
const (
	minRTO     = 20 * time.Millisecond
	maxRTO     = 200 * time.Millisecond
	maxRetries = 600 // with maxRTO: two minutes
)

// receiveBuffer is twice the window that the stack offers, 256 KiB: enough for
// 256 MB/s at a round trip of 1 ms. A larger one would do harm. The stack rounds
// the window down to its scale, and refuses what a peer had already sent within
// the part that was rounded off, with the acknowledgements that follow; if both
// ends then wait for each other, the connection hangs. Here that part is less than 8
// bytes, and next to never a segment of its own.
const receiveBuffer = 65535 << 3

// Bounds on what guests can make the gateway hold.
const (
	maxFlowsTCP = 2048
	maxFlowsUDP = 512
	maxPending  = 256 // connections being made
)

// gateway is the network's own end: a TCP/IP stack that answers for the gateway's
// address and for every address outside the subnet.
type gateway struct {
	cfg   Config
	emit  func(event.Frame)
	stack *stack.Stack
	link  *link
	dhcp  *dhcp
	start time.Time

	ctx       context.Context // of everything the gateway has started
	cancel    context.CancelFunc
	listeners []net.Listener

	mu     sync.Mutex // guards closed, and wg.Add against wg.Wait
	closed bool
	wg     sync.WaitGroup
	tcp    chan struct{} // a slot per flow
	udp    chan struct{}
}

// newGateway builds the stack and starts its services. emit is called with each
// frame that the gateway sends; it must not block and must not call inject.
func newGateway(cfg Config, emit func(event.Frame)) (g *gateway, err error) {
	g = &gateway{cfg: cfg, emit: emit, dhcp: newDHCP(cfg), start: time.Now(),
		tcp: make(chan struct{}, maxFlowsTCP), udp: make(chan struct{}, maxFlowsUDP)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.link = &link{mtu: uint32(cfg.MTU), mac: linkAddress(gatewayMAC), emit: emit}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := g.setUp(); err != nil {
		return g, err
	}
	if err := g.serveDNS(); err != nil {
		return g, err
	}
	return g, g.listenForwards()
}

// setUp configures the stack.
func (g *gateway) setUp() error {
	s := g.stack
	steps := []struct {
		what string
		do   func() tcpip.Error
	}{
		{"NIC", func() tcpip.Error { return s.CreateNIC(nic, g.link) }},
		{"gateway address", func() tcpip.Error { return g.addAddress(g.cfg.Gateway, stack.CanBePrimaryEndpoint) }},
		{"host alias", func() tcpip.Error { return g.addAddress(g.cfg.HostAlias, stack.NeverPrimaryEndpoint) }},
		// NAT: take packets for, and send packets from, addresses that are elsewhere.
		{"promiscuous mode", func() tcpip.Error { return s.SetPromiscuousMode(nic, true) }},
		{"spoofing", func() tcpip.Error { return s.SetSpoofing(nic, true) }},
		{"neighbors", func() tcpip.Error { return s.SetNUDConfigurations(nic, ipv4.ProtocolNumber, neighborTimes()) }},
		{"minimum RTO", option(s, tcpip.TCPMinRTOOption(minRTO))},
		{"maximum RTO", option(s, tcpip.TCPMaxRTOOption(maxRTO))},
		{"retries", option(s, tcpip.TCPMaxRetriesOption(maxRetries))},
		// Without RACK: its tail loss probe replaces the RTO by 200 ms, the longest
		// that a peer may delay an acknowledgement.
		{"loss recovery", option(s, tcpip.TCPRecovery(0))},
		{"no delay", option(s, tcpip.TCPDelayEnabled(false))},
		{"SACK", option(s, tcpip.TCPSACKEnabled(true))},
		{"receive buffer", receiveWindow(s)[0]},
		{"fixed buffer", receiveWindow(s)[1]},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("network stack: %s: %v", step.what, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxPending, g.acceptTCP).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, g.acceptUDP).HandlePacket)
	for _, l := range g.cfg.Leases {
		g.knows(l.MAC, l.IP)
	}
	return nil
}

// receiveWindow returns the steps that fix the receive buffer.
func receiveWindow(s *stack.Stack) [2]func() tcpip.Error {
	return [2]func() tcpip.Error{
		option(s, tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: receiveBuffer, Max: receiveBuffer}),
		option(s, tcpip.TCPModerateReceiveBufferOption(false)),
	}
}

// option returns a step that sets a TCP option.
func option[T any, P interface {
	*T
	tcpip.SettableTransportProtocolOption
}](s *stack.Stack, v T) func() tcpip.Error {
	return func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, P(&v)) }
}

func (g *gateway) addAddress(a netip.Addr, peb stack.PrimaryEndpointBehavior) tcpip.Error {
	if !a.IsValid() {
		return nil
	}
	return g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a), PrefixLen: g.cfg.Subnet.Bits()},
	}, stack.AddressProperties{PEB: peb})
}

// neighborTimes makes ARP ask often and give up late: a guest between two
// primaries is silent, not gone.
func neighborTimes() stack.NUDConfigurations {
	c := stack.DefaultNUDConfigurations()
	c.RetransmitTimer = 100 * time.Millisecond
	c.MaxMulticastProbes = 100
	c.MaxUnicastProbes = 100
	return c
}

// knows fixes the hardware address of a leased IP address, so that no ARP is
// needed when a connection is to be opened or goes on after a failover.
func (g *gateway) knows(m vswitch.MAC, ip netip.Addr) {
	if err := g.stack.AddStaticNeighbor(nic, ipv4.ProtocolNumber, address(ip), linkAddress(m)); err != nil {
		g.cfg.Log.Warn("switch: neighbor not set", "ip", ip, "err", err.String())
	}
}

// inject takes a frame that reached the gateway's port. Its data is not kept.
// Checksums and segments may be left to be done: the stack verifies no checksum
// and takes TCP segments of any size, so nothing needs doing here.
func (g *gateway) inject(f event.Frame) {
	dst, src := vswitch.MAC(f.Data[0:6]), vswitch.MAC(f.Data[6:12])
	if dst != gatewayMAC && dst != vswitch.Broadcast {
		return
	}
	packet := f.Data[header.EthernetMinimumSize:]
	switch protocol := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(f.Data[12:])); protocol {
	case header.ARPProtocolNumber:
		if g.wantsARP(packet) {
			g.link.deliver(protocol, packet)
		}
	case header.IPv4ProtocolNumber:
		g.injectIPv4(src, packet)
	}
}

// wantsARP keeps the stack, which in promiscuous mode would answer for every
// address, from answering for others.
func (g *gateway) wantsARP(packet []byte) bool {
	h := header.ARP(packet)
	if !h.IsValid() {
		return false
	}
	target := netip.AddrFrom4([4]byte(h.ProtocolAddressTarget()))
	return target == g.cfg.Gateway || target == g.cfg.HostAlias
}

func (g *gateway) injectIPv4(src vswitch.MAC, packet []byte) {
	h := header.IPv4(packet)
	if !h.IsValid(len(packet)) {
		return
	}
	from, to := netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
	if h.TransportProtocol() == header.UDPProtocolNumber && (to == g.cfg.Gateway || to == broadcastAll) && g.injectDHCP(src, h) {
		return
	}
	own := to == g.cfg.Gateway || to == g.cfg.HostAlias
	switch {
	case !g.cfg.station(from):
		return // replies would have nowhere to go
	case to.IsMulticast() || to == broadcastAll:
		return
	case g.cfg.Subnet.Contains(to) && !own:
		return // a neighbor, whom the guest reaches by itself
	case h.TransportProtocol() == header.ICMPv4ProtocolNumber && !own:
		return // there is no NAT for ICMP, and answering for others would be a lie
	}
	g.link.deliver(header.IPv4ProtocolNumber, packet)
}

// injectDHCP answers a packet to the DHCP server; handled is false for any other.
func (g *gateway) injectDHCP(src vswitch.MAC, h header.IPv4) (handled bool) {
	if h.More() || h.FragmentOffset() != 0 {
		return false
	}
	u := header.UDP(h.Payload())
	if len(u) < header.UDPMinimumSize || u.DestinationPort() != dhcpServerPort {
		return false
	}
	reply, ok := g.dhcp.answer(time.Since(g.start), u[header.UDPMinimumSize:])
	if !ok {
		return true
	}
	if reply.leased {
		g.knows(reply.mac, reply.ip)
	}
	g.emit(event.Frame{Data: g.dhcpFrame(src, reply)})
	return true
}

var broadcastAll = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dhcpFrame wraps a reply. It goes to the station that asked; its IP address may
// not be set yet, so ARP could not find it.
func (g *gateway) dhcpFrame(to vswitch.MAC, r dhcpReply) []byte {
	n := header.IPv4MinimumSize + header.UDPMinimumSize + len(r.message)
	b := make([]byte, 0, header.EthernetMinimumSize+n)
	b = append(b, to[:]...)
	b = append(b, gatewayMAC[:]...)
	b = append(b, 0x08, 0x00)
	b = append(b, make([]byte, n)...)
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(n), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: address(g.cfg.Gateway), DstAddr: address(r.to)})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(ip.Payload())
	u.Encode(&header.UDPFields{SrcPort: dhcpServerPort, DstPort: dhcpClientPort, Length: uint16(len(u))})
	copy(u.Payload(), r.message) // the UDP checksum stays 0: none (RFC 768)
	return b
}

// enter counts a goroutine of the gateway; false means that it is closing.
func (g *gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

// close ends all connections and waits for all goroutines.
func (g *gateway) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	for _, l := range g.listeners {
		l.Close()
	}
	g.stack.Close()
	g.wg.Wait()
	g.stack.Destroy()
}

// address converts an IPv4 address for the stack.
func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func linkAddress(m vswitch.MAC) tcpip.LinkAddress { return tcpip.LinkAddress(bytes.Clone(m[:])) }
