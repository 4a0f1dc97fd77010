// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem/machine/event"
	"tandem/vswitch"
)

// Network is what a network device is attached to: a Port or a User. A single
// loop calls it; none of its methods but Close waits.
type Network interface {
	// Send queues a frame. Its data must not be written to afterwards.
	Send(f event.Frame)
	// Flush lets the queued frames go.
	Flush()
	// Recv returns a frame that has arrived; it belongs to the caller.
	Recv() (event.Frame, bool)
	Close() error
}

var _, _ Network = (*Port)(nil), (*User)(nil)

// Times of a port.
const (
	connectTimeout  = 5 * time.Second
	activateTimeout = 2 * time.Second
	closeTimeout    = time.Second
	firstBackoff    = 10 * time.Millisecond
	lastBackoff     = time.Second
)

// tellEvery bounds the frames of which the switch does not know that they are logged.
const tellEvery = 32

// ErrClosed is the error of a port after Close.
var ErrClosed = errors.New("the port is closed")

// Dialer makes a connection to a switch.
type Dialer func(ctx context.Context) (net.Conn, error)

// Port is one replica's attachment to a switch. It connects again by itself, as
// whatever it was last told to be; frames are lost while it has no connection.
//
//	Dial(Backup, e) ── Activate(e+1) ──► forwards ── the switch has a newer epoch ──► Err
//
// Send, Flush, Recv and Activate are for one goroutine.
type Port struct {
	name string
	dial Dialer
	wake func()
	keep bool

	pending  []byte // messages since the last Flush
	messages int
	cursor   cursor
	mark     uint64 // frames up to here are logged
	told     uint64 // and the switch knows of these
	in       inbox
	arrived  uint64 // frames from the switch on all connections; of the goroutine that reads
	dropped  atomic.Uint64
	session  atomic.Pointer[outbox] // of the connection; nil without one

	cancel context.CancelFunc
	done   chan struct{} // the port's goroutines have ended

	mu        sync.Mutex
	hello     Hello         // what the port is to be
	confirmed event.Epoch   // the newest that the switch said is active here
	err       error         // final
	changed   chan struct{} // closed as confirmed or err change
}

// Dial attaches to the switch at addr: HOST:PORT, or the path of a Unix socket,
// which has a slash in it or "unix:" before it. wake is called from another
// goroutine as frames arrive or Err becomes known; it must not block. A switch
// that can't be reached, or refuses, is an error.
func Dial(addr string, hello Hello, wake func()) (*Port, error) {
	network, address := Split(addr)
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	return DialWith(addr, dial, hello, wake)
}

// Split tells the network of a switch's address, tcp or unix, from the rest.
func Split(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok || strings.Contains(addr, "/") {
		return "unix", path
	}
	return "tcp", addr
}

// DialWith is Dial with a connection of the caller's making, such as TLS. name
// is for errors.
func DialWith(name string, dial Dialer, hello Hello, wake func()) (*Port, error) {
	if len(hello.VM) == 0 || len(hello.VM) > vswitch.MaxVMID {
		return nil, fmt.Errorf("switch %s: the VM id is %d bytes long: give 1 to %d", name, len(hello.VM), vswitch.MaxVMID)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Port{name: name, dial: dial, wake: wake, keep: hello.Keep, hello: hello, cancel: cancel,
		done: make(chan struct{}), changed: make(chan struct{})}
	c, err := p.connect(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	go p.run(ctx, c)
	return p, nil
}

// connection is an open one: the stream, its queue, and the hello that it was
// opened with.
type connection struct {
	net.Conn
	in   *messages
	out  *outbox
	sent Hello
}

// connect dials, says hello and waits for the answer. From then on frames can be
// queued.
func (p *Port) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("switch %s can't be reached: %w: check the address and that `tandem switch` runs there", p.name, err)
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	p.mu.Lock()
	c := &connection{conn, newMessages(conn), newOutbox(), p.hello}
	c.out.direct, c.out.base = direct(conn), p.arrived
	p.mu.Unlock()
	if err := p.greet(c); err != nil {
		conn.Close()
		return nil, fmt.Errorf("switch %s: %w", p.name, err)
	}
	p.attach(c)
	return c, nil
}

func (p *Port) greet(c *connection) error {
	if _, err := c.Write(appendHello(nil, c.sent)); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	t, body, err := c.in.next()
	if err != nil {
		return fmt.Errorf("no answer to the hello: %w", err)
	}
	if t == messageClosed {
		return &refusal{string(body), vswitch.ErrStale}
	}
	if t != messageAnswer {
		return fmt.Errorf("message type %d came instead of an answer: is this a `tandem switch`?", t)
	}
	a, err := parseAnswer(body)
	if err != nil {
		return err
	}
	return a.err()
}

// err is the refusal that an answer is, if it is one. The reason is the switch's
// own text; ErrStale is told by its status.
func (a answer) err() error {
	switch a.status {
	case statusDone:
		return nil
	case statusStale:
		return &refusal{a.reason, vswitch.ErrStale}
	}
	return &refusal{a.reason, nil}
}

type refusal struct {
	reason string
	cause  error
}

func (r *refusal) Error() string { return "refused: " + r.reason }
func (r *refusal) Unwrap() error { return r.cause }

// run keeps the port connected until it is closed or replaced.
func (p *Port) run(ctx context.Context, c *connection) {
	defer close(p.done)
	for c != nil {
		final := p.serve(ctx, c)
		if final != nil {
			p.fail(final)
			return
		}
		c = p.reconnect(ctx)
	}
}

// reconnect tries until it succeeds; nil means that the port has ended.
func (p *Port) reconnect(ctx context.Context) *connection {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		c, err := p.connect(ctx)
		if err == nil {
			return c
		}
		if errors.Is(err, vswitch.ErrStale) {
			p.fail(err)
			return nil
		}
	}
}

