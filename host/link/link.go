// SPDX-License-Identifier: Apache-2.0

// Package link is the logging channel between the replicas of a VM in the real
// world: TCP with TLS 1.3, both sides authenticated, and UDP for heartbeats.
//
//	dialer (backup)                                listener (primary), port P
//	TCP  ─────────────── TLS handshake ───────────────► P
//	     greeting: who I am, my UDP port U  ──────────►
//	     ◄────────────── verdict: come in, or why not
//	     packets: length (4 bytes, big-endian), bytes ⇄
//	UDP  U ◄──────────── heartbeats ──────────────────► P
//
// Who may be a peer: whoever holds a certificate of the VM's CA, and a key for it.
// Each VM has a CA of its own, which issues certificates for its replicas only, so
// the names in them decide nothing: a replica made anew on another host needs no
// new name. The ALPN protocol keeps a certificate that is used elsewhere too from
// being led here.
//
// The listener has one peer at a time. A second one is told to come again, unless
// it is the same process: then it knows better than we that its old connection is
// dead. A dead peer shows at once: the kernel of its host ends the connection, and
// answers a heartbeat with ICMP "port unreachable". That reaches connected UDP
// sockets only, so each side has one per peer. Beside it each side keeps its port
// bound as long as it lives: a port must not look dead between two connections.
//
// A backup may go live and then needs a backup itself. So it has an address of its
// own (Config.Address) from the start, where it tells who dials to come again, until
// Welcome: from then on it is the listener. A new backup always dials, and may do so
// at any time: it waits for its turn there.
package link

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tandem/world"
)

// Config says who we are and who may be the peer.
type Config struct {
	Certificate tls.Certificate // with its key
	Peers       *x509.CertPool  // the VM's CA
	Log         *slog.Logger    // diagnostics; nil for none
	Address     string          // of a dialer, HOST:PORT: where it listens after Welcome; empty for nowhere
	// ReceiveLimit bounds the bytes that were received and not yet fetched by Recv.
	// Beyond it the peer has to wait. Default: 32 MiB. One packet always fits.
	ReceiveLimit int
}

const (
	defaultReceiveLimit = 32 << 20
	lingerTime          = 500 * time.Millisecond // for the last words of a connection
	diagnosticsEvery    = time.Second            // of what strangers cause
)

// Link is a world.Channel. Its methods belong to one goroutine.
type Link struct {
	cfg   Config
	id    identity
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	inbox inbox

	listener *net.TCPListener // nil on the side of a dialer without an address
	welcomes atomic.Bool      // peers are let in, and nobody is dialed
	port     *net.UDPConn     // keeps our UDP port; nothing is read from it
	redial   chan struct{}    // nil on the listener's side
	born     time.Time
	last     atomic.Int64 // nanoseconds from born until something was heard

	// What Recv has shown to the caller. Packets are meant for that connection,
	// though there may be a newer one already.
	hurry   bool
	current *conn
	key     [32]byte
	beat    *beat

	mu         sync.Mutex
	live       *conn   // admitted, and not ended
	beats      []*beat // open; the last one is of the connection admitted last
	handshakes []*net.TCPConn
	diagnosed  time.Time
}

var _ world.Channel = (*Link)(nil)

// Listen waits for a peer at a TCP address, HOST:PORT, and takes heartbeats at the
// UDP port of the same number; port 0 picks one (Addr). It calls wake, which must
// not block, when Recv may have something.
func Listen(addr string, cfg Config, wake func()) (*Link, error) {
	l, err := newLink(cfg, wake)
	if err != nil {
		return nil, err
	}
	if err := l.bind(addr); err != nil {
		return nil, fmt.Errorf("listen for the peer at %s: %w", addr, err)
	}
	l.welcomes.Store(true)
	l.goes(l.accept)
	return l, nil
}

// Dial connects to the peer at HOST:PORT, and tries again until it succeeds or the
// link is closed. After that it dials only when Redial is called.
func Dial(addr string, cfg Config, wake func()) (*Link, error) {
	l, err := newLink(cfg, wake)
	if err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("the peer's address must be HOST:PORT: %w", err)
	}
	switch {
	case cfg.Address != "":
		if err := l.bind(cfg.Address); err != nil {
			return nil, fmt.Errorf("open this copy's own address %s: %w", cfg.Address, err)
		}
		l.goes(l.accept)
	default:
		if l.port, err = bindUDP(":0"); err != nil {
			return nil, fmt.Errorf("open a UDP port for heartbeats: %w", err)
		}
	}
	l.redial = make(chan struct{}, 1)
	l.Redial()
	l.goes(func() { l.dialer(addr) })
	return l, nil
}

