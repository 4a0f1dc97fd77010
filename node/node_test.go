// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/cluster"
	"tandem/host/certs"
	"tandem/host/control"
	"tandem/host/etcd"
)

// What Plan sees of a VM follows from its claim, what was done about it and what the
// nodes say of their processes.
func TestInstance(t *testing.T) {
	claim := etcd.Claim{Epoch: 3, Owner: "P", Node: "a"}
	run := func(token, role, state string, epoch uint64) etcd.Copy {
		return etcd.Copy{Token: token, Role: role, State: state, Epoch: epoch, Alive: true}
	}
	end := func(c etcd.Copy, how string) etcd.Copy {
		c.Alive, c.End = false, how
		return c
	}
	order := &etcd.Backup{Host: "b", Token: "B", Owner: "P", Epoch: 3}
	over := *order
	over.Over = "lost"
	primary := run("P", rolePrimary, "Solo", 3)
	type copies = map[string]etcd.Copy
	for _, c := range []struct {
		name                  string
		claim                 etcd.Claim
		backup                *etcd.Backup
		copies                copies
		primary, second, next cluster.Copy
	}{
		{name: "first start", copies: copies{"a": run("P", rolePrimary, "", 1)},
			primary: cluster.Copy{Host: "a", State: cluster.Starting}},
		{name: "runs", claim: claim, copies: copies{"a": primary},
			primary: cluster.Copy{Host: "a", State: cluster.Running}},
		{name: "claimed, not yet reported", claim: claim,
			primary: cluster.Copy{Host: "a", State: cluster.Starting}},
		{name: "killed", claim: claim, copies: copies{"a": end(primary, control.EndKilled)},
			primary: cluster.Copy{Host: "a", State: cluster.Dead}},
		{name: "powered off", claim: claim, copies: copies{"a": end(primary, control.EndOff)},
			primary: cluster.Copy{Host: "a", State: cluster.PoweredOff}},
		{name: "both powered off", claim: claim, backup: order, copies: copies{"a": end(primary, control.EndOff), "b": end(run("B", roleBackup, "", 4), control.EndOff)},
			primary: cluster.Copy{Host: "a", State: cluster.PoweredOff}, second: cluster.Copy{Host: "b", State: cluster.PoweredOff}},
		{name: "started again after power off", claim: claim, copies: copies{"a": end(primary, control.EndOff), "c": run("N", rolePrimary, "", 4)},
			primary: cluster.Copy{Host: "c", State: cluster.Starting}},
		{name: "cold restart elsewhere", claim: claim, copies: copies{"a": end(primary, control.EndKilled), "c": run("N", rolePrimary, "", 4)},
			primary: cluster.Copy{Host: "a", State: cluster.Dead}, next: cluster.Copy{Host: "c", State: cluster.Starting}},
		{name: "backup ordered", claim: claim, backup: order, copies: copies{"a": primary},
			primary: cluster.Copy{Host: "a", State: cluster.Running}, second: cluster.Copy{Host: "b", State: cluster.Cloning}},
		{name: "protected", claim: claim, backup: order, copies: copies{"a": run("P", rolePrimary, "Protected", 3), "b": run("B", roleBackup, "Replaying", 4)},
			primary: cluster.Copy{Host: "a", State: cluster.Running}, second: cluster.Copy{Host: "b", State: cluster.Protected}},
		{name: "backup dead", claim: claim, backup: order, copies: copies{"a": run("P", rolePrimary, "Claiming", 3), "b": end(run("B", roleBackup, "", 4), control.EndKilled)},
			primary: cluster.Copy{Host: "a", State: cluster.Running}, second: cluster.Copy{Host: "b", State: cluster.Dead}},
		{name: "claimed since", claim: etcd.Claim{Epoch: 4, Owner: "P", Node: "a"}, backup: order, copies: copies{"a": run("P", rolePrimary, "Protected", 3), "b": run("B", roleBackup, "Replaying", 4)},
			primary: cluster.Copy{Host: "a", State: cluster.Running}, second: cluster.Copy{Host: "b", State: cluster.Lost}},
		{name: "backup lost", claim: claim, backup: &over, copies: copies{"a": primary, "b": run("B", roleBackup, "Replaying", 3)},
			primary: cluster.Copy{Host: "a", State: cluster.Running}, second: cluster.Copy{Host: "b", State: cluster.Lost}},
		{name: "failover: the old primary is silent", claim: etcd.Claim{Epoch: 4, Owner: "B", Node: "b"}, backup: order,
			copies:  copies{"a": run("P", rolePrimary, "Protected", 3), "b": run("B", roleBackup, "Solo", 4)},
			primary: cluster.Copy{Host: "b", State: cluster.Running}, second: cluster.Copy{Host: "a", State: cluster.Lost}},
		{name: "failover: the old primary ended", claim: etcd.Claim{Epoch: 4, Owner: "B", Node: "b"}, backup: order,
			copies:  copies{"a": end(primary, control.EndHalted), "b": run("B", roleBackup, "Fencing", 4)},
			primary: cluster.Copy{Host: "b", State: cluster.Starting}},
	} {
		s := &etcd.Snapshot{Claims: map[string]etcd.Claim{"vm": c.claim}, Copies: map[string]map[string]etcd.Copy{"vm": c.copies},
			States: map[string]etcd.State{"vm": {Backup: c.backup, Memory: 1}}}
		in := instanceOf(s, etcd.VM{Name: "vm"})
		if in.Primary != c.primary || in.Backup != c.second || in.Next != c.next {
			t.Errorf("%s: primary %v, backup %v, next %v; want %v, %v, %v", c.name, in.Primary, in.Backup, in.Next, c.primary, c.second, c.next)
		}
	}
	// The claim of a VM that was deleted says nothing of a new one of that name.
	s := &etcd.Snapshot{Claims: map[string]etcd.Claim{"vm": claim}, Copies: map[string]map[string]etcd.Copy{}}
	if in := instanceOf(s, etcd.VM{Name: "vm"}); in.Epoch != 3 || in.Primary.State != cluster.NoCopy {
		t.Errorf("%+v", in)
	}
}

