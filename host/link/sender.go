// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/world"
)

const (
	// direct is how much flush encrypts by itself, some 20 µs of work. More is left
	// to the writer.
	direct     = 32 << 10
	recordSize = 16 << 10 // plaintext of a TLS record (RFC 8446 §5.1)
	writeSize  = 256 << 10
	// maxRecords bounds the records that wait for the kernel. Only a peer that asks
	// for key updates and never reads gets there.
	maxRecords = 1 << 20
)

// sender turns packets into the bytes of the connection. Usually flush does it all
// on the caller's goroutine: a thread switch would cost more than encryption and
// system call together. It must not wait, so TLS writes its records to memory
// (socket), and what the kernel doesn't take at once is left to the writer, a
// goroutine that may wait.
type sender struct {
	tls     *tls.Conn
	socket  *socket
	waiting atomic.Int64  // bytes from send to encryption, with heads
	kick    chan struct{} // the writer has something to do
	failed  atomic.Bool   // nothing leaves any more

	turn  sync.Mutex // of who encrypts and writes; flush doesn't wait for it
	plain [recordSize]byte

	pending [][]byte // sent and not flushed; the caller's

	mu      sync.Mutex
	queue   [][]byte // flushed
	first   int      // in queue
	taken   int      // bytes of the first one, its head included
	closing bool     // say goodbye when all has left
}

func (s *sender) rouse() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *sender) send(b []byte) {
	if len(b) > world.MaxPacket {
		panic(fmt.Sprintf("link: a packet of %d bytes is to be sent", len(b)))
	}
	if s.failed.Load() {
		return
	}
	if b == nil {
		b = []byte{} // nil is no packet
	}
	s.pending = append(s.pending, b)
	s.waiting.Add(int64(len(b) + headSize))
}

func (s *sender) backlog() int {
	if s.failed.Load() {
		return 0
	}
	return int(s.waiting.Load() + s.socket.waiting.Load())
}

func (s *sender) flush() {
	if len(s.pending) == 0 {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, s.pending...)
	s.mu.Unlock()
	clear(s.pending)
	s.pending = s.pending[:0]
	if s.backlog() > direct || !s.turn.TryLock() {
		s.rouse()
		return
	}
	err := s.encrypt()
	left := err == nil && s.push()
	s.turn.Unlock()
	if err != nil {
		s.fail()
	}
	// Who found it locked in the meantime has roused the writer by himself.
	if left {
		s.rouse()
	}
}

// push offers the records to the kernel, and reports whether some are left.
func (s *sender) push() (left bool) {
	left, err := s.socket.push()
	if err != nil {
		s.fail()
	}
	return left && err == nil
}

// encrypt makes records of what is queued, at most writeSize at a time. Turn is held.
func (s *sender) encrypt() error {
	s.socket.cork()
	for total := 0; total < writeSize; {
		n := s.take(s.plain[:])
		if n == 0 {
			return nil
		}
		if _, err := s.tls.Write(s.plain[:n]); err != nil {
			return err
		}
		s.waiting.Add(int64(-n))
		total += n
	}
	return nil
}

// take moves the next bytes of the stream to dst.
func (s *sender) take(dst []byte) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(dst) && s.first < len(s.queue) {
		p := s.queue[s.first]
		if s.taken < headSize {
			var head [headSize]byte
			size := uint32(len(p))
			if p == nil {
				size = noPacket
			}
			binary.BigEndian.PutUint32(head[:], size)
			m := copy(dst[n:], head[s.taken:])
			n, s.taken = n+m, s.taken+m
			if s.taken < headSize {
				break
			}
		}
		m := copy(dst[n:], p[s.taken-headSize:])
		n, s.taken = n+m, s.taken+m
		if s.taken < headSize+len(p) {
			break
		}
		s.queue[s.first] = nil
		s.first, s.taken = s.first+1, 0
	}
	if s.first == len(s.queue) {
		s.queue, s.first = s.queue[:0], 0
	}
	return n
}

func (s *sender) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first == len(s.queue)
}

// write is the writer. It ends once done is closed, or all is said after close.
func (s *sender) write(done <-chan struct{}) {
	for {
		select {
		case <-s.kick:
		case <-done:
			return
		}
		s.turn.Lock()
		err := s.drain()
		s.turn.Unlock()
		if err != nil {
			s.fail()
			return
		}
		s.mu.Lock()
		over := s.closing && s.first == len(s.queue)
		s.mu.Unlock()
		if over {
			s.goodbye()
			return
		}
	}
}

