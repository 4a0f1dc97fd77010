// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/host/certs"
	"tandem/host/nbd/wire"
)

const size = 8 << 20

func newDisk(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// server is a store that runs until stop.
type server struct {
	*store
	addr string
	stop func()
}

// start serves cfg; change, if any, looks at the store before its first client.
func start(t testing.TB, cfg Config, change func(*store)) *server {
	t.Helper()
	s, err := open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(s.accept(ctx, ln), s.close()) }()
	srv := &server{store: s, addr: ln.Addr().String()}
	srv.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the store ended with %v", err)
		}
	})
	t.Cleanup(srv.stop)
	return srv
}

func serveDisk(t testing.TB, path string) *server {
	return start(t, Config{Exports: []Export{{Name: "disk", Path: path}}}, nil)
}

// client speaks the protocol by hand.
type client struct {
	t testing.TB
	net.Conn
	size  uint64
	flags uint16
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	c := &client{t: t, Conn: nc}
	if hello := c.read(wire.HelloSize); !bytes.Equal(hello, wire.AppendHello(nil)) {
		t.Fatalf("hello %q", hello)
	}
	c.write([]byte{0, 0, 0, wire.FlagFixedNewstyle | wire.FlagNoZeroes})
	return c
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("reading: %v", err)
	}
	return b
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatalf("writing: %v", err)
	}
}

// optReply reads a reply to an option.
func (c *client) optReply() (kind uint32, data []byte) {
	c.t.Helper()
	h := c.read(wire.OptReplySize)
	return binary.BigEndian.Uint32(h[12:]), c.read(int(binary.BigEndian.Uint32(h[16:])))
}

// enter opens an export; refused is the store's answer if it may not.
func (c *client) enter(name string) (kind uint32, refused string) {
	c.t.Helper()
	c.write(wire.AppendOption(nil, wire.OptGo, wire.AppendGo(nil, name)))
	kind, data := c.optReply()
	if kind != wire.RepInfo {
		return kind, string(data)
	}
	c.size, c.flags = binary.BigEndian.Uint64(data[2:]), binary.BigEndian.Uint16(data[10:])
	if kind, _ = c.optReply(); kind != wire.RepAck {
		c.t.Fatalf("reply %#x after information", kind)
	}
	return kind, ""
}

func entered(t testing.TB, addr, name string) *client {
	t.Helper()
	c := dial(t, addr)
	if kind, text := c.enter(name); kind != wire.RepAck {
		t.Fatalf("%s: refused %#x %q", name, kind, text)
	}
	return c
}

func expectRefused(t testing.TB, addr, name, part string) {
	t.Helper()
	if kind, text := dial(t, addr).enter(name); kind != wire.RepErrPolicy || !strings.Contains(text, part) {
		t.Errorf("%s: reply %#x %q, want a refusal with %q", name, kind, text, part)
	}
}

func (c *client) send(r wire.Request, data []byte) {
	c.t.Helper()
	c.write(append(r.Append(nil), data...))
}

// do carries out one request and returns its error and the n bytes of its answer.
func (c *client) do(r wire.Request, data []byte, n int) (uint32, []byte) {
	c.t.Helper()
	r.Cookie = 77
	c.send(r, data)
	rep, ok := wire.ParseReply(c.read(wire.ReplySize))
	if !ok || rep.Cookie != 77 {
		c.t.Fatalf("reply %+v", rep)
	}
	if rep.Error != 0 {
		return rep.Error, nil
	}
	return 0, c.read(n)
}

func (c *client) expectEOF() {
	c.t.Helper()
	if n, err := c.Conn.Read(make([]byte, 1)); err == nil {
		c.t.Errorf("the connection goes on: %d bytes", n)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the connection was not ended")
	}
}

