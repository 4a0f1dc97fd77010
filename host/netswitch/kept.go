// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"time"

	"tandem/machine/event"
	"tandem/vswitch"
)

const (
	keptBytes = 2 << 20         // for one network device: the window of some connections
	keptFor   = 5 * time.Second // a frame; later it is of no use to anybody
)

// kept are the frames for one network device that are not known to be logged. When
// there is no room the oldest gives way: it is the likeliest to be logged.
type kept struct {
	frames []keptFrame
	bytes  int
	gone   uint64 // frames that came before the first of these
}

type keptFrame struct {
	event.Frame
	at time.Time
}

func (k *kept) add(now time.Time, f event.Frame) {
	k.frames = append(k.frames, keptFrame{f, now})
	k.bytes += len(f.Data) + frameCost
	n := 0
	for k.bytes > keptBytes {
		k.bytes -= len(k.frames[n].Data) + frameCost
		n++
	}
	k.drop(n)
}

// logged forgets the first n frames that ever came. It reports false if fewer did.
func (k *kept) logged(n uint64) bool {
	if n > k.gone+uint64(len(k.frames)) {
		return false
	}
	if n > k.gone {
		some := int(n - k.gone)
		for _, f := range k.frames[:some] {
			k.bytes -= len(f.Data) + frameCost
		}
		k.drop(some)
	}
	return true
}

func (k *kept) drop(n int) {
	clear(k.frames[:n])
	k.frames = k.frames[n:]
	k.gone += uint64(n)
}

// absence stands for a port of a protected VM that is gone, until the next comes.
type absence struct {
	vm    string
	since time.Time
	kept  kept
}

// leave keeps what was meant for a port that is gone; mu is held.
func (s *Server) leave(p *serverPort) {
	now := time.Now()
	for m, a := range s.absent {
		if now.Sub(a.since) > keptFor {
			delete(s.absent, m)
		}
	}
	if p.keep && p.mac != (vswitch.MAC{}) && len(s.absent) < vswitch.MaxPorts {
		s.absent[p.mac] = &absence{p.vm, now, p.kept}
	}
}

// forAbsent keeps a frame for a device whose port is gone. Nobody else has that
// address, so the frame is not flooded; mu is held.
func (s *Server) forAbsent(f event.Frame, own bool) bool {
	if len(s.absent) == 0 {
		return false
	}
	a := s.absent[vswitch.MAC(f.Data[:6])]
	if a == nil {
		return false
	}
	now := time.Now()
	if now.Sub(a.since) > keptFor {
		delete(s.absent, vswitch.MAC(f.Data[:6]))
		return false
	}
	a.kept.add(now, owned(f, own))
	return true
}

// owned is a frame whose data nobody will write to.
func owned(f event.Frame, own bool) event.Frame {
	if !own {
		f.Data = append([]byte(nil), f.Data...)
	}
	return f
}

// inherit gives a port that opens what was kept for its device: by ports that it
// replaces, since they went, and while it was opening; mu is held.
func (s *Server) inherit(p *serverPort, old []*serverPort) {
	var all []keptFrame
	for _, o := range old {
		if o.mac == p.mac && o.vm == p.vm {
			all = append(all, o.kept.frames...)
			o.kept = kept{}
		}
	}
	if a := s.absent[p.mac]; a != nil && a.vm == p.vm {
		all = append(all, a.kept.frames...)
		delete(s.absent, p.mac)
	}
	all = append(all, p.kept.frames...)
	p.kept, p.live = kept{}, true
	now := time.Now()
	for _, f := range all {
		if p.keep && now.Sub(f.at) < keptFor {
			p.send(f.Frame, true)
		}
	}
}