// serve moves messages until the connection ends. An error is final.
func (p *Port) serve(ctx context.Context, c *connection) (final error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	go c.out.write(c)
	final = p.read(c)
	p.session.Store(nil)
	c.Close()
	c.out.finish([]byte{})
	<-c.out.done
	p.dropped.Add(c.out.dropped.Load())
	return final
}

// attach makes a connection the way out, and catches up with an Activate that
// came while there was none.
func (p *Port) attach(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.sent.Role == vswitch.Primary {
		p.confirm(c.sent.Epoch)
	}
	if p.hello != c.sent {
		c.out.control(appendActivate(nil, p.hello.Epoch))
	}
	p.session.Store(c.out)
}

// confirm notes an active epoch; mu is held.
func (p *Port) confirm(e event.Epoch) {
	p.confirmed = max(p.confirmed, e)
	close(p.changed)
	p.changed = make(chan struct{})
}

// fail notes the port's end.
func (p *Port) fail(err error) {
	p.mu.Lock()
	p.err = err
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.wake()
}

// read takes what the switch sends. It returns an error only if that is final.
func (p *Port) read(c *connection) (final error) {
	arrived := false
	for {
		t, body, err := c.in.next()
		if err != nil {
			return nil
		}
		switch t {
		case messageFrame:
			p.arrived++
			if f, ok := parseFrame(body); ok {
				f.Data = bytes.Clone(f.Data)
				arrived = p.in.put(f, p.arrived) || arrived
			}
		case messageAnswer:
			if err := p.answered(body); err != nil {
				return err
			}
		case messageClosed:
			return fmt.Errorf("switch %s: %w", p.name, &refusal{string(body), vswitch.ErrStale})
		}
		if arrived && !c.in.more() {
			arrived = false
			p.wake()
		}
	}
}

func (p *Port) answered(body []byte) (final error) {
	a, err := parseAnswer(body)
	if err != nil {
		return nil
	}
	if err := a.err(); err != nil {
		return fmt.Errorf("switch %s: activate epoch %d: %w", p.name, a.epoch, err)
	}
	p.mu.Lock()
	p.confirm(a.epoch)
	p.mu.Unlock()
	return nil
}

// Send queues a frame for the next Flush.
func (p *Port) Send(f event.Frame) {
	if len(p.pending)+len(f.Data) > queueBytes {
		p.dropped.Add(1)
		return
	}
	p.pending = appendFrame(p.pending, f)
	p.messages++
}

// Flush gives the queued frames to the connection, in one write if it is idle. What
// is logged is told with them, or when it has become much.
func (p *Port) Flush() {
	if len(p.pending) == 0 && p.mark < p.told+tellEvery {
		return
	}
	if o := p.session.Load(); o != nil {
		if p.mark > max(p.told, o.base) {
			p.pending = appendLogged(p.pending, p.mark-o.base)
		}
		p.told = p.mark // what came by an earlier connection the switch counts no more
		o.batch(p.pending, p.messages)
	} else {
		p.dropped.Add(uint64(p.messages))
	}
	p.pending, p.messages = p.pending[:0], 0
}

// Recv returns a frame that has arrived.
func (p *Port) Recv() (event.Frame, bool) { return p.cursor.recv(&p.in) }

// Mark is the number of the last frame that Recv has returned.
func (p *Port) Mark() uint64 { return p.cursor.mark }

// Logged says that frames up to a mark are in the log of whoever goes live next, so
// that the switch need not keep them for him (Hello.Keep).
func (p *Port) Logged(mark uint64) {
	if p.keep {
		p.mark = max(p.mark, mark)
	}
}

// Activate makes this port the active one of its VM and returns after the switch
// has fenced all older epochs: what their ports sent has arrived, and nothing
// more of them will. Call it only after winning the claim. It waits up to 2 s,
// for a switch that restarts too. After an error that isn't final the port still
// goes on trying, and Activate may be called again.
func (p *Port) Activate(epoch event.Epoch) error {
	p.mu.Lock()
	p.hello.Role, p.hello.Epoch = vswitch.Primary, epoch
	if o := p.session.Load(); o != nil {
		o.control(appendActivate(nil, epoch))
	}
	p.mu.Unlock()

	timeout := time.NewTimer(activateTimeout)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		done, err, changed := p.confirmed >= epoch, p.err, p.changed
		p.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-p.done:
			return p.ended()
		case <-timeout.C:
			return fmt.Errorf("switch %s did not say within %v that epoch %d is active: check that `tandem switch` runs and can be reached", p.name, activateTimeout, epoch)
		}
	}
}

func (p *Port) ended() error {
	if err := p.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// Err is nil while the port may still work. Otherwise a newer port has replaced
// it (vswitch.ErrStale) or the switch refused the epoch: this copy must stop.
func (p *Port) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Connected reports whether the port has a connection to the switch now.
func (p *Port) Connected() bool { return p.session.Load() != nil }

// Dropped counts frames lost to full queues or a missing connection.
func (p *Port) Dropped() uint64 {
	n := p.dropped.Load() + p.in.dropped.Load()
	if o := p.session.Load(); o != nil {
		n += o.dropped.Load()
	}
	return n
}

// Close sends what is queued, if the switch takes it within a second, and detaches.
func (p *Port) Close() error {
	p.Flush()
	if o := p.session.Load(); o != nil {
		o.finish(nil)
		select {
		case <-o.done:
		case <-time.After(closeTimeout):
		}
	}
	p.cancel()
	<-p.done
	return nil
}
