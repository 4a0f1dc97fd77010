// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/host/certs"
	"tandem/host/child"
	"tandem/machine/event"
	"tandem/world"
	"tandem/world/worldtest"
)

// place is an etcd of one member on the loopback address.
type place struct {
	dir string
	cfg ServerConfig
	srv *Server
}

func freePort(t *testing.T) string {
	t.Helper()
	addrs, err := child.FreeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	return "https://" + addrs[0]
}

func serve(t *testing.T) *place {
	t.Helper()
	p := &place{dir: t.TempDir()}
	ca, err := certs.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ca.Save(p.dir), ca.SaveHost(p.dir, "node", net.IPv4(127, 0, 0, 1))); err != nil {
		t.Fatal(err)
	}
	p.cfg = ServerConfig{Name: "n1", Dir: filepath.Join(p.dir, "etcd"), Client: freePort(t), Peer: freePort(t),
		CA: p.file("ca.pem"), Cert: p.file("node.pem"), Key: p.file("node.key"), Cluster: "c1", NoSync: true, Log: p.file("etcd.log")}
	p.cfg.Members = "n1=" + p.cfg.Peer
	p.start(t)
	t.Cleanup(func() { p.srv.Close() })
	return p
}

func (p *place) file(name string) string { return filepath.Join(p.dir, name) }

func (p *place) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if p.srv, err = Serve(ctx, p.cfg); err != nil {
		b, _ := os.ReadFile(p.cfg.Log)
		t.Fatalf("%v\n%s", err, b)
	}
}

