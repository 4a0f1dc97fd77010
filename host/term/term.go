// SPDX-License-Identifier: Apache-2.0

// Package term is the console's other end on standard input and output.
//
// On a terminal the guest gets every key, Ctrl-C too, so the terminal is in raw
// mode and Ctrl-A leads to tandem itself, as in QEMU:
//
//	Ctrl-A x        quit
//	Ctrl-A h, ?     help
//	Ctrl-A Ctrl-A   send one Ctrl-A to the guest
//
// Where input is a file or a pipe every byte is the guest's.
//
// Both directions have bounds. Output to a terminal that is stuck (an ssh session
// that hangs) is dropped beyond 1 MiB, and a note says how much; a file or pipe
// must be complete, so there Write waits. Input beyond 64 KiB waits until the guest
// has read some, so that a large text can be pasted; but a guest that reads nothing
// for half a second loses what is typed, since Ctrl-A must always work. A pipe
// waits for ever.
package term

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"tandem/world"
)

const (
	maxInput   = 64 << 10               // bytes typed and not yet read by the guest
	stuckAfter = 500 * time.Millisecond // that the guest read nothing
)

// Terminal is a world.Terminal. Restore, Quit and Close may be called by any
// goroutine.
type Terminal struct {
	out     *Writer
	printer *printer // below out; nil if output is no terminal
	in      *os.File
	wake    func()
	quit    chan struct{}
	asleep  *os.File      // the other end of stop
	stop    *os.File      // its closing ends the reader
	closing chan struct{} // closed by Close
	done    chan struct{} // the reader has ended

	raw     *term.State // as it was before; nil if input is no terminal
	restore sync.Once

	room  chan struct{} // has an item after a Read
	stuck bool          // the guest reads nothing; of the reader
	ended sync.Once

	mu    sync.Mutex
	input []byte
}

var _ world.Terminal = (*Terminal)(nil)

// New connects in and out, usually os.Stdin and os.Stdout, to a console. It puts a
// terminal into raw mode, so the caller must see to Restore on each way out:
//
//	t, err := term.New(os.Stdin, os.Stdout, wake)
//	…
//	defer t.Close()
//
// A deferred call runs in a panic of its goroutine too; for signals call Restore
// before the process ends. Wake, which must not block, is called when Read may
// have something.
func New(in, out *os.File, wake func()) (*Terminal, error) {
	asleep, stop, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	t := &Terminal{
		in: in, wake: wake, asleep: asleep, stop: stop,
		quit: make(chan struct{}), done: make(chan struct{}), closing: make(chan struct{}), room: make(chan struct{}, 1),
	}
	if fd := int(in.Fd()); term.IsTerminal(fd) {
		if t.raw, err = term.MakeRaw(fd); err != nil {
			asleep.Close()
			stop.Close()
			return nil, fmt.Errorf("put the terminal into raw mode: %w; run with input from a file to do without", err)
		}
	}
	var w io.Writer = out
	if term.IsTerminal(int(out.Fd())) {
		t.printer = newPrinter(out)
		w = t.printer
	}
	t.out = NewWriter(w)
	go t.read()
	return t, nil
}

// Interactive reports that input is a terminal.
func (t *Terminal) Interactive() bool { return t.raw != nil }

// Quit is closed when the user has typed Ctrl-A x.
func (t *Terminal) Quit() <-chan struct{} { return t.quit }

// Write prints b, as in world.Terminal.
func (t *Terminal) Write(offset uint64, b []byte) { t.out.Write(offset, b) }

// Read returns what was typed.
func (t *Terminal) Read() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.input
	t.input = nil
	if len(b) > 0 {
		select {
		case t.room <- struct{}{}:
		default:
		}
	}
	return b
}

// Restore gives the terminal back as it was found.
func (t *Terminal) Restore() {
	t.restore.Do(func() {
		if t.raw != nil {
			term.Restore(int(t.in.Fd()), t.raw)
		}
	})
}

// Close prints what is left, restores the terminal and waits for the reader. It
// returns the first error of printing.
func (t *Terminal) Close() error {
	err := t.out.Err()
	if t.printer != nil {
		err = errors.Join(err, t.printer.Close())
	}
	t.Restore()
	t.ended.Do(func() {
		close(t.closing)
		t.stop.Close()
		<-t.done
		t.asleep.Close()
	})
	return err
}

// read passes on input until its end, or Close.
func (t *Terminal) read() {
	defer close(t.done)
	buf := make([]byte, 4096)
	var keys escape
	for t.ready() {
		n, err := unix.Read(int(t.in.Fd()), buf)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		typed, command := buf[:n], command(none)
		for len(typed) > 0 {
			part := typed
			if t.Interactive() {
				part, typed, command = keys.next(typed)
			} else {
				typed = nil
			}
			t.give(part)
			t.obey(command)
		}
	}
}

// ready waits for input, false if there will be none any more.
func (t *Terminal) ready() bool {
	fds := []unix.PollFd{
		{Fd: int32(t.in.Fd()), Events: unix.POLLIN},
		{Fd: int32(t.asleep.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && fds[1].Revents == 0
	}
}

// give hands b to the guest, and waits where there is no room.
func (t *Terminal) give(b []byte) {
	for len(b) > 0 {
		n := t.put(b)
		if b = b[n:]; n > 0 {
			t.stuck = false
			t.wake()
		}
		if len(b) > 0 && !t.wait() {
			return
		}
	}
}

// put appends what there is room for.
func (t *Terminal) put(b []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(b), maxInput-len(t.input))
	t.input = append(t.input, b[:n]...)
	return n
}

// wait returns true once there may be room, false if there will be none.
func (t *Terminal) wait() bool {
	var late <-chan time.Time
	if t.Interactive() {
		if t.stuck {
			return false
		}
		late = time.After(stuckAfter)
	}
	select {
	case <-t.room:
		return true
	case <-late:
		t.stuck = true
	case <-t.closing:
	}
	return false
}

func (t *Terminal) obey(c command) {
	switch c {
	case quit:
		select {
		case <-t.quit:
		default:
			close(t.quit)
			t.wake()
		}
	case help:
		t.out.note("\r\nCtrl-A x  quit\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n")
	}
}

// command is what a key after Ctrl-A asks for.
type command int

const (
	none command = iota
	quit
	help
)

const ctrlA = 1

// escape finds commands among keys. It remembers a Ctrl-A between two reads.
type escape struct{ pressed bool }

// next splits typed into what is the guest's, a command behind it, and the rest.
// An unknown command is dropped.
func (e *escape) next(typed []byte) (guest, rest []byte, c command) {
	if !e.pressed {
		for i, k := range typed {
			if k == ctrlA {
				e.pressed = true
				return typed[:i], typed[i+1:], none
			}
		}
		return typed, nil, none
	}
	e.pressed = false
	switch typed[0] {
	case ctrlA:
		return typed[:1], typed[1:], none
	case 'x', 'X':
		return nil, typed[1:], quit
	case 'h', 'H', '?':
		return nil, typed[1:], help
	}
	return nil, typed[1:], none
}
