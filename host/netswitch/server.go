// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"tandem/machine/event"
	"tandem/vswitch"
)

// Times of the server's side of a port.
const (
	helloTimeout = 5 * time.Second
	endTimeout   = 2 * time.Second // for a replaced port to take its last message
)

// maxConnections bounds streams that have not said hello too.
const maxConnections = 2 * vswitch.MaxPorts

// Server is a switch process: ports, the forwarding state and the gateway.
type Server struct {
	cfg     Config
	gateway *gateway
	start   time.Time
	wg      sync.WaitGroup // connections

	mu     sync.Mutex
	sw     *vswitch.Switch
	uplink vswitch.PortID
	ports  map[vswitch.PortID]*serverPort
	out    []vswitch.PortID // scratch of forward
	absent map[vswitch.MAC]*absence
}

// serverPort is the switch's end of a replica's connection.
type serverPort struct {
	conn     net.Conn
	out      *outbox
	vm       string
	mac      vswitch.MAC
	offloads bool
	keep     bool

	// Server.mu guards these.
	live bool // the VM's, in its epoch
	open bool // answered, so that frames may follow; those before that are kept
	kept kept

	// moving is held while a frame of this port is on its way into the queues
	// and the gateway: who takes it after the port is fenced knows that all has
	// arrived.
	moving sync.Mutex
}

// Serve runs a switch until ctx ends.
func Serve(ctx context.Context, l net.Listener, cfg Config) error {
	s, err := NewServer(cfg)
	if err != nil {
		l.Close()
		return err
	}
	return s.Serve(ctx, l)
}

// NewServer makes a switch and binds its forwards.
func NewServer(cfg Config) (*Server, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, start: time.Now(), sw: vswitch.New(), ports: map[vswitch.PortID]*serverPort{}, absent: map[vswitch.MAC]*absence{}}
	if s.uplink, _, err = s.sw.Open(0, vswitch.Attachment{Role: vswitch.Uplink, MAC: gatewayMAC}); err != nil {
		return nil, err
	}
	s.gateway, err = newGateway(cfg, func(f event.Frame) { s.forward(s.uplink, f) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Addrs are the host addresses of the forwards, in the order of the Config.
func (s *Server) Addrs() []net.Addr { return s.gateway.addrs() }

// Ports describes the open ports; the first is the gateway.
func (s *Server) Ports() []vswitch.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sw.Ports()
}

// Serve accepts ports on l until ctx ends, then closes everything.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("switch: accept on %v: %w", l.Addr(), err)
			}
			// Such as too many open files: others may close theirs.
			s.cfg.Log.Warn("switch: accept failed; trying again", "err", err)
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.serve(conn)
		})
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Close ends a server that Serve does not, because it was never called. The
// connections must have ended, as they have when Serve calls it.
func (s *Server) Close() {
	s.wg.Wait()
	s.gateway.close()
}

func (s *Server) now() vswitch.Time { return vswitch.Time(time.Since(s.start)) }

// serve is one connection from hello to end.
func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	in := newMessages(conn)
	conn.SetDeadline(time.Now().Add(helloTimeout))
	h, err := readHello(in)
	p := &serverPort{conn: conn, out: newOutbox(), vm: h.VM, mac: h.MAC, offloads: h.Offloads, keep: h.Keep}
	var id vswitch.PortID
	if err == nil {
		id, err = s.open(h, p)
	}
	if err != nil {
		s.cfg.Log.Warn("switch: port refused", "vm", h.VM, "epoch", h.Epoch, "role", h.Role.String(), "err", err)
		conn.Write(appendAnswer(nil, answerTo(h.Epoch, err)))
		return
	}
	s.cfg.Log.Info("switch: port open", "port", id, "vm", h.VM, "epoch", h.Epoch, "role", h.Role.String(), "mac", h.MAC.String())
	conn.SetDeadline(time.Time{})
	go p.out.write(conn)
	err = s.read(in, id, p)
	s.detach(id)
	p.out.finish(nil)
	conn.SetDeadline(time.Now().Add(endTimeout))
	<-p.out.done
	s.cfg.Log.Info("switch: port closed", "port", id, "vm", h.VM, "err", err)
}

func readHello(in *messages) (Hello, error) {
	t, body, err := in.next()
	if err != nil {
		return Hello{}, fmt.Errorf("no hello: %w", err)
	}
	if t != messageHello {
		return Hello{}, fmt.Errorf("message type %d came instead of a hello", t)
	}
	return parseHello(body)
}

func answerTo(e event.Epoch, err error) answer {
	switch {
	case err == nil:
		return answer{epoch: e}
	case errors.Is(err, vswitch.ErrStale):
		return answer{e, statusStale, err.Error()}
	}
	return answer{e, statusRefused, err.Error()}
}

