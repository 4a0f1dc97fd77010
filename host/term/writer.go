// SPDX-License-Identifier: Apache-2.0

package term

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"tandem/world"
)

const maxOutput = 1 << 20 // bytes that wait to be printed

// Writer prints a console to a file or pipe: a world.Terminal at which nobody types.
type Writer struct {
	w       io.Writer
	patient bool          // Write waits for room, else it drops
	done    chan struct{} // the printer has ended

	mu      sync.Mutex
	changed sync.Cond // buffer or closed
	printed uint64    // offset behind the last byte
	buffer  []byte
	lost    uint64 // bytes dropped and not yet noted
	closed  bool
	err     error
}

var _ world.Terminal = (*Writer)(nil)

// NewWriter prints to w on a goroutine of its own. Write waits only if 1 MiB is
// waiting already: the output must be complete, so a pipe that nobody reads stops
// the VM in the end.
func NewWriter(w io.Writer) *Writer { return newWriter(w, true) }

func newWriter(w io.Writer, patient bool) *Writer {
	p := &Writer{w: w, patient: patient, done: make(chan struct{})}
	p.changed.L = &p.mu
	go p.print()
	return p
}

// Write prints those of b that were not printed before. Bytes between the last one
// printed and offset were printed elsewhere, by the primary that is gone.
func (p *Writer) Write(offset uint64, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := offset + uint64(len(b))
	if end <= p.printed || end < offset {
		return
	}
	if offset < p.printed {
		b = b[p.printed-offset:]
	}
	p.printed = end
	p.add(b)
}

// add puts bytes into the buffer. With mu.
func (p *Writer) add(b []byte) {
	for len(b) > 0 && !p.closed && p.err == nil {
		n := min(len(b), maxOutput-len(p.buffer))
		p.buffer = append(p.buffer, b[:n]...)
		b = b[n:]
		p.changed.Broadcast()
		if len(b) == 0 {
			return
		}
		if !p.patient {
			p.lost += uint64(len(b))
			return
		}
		p.changed.Wait()
	}
}

// note prints something that isn't the guest's.
func (p *Writer) note(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.buffer)+len(s) <= maxOutput {
		p.add([]byte(s))
	}
}

// Read returns nothing.
func (p *Writer) Read() []byte { return nil }

// closeTime is for what a terminal still has to print: it may be stuck for good.
const closeTime = time.Second

// Close waits until all is printed; a terminal, unlike a file or pipe, has a second
// for it. It returns the first error of printing.
func (p *Writer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.changed.Broadcast()
	p.mu.Unlock()
	if !p.patient {
		select {
		case <-p.done:
		case <-time.After(closeTime):
			return errors.New("print the console: the terminal is stuck; the rest of the output is lost")
		}
	}
	<-p.done
	return p.err
}

// print is the goroutine that may wait for w.
func (p *Writer) print() {
	defer close(p.done)
	var b []byte
	for {
		p.mu.Lock()
		for len(p.buffer) == 0 && p.lost == 0 && !p.closed {
			p.changed.Wait()
		}
		b, p.buffer = p.buffer, b[:0]
		if p.lost > 0 {
			b = fmt.Appendf(b, "\r\n[tandem: %d bytes were not printed, the terminal is too slow]\r\n", p.lost)
			p.lost = 0
		}
		p.changed.Broadcast()
		p.mu.Unlock()
		if len(b) == 0 {
			return
		}
		if _, err := p.w.Write(b); err != nil {
			p.mu.Lock()
			p.err = fmt.Errorf("print the console: %w", err)
			p.changed.Broadcast()
			p.mu.Unlock()
			return
		}
	}
}
