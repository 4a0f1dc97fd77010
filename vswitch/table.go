// SPDX-License-Identifier: Apache-2.0

package vswitch

// place is where the table has an address: a port, and the address's index in
// the port's own list.
type place struct {
	port *port
	slot int
	seen Time
}

// owned reports that the port named this address as it attached: it neither
// ages nor moves to another port while the port is open.
func (w place) owned(m MAC) bool { return w.port.MAC == m }

// learn notes the source of a frame, and the address that it announces, as
// being at p. It reports false if the frame must be dropped: no station has
// that source, or it belongs to another open port.
func (s *Switch) learn(now Time, p *port, frame []byte) bool {
	src := MAC(frame[6:12])
	if src.group() || src == (MAC{}) || !s.place(now, p, src) {
		return false
	}
	if m, ok := announced(frame); ok && m != src {
		return s.place(now, p, m)
	}
	return true
}

// place puts an address at p, wherever it was. A full port gives up its oldest.
func (s *Switch) place(now Time, p *port, m MAC) bool {
	if w, ok := s.table[m]; ok {
		if w.port == p {
			w.seen = now
			s.table[m] = w
			return true
		}
		if w.owned(m) {
			return false
		}
		s.remove(m)
	}
	if len(p.learned) >= MaxAddresses {
		s.remove(p.victim())
	}
	s.table[m] = place{p, len(p.learned), now}
	p.learned = append(p.learned, m)
	return true
}

// victim picks the address that gives way, in turn and never the port's own.
func (p *port) victim() MAC {
	p.hand = (p.hand + 1) % len(p.learned)
	if p.learned[p.hand] == p.MAC {
		p.hand = (p.hand + 1) % len(p.learned)
	}
	return p.learned[p.hand]
}

// remove forgets an address; the last of its port's list takes its slot.
func (s *Switch) remove(m MAC) {
	w := s.table[m]
	list := w.port.learned
	last := list[len(list)-1]
	list[w.slot] = last
	moved := s.table[last]
	moved.slot = w.slot
	s.table[last] = moved
	w.port.learned = list[:len(list)-1]
	delete(s.table, m)
}

// moveAll gives the addresses of one port to another: what was behind the old
// primary is behind the new one, before it has said a word.
func (s *Switch) moveAll(now Time, from, to *port) {
	for _, m := range append([]MAC(nil), from.learned...) {
		s.remove(m)
		if from.MAC == to.MAC {
			s.place(now, to, m)
		}
	}
}

// lookup returns the port of an address, or nil if it isn't known or too old.
func (s *Switch) lookup(now Time, m MAC) *port {
	w, ok := s.table[m]
	if !ok {
		return nil
	}
	if now-w.seen > AddressAge && !w.owned(m) {
		s.remove(m)
		return nil
	}
	return w.port
}