// Every command does what the protocol says, in the file and for a reader.
func TestCommands(t *testing.T) {
	path := newDisk(t)
	s := serveDisk(t, path)
	c := entered(t, s.addr, "disk")
	if c.size != size || c.flags != 0x16d {
		t.Fatalf("size %d, flags %#x", c.size, c.flags)
	}
	want := bytes.Repeat([]byte{'x'}, size)
	for _, op := range []struct {
		req  wire.Request
		data []byte
	}{
		{wire.Request{Command: wire.CmdWrite, Length: size}, bytes.Clone(want)},
		{wire.Request{Command: wire.CmdWrite, Offset: 777, Length: 3, Flags: wire.CmdFlagFUA}, []byte("abc")},
		{wire.Request{Command: wire.CmdTrim, Offset: 4096, Length: 8192}, nil},
		{wire.Request{Command: wire.CmdWriteZeroes, Offset: 50_000, Length: 1_000_001, Flags: wire.CmdFlagNoHole}, nil},
		{wire.Request{Command: wire.CmdWriteZeroes, Offset: 2 << 20, Length: 1 << 20, Flags: wire.CmdFlagFUA}, nil},
		{wire.Request{Command: wire.CmdFlush}, nil},
	} {
		if code, _ := c.do(op.req, op.data, 0); code != 0 {
			t.Fatalf("%+v: error %d", op.req, code)
		}
		if op.req.Command != wire.CmdFlush {
			copy(want[op.req.Offset:][:op.req.Length], make([]byte, op.req.Length))
			copy(want[op.req.Offset:], op.data)
		}
	}
	if _, got := c.do(wire.Request{Command: wire.CmdRead, Length: size}, nil, size); !bytes.Equal(got, want) {
		t.Error("read returns other contents")
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other contents (%v)", err)
	}
	c.send(wire.Request{Command: wire.CmdDisc}, nil)
	c.expectEOF()
}

// A request that can't be carried out is answered with its error, and the
// connection goes on.
func TestRefusedRequests(t *testing.T) {
	s := start(t, Config{Exports: []Export{{Name: "disk", Path: newDisk(t)}, {Name: "ro", Path: newDisk(t), ReadOnly: true}}}, nil)
	rw, ro := entered(t, s.addr, "disk"), entered(t, s.addr, "ro@3")
	for _, c := range []struct {
		*client
		req  wire.Request
		data string
		want uint32
	}{
		{rw, wire.Request{Command: wire.CmdRead, Offset: size, Length: 1}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdRead, Offset: 1<<64 - 1, Length: 2}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdRead, Length: wire.MaxPayload + 1}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdRead, Length: 1<<32 - 1}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdWrite, Offset: size - 1, Length: 2}, "ab", wire.ENOSPC},
		{rw, wire.Request{Command: wire.CmdWriteZeroes, Offset: 1, Length: size}, "", wire.ENOSPC},
		{rw, wire.Request{Command: wire.CmdTrim, Offset: 1, Length: size}, "", wire.EINVAL},
		{rw, wire.Request{Command: 99}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdRead, Flags: 1 << 9, Length: 1}, "", wire.EINVAL},
		{ro, wire.Request{Command: wire.CmdWrite, Length: 2}, "ab", wire.EPERM},
		{ro, wire.Request{Command: wire.CmdTrim, Length: 2}, "", wire.EPERM},
		{ro, wire.Request{Command: wire.CmdFlush}, "", 0},
		{ro, wire.Request{Command: wire.CmdResize, Offset: 2 * size}, "", wire.EPERM},
		{rw, wire.Request{Command: wire.CmdResize, Offset: size - 512}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdResize, Offset: size + 1}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdResize, Offset: 1 << 63}, "", wire.EINVAL},
		{rw, wire.Request{Command: wire.CmdRead}, "", 0},
	} {
		if code, _ := c.do(c.req, []byte(c.data), 0); code != c.want {
			t.Errorf("%+v: error %d, want %d", c.req, code, c.want)
		}
	}
	rw.send(wire.Request{Command: wire.CmdWrite, Length: wire.MaxPayload + 1}, nil)
	rw.expectEOF()
}

