// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/world"
)

// beat is the UDP socket connected to one peer: the kernel reports ICMP "port
// unreachable" (RFC 1122 §4.1.3.3) as ECONNREFUSED to the next read or write.
type beat struct {
	link  *Link
	conn  *net.UDPConn
	raw   syscall.RawConn
	begun sync.Once
	done  chan struct{}
	end   sync.Once
}

const maxDatagram = 2048 // bytes; more is cut off

// bindUDP binds a port to hold it. Other sockets of ours may share it afterwards,
// not before: so the kernel can't give us a port that another process holds.
func bindUDP(addr string) (*net.UDPConn, error) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	u := c.(*net.UDPConn)
	u.SetReadBuffer(1) // the least; nothing is read
	if err := share(u); err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

func share(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if outer := raw.Control(func(fd uintptr) { err = sharePort(fd) }); outer != nil {
		return outer
	}
	return err
}

func sharePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// beatTo returns the socket from our port at local to the peer's at remote: the
// last one if it is that, since of two that are alike only one would be given
// what arrives.
func (l *Link) beatTo(local, remote netip.AddrPort) (*beat, error) {
	l.mu.Lock()
	n := len(l.beats)
	if n > 0 && l.beats[n-1].is(local, remote) {
		defer l.mu.Unlock()
		return l.beats[n-1], nil
	}
	l.mu.Unlock()
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(local),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			if outer := c.Control(func(fd uintptr) { err = sharePort(fd) }); outer != nil {
				return outer
			}
			return err
		},
	}
	c, err := d.DialContext(context.Background(), "udp", remote.String())
	if err != nil {
		return nil, err
	}
	b := &beat{link: l, conn: c.(*net.UDPConn), done: make(chan struct{})}
	if b.raw, err = b.conn.SyscallConn(); err != nil {
		c.Close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beats = append(l.beats, b)
	return b, nil
}

func (b *beat) is(local, remote netip.AddrPort) bool {
	return unmap(b.conn.LocalAddr()) == local && unmap(b.conn.RemoteAddr()) == remote
}

// unmap returns an address as other sockets print it.
func unmap(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// start begins to read, once.
func (b *beat) start() { b.begun.Do(func() { b.link.goes(b.read) }) }

// spare closes b if no connection has used it.
func (b *beat) spare() { b.begun.Do(b.close) }

func (b *beat) read() {
	buf := make([]byte, maxDatagram)
	for {
		n, err := b.conn.Read(buf)
		switch {
		case err == nil:
			b.link.heard()
			b.link.inbox.offer(world.ChannelEvent{Kind: world.Datagram, Data: append([]byte(nil), buf[:n]...)})
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			b.link.inbox.offer(world.ChannelEvent{Kind: world.Unreachable})
		default: // no route, say, which proves nothing about the peer
			select {
			case <-b.done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// send sends a datagram or drops it.
func (b *beat) send(p []byte) {
	err := b.try(p)
	if err == unix.ECONNREFUSED {
		// The kernel told us of an earlier one, instead of sending this.
		b.link.inbox.offer(world.ChannelEvent{Kind: world.Unreachable})
		b.try(p)
	}
}

func (b *beat) try(p []byte) (err error) {
	b.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return err
}

func (b *beat) close() {
	b.end.Do(func() {
		close(b.done)
		b.conn.Close()
		b.link.mu.Lock()
		defer b.link.mu.Unlock()
		b.link.beats = slices.DeleteFunc(b.link.beats, func(other *beat) bool { return other == b })
	})
}
