// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const patience = 20 * time.Second

// pty opens a pseudo terminal: what people type, and the terminal that a program sees.
func pty(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

func wake() (func(), chan struct{}) {
	c := make(chan struct{}, 1)
	return func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}, c
}

// collect reads until it has want.
func collect(t *testing.T, read func() []byte, woken chan struct{}, want string) {
	t.Helper()
	var got []byte
	for late := time.After(patience); len(got) < len(want); {
		if b := read(); len(b) > 0 {
			got = append(got, b...)
			continue
		}
		select {
		case <-woken:
		case <-late:
			t.Fatalf("got %.60q, want %.60q", got, want)
		}
	}
	if string(got) != want {
		t.Fatalf("got %.60q, want %.60q", got, want)
	}
}

// On a terminal every key reaches the guest but commands behind Ctrl-A, output is
// not changed on its way, and the mode is as before in the end.
func TestTerminal(t *testing.T) {
	person, terminal := pty(t)
	before, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	wake, woken := wake()
	c, err := New(terminal, terminal, wake)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Interactive() {
		t.Fatal("not interactive")
	}
	person.WriteString("ls\r\x03\x01\x01\x01zq\x04\x1a")
	collect(t, c.Read, woken, "ls\r\x03\x01q\x04\x1a")

	c.Write(0, []byte("a\nb"))
	out := make([]byte, 3)
	if _, err := io.ReadFull(person, out); err != nil || string(out) != "a\nb" {
		t.Errorf("printed %q, %v", out, err)
	}
	person.WriteString("\x01h")
	text := make([]byte, 12)
	if _, err := io.ReadFull(person, text); err != nil || !strings.HasPrefix(string(text), "\r\nCtrl-A x") {
		t.Errorf("help is %q, %v", text, err)
	}
	select {
	case <-c.Quit():
		t.Fatal("quit too early")
	default:
	}
	person.WriteString("\x01x\x01x")
	select {
	case <-c.Quit():
	case <-time.After(patience):
		t.Fatal("no quit")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.Close()
	after, err := term.GetState(int(terminal.Fd()))
	if err != nil || *after != *before {
		t.Errorf("the mode changed: %v, %v", after, err)
	}
}

// The escape works though the guest reads nothing and its input is full.
func TestQuitWithFullInput(t *testing.T) {
	person, terminal := pty(t)
	wake, _ := wake()
	c, err := New(terminal, terminal, wake)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 * maxInput / 1024 {
		person.Write(bytes.Repeat([]byte("k"), 1024))
	}
	person.WriteString("\x01x")
	select {
	case <-c.Quit():
	case <-time.After(patience):
		t.Fatal("no quit")
	}
	if n := len(c.Read()); n != maxInput {
		t.Errorf("%d bytes wait for the guest", n)
	}
}

// A text far larger than the input's bound is pasted without a loss while the guest
// reads, and so is what comes after a guest that read nothing for too long.
func TestPaste(t *testing.T) {
	person, terminal := pty(t)
	wake, woken := wake()
	c, err := New(terminal, terminal, wake)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("0123456789abcde\r", 5*maxInput/16)
	paste := func() { go person.WriteString(text) }
	paste()
	collect(t, c.Read, woken, text)

	person.WriteString(strings.Repeat("k", 2*maxInput))
	person.WriteString("\x01x")
	<-c.Quit() // the reader gave up on the guest
	c.Read()
	paste()
	collect(t, c.Read, woken, text)
}

// Commands are found wherever input is cut.
func TestEscapeCuts(t *testing.T) {
	const typed, want = "a\x01\x01b\x01hc\x01yd\x01", "a\x01bcd"
	for cut := range len(typed) {
		var e escape
		guest, helps := "", 0
		for _, part := range []string{typed[:cut], typed[cut:]} {
			for rest := []byte(part); len(rest) > 0; {
				var g []byte
				var c command
				g, rest, c = e.next(rest)
				guest += string(g)
				if c == help {
					helps++
				}
			}
		}
		if guest != want || helps != 1 || !e.pressed {
			t.Errorf("cut at %d: %q, %d helps, pressed %v", cut, guest, helps, e.pressed)
		}
	}
}

// From a pipe all bytes are the guest's, Ctrl-A too, and none is lost however late
// the guest reads.
func TestPipe(t *testing.T) {
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var all strings.Builder
	for i := 0; all.Len() < 5*maxInput; i++ {
		fmt.Fprintf(&all, "%d\x01x\n", i)
	}
	go func() {
		feed.WriteString(all.String())
		feed.Close()
	}()
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	wake, woken := wake()
	c, err := New(in, out, wake)
	if err != nil {
		t.Fatal(err)
	}
	collect(t, func() []byte {
		b := c.Read()
		if len(b) > maxInput {
			t.Errorf("%d bytes at once", len(b))
		}
		return b
	}, woken, all.String())
	c.Write(0, []byte("hello"))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(out.Name()); err != nil || string(b) != "hello" {
		t.Errorf("printed %q, %v", b, err)
	}
}

// Close ends a reader to which nothing comes, and one that waits for the guest.
func TestCloseWhileReading(t *testing.T) {
	for _, size := range []int{0, 2 * maxInput} {
		in, feed, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		wrote := make(chan struct{})
		go func() {
			feed.Write(make([]byte, size))
			close(wrote)
		}()
		wake, woken := wake()
		c, err := New(in, os.Stderr, wake)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			<-woken
		}
		c.Close()
		in.Close() // its writer fails
		<-wrote
		feed.Close()
	}
}