// An ordered backup is judged once, by the primary's word, its own node's, and time;
// one that was never ready, or not for long, counts as a failure of its host.
func TestJudge(t *testing.T) {
	now := time.Unix(10_000, 0)
	alive := etcd.Copy{Token: "B", Alive: true}
	for _, c := range []struct {
		name     string
		age      time.Duration
		ready    bool
		epoch    uint64
		primary  string
		copy     etcd.Copy
		isReady  bool
		over     string
		failures int
	}{
		{"on its way", time.Second, false, 3, "Syncing", alive, false, "", 1},
		{"ready", time.Second, false, 3, "Protected", alive, true, "", 0},
		{"another one's readiness", time.Second, false, 3, "Protected", etcd.Copy{Token: "old", Alive: true}, false, "", 1},
		{"ended", time.Second, false, 3, "Solo", etcd.Copy{Token: "B", End: "failed"}, false, "ended", 2},
		{"ended with its VM", time.Second, true, 3, "Protected", etcd.Copy{Token: "B", End: "off"}, true, "", 1},
		{"never came", time.Minute, false, 3, "Solo", etcd.Copy{}, false, "did not reach", 2},
		{"slow clone", time.Hour, false, 3, "Syncing", alive, false, "", 1},
		{"lost soon", 10 * time.Second, true, 4, "Solo", alive, true, "goes on alone", 2},
		{"lost after long", time.Hour, true, 4, "Solo", alive, true, "goes on alone", 1},
	} {
		st := etcd.State{Failures: 1, Backup: &etcd.Backup{Host: "b", Token: "B", Owner: "P", Epoch: 3, Since: now.Add(-c.age).Unix(), Ready: c.ready}}
		got, text := judge(st, etcd.Claim{Epoch: c.epoch, Owner: "P"}, c.primary, c.copy, now)
		if got.Backup.Ready != c.isReady || !strings.Contains(got.Backup.Over, c.over) || (c.over == "") != (got.Backup.Over == "") || got.Failures != c.failures {
			t.Errorf("%s: ready %v, over %q, %d failures", c.name, got.Backup.Ready, got.Backup.Over, got.Failures)
		}
		if changed := got.Backup.Over != "" || got.Backup.Ready != c.ready; changed != (text != "") {
			t.Errorf("%s: changed %v, told %q", c.name, changed, text)
		}
		if got.Backup.Over != "" {
			if _, again := judge(got, etcd.Claim{Epoch: c.epoch}, c.primary, c.copy, now); again != "" {
				t.Errorf("%s: judged twice: %s", c.name, again)
			}
		}
	}
}