func newLink(cfg Config, wake func()) (*Link, error) {
	if len(cfg.Certificate.Certificate) == 0 || cfg.Certificate.PrivateKey == nil {
		return nil, errors.New("the channel needs a certificate with its key")
	}
	if cfg.Peers == nil {
		return nil, errors.New("the channel needs the certificate of the VM's CA")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ReceiveLimit <= 0 {
		cfg.ReceiveLimit = defaultReceiveLimit
	}
	l := &Link{cfg: cfg, born: time.Now()}
	rand.Read(l.id[:])
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.inbox.init(cfg.ReceiveLimit, wake)
	return l, nil
}

// goes starts a goroutine that Close waits for.
func (l *Link) goes(f func()) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		f()
	}()
}

// Addr is the address of a listener, or of a dialer that has one; nil for others.
func (l *Link) Addr() net.Addr {
	if l.listener == nil {
		return nil
	}
	return l.listener.Addr()
}

// Send queues a packet of at most world.MaxPacket bytes; it keeps b.
func (l *Link) Send(b []byte) {
	if l.current != nil {
		l.current.out.send(b)
	}
}

// Flush lets go what was queued. It doesn't wait.
func (l *Link) Flush() {
	if l.current != nil {
		l.current.out.flush()
	}
}

// Backlog is the number of bytes queued and not yet taken by the kernel.
func (l *Link) Backlog() int {
	if l.current == nil {
		return 0
	}
	return l.current.out.backlog()
}

// Hurry makes Recv look at the connection itself, for a system call each time.
func (l *Link) Hurry(on bool) { l.hurry = on }

// Recv returns the next event. Packets, and the end, of a connection that was hung
// up are not returned. An end always has its reason in Err.
func (l *Link) Recv() (world.ChannelEvent, bool) {
	for {
		it, ok := l.inbox.get()
		if !ok {
			return l.glance()
		}
		switch it.ev.Kind {
		case world.Connected:
			l.show(it.conn)
		case world.Packet, world.Breath:
			if it.conn != l.current {
				continue
			}
		case world.Disconnected:
			if it.conn != l.current {
				continue
			}
			l.current = nil
		}
		return it.ev, true
	}
}

// glance is Recv when the inbox is empty.
func (l *Link) glance() (world.ChannelEvent, bool) {
	if c := l.current; c != nil && (l.hurry || c.rest) {
		if b, ok := c.glance(); ok {
			return world.ChannelEvent{Kind: world.Packet, Data: b}, true
		}
	}
	return world.ChannelEvent{}, false
}

// show makes c the connection that the caller means. Its heartbeats go on after
// its end.
func (l *Link) show(c *conn) {
	if l.beat != nil && l.beat != c.beat {
		l.beat.close()
	}
	l.current, l.key, l.beat = c, c.key, c.beat
}

// Beat sends a datagram to the peer of the last connection, if the kernel takes
// it at once.
func (l *Link) Beat(b []byte) {
	if l.beat != nil {
		l.beat.send(b)
	}
}

// Key is derived from the TLS session of the last connection (RFC 8446 §7.5).
func (l *Link) Key() [32]byte { return l.key }

// Redial makes the dialer's side dial, if there is no connection; it tries until
// it succeeds.
func (l *Link) Redial() {
	if l.welcomes.Load() {
		return
	}
	select {
	case l.redial <- struct{}{}:
	default: // asked already
	}
}

// Welcome makes this side the listener: whoever dials is let in from now on, and
// nobody is dialed any more.
func (l *Link) Welcome() bool {
	if l.listener == nil {
		return false
	}
	l.welcomes.Store(true)
	return true
}

// Hangup ends the connection without waiting. What is queued still leaves if the
// peer takes it within half a second.
func (l *Link) Hangup() {
	c := l.current
	if c == nil {
		return
	}
	l.current = nil
	l.leave(c)
	c.out.flush()
	c.hangup()
	l.inbox.refresh()
}

// leave makes room for another connection.
func (l *Link) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == c {
		l.live = nil
	}
}

// Close hangs up, gives up the ports and waits for all that it has started: about
// as long as a Hangup may take.
func (l *Link) Close() error {
	l.stop()
	if l.listener != nil {
		l.listener.Close()
	}
	l.mu.Lock()
	live, beats := l.live, slices.Clone(l.beats)
	for _, h := range l.handshakes {
		h.Close()
	}
	l.mu.Unlock()
	if live != nil {
		live.hangup()
	}
	l.inbox.close()
	for _, b := range beats {
		b.close()
	}
	l.wg.Wait()
	return l.port.Close()
}

// diagnose tells the operator what a peer, or a stranger, did. Strangers must not
// fill the diagnostics.
func (l *Link) diagnose(message string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	quiet := now.Sub(l.diagnosed) < diagnosticsEvery
	if !quiet {
		l.diagnosed = now
	}
	l.mu.Unlock()
	if !quiet {
		l.cfg.Log.Warn(message, args...)
	}
}
