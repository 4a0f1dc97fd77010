// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tandem/world"
)

// conn is one connection to the peer, from the verdict of the handshake on.
type conn struct {
	link   *Link
	tls    *tls.Conn
	socket *socket
	peer   identity
	name   string // its address
	key    [32]byte
	beat   *beat
	out    sender

	turn    sync.Mutex // of who reads
	packets packetReader
	rest    bool // Recv has read, and not to the end; its own

	hung  atomic.Bool   // the caller is done with it
	over  atomic.Bool   // it ended by itself
	done  chan struct{} // closed when the socket is: ends the writer
	ended chan struct{} // closed when its end is in the inbox
}

func newConn(l *Link, t *tls.Conn, s *socket) *conn {
	c := &conn{
		link: l, tls: t, socket: s, name: s.RemoteAddr().String(),
		done: make(chan struct{}), ended: make(chan struct{}),
	}
	c.out.tls, c.out.socket, c.out.kick = t, s, make(chan struct{}, 1)
	return c
}

// start announces the connection and lets it run. It may have to wait for room in
// the inbox.
func (c *conn) start() {
	l := c.link
	c.socket.SetDeadline(time.Time{})
	c.socket.goLive(c.out.rouse)
	l.heard()
	l.goes(func() { c.out.write(c.done) })
	l.goes(c.breathe)
	l.goes(func() {
		l.inbox.put(item{conn: c, ev: world.ChannelEvent{Kind: world.Connected}})
		c.beat.start()
		c.run()
	})
	if l.ctx.Err() != nil { // closed in the meantime
		c.hangup()
	}
}

// run reads packets until the connection ends.
func (c *conn) run() {
	err := c.read()
	end := item{conn: c, ev: world.ChannelEvent{
		Kind: world.Disconnected, Err: fmt.Errorf("channel to %s: %w", c.name, explainEnd(err)),
	}}
	c.over.Store(true) // the caller may redial as soon as it knows
	c.link.inbox.put(end)
	c.socket.Close()
	close(c.done)
	c.link.leave(c)
	close(c.ended)
}

// read waits for what arrives and takes it in. Recv may be faster.
func (c *conn) read() error {
	for {
		if err := c.socket.await(); err != nil {
			return err
		}
		switch hung, err := c.pull(); {
		case hung:
			return c.discard()
		case !errors.Is(err, syscall.EAGAIN):
			return err
		}
	}
}

// pull takes in all that is there.
func (c *conn) pull() (hung bool, err error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	for {
		b, err := c.packets.next(c.tls)
		if err != nil {
			return false, err
		}
		c.link.heard()
		it := item{conn: c, ev: world.ChannelEvent{Kind: world.Packet, Data: b}}
		if !c.link.inbox.put(it) {
			return true, nil
		}
	}
}

// glance takes a packet if one is there, on the goroutine of Recv: one that waits
// for a processor to be told so on may wait for milliseconds on a busy host. The
// inbox is empty. An end is left to read, which hears of it too.
func (c *conn) glance() (b []byte, ok bool) {
	if !c.turn.TryLock() {
		return nil, false
	}
	defer c.turn.Unlock()
	if c.link.inbox.count.Load() > 0 { // read was faster, and what it has comes first
		return nil, false
	}
	b, err := c.packets.next(c.tls)
	if c.rest = err == nil; c.rest {
		c.link.heard()
	}
	return b, c.rest
}

// discard reads on after a hangup. A socket that is closed with something unread is
// reset, and our last words with it: so the peer must have them first.
func (c *conn) discard() error {
	b := make([]byte, recordSize)
	for {
		_, err := c.tls.Read(b)
		if errors.Is(err, syscall.EAGAIN) {
			err = c.socket.await()
		}
		if err != nil {
			return err
		}
	}
}

// hangup lets what was flushed leave and ends the connection behind it.
func (c *conn) hangup() {
	c.hung.Store(true)
	c.socket.SetDeadline(time.Now().Add(lingerTime))
	c.out.close()
}

func explainEnd(err error) error {
	switch {
	case err == io.EOF:
		return errors.New("the peer ended it")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the peer's process is gone, in the middle of a packet")
	case errors.Is(err, syscall.ECONNRESET):
		return errors.New("the peer's process is gone: connection reset")
	}
	return err
}
