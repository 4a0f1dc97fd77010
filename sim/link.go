// SPDX-License-Identifier: Apache-2.0

package sim

// Link is a Net of two processes, one of which dials the other.
type Link struct {
	*Net
	ends [2]*End
	from int     // the end that dials
	cut  [2]bool // what goes to end i stays on the way
}

// Link returns a link between two processes. End 1 dials.
func (w *World) Link(listener, dialer *Process) *Link {
	l := &Link{Net: w.Net(), from: 1}
	l.ends[0] = l.Join(listener, nil)
	l.ends[1] = l.Join(dialer, l.ends[0])
	l.Blocked = func(_, to *Process) bool {
		for i, e := range l.ends {
			if e.owner == to {
				return l.cut[i]
			}
		}
		return false
	}
	return l
}

// Rewire gives the link another process, which dials, in place of one that is gone.
func (l *Link) Rewire(dialer *Process) *End {
	for i, e := range l.ends {
		if e.owner.Gone() {
			l.from = i
		}
	}
	e := l.Join(dialer, l.ends[1-l.from])
	l.ends[l.from] = e
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
	l.Retry()
}

// Reset breaks the connection.
func (l *Link) Reset() { l.ends[0].Reset() }
