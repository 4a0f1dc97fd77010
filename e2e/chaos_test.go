// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/host/control"
	"tandem/node"
)

// writer is a client that writes on one connection as fast as it is answered, and
// holds every answer against what was acknowledged before.
type writer struct {
	c    *redis
	stop chan struct{}
	done chan error

	mu     sync.Mutex
	acked  int
	widest time.Duration // between two answers, since it was asked for
	last   time.Time
}

const keys = 5000 // that a writer goes round

func startWriter(c *redis) *writer {
	w := &writer{c: c, stop: make(chan struct{}), done: make(chan error, 1), last: time.Now()}
	go func() { w.done <- w.run() }()
	return w
}

// run sets keys in turn. Each SET answers with the value before, which must be the one
// that was acknowledged a round ago.
func (w *writer) run() error {
	for i := 0; ; i++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		old, err := w.c.swap(fmt.Sprintf("w%d", i%keys), fmt.Sprintf("v%d", i))
		want := ""
		if i >= keys {
			want = fmt.Sprintf("v%d", i-keys)
		}
		if err != nil || old != want {
			return fmt.Errorf("write %d: the value before it is %q, %w; %q was acknowledged", i, old, err, want)
		}
		w.mu.Lock()
		now := time.Now()
		w.acked, w.widest, w.last = i+1, max(w.widest, now.Sub(w.last)), now
		w.mu.Unlock()
	}
}

// swap sets a key and returns its value before.
func (r *redis) swap(key, value string) (string, error) {
	r.c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(r.c, "SET %s %s GET\r\n", key, value); err != nil {
		return "", err
	}
	return r.value()
}

// value reads a bulk string, or the lack of one.
func (r *redis) value() (string, error) {
	s, err := r.in.ReadString('\n')
	s = strings.TrimSpace(s)
	if err != nil || s == "$-1" {
		return "", err
	}
	if !strings.HasPrefix(s, "$") {
		return s, fmt.Errorf("not a value")
	}
	s, err = r.in.ReadString('\n')
	return strings.TrimSpace(s), err
}

// gap returns the longest wait for an answer since it was last called, the present one
// included.
func (w *writer) gap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := max(w.widest, time.Since(w.last))
	w.widest = 0
	return g
}

// failed returns why the writer has ended.
func (w *writer) failed() error {
	select {
	case err := <-w.done:
		w.done <- err
		return err
	default:
		return nil
	}
}

// end stops the writer, reads all keys and returns how many writes were acknowledged.
func (w *writer) end() (int, error) {
	close(w.stop)
	if err := <-w.done; err != nil {
		return w.acked, err
	}
	w.c.c.SetDeadline(time.Now().Add(time.Minute))
	const batch = 100
	for i := max(0, w.acked-keys); i < w.acked; i += batch {
		var all strings.Builder
		for k := i; k < min(i+batch, w.acked); k++ {
			fmt.Fprintf(&all, "GET w%d\r\n", k%keys)
		}
		if _, err := io.WriteString(w.c.c, all.String()); err != nil {
			return w.acked, err
		}
		for k := i; k < min(i+batch, w.acked); k++ {
			if value, err := w.c.value(); err != nil || value != fmt.Sprintf("v%d", k) {
				return w.acked, fmt.Errorf("key %d holds %q, %w; v%d was acknowledged", k%keys, value, err, k)
			}
		}
	}
	return w.acked, nil
}

// owners watches all copies of a VM, by their own words: an epoch has one primary.
type owners struct {
	l     *lab
	hosts []string
	of    map[uint64]string
}

// look asks every copy of the VM what it is.
func (o *owners) look(vm string) {
	for _, h := range o.hosts {
		st, err := control.NewClient(o.l.path(h, "run", "vms", vm, "control.sock")).Status()
		if err != nil || st.Role != "primary" || st.State == "Halted" || st.State == "Claiming" {
			continue
		}
		o.own(st.Epoch, h)
	}
}

func (o *owners) own(epoch uint64, host string) {
	o.l.t.Helper()
	if was := o.of[epoch]; was != "" && was != host {
		o.l.fatalf("epoch %d has two primaries: on %s and on %s", epoch, was, host)
	}
	o.of[epoch] = host
}

// spread is a distribution of durations.
type spread []time.Duration

func (s spread) String() string {
	if len(s) == 0 {
		return "none"
	}
	s = slices.Sorted(slices.Values(s))
	at := func(permille int) time.Duration { return s[(len(s)-1)*permille/1000].Round(time.Millisecond) }
	return fmt.Sprintf("%d: least %v, median %v, 90 %% %v, 99 %% %v, most %v", len(s), at(0), at(500), at(900), at(990), at(1000))
}

// storm is a run of kills.
type storm struct {
	*lab
	hosts   []string
	w       *writer
	owners  *owners
	clients map[string]*node.Client
	gaps    map[string]spread // by what was lost and how
	clone   spread            // longest wait of the client while the new backup is made
	backup  spread            // until there is a backup again
	whole   spread            // until it is protected again, with all votes
	extra   int               // epochs that no kill explains
}

// info asks a host about the VM.
func (s *storm) info(host string) (v node.VMInfo, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.clients[host].VM(ctx, "web")
}

