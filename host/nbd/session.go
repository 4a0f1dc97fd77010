// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
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

	"tandem/host/certs"
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
	tls                      *tls.Config // nil for none
}

// schemes say how to reach a server: the kind of its socket, and if TLS is used.
var schemes = map[string]struct {
	network string
	tls     bool
}{"nbd": {"tcp", false}, "nbds": {"tcp", true}, "nbd+unix": {"unix", false}, "nbds+unix": {"unix", true}}

// IsURL reports whether a disk is an export of a server, by its name.
func IsURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && schemes[scheme].network != ""
}

// Opens says what a dial of a URL opens beside the connection: a folder of certificates,
// a socket of Unix; and which host it looks for. What does not apply is empty.
func Opens(s string) (certificates, socket, host string) {
	u, err := url.Parse(s)
	if err != nil {
		return "", "", ""
	}
	scheme := schemes[u.Scheme]
	if scheme.tls {
		certificates = u.Query().Get("tls-certificates")
	}
	if scheme.network == "unix" {
		return certificates, u.Query().Get("socket"), ""
	}
	return certificates, "", u.Hostname()
}

// parseURL reads nbd://HOST[:PORT]/EXPORT and nbd+unix:///EXPORT?socket=PATH, as
// doc/uri.md of the NetworkBlockDevice project defines them. nbds and nbds+unix are
// the same with TLS, and with libnbd's parameters: tls-certificates=FOLDER, and
// tls-hostname=NAME if the server's certificate has another name than the URL.
func parseURL(s string) (t target, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return t, err
	}
	t.export = strings.TrimPrefix(u.Path, "/")
	scheme := schemes[u.Scheme]
	host := u.Hostname()
	switch scheme.network {
	case "tcp":
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		t.network, t.address = "tcp", net.JoinHostPort(host, port)
		if host == "" {
			err = errors.New("the host is missing")
		}
	case "unix":
		host = "localhost"
		t.network, t.address = "unix", u.Query().Get("socket")
		if t.address == "" {
			err = errors.New("?socket=PATH is missing")
		}
	default:
		err = fmt.Errorf("scheme %q is not nbd, nbds, nbd+unix or nbds+unix", u.Scheme)
	}
	if len(t.export) > wire.MaxName-64 || strings.ContainsRune(t.export, '@') {
		err = errors.New("the export's name is too long or has an @ in it; the epoch is added by tandem")
	}
	if err == nil && scheme.tls {
		t.tls, err = clientTLS(u.Query().Get("tls-certificates"), orElse(u.Query().Get("tls-hostname"), host))
	}
	return t, err
}

