// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"io"
	"sync"
)

// Behind writes behind its caller, in order: Write never waits. A file system in
// the middle of a commit may keep a write for a second, and the loop of a replica
// that waited as long would look dead to its peer.
type Behind struct {
	w    io.Writer
	done chan struct{}

	mu     sync.Mutex
	filled sync.Cond
	queue  []byte
	lost   int // bytes that found the queue full
	closed bool
	err    error
}

// behindLimit is the most bytes that wait to be written.
const behindLimit = 1 << 20

// NewBehind begins to write to w.
func NewBehind(w io.Writer) *Behind {
	b := &Behind{w: w, done: make(chan struct{})}
	b.filled.L = &b.mu
	go b.run()
	return b
}

// Write queues p. What doesn't fit is left out, and the place is marked. The error
// is that of an earlier write; nothing is written after one.
func (b *Behind) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if len(b.queue)+len(p) > behindLimit {
		b.lost += len(p)
		return len(p), nil
	}
	if b.lost > 0 {
		b.queue = fmt.Appendf(b.queue, "\n[%d bytes left out: the file could not keep up]\n", b.lost)
		b.lost = 0
	}
	b.queue = append(b.queue, p...)
	b.filled.Signal()
	return len(p), nil
}

// Close writes what is queued and ends; it does not close what it writes to.
func (b *Behind) Close() error {
	b.mu.Lock()
	b.closed = true
	b.filled.Signal()
	b.mu.Unlock()
	<-b.done
	return b.err
}

func (b *Behind) run() {
	defer close(b.done)
	var spare []byte
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.queue) == 0 && !b.closed && b.err == nil {
			b.filled.Wait()
		}
		if len(b.queue) == 0 || b.err != nil {
			return
		}
		full := b.queue
		b.queue = spare[:0]
		b.mu.Unlock()
		_, err := b.w.Write(full)
		b.mu.Lock()
		b.err, spare = err, full
	}
}
