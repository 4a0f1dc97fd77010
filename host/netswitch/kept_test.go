// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"tandem/machine/event"
	"tandem/vswitch"
)

var peerMAC = vswitch.MAC{0x52, 0x54, 0, 0, 0, 9}

// station is a port with a channel that its wakes go to.
type station struct {
	*Port
	t     *testing.T
	woken chan struct{}
}

func plugStation(t *testing.T, s *testSwitch, h Hello) *station {
	t.Helper()
	w := &station{t: t, woken: make(chan struct{}, 1)}
	w.Port = dialPort(t, s.addr, h, func() {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	})
	return w
}

// take waits for n frames and returns what they say.
func (s *station) take(n int) (texts []string) {
	s.t.Helper()
	for end := time.After(patience); len(texts) < n; {
		if f, ok := s.Recv(); ok {
			texts = append(texts, string(f.Data[14:]))
			continue
		}
		select {
		case <-s.woken:
		case <-end:
			s.t.Fatalf("%d frames came, %d were due: %q", len(texts), n, texts)
		}
	}
	return texts
}

func (s *station) say(to, from vswitch.MAC, texts ...string) {
	for _, text := range texts {
		s.Send(frameFor(to, from, text))
	}
	s.Flush()
}

func frameFor(to, from vswitch.MAC, text string) event.Frame {
	b := append(append(to[:len(to):len(to)], from[:]...), 0x88, 0xb5) // local experiments
	return event.Frame{Data: append(b, text...)}
}

func keeping(epoch event.Epoch) Hello {
	h := primary(epoch)
	h.Keep = true
	return h
}

func texts(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint("frame ", i))
	}
	return list
}

// What a primary had not logged, and what came while nobody was there, reaches the
// port of the next epoch, in order and before all else; what was logged does not.
// The primary may have died, or be silent with its connection open.
func TestKept(t *testing.T) {
	for _, silent := range []bool{false, true} {
		s := unixSwitch(t, Config{})
		peer := plugStation(t, s, Hello{VM: "peer", Epoch: 1, Role: vswitch.Primary, MAC: peerMAC})
		old := plugStation(t, s, keeping(1))
		peer.say(guestMAC, peerMAC, texts(0, 10)...)
		old.take(4)
		mark := old.Mark()
		old.take(6)
		old.Logged(mark)
		old.say(peerMAC, guestMAC, "so far") // and so the switch has heard of it
		peer.take(1)
		if !silent {
			old.Close()
			for len(s.Ports()) > 2 {
				runtime.Gosched()
			}
		}
		peer.say(guestMAC, peerMAC, texts(10, 13)...)
		next := plugStation(t, s, keeping(2))
		peer.say(guestMAC, peerMAC, texts(13, 15)...)
		if got := next.take(11); !slices.Equal(got, texts(4, 15)) {
			t.Errorf("silent %v: the next primary got %q", silent, got)
		}
		third := plugStation(t, s, primary(3)) // of a replica that does not ask for them
		peer.say(guestMAC, peerMAC, "new")
		if got := third.take(1); got[0] != "new" {
			t.Errorf("silent %v: a port that does not tell what is logged got %q", silent, got)
		}
	}
}

// keptThree makes a VM whose primary's port has passed on three frames of a peer, which
// are kept, and the port of its backup.
func keptThree(t *testing.T) (s *testSwitch, peer, next *station) {
	s = unixSwitch(t, Config{})
	peer = plugStation(t, s, Hello{VM: "peer", Epoch: 1, Role: vswitch.Primary, MAC: peerMAC})
	old := plugStation(t, s, keeping(1))
	h := keeping(1)
	h.Role = vswitch.Backup
	next = plugStation(t, s, h)
	peer.say(guestMAC, peerMAC, texts(0, 3)...)
	old.take(3)
	return s, peer, next
}

// A backup's port gets what was kept as it becomes the VM's, once.
func TestKeptForActivated(t *testing.T) {
	_, peer, next := keptThree(t)
	for range 2 {
		if err := next.Activate(2); err != nil {
			t.Fatal(err)
		}
	}
	peer.say(guestMAC, peerMAC, "new")
	if got := next.take(4); !slices.Equal(got, append(texts(0, 3), "new")) {
		t.Errorf("it got %q", got)
	}
}

