// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"

	"tandem/world"
)

// Link is the network between two processes. It makes their logging channel and
// carries its heartbeats.
type Link struct {
	Delay  [2]world.Time // least and greatest, of one way
	Loss   int           // one datagram in so many is lost; 0 for none
	Redial world.Time    // between attempts to connect

	w     *World
	ends  [2]*End
	from  int     // the end that dials
	cut   [2]bool // what goes to end i stays on the way
	count uint64  // of connections
	stuck [2][]func()
}

// End is one process's end of a Link; it implements world.Channel.
type End struct {
	l     *Link
	side  int
	owner *Process

	conn    uint64 // of the present connection, 0 for none
	with    *End   // whose it is
	open    bool   // peers are let in
	dialing bool
	out     [][]byte
	flight  int        // bytes sent and not arrived
	last    world.Time // the newest arrival arranged at the other end
	inbox   []item
}

type item struct {
	conn uint64
	ev   world.ChannelEvent
}

// Link returns a link between two processes. End 1 dials.
func (w *World) Link(listener, dialer *Process) *Link {
	l := &Link{Delay: [2]world.Time{30 * Microsecond, 200 * Microsecond}, Redial: 2 * Millisecond, w: w, from: 1}
	for i, p := range []*Process{listener, dialer} {
		l.ends[i] = &End{l: l, side: i, owner: p}
		p.links = append(p.links, l.ends[i])
	}
	l.ends[0].open = true
	return l
}

// Rewire gives the link another process, which dials, in place of one that is gone.
func (l *Link) Rewire(dialer *Process) *End {
	for i, e := range l.ends {
		if e.owner.Gone() {
			l.from = i
		}
	}
	e := &End{l: l, side: l.from, owner: dialer}
	l.ends[l.from], l.stuck[l.from] = e, nil
	dialer.links = append(dialer.links, e)
	return e
}

// End returns an end.
func (l *Link) End(i int) *End { return l.ends[i] }

// Connect makes the first connection.
func (l *Link) Connect() { l.ends[l.from].Redial() }

// Cut keeps all that goes to one end, or with both set in both directions, from
// arriving; TCP waits, datagrams are lost.
func (l *Link) Cut(to0, to1 bool) {
	l.w.Trace("cut %v %v", to0, to1)
	l.cut = [2]bool{to0, to1}
	for i := range l.cut {
		if l.cut[i] {
			continue
		}
		stuck := l.stuck[i]
		l.stuck[i] = nil
		for _, f := range stuck {
			f()
		}
	}
}

// Reset breaks the connection: both ends are told, what is on its way is lost.
func (l *Link) Reset() {
	l.w.Trace("the channel is reset")
	for _, e := range l.ends {
		e.end(nil)
	}
	l.count++ // what is on its way belongs to no connection
}

func (l *Link) delay() world.Time { return l.w.chance.Between(l.Delay[0], l.Delay[1]) }

func (e *End) peer() *End { return e.l.ends[1-e.side] }

func (e *End) put(ev world.ChannelEvent) {
	e.inbox = append(e.inbox, item{e.conn, ev})
	e.owner.Wake()
}

// end takes the connection from this end and tells its process, unless that is nil's.
func (e *End) end(err error) {
	if e.conn == 0 {
		return
	}
	e.put(world.ChannelEvent{Kind: world.Disconnected, Err: err})
	e.conn, e.out, e.flight = 0, nil, 0
}

// arrive calls f at the other end after the delay, in order; a cut stops it.
func (e *End) arrive(f func()) {
	to := e.peer().side
	e.last = max(e.last, e.l.w.now+e.l.delay())
	e.l.w.at(e.last, func() {
		if e.l.cut[to] || len(e.l.stuck[to]) > 0 {
			e.l.stuck[to] = append(e.l.stuck[to], f)
			return
		}
		f()
	})
}

// Send implements world.Channel.
func (e *End) Send(b []byte) {
	if e.conn == 0 {
		return
	}
	if len(b) > world.MaxPacket {
		e.l.w.Breach("%s sends a packet of %d bytes", e.owner.Name, len(b))
	}
	e.out = append(e.out, b)
	e.flight += len(b)
}

// Flush implements world.Channel.
func (e *End) Flush() {
	conn := e.conn
	for _, b := range e.out {
		e.arrive(func() {
			if e.conn == conn {
				e.flight -= len(b)
			}
			to := e.peer()
			if to.conn != conn {
				return
			}
			if to.owner.Gone() {
				return
			}
			to.put(world.ChannelEvent{Kind: world.Packet, Data: b})
		})
	}
	e.out = nil
}

// Backlog implements world.Channel.
func (e *End) Backlog() int { return e.flight }

// Hurry implements world.Channel: nobody is told late here.
func (e *End) Hurry(bool) {}

// Recv implements world.Channel.
func (e *End) Recv() (ev world.ChannelEvent, ok bool) {
	if len(e.inbox) == 0 {
		return ev, false
	}
	ev = e.inbox[0].ev
	e.inbox = e.inbox[1:]
	return ev, true
}

// Beat implements world.Channel.
func (e *End) Beat(b []byte) {
	l, to := e.l, e.peer()
	if l.w.chance.OneIn(l.Loss) {
		return
	}
	l.w.After(l.delay(), func() {
		switch {
		case l.cut[to.side] || to.owner.silent:
		case !to.owner.Gone():
			to.put(world.ChannelEvent{Kind: world.Datagram, Data: b})
		case !l.cut[e.side]:
			l.w.After(l.delay(), func() { e.put(world.ChannelEvent{Kind: world.Unreachable}) })
		}
	})
}

// Key implements world.Channel.
func (e *End) Key() (key [32]byte) {
	binary.LittleEndian.PutUint64(key[:], e.conn)
	return key
}

// Redial implements world.Channel.
func (e *End) Redial() {
	if e != e.l.ends[e.l.from] || e.open || e.dialing {
		return
	}
	e.dialing = true
	e.l.w.After(e.l.delay(), e.l.dial)
}

func (l *Link) dial() {
	a, b := l.ends[1-l.from], l.ends[l.from]
	switch {
	case !b.dialing || b.owner.Gone() || b.open:
		return
	case !a.open || a.conn != 0 && a.with != b || a.owner.Gone() || a.owner.paused || b.owner.paused || l.cut[0] || l.cut[1]:
		l.w.After(l.Redial, l.dial)
		return
	}
	b.dialing = false
	l.count++
	for _, e := range l.ends {
		e.end(nil)
		e.conn, e.with = l.count, e.peer()
		e.put(world.ChannelEvent{Kind: world.Connected})
	}
}

// Welcome implements world.Channel.
func (e *End) Welcome() bool {
	e.open = true
	return true
}

// Hangup implements world.Channel.
func (e *End) Hangup() {
	conn := e.conn
	if conn == 0 {
		return
	}
	e.Flush()
	if !e.owner.silent {
		e.arrive(func() {
			if to := e.peer(); to.conn == conn {
				to.end(nil)
			}
		})
	}
	e.conn, e.flight = 0, 0
	kept := e.inbox[:0]
	for _, it := range e.inbox {
		if it.conn != conn || it.ev.Kind == world.Datagram || it.ev.Kind == world.Unreachable {
			kept = append(kept, it)
		}
	}
	e.inbox = kept
}
