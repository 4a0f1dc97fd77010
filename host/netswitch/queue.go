// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"io"
	"sync"
	"sync/atomic"

	"tandem/machine/event"
)

// queueBytes bounds each queue: 8 ms of a 10 Gbit/s link, 80 ms of 1 Gbit/s.
const queueBytes = 8 << 20

// outbox collects messages for one connection. Its writer takes all that has
// gathered with one system call.
type outbox struct {
	mu       sync.Mutex
	buf      []byte
	finished bool
	kick     chan struct{}
	done     chan struct{} // the writer has ended
	dropped  atomic.Uint64 // messages that found the queue full
}

func newOutbox() *outbox {
	return &outbox{kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// frame appends a frame, or drops it if the queue is full.
func (o *outbox) frame(f event.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished || len(o.buf)+len(f.Data) > queueBytes {
		o.dropped.Add(1)
		return
	}
	o.buf = appendFrame(o.buf, f)
	o.signal()
}

// batch appends whole messages, or drops them if the queue is full.
func (o *outbox) batch(b []byte, messages int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished || len(o.buf)+len(b) > queueBytes {
		o.dropped.Add(uint64(messages))
		return
	}
	o.buf = append(o.buf, b...)
	o.signal()
}

// control appends a message that must not be dropped. If the peer asks and asks
// and never reads, the connection ends.
func (o *outbox) control(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished {
		return
	}
	if len(o.buf) > queueBytes+maxMessage {
		o.buf, o.finished = nil, true
	}
	o.buf = append(o.buf, b...)
	o.signal()
}

// finish lets the writer send what is queued, or only last if that isn't nil, and end.
func (o *outbox) finish(last []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished {
		return
	}
	if last != nil {
		o.buf = append(o.buf[:0], last...)
	}
	o.finished = true
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// write sends batches until the outbox is finished and empty, or the connection
// fails, and closes the connection.
func (o *outbox) write(c io.WriteCloser) {
	defer close(o.done)
	defer c.Close()
	var spare []byte
	for range o.kick {
		o.mu.Lock()
		batch, finished := o.buf, o.finished
		o.buf = spare[:0]
		o.mu.Unlock()
		if len(batch) > 0 {
			if _, err := c.Write(batch); err != nil {
				return
			}
		}
		if finished {
			return
		}
		spare = batch
	}
}

// inbox hands frames from one goroutine to a polled loop.
type inbox struct {
	ready   atomic.Bool // frames is not empty
	dropped atomic.Uint64

	mu     sync.Mutex
	frames []event.Frame
	bytes  int
}

// frameCost is what a queued frame is counted as beside its data.
const frameCost = 64

// put adds a frame, which it keeps; it reports false if the queue is full.
func (q *inbox) put(f event.Frame) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(f.Data)+frameCost > queueBytes {
		q.dropped.Add(1)
		return false
	}
	q.bytes += len(f.Data) + frameCost
	q.frames = append(q.frames, f)
	q.ready.Store(true)
	return true
}

// take returns all frames and leaves empty in their place.
func (q *inbox) take(empty []event.Frame) []event.Frame {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	q.frames, q.bytes = empty[:0], 0
	q.ready.Store(false)
	return frames
}

// cursor reads an inbox frame by frame; it belongs to the polled loop.
type cursor struct {
	frames []event.Frame
	next   int
}

// recv returns the oldest frame. Without one it costs an atomic load.
func (c *cursor) recv(q *inbox) (event.Frame, bool) {
	if c.next == len(c.frames) {
		if !q.ready.Load() {
			return event.Frame{}, false
		}
		clear(c.frames)
		c.frames, c.next = q.take(c.frames), 0
		if len(c.frames) == 0 {
			return event.Frame{}, false
		}
	}
	c.next++
	return c.frames[c.next-1], true
}
