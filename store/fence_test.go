// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/host/nbd/wire"
)

// slowDisk stops each write between its beginning and its end until it is
// released, and keeps a diary.
type slowDisk struct {
	disk
	begun   chan struct{}
	release chan struct{}

	mu    sync.Mutex
	diary []string
}

func slowDown(s *store) *slowDisk {
	x := s.exports[0]
	d := &slowDisk{disk: x.disk, begun: make(chan struct{}, 1000), release: make(chan struct{})}
	x.disk = d
	return d
}

func (d *slowDisk) WriteAt(b []byte, off uint64) error {
	d.begun <- struct{}{}
	<-d.release
	err := d.disk.WriteAt(b, off)
	d.note(fmt.Sprintf("written %c", b[0]))
	return err
}

func (d *slowDisk) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.diary = append(d.diary, what)
}

// A newer epoch gets in only after the older one's operations have ended, and
// nothing of the older lands after that, however much it had sent.
func TestFenceDrains(t *testing.T) {
	for _, newer := range []string{"disk@2", "disk@1.2"} {
		t.Run(newer, func(t *testing.T) {
			path := newDisk(t)
			var slow *slowDisk
			s := start(t, Config{Exports: []Export{{Name: "disk", Path: path}}}, func(s *store) { slow = slowDown(s) })
			old := entered(t, s.addr, "disk@1.1")
			for range 100 { // many more than are run at once
				old.send(wire.Request{Command: wire.CmdWrite, Length: 1}, []byte("1"))
			}
			for range connectionWork {
				<-slow.begun
			}
			inside := make(chan *client)
			go func() {
				c := entered(t, s.addr, newer)
				slow.note("entered")
				inside <- c
			}()
			old.expectEOF() // the newer has come as far as the fence
			slow.note("old ended")
			close(slow.release)
			c := <-inside
			if code, _ := c.do(wire.Request{Command: wire.CmdWrite, Length: 1}, []byte("2"), 0); code != 0 {
				t.Fatalf("write of the newer: error %d", code)
			}
			want := []string{"old ended"}
			want = append(want, slices.Repeat([]string{"written 1"}, connectionWork)...)
			want = append(want, "entered", "written 2")
			if slow.mu.Lock(); !slices.Equal(slow.diary, want) {
				t.Errorf("diary %q\nwant %q", slow.diary, want)
			}
			slow.mu.Unlock()
			s.stop()
			if b, _ := os.ReadFile(path); !bytes.HasPrefix(b, []byte("2")) {
				t.Errorf("the file begins with %q", b[:1])
			}
		})
	}
}

// Of several that wait at the fence only the newest gets in.
func TestFenceWaiters(t *testing.T) {
	var slow *slowDisk
	s := start(t, Config{Exports: []Export{{Name: "disk", Path: newDisk(t)}}}, func(s *store) { slow = slowDown(s) })
	old := entered(t, s.addr, "disk@1")
	old.send(wire.Request{Command: wire.CmdWrite, Length: 1}, []byte("1"))
	<-slow.begun
	second := dial(t, s.addr)
	second.write(wire.AppendOption(nil, wire.OptGo, wire.AppendGo(nil, "disk@2")))
	old.expectEOF()
	third := make(chan *client)
	go func() { third <- entered(t, s.addr, "disk@3") }()
	second.expectEOF()
	close(slow.release)
	if code, _ := (<-third).do(wire.Request{Command: wire.CmdFlush}, nil, 0); code != 0 {
		t.Errorf("the newest: error %d", code)
	}
	expectRefused(t, s.addr, "disk@2", "epoch 3 has it now")
}

// Older epochs and tries are refused, equal ones stand side by side, and
// unprotected clients are let in only before the first epoch or by the flag.
func TestFenceOrder(t *testing.T) {
	path := newDisk(t)
	cfg := Config{Exports: []Export{{Name: "disk", Path: path}}}
	s := start(t, cfg, nil)
	bare, bare2 := entered(t, s.addr, "disk"), entered(t, s.addr, "")
	bare.alive()
	bare2.alive()
	a := entered(t, s.addr, "disk@4")
	bare.expectEOF()
	bare2.expectEOF()
	b := entered(t, s.addr, "disk@4")
	a.alive()
	b.alive()
	expectRefused(t, s.addr, "disk@3", "fenced: epoch 3")
	expectRefused(t, s.addr, "disk@3.9", "fenced: epoch 3")
	expectRefused(t, s.addr, "disk", "fenced: export disk belongs to a protected VM")
	c := entered(t, s.addr, "disk@4.2")
	a.expectEOF()
	b.expectEOF()
	expectRefused(t, s.addr, "disk@4.1", "superseded")
	beside := entered(t, s.addr, "disk@4")
	c.alive()
	beside.alive()
	s.stop()

	cfg.AllowUnprotected = true
	s = start(t, cfg, nil)
	bare = entered(t, s.addr, "disk")
	bare.alive()
	expectRefused(t, s.addr, "disk@3", "fenced: epoch 3")
	entered(t, s.addr, "disk@4.1").alive()
	bare.expectEOF()
}

