// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/cluster"
	"tandem/host/certs"
	"tandem/host/control"
	"tandem/host/etcd"
)

// A move ends when the copy is there, and is given up, with the reason, when that can't
// be; until then it is asked for.
func TestEnded(t *testing.T) {
	now := time.Unix(1000, 0)
	pair := cluster.Instance{Primary: cluster.Copy{Host: "a", State: cluster.Running}, Backup: cluster.Copy{Host: "b", State: cluster.Protected}}
	alone := cluster.Instance{Primary: cluster.Copy{Host: "a", State: cluster.Running}}
	off := cluster.Instance{Primary: cluster.Copy{Host: "a", State: cluster.PoweredOff}}
	between := cluster.Instance{Primary: cluster.Copy{Host: "a", State: cluster.Dead}}
	full := cluster.Status{Hold: cluster.NoHost}
	full.Fit[cluster.NoMemory] = 1
	failed := pair
	failed.Failures, failed.FailedOn, failed.FailedAt = 1, "c", 995
	for _, c := range []struct {
		name, role, to string
		in             cluster.Instance
		st             cluster.Status
		down           bool
		since          int64
		want           string // "" goes on, "done", or a part of why not
	}{
		{"goes on", rolePrimary, "b", pair, cluster.Status{}, false, 990, ""},
		{"there", rolePrimary, "a", pair, cluster.Status{}, false, 990, "done"},
		{"backup there", roleBackup, "b", pair, cluster.Status{}, false, 990, "done"},
		{"backup on its way", roleBackup, "c", alone, cluster.Status{}, false, 990, ""},
		{"met the primary", roleBackup, "a", pair, cluster.Status{}, false, 990, "primary went there"},
		{"host down", rolePrimary, "c", pair, cluster.Status{}, true, 990, "not heard"},
		{"no room", rolePrimary, "c", pair, full, false, 990, "too little memory"},
		{"failed there", roleBackup, "c", failed, cluster.Status{}, false, 990, "failed"},
		{"failed there before", roleBackup, "c", failed, cluster.Status{}, false, 999, ""},
		{"off", rolePrimary, "c", off, cluster.Status{}, false, 990, "does not run"},
		{"roles change", rolePrimary, "c", between, cluster.Status{}, false, 990, ""},
		{"too long", rolePrimary, "c", pair, cluster.Status{}, false, 1000 - int64(moveTime/time.Second) - 1, "not done within"},
	} {
		m := ended(etcd.Move{Role: c.role, To: c.to, Since: c.since}, true, c.in, c.st, !c.down, now)
		got := m.Over
		if m.Done {
			got = "done"
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A move of a VM that shall not run is given up.
func TestEndedOff(t *testing.T) {
	if m := ended(etcd.Move{Role: rolePrimary, To: "b"}, false, cluster.Instance{}, cluster.Status{}, true, time.Unix(0, 0)); m.Over == "" {
		t.Error("it goes on")
	}
}

// fakeCopy is the control socket of a primary that echoes its console.
func fakeCopy(t *testing.T, dir string) (resets func() int) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan bool, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, r *http.Request) { asked <- true; w.WriteHeader(http.StatusAccepted) })
	mux.HandleFunc("POST /test-failover", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"error": "the VM has no backup"}`)
	})
	mux.HandleFunc("GET /console", func(w http.ResponseWriter, r *http.Request) {
		conn, err := control.Hijack(w)
		if err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return func() int { return len(asked) }
}

// What only the host of a primary can do it does for other hosts of the cluster, and for
// nobody else.
func TestPeers(t *testing.T) {
	newNode := func(ca *certs.CA, port int) *Node {
		n, err := New(Options{State: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n.set = &settings{Name: "n", Address: "127.0.0.1", Port: port}
		if err := errors.Join(ca.Save(filepath.Join(n.opt.State, pkiDir)),
			ca.SaveHost(filepath.Join(n.opt.State, pkiDir), hostPair, net.IPv4(127, 0, 0, 1))); err != nil {
			t.Fatal(err)
		}
		return n
	}
	ours, err := certs.NewCA("ours")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := certs.NewCA("theirs")
	if err != nil {
		t.Fatal(err)
	}
	port := ports(t, 3)
	n, other, stranger := newNode(ours, port), newNode(ours, port), newNode(theirs, port)
	p := &process{VM: "web", Role: rolePrimary, alive: true, dir: t.TempDir()}
	p.status.Role = rolePrimary
	p.client = control.NewClient(p.file("control.sock"))
	resets := fakeCopy(t, p.dir)
	n.procs["web"] = p
	ctx, stop := context.WithCancel(t.Context())
	n.serveJoins(ctx)
	defer n.wg.Wait()
	defer stop()
	peer := etcd.Node{Name: "n", Address: "127.0.0.1", Join: n.set.joinAddr()}
	eventually(t, "the port", func() bool {
		c, err := other.dialPeer(ctx, peer)
		if err == nil {
			c.Close()
		}
		return err == nil
	})

	ask := func(n *Node, path string) error {
		by := n.peerClient(peer, time.Minute)
		defer by.CloseIdleConnections()
		return n.askPeer(ctx, by, peer, "POST", path, nil)
	}
	if err := ask(other, "vms/web/reset"); err != nil || resets() != 1 {
		t.Errorf("reset: %v, %d times", err, resets())
	}
	if err := ask(other, "vms/web/test-failover"); err == nil || !strings.Contains(err.Error(), "no backup") {
		t.Errorf("a refusal: %v", err)
	}
	if err := ask(other, "vms/db/reset"); err == nil || !strings.Contains(err.Error(), "ask again") {
		t.Errorf("a VM that is not here: %v", err)
	}
	if err := ask(other, "vms/web/kill"); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("an unknown command: %v", err)
	}
	if err := ask(stranger, "vms/web/reset"); err == nil {
		t.Error("a host of another cluster is obeyed")
	}
	conn, err := other.dialPeer(ctx, peer)
	if err == nil {
		conn, err = control.Upgrade(conn, peerPath+"vms/web/console")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "echo")
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "echo" {
		t.Errorf("the console: %q, %v", b, err)
	}
}

// Without a certificate nothing is done, whoever asks.
func TestUnknownPeer(t *testing.T) {
	ca, err := certs.NewCA("ours")
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(Options{State: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n.set = &settings{Name: "n", Address: "127.0.0.1", Port: ports(t, 3)}
	pki := filepath.Join(n.opt.State, pkiDir)
	if err := errors.Join(ca.Save(pki), ca.SaveHost(pki, hostPair, net.IPv4(127, 0, 0, 1))); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	n.serveJoins(ctx)
	defer n.wg.Wait()
	defer stop()
	conf, err := n.peerTLS("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	conf.Certificates = nil
	client := http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer client.CloseIdleConnections()
	eventually(t, "an answer", func() bool {
		resp, err := client.Post("https://"+n.set.joinAddr()+peerPath+"vms/web/reset", "", nil)
		if err != nil {
			return false
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("status %d", resp.StatusCode)
		}
		return true
	})
}