// Each byte is printed once, whatever a new primary says again; what was printed
// elsewhere is not missed.
func TestOffsets(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	for _, c := range []struct {
		offset uint64
		text   string
	}{
		{0, "abc"}, {0, "abc"}, {1, "bcd"}, {4, ""}, {2, "c"}, {4, "ef"}, {0, "abcdefg"},
		{100, "new"}, {90, "older"}, {^uint64(0), "wraps"}, {103, "!"},
	} {
		w.Write(c.offset, []byte(c.text))
	}
	if err := w.Err(); err != nil {
		t.Error(err)
	}
	if out.String() != "abcdefgnew!" {
		t.Errorf("printed %q", out.String())
	}
}

// gate is a writer that waits until it is opened.
type gate struct {
	bytes.Buffer
	open chan struct{}
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(b)
}

// A stuck terminal loses output and says how much; it stops neither the VM nor
// Close.
func TestStuckTerminal(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := newPrinter(g)
	w := NewWriter(p)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	const chunks = 64 // 4 MiB
	for i := range uint64(chunks) {
		w.Write(i*uint64(len(chunk)), chunk)
	}
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Error(err)
	}
	close(g.open)
	<-p.done
	kept := bytes.Count(g.Bytes(), []byte("x"))
	if kept < maxOutput || kept > 2*maxOutput {
		t.Errorf("%d bytes were kept", kept)
	}
	noted := 0
	for rest := g.String(); ; {
		var n int
		_, after, found := strings.Cut(rest, "[tandem: ")
		if !found {
			break
		}
		fmt.Sscanf(after, "%d bytes were not printed", &n)
		noted, rest = noted+n, after
	}
	if noted != chunks*len(chunk)-kept {
		t.Errorf("%d kept, %d noted as lost", kept, noted)
	}
}

type broken struct{ calls int }

func (b *broken) Write([]byte) (int, error) {
	b.calls++
	return 0, errors.New("no space left on device")
}

// Output that can't be printed doesn't stop the VM, and is tried once.
func TestBrokenOutput(t *testing.T) {
	b := &broken{}
	w := NewWriter(b)
	for i := range uint64(100) {
		w.Write(i<<16, make([]byte, 1<<16))
	}
	if err := w.Err(); err == nil || !strings.Contains(err.Error(), "no space") || b.calls != 1 {
		t.Errorf("%v after %d calls", err, b.calls)
	}
}