// open attaches a port. Its answer is the first message in its outbox, and it is
// put there only after the fence is complete.
func (s *Server) open(h Hello, p *serverPort) (vswitch.PortID, error) {
	if h.Role != vswitch.Primary && h.Role != vswitch.Backup {
		return 0, fmt.Errorf("%v can't attach: use primary or backup", h.Role)
	}
	s.mu.Lock()
	id, closed, err := s.sw.Open(s.now(), vswitch.Attachment{VM: h.VM, Epoch: h.Epoch, Role: h.Role, MAC: h.MAC})
	old := s.forget(closed)
	if err == nil {
		s.ports[id] = p
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.fence(old, h.Epoch)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.out.control(appendAnswer(nil, answer{epoch: h.Epoch}))
	p.open = true
	if h.Role == vswitch.Primary {
		s.inherit(p, old)
	}
	return id, nil
}

// forget takes closed ports out of the table and returns them; mu is held.
func (s *Server) forget(ids []vswitch.PortID) (old []*serverPort) {
	for _, id := range ids {
		if p := s.ports[id]; p != nil {
			old = append(old, p)
			delete(s.ports, id)
		}
	}
	return old
}

// fence waits until the last frame of each port has arrived and ends the ports.
// Nothing queued for them is sent any more.
func (s *Server) fence(old []*serverPort, e event.Epoch) {
	for _, p := range old {
		p.moving.Lock()
		p.moving.Unlock()
		p.out.finish(appendClosed(nil, fmt.Sprintf("epoch %d of this VM is attached, so this copy has been replaced and must stop", e)))
		p.conn.SetDeadline(time.Now().Add(endTimeout))
	}
}

func (s *Server) detach(id vswitch.PortID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[id]; p != nil && p.live { // not replaced
		s.leave(p)
	}
	s.sw.Close(id)
	delete(s.ports, id)
}

// read takes a port's messages until it ends.
func (s *Server) read(in *messages, id vswitch.PortID, p *serverPort) error {
	for {
		t, body, err := in.next()
		if err != nil {
			return err
		}
		switch t {
		case messageFrame:
			if f, ok := parseFrame(body); ok {
				p.moving.Lock()
				s.forward(id, f)
				p.moving.Unlock()
			}
		case messageLogged:
			n, err := parseLogged(body)
			if err == nil {
				err = s.logged(p, n)
			}
			if err != nil {
				return err
			}
		case messageActivate:
			e, err := parseActivate(body)
			if err != nil {
				return err
			}
			s.activate(id, p, e)
		default:
			return fmt.Errorf("message type %d is not for a switch", t)
		}
	}
}

// logged forgets what a port's VM has in its log.
func (s *Server) logged(p *serverPort, n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.kept.logged(n) {
		return fmt.Errorf("%d frames are said to be logged, more than were sent", n)
	}
	return nil
}

// activate makes a backup's port the VM's and answers it.
func (s *Server) activate(id vswitch.PortID, p *serverPort, e event.Epoch) error {
	s.mu.Lock()
	closed, err := s.sw.Activate(s.now(), id, e)
	old := s.forget(closed)
	p.open = err != nil || p.live || !p.keep // what comes from now on waits for what was kept
	s.mu.Unlock()
	s.fence(old, e)
	a := answerTo(e, err)
	s.cfg.Log.Info("switch: activate", "port", id, "epoch", e, "refused", a.reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.out.control(appendAnswer(nil, a))
	p.open = true
	if err == nil && !p.live {
		s.inherit(p, old)
	}
	return err
}

// forward passes one frame on. The data of one from the gateway is not written to
// afterwards; of the others' no reference is left.
func (s *Server) forward(from vswitch.PortID, f event.Frame) {
	up, own := false, from == s.uplink
	s.mu.Lock()
	s.out = s.sw.Forward(s.now(), from, f.Data, s.out[:0])
	// What a silent port sends goes nowhere. The gateway's may find no port but the one
	// that is gone.
	if (own || len(s.out) > 0) && s.forAbsent(f, own) {
		s.out = s.out[:0]
	}
	for _, id := range s.out {
		if id == s.uplink {
			up = true
		} else if p := s.ports[id]; p != nil {
			p.send(f, own)
		}
	}
	s.mu.Unlock()
	if up {
		// Not under mu: the stack may reply at once, from this goroutine.
		s.gateway.inject(f)
	}
}

// send queues a frame for the replica; Server.mu is held.
func (p *serverPort) send(f event.Frame, own bool) {
	if p.offloads {
		p.sendWhole(f, own)
		return
	}
	vswitch.Segment(f, func(b []byte) { p.sendWhole(event.Frame{Data: b}, own) })
}

func (p *serverPort) sendWhole(f event.Frame, own bool) {
	if p.open && !p.out.frame(f) {
		return // dropped: the replica does not count it
	}
	if p.keep {
		p.kept.add(time.Now(), owned(f, own))
	}
}
