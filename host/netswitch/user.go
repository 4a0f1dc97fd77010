// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"net"

	"tandem/machine/event"
	"tandem/vswitch"
)

// User is a network inside the process, for one network device of an unprotected
// VM. It ends with the process, so no replica can be attached to it.
type User struct {
	offloads bool
	wake     func()
	gateway  *gateway

	pending []event.Frame
	cursor  cursor
	in, out inbox
	kick    chan struct{} // out has frames; closed at the end
	done    chan struct{}
}

// NewUser makes the network. wake is called from other goroutines as frames
// arrive; it must not block.
func NewUser(cfg Config, wake func()) (*User, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	u := &User{offloads: cfg.Offloads, wake: wake, kick: make(chan struct{}, 1), done: make(chan struct{})}
	if u.gateway, err = newGateway(cfg, u.arrive); err != nil {
		return nil, err
	}
	go u.run()
	return u, nil
}

// Addrs are the host addresses of the forwards, in the order of the Config.
func (u *User) Addrs() []net.Addr { return u.gateway.addrs() }

// arrive takes a frame from the gateway.
func (u *User) arrive(f event.Frame) {
	if u.offloads {
		u.in.put(f, 0)
	} else {
		vswitch.Segment(f, func(b []byte) { u.in.put(event.Frame{Data: b}, 0) })
	}
	u.wake()
}

// run gives the guest's frames to the gateway, off the polled loop.
func (u *User) run() {
	defer close(u.done)
	var frames []numbered
	for range u.kick {
		clear(frames)
		frames = u.out.take(frames)
		for _, f := range frames {
			if vswitch.Check(f.Frame) {
				u.gateway.inject(f.Frame)
			}
		}
	}
}

// Send queues a frame for the next Flush.
func (u *User) Send(f event.Frame) { u.pending = append(u.pending, f) }

// Flush gives the queued frames to the network.
func (u *User) Flush() {
	if len(u.pending) == 0 {
		return
	}
	for _, f := range u.pending {
		u.out.put(f, 0)
	}
	clear(u.pending)
	u.pending = u.pending[:0]
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// Recv returns a frame that has arrived.
func (u *User) Recv() (event.Frame, bool) { return u.cursor.recv(&u.in) }

// Close ends the network and its connections. No other method may be called after it.
func (u *User) Close() error {
	close(u.kick)
	<-u.done
	u.gateway.close()
	return nil
}