// alive shows that a connection is served.
func (c *client) alive() {
	c.t.Helper()
	if code, _ := c.do(wire.Request{Command: wire.CmdFlush}, nil, 0); code != 0 {
		c.t.Errorf("flush: error %d", code)
	}
}

// The newest epoch outlives the store, whatever its end, also in another folder.
func TestFenceRestart(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		path := newDisk(t)
		cfg := Config{Exports: []Export{{Name: "disk", Path: path}}, StateDir: dir}
		s := start(t, cfg, nil)
		entered(t, s.addr, "disk@7")
		// The file is there before the client is told that it is in.
		state := filepath.Join(filepath.Dir(path), "disk.epoch")
		if dir != "" {
			state = filepath.Join(dir, "disk.epoch")
		}
		if b, err := os.ReadFile(state); err != nil || string(b) != "7\n" {
			t.Errorf("state %q, %v", b, err)
		}
		s.stop()
		s = start(t, cfg, nil)
		expectRefused(t, s.addr, "disk@6", "epoch 7 has it now")
		expectRefused(t, s.addr, "disk", "protected VM")
		entered(t, s.addr, "disk@7").alive()
		entered(t, s.addr, "disk@8").alive()
		s.stop()
	}
}

// An epoch that can't be kept is not let in, and the one before it goes on.
func TestFenceNotKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, Config{Exports: []Export{{Name: "disk", Path: newDisk(t)}}, StateDir: dir}, nil)
	old := entered(t, s.addr, "disk@1")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if kind, text := dial(t, s.addr).enter("disk@2"); kind != wire.RepErrPlatform {
		t.Errorf("epoch 2: reply %#x %q", kind, text)
	}
	old.alive()
	entered(t, s.addr, "disk@1").alive()
}

// Nonsense at any point of the protocol ends that connection only: the store
// neither stops nor changes what others see.
func TestHostile(t *testing.T) {
	s := serveDisk(t, newDisk(t))
	good := entered(t, s.addr, newestOfAll)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		feed(s.store, hostile(rnd))
	}
	good.alive()
}

// newestOfAll is an epoch that no other can end.
const newestOfAll = "disk@18446744073709551615"

// hostile is a session of which some bytes are wrong.
func hostile(rnd *rand.Rand) []byte {
	b := session(newestOfAll)
	for range rnd.IntN(4) {
		b[rnd.IntN(len(b))] = byte(rnd.Uint32())
	}
	return b[:rnd.IntN(len(b)+1)]
}

// session is all that a well-behaved client sends.
func session(name string) []byte {
	b := []byte{0, 0, 0, 3}
	b = wire.AppendOption(b, wire.OptList, nil)
	b = wire.AppendOption(b, wire.OptInfo, wire.AppendGo(nil, name, wire.InfoBlockSize))
	b = wire.AppendOption(b, wire.OptGo, wire.AppendGo(nil, name, wire.InfoBlockSize))
	for _, r := range []wire.Request{
		{Command: wire.CmdRead, Offset: 4096, Length: 4096},
		{Command: wire.CmdTrim, Offset: 4096, Length: 4096},
		{Command: wire.CmdWriteZeroes, Offset: 8192, Length: 4096},
		{Command: wire.CmdFlush},
		{Command: wire.CmdRead, Offset: 4096, Length: 1 << 20},
	} {
		b = r.Append(b)
	}
	return b
}

// feed runs a connection on b and returns when the store has ended it.
func feed(s *store, b []byte) {
	ours, theirs := net.Pipe()
	c := newConn(s, theirs)
	var pump sync.WaitGroup
	pump.Go(func() { // replies must be taken, or the store waits
		buf := make([]byte, 4096)
		for {
			if _, err := ours.Read(buf); err != nil {
				return
			}
		}
	})
	pump.Go(func() {
		ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
		ours.Write(b)
		ours.Close()
	})
	c.serve()
	pump.Wait()
}

// No input makes the store panic or hang.
func FuzzServe(f *testing.F) {
	s := serveDisk(f, newDisk(f))
	f.Add(session("disk"))
	f.Add(session("disk@1.1"))
	f.Add(wire.AppendOption([]byte{0, 0, 0, 1}, wire.OptExportName, []byte("disk")))
	f.Add(wire.AppendOption([]byte{0, 0, 0, 3}, 0xffff, make([]byte, wire.MaxOption)))
	f.Fuzz(func(t *testing.T, b []byte) { feed(s.store, b) })
}