// A joining host tells its secret only to a server of the CA that the token names.
func TestFingerprint(t *testing.T) {
	ours, _ := certs.NewCA("ours")
	theirs, _ := certs.NewCA("theirs")
	want, err := certs.Fingerprint(ours.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(cas ...*certs.CA) (list []*x509.Certificate) {
		for i, ca := range cas {
			pair, err := ca.Pair("node")
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				list = append(list, pair.Leaf)
			}
			c, err := tls.X509KeyPair(ca.CertPEM, ca.KeyPEM)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, c.Leaf)
		}
		return list
	}
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		ok    bool
	}{
		{"ours", parse(ours), true},
		{"another CA", parse(theirs), false},
		{"a leaf of another CA, with our CA beside it", parse(theirs, ours), false},
		{"no CA", parse(ours)[:1], false},
	} {
		if err := verify(tls.ConnectionState{PeerCertificates: c.chain}, want); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	tok := Token{Join: []string{"10.0.0.1:7372"}, Fingerprint: want, Secret: "s"}
	if back, err := ParseToken(" " + tok.String() + "\n"); err != nil || back.Secret != "s" || back.Fingerprint != want {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "tandem1.", "tandem1.!!", tok.String()[:20], Token{Join: tok.Join}.String()} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("token %q is taken", bad)
		}
	}
}

