// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// IsSocket reports that a request wants to become a WebSocket.
func IsSocket(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// maxTyped bounds one message of a browser, in bytes.
const maxTyped = 64 << 10

// Socket makes a request's connection a WebSocket, whose messages are a stream of bytes.
// Another site's page is refused. If it fails the request is answered.
func Socket(w http.ResponseWriter, r *http.Request) (io.ReadWriteCloser, error) {
	u := websocket.Upgrader{HandshakeTimeout: stuckTime, Error: func(w http.ResponseWriter, _ *http.Request, code int, why error) {
		Tell(w, Fail(code, why))
	}}
	c, err := u.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(maxTyped)
	return &socket{c: c}, nil
}

// socket is read by one goroutine and written by another one.
type socket struct {
	c  *websocket.Conn
	in io.Reader // the rest of a message
}

// Read implements io.Reader.
func (s *socket) Read(b []byte) (int, error) {
	for {
		if s.in == nil {
			var err error
			if _, s.in, err = s.c.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err := s.in.Read(b)
		if err == io.EOF {
			s.in, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements io.Writer.
func (s *socket) Write(b []byte) (int, error) {
	s.c.SetWriteDeadline(time.Now().Add(stuckTime))
	if err := s.c.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements io.Closer.
func (s *socket) Close() error {
	s.c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	return s.c.Close()
}