// await waits until a host says so of the VM, while the owners are watched.
func (s *storm) await(what, host string, limit time.Duration, ok func(node.VMInfo) bool) (v node.VMInfo) {
	s.t.Helper()
	s.until(what, limit, func() bool {
		if err := s.w.failed(); err != nil {
			s.fatalf("while waiting (%s): %v", what, err)
		}
		s.owners.look("web")
		var err error
		v, err = s.info(host)
		return err == nil && ok(v)
	})
	return v
}

// round kills one host at a moment of its own, by a crash or by silence.
func (s *storm) round(n int) {
	before := s.await("protected", s.hosts[rand.N(len(s.hosts))], 3*time.Minute, func(v node.VMInfo) bool { return v.Protected })
	time.Sleep(rand.N(2 * time.Second))
	victim := s.hosts[rand.N(len(s.hosts))]
	role := "bystander"
	switch victim {
	case before.Primary.Node:
		role = "primary"
	case before.Backup.Node:
		role = "backup"
	}
	witness := before.Backup.Node // that is asked
	if role == "backup" {
		witness = before.Primary.Node
	}
	how, down := "crash", time.Duration(0)
	if rand.N(4) == 0 {
		how = "silence"
	}
	before, err := s.info(witness) // roles as they are now
	if err != nil || !before.Protected {
		return // something else was going on: not a round of one failure
	}
	s.w.gap()
	killed := time.Now()
	if how == "silence" {
		s.ip("-n", ns(labWorld), "link", "set", "v-"+victim, "down")
		down = 3 * time.Second
		time.Sleep(down)
		s.crash(victim)
		s.ip("-n", ns(labWorld), "link", "set", "v-"+victim, "up")
	} else {
		s.crash(victim)
	}
	back := make(chan struct{})
	time.AfterFunc(rand.N(5*time.Second), func() { s.node(victim); close(back) })
	gap := time.Duration(0)
	if role != "bystander" { // what follows is the clone, whose pauses are told apart
		s.await("the next epoch", witness, 3*time.Minute, func(v node.VMInfo) bool { return v.Epoch > before.Epoch && v.Primary.State == "running" })
		gap = s.w.gap()
	}
	v := s.await("a backup again", witness, 3*time.Minute, func(v node.VMInfo) bool {
		return v.Primary != nil && v.Backup != nil && v.Backup.State == "protected" && (v.Epoch > before.Epoch || role == "bystander") &&
			v.Primary.Node != v.Backup.Node && (role == "bystander" || v.Primary.Node != victim)
	})
	backup := time.Since(killed)
	<-back
	v = s.await("protected again", witness, 3*time.Minute, func(v node.VMInfo) bool {
		_, err := s.info(victim) // it follows the cluster again
		return err == nil && v.Protected
	})
	whole, later := time.Since(killed), s.w.gap()
	if role == "bystander" {
		gap, later = later, 0
	}
	s.owners.own(v.Epoch, v.Primary.Node)
	kind := role + " by " + how
	s.gaps[kind] = append(s.gaps[kind], gap)
	if role != "bystander" {
		s.backup = append(s.backup, backup)
		s.clone = append(s.clone, later)
	}
	s.whole = append(s.whole, whole)
	want := before.Epoch
	if role != "bystander" {
		want++
	}
	if v.Epoch > want {
		s.extra += int(v.Epoch - want)
	}
	s.t.Logf("round %d: %s on %s, epoch %d → %d; the client waited %v, then %v while it was cloned; a backup after %v, protected after %v", n, kind, victim,
		before.Epoch, v.Epoch, gap.Round(time.Millisecond), later.Round(time.Millisecond), backup.Round(10*time.Millisecond), whole.Round(10*time.Millisecond))
}

func (s *storm) report() {
	for _, kind := range []string{"primary by crash", "primary by silence", "backup by crash", "backup by silence", "bystander by crash", "bystander by silence"} {
		s.t.Logf("longest wait of the client, loss of the %s: %v", kind, s.gaps[kind])
	}
	s.t.Logf("longest wait of the client while a new backup is cloned: %v", s.clone)
	s.t.Logf("a backup again: %v", s.backup)
	s.t.Logf("protected again, the lost host's vote included: %v", s.whole)
	s.t.Logf("epochs that no loss explains: %d", s.extra)
}

// Any host of three is lost again and again, by a crash or by silence, at any moment of a
// load, and returns: no acknowledged write is lost, the client keeps its one connection,
// an epoch never has two primaries, and the VM is protected again without a hand.
func TestChaosCluster(t *testing.T) {
	rounds := 2
	if s := os.Getenv("TANDEM_CHAOS"); s != "" {
		fmt.Sscan(s, &rounds)
	}
	img := guest(t)
	hosts := []string{"n1", "n2", "n3"}
	l, _ := newCluster(t, img, hosts...)
	l.ask("n1", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077")
	s := &storm{lab: l, hosts: hosts, clients: map[string]*node.Client{}, gaps: map[string]spread{},
		owners: &owners{l, hosts, map[uint64]string{}}, w: startWriter(l.database())}
	for _, h := range hosts {
		s.clients[h] = node.NewClient(l.path(h, "run"))
	}
	defer s.report()
	for n := range rounds {
		s.round(n)
	}
	acked, err := s.w.end()
	if err != nil {
		l.fatalf("%v", err)
	}
	t.Logf("%d rounds, %d acknowledged writes, none lost, one connection, %d epochs with one primary each", rounds, acked, len(s.owners.of))
}