// What the gateway sends to the only VM while that has no port is kept as well.
func TestKeptFromGateway(t *testing.T) {
	s := unixSwitch(t, Config{})
	old := plugStation(t, s, keeping(1))
	old.Close()
	for len(s.Ports()) > 1 {
		runtime.Gosched()
	}
	for _, text := range texts(0, 3) {
		s.forward(s.uplink, frameFor(guestMAC, gatewayMAC, text))
	}
	next := plugStation(t, s, keeping(2))
	if got := next.take(3); !slices.Equal(got, texts(0, 3)) {
		t.Errorf("it got %q", got)
	}
}

// What comes while the old port is fenced comes once, behind what was kept; and the two
// ends count alike.
func TestKeptWhileActivated(t *testing.T) {
	s, peer, next := keptThree(t)
	first, last := s.portOf("vm", true), s.portOf("vm", false)
	first.moving.Lock() // the fence waits
	done := make(chan error)
	go func() { done <- next.Activate(2) }()
	for len(s.Ports()) > 3 {
		runtime.Gosched()
	}
	for _, text := range texts(3, 5) {
		s.forward(s.uplink, frameFor(guestMAC, gatewayMAC, text))
	}
	first.moving.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	peer.say(guestMAC, peerMAC, "new")
	if got := next.take(6); !slices.Equal(got, append(texts(0, 5), "new")) {
		t.Errorf("it got %q", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !last.kept.logged(next.Mark()) || len(last.kept.frames) != 0 {
		t.Errorf("%d frames came, the switch has counted %d", next.Mark(), last.kept.gone+uint64(len(last.kept.frames)))
	}
}

// portOf is the switch's end of a VM's port: of the one that speaks, or of the silent one.
func (s *testSwitch) portOf(vm string, live bool) *serverPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if p.vm == vm && p.live == live {
			return p
		}
	}
	return nil
}

// A connection that breaks and comes back counts anew, and what is told then is of
// the new one.
func TestKeptReconnect(t *testing.T) {
	s := unixSwitch(t, Config{})
	peer := plugStation(t, s, Hello{VM: "peer", Epoch: 1, Role: vswitch.Primary, MAC: peerMAC})
	p := plugStation(t, s, keeping(1))
	peer.say(guestMAC, peerMAC, texts(0, 5)...)
	p.take(5)
	s.mu.Lock()
	for _, port := range s.ports {
		if port.vm == "vm" {
			port.conn.Close()
		}
	}
	s.mu.Unlock()
	if got := p.take(5); !slices.Equal(got, texts(0, 5)) { // not known to be logged
		t.Errorf("after the reconnect: %q", got)
	}
	p.Logged(p.Mark())
	p.say(peerMAC, guestMAC, "all")
	peer.take(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, port := range s.ports {
		if port.vm == "vm" && len(port.kept.frames) != 0 {
			t.Errorf("%d frames are still kept", len(port.kept.frames))
		}
	}
}

// Frames that nobody tells of are kept up to a bound, the newest of them; and what
// is said to be logged must have been sent.
func TestKeptBounds(t *testing.T) {
	var k kept
	now := time.Now()
	const n = 5000
	for i := range n {
		k.add(now, event.Frame{Data: make([]byte, 1000+i%2)})
	}
	if k.bytes > keptBytes || len(k.frames) < keptBytes/2000 || k.gone+uint64(len(k.frames)) != n {
		t.Errorf("%d frames of %d bytes are kept, %d were dropped", len(k.frames), k.bytes, k.gone)
	}
	if k.logged(n + 1) {
		t.Error("a frame is logged that was not sent")
	}
	if !k.logged(1) || !k.logged(n-1) || len(k.frames) != 1 || !k.logged(n) || k.bytes != 0 {
		t.Errorf("%d frames, %d bytes are left", len(k.frames), k.bytes)
	}

	s := unixSwitch(t, Config{})
	p := plugStation(t, s, keeping(1))
	o := p.session.Load()
	o.control(appendLogged(nil, 1)) // nothing was sent: the connection ends
	<-o.done
}
