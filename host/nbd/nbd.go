// SPDX-License-Identifier: Apache-2.0

// Package nbd is a virtual disk on an NBD server: the shared disk of a pair,
// usually served by package store.
//
// A Disk is used by one loop that polls, like filedisk.Disk. Two goroutines do
// the talking:
//
//	loop ──Submit──► overlap.Queue ──► sender ──► server
//	loop ◄──Poll──── done ◄────────── receiver ◄──┘
//	                                  └── wake ──► loop
//
// If the connection is lost, outstanding requests stay outstanding: the
// receiver connects again, however long it takes, and they are sent once more.
// That is sound because none of them overlaps another (package overlap), so
// doing one twice changes nothing, and because the store drains the old
// connection before it admits the new one (wire.Name). With epoch 0, or another
// server, that last part rests on the server having noticed the loss.
//
// It ends when the store says that a newer epoch has the disk: then this replica
// has lost its VM, Fenced reports true, and nothing outstanding is ever done.
package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem/host/nbd/wire"
	"tandem/machine/event"
	"tandem/world/overlap"
)

// Disk runs the requests of one virtual disk.
type Disk struct {
	target target
	epoch  event.Epoch
	reader bool
	wake   func()
	size   uint64
	flags  uint16
	stop   context.CancelFunc
	ended  chan struct{} // closed by run
	ready  atomic.Int32  // len(done), so that an empty Poll takes no lock
	fenced atomic.Bool
	kick   chan struct{} // the sender has something to send

	mu      sync.Mutex
	session *session // nil while the connection is lost
	err     error    // why it was lost
	queue   overlap.Queue
	begun   []*op          // requests that may be in the server's hands, in order
	unsent  []*op          // those of begun with a part to send
	sent    map[uint64]*op // those of begun with a part at the server, by cookie
	cookie  uint64         // the last one used, in any session
	done    []event.DiskDone
	closed  bool

	// Writes acknowledged but not flushed are lost if the server's host is
	// restarted, which its description tells; then no flush may claim otherwise.
	server   string // description
	changes  uint64 // acknowledged
	flushed  uint64 // of those, covered by a flush
	lostData bool
}

// op is a request on its way. It travels in parts, one at a time, if it is
// larger than what the server takes.
type op struct {
	req     event.DiskRequest
	at      uint64 // bytes that are done
	part    uint64 // bytes at the server
	data    []byte // of a read
	changes uint64 // Disk.changes when a flush was sent
}

// tries numbers the connections of this process, for wire.Name: an epoch
// belongs to one process.
var tries atomic.Uint64

// Dial connects to the export at url (see parseURL) on behalf of an epoch; 0 is an
// unprotected VM, and any NBD server will do. With an epoch it must be a store, and
// Dial returns after all older epochs are drained: ErrUnfenced if it is none. wake is called
// after each completion and when the disk is fenced, mostly by other goroutines
// and also within Submit; it must not block.
func Dial(ctx context.Context, url string, epoch event.Epoch, wake func()) (*Disk, error) {
	return open(ctx, url, &Disk{epoch: epoch, wake: wake})
}

// DialReader connects to an export of a store in order to read only, whatever epoch
// has it: a backup's way to the shared disk. It fences nobody.
func DialReader(ctx context.Context, url string, wake func()) (*Disk, error) {
	return open(ctx, url, &Disk{reader: true, wake: wake})
}

func open(ctx context.Context, url string, d *Disk) (*Disk, error) {
	t, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", url, err)
	}
	d.target, d.ended, d.kick, d.sent = t, make(chan struct{}), make(chan struct{}, 1), map[uint64]*op{}
	s, err := connect(ctx, t, d.name())
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", url, err)
	}
	d.size, d.flags, d.server = s.size, s.flags, s.description
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.session = s
	go d.run(ctx, s)
	return d, nil
}

func (d *Disk) name() wire.Name {
	if d.epoch == 0 {
		return wire.Name{Export: d.target.export, Reader: d.reader}
	}
	return wire.Name{Export: d.target.export, Epoch: uint64(d.epoch), Try: tries.Add(1)}
}

// Size is the number of bytes.
func (d *Disk) Size() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// ReadOnly reports whether changes are refused.
func (d *Disk) ReadOnly() bool { return d.flags&wire.FlagReadOnly != 0 }

// Fenced reports whether a newer epoch has taken the disk over.
func (d *Disk) Fenced() bool { return d.fenced.Load() }

// Lost returns why there is no connection just now, or nil if there is one.
func (d *Disk) Lost() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil {
		return nil
	}
	return d.err
}

// Submit starts a request, or lets it wait for an earlier one that it overlaps.
// It never waits itself. Data must not change until it is done.
func (d *Disk) Submit(r event.DiskRequest) {
	d.mu.Lock()
	d.queue.Submit(r)
	woken := d.begin()
	d.mu.Unlock()
	if woken {
		d.wake()
	}
}

