// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

// pair is a primary with a control socket, and its backup, in a simulated world that
// runs on a goroutine of its own.
type pair struct {
	a, b   *replica.Replica
	client *Client
	server *Server
	killed chan struct{} // test-failover did
}

func newPair(t *testing.T, backup bool) *pair {
	w := sim.New(1)
	vm := w.VM(machinetest.DiskSize, machinetest.DiskSlot, machinetest.NetSlot)
	pa, pb := w.Process("a"), w.Process("b")
	link := w.Link(pa, pb)
	p := &pair{killed: make(chan struct{}, 1)}
	cfg := machinetest.Config(t, 1)
	m, err := machine.New(cfg, make([]byte, cfg.RAM))
	if err != nil {
		t.Fatal(err)
	}
	conf := replica.DefaultConfig()
	conf.FT.VM, conf.FT.Arbiter, conf.Slice = ft.VM{1}, "one", 2000
	outside := func(s *sim.Site, pr *sim.Process, end int) replica.World {
		return replica.World{Clock: pr, Entropy: w.Chance(), Channel: link.End(end), Site: s, Terminal: s.Terminal(),
			RAM: func(n uint64) ([]byte, error) { return make([]byte, n), nil }}
	}
	sa, sb := vm.Site(pa), vm.Site(pb)
	if p.a, err = replica.NewPrimary(conf, outside(sa, pa, 0), m, 1, sa.Start()); err != nil {
		t.Fatal(err)
	}
	if p.b, err = replica.NewBackup(conf, outside(sb, pb, 1)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "control.sock")
	if p.server, err = Listen(path, func() {}, nil); err != nil {
		t.Fatal(err)
	}
	p.server.kill = func() { p.killed <- struct{}{} }
	p.client = NewClient(path)
	pa.Turn = func() (world.Time, bool) {
		p.server.Serve(p.a)
		defer p.server.Settle(p.a)
		return p.a.Turn()
	}
	pb.Turn = p.b.Turn
	pa.Start()
	if backup {
		pb.Start()
		link.Connect()
		w.RunUntil(10*sim.Second, func() bool { return p.a.Status().State == ft.Protected })
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // the loop of both processes
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				w.Run(sim.Millisecond)
				if p.a.Err() != nil {
					p.server.end()
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		p.server.Close()
	})
	return p
}

// refuses expects a command to be refused for a reason.
func refuses(t *testing.T, err error, why string) {
	t.Helper()
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, which is not for %q", err, why)
	}
}

// Commands about the pair are refused without a backup, with the reason; those about
// the VM work; after the end everything is refused.
func TestAlone(t *testing.T) {
	p := newPair(t, false)
	refuses(t, p.client.Switch(), "the VM has no backup")
	refuses(t, p.client.TestFailover(), "the VM has no backup")
	refuses(t, p.client.Detach(), "there is no backup to detach")
	refuses(t, p.client.SetCPUShare(2000), "choose from 10 to 1000")
	if err := p.client.SetCPUShare(500); err != nil {
		t.Error(err)
	}
	if err := p.client.Reset(); err != nil {
		t.Error(err)
	}
	if err := p.client.PowerOff(); err != nil {
		t.Error(err)
	}
	refuses(t, p.client.Reset(), "ended")
	if len(p.killed) > 0 {
		t.Error("killed all the same")
	}
}

// Switch is answered when the backup has taken over, and not before.
func TestSwitch(t *testing.T) {
	p := newPair(t, true)
	s, err := p.client.Status()
	if err != nil || s.Role != "primary" || s.CPULimit != 1 {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := p.client.Switch(); err != nil {
		t.Fatal(err)
	}
	refuses(t, p.client.Switch(), "ended")
}

// Detach is answered when the primary is alone; then there is nothing to detach.
func TestDetach(t *testing.T) {
	p := newPair(t, true)
	if err := p.client.Detach(); err != nil {
		t.Fatal(err)
	}
	refuses(t, p.client.Detach(), "there is no backup")
}

// A failover is tested by the death of the process, if that is confirmed; the answer
// comes first.
func TestTestFailover(t *testing.T) {
	p := newPair(t, true)
	refuses(t, p.client.command("test-failover", nil), "confirm=yes")
	if len(p.killed) > 0 {
		t.Fatal("killed without confirmation")
	}
	if err := p.client.TestFailover(); err != nil {
		t.Fatal(err)
	}
	<-p.killed
	refuses(t, p.client.command("nonsense", nil), "no command")
}
