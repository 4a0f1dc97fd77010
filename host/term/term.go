// SPDX-License-Identifier: Apache-2.0

// Package term is the other end of a guest's console: this process's terminal,
// or a file.
//
// On a terminal all keys go to the guest, Ctrl-C too. Ctrl-A begins a command,
// as people know it from QEMU's -nographic: x leaves, Ctrl-A sends one Ctrl-A, h
// prints help.
package term

import (
	"context"
	"io"
	"os"
	"sync"

	xterm "golang.org/x/term"
)

const (
	escape    = 1 // Ctrl-A
	maxTyped  = 64 << 10
	readChunk = 1024
	helpText  = "\r\nCtrl-A x  leave (the VM's plug is pulled)\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n"
)

// Writer prints a console to an io.Writer. Bytes that a new primary repeats are
// printed once.
type Writer struct {
	w    io.Writer
	next uint64
}

// NewWriter returns a terminal that nobody types at.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write implements world.Terminal.
func (t *Writer) Write(offset uint64, b []byte) {
	end := offset + uint64(len(b))
	if end <= t.next {
		return
	}
	if offset < t.next {
		b = b[t.next-offset:]
	}
	t.next = end
	t.w.Write(b)
}

// Read implements world.Terminal.
func (t *Writer) Read() []byte { return nil }

// Terminal is standard input and output.
type Terminal struct {
	Writer
	wake   func()
	before *xterm.State // nil if standard input is no terminal
	quit   chan struct{}
	once   sync.Once

	mu    sync.Mutex
	typed []byte
}

// Open puts the terminal into raw mode, if there is one, and reads what is typed.
func Open(wake func()) (*Terminal, error) {
	t := &Terminal{Writer: Writer{w: os.Stdout}, wake: wake, quit: make(chan struct{})}
	if fd := int(os.Stdin.Fd()); xterm.IsTerminal(fd) {
		var err error
		if t.before, err = xterm.MakeRaw(fd); err != nil {
			return nil, err
		}
	}
	// A read of standard input can't be ended; the goroutine ends with the process.
	go t.read()
	return t, nil
}

// Close gives the terminal back.
func (t *Terminal) Close() error {
	var err error
	t.once.Do(func() {
		if t.before != nil {
			err = xterm.Restore(int(os.Stdin.Fd()), t.before)
		}
	})
	return err
}

// Context returns a context that ends when the user leaves.
func (t *Terminal) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-t.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Read implements world.Terminal.
func (t *Terminal) Read() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.typed
	t.typed = nil
	return b
}

func (t *Terminal) read() {
	buf := make([]byte, readChunk)
	escaped := false
	for {
		n, err := os.Stdin.Read(buf)
		var out []byte
		for _, c := range buf[:n] {
			switch {
			case t.before == nil:
				out = append(out, c)
			case !escaped && c == escape:
				escaped = true
			case !escaped:
				out = append(out, c)
			default:
				escaped = false
				out = append(out, t.command(c)...)
			}
		}
		t.add(out)
		if err != nil {
			return
		}
	}
}

// command carries out what followed Ctrl-A.
func (t *Terminal) command(c byte) []byte {
	switch c {
	case 'x', 'X':
		close(t.quit)
		select {} // nothing more is read
	case 'h', '?':
		io.WriteString(os.Stdout, helpText)
	case escape:
		return []byte{escape}
	}
	return nil
}

func (t *Terminal) add(b []byte) {
	t.mu.Lock()
	if len(t.typed)+len(b) <= maxTyped {
		t.typed = append(t.typed, b...)
	}
	t.mu.Unlock()
	t.wake()
}