// config writes the file of a node that has a guard of its own.
func (p *place) config(t *testing.T, node string) (Config, string) {
	t.Helper()
	cfg := Config{Endpoints: []string{p.cfg.Client}, CA: p.cfg.CA, Cert: p.cfg.Cert, Key: p.cfg.Key,
		Cluster: "c1", Node: node, Guard: p.file(node + ".guard")}
	path := p.file(node + ".json")
	if err := WriteFile(path, []byte(encode(cfg)), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg, path
}

func (p *place) client(t *testing.T, node string) *Client {
	t.Helper()
	cfg, _ := p.config(t, node)
	c, err := Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *place) arbiter(t *testing.T, node, vm string) *Arbiter {
	t.Helper()
	_, path := p.config(t, node)
	a, err := OpenArbiter(path, vm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func found(t *testing.T, p *place) *Client {
	t.Helper()
	c := p.client(t, "n1")
	if err := c.Found(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// etcd is an atomic test-and-set like every other arbiter.
func TestArbiter(t *testing.T) {
	p := serve(t)
	found(t, p)
	n := 0
	worldtest.Arbiter(t, func(t *testing.T) (a, b world.Arbiter) {
		n++
		vm := fmt.Sprint("vm", n)
		return p.arbiter(t, "n1", vm), p.arbiter(t, "n2", vm)
	})
}

// A wiped etcd, and one restored from before a claim, count as unreachable: neither
// a win nor a loss, and nothing is written, until the operator confirms; the other
// node follows.
func TestForgot(t *testing.T) {
	p := serve(t)
	c := found(t, p)
	a, b := p.arbiter(t, "n1", "vm"), p.arbiter(t, "n2", "vm")
	mustWin(t, a, 1, "a")
	mustWin(t, b, 2, "b")
	mustWin(t, a, 3, "a")
	c.Close()
	old := p.file("old")
	p.srv.Close()
	if err := os.CopyFS(old, os.DirFS(p.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	mustWin(t, b, 4, "b")

	for _, lost := range []struct {
		name string
		put  func() error
	}{
		{"wiped", func() error { return nil }},
		{"restored", func() error { return os.Rename(old, p.cfg.Dir) }},
	} {
		p.srv.Close()
		if err := errors.Join(os.RemoveAll(p.cfg.Dir), lost.put()); err != nil {
			t.Fatal(err)
		}
		p.start(t)
		if won, _, err := b.Claim(5, "b", 0); won || !errors.Is(err, ErrForgot) || !strings.Contains(err.Error(), "confirm") {
			t.Errorf("%s: won %v, %v", lost.name, won, err)
		}
		if _, err := b.Read(); !errors.Is(err, ErrForgot) {
			t.Errorf("%s: read: %v", lost.name, err)
		}
		if _, err := p.client(t, "n2").Load(t.Context()); !errors.Is(err, ErrForgot) {
			t.Errorf("%s: load: %v", lost.name, err)
		}
	}
	if err := p.client(t, "n2").Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustWin(t, b, 4, "b")
	mustWin(t, a, 5, "a") // node n1 follows what was confirmed on n2
}

func mustWin(t *testing.T, a *Arbiter, epoch event.Epoch, owner string) {
	t.Helper()
	for try := 0; ; try++ {
		won, _, err := a.Claim(epoch, owner, 0)
		if won {
			return
		}
		if err == nil || try == 20 { // an etcd that has just started may not answer yet
			t.Fatalf("claim of epoch %d: won %v, %v", epoch, won, err)
		}
	}
}

// A claim says on which node its owner runs, and a node without the cluster's etcd
// gets an error, not an answer.
func TestClaimNode(t *testing.T) {
	p := serve(t)
	c := found(t, p)
	mustWin(t, p.arbiter(t, "n2", "vm"), 1, "x")
	s, err := c.Load(t.Context())
	if err != nil || s.Claims["vm"] != (Claim{Epoch: 1, Owner: "x", Node: "n2"}) {
		t.Fatalf("%v, %v", s, err)
	}
	a := p.arbiter(t, "n2", "vm")
	p.srv.Close()
	a.patience = 500 * time.Millisecond
	if won, _, err := a.Claim(2, "y", 0); won || err == nil {
		t.Errorf("without etcd: won %v, %v", won, err)
	}
	p.start(t)
	mustWin(t, a, 2, "y")
}

// trio is an etcd of three members, of which any may be closed.
func trio(t *testing.T) (members []*place, list []string) {
	t.Helper()
	first := &place{dir: t.TempDir()}
	ca, err := certs.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ca.Save(first.dir), ca.SaveHost(first.dir, "node", net.IPv4(127, 0, 0, 1))); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range []string{"n1", "n2", "n3"} {
		p := &place{dir: first.dir, cfg: ServerConfig{Name: name, Dir: first.file(name), Client: freePort(t), Peer: freePort(t),
			CA: first.file("ca.pem"), Cert: first.file("node.pem"), Key: first.file("node.key"), Cluster: "c1", NoSync: true, Log: first.file(name + ".log")}}
		members, list = append(members, p), append(list, p.cfg.Client)
		all = append(all, name+"="+p.cfg.Peer)
	}
	var started sync.WaitGroup
	for _, p := range members {
		p.cfg.Members = strings.Join(all, ",")
		started.Go(func() { p.start(t) })
	}
	started.Wait()
	return members, list
}

// Of three members one is lost, which may be the leader, and another address is a
// host that takes connections and says nothing: a claim is answered all the same, at
// the first try. With two lost it is an error, and it goes on when one is back. Each
// loss is heard.
func TestMembersLost(t *testing.T) {
	members, list := trio(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	p := members[2]
	c := found(t, p)
	cfg, path := p.config(t, "n3")
	cfg.Endpoints = append([]string{"https://" + silent.Addr().String()}, list...)
	if err := WriteFile(path, []byte(encode(cfg)), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenArbiter(path, "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if won, _, err := a.Claim(1, "x", 0); !won {
		t.Errorf("with a silent member: %v", err)
	}
	all, err := c.Members(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("members %v, %v", all, err)
	}
	h := c.Hearing()
	defer h.Close()
	hears := func(want int) {
		t.Helper()
		var got map[uint64]bool
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			n := 0
			got = h.Ask(t.Context(), all)
			for _, up := range got {
				if up {
					n++
				}
			}
			if n == want {
				return
			}
		}
		t.Errorf("%v are heard, want %d", got, want)
	}
	hears(3)
	members[0].srv.Close()
	if won, _, err := a.Claim(2, "x", 0); !won {
		t.Errorf("without n1: %v", err)
	}
	hears(2)
	members[1].srv.Close()
	a.patience = 500 * time.Millisecond
	if won, _, err := a.Claim(3, "x", 0); won || err == nil || !strings.Contains(err.Error(), list[1]) {
		t.Errorf("without a majority: won %v, %v", won, err)
	}
	hears(0)
	members[0].start(t)
	mustWin(t, a, 3, "x")
	hears(2)
	members[0].srv.Close()
	members[2].srv.Close()
}

// Records change only from what was read; a claim in between makes a State stale;
// a VM that is forgotten leaves its claim.
func TestRegistry(t *testing.T) {
	p := serve(t)
	c := found(t, p)
	ctx := t.Context()
	load := func() *Snapshot {
		t.Helper()
		s, err := c.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, stale := load(), load()
	if err := c.CreateVM(ctx, s, VM{Name: "vm", Revision: 1}, Secrets{CA: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateVM(ctx, stale, VM{Name: "vm"}, Secrets{}); !errors.Is(err, ErrChanged) {
		t.Errorf("a second VM of the name: %v", err)
	}
	if err := c.SaveState(ctx, s, "vm", State{Epoch: 1}); err != nil {
		t.Error(err)
	}
	mustWin(t, p.arbiter(t, "n1", "vm"), 1, "x")
	if err := c.SaveState(ctx, s, "vm", State{Epoch: 2}); !errors.Is(err, ErrChanged) {
		t.Errorf("a state of before the claim: %v", err)
	}
	if err := c.SaveCopy(ctx, "vm", "n1", Copy{Token: "x", Alive: true}); err != nil {
		t.Error(err)
	}
	s = load()
	if v, ok := s.VM("vm"); !ok || v.Revision != 1 || s.States["vm"].Epoch != 1 || !s.Copies["vm"]["n1"].Alive {
		t.Errorf("%+v", s)
	}
	if err := c.ForgetVM(ctx, s, "vm"); err != nil {
		t.Error(err)
	}
	s = load()
	if len(s.VMs)+len(s.States)+len(s.Copies["vm"]) != 0 || s.Claims["vm"].Epoch != 1 {
		t.Errorf("%+v", s)
	}
	if _, err := c.Secrets(ctx, "vm"); err == nil {
		t.Error("the secrets are still there")
	}
}

// A node is heard as long as it beats, and a watcher learns of it; a lease that was
// lost is asked for again.
func TestHeartbeat(t *testing.T) {
	p := serve(t)
	c := found(t, p)
	ctx := t.Context()
	changed := make(chan bool, 100)
	var wg sync.WaitGroup
	watch, stop := context.WithCancel(ctx)
	wg.Go(func() { c.Watch(watch, func() { changed <- true }) })
	defer wg.Wait()
	defer stop()
	h := c.Heartbeat("n1")
	heard := func(want bool) {
		t.Helper()
		s, err := c.Load(ctx)
		if _, is := s.Alive["n1"]; err != nil || is != want {
			t.Fatalf("heard %v, want %v (%v)", is, want, err)
		}
	}
	heard(false)
	if err := h.Beat(ctx, Alive{CPUs: 2}); err != nil {
		t.Fatal(err)
	}
	heard(true)
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Error("the watcher saw nothing")
	}
	c.c.Revoke(ctx, h.lease) // as if it had lapsed
	heard(false)
	if err := h.Beat(ctx, Alive{CPUs: 2}); err != nil {
		t.Fatal(err)
	}
	heard(true)
	h.End(ctx)
	heard(false)
}

// Events come back in order, the same one twice is one, and the oldest go.
func TestEvents(t *testing.T) {
	p := serve(t)
	c := found(t, p)
	at := time.Unix(1000, 0)
	for i := range KeptEvents + 5 {
		for range 1 + i%2 {
			if err := c.AddEvent(t.Context(), "vm", Event{Time: at.Add(time.Duration(i)), Node: "n1", Kind: "k", Text: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := c.Events(t.Context(), "vm")
	if err != nil || len(list) != KeptEvents || list[0].Text != "5" || list[KeptEvents-1].Text != fmt.Sprint(KeptEvents+4) {
		t.Errorf("%d events from %v, %v", len(list), list[0], err)
	}
}

// The leader hands over to the member it is told to, and claims go on; and a member that
// is taken out while it runs learns that.
func TestVoters(t *testing.T) {
	t.Parallel()
	members, _ := trio(t)
	c := found(t, members[0])
	leader := func() int {
		return slices.IndexFunc(members, func(p *place) bool { return p.srv.Leads() })
	}
	from := leader()
	if from < 0 {
		t.Fatal("there is no leader")
	}
	to := 2 - from/2 // another one, and not the first
	if err := members[from].srv.HandOver(t.Context(), members[to].srv.ID()); err != nil {
		t.Fatal(err)
	}
	if at := leader(); at != to {
		t.Errorf("member %d leads, want %d", at, to)
	}
	mustWin(t, members[0].arbiter(t, "n1", "vm"), 1, "x")
	for late := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) { // etcd wants all to have been there for 5 s
		err := c.RemoveMember(t.Context(), members[to].srv.ID())
		if err == nil {
			break
		}
		if time.Now().After(late) {
			t.Fatal(err)
		}
	}
	select {
	case <-members[to].srv.Stopped():
	case <-time.After(30 * time.Second):
		t.Error("a member that was taken out runs on")
	}
	for _, m := range members {
		m.srv.Close()
	}
}

// TestTokens shows that a secret lets in until it is withdrawn, that others never do,
// and that those of later do again.
func TestTokens(t *testing.T) {
	c := found(t, serve(t))
	has := func(hash string, want bool) {
		t.Helper()
		if got, err := c.HasToken(t.Context(), hash); err != nil || got != want {
			t.Errorf("%s: %v, want %v (%v)", hash, got, want, err)
		}
	}
	put := func(hash string) {
		t.Helper()
		if err := c.PutToken(t.Context(), hash, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	put("b")
	has("a", true)
	has("c", false)
	if err := c.DropTokens(t.Context()); err != nil {
		t.Fatal(err)
	}
	has("a", false)
	has("b", false)
	put("c")
	has("c", true)
}
