// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	outwardTimeout = 20 * time.Second // to connect to the host's network
	inwardTimeout  = 20 * time.Second // to connect to a guest
	firstAttempt   = 250 * time.Millisecond
	udpIdle        = 90 * time.Second
)

// outward translates an address that a guest sends to into the host's network.
// What only the host itself has is out of reach, unless by the host alias.
func (g *gateway) outward(id stack.TransportEndpointID) (to netip.AddrPort, ok bool) {
	a := netip.AddrFrom4(id.LocalAddress.As4())
	switch {
	case a == g.cfg.HostAlias:
		a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case g.cfg.Subnet.Contains(a), a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a == broadcastAll:
		return to, false
	case a.IsLinkLocalUnicast(): // such as the credentials service of a cloud
		return to, false
	}
	return netip.AddrPortFrom(a, id.LocalPort), true
}

// acceptTCP opens for the guest what it asks for and joins the two connections.
// The stack calls it on a goroutine of its own.
func (g *gateway) acceptTCP(r *tcp.ForwarderRequest) {
	if !g.enter() {
		r.Complete(true)
		return
	}
	defer g.wg.Done()
	to, ok := g.outward(r.ID())
	if !ok || !take(g.tcp) {
		r.Complete(true)
		return
	}
	defer give(g.tcp)
	d := net.Dialer{Timeout: outwardTimeout}
	host, err := d.DialContext(g.ctx, "tcp", to.String())
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, stackErr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if stackErr != nil {
		host.Close()
		return
	}
	g.join(host.(*net.TCPConn), newGuestConn(&wq, ep))
}

// guestConn is the stack's end of a connection with a guest.
type guestConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// newGuestConn sets what lets go of a guest that was deleted, after some minutes.
func newGuestConn(wq *waiter.Queue, ep tcpip.Endpoint) guestConn {
	idle, interval := tcpip.KeepaliveIdleOption(60*time.Second), tcpip.KeepaliveIntervalOption(15*time.Second)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SocketOptions().SetKeepAlive(true)
	return guestConn{gonet.NewTCPConn(wq, ep), ep}
}

func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func give(slots chan struct{}) { <-slots }

// join copies both ways until both have ended. An end in one direction is passed
// on as such; a connection that breaks is passed on as a reset.
func (g *gateway) join(host *net.TCPConn, guest guestConn) {
	defer host.Close()
	defer guest.Close()
	shut := func() {
		host.SetLinger(0)
		host.Close()
		guest.ep.Abort()
	}
	defer context.AfterFunc(g.ctx, shut)()
	up := make(chan struct{})
	go func() {
		defer close(up)
		if _, err := io.Copy(host, guest); err != nil || host.CloseWrite() != nil {
			shut()
		}
	}()
	if _, err := io.Copy(guest, host); err != nil || guest.CloseWrite() != nil {
		shut()
	}
	<-up
}

// listenForwards binds the host's side of the forwards and starts to accept.
func (g *gateway) listenForwards() error {
	for _, f := range g.cfg.Forwards {
		l, err := net.Listen("tcp", f.Host)
		if err != nil {
			return fmt.Errorf("forward %s to %v: %w: choose another port, or stop what uses it", f.Host, f.Guest, err)
		}
		g.listeners = append(g.listeners, l)
	}
	for i, l := range g.listeners {
		g.enter()
		go g.acceptForward(l, g.cfg.Forwards[i].Guest)
	}
	return nil
}

func (g *gateway) addrs() (a []net.Addr) {
	for _, l := range g.listeners {
		a = append(a, l.Addr())
	}
	return a
}

func (g *gateway) acceptForward(l net.Listener, guest netip.AddrPort) {
	defer g.wg.Done()
	for {
		c, err := l.Accept()
		if g.ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil {
			g.cfg.Log.Warn("switch: forward: accept failed; trying again", "on", l.Addr().String(), "err", err)
			sleep(g.ctx, 100*time.Millisecond)
			continue
		}
		if !take(g.tcp) || !g.enter() {
			c.Close()
			continue
		}
		go g.forward(c.(*net.TCPConn), guest)
	}
}

// forward joins a client to a guest's port.
func (g *gateway) forward(client *net.TCPConn, guest netip.AddrPort) {
	defer g.wg.Done()
	defer give(g.tcp)
	c, err := g.dialGuest(guest)
	if err != nil {
		g.cfg.Log.Info("switch: forward: the guest does not answer", "guest", guest.String(), "err", err)
		client.SetLinger(0)
		client.Close()
		return
	}
	g.join(client, c)
}

// dialGuest connects to a guest. The stack repeats a SYN only after a second,
// too late for who waits while a backup goes live; so an attempt that hears
// nothing is soon followed by another.
func (g *gateway) dialGuest(guest netip.AddrPort) (guestConn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, inwardTimeout)
	defer cancel()
	to := tcpip.FullAddress{NIC: nic, Addr: address(guest.Addr()), Port: guest.Port()}
	for wait := firstAttempt; ; wait *= 2 {
		attempt, cancel := context.WithTimeout(ctx, wait)
		c, err := g.connect(attempt, to)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return c, err
		}
	}
}

// connect makes one attempt.
func (g *gateway) connect(ctx context.Context, to tcpip.FullAddress) (c guestConn, err error) {
	var wq waiter.Queue
	ep, stackErr := g.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if stackErr != nil {
		return c, errors.New(stackErr.String())
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	stackErr = ep.Connect(to)
	if _, started := stackErr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			ep.Close()
			return c, ctx.Err()
		case <-ready:
			stackErr = ep.LastError()
		}
	}
	if stackErr != nil {
		ep.Close()
		return c, errors.New(stackErr.String())
	}
	return newGuestConn(&wq, ep), nil
}

// acceptUDP begins to relay between a guest's port and one address outside. The
// stack calls it with the first datagram.
func (g *gateway) acceptUDP(r *udp.ForwarderRequest) (handled bool) {
	to, ok := g.outward(r.ID())
	if !ok {
		return false // the stack answers "port unreachable"
	}
	if !take(g.udp) {
		return true
	}
	if !g.enter() {
		give(g.udp)
		return true
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		g.wg.Done()
		give(g.udp)
		return true
	}
	go g.relayUDP(gonet.NewUDPConn(&wq, ep), to)
	return true
}

func (g *gateway) relayUDP(guest net.Conn, to netip.AddrPort) {
	defer g.wg.Done()
	defer give(g.udp)
	defer guest.Close()
	host, err := net.Dial("udp", to.String())
	if err != nil {
		return
	}
	shut := func() { host.Close(); guest.Close() }
	defer context.AfterFunc(g.ctx, shut)()
	up := make(chan struct{})
	go func() {
		defer close(up)
		relay(host, guest)
		shut()
	}()
	relay(guest, host)
	shut()
	<-up
}

// relay copies datagrams until neither side has sent one for a while. A port that
// is closed at the moment costs the datagram only.
func relay(dst, src net.Conn) {
	b := make([]byte, 65535)
	for {
		src.SetReadDeadline(time.Now().Add(udpIdle))
		n, err := src.Read(b)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		dst.Write(b[:n])
		dst.SetReadDeadline(time.Now().Add(udpIdle))
	}
}
