// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// slowFile lets a write go on only when it is told to.
type slowFile struct {
	bytes.Buffer
	begun, release chan struct{}
	err            error
}

func (f *slowFile) Write(p []byte) (int, error) {
	f.begun <- struct{}{}
	<-f.release
	if f.err != nil {
		return 0, f.err
	}
	return f.Buffer.Write(p)
}

func newSlowFile() *slowFile {
	return &slowFile{begun: make(chan struct{}, 100), release: make(chan struct{}, 100)}
}

// Writers do not wait for a file that stalls; all arrives in order, and Close
// waits for it.
func TestBehind(t *testing.T) {
	f := newSlowFile()
	b := NewBehind(f)
	b.Write([]byte("one "))
	<-f.begun
	for _, s := range []string{"two ", "three ", "four"} {
		if n, err := b.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	f.release <- struct{}{}
	f.release <- struct{}{}
	if err := b.Close(); err != nil || f.String() != "one two three four" {
		t.Errorf("%q, %v", f.String(), err)
	}
}

// A file that never catches up costs a bounded amount of memory, and the place of
// what was left out is marked.
func TestBehindFull(t *testing.T) {
	f := newSlowFile()
	b := NewBehind(f)
	b.Write([]byte("first\n"))
	<-f.begun
	chunk := bytes.Repeat([]byte("x"), behindLimit/2)
	for range 5 {
		b.Write(chunk)
	}
	f.release <- struct{}{}
	<-f.begun // the two chunks that fit
	b.Write([]byte("last"))
	close(f.release)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	want := "[" + "1572864 bytes left out: the file could not keep up]\nlast"
	if s := f.String(); len(s) > behindLimit+200 || !strings.HasSuffix(s, want) {
		t.Errorf("%d bytes, ending %q", len(s), s[len(s)-80:])
	}
}

// After an error the writer hears of it, and Close ends.
func TestBehindError(t *testing.T) {
	f := newSlowFile()
	f.err = errors.New("disk full")
	b := NewBehind(f)
	b.Write([]byte("one"))
	<-f.begun
	f.release <- struct{}{}
	<-b.done
	if _, err := b.Write([]byte("two")); err != f.err {
		t.Error(err)
	}
	if err := b.Close(); err != f.err {
		t.Error(err)
	}
}
