// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/host/certs"
	"tandem/host/filedisk"
	"tandem/machine/event"
	"tandem/store"
)

const size = 8 << 20

// A disk is the same to a replica, wherever it is.
var _ = []interface {
	Submit(event.DiskRequest)
	Poll() (event.DiskDone, bool)
	Size() uint64
	ReadOnly() bool
	Fenced() bool
	Close() error
}{(*Disk)(nil), (*filedisk.Disk)(nil)}

// loop is the polled loop of a replica, reduced to its disk.
type loop struct {
	*Disk
	t     testing.TB
	woken chan struct{}
	id    uint64
}

func dial(t testing.TB, url string, epoch event.Epoch) *loop {
	t.Helper()
	l, err := tryDial(t, url, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryDial(t testing.TB, url string, epoch event.Epoch) (*loop, error) {
	l := &loop{t: t, woken: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := Dial(ctx, url, epoch, func() {
		select {
		case l.woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, err
	}
	l.Disk = d
	t.Cleanup(func() { d.Close() })
	return l, nil
}

func (l *loop) submit(op event.DiskOp, off, n uint64, data []byte) {
	l.id++
	l.Submit(event.DiskRequest{Device: 3, ID: l.id, Op: op, Offset: off, Length: n, Data: data})
}

func (l *loop) next() event.DiskDone {
	l.t.Helper()
	for {
		if d, ok := l.Poll(); ok {
			return d
		}
		select {
		case <-l.woken:
		case <-time.After(20 * time.Second):
			l.t.Fatalf("nothing done; lost: %v, fenced: %v", l.Lost(), l.Fenced())
		}
	}
}

func (l *loop) do(op event.DiskOp, off, n uint64, data []byte) event.DiskDone {
	l.t.Helper()
	l.submit(op, off, n, data)
	d := l.next()
	if d.ID != l.id || d.Device != 3 {
		l.t.Fatalf("done %d of device %d, want %d of 3", d.ID, d.Device, l.id)
	}
	return d
}

func (l *loop) mustDo(op event.DiskOp, off, n uint64, data []byte) []byte {
	l.t.Helper()
	d := l.do(op, off, n, data)
	if d.Status != event.DiskOK {
		l.t.Fatalf("operation %d at %d of %d bytes: status %d", op, off, n, d.Status)
	}
	return d.Data
}

func (l *loop) awaitFence() {
	l.t.Helper()
	for !l.Fenced() {
		select {
		case <-l.woken:
		case <-time.After(20 * time.Second):
			l.t.Fatalf("not fenced; lost: %v", l.Lost())
		}
	}
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func newDisk(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startStore serves path until stop, at addr or a free port.
func startStore(t testing.TB, path, addr string) (at string, stop func()) {
	t.Helper()
	return serve(t, addr, store.Config{Exports: []store.Export{{Name: "disk", Path: path}}})
}

// startSecureStore serves path with the certificates of a folder.
func startSecureStore(t testing.TB, path, dir string) (at string, stop func()) {
	t.Helper()
	secure, err := store.LoadTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, "127.0.0.1:0", store.Config{TLS: secure, Exports: []store.Export{{Name: "disk", Path: path}}})
}

func serve(t testing.TB, addr string, cfg store.Config) (at string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Serve(ctx, ln, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the store ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// startTool runs a server that Debian has on a socket and returns its URL.
func startTool(t *testing.T, pkg, export string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(args[0])
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", args[0], pkg)
	}
	socket := filepath.Join(t.TempDir(), "socket")
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "SOCKET", socket)
	}
	var out bytes.Buffer
	cmd := exec.Command(path, args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	for {
		if nc, err := net.Dial("unix", socket); err == nil {
			nc.Close()
			return "nbd+unix:///" + export + "?socket=" + socket
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("%q ended: %v\n%s", args, err, &out)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The same operations give the same contents on the store and on the servers
// that Debian has, some of which lack commands.
func TestServers(t *testing.T) {
	at, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	disk := newDisk(t)
	for name, url := range map[string]func(t *testing.T) string{
		"store": func(t *testing.T) string { return "nbd://" + at + "/disk" },
		"nbdkit": func(t *testing.T) string {
			return startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "memory", "8M")
		},
		"nbdkit without zero": func(t *testing.T) string {
			return startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "--filter=nozero", "--filter=blocksize-policy", "memory", "8M", "blocksize-maximum=64K", "blocksize-preferred=4K", "blocksize-minimum=1", "blocksize-error-policy=error")
		},
		"qemu-nbd": func(t *testing.T) string {
			return startTool(t, "qemu-utils", "disk", "qemu-nbd", "-f", "raw", "-x", "disk", "-k", "SOCKET", "-t", "-e", "4", disk)
		},
	} {
		t.Run(name, func(t *testing.T) { operate(t, dial(t, url(t), 0)) })
	}
}

// A server that can't fence is refused for a protected VM, whatever name it takes,
// with what to do.
func TestUnfenced(t *testing.T) {
	disk := newDisk(t)
	for name, url := range map[string]string{
		"any name": startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "memory", "8M"),
		"its own":  startTool(t, "qemu-utils", "disk", "qemu-nbd", "-f", "raw", "-x", "disk", "-k", "SOCKET", "-t", "-e", "4", disk),
	} {
		if _, err := tryDial(t, url, 1); !errors.Is(err, ErrUnfenced) || !strings.Contains(err.Error(), "tandem store") {
			t.Errorf("%s: %v", name, err)
		}
		dial(t, url, 0)
	}
}

// Over TLS a disk is what it is without, on the store and on servers of others; a
// server of another CA or name is refused, and so is one without TLS.
func TestTLS(t *testing.T) {
	dir, other := certificates(t), certificates(t)
	at, _ := startSecureStore(t, newDisk(t), dir)
	_, port, _ := net.SplitHostPort(at)
	creds := "?tls-certificates=" + dir
	disk := newDisk(t)
	for name, url := range map[string]func(t *testing.T) string{
		"store": func(t *testing.T) string { return "nbds://" + at + "/disk" + creds },
		"nbdkit": func(t *testing.T) string {
			return secure(startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "memory", "8M"), creds)
		},
		"qemu-nbd": func(t *testing.T) string {
			return secure(startTool(t, "qemu-utils", "disk", "qemu-nbd", "--object", "tls-creds-x509,id=t,endpoint=server,dir="+dir, "--tls-creds", "t",
				"-f", "raw", "-x", "disk", "-k", "SOCKET", "-t", "-e", "4", disk), creds)
		},
	} {
		t.Run(name, func(t *testing.T) { operate(t, dial(t, url(t), 0)) })
	}
	plain, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	for url, want := range map[string]string{
		"nbds://" + at + "/disk?tls-certificates=" + other:               "certificate",
		"nbds://localhost:" + port + "/disk" + creds:                     "certificate",
		"nbds://127.0.0.1:" + port + "/disk" + creds + "&tls-hostname=x": "certificate",
		"nbd://" + at + "/disk":                                          "nbds://",
		"nbds://" + plain + "/disk" + creds:                              "no TLS",
	} {
		if _, err := tryDial(t, url, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error with %q", url, err, want)
		}
	}
	operate(t, dial(t, "nbds://"+at+"/disk"+creds, 1)) // and with a fence
}

func secure(url, creds string) string {
	return strings.Replace(url, "nbd+unix:", "nbds+unix:", 1) + "&" + creds[1:] + "&tls-hostname=127.0.0.1"
}

func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := certs.NewCA("store")
	if err == nil {
		err = ca.SaveStandard(dir, []string{"127.0.0.1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func operate(t *testing.T, l *loop) {
	if l.Size() != size || l.ReadOnly() {
		t.Fatalf("size %d, read-only %v", l.Size(), l.ReadOnly())
	}
	want := fill('x', size)
	l.mustDo(event.DiskWrite, 0, size, fill('x', size))
	l.mustDo(event.DiskWrite, 512, 3*512, fill('y', 3*512))
	l.mustDo(event.DiskDiscard, 8192, 3<<20, nil)
	l.mustDo(event.DiskWriteZeroes, 4<<20, 512, nil)
	l.mustDo(event.DiskFlush, 0, 0, nil)
	copy(want[512:], fill('y', 3*512))
	copy(want[8192:], make([]byte, 3<<20))
	copy(want[4<<20:], make([]byte, 512))
	if got := l.mustDo(event.DiskRead, 0, size, nil); !bytes.Equal(got, want) {
		t.Error("read returns other contents")
	}
	if got := l.mustDo(event.DiskRead, 0, 0, nil); len(got) != 0 {
		t.Error("an empty read returns data")
	}
	for _, r := range []event.DiskRequest{
		{Op: event.DiskRead, Offset: size, Length: 512},
		{Op: event.DiskRead, Offset: 1<<64 - 512, Length: 1024},
		{Op: event.DiskDiscard, Length: size + 512},
		{Op: event.DiskWrite, Length: 512},
	} {
		if d := l.do(r.Op, r.Offset, r.Length, nil); d.Status != event.DiskIOError {
			t.Errorf("%+v: status %d", r, d.Status)
		}
	}
	if d := l.do(9, 0, 0, nil); d.Status != event.DiskUnsupported {
		t.Errorf("unknown operation: status %d", d.Status)
	}
}

// Overlapping writes land in the order in which they were submitted, although
// many are in flight.
func TestOrder(t *testing.T) {
	at, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	l := dial(t, "nbd://"+at+"/disk", 1)
	const n = 32 << 10
	for round := range 8 {
		for i := range 32 {
			l.submit(event.DiskWrite, uint64(i%3)*512, n, fill(byte(32*round+i), n))
		}
		l.submit(event.DiskRead, 1024, n-1024, nil)
		var last event.DiskDone
		for range 33 {
			last = l.next()
		}
		if want := fill(byte(32*round+31), n-1024); !bytes.Equal(last.Data, want) {
			t.Fatalf("round %d: an earlier write won", round)
		}
	}
}

// proxy stands between disk and store and can cut what goes through it.
type proxy struct {
	net.Listener
	to string

	mu    sync.Mutex
	limit int64 // bytes from the client until the next connection is cut; -1 none
	open  []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: ln, to: to, limit: -1}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.carry(a) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		running.Wait()
	})
	return p
}

func (p *proxy) carry(a net.Conn) {
	defer a.Close()
	b, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer b.Close()
	p.mu.Lock()
	p.open = append(p.open, a, b)
	limit := p.limit
	p.mu.Unlock()
	go func() {
		io.Copy(a, b)
		a.Close()
	}()
	if limit < 0 {
		io.Copy(b, a)
	} else {
		io.CopyN(b, a, limit)
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, nc := range p.open {
		nc.Close()
	}
	p.open = nil
}

func (p *proxy) setLimit(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = n
}

// However often the connection breaks, and wherever, each request is done once
// as far as the loop can see, and the contents are those of an unbroken one.
func TestReconnect(t *testing.T) {
	at, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	p := newProxy(t, at)
	l := dial(t, "nbd://"+p.Addr().String()+"/disk", 1)
	want := make([]byte, size)
	for round := range 30 {
		p.setLimit(int64(100 + round*3001)) // in the handshake, a header, or a payload
		p.cut()
		pending := map[uint64]bool{}
		for i := range 8 {
			off, n := uint64(round*5+i*3)*512, 16*512
			data := fill(byte(8*round+i), n)
			l.submit(event.DiskWrite, off, uint64(n), data)
			copy(want[off:], data)
			pending[l.id] = true
		}
		if round%3 == 0 {
			l.submit(event.DiskDiscard, 0, 4096, nil)
			clear(want[:4096])
			pending[l.id] = true
		}
		p.setLimit(-1)
		p.cut()
		for len(pending) > 0 {
			d := l.next()
			if !pending[d.ID] || d.Status != event.DiskOK {
				t.Fatalf("round %d: done %d, status %d", round, d.ID, d.Status)
			}
			delete(pending, d.ID)
		}
	}
	if got := l.mustDo(event.DiskRead, 0, size, nil); !bytes.Equal(got, want) {
		t.Error("the contents are not those of the writes in order")
	}
	if err := l.Lost(); err != nil {
		t.Errorf("lost after an answer: %v", err)
	}
}

// A request submitted while the store is down is done when it is back.
func TestStoreRestart(t *testing.T) {
	path := newDisk(t)
	at, stop := startStore(t, path, "127.0.0.1:0")
	l := dial(t, "nbd://"+at+"/disk", 5)
	l.mustDo(event.DiskWrite, 0, 512, fill('a', 512))
	stop()
	l.submit(event.DiskWrite, 512, 512, fill('b', 512))
	startStore(t, path, at)
	if d := l.next(); d.Status != event.DiskOK {
		t.Errorf("status %d", d.Status)
	}
	if got := l.mustDo(event.DiskRead, 0, 1024, nil); !bytes.Equal(got, append(fill('a', 512), fill('b', 512)...)) {
		t.Errorf("reads %.3q…", got)
	}
	l.mustDo(event.DiskFlush, 0, 0, nil)
}

// A newer epoch fences the disk: it says so, ends nothing that is outstanding,
// and can't be opened again by the old epoch.
func TestFenced(t *testing.T) {
	at, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	url := "nbd://" + at + "/disk"
	old := dial(t, url, 1)
	old.mustDo(event.DiskWrite, 0, 512, fill('1', 512))
	newer := dial(t, url, 2)
	if got := newer.mustDo(event.DiskRead, 0, 512, nil); !bytes.Equal(got, fill('1', 512)) {
		t.Error("the newer doesn't read what the older wrote")
	}
	old.submit(event.DiskWrite, 0, 512, fill('x', 512))
	old.awaitFence()
	if _, ok := old.Poll(); ok || old.Lost() == nil {
		t.Errorf("the older's write was answered; lost: %v", old.Lost())
	}
	if _, err := tryDial(t, url, 1); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "epoch 2 has it now") {
		t.Errorf("opened by the old epoch: %v", err)
	}
	if got := newer.mustDo(event.DiskRead, 0, 512, nil); !bytes.Equal(got, fill('1', 512)) {
		t.Error("a write of the older landed")
	}
	// The owner of an epoch may close its disk and open it again.
	newer.Close()
	dial(t, url, 2).mustDo(event.DiskFlush, 0, 0, nil)
}

// A reader reads what the owner of any epoch has written, ends nobody, writes
// nothing, and needs a store.
func TestReader(t *testing.T) {
	at, _ := startStore(t, newDisk(t), "127.0.0.1:0")
	url := "nbd://" + at + "/disk"
	owner := dial(t, url, 3)
	owner.mustDo(event.DiskWrite, 0, 512, fill('1', 512))
	reader := &loop{t: t, woken: make(chan struct{}, 1)}
	var err error
	if reader.Disk, err = DialReader(context.Background(), url, func() { reader.woken <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if got := reader.mustDo(event.DiskRead, 0, 512, nil); !bytes.Equal(got, fill('1', 512)) {
		t.Error("the reader reads something else")
	}
	if d := reader.do(event.DiskWrite, 0, 512, fill('x', 512)); d.Status != event.DiskIOError || !reader.ReadOnly() {
		t.Errorf("the reader writes: status %d", d.Status)
	}
	dial(t, url, 4).mustDo(event.DiskWrite, 0, 512, fill('2', 512))
	owner.awaitFence()
	if got := reader.mustDo(event.DiskRead, 0, 512, nil); !bytes.Equal(got, fill('2', 512)) || reader.Fenced() {
		t.Error("the reader does not read on")
	}
	nbdkit := startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "memory", "8M")
	if _, err := DialReader(context.Background(), nbdkit, func() {}); !errors.Is(err, ErrUnfenced) {
		t.Errorf("a reader of another server: %v", err)
	}
}

// A disk grows by request, and what is new reads as zeros and can be written; a reader
// learns of it and can't do it itself. A store that is started again has the larger disk;
// another server's can't be made larger from here.
func TestGrow(t *testing.T) {
	path := newDisk(t)
	at, stop := startStore(t, path, "127.0.0.1:0")
	url := "nbd://" + at + "/disk"
	owner := dial(t, url, 3)
	small := owner.Size()
	large := 2 * small
	reader := &loop{t: t, woken: make(chan struct{}, 1)}
	var err error
	if reader.Disk, err = DialReader(context.Background(), url, func() { reader.woken <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if d := reader.do(event.DiskGrow, 0, large, nil); d.Status != event.DiskIOError {
		t.Errorf("a reader makes the disk larger: status %d", d.Status)
	}
	if d := owner.do(event.DiskWrite, large-512, 512, fill('1', 512)); d.Status != event.DiskIOError {
		t.Errorf("a write beyond the end: status %d", d.Status)
	}
	owner.mustDo(event.DiskGrow, 0, large, nil)
	owner.mustDo(event.DiskGrow, 0, small, nil) // it is as large as that
	owner.mustDo(event.DiskWrite, large-512, 512, fill('1', 512))
	reader.mustDo(event.DiskGrow, 0, large, nil)
	want := append(make([]byte, 512), fill('1', 512)...)
	if got := reader.mustDo(event.DiskRead, large-1024, 1024, nil); !bytes.Equal(got, want) {
		t.Error("the reader reads something else at the new end")
	}
	if st, err := os.Stat(path); err != nil || uint64(st.Size()) != large || owner.Size() != large {
		t.Errorf("the file has %d bytes (%v), the disk %d, want %d", st.Size(), err, owner.Size(), large)
	}
	if d := owner.do(event.DiskGrow, 0, large+1, nil); d.Status == event.DiskOK {
		t.Error("a part of a sector was added")
	}
	stop()
	startStore(t, path, at)
	if got := owner.mustDo(event.DiskRead, large-1024, 1024, nil); !bytes.Equal(got, want) {
		t.Error("after a restart of the store the new end reads something else")
	}
	nbdkit := dial(t, startTool(t, "nbdkit", "", "nbdkit", "-f", "-U", "SOCKET", "memory", "8M"), 0)
	if d := nbdkit.do(event.DiskGrow, 0, 16<<20, nil); d.Status != event.DiskUnsupported {
		t.Errorf("another server's disk: status %d", d.Status)
	}
}

// Close ends a disk that can't be reached, with requests outstanding.
func TestCloseWhileLost(t *testing.T) {
	at, stop := startStore(t, newDisk(t), "127.0.0.1:0")
	l := dial(t, "nbd://"+at+"/disk", 1)
	stop()
	l.submit(event.DiskWrite, 0, 512, fill('x', 512))
	l.Close()
	l.Close()
	if _, ok := l.Poll(); ok {
		t.Error("the write is done")
	}
}

// Addresses are read as the NBD URI specification says, and errors name the address.
func TestURL(t *testing.T) {
	for url, want := range map[string]target{
		"nbd://host/disk":               {"tcp", "host:10809", "disk", nil},
		"nbd://[::1]:5/a%20b":           {"tcp", "[::1]:5", "a b", nil},
		"nbd://host":                    {"tcp", "host:10809", "", nil},
		"nbd+unix:///disk?socket=/s/ck": {"unix", "/s/ck", "disk", nil},
	} {
		if got, err := parseURL(url); err != nil || got != want || !IsURL(url) {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
	}
	for _, url := range []string{"", "disk", "http://h/x", "nbd:///x", "nbd+unix:///x", "nbd://h/x@3", "nbd://h:x:y/", "nbds://h/x", "nbds://h/x?tls-certificates=/absent"} {
		if _, err := Dial(context.Background(), url, 0, nil); err == nil || !strings.Contains(err.Error(), url) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// BenchmarkWrite is what one write costs a guest on a store of the same host:
// alone, and with a queue of 32.
func BenchmarkWrite(b *testing.B) {
	at, _ := startStore(b, newDisk(b), "127.0.0.1:0")
	for _, c := range []struct {
		name  string
		depth int
	}{{"4KiB/depth=1", 1}, {"4KiB/depth=32", 32}} {
		b.Run(c.name, func(b *testing.B) {
			l := dial(b, "nbd://"+at+"/disk", 1)
			data := fill('x', 4096)
			b.SetBytes(4096)
			left := 0
			for i := 0; b.Loop(); i++ {
				if left == c.depth {
					l.next()
					left--
				}
				l.submit(event.DiskWrite, uint64(i%1024)*4096, 4096, data)
				left++
			}
		})
	}
}
