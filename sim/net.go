// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"tandem/world"
)

// Net is the network between processes. It makes their logging channels, each a
// stream that TCP and TLS keep whole and in order, and carries their heartbeats,
// which may come late, twice, in any order, spoilt or not at all.
type Net struct {
	Delay  [2]world.Time // least and greatest, of one way
	Redial world.Time    // between attempts to connect
	// Blocked reports that nothing sent by one process reaches another. Retry is to
	// be called when that changes.
	Blocked func(from, to *Process) bool
	// Only reports the same of streams, or of heartbeats, alone.
	Only func(from, to *Process) (streams, beats bool)

	// One datagram in so many is lost, comes twice, or is spoilt; one of all packets is
	// Late by up to a while, as after a loss in TCP; and one packet of a stream is
	// Broken, which TLS notices: its connection ends. 0 for none.
	Loss, Twice, Spoil, Late, Broken int
	LateBy                           world.Time

	w     *World
	count uint64 // of connections
	conns []*conn
}

// conn is a connection between two ends.
type conn struct {
	id   uint64
	ends [2]*End
	way  [2]lane // to each end
}

// lane is one direction of a connection.
type lane struct {
	last  world.Time // the newest arrival arranged
	stuck []func()   // what would have arrived
}

// End is one process's end of a Net; it implements world.Channel.
type End struct {
	n     *Net
	owner *Process

	to      *End // that it dials
	open    bool // peers are let in, nobody is dialed
	dialing bool
	conn    *conn // the present one
	last    *conn // that was shown last: of the key, and of heartbeats
	out     [][]byte
	flight  int // bytes sent and not arrived
	inbox   []item
}

type item struct {
	conn *conn
	ev   world.ChannelEvent
}

// Net returns a network that joins nobody yet.
func (w *World) Net() *Net {
	return &Net{Delay: [2]world.Time{30 * Microsecond, 200 * Microsecond}, Redial: 2 * Millisecond,
		Blocked: func(_, _ *Process) bool { return false }, Only: func(_, _ *Process) (_, _ bool) { return }, w: w}
}

func (n *Net) stuck(from, to *Process) bool {
	streams, _ := n.Only(from, to)
	return streams || n.Blocked(from, to)
}

func (n *Net) drops(from, to *Process) bool {
	_, beats := n.Only(from, to)
	return beats || n.Blocked(from, to)
}

// Join gives a process an end. One that dials has somebody to dial; one that listens
// has nil.
func (n *Net) Join(p *Process, dials *End) *End {
	e := &End{n: n, owner: p, to: dials, open: dials == nil}
	p.links = append(p.links, e)
	return e
}

// Retry lets go what a block held back and holds no longer.
func (n *Net) Retry() {
	kept := n.conns[:0]
	for _, c := range n.conns {
		for i := range c.way {
			if n.stuck(c.ends[1-i].owner, c.ends[i].owner) {
				continue
			}
			stuck := c.way[i].stuck
			c.way[i].stuck = nil
			for _, f := range stuck {
				f()
			}
		}
		if c.ends[0].conn == c || c.ends[1].conn == c {
			kept = append(kept, c)
		}
	}
	clear(n.conns[len(kept):])
	n.conns = kept
}

func (n *Net) delay() world.Time {
	d := n.w.chance.Between(n.Delay[0], n.Delay[1])
	if n.w.chance.OneIn(n.Late) {
		n.w.Mark("a packet is late")
		d += n.w.chance.Between(0, n.LateBy)
	}
	return d
}

func (c *conn) peer(e *End) *End {
	if c.ends[0] == e {
		return c.ends[1]
	}
	return c.ends[0]
}

// to is the lane to an end.
func (c *conn) to(e *End) *lane {
	if c.ends[0] == e {
		return &c.way[0]
	}
	return &c.way[1]
}

func (c *conn) reset(err error) {
	for _, e := range c.ends {
		if e.conn == c {
			e.end(err)
		}
	}
}

func (e *End) put(c *conn, ev world.ChannelEvent) {
	e.inbox = append(e.inbox, item{c, ev})
	e.owner.Wake()
}

// end takes the connection from this end and tells its process.
func (e *End) end(err error) {
	if e.conn == nil {
		return
	}
	e.put(e.conn, world.ChannelEvent{Kind: world.Disconnected, Err: err})
	e.conn, e.out, e.flight = nil, nil, 0
}

// arrive calls f at an end after the delay, in order; a block stops it.
func (c *conn) arrive(to *End, f func()) {
	n, l, from := to.n, c.to(to), c.peer(to)
	l.last = max(l.last, n.w.now+n.delay())
	n.w.at(l.last, func() {
		if len(l.stuck) > 0 || n.stuck(from.owner, to.owner) {
			l.stuck = append(l.stuck, f)
			return
		}
		f()
	})
}

// Send implements world.Channel.
func (e *End) Send(b []byte) {
	e.owner.touch()
	if e.conn == nil {
		return
	}
	if len(b) > world.MaxPacket {
		e.n.w.Breach("%s sends a packet of %d bytes", e.owner.Name, len(b))
	}
	e.out = append(e.out, b)
	e.flight += len(b)
}

var errSpoilt = errors.New("tls: bad record MAC")

