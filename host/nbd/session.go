// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host/nbd/wire"
)

const (
	dialTime      = 5 * time.Second
	handshakeTime = 30 * time.Second // includes waiting until older epochs are drained
	silence       = 10 * time.Second // a server that acknowledges nothing for so long is gone
	defaultPort   = "10809"
)

// target is where an export is.
type target struct {
	network, address, export string
}

// parseURL reads nbd://HOST[:PORT]/EXPORT and nbd+unix:///EXPORT?socket=PATH, as
// doc/uri.md of the NetworkBlockDevice project defines them.
func parseURL(s string) (t target, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return t, err
	}
	t.export = strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd":
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		t.network, t.address = "tcp", net.JoinHostPort(u.Hostname(), port)
		if u.Hostname() == "" {
			err = errors.New("the host is missing")
		}
	case "nbd+unix":
		t.network, t.address = "unix", u.Query().Get("socket")
		if t.address == "" {
			err = errors.New("?socket=PATH is missing")
		}
	default:
		err = fmt.Errorf("scheme %q is not nbd or nbd+unix", u.Scheme)
	}
	if len(t.export) > wire.MaxName-64 || strings.ContainsRune(t.export, '@') {
		err = errors.New("the export's name is too long or has an @ in it; the epoch is added by tandem")
	}
	return t, err
}

// session is one connection that has entered its export.
type session struct {
	nc          net.Conn
	r           *bufio.Reader
	size        uint64
	flags       uint16
	maximum     uint64 // bytes of a request's payload
	description string
}

func (s *session) has(flag uint16) bool { return s.flags&flag != 0 }

// connect opens a connection and enters the export under the name n.
func connect(ctx context.Context, t target, n wire.Name) (*session, error) {
	d := net.Dialer{
		Timeout:         dialTime,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2},
		Control:         limitSilence,
	}
	nc, err := d.DialContext(ctx, t.network, t.address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	nc.SetDeadline(time.Now().Add(handshakeTime))
	s, err := negotiate(nc, n.String())
	if err != nil {
		nc.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	nc.SetDeadline(time.Time{})
	return s, nil
}

// limitSilence ends a connection whose data the server's host doesn't take.
func limitSilence(network, _ string, rc syscall.RawConn) (err error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	if e := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}

// negotiate runs the client's side of the handshake up to transmission.
func negotiate(nc net.Conn, name string) (*session, error) {
	s := &session{nc: nc, r: bufio.NewReaderSize(nc, 64<<10), maximum: wire.MaxPayload}
	var hello [wire.HelloSize]byte
	if _, err := io.ReadFull(s.r, hello[:]); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	be := binary.BigEndian
	flags := be.Uint16(hello[16:])
	if be.Uint64(hello[:]) != wire.Magic || be.Uint64(hello[8:]) != wire.OptMagic || flags&wire.FlagFixedNewstyle == 0 {
		return nil, errors.New("it is not an NBD server of the fixed newstyle")
	}
	b := be.AppendUint32(nil, uint32(flags&(wire.FlagFixedNewstyle|wire.FlagNoZeroes)))
	b = wire.AppendOption(b, wire.OptGo, wire.AppendGo(nil, name, wire.InfoBlockSize, wire.InfoDescription))
	if _, err := nc.Write(b); err != nil {
		return nil, err
	}
	for range 64 {
		kind, data, err := s.readOptReply()
		switch {
		case err != nil:
			return nil, err
		case kind == wire.RepInfo:
			if err := s.learn(data); err != nil {
				return nil, err
			}
		case kind == wire.RepAck:
			return s, s.check()
		case kind&wire.RepErr != 0:
			return nil, refused(kind, data)
		}
	}
	return nil, errors.New("the server answers without end")
}

func (s *session) readOptReply() (kind uint32, data []byte, err error) {
	var h [wire.OptReplySize]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return 0, nil, fmt.Errorf("negotiation: %w", err)
	}
	be := binary.BigEndian
	n := be.Uint32(h[16:])
	if be.Uint64(h[:]) != wire.RepMagic || be.Uint32(h[8:]) != wire.OptGo || n > wire.MaxOption {
		return 0, nil, errors.New("negotiation: malformed reply")
	}
	data = make([]byte, n)
	if _, err = io.ReadFull(s.r, data); err != nil {
		return 0, nil, fmt.Errorf("negotiation: %w", err)
	}
	return be.Uint32(h[12:]), data, nil
}

// learn takes one kind of information about the export.
func (s *session) learn(data []byte) error {
	be := binary.BigEndian
	if len(data) < 2 {
		return errors.New("negotiation: malformed information")
	}
	kind, data := be.Uint16(data), data[2:]
	switch {
	case kind == wire.InfoExport && len(data) == 10:
		s.size, s.flags = be.Uint64(data), be.Uint16(data[8:])
	case kind == wire.InfoBlockSize && len(data) == 12:
		if least := be.Uint32(data); least > 512 {
			return fmt.Errorf("its smallest block is %d bytes: a guest needs sectors of 512; serve it with 'tandem store'", least)
		}
		s.maximum = min(uint64(be.Uint32(data[8:])), wire.MaxPayload) &^ 511
	case kind == wire.InfoDescription:
		s.description = string(data)
	case kind == wire.InfoExport || kind == wire.InfoBlockSize:
		return errors.New("negotiation: malformed information")
	}
	return nil
}

func (s *session) check() error {
	switch {
	case !s.has(wire.FlagHasFlags):
		return errors.New("negotiation: the server didn't describe the export")
	case s.size == 0 || s.size%512 != 0 || s.size > 1<<62:
		return fmt.Errorf("its size of %d bytes is not a whole number of sectors of 512", s.size)
	case s.maximum == 0:
		return errors.New("the server takes no request of a whole sector")
	}
	return nil
}

// ErrFenced is wrapped by the error of a connection that was refused because a
// newer epoch has the disk. Trying again is of no use.
var ErrFenced = errors.New("a newer epoch has the disk")

func refused(kind uint32, data []byte) error {
	text := string(data[:min(len(data), 300)])
	if kind == wire.RepErrPolicy && strings.HasPrefix(text, wire.FencedPrefix) {
		return fmt.Errorf("%w: the server says %q", ErrFenced, text)
	}
	what := wire.RepErrors[kind]
	if what == "" {
		what = fmt.Sprintf("error %#x", kind)
	}
	return fmt.Errorf("the server refused: %s (%q)", what, text)
}
