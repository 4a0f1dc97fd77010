// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/migrate"
	"tandem/replay"
	"tandem/world"
)

// Packets of the channel begin with a byte that says what follows: a message of
// package ft, a part of a clone, or the clone's last part behind the Seq of the
// last entry that the machine contains (8 bytes, little-endian), or a part of a disk
// (resync.go), in either direction.
const (
	packetMessage = 0
	packetPart    = 1
	packetLast    = 2
	packetDisk    = 3
)

var codec = ft.Codec{Append: replay.AppendBatch, Read: replay.ReadBatch}

func (r *Replica) sendMessage(m ft.Message) {
	b, err := ft.AppendMessage([]byte{packetMessage}, m, codec)
	if err != nil {
		r.fail(fmt.Errorf("encode a message for the peer: %w", err))
		return
	}
	r.stats.LogBytes += uint64(len(b))
	r.w.Channel.Send(b)
}

// hurryFor is how long after a packet another one is looked out for: where one
// output was held others follow, and each look costs a system call.
const hurryFor = 300 * ft.Microsecond

// drainChannel takes in all that arrived, before the detector judges; but only
// one part of a clone, which takes milliseconds. It reports whether it left some.
func (r *Replica) drainChannel() (more bool) {
	if r.w.Channel == nil {
		return false
	}
	r.w.Channel.Hurry(len(r.held) > 0 && r.p != nil || r.now < r.heard+hurryFor)
	for r.done == nil {
		ev, ok := r.w.Channel.Recv()
		if !ok {
			return false
		}
		r.now = r.clock()
		switch ev.Kind {
		case world.Connected:
			r.connected()
		case world.Packet:
			r.heard = r.now
			r.packet(ev.Data)
			if r.target != nil {
				r.act()
				return true
			}
		case world.Datagram:
			r.heartbeat(ev.Data)
		case world.Disconnected:
			r.disconnected(ev.Err)
		case world.Refused:
			if r.p == nil && r.b == nil {
				r.fail(ev.Err)
			} else { // the peer was lost already: the detector decides
				r.report(Event{Kind: Trouble, Text: ev.Err.Error()})
			}
		case world.Breath:
			if r.p != nil {
				r.p.Breath(r.now)
			} else if r.b != nil {
				r.b.Breath(r.now)
			}
		case world.Unreachable:
			if r.p != nil {
				r.p.Unreachable(r.now)
			} else if r.b != nil {
				r.b.Unreachable(r.now)
			}
		}
		r.act()
	}
	return false
}

func (r *Replica) connected() {
	r.key = r.w.Channel.Key()
	switch {
	case r.b != nil:
		r.b.Connected(r.now)
	case r.p != nil && r.p.State() == ft.Solo:
		r.attach()
	case r.p != nil:
		r.p.Connected(r.now)
	default: // the primary speaks first, if it lives
		r.redial = r.now + r.cfg.FT.Stall
	}
}

func (r *Replica) disconnected(err error) {
	r.endClone()
	if err != nil {
		r.report(Event{Kind: Trouble, Text: "the logging channel ended: " + err.Error()})
	}
	switch {
	case r.p != nil:
		r.p.Disconnected(r.now)
	case r.b != nil:
		r.b.Disconnected(r.now)
	default:
		r.redial = r.now + redialEvery
	}
}

func (r *Replica) heartbeat(b []byte) {
	h, err := ft.DecodeHeartbeat(b, &r.key)
	if err != nil {
		return // anybody can send a datagram
	}
	if r.p != nil {
		r.p.Heartbeat(r.now, h)
	} else if r.b != nil {
		r.b.Heartbeat(r.now, h)
	}
}

func (r *Replica) packet(b []byte) {
	if r.b != nil {
		r.b.Heard(r.now)
	}
	var err error
	switch {
	case len(b) == 0:
		err = errors.New("an empty packet")
	case b[0] == packetMessage:
		err = r.message(b[1:])
	case r.b != nil && b[0] == packetPart:
		err = r.clonePart(b[1:])
	case r.b != nil && b[0] == packetLast && len(b) > 8:
		err = r.cloneLast(event.Seq(binary.LittleEndian.Uint64(b[1:])), b[9:])
	case r.b != nil && b[0] == packetDisk:
		err = r.diskPart(b[1:])
	case r.p != nil && b[0] == packetDisk:
		err = r.resyncReply(b[1:])
	default:
		err = fmt.Errorf("a packet of kind %d", b[0])
	}
	if err == nil {
		return
	}
	err = fmt.Errorf("the peer sent what can't be used: %w", err)
	switch {
	case r.b != nil && r.rep == nil, r.b == nil && r.p == nil:
		r.fail(err)
	default: // the protocol decides what the end of the channel means
		r.w.Channel.Hangup()
		r.disconnected(err)
	}
}

func (r *Replica) message(b []byte) error {
	m, err := ft.DecodeMessage(b, codec)
	if err != nil {
		return err
	}
	if hello, ok := m.(ft.Hello); ok && r.p == nil && r.b == nil {
		// The primary speaks first: only now is it known which epoch it owns.
		if r.b, err = ft.NewBackup(r.now, r.cfg.FT, hello.Epoch-1); err != nil {
			return err
		}
		r.b.Connected(r.now)
	}
	if bye, ok := m.(ft.Bye); ok && bye.Why == ft.Occupied && r.b != nil && r.m == nil && r.target == nil {
		r.report(Event{Kind: Trouble, Text: bye.Text})
		r.w.Channel.Hangup()
		r.b, r.redial = nil, r.now+redialEvery
		return nil
	}
	switch {
	case r.p != nil:
		r.p.Receive(r.now, m)
	case r.b != nil:
		r.b.Receive(r.now, m)
	}
	return nil
}

func (r *Replica) clonePart(part []byte) error {
	if r.target == nil {
		if r.rep != nil {
			return errors.New("a second clone")
		}
		target, err := migrate.NewTarget(r.newRAM)
		if err != nil {
			return err
		}
		r.target = target
	}
	_, err := r.target.Part(part)
	return err
}

func (r *Replica) newRAM(size uint64) (b []byte, err error) {
	r.ram, err = r.w.RAM(size)
	return r.ram, err
}

// cloneLast completes the machine and begins to replay.
func (r *Replica) cloneLast(seq event.Seq, part []byte) error {
	if r.target == nil {
		return errors.New("the end of a clone that never began")
	}
	m, err := r.target.Part(part)
	if err != nil {
		return err
	}
	if m == nil {
		return errors.New("the clone is not whole")
	}
	if r.w.Engine != nil {
		if err := r.w.Engine(m); err != nil {
			return err
		}
	}
	r.m, r.target = m, nil
	r.rep = replay.NewReplayer(m, seq, m.LastOutput())
	r.rep.Applied, r.rep.Ready = r.applied, r.ready
	r.pace.start(m, r.now)
	r.noteMedia()
	r.tellLoaded()
	return nil
}
