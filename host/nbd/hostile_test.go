// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"tandem/host/nbd/wire"
	"tandem/machine/event"
)

// script is a server that follows the protocol as far as the test lets it.
type script struct {
	t  *testing.T
	ln net.Listener
}

func newScript(t *testing.T) *script {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &script{t, ln}
}

func (s *script) url() string { return "nbd://" + s.ln.Addr().String() + "/disk" }

// accept lets a client in, telling it this description.
func (s *script) accept(description string) net.Conn {
	nc, err := s.ln.Accept()
	if err != nil {
		s.t.Error(err)
		return nil
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	nc.Write(wire.AppendHello(nil))
	h := make([]byte, 4+wire.OptionSize)
	io.ReadFull(nc, h)
	io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(h[16:])))
	nc.Write(info(description))
	return nc
}

func info(description string) []byte {
	d := binary.BigEndian.AppendUint64([]byte{0, wire.InfoExport}, size)
	d = binary.BigEndian.AppendUint16(d, wire.FlagHasFlags|wire.FlagFlush|wire.FlagWriteZeroes)
	b := wire.AppendOptReply(nil, wire.OptGo, wire.RepInfo, d)
	b = wire.AppendOptReply(b, wire.OptGo, wire.RepInfo, append([]byte{0, wire.InfoDescription}, description...))
	return wire.AppendOptReply(b, wire.OptGo, wire.RepAck, nil)
}

// answer replies to one request with an error code; its data are skipped.
func answer(nc net.Conn, code uint32) {
	h := make([]byte, wire.RequestSize)
	io.ReadFull(nc, h)
	r, _ := wire.ParseRequest(h)
	if r.Command == wire.CmdWrite {
		io.CopyN(io.Discard, nc, int64(r.Length))
	}
	nc.Write(wire.Reply{Error: code, Cookie: r.Cookie}.Append(nil))
}

// Errors of the server become the status that virtio has for them; one that is
// shutting down is a lost connection.
func TestErrors(t *testing.T) {
	s := newScript(t)
	codes := []struct {
		code uint32
		want event.DiskStatus
	}{
		{0, event.DiskOK}, {wire.EIO, event.DiskIOError}, {wire.ENOTSUP, event.DiskUnsupported},
		{wire.ENOSPC, event.DiskIOError}, {wire.EPERM, event.DiskIOError}, {12345, event.DiskIOError},
	}
	go func() {
		nc := s.accept("")
		for _, c := range codes {
			answer(nc, c.code)
		}
		answer(nc, wire.ESHUTDOWN)
		answer(s.accept(""), 0)
	}()
	l := dial(t, s.url(), 0)
	for _, c := range codes {
		if d := l.do(event.DiskWrite, 0, 512, fill('x', 512)); d.Status != c.want {
			t.Errorf("error %d: status %d, want %d", c.code, d.Status, c.want)
		}
	}
	l.mustDo(event.DiskWrite, 0, 512, fill('x', 512))
}

// After a restart of the server's host, a flush fails if it should have covered
// writes that were acknowledged before: they may be gone.
func TestLostData(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after string
		flushed       bool
		want          event.DiskStatus
	}{
		{"same boot", "boot 1", "boot 1", false, event.DiskOK},
		{"rebooted", "boot 1", "boot 2", false, event.DiskIOError},
		{"rebooted, flushed before", "boot 1", "boot 2", true, event.DiskOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			go func() {
				nc := s.accept(c.before)
				answer(nc, 0)
				if c.flushed {
					answer(nc, 0)
				}
				nc.Close()
				answer(s.accept(c.after), 0)
			}()
			l := dial(t, s.url(), 0)
			l.mustDo(event.DiskWrite, 0, 512, fill('x', 512))
			if c.flushed {
				l.mustDo(event.DiskFlush, 0, 0, nil)
			}
			if d := l.do(event.DiskFlush, 0, 0, nil); d.Status != c.want {
				t.Errorf("status %d, want %d", d.Status, c.want)
			}
		})
	}
}

// A server that answers nonsense is left, and the request is done by the next one.
func TestNonsense(t *testing.T) {
	for name, nonsense := range map[string][]byte{
		"magic":   make([]byte, wire.ReplySize),
		"cookie":  wire.Reply{Cookie: 1 << 60}.Append(nil),
		"cut off": wire.Reply{Cookie: 1}.Append(nil)[:7],
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			go func() {
				nc := s.accept("")
				nc.Write(nonsense)
				nc.(*net.TCPConn).CloseWrite()
				answer(s.accept(""), 0)
				nc.Close()
			}()
			l := dial(t, s.url(), 0)
			l.mustDo(event.DiskWrite, 0, 512, fill('x', 512))
		})
	}
}

// No answer of a server makes the handshake panic, hang or take much memory.
func FuzzNegotiate(f *testing.F) {
	good := append(wire.AppendHello(nil), info("boot")...)
	f.Add(good)
	f.Add(good[:40])
	refused := wire.AppendOptReply(wire.AppendHello(nil), wire.OptGo, wire.RepErrPolicy, []byte(wire.FencedPrefix+"x"))
	f.Add(refused)
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(b)
			theirs.Close()
		}()
		s, err := negotiate(ours, nil, wire.Name{Export: "disk", Epoch: 1, Try: 1})
		ours.Close()
		if err == nil && (s.size == 0 || s.size%512 != 0 || s.maximum < 512) {
			t.Errorf("accepted size %d, maximum %d", s.size, s.maximum)
		}
	})
}