func clientTLS(dir, host string) (*tls.Config, error) {
	if dir == "" {
		return nil, errors.New("?tls-certificates=FOLDER is missing, with ca-cert.pem, client-cert.pem and client-key.pem; 'tandem store certs' makes one")
	}
	cert, pool, err := certs.LoadStandard(dir, certs.Client)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// session is one connection that has entered its export.
type session struct {
	raw         net.Conn
	nc          net.Conn // raw, or TLS over it
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
	s, err := negotiate(nc, t.tls, n)
	if err != nil {
		nc.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	nc.SetDeadline(time.Time{})
	return s, nil
}

// write sends buffers; TLS makes a record of each, so these are joined.
func (s *session) write(b net.Buffers) (err error) {
	if _, secure := s.nc.(*tls.Conn); !secure {
		_, err = b.WriteTo(s.nc)
		return err
	}
	w := bufio.NewWriterSize(s.nc, 16<<10)
	if _, err = b.WriteTo(w); err == nil {
		err = w.Flush()
	}
	return err
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
func negotiate(nc net.Conn, secure *tls.Config, n wire.Name) (*session, error) {
	s := &session{raw: nc, nc: nc, r: bufio.NewReaderSize(nc, 64<<10), maximum: wire.MaxPayload}
	var hello [wire.HelloSize]byte
	if _, err := io.ReadFull(s.r, hello[:]); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	be := binary.BigEndian
	flags := be.Uint16(hello[16:])
	if be.Uint64(hello[:]) != wire.Magic || be.Uint64(hello[8:]) != wire.OptMagic || flags&wire.FlagFixedNewstyle == 0 {
		return nil, errors.New("it is not an NBD server of the fixed newstyle")
	}
	if _, err := nc.Write(be.AppendUint32(nil, uint32(flags&(wire.FlagFixedNewstyle|wire.FlagNoZeroes)))); err != nil {
		return nil, err
	}
	if secure != nil {
		if err := s.startTLS(secure); err != nil {
			return nil, err
		}
	}
	err := s.ask(wire.OptGo, n.String())
	if no := (*refusedError)(nil); n.Fenced() && errors.As(err, &no) && no.kind == wire.RepErrUnknown {
		// Another server takes the name as it is.
		if s.ask(wire.OptInfo, n.Export) == nil {
			return nil, ErrUnfenced
		}
	}
	switch {
	case err != nil:
		return nil, err
	case n.Fenced() && !s.fences():
		return nil, ErrUnfenced
	}
	return s, s.check()
}

// startTLS encrypts what follows.
func (s *session) startTLS(cfg *tls.Config) error {
	if _, err := s.nc.Write(wire.AppendOption(nil, wire.OptStartTLS, nil)); err != nil {
		return err
	}
	kind, data, err := s.readOptReply(wire.OptStartTLS)
	switch {
	case err != nil:
		return err
	case kind != wire.RepAck:
		return fmt.Errorf("no TLS: %w; give the server certificates, or use nbd:// without TLS", &refusedError{kind, data})
	case s.r.Buffered() > 0:
		return errors.New("negotiation: the server goes on without TLS")
	}
	t := tls.Client(s.nc, cfg)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	s.nc, s.r = t, bufio.NewReaderSize(t, 64<<10)
	return nil
}

// ask sends OptGo or OptInfo for an export, and learns from the answer.
func (s *session) ask(option uint32, name string) error {
	b := wire.AppendOption(nil, option, wire.AppendGo(nil, name, wire.InfoBlockSize, wire.InfoDescription))
	if _, err := s.nc.Write(b); err != nil {
		return err
	}
	for range 64 {
		kind, data, err := s.readOptReply(option)
		switch {
		case err != nil:
			return err
		case kind == wire.RepInfo:
			if err := s.learn(data); err != nil {
				return err
			}
		case kind == wire.RepAck:
			return nil
		case kind&wire.RepErr != 0:
			return refused(kind, data)
		}
	}
	return errors.New("the server answers without end")
}

// ErrUnfenced says that a server can't shut out an older epoch.
var ErrUnfenced = errors.New("this NBD server can't fence: a copy of the VM that lost its claim could still write here. " +
	"A protected VM needs its disks on 'tandem store'; on this server run the VM unprotected, with 'tandem run'")

// fences reports whether the server heeds the epoch in an export's name.
func (s *session) fences() bool { return strings.HasPrefix(s.description, wire.StorePrefix) }

func (s *session) readOptReply(option uint32) (kind uint32, data []byte, err error) {
	var h [wire.OptReplySize]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return 0, nil, fmt.Errorf("negotiation: %w", err)
	}
	be := binary.BigEndian
	n := be.Uint32(h[16:])
	if be.Uint64(h[:]) != wire.RepMagic || be.Uint32(h[8:]) != option || n > wire.MaxOption {
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
	if kind == wire.RepErrTLS {
		return fmt.Errorf("%w: give its address as nbds://… with ?tls-certificates=FOLDER", &refusedError{kind, data})
	}
	return &refusedError{kind, data}
}

// refusedError is an answer to an option.
type refusedError struct {
	kind uint32
	text []byte
}

func (e *refusedError) Error() string {
	what := wire.RepErrors[e.kind]
	if what == "" {
		what = fmt.Sprintf("error %#x", e.kind)
	}
	return fmt.Sprintf("the server refused: %s (%q)", what, e.text[:min(len(e.text), 300)])
}
