// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// attach joins a Hub with a connection of which the test has the other end.
func attach(t *testing.T, h *Hub, recent bool) net.Conn {
	t.Helper()
	run, err := h.Join(recent)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { run(theirs); close(done) }()
	t.Cleanup(func() { ours.Close(); <-done })
	return ours
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("%q, %v; want %q", b, err, want)
	}
}

// Viewers see what was printed before they came, then the same as the file; what any of
// them types is the guest's, and more than it reads waits.
func TestHub(t *testing.T) {
	var file bytes.Buffer
	woken := make(chan struct{}, 100)
	h := NewHub(&file, func() { woken <- struct{}{} })
	h.Write(0, []byte("boot\n"))
	a := attach(t, h, true)
	expect(t, a, "boot\n")
	b := attach(t, h, false)
	h.Write(3, []byte("t\nlogin:"))
	expect(t, a, "login:")
	expect(t, b, "login:")
	if file.String() != "boot\nlogin:" {
		t.Errorf("the file has %q", file.String())
	}
	b.Write([]byte("root\n"))
	<-woken
	if got := h.Read(); string(got) != "root\n" {
		t.Errorf("typed %q", got)
	}
	go a.Write(bytes.Repeat([]byte("x"), maxInput+10))
	for n := 0; n < maxInput+10; {
		<-woken
		got := len(h.Read())
		if got > maxInput {
			t.Fatalf("%d bytes wait", got)
		}
		n += got
	}
}

// A viewer that reads nothing is let go, and the guest's output goes on; there is a
// bound on how many there are.
func TestHubStuck(t *testing.T) {
	h := NewHub(io.Discard, func() {})
	stuck := attach(t, h, true)
	for i := range viewerQueue + 3 {
		h.Write(uint64(i), []byte("x"))
	}
	for n := 0; ; n++ {
		if _, err := stuck.Read(make([]byte, 1)); err != nil {
			break
		}
		if n > viewerQueue+3 {
			t.Fatal("the viewer was never let go")
		}
	}
	for range maxViewers {
		attach(t, h, true)
	}
	if _, err := h.Join(true); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more: %v", err)
	}
}