// Options are answered as the protocol says; unknown ones are refused and the
// negotiation goes on.
func TestOptions(t *testing.T) {
	s := start(t, Config{Exports: []Export{{Name: "a", Path: newDisk(t)}, {Name: "b", Path: newDisk(t)}}}, nil)
	c := dial(t, s.addr)
	c.write(wire.AppendOption(nil, 8, nil)) // structured replies
	if kind, _ := c.optReply(); kind != wire.RepErrUnsup {
		t.Errorf("unknown option: %#x", kind)
	}
	c.write(wire.AppendOption(nil, wire.OptList, nil))
	for _, want := range []string{"\x00\x00\x00\x01a", "\x00\x00\x00\x01b", ""} {
		if _, data := c.optReply(); string(data) != want {
			t.Errorf("list: %q, want %q", data, want)
		}
	}
	for _, name := range []string{"", "c", "a@", "a@x", strings.Repeat("n", 4000)} {
		if kind, _ := c.enter(name); kind != wire.RepErrUnknown {
			t.Errorf("export %.20q: reply %#x", name, kind)
		}
	}
	c.write(wire.AppendOption(nil, wire.OptInfo, wire.AppendGo(nil, "a@5", wire.InfoBlockSize, wire.InfoDescription, wire.InfoName, 99)))
	for _, want := range []string{"\x00\x00", "\x00\x03\x00\x00\x00\x01", "\x00\x02tandem store", "\x00\x01a", ""} {
		if _, data := c.optReply(); !strings.HasPrefix(string(data), want) {
			t.Errorf("info: %q, want %q", data, want)
		}
	}
	if s.find("a").newest.epoch != 0 {
		t.Error("looking at an export opened an epoch")
	}
	c.write(wire.AppendOption(nil, wire.OptExportName, []byte("b")))
	if b := c.read(10); binary.BigEndian.Uint64(b) != size {
		t.Errorf("old way in: %x", b)
	}
	if code, _ := c.do(wire.Request{Command: wire.CmdFlush}, nil, 0); code != 0 {
		t.Errorf("flush after the old way in: error %d", code)
	}
	c = dial(t, s.addr)
	c.write(wire.AppendOption(nil, wire.OptAbort, nil))
	if kind, _ := c.optReply(); kind != wire.RepAck {
		t.Errorf("abort: %#x", kind)
	}
	c.expectEOF()
}

// A store that is asked to end finishes what it has begun and answers it.
func TestGracefulStop(t *testing.T) {
	path := newDisk(t)
	var slow *slowDisk
	s := start(t, Config{Exports: []Export{{Name: "disk", Path: path}}}, func(s *store) { slow = slowDown(s) })
	c := entered(t, s.addr, "disk")
	idle := entered(t, s.addr, "disk")
	c.send(wire.Request{Command: wire.CmdWrite, Cookie: 5, Length: 3}, []byte("abc"))
	<-slow.begun
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	idle.expectEOF()
	close(slow.release)
	if rep, ok := wire.ParseReply(c.read(wire.ReplySize)); !ok || rep.Cookie != 5 || rep.Error != 0 {
		t.Errorf("reply %+v", rep)
	}
	c.expectEOF()
	<-stopped
	if b, _ := os.ReadFile(path); !bytes.HasPrefix(b, []byte("abc")) {
		t.Error("the write is lost")
	}
}

// What can't be served is refused with what was wrong and what to do.
func TestConfig(t *testing.T) {
	disk := newDisk(t)
	damaged := newDisk(t)
	if err := os.WriteFile(filepath.Join(filepath.Dir(damaged), "disk.epoch"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  Config
		part string
	}{
		{Config{Exports: []Export{{Name: "a@b", Path: disk}}}, "use letters"},
		{Config{Exports: []Export{{Name: "../a", Path: disk}}}, "use letters"},
		{Config{Exports: []Export{{Name: "a", Path: disk}, {Name: "a", Path: newDisk(t)}}}, "rename"},
		{Config{Exports: []Export{{Name: "a", Path: disk}, {Name: "b", Path: disk}}}, "in use"},
		{Config{Exports: []Export{{Name: "a", Path: disk + ".absent"}}}, "truncate"},
		{Config{Exports: []Export{{Name: "a", Path: disk}}, StateDir: "/absent"}, "state directory"},
		{Config{Exports: []Export{{Name: "disk", Path: damaged}}}, "damaged"},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(context.Background(), ln, c.cfg); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%+v: %v; want an error with %q", c.cfg.Exports, err, c.part)
		}
	}
	if s, err := open(Config{Exports: []Export{{Name: "a", Path: disk}}}); err != nil {
		t.Errorf("the refused configurations keep the disk locked: %v", err)
	} else {
		s.close()
	}
	x := &export{name: "sda"}
	if err := x.openState("", "/dev", true); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("a device without a state directory: %v", err)
	}
}

