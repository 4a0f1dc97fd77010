// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// ConsoleProtocol is what a connection with a console is upgraded to.
const ConsoleProtocol = "tandem-console"

// getConsole makes a request's connection one with the console.
func (s *Server) getConsole(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	role := s.status.Role
	s.mu.Unlock()
	if s.join == nil || role != "primary" {
		answer(w, http.StatusConflict, errors.New("this copy has no console: ask the VM's primary"))
		return
	}
	run, err := s.join(req.URL.Query().Get("recent") != "no")
	if err != nil {
		answer(w, http.StatusConflict, err)
		return
	}
	conn, err := Hijack(w)
	if err != nil {
		return
	}
	run(conn)
}

// Hijack answers a request by an upgrade to ConsoleProtocol.
func Hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", ConsoleProtocol); err != nil {
		conn.Close()
		return nil, err
	}
	return &upgraded{conn, buffered.Reader}, nil
}

// upgraded is a connection of which some may have been read already.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (u *upgraded) Read(b []byte) (int, error) { return u.in.Read(b) }

// answerTime is how long the other side may take to agree to an upgrade.
const answerTime = 10 * time.Second

// Upgrade asks for a path on a connection that is of no use for anything else then. It
// closes conn if it fails.
func Upgrade(conn net.Conn, path string) (net.Conn, error) {
	conn.SetDeadline(time.Now().Add(answerTime))
	in := bufio.NewReader(conn)
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: tandem\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", path, ConsoleProtocol)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(in, nil)
	}
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		f := failure{resp.Status}
		json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&f)
		err = errors.New(f.Error)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &upgraded{conn, in}, nil
}

// Splice joins two connections until one ends, and closes both.
func Splice(a, b io.ReadWriteCloser) {
	ended := make(chan struct{}, 2)
	for _, d := range [][2]io.ReadWriteCloser{{a, b}, {b, a}} {
		go func() {
			io.Copy(d[0], d[1])
			ended <- struct{}{}
		}()
	}
	<-ended
	a.Close()
	b.Close()
	<-ended
}
