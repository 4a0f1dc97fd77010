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

// Writer prints a console to a file or pipe: a world.Terminal at which nobody types.
type Writer struct {
	mu      sync.Mutex
	w       io.Writer
	printed uint64 // offset behind the last byte
	err     error
}

var _ world.Terminal = (*Writer)(nil)

// NewWriter prints to w at once, so that nothing is lost if the process is killed.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write prints those of b that were not printed before. Bytes between the last one
// printed and offset were printed elsewhere, by the primary that is gone. After an
// error nothing more is printed.
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
	p.print(b)
}

// note prints something that isn't the guest's.
func (p *Writer) note(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print([]byte(s))
}

func (p *Writer) print(b []byte) {
	if p.err != nil {
		return
	}
	if _, err := p.w.Write(b); err != nil {
		p.err = fmt.Errorf("print the console: %w", err)
	}
}

// Read returns nothing.
func (p *Writer) Read() []byte { return nil }

// Err returns the first error of printing.
func (p *Writer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

const (
	maxOutput = 1 << 20     // bytes that wait for a terminal
	closeTime = time.Second // for what it still has to print: it may be stuck for good
)

// printer is an io.Writer that never waits for a terminal. What has no room is
// dropped, and noted.
type printer struct {
	w    io.Writer
	done chan struct{} // run has ended

	mu      sync.Mutex
	changed sync.Cond
	buffer  []byte
	lost    int // bytes dropped and not yet noted
	closed  bool
	err     error
}

func newPrinter(w io.Writer) *printer {
	p := &printer{w: w, done: make(chan struct{})}
	p.changed.L = &p.mu
	go p.run()
	return p
}

func (p *printer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	n := min(len(b), maxOutput-len(p.buffer))
	p.buffer = append(p.buffer, b[:n]...)
	p.lost += len(b) - n
	p.changed.Signal()
	return len(b), nil
}

// Close waits until all is printed, a second at most.
func (p *printer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.changed.Signal()
	p.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-time.After(closeTime):
		return errors.New("print the console: the terminal is stuck; the rest of the output is lost")
	}
}

func (p *printer) run() {
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
		p.mu.Unlock()
		if len(b) == 0 {
			return
		}
		if _, err := p.w.Write(b); err != nil {
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			return
		}
	}
}
