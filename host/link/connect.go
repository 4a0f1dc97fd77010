// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"tandem/world"
)

const (
	handshakeTime = 5 * time.Second // for TLS, greeting and verdict
	// maxHandshakes at a time. One more costs the oldest its place: the peer's takes
	// some milliseconds, a stranger's may be there to stay.
	maxHandshakes = 16
	drainTime     = 100 * time.Millisecond // for what is left in a connection that its dialer gave up

	dialTime   = 2 * time.Second // for TCP
	retryFirst = 2 * time.Millisecond
	retryMost  = 250 * time.Millisecond

	portTries = 16
)

// bind opens TCP and UDP at the same port.
func (l *Link) bind(addr string) error {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	for try := 1; ; try++ {
		ln, err := lc.Listen(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		l.listener = ln.(*net.TCPListener)
		l.port, err = bindUDP(ln.Addr().String())
		if err == nil {
			return nil
		}
		ln.Close()
		if _, port, _ := net.SplitHostPort(addr); port != "0" || try == portTries {
			return fmt.Errorf("heartbeats need the UDP port of the same number: %w", err)
		}
	}
}

// accept takes connections and lets each make its handshake.
func (l *Link) accept() {
	for {
		c, err := l.listener.AcceptTCP()
		switch {
		case l.ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return
		case err != nil: // too many open files, say
			l.diagnose("the channel can't accept a connection", "error", err)
			l.sleep(50 * time.Millisecond)
			continue
		}
		if !l.enter(c) {
			c.Close()
			return
		}
		l.goes(func() {
			defer l.exit(c)
			// A peer that is told to come again knows; it may do so for days.
			if err := l.welcome(c); err != nil && verdictOf(err) == comeIn && l.ctx.Err() == nil {
				l.diagnose("a connection to the channel was refused", "from", c.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// enter gives a connection a place among the handshakes, false if the link is closed.
func (l *Link) enter(c *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	if len(l.handshakes) == maxHandshakes {
		l.handshakes[0].Close()
		l.handshakes = slices.Delete(l.handshakes, 0, 1)
	}
	l.handshakes = append(l.handshakes, c)
	return true
}

func (l *Link) exit(c *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handshakes = slices.DeleteFunc(l.handshakes, func(h *net.TCPConn) bool { return h == c })
}

// welcome makes the listener's part of the handshake.
func (l *Link) welcome(t *net.TCPConn) error {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTime)
	defer cancel()
	c, err := l.secure(ctx, t, tls.Server)
	if err != nil {
		t.Close()
		return explainHandshake(err)
	}
	var g greeting
	if err = g.receive(c.tls); err == nil {
		c.peer = g.id
		err = errBackup
	}
	if l.welcomes.Load() && errors.Is(err, errBackup) {
		local, peer := unmap(t.LocalAddr()), unmap(t.RemoteAddr())
		err = l.admit(ctx, c, local, netip.AddrPortFrom(peer.Addr(), g.port))
	}
	if err == nil {
		l.exit(t) // it can't lose its place any more
		if err = comeIn.send(c.tls); err == nil {
			c.start()
			return nil
		}
		l.leave(c)
		c.beat.spare()
	} else if v := verdictOf(err); v != comeIn {
		v.send(c.tls)
	}
	t.Close()
	return explainHandshake(err)
}

// secure makes the TLS handshake.
func (l *Link) secure(ctx context.Context, t *net.TCPConn, side func(net.Conn, *tls.Config) *tls.Conn) (*conn, error) {
	s, err := newSocket(t)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	t.SetDeadline(deadline)
	c := newConn(l, side(s, l.tlsConfig()), s)
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := c.tls.ConnectionState()
	key, err := state.ExportKeyingMaterial("EXPORTER-tandem-heartbeat", nil, len(c.key))
	copy(c.key[:], key)
	return c, err
}

// admit makes c the live connection, with a socket for its heartbeats, if there is
// no other, or only one that its own peer gave up.
func (l *Link) admit(ctx context.Context, c *conn, local, remote netip.AddrPort) error {
	for {
		l.mu.Lock()
		old := l.live
		if old == nil {
			l.live = c
			l.mu.Unlock()
			break
		}
		l.mu.Unlock()
		if old.peer != c.peer {
			return errBusy
		}
		old.socket.SetReadDeadline(time.Now().Add(drainTime))
		select {
		case <-old.ended:
		case <-ctx.Done():
			return errBusy
		}
	}
	b, err := l.beatTo(local, remote)
	if err != nil {
		l.leave(c)
		return fmt.Errorf("open a UDP socket to the peer: %w", err)
	}
	c.beat = b
	return nil
}

// dialer dials when asked to, until it is refused.
func (l *Link) dialer(addr string) {
	for {
		select {
		case <-l.redial:
		case <-l.ctx.Done():
			return
		}
		l.mu.Lock()
		connected := l.live != nil && !l.live.over.Load()
		l.mu.Unlock()
		if !connected {
			l.dialUntilConnected(addr)
		}
	}
}

func (l *Link) dialUntilConnected(addr string) {
	said := ""
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := l.dial(addr)
		if err == nil || l.ctx.Err() != nil || l.welcomes.Load() {
			return
		}
		if errors.As(err, new(refusal)) {
			l.cfg.Log.Debug("the connection to the peer was refused", "address", addr, "error", err)
			l.inbox.offer(world.ChannelEvent{Kind: world.Refused, Err: fmt.Errorf("connect to the peer at %s: %w", addr, err)})
			return
		}
		if err.Error() != said {
			said = err.Error()
			l.cfg.Log.Warn("can't connect to the peer yet", "address", addr, "error", err)
		}
		l.sleep(wait)
	}
}

// dial makes the dialer's part of the handshake.
func (l *Link) dial(addr string) error {
	d := net.Dialer{Timeout: dialTime, KeepAlive: -1}
	d.SetMultipathTCP(false)
	n, err := d.DialContext(l.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	t := n.(*net.TCPConn)
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTime)
	defer cancel()
	unhook := context.AfterFunc(l.ctx, func() { t.Close() })
	c, err := l.secure(ctx, t, tls.Client)
	if err == nil {
		err = l.introduce(ctx, c)
	}
	if !unhook() && err == nil {
		l.leave(c)
		c.beat.spare()
		err = l.ctx.Err()
	}
	if err != nil {
		t.Close()
		return explainHandshake(err)
	}
	select { // a wish that this connection has fulfilled
	case <-l.redial:
	default:
	}
	c.start()
	return nil
}

// introduce greets the listener and gets its verdict.
func (l *Link) introduce(ctx context.Context, c *conn) error {
	local, remote := unmap(c.socket.LocalAddr()), unmap(c.socket.RemoteAddr())
	port := unmap(l.port.LocalAddr()).Port()
	// In TLS 1.3 the client is ready before the server has seen its certificate, so
	// the answer may be an alert. It tells more than a failed write does.
	greeting{id: l.id, port: port}.send(c.tls)
	var v verdict
	if err := v.receive(c.tls); err != nil {
		return err
	}
	if err := v.err(); err != nil {
		return err
	}
	return l.admit(ctx, c, netip.AddrPortFrom(local.Addr(), port), remote)
}

func (l *Link) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
	}
}
