// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host/filedisk"
	"tandem/host/nbd/wire"
)

// conn is one client. Its goroutine reads requests and hands them to workers,
// which it starts as they are needed and waits for at the end; they reply in
// any order.
type conn struct {
	store    *store
	raw      net.Conn
	nc       net.Conn // raw, or TLS over it
	r        *bufio.Reader
	log      *slog.Logger
	noZeroes bool

	export  *export       // set by negotiate
	reader  bool          // so is this: it may not write
	turn    turn          // guarded by export.mu
	ended   bool          // guarded by export.mu: a newer turn has begun
	cut     atomic.Bool   // set with ended: start nothing more
	drained chan struct{} // closed when no operation is in progress and none can begin

	work    chan job
	workers sync.WaitGroup
	memory  memory

	mu       sync.Mutex // held while a reply is sent, and for closing
	closing  bool
	sendDead bool
}

// job is a request with its payload, and the memory that it holds.
type job struct {
	wire.Request
	data []byte
	held int
}

func newConn(s *store, nc net.Conn) *conn {
	return &conn{
		store:   s,
		raw:     nc,
		nc:      nc,
		r:       bufio.NewReaderSize(nc, 64<<10),
		log:     s.log.With("client", nc.RemoteAddr()),
		drained: make(chan struct{}),
		work:    make(chan job),
		memory:  newMemory(connectionMemory),
	}
}

func (c *conn) serve() {
	defer func() { c.nc.Close() }()
	defer close(c.drained)
	err := c.negotiate()
	if c.export != nil {
		defer c.export.leave(c)
	}
	if err == nil {
		c.log.Info("client entered")
		err = c.transmit()
		c.log.Info("client left", "reason", err)
	} else if !errors.Is(err, errBye) && !errors.Is(err, io.EOF) {
		c.log.Warn("handshake failed", "reason", err)
	}
}

// end cuts the connection at once. What is in progress goes on until it is
// done; what was only received is dropped, as if it had been lost on the way.
func (c *conn) end() {
	c.cut.Store(true)
	c.raw.Close() // TLS might wait to say goodbye
}

// finish lets the connection end after what it has in progress: no further
// request is read, the replies get a moment to leave.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.raw.SetReadDeadline(time.Now())
	c.raw.SetWriteDeadline(time.Now().Add(5 * time.Second))
}

// allow gives the client this long to go on, or for ever if it is 0.
func (c *conn) allow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing: // has its deadline already
	case d == 0:
		c.raw.SetDeadline(time.Time{})
	default:
		c.raw.SetDeadline(time.Now().Add(d))
	}
}

// transmit serves requests until the client leaves, breaks the protocol or is ended.
func (c *conn) transmit() error {
	defer c.workers.Wait()
	defer close(c.work)
	c.allow(0)
	workers := 0
	for {
		j, err := c.next()
		if err != nil {
			return err
		}
		if c.cut.Load() {
			return errCut
		}
		select {
		case c.work <- j:
			continue
		default:
		}
		if workers < connectionWork {
			workers++
			c.workers.Go(c.worker)
		}
		c.work <- j
	}
}

// next reads a request that can be carried out, and answers those that can't.
func (c *conn) next() (j job, err error) {
	for {
		var h [wire.RequestSize]byte
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			return j, err
		}
		req, ok := wire.ParseRequest(h[:])
		if !ok {
			return j, errText
		}
		if req.Command == wire.CmdDisc {
			return j, errBye
		}
		if j, err = c.payload(req); err != nil {
			return j, err
		}
		code := c.check(req)
		if code == 0 {
			return j, nil
		}
		c.memory.release(j.held)
		c.respond(req, code, nil)
	}
}

// payload sets memory aside for a request and reads the data of a write. Data
// that are too long to be skipped end the connection.
func (c *conn) payload(req wire.Request) (j job, err error) {
	j.Request = req
	n := int(req.Length)
	switch {
	case req.Command != wire.CmdRead && req.Command != wire.CmdWrite:
		return j, nil
	case req.Length > wire.MaxPayload && req.Command == wire.CmdWrite:
		return j, errors.New("write of more than 32 MiB")
	case req.Length > wire.MaxPayload:
		return j, nil // refused by check
	}
	c.memory.take(n)
	j.held = n
	if req.Command == wire.CmdWrite {
		j.data, err = readPayload(c.r, n)
	}
	return j, err
}

// readPayload takes memory only a step ahead of what has arrived, so that
// promises alone cost a client more than they cost us.
func readPayload(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, min(n, 1<<20))
	have := 0
	for {
		k, err := io.ReadFull(r, b[have:])
		if have += k; err != nil || have == n {
			return b, err
		}
		grown := make([]byte, min(n, 4*have))
		copy(grown, b)
		b = grown
	}
}

