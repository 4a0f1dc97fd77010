// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"tandem/machine/event"
)

// queueBytes bounds each queue: 8 ms of a 10 Gbit/s link, 80 ms of 1 Gbit/s.
const queueBytes = 8 << 20

// outbox collects messages for one connection. Its writer takes all that has
// gathered with one system call.
type outbox struct {
	base   uint64                            // frames that came before this connection; a Port's
	direct func(b []byte) (n int, err error) // writes what the kernel takes at once; may be nil

	mu       sync.Mutex
	buf      []byte
	writing  bool // the writer has taken some of it
	finished bool
	kick     chan struct{}
	done     chan struct{} // the writer has ended
	dropped  atomic.Uint64 // messages that found the queue full
}

func newOutbox() *outbox {
	return &outbox{kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// frame appends a frame, or drops it if the queue is full.
func (o *outbox) frame(f event.Frame) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished || len(o.buf)+len(f.Data) > queueBytes {
		o.dropped.Add(1)
		return false
	}
	o.buf = appendFrame(o.buf, f)
	o.signal()
	return true
}

// batch appends whole messages, or drops them if the queue is full. If nothing is
// queued they go to the kernel at once: what it has leaves even if this process dies,
// and no thread has to be switched to.
func (o *outbox) batch(b []byte, messages int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished || len(o.buf)+len(b) > queueBytes {
		o.dropped.Add(uint64(messages))
		return
	}
	if o.direct != nil && len(o.buf) == 0 && !o.writing {
		n, err := o.direct(b)
		if err == nil && n == len(b) {
			return
		}
		b = b[n:] // the writer finds out what is wrong
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
		o.buf, o.writing = spare[:0], len(batch) > 0
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
		o.mu.Lock()
		o.writing = false
		o.mu.Unlock()
	}
}

// direct returns a function that writes to c what it takes without waiting, or nil.
func direct(c io.Writer) func([]byte) (int, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return func(b []byte) (n int, err error) {
		outer := raw.Control(func(fd uintptr) {
			n, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		return max(n, 0), errors.Join(outer, err)
	}
}

// inbox hands frames from one goroutine to a polled loop.
type inbox struct {
	ready   atomic.Bool // frames is not empty
	dropped atomic.Uint64

	mu     sync.Mutex
	frames []numbered
	bytes  int
}

// numbered is a frame with its place among all that came.
type numbered struct {
	event.Frame
	n uint64
}

// frameCost is what a queued frame is counted as beside its data.
const frameCost = 64

// put adds frame number n, which it keeps; it reports false if the queue is full.
func (q *inbox) put(f event.Frame, n uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(f.Data)+frameCost > queueBytes {
		q.dropped.Add(1)
		return false
	}
	q.bytes += len(f.Data) + frameCost
	q.frames = append(q.frames, numbered{f, n})
	q.ready.Store(true)
	return true
}

// take returns all frames and leaves empty in their place.
func (q *inbox) take(empty []numbered) []numbered {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	q.frames, q.bytes = empty[:0], 0
	q.ready.Store(false)
	return frames
}

// cursor reads an inbox frame by frame; it belongs to the polled loop.
type cursor struct {
	frames []numbered
	next   int
	mark   uint64 // number of the frame that was returned last
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
	f := c.frames[c.next]
	c.next++
	c.mark = f.n
	return f.Frame, true
}
