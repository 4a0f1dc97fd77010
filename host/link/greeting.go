// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// version of the greeting; the packets have one of their own (ft.ProtocolVersion).
const version = 2

// A greeting opens the connection, big-endian:
//
//	0   4  "tndm"
//	4   1  version
//	5  16  identity of the dialing process, random
//	21  2  its UDP port
//
// The answer: "tndm", version, verdict.
const (
	greetingSize = 23
	answerSize   = 6
)

var magic = [4]byte{'t', 'n', 'd', 'm'}

// identity tells one dialing process from another.
type identity [16]byte

type greeting struct {
	id   identity
	port uint16
}

// verdict is the listener's answer.
type verdict byte

const (
	comeIn verdict = iota
	busy
	backup
)

// Who hears these may come again.
var (
	errBusy = errors.New("the listening replica has a live connection to another one; " +
		"if that one is dead, it will notice within its detection timeout")
	errBackup = errors.New("the listening replica is no primary; dial the VM's primary, or wait until this one goes live")
)

func (v verdict) err() error {
	switch v {
	case comeIn:
		return nil
	case busy:
		return errBusy
	case backup:
		return errBackup
	}
	return fmt.Errorf("the listening replica answers with verdict %d, which we don't know", v)
}

// verdictOf is what to answer with an error, comeIn if nothing.
func verdictOf(err error) verdict {
	switch {
	case errors.Is(err, errBusy):
		return busy
	case errors.Is(err, errBackup):
		return backup
	}
	return comeIn
}

func (g greeting) send(w io.Writer) error {
	b := append(magic[:len(magic):len(magic)], version)
	b = append(b, g.id[:]...)
	_, err := w.Write(binary.BigEndian.AppendUint16(b, g.port))
	return err
}

func (g *greeting) receive(r io.Reader) error {
	var b [greetingSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if err := checkHead(b[:]); err != nil {
		return err
	}
	copy(g.id[:], b[5:])
	g.port = binary.BigEndian.Uint16(b[21:])
	if g.port == 0 {
		return errors.New("the peer greets with UDP port 0")
	}
	return nil
}

func (v verdict) send(w io.Writer) error {
	_, err := w.Write(append(magic[:len(magic):len(magic)], version, byte(v)))
	return err
}

func (v *verdict) receive(r io.Reader) error {
	var b [answerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	*v = verdict(b[5])
	return checkHead(b[:])
}

func checkHead(b []byte) error {
	if !bytes.Equal(b[:4], magic[:]) {
		return errors.New("the peer is no replica: it doesn't greet as one")
	}
	if b[4] != version {
		return fmt.Errorf("the peer speaks version %d of the channel, we speak %d; run the same tandem on both hosts",
			b[4], version)
	}
	return nil
}

// protocol is the ALPN name of the channel (RFC 7301).
const protocol = "tandem-channel"

// tlsConfig is the same for both sides: names don't count, so Go's own check of
// the server is replaced by one that both sides make. There are no sessions to
// resume: each connection shows its certificates and has fresh keys.
func (l *Link) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{l.cfg.Certificate},
		NextProtos:                  []string{protocol},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // VerifyConnection does it
		VerifyConnection:            l.verify,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// verify checks the peer's certificate, on both sides and for each connection.
func (l *Link) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return &certificateError{err: errors.New("there is none")}
	}
	leaf, between := state.PeerCertificates[0], x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: l.cfg.Peers, Intermediates: between, CurrentTime: time.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return &certificateError{leaf.Subject.String(), err}
	}
	if state.NegotiatedProtocol != protocol {
		return errors.New("the peer is no replica: its TLS has another purpose")
	}
	return nil
}

// certificateError says why the peer's certificate won't do.
type certificateError struct {
	subject string
	err     error
}

func (e *certificateError) Unwrap() error { return e.err }

func (e *certificateError) Error() string {
	why := e.err.Error()
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(e.err, &unknown):
		why = "it is not issued by this VM's CA; issue both replicas' certificates with the same CA"
	case errors.As(e.err, &invalid) && invalid.Reason == x509.Expired:
		why = "it has expired or is not valid yet; issue a new one, or set the clocks of both hosts (" + why + ")"
	}
	return fmt.Sprintf("the peer's certificate (%s) is refused: %s", e.subject, why)
}

// refusal is the error of a handshake that would fail again.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// explainHandshake adds what the operator can do.
func explainHandshake(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, new(*certificateError)):
		return refusal{err}
	case errors.As(err, &op) && op.Op == "remote error":
		return refusal{fmt.Errorf("the peer refuses our certificate or TLS: %w; "+
			"both replicas' certificates must be issued by this VM's CA and be valid now", err)}
	case errors.As(err, new(tls.RecordHeaderError)):
		return errors.New("what answers doesn't speak TLS; is it the channel's address?")
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the other side ended the connection during the handshake")
	case errors.Is(err, net.ErrClosed):
		return errors.New("it lost its place to newer connections during the handshake")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no handshake within %v", handshakeTime)
	}
	return err
}