// Poll takes a finished request.
func (d *Disk) Poll() (done event.DiskDone, ok bool) {
	if d.ready.Load() == 0 {
		return done, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	done, d.done = d.done[0], d.done[1:]
	d.ready.Add(-1)
	return done, true
}

// Close ends the connection; what is outstanding is dropped and may or may not
// have been done. wake is not called afterwards.
func (d *Disk) Close() error {
	d.mu.Lock()
	if s := d.session; s != nil && !d.closed && len(d.sent) == 0 {
		s.raw.SetWriteDeadline(time.Now().Add(time.Second))
		s.nc.Write(wire.Request{Command: wire.CmdDisc}.Append(nil))
	}
	d.closed = true
	d.mu.Unlock()
	d.stop()
	<-d.ended
	return nil
}

// begin takes what may start from the queue, with d.mu held. It reports whether
// something is done already.
func (d *Disk) begin() (woken bool) {
	for r, ok := d.queue.Next(); ok; r, ok = d.queue.Next() {
		if status, done := d.immediate(r); done {
			d.finish(&op{req: r}, status)
			woken = true
			continue
		}
		o := &op{req: r}
		d.begun = append(d.begun, o)
		d.send(o)
	}
	return woken
}

// immediate answers what needs no server.
func (d *Disk) immediate(r event.DiskRequest) (status event.DiskStatus, done bool) {
	outside := r.Offset > d.size || r.Length > d.size-r.Offset
	switch {
	case r.Op == event.DiskGrow && r.Length <= d.size:
		return event.DiskOK, true
	case r.Op == event.DiskGrow: // of a server that does not know the command we would never hear again
		return event.DiskUnsupported, !strings.HasPrefix(d.server, wire.StorePrefix)
	case r.Op < event.DiskRead || r.Op > event.DiskWriteZeroes:
		return event.DiskUnsupported, true
	case r.Op == event.DiskFlush:
		// A server without flush keeps nothing in a cache, it says.
		return event.DiskOK, d.flags&wire.FlagFlush == 0
	case outside, r.Op == event.DiskWrite && uint64(len(r.Data)) != r.Length, r.Changes() && d.ReadOnly():
		return event.DiskIOError, true
	}
	return event.DiskOK, r.Length == 0
}

func (d *Disk) send(o *op) {
	d.unsent = append(d.unsent, o)
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// finish completes a request, with d.mu held.
func (d *Disk) finish(o *op, status event.DiskStatus) {
	if i := slices.Index(d.begun, o); i >= 0 {
		d.begun = slices.Delete(d.begun, i, i+1)
	}
	done := event.DiskDone{Device: o.req.Device, ID: o.req.ID, Status: status}
	switch {
	case status != event.DiskOK:
	case o.req.Op == event.DiskGrow:
		d.size = max(d.size, o.req.Length)
	case o.req.Op == event.DiskRead:
		done.Data = o.data
	case o.req.Op == event.DiskFlush && d.lostData:
		done.Status = event.DiskIOError
	case o.req.Op == event.DiskFlush:
		d.flushed = max(d.flushed, o.changes)
	}
	d.queue.Done(o.req.ID)
	d.done = append(d.done, done)
	d.ready.Add(1)
}

// run keeps the disk connected until it is closed or fenced.
func (d *Disk) run(ctx context.Context, s *session) {
	defer close(d.ended)
	for s != nil {
		err := d.use(ctx, s)
		d.lose(err)
		s = d.reconnect(ctx)
	}
}

// use runs one connection until it is lost.
func (d *Disk) use(ctx context.Context, s *session) error {
	over, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(over, func() { s.raw.Close() })
	defer stop()
	var sender sync.WaitGroup
	sender.Go(func() {
		d.sendAll(over, s)
		cancel()
	})
	err := d.receiveAll(s)
	cancel()
	s.raw.Close()
	sender.Wait()
	return err
}

// lose puts all that had begun back, to be sent again in order.
func (d *Disk) lose(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session, d.err = nil, fmt.Errorf("connection to %s lost: %w", d.target.address, err)
	clear(d.sent)
	d.unsent = slices.Clone(d.begun)
}

// reconnect tries until it succeeds; nil means that the disk is closed or fenced.
func (d *Disk) reconnect(ctx context.Context) *session {
	const first, last = 10 * time.Millisecond, time.Second
	for pause := first; ctx.Err() == nil; pause = min(2*pause, last) {
		s, err := connect(ctx, d.target, d.name())
		if err == nil {
			if err = d.resume(s); err == nil {
				return s
			}
			s.raw.Close()
		}
		d.mu.Lock()
		d.err = fmt.Errorf("connecting to %s again: %w", d.target.address, err)
		d.mu.Unlock()
		if errors.Is(err, ErrFenced) {
			d.fenced.Store(true)
			d.wake()
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// resume makes s the connection of the disk, if it is still the same disk.
func (d *Disk) resume(s *session) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.size < d.size || s.flags != d.flags {
		return fmt.Errorf("the export has changed: %d bytes with flags %#x, was %d with %#x; restore it or stop the VM", s.size, s.flags, d.size, d.flags)
	}
	if s.description != d.server && d.flushed < d.changes {
		d.lostData = true
	}
	d.session, d.err, d.server = s, nil, s.description
	return nil
}

func (d *Disk) sendAll(ctx context.Context, s *session) {
	for {
		if b := d.takeUnsent(s); len(b) > 0 {
			if err := s.write(b); err != nil {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		}
	}
}

// takeUnsent gathers requests for one system call.
func (d *Disk) takeUnsent(s *session) (b net.Buffers) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.unsent) > 0 && len(b) < 128 {
		o := d.unsent[0]
		d.unsent = d.unsent[1:]
		d.cookie++
		d.sent[d.cookie] = o
		req, data := d.nextPart(o, s)
		req.Cookie = d.cookie
		b = append(b, req.Append(make([]byte, 0, wire.RequestSize)))
		if len(data) > 0 {
			b = append(b, data)
		}
	}
	return b
}

var zeros [1 << 20]byte

const zeroPart = 128 << 20 // the protocol has 32 bits for it

// nextPart says what to send next of a request. A discard is sent as "write
// zeroes", since after NBD's trim the range need not read as zeros.
func (d *Disk) nextPart(o *op, s *session) (req wire.Request, data []byte) {
	left := o.req.Length - o.at
	switch {
	case o.req.Op == event.DiskRead:
		req.Command, o.part = wire.CmdRead, min(left, s.maximum)
	case o.req.Op == event.DiskWrite:
		req.Command, o.part = wire.CmdWrite, min(left, s.maximum)
		data = o.req.Data[o.at:][:o.part]
	case o.req.Op == event.DiskFlush:
		o.changes = d.changes
		return wire.Request{Command: wire.CmdFlush}, nil
	case o.req.Op == event.DiskGrow:
		o.part = left
		return wire.Request{Command: wire.CmdResize, Offset: o.req.Length}, nil
	case !s.has(wire.FlagWriteZeroes):
		req.Command, o.part = wire.CmdWrite, min(left, s.maximum, uint64(len(zeros)))
		data = zeros[:o.part]
	default:
		req.Command, o.part = wire.CmdWriteZeroes, min(left, zeroPart)
		if o.req.Op == event.DiskWriteZeroes {
			req.Flags = wire.CmdFlagNoHole
		}
	}
	req.Offset, req.Length = o.req.Offset+o.at, uint32(o.part)
	return req, data
}

func (d *Disk) receiveAll(s *session) error {
	for {
		var h [wire.ReplySize]byte
		if _, err := io.ReadFull(s.r, h[:]); err != nil {
			return err
		}
		rep, ok := wire.ParseReply(h[:])
		if !ok {
			return errors.New("the server sent a malformed reply")
		}
		if rep.Error == wire.ESHUTDOWN {
			return errors.New("the server is shutting down")
		}
		d.mu.Lock()
		o := d.sent[rep.Cookie]
		d.mu.Unlock()
		if o == nil {
			return errors.New("the server answered what it was not asked")
		}
		if o.req.Op == event.DiskRead && rep.Error == 0 {
			if err := o.receive(s.r); err != nil {
				return err
			}
		}
		d.answered(o, rep)
	}
}

// receive reads a part of a read. Only the receiver touches o.data before it is done.
func (o *op) receive(r io.Reader) error {
	if o.data == nil {
		o.data = make([]byte, o.req.Length)
	}
	_, err := io.ReadFull(r, o.data[o.at:][:o.part])
	return err
}

// answered takes the answer to a part, and starts what waited for it.
func (d *Disk) answered(o *op, rep wire.Reply) {
	d.mu.Lock()
	delete(d.sent, rep.Cookie)
	woken := false
	if o.at += o.part; rep.Error == 0 && o.at < o.req.Length && o.req.Op != event.DiskFlush {
		d.send(o)
	} else {
		d.finish(o, o.status(rep.Error))
		woken = true
	}
	if o.req.Changes() {
		d.changes++
	}
	d.begin()
	d.mu.Unlock()
	if woken {
		d.wake()
	}
}

func (o *op) status(code uint32) event.DiskStatus {
	switch {
	case code == 0:
		return event.DiskOK
	case code == wire.ENOTSUP, code == wire.EINVAL && o.req.Op == event.DiskGrow: // an older store
		return event.DiskUnsupported
	}
	return event.DiskIOError
}