// Flush implements world.Channel.
func (e *End) Flush() {
	e.owner.touch()
	c := e.conn
	for _, b := range e.out {
		to := c.peer(e)
		spoilt := e.n.w.chance.OneIn(e.n.Broken)
		c.arrive(to, func() {
			if e.conn == c {
				e.flight -= len(b)
			}
			switch {
			case to.owner.silent:
			case to.conn != c || to.owner.Gone():
				e.refuse(c)
			case spoilt:
				e.n.w.Mark("a stream is spoilt")
				e.n.w.Trace("what %s sends to %s is spoilt", e.owner.Name, to.owner.Name)
				c.reset(errSpoilt)
			default:
				to.put(c, world.ChannelEvent{Kind: world.Packet, Data: b})
			}
		})
	}
	e.out = nil
}

// refuse is what TCP does where a connection is over: it resets the sender's side.
func (e *End) refuse(c *conn) {
	c.arrive(e, func() {
		if e.conn == c {
			e.end(nil)
		}
	})
}

// Backlog implements world.Channel.
func (e *End) Backlog() int { return e.flight }

// Hurry implements world.Channel: nobody is told late here.
func (e *End) Hurry(bool) {}

// Recv implements world.Channel.
func (e *End) Recv() (ev world.ChannelEvent, ok bool) {
	e.owner.touch()
	if len(e.inbox) == 0 {
		return ev, false
	}
	it := e.inbox[0]
	e.inbox = e.inbox[1:]
	if it.ev.Kind == world.Connected {
		e.last = it.conn
	}
	return it.ev, true
}

// Beat implements world.Channel.
func (e *End) Beat(b []byte) {
	e.owner.touch()
	c := e.last
	if c == nil {
		return
	}
	n := e.n
	switch {
	case n.w.chance.OneIn(n.Loss):
		return
	case n.w.chance.OneIn(n.Twice):
		n.w.Mark("a heartbeat comes twice")
		e.datagram(c, b)
	case n.w.chance.OneIn(n.Spoil):
		n.w.Mark("a heartbeat is spoilt")
		b = bytes.Clone(b)
		b[n.w.chance.IntN(len(b))] ^= 1 << n.w.chance.IntN(8)
	}
	e.datagram(c, b)
}

func (e *End) datagram(c *conn, b []byte) {
	n, to := e.n, c.peer(e)
	n.w.After(n.delay(), func() {
		switch {
		case n.drops(e.owner, to.owner) || to.owner.silent:
		case !to.owner.Gone():
			to.put(c, world.ChannelEvent{Kind: world.Datagram, Data: b})
		case !n.drops(to.owner, e.owner):
			n.w.After(n.delay(), func() { e.put(c, world.ChannelEvent{Kind: world.Unreachable}) })
		}
	})
}

// Key implements world.Channel.
func (e *End) Key() (key [32]byte) {
	if e.last != nil {
		binary.LittleEndian.PutUint64(key[:], e.last.id)
	}
	return key
}

// Redial implements world.Channel.
func (e *End) Redial() {
	e.owner.touch()
	if e.open || e.dialing {
		return
	}
	e.dialing = true
	e.n.w.After(e.n.delay(), e.dial)
}

// dial connects to the end that is dialed, now or later.
func (e *End) dial() {
	a, n := e.to, e.n
	switch {
	case !e.dialing || e.owner.Gone() || e.open:
		return
	case !a.open || a.owner.Gone() || a.owner.paused || e.owner.paused,
		a.conn != nil && a.conn.peer(a) != e,
		n.stuck(e.owner, a.owner) || n.stuck(a.owner, e.owner):
		if a.open && a.conn != nil && a.conn.peer(a) != e {
			n.w.Mark("a second backup has to wait")
		}
		n.w.After(n.Redial, e.dial)
		return
	}
	e.dialing = false
	n.count++
	c := &conn{id: n.count, ends: [2]*End{a, e}}
	n.conns = append(slices.DeleteFunc(n.conns, func(c *conn) bool {
		return c.ends[0].conn != c && c.ends[1].conn != c && len(c.way[0].stuck)+len(c.way[1].stuck) == 0
	}), c)
	for _, e := range c.ends {
		e.end(nil)
		e.conn = c
		e.put(c, world.ChannelEvent{Kind: world.Connected})
	}
}

// Welcome implements world.Channel.
func (e *End) Welcome() bool {
	e.owner.touch()
	e.open = true
	return true
}

// Hangup implements world.Channel.
func (e *End) Hangup() {
	c := e.conn
	if c == nil {
		return
	}
	e.Flush()
	if to := c.peer(e); !e.owner.silent {
		c.arrive(to, func() {
			if to.conn == c {
				to.end(nil)
			}
		})
	}
	e.conn, e.flight = nil, 0
	e.inbox = slices.DeleteFunc(e.inbox, func(it item) bool {
		return it.conn == c && it.ev.Kind != world.Datagram && it.ev.Kind != world.Unreachable
	})
}

// Reset breaks the process's connection: both ends are told, what is on its way is lost.
func (e *End) Reset() {
	if c := e.conn; c != nil {
		e.n.w.Trace("the channel of %s is reset", e.owner.Name)
		c.reset(nil)
	}
}
