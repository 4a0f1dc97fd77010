// SPDX-License-Identifier: Apache-2.0

package api

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Hub tells readers what happens, as Server-Sent Events. It keeps the newest messages in
// one ring; a reader is a place in it, so a slow one costs nothing. What has left the
// ring before a reader got there is lost to it: it gets the event reset, and asks anew
// for how things are. So does a reader that comes for the first time, or whose
// Last-Event-ID is of another daemon, or of one before a restart.
//
// A tick is worth its newest value only: it has no number, and one that comes before the
// last was read replaces it.
type Hub struct {
	boot  string
	keep  int
	stuck time.Duration // that a reader may take for what is written to it

	mu      sync.Mutex
	ring    []message
	next    uint64 // number of the message to come
	tick    []byte
	ticks   uint64
	readers int
	changed chan struct{} // closed at the next message
}

type message struct {
	kind string
	data []byte
}

const (
	maxReaders = 128
	aliveEvery = 10 * time.Second // a comment, if there is nothing else to say
	stuckTime  = 10 * time.Second
	retryTime  = time.Second // after which a browser tries again
)

// NewHub returns a Hub that keeps some messages.
func NewHub(keep int) *Hub {
	return &Hub{boot: strings.ToLower(rand.Text()[:12]), keep: keep, stuck: stuckTime, next: 1, changed: make(chan struct{})}
}

// Publish tells everybody, in order.
func (h *Hub) Publish(kind string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, message{kind, b})
	if len(h.ring) > h.keep {
		h.ring = append(h.ring[:0:0], h.ring[len(h.ring)-h.keep/2:]...)
	}
	h.next++
	h.wake()
}

// Tick tells those who read now; kind is "tick".
func (h *Hub) Tick(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tick = b
	h.ticks++
	h.wake()
}

func (h *Hub) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Readers is how many there are.
func (h *Hub) Readers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.readers
}

// enter counts a reader, if there is room.
func (h *Hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers >= maxReaders {
		return false
	}
	h.readers++
	return true
}

func (h *Hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers--
}

// reader is a place in the ring.
type reader struct {
	at    uint64 // number of the message to come; 0: none is of use
	ticks uint64
}

// resume finds the place after an id.
func (h *Hub) resume(id string) reader {
	boot, text, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(text, 10, 63)
	if boot != h.boot || err != nil {
		return reader{}
	}
	return reader{at: n + 1}
}

// take is what a reader has not had yet, as it is written. The channel is closed when
// there is more.
func (h *Hub) take(r *reader) (text []byte, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.next - uint64(len(h.ring))
	if r.at < first || r.at > h.next || r.at == 0 {
		r.at = h.next
		text = fmt.Appendf(text, "id: %s-%d\nevent: reset\ndata: {}\n\n", h.boot, h.next-1)
	}
	for ; r.at < h.next; r.at++ {
		m := h.ring[r.at-first]
		text = fmt.Appendf(text, "id: %s-%d\nevent: %s\ndata: %s\n\n", h.boot, r.at, m.kind, m.data)
	}
	if r.ticks != h.ticks {
		r.ticks = h.ticks
		text = fmt.Appendf(text, "event: tick\ndata: %s\n\n", h.tick)
	}
	return text, h.changed
}

// Serve writes the stream until the reader leaves, may not read any more, or takes too
// long.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request) {
	if !h.enter() {
		w.Header().Set("Retry-After", "10")
		Tell(w, Failf(http.StatusServiceUnavailable, "%d read the stream already: close some, or ask another host", maxReaders))
		return
	}
	defer h.leave()
	ctx, cancel := While(r)
	defer cancel()
	c := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	place := h.resume(r.Header.Get("Last-Event-ID"))
	text := fmt.Appendf(nil, "retry: %d\n\n", retryTime.Milliseconds())
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		news, more := h.take(&place)
		if text = append(text, news...); len(text) > 0 {
			c.SetWriteDeadline(time.Now().Add(h.stuck))
			if _, err := w.Write(text); err != nil || c.Flush() != nil {
				return
			}
		}
		text = nil
		select {
		case <-more:
		case <-alive.C:
			text = []byte(": still here\n\n")
		case <-ctx.Done():
			return
		}
	}
}