// commandFlags are the flags that each command takes.
var commandFlags = map[uint16]uint16{
	wire.CmdRead:        wire.CmdFlagFUA,
	wire.CmdWrite:       wire.CmdFlagFUA,
	wire.CmdFlush:       wire.CmdFlagFUA,
	wire.CmdTrim:        wire.CmdFlagFUA,
	wire.CmdWriteZeroes: wire.CmdFlagFUA | wire.CmdFlagNoHole,
	wire.CmdResize:      0,
}

// check returns the error of a request that can't be carried out, or 0.
func (c *conn) check(r wire.Request) uint32 {
	flags, known := commandFlags[r.Command]
	size := c.export.disk.Size()
	outside := r.Offset > size || uint64(r.Length) > size-r.Offset
	change := r.Command != wire.CmdRead && r.Command != wire.CmdFlush
	switch {
	case !known || r.Flags&^flags != 0:
		return wire.EINVAL
	case r.Command == wire.CmdFlush:
		return 0
	case r.Command == wire.CmdResize: // to what it has by now, a reader may, who learns of it so
		return c.checkResize(r.Offset)
	case change && c.readOnly():
		return wire.EPERM
	case outside && (r.Command == wire.CmdWrite || r.Command == wire.CmdWriteZeroes):
		return wire.ENOSPC
	case outside || r.Command == wire.CmdRead && r.Length > wire.MaxPayload:
		return wire.EINVAL
	}
	return 0
}

// checkResize returns the error of a size that the export can't be given.
func (c *conn) checkResize(size uint64) uint32 {
	switch now := c.export.disk.Size(); {
	case size < now || size > math.MaxInt64 || size%filedisk.SectorSize != 0:
		return wire.EINVAL
	case size > now && c.readOnly():
		return wire.EPERM
	}
	return 0
}

func (c *conn) readOnly() bool { return c.reader || c.export.readOnly }

var errCut = errors.New("fenced by a newer connection")

func (c *conn) worker() {
	for j := range c.work {
		if c.cut.Load() {
			continue
		}
		data, err := c.run(j)
		if err != nil && err != errCut {
			c.log.Error("operation failed", "command", j.Command, "offset", j.Offset, "length", j.Length, "error", err)
		}
		if err != nil {
			data = nil
		}
		c.respond(j.Request, errorCode(err), data)
		c.memory.release(j.held)
	}
}

func (c *conn) run(j job) (data []byte, err error) {
	d := c.export.disk
	switch j.Command {
	case wire.CmdRead:
		data = make([]byte, j.Length)
		return data, d.ReadAt(data, j.Offset)
	case wire.CmdWrite:
		err = d.WriteAt(j.data, j.Offset)
	case wire.CmdTrim:
		err = c.zero(j, true)
	case wire.CmdWriteZeroes:
		err = c.zero(j, j.Flags&wire.CmdFlagNoHole == 0)
	case wire.CmdFlush:
		return nil, d.Sync()
	case wire.CmdResize:
		return nil, d.Grow(j.Offset)
	}
	if err == nil && (j.Flags&wire.CmdFlagFUA != 0 || c.store.cfg.SyncWrites) {
		err = d.Sync()
	}
	return nil, err
}

// zero works in parts, since a newer epoch waits for its end and not every file
// system clears a range at once.
func (c *conn) zero(j job, hole bool) error {
	const part = 32 << 20
	off, end := j.Offset, j.Offset+uint64(j.Length)
	for ; off < end; off += part {
		if c.cut.Load() {
			return errCut
		}
		if err := c.export.disk.Zero(off, min(part, end-off), hole); err != nil {
			return err
		}
	}
	return nil
}

func errorCode(err error) uint32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return wire.ENOSPC
	case errors.Is(err, unix.EPERM):
		return wire.EPERM
	case errors.Is(err, unix.ENOTSUP):
		return wire.ENOTSUP
	}
	return wire.EIO
}

// respond sends a reply. A client that doesn't take it is cut off.
func (c *conn) respond(req wire.Request, code uint32, data []byte) {
	head := wire.Reply{Error: code, Cookie: req.Cookie}.Append(make([]byte, 0, wire.ReplySize))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sendDead {
		return
	}
	if !c.closing {
		c.raw.SetWriteDeadline(time.Now().Add(sendTime))
	}
	b := net.Buffers{head, data}
	if len(data) == 0 {
		b = net.Buffers{head}
	}
	if _, err := b.WriteTo(c.nc); err != nil {
		c.sendDead = true
		c.raw.Close()
	}
}

// memory bounds the payloads that are held for one client.
type memory struct {
	mu    *sync.Mutex
	freed *sync.Cond
	left  int
}

func newMemory(n int) memory {
	mu := &sync.Mutex{}
	return memory{mu: mu, freed: sync.NewCond(mu), left: n}
}

// take waits until n bytes are left. Only the goroutine that reads requests calls it.
func (m *memory) take(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.left < n {
		m.freed.Wait()
	}
	m.left -= n
}

func (m *memory) release(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left += n
	m.freed.Signal()
}
