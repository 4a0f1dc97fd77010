// SPDX-License-Identifier: Apache-2.0

package term

import (
	"errors"
	"io"
	"sync"

	"tandem/world"
)

// Bounds of a Hub.
const (
	recentOutput = 16 << 10 // that a viewer is shown first
	viewerQueue  = 256      // writes that wait for a slow viewer before it is let go
	maxViewers   = 16
)

// Hub is the console of a VM that people come to and leave: all of it goes to a file,
// and to each viewer what was printed last and what is printed from then on. What
// viewers type is the guest's, as it comes.
type Hub struct {
	out  *Writer
	wake func()
	room chan struct{} // has an item after a Read

	mu      sync.Mutex
	recent  []byte
	viewers map[*viewer]bool
	input   []byte
}

type viewer struct {
	out  chan []byte
	gone chan struct{} // closed when it is let go
	once sync.Once
}

func (v *viewer) leave() { v.once.Do(func() { close(v.gone) }) }

var _ world.Terminal = (*Hub)(nil)

// NewHub prints to w. Wake, which must not block, is called when Read may have
// something.
func NewHub(w io.Writer, wake func()) *Hub {
	h := &Hub{wake: wake, room: make(chan struct{}, 1), viewers: map[*viewer]bool{}}
	h.out = NewWriter(io.MultiWriter(w, spread{h}))
	return h
}

// Write prints b, as in world.Terminal.
func (h *Hub) Write(offset uint64, b []byte) { h.out.Write(offset, b) }

// Read returns what was typed.
func (h *Hub) Read() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.input
	h.input = nil
	if len(b) > 0 {
		select {
		case h.room <- struct{}{}:
		default:
		}
	}
	return b
}

// spread is a Hub's viewers as a writer that never waits.
type spread struct{ h *Hub }

func (s spread) Write(b []byte) (int, error) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent = append(h.recent, b...)
	if over := len(h.recent) - recentOutput; over > 0 {
		h.recent = append(h.recent[:0], h.recent[over:]...)
	}
	for v := range h.viewers {
		select {
		case v.out <- append([]byte{}, b...):
		default: // it is stuck
			delete(h.viewers, v)
			v.leave()
		}
	}
	return len(b), nil
}

// ErrCrowded refuses a viewer.
var ErrCrowded = errors.New("16 people are at this console already: let one leave with Ctrl-A x")

// Join makes room for a viewer; run serves it until it leaves, and closes its
// connection. Recent says whether it is shown what was printed last.
func (h *Hub) Join(recent bool) (run func(conn io.ReadWriteCloser), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.viewers) >= maxViewers {
		return nil, ErrCrowded
	}
	v := &viewer{out: make(chan []byte, viewerQueue), gone: make(chan struct{})}
	if recent && len(h.recent) > 0 {
		v.out <- append([]byte{}, h.recent...)
	}
	h.viewers[v] = true
	return func(conn io.ReadWriteCloser) { h.serve(v, conn) }, nil
}

func (h *Hub) serve(v *viewer, conn io.ReadWriteCloser) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close() // which ends the other direction
		for {
			select {
			case b := <-v.out:
				if _, err := conn.Write(b); err != nil {
					return
				}
			case <-v.gone:
				return
			}
		}
	})
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if !h.give(v, buf[:n]) || err != nil {
			break
		}
	}
	v.leave()
	wg.Wait()
	h.mu.Lock()
	delete(h.viewers, v)
	h.mu.Unlock()
}

// give hands what was typed to the guest. While that reads nothing the viewer waits.
func (h *Hub) give(v *viewer, b []byte) bool {
	for len(b) > 0 {
		h.mu.Lock()
		n := min(len(b), maxInput-len(h.input))
		h.input = append(h.input, b[:n]...)
		h.mu.Unlock()
		if b = b[n:]; n > 0 {
			h.wake()
			continue
		}
		select {
		case <-h.room:
		case <-v.gone:
			return false
		}
	}
	return true
}