func (s *sender) drain() error {
	for {
		if err := s.encrypt(); err != nil {
			return err
		}
		if err := s.socket.drain(); err != nil {
			return err
		}
		if s.empty() {
			return nil
		}
	}
}

// close ends the stream behind what is queued. The caller gives the socket a
// deadline.
func (s *sender) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.rouse()
}

func (s *sender) goodbye() {
	s.tls.CloseWrite()
	s.socket.drain()
	s.socket.CloseWrite()
}

// fail gives up sending. What the peer sent before it died is in the kernel still,
// so the reader goes on: to the end, which must come now.
func (s *sender) fail() {
	s.failed.Store(true)
	s.socket.SetReadDeadline(time.Now().Add(lingerTime))
	s.mu.Lock()
	s.queue, s.first, s.taken = nil, 0, 0
	s.mu.Unlock()
}

// socket is the TCP connection below TLS. Once it is live writes go to memory and
// so never fail for want of time, which a TLS connection would not survive.
type socket struct {
	*net.TCPConn
	raw     syscall.RawConn
	waiting atomic.Int64 // bytes of records, of those being written too
	reads   atomic.Bool  // live

	mu      sync.Mutex
	live    bool
	corked  bool   // whoever holds sender.turn will push
	records []byte // not yet taken by the kernel
	spare   []byte
	rouse   func()
}

func newSocket(c *net.TCPConn) (*socket, error) {
	raw, err := c.SyscallConn()
	return &socket{TCPConn: c, raw: raw}, err
}

func (s *socket) goLive(rouse func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live, s.rouse = true, rouse
	s.reads.Store(true)
}

// SetWriteDeadline is called by TLS with its last alert, and would keep it from leaving.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

var errDeaf = errors.New("the peer asks and does not read")

// Write is called by TLS. When the reader answers a key update nobody else may be
// about to push.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live {
		return s.TCPConn.Write(b)
	}
	if len(s.records)+len(b) > maxRecords {
		return 0, errDeaf
	}
	s.records = append(s.records, b...)
	s.waiting.Add(int64(len(b)))
	if !s.corked {
		s.rouse()
	}
	return len(b), nil
}

// Read is called by TLS. Once the socket is live it does not wait: EAGAIN passes, so
// TLS keeps a part of a record and goes on with it.
func (s *socket) Read(b []byte) (n int, err error) {
	if !s.reads.Load() {
		return s.TCPConn.Read(b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	outer := s.raw.Control(func(fd uintptr) {
		for n, err = unix.Read(int(fd), b); err == unix.EINTR; {
			n, err = unix.Read(int(fd), b)
		}
	})
	switch {
	case outer != nil:
		return 0, outer
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// await waits until Read has something to say.
func (s *socket) await() error {
	return s.raw.Read(func(fd uintptr) bool {
		// Asked for, since an edge that Go's poller saw is forgotten as a wait begins.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

func (s *socket) cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = true
}

// push writes what the kernel takes at once.
func (s *socket) push() (left bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if len(s.records) > 0 {
		n, err = s.try(s.records)
	}
	s.records = append(s.records[:0], s.records[n:]...)
	s.waiting.Add(int64(-n))
	s.corked = false
	return len(s.records) > 0, err
}

// try makes one system call.
func (s *socket) try(b []byte) (n int, err error) {
	outer := s.raw.Write(func(fd uintptr) bool {
		for {
			n, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				return true // whatever came of it, don't wait
			}
		}
	})
	if outer != nil {
		return 0, outer
	}
	if err == unix.EAGAIN {
		return 0, nil
	}
	return max(n, 0), err
}

// drain writes all records and waits for the kernel to take them.
func (s *socket) drain() error {
	for {
		s.mu.Lock()
		b := s.records
		if len(b) == 0 {
			s.corked = false
			s.mu.Unlock()
			return nil
		}
		s.corked = true
		s.records, s.spare = s.spare[:0], b
		s.mu.Unlock()
		if _, err := s.TCPConn.Write(b); err != nil {
			return err
		}
		s.waiting.Add(int64(-len(b)))
	}
}