// A process is told from another one that got its number, and a zombie from a process.
func TestStartTime(t *testing.T) {
	self, ok := startTime(os.Getpid())
	if again, _ := startTime(os.Getpid()); !ok || self == 0 || again != self {
		t.Errorf("our own: %d, %v", self, ok)
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if _, ok := startTime(cmd.Process.Pid); !ok {
			break // a zombie now
		}
		if time.Now().After(end) {
			t.Fatal("a process that has ended counts as one that runs")
		}
		time.Sleep(time.Millisecond)
	}
	cmd.Wait()
	if _, ok := startTime(0); ok {
		t.Error("process 0")
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if pid := peerOf(ln.Addr().String()); pid != os.Getpid() {
		t.Errorf("the socket belongs to %d", pid)
	}
}

// A daemon answers before it is in a cluster, says what to do, and takes no rubbish.
func TestLonely(t *testing.T) {
	dir, err := os.MkdirTemp("", "tdm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n, err := New(Options{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	c := NewClient(filepath.Join(dir, "r"))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = c.Info(ctx); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.VMs(ctx); err == nil || !strings.Contains(err.Error(), "cluster init") {
		t.Error(err)
	}
	for _, q := range []InitRequest{{}, {Name: "a b", Address: "10.0.0.1"}, {Name: "a", Address: "host"}, {Name: "a", Address: "0.0.0.0"},
		{Name: "a", Address: "10.0.0.1", Port: 70000}, {Name: "a", Address: "10.0.0.1", Etcd: []string{"http://10.0.0.1:2379"}}} {
		if _, err := c.Init(ctx, q); err == nil {
			t.Errorf("%+v is taken", q)
		}
	}
	if err := c.Join(ctx, JoinRequest{Token: "x", Name: "a", Address: "10.0.0.1"}); err == nil || !strings.Contains(err.Error(), "token") {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "s")); len(left) != 4 { // folders of replicas, the lock
		t.Errorf("refused requests left %v", left)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What an operator gives for a VM is refused with the remedy if it can't work.
func TestCheck(t *testing.T) {
	good := CreateRequest{Name: "vm", Spec: etcd.Spec{CPUs: 1, Memory: 1 << 29, Kernel: "/boot/Image", Disks: []string{"nbd://h:1/x"}, Network: "none"}}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*CreateRequest){
		"no name":        func(q *CreateRequest) { q.Name = "../x" },
		"CPUs":           func(q *CreateRequest) { q.Spec.CPUs = 0 },
		"memory":         func(q *CreateRequest) { q.Spec.Memory = 5 },
		"boot":           func(q *CreateRequest) { q.Spec.Kernel = "" },
		"whole path":     func(q *CreateRequest) { q.Spec.Kernel = "Image" },
		"tandem store":   func(q *CreateRequest) { q.Spec.Disks = []string{"/disk.raw"} },
		"switch:ADDRESS": func(q *CreateRequest) { q.Spec.Network = "user" },
		"timeout":        func(q *CreateRequest) { q.Spec.Timeout = "soon" },
		"spread":         func(q *CreateRequest) { q.Spec.Spread = "wide" },
	} {
		q := good
		change(&q)
		if err := check(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A copy is ended only if it can never go on: one that could is left alone, whatever
// else is lost.
func TestUseless(t *testing.T) {
	order := etcd.Backup{Host: "b", Token: "B", Owner: "P", Epoch: 3}
	over := order
	over.Over = "lost"
	claim := etcd.Claim{Epoch: 3, Owner: "P", Node: "a"}
	alive := etcd.Copy{Token: "P", Alive: true}
	for _, c := range []struct {
		name        string
		p           process
		state       string
		claim       etcd.Claim
		order       *etcd.Backup
		primary     etcd.Copy
		unheard, is bool
	}{
		{"owner", process{Token: "P", Role: rolePrimary, Epoch: 3}, "Solo", claim, nil, alive, false, false},
		{"start under way", process{Token: "N", Role: rolePrimary, Epoch: 4}, "", claim, nil, alive, false, false},
		{"primary that lost the claim", process{Token: "O", Role: rolePrimary, Epoch: 2}, "Protected", claim, nil, alive, false, true},
		{"start that came second", process{Token: "O", Role: rolePrimary, Epoch: 3}, "", claim, nil, alive, false, true},
		{"backup", process{Token: "B", Role: roleBackup, Epoch: 4}, "Replaying", claim, &order, alive, false, false},
		{"backup in the making", process{Token: "B", Role: roleBackup, Epoch: 4}, "Receiving", claim, &order, alive, false, false},
		{"backup that goes live", process{Token: "B", Role: roleBackup, Epoch: 4}, "Draining", claim, &order, alive, true, false},
		{"backup that went live", process{Token: "B", Role: roleBackup, Epoch: 4}, "Solo", etcd.Claim{Epoch: 4, Owner: "B", Node: "b"}, &order, alive, true, false},
		{"backup without a primary to clone", process{Token: "B", Role: roleBackup, Epoch: 4}, "Receiving", claim, &order, alive, true, true},
		{"backup of a dead primary", process{Token: "B", Role: roleBackup, Epoch: 4}, "", claim, &order, etcd.Copy{Token: "P"}, false, true},
		{"order withdrawn", process{Token: "B", Role: roleBackup, Epoch: 4}, "Replaying", claim, nil, alive, false, true},
		{"order over", process{Token: "B", Role: roleBackup, Epoch: 4}, "Receiving", claim, &over, alive, false, true},
		{"lost by its primary", process{Token: "B", Role: roleBackup, Epoch: 4}, "Replaying", etcd.Claim{Epoch: 4, Owner: "P", Node: "a"}, &order, alive, false, true},
	} {
		c.p.VM, c.p.status.State = "vm", c.state
		s := &etcd.Snapshot{Claims: map[string]etcd.Claim{"vm": c.claim}, States: map[string]etcd.State{"vm": {Backup: c.order}},
			Copies: map[string]map[string]etcd.Copy{"vm": {"a": c.primary}}, Alive: map[string]etcd.Alive{"a": {}}}
		if c.unheard {
			delete(s.Alive, "a")
		}
		if got := useless(s, &c.p); got != c.is {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A daemon that is started while the one before it still ends waits for that, and for
// its ports, instead of giving up.
func TestSuccessor(t *testing.T) {
	dir, err := os.MkdirTemp("", "tdm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports(t, 1)}).String()
	opt := Options{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r"), Metrics: addr, Log: slog.New(slog.DiscardHandler)}
	old, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	release, err := old.alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	c := NewClient(opt.Run)
	if _, err := c.Info(ctx); err == nil {
		t.Error("two daemons answer for one folder")
	}
	release()
	eventually(t, "the new one answers", func() bool { _, err := c.Info(ctx); return err == nil })
	port.Close()
	eventually(t, "its metrics too", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := given(t, opt); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("another daemon: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// given is what a daemon says whose patience with the one before it is over.
func given(t *testing.T, opt Options) error {
	t.Helper()
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	release, err := n.alone(over)
	if err == nil {
		release()
	}
	return err
}

// A pair is protected only while etcd would outlive the host of either copy.
func TestVotes(t *testing.T) {
	three := func(c bool) votes { return votes{up: map[string]bool{"a": true, "b": true, "c": c}} }
	for _, c := range []struct {
		name           string
		votes          votes
		hosts          []string
		enough, stands bool
		says           string
	}{
		{"external", votes{external: true}, []string{"a", "b"}, true, true, "external"},
		{"not known yet", votes{}, []string{"a", "b"}, false, false, "0 of 0"},
		{"one", votes{up: map[string]bool{"a": true}}, []string{"a"}, false, false, "add a host or a witness"},
		{"two", votes{up: map[string]bool{"a": true, "b": true}}, []string{"a", "b"}, false, false, "2 of 2"},
		{"three", three(true), []string{"a", "b"}, true, true, "3 of 3"},
		{"the third is silent", three(false), []string{"a", "b"}, true, false, "not c: bring that back"},
		{"the backup's host is silent", three(false), []string{"a", "c"}, true, false, "2 of 3"},
		{"copies on hosts without a vote", three(false), []string{"x", "y"}, true, true, "2 of 3"},
		{"one of four is silent", votes{up: map[string]bool{"a": true, "b": true, "c": true, "d": false}}, []string{"a", "b"}, true, false, "3 of 4"},
		{"one of five is silent", votes{up: map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": false}}, []string{"a", "b"}, true, true, "4 of 5"},
		{"two of five are silent", votes{up: map[string]bool{"a": true, "b": true, "c": true, "d": false, "e": false}}, []string{"a"}, true, false, "not d and e"},
	} {
		in := cluster.Instance{Primary: cluster.Copy{Host: c.hosts[0]}}
		if len(c.hosts) > 1 {
			in.Backup.Host = c.hosts[1]
		}
		if c.votes.enough() != c.enough || c.votes.endangered(in) == c.stands || !strings.Contains(c.votes.String(), c.says) {
			t.Errorf("%s: enough %v, endangered %v: %s", c.name, c.votes.enough(), c.votes.endangered(in), c.votes)
		}
	}
}

// What a member is refused leaves it as it was: its turns go on.
func TestBecomeTwice(t *testing.T) {
	n := &Node{set: &settings{Name: "a"}}
	if err := n.become(&settings{Name: "b"}, func() error { return errors.New("done twice") }); err != errMember {
		t.Error(err)
	}
	if n.becoming || n.set == nil {
		t.Error("a member that was refused a second cluster stands still")
	}
}