// tool runs a client that Debian has, which must be there.
func tool(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", name, pkg)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Standard clients use TLS with the folder that we make; without a certificate of
// the CA, or without TLS, nobody gets in.
func TestStandardClientsTLS(t *testing.T) {
	dir, stranger := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, stranger} {
		ca, err := certs.NewCA("store")
		if err == nil {
			err = ca.SaveStandard(d, []string{"127.0.0.1"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	secure, err := LoadTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := newDisk(t)
	s := start(t, Config{TLS: secure, Exports: []Export{{Name: "disk", Path: path}, {Name: "ro", Path: newDisk(t), ReadOnly: true}}}, nil)
	url := "nbds://" + s.addr + "/disk?tls-certificates=" + dir
	if out := tool(t, "libnbd-bin", "nbdinfo", url); !strings.Contains(out, "with TLS") || !strings.Contains(out, "export-size: 8388608") {
		t.Errorf("nbdinfo: %s", out)
	}
	source := filepath.Join(t.TempDir(), "source")
	want := bytes.Repeat([]byte("tandem!\n"), size/8)
	if err := os.WriteFile(source, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "libnbd-bin", "nbdcopy", "--flush", source, url)
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("nbdcopy left other contents in the file")
	}
	host, port, _ := net.SplitHostPort(s.addr)
	out := tool(t, "qemu-utils", "qemu-img", "convert", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+dir, "--image-opts", "-O", "raw",
		"driver=nbd,host="+host+",port="+port+",export=disk,tls-creds=t", source+".back")
	if got, _ := os.ReadFile(source + ".back"); !bytes.Equal(got, want) {
		t.Errorf("qemu-img read other contents: %s", out)
	}
	if out := tool(t, "libnbd-bin", "nbdinfo", strings.Replace(url, "/disk", "/ro", 1)); !strings.Contains(out, "is_read_only: true") {
		t.Errorf("nbdinfo of a read-only export: %s", out)
	}
	for _, bad := range []string{"nbd://" + s.addr + "/disk", "nbds://" + s.addr + "/disk?tls-certificates=" + stranger} {
		if out, err := exec.Command("nbdinfo", bad).CombinedOutput(); err == nil {
			t.Errorf("%s was let in: %s", bad, out)
		}
	}
	c := dial(t, s.addr)
	if kind, _ := c.enter("disk"); kind != wire.RepErrTLS {
		t.Errorf("plain text: reply %#x", kind)
	}
	// Words behind the request for TLS, before its answer, are not taken for the client's.
	c.write(append(wire.AppendOption(nil, wire.OptStartTLS, nil), wire.AppendOption(nil, wire.OptList, nil)...))
	c.expectEOF()
	c = dial(t, s.addr)
	c.write(wire.AppendOption(nil, wire.OptExportName, []byte("disk")))
	c.expectEOF()
}

// With SyncWrites each change is durable when it is answered; without, when a
// client asks for it.
func TestFlushPolicy(t *testing.T) {
	for _, always := range []bool{false, true} {
		synced := &syncCounter{}
		s := start(t, Config{SyncWrites: always, Exports: []Export{{Name: "disk", Path: newDisk(t)}}}, func(s *store) {
			synced.disk = s.exports[0].disk
			s.exports[0].disk = synced
		})
		c := entered(t, s.addr, "disk")
		for _, step := range []struct {
			req  wire.Request
			want int64 // syncs so far, unless always
		}{
			{wire.Request{Command: wire.CmdWrite, Length: 1}, 0},
			{wire.Request{Command: wire.CmdWriteZeroes, Length: 512}, 0},
			{wire.Request{Command: wire.CmdWrite, Length: 1, Flags: wire.CmdFlagFUA}, 1},
			{wire.Request{Command: wire.CmdFlush}, 2},
		} {
			before := synced.n.Load()
			var data []byte
			if step.req.Command == wire.CmdWrite {
				data = []byte("x")
			}
			if code, _ := c.do(step.req, data, 0); code != 0 {
				t.Errorf("%+v: error %d", step.req, code)
			}
			if n := synced.n.Load(); always && n != before+1 || !always && n != step.want {
				t.Errorf("always %v, after %+v: %d syncs, %d before", always, step.req, n, before)
			}
		}
	}
}

// syncCounter counts calls of Sync.
type syncCounter struct {
	disk
	n atomic.Int64
}

func (d *syncCounter) Sync() error {
	d.n.Add(1)
	return d.disk.Sync()
}

// The standard clients can look at an export, write, read, discard and copy it.
func TestStandardClients(t *testing.T) {
	path := newDisk(t)
	s := serveDisk(t, path)
	url := "nbd://" + s.addr + "/disk"
	if out := tool(t, "libnbd-bin", "nbdinfo", "--list", "nbd://"+s.addr); !strings.Contains(out, `export="disk"`) {
		t.Errorf("nbdinfo --list: %s", out)
	}
	if out := tool(t, "libnbd-bin", "nbdinfo", url+"@3"); !strings.Contains(out, "export-size: 8388608") || !strings.Contains(out, "can_multi_conn: true") {
		t.Errorf("nbdinfo: %s", out)
	}
	if out := tool(t, "qemu-utils", "qemu-img", "info", url+"@3"); !strings.Contains(out, "virtual size: 8 MiB") {
		t.Errorf("qemu-img: %s", out)
	}
	out := tool(t, "qemu-utils", "qemu-io", "-f", "raw",
		"-c", "write -P 0xab 0 1M", "-c", "write -f -P 0xcd 1M 4k", "-c", "write -z 64k 64k", "-c", "write -z -u 128k 64k",
		"-c", "discard 256k 64k", "-c", "aio_write -P 1 2M 1M", "-c", "aio_write -P 2 3M 1M", "-c", "aio_read 2M 2M", "-c", "aio_flush", "-c", "flush",
		"-c", "read -P 0xab 0 64k", "-c", "read -P 0 64k 128k", "-c", "read -P 0 256k 64k", "-c", "read -P 0xcd 1M 4k", url+"@3")
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Errorf("qemu-io: %s", out)
	}
	want := make([]byte, size)
	fill := func(c byte, from, to int) { copy(want[from:to], bytes.Repeat([]byte{c}, to-from)) }
	fill(0xab, 0, 1<<20)
	fill(0xcd, 1<<20, 1<<20+4096)
	fill(0, 64<<10, 192<<10)
	fill(0, 256<<10, 320<<10)
	fill(1, 2<<20, 3<<20)
	fill(2, 3<<20, 4<<20)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other contents (%v)", err)
	}
	qcow := filepath.Join(t.TempDir(), "image.qcow2")
	tool(t, "qemu-utils", "qemu-img", "create", "-f", "qcow2", qcow, "8M")
	tool(t, "qemu-utils", "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 5M 64k", qcow)
	tool(t, "qemu-utils", "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, url+"@3")
	want = make([]byte, size)
	fill(0x5a, 5<<20, 5<<20+64<<10)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a converted image has other contents (%v)", err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	tool(t, "libnbd-bin", "nbdcopy", url+"@4", copied) // several connections
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy has other contents (%v)", err)
	}
	if out, err := exec.Command("qemu-img", "info", url+"@3").CombinedOutput(); err == nil || !strings.Contains(string(out), "epoch 4 has it now") {
		t.Errorf("qemu-img with an old epoch: %v %s", err, out)
	}
}
