// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/cluster"
	"tandem/host/certs"
	"tandem/host/child"
	"tandem/host/etcd"
)

// ports finds n free ports in a row.
func ports(t *testing.T, n int) int {
	t.Helper()
	first, err := child.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// runDaemon runs a node in a folder until the test ends, or stop is called.
func runDaemon(t *testing.T, dir, name string) (c *Client, stop func()) {
	t.Helper()
	n, err := New(Options{State: filepath.Join(dir, name, "s"), Run: filepath.Join(dir, name, "r"), Memory: 1 << 30, Version: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	c = NewClient(filepath.Join(dir, name, "r"))
	eventually(t, "the daemon answers", func() bool { _, err := c.Info(t.Context()); return err == nil })
	return c, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Two nodes share an etcd that is not theirs: the first founds the cluster there, the
// second joins by the token and gets all that it needs. A token that is not known, a
// name that is taken and an etcd that holds another cluster are refused. A daemon that
// is started again is a member as before. Without etcd nothing is answered but why.
func TestExternal(t *testing.T) {
	dir, err := os.MkdirTemp("", "tdm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pki := filepath.Join(dir, "pki")
	ca, err := certs.NewCA("etcd's own")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ca.Save(pki), ca.SaveHost(pki, "etcd", net.IPv4(127, 0, 0, 1))); err != nil {
		t.Fatal(err)
	}
	at := ports(t, 2)
	url := func(i int) string {
		return "https://" + (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: at + i}).String()
	}
	file := func(name string) string { return filepath.Join(pki, name) }
	srv, err := etcd.Serve(t.Context(), etcd.ServerConfig{Name: "e", Dir: filepath.Join(dir, "etcd"), Client: url(0), Peer: url(1),
		CA: file("ca.pem"), Cert: file("etcd.pem"), Key: file("etcd.key"), Members: "e=" + url(1), Cluster: "x", NoSync: true, Log: file("log")})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			srv.Close()
		}
	}()
	ctx := t.Context()
	init := InitRequest{Name: "a", Address: "127.0.0.1", Port: ports(t, 3), Etcd: []string{url(0)}, EtcdCA: file("ca.pem"), EtcdCert: file("etcd.pem"), EtcdKey: file("etcd.key")}
	a, stopA := runDaemon(t, dir, "a")
	token, err := a.Init(ctx, init)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Init(ctx, init); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second init: %v", err)
	}
	b, _ := runDaemon(t, dir, "b")
	if _, err := b.Init(ctx, init); err == nil || !strings.Contains(err.Error(), "another tandem cluster") {
		t.Errorf("init on an etcd that is taken: %v", err)
	}
	tok, _ := ParseToken(token)
	tok.Secret = "guessed"
	join := JoinRequest{Token: tok.String(), Name: "b", Address: "127.0.0.1", Port: ports(t, 3)}
	if err := b.Join(ctx, join); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("a guessed secret: %v", err)
	}
	join.Token, join.Name = token, "a"
	if err := b.Join(ctx, join); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a name that is taken: %v", err)
	}
	join.Name = "b"
	if err := b.Join(ctx, join); err != nil {
		t.Fatal(err)
	}
	up := func(c *Client, want int) func() bool {
		return func() bool {
			list, err := c.Nodes(ctx)
			n := 0
			for _, h := range list {
				if h.State == "up" {
					n++
				}
			}
			return err == nil && n == want
		}
	}
	eventually(t, "both are up", up(a, 2))
	stopA()
	eventually(t, "one is down", up(b, 1))
	a, _ = runDaemon(t, dir, "a")
	eventually(t, "both are up again", up(b, 2))

	// What is wanted is shared, and events are kept.
	if err := b.Create(ctx, CreateRequest{Name: "vm", FT: true, Spec: etcd.Spec{Kernel: "/Image", CPUs: 1, Memory: 1 << 28}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VM is planned for", func() bool {
		v, err := a.VM(ctx, "vm")
		return err == nil && v.Status == cluster.NotRunning.String() && v.FT
	})
	if list, err := a.Events(ctx, "vm"); err != nil || len(list) != 1 || list[0].Node != "b" {
		t.Errorf("events %v, %v", list, err)
	}
	if err := a.Delete(ctx, "vm"); err != nil {
		t.Error(err)
	}
	if list, err := b.VMs(ctx); err != nil || len(list) != 0 {
		t.Errorf("VMs %v, %v", list, err)
	}
	closed = true
	srv.Close()
	eventually(t, "the trouble is told", func() bool { i, err := b.Info(ctx); return err == nil && i.Trouble != "" })
	if _, err := b.VMs(ctx); err == nil {
		t.Error("VMs are listed without etcd")
	}
}

// Prometheus gets the numbers of the newest look.
func TestMetrics(t *testing.T) {
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports(t, 1)}).String()
	n := &Node{opt: Options{Metrics: addr}, votes: votes{up: map[string]bool{"a": true, "b": true, "c": true, "d": false}}, procs: map[string]*process{"web": {VM: "web", Token: "P", alive: true}},
		snap: &etcd.Snapshot{Claims: map[string]etcd.Claim{"web": {Owner: "P", Node: "e"}}, Nodes: []etcd.Node{{Name: "a"}}, Alive: map[string]etcd.Alive{"a": {}}}}
	n.mismatches = map[string]int{"web": 2}
	n.procs["web"].status.State = "Protected"
	n.procs["web"].status.LagSeconds = 0.5
	srv, err := n.serveMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer n.wg.Wait()
	defer srv.Close()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, want := range []string{`tandem_protected{vm="web"} 1`, `tandem_execution_lag_seconds{vm="web"} 0.5`, `tandem_host_up{host="a"} 1`,
		"tandem_etcd_voters 4", "tandem_etcd_voters_heard 3", "tandem_cluster_followed 0", `tandem_log_sent_bytes_total{vm="web"} 0`, `tandem_failovers_total{vm="web"} 0`,
		`tandem_output_delay_seconds{vm="web"} 0`, `tandem_state_hash_mismatches_total{vm="web"} 2`} {
		if !strings.Contains(string(b), want+"\n") {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
}
