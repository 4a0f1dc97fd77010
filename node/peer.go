// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"tandem/api"
	"tandem/cluster"
	"tandem/host/certs"
	"tandem/host/control"
	"tandem/host/etcd"
)

// What only the host of a VM's primary can do is done there: any daemon takes the
// request and passes it on to that one, at the port where hosts join, once, and both
// know each other by the cluster's CA.
const peerPath = "/v1/peer/"

// commands are what operators ask of a running VM.
var commands = map[string]func(c *control.Client) error{
	"shutdown":      (*control.Client).Shutdown,
	"reset":         (*control.Client).Reset,
	"test-failover": (*control.Client).TestFailover,
}

// servePeers adds what other daemons ask.
func (n *Node) servePeers(mux *http.ServeMux) {
	mux.HandleFunc("POST "+peerPath+"vms/{name}/{command}", known(api.Answer(func(r *http.Request) (any, error) {
		return struct{}{}, n.commandHere(r.PathValue("name"), r.PathValue("command"))
	})))
	mux.HandleFunc("POST "+peerPath+"vms/{name}/order/{order}", known(api.Answer(n.followPeer)))
	mux.HandleFunc("GET "+peerPath+"vms/{name}/disk-move", known(api.Answer(n.getDiskMoveHere)))
	mux.HandleFunc("GET "+peerPath+"vms/{name}/console", known(func(w http.ResponseWriter, r *http.Request) {
		n.join(w, r, func() (net.Conn, error) { return n.consoleHere(r.PathValue("name"), r.URL.RawQuery) })
	}))
	mux.HandleFunc("GET "+peerPath+"samples", known(api.Answer(n.getSamplesHere)))
}

// known lets in who has a certificate of the cluster's.
func known(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) == 0 {
			api.Tell(w, api.Failf(http.StatusForbidden, "this is for hosts of the cluster only"))
			return
		}
		f(w, r)
	}
}

// place is where a request about a running VM goes.
type place struct {
	here bool
	peer etcd.Node
}

// findTime is how long a VM is waited for that is about to run: after a change of roles its
// new host says so in a moment.
const findTime = 5 * time.Second

// find looks for the host of a VM's primary.
func (n *Node) find(ctx context.Context, vm string) (p place, s *etcd.Snapshot, c *etcd.Client, err error) {
	var in cluster.Instance
	for end := time.Now().Add(findTime); ; {
		if c, s, err = n.look(ctx); err != nil {
			return p, s, c, err
		}
		v, ok := s.VM(vm)
		if !ok {
			return p, s, c, missing("VM", vm)
		}
		in = instanceOf(s, v)
		if in.Primary.State != cluster.Starting || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		time.Sleep(tick)
	}
	if in.Primary.State != cluster.Running {
		return p, s, c, refuse("%s does not run: start it first, or wait until it does; tandem info %s says why", vm, vm)
	}
	p.here = in.Primary.Host == n.set.Name
	var known bool
	p.peer, known = s.Node(in.Primary.Host)
	if !known || p.peer.Join == "" {
		return p, s, c, api.Fail(http.StatusServiceUnavailable, fmt.Errorf("%s runs on %s, of which nothing is known", vm, in.Primary.Host))
	}
	return p, s, c, nil
}

// postCommand does a command at the primary, wherever that is.
func (n *Node) postCommand(command string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) { return struct{}{}, n.commandOf(r, r.PathValue("name"), command) }
}

func (n *Node) commandOf(r *http.Request, vm, command string) error {
	p, s, c, err := n.find(r.Context(), vm)
	if err != nil {
		return err
	}
	if command == "test-failover" {
		if err := n.testable(s, vm); err != nil {
			return err
		}
	}
	if p.here {
		err = n.commandHere(vm, command)
	} else {
		by := n.peerClient(p.peer, time.Minute)
		defer by.CloseIdleConnections()
		err = n.askPeer(r.Context(), by, p.peer, "POST", "vms/"+url.PathEscape(vm)+"/"+command, nil)
	}
	if err == nil {
		n.asked(r, c, vm, s.Claims[vm].Epoch, "%s", command)
	}
	return err
}

// testable refuses to kill a primary that would be missed.
func (n *Node) testable(s *etcd.Snapshot, vm string) error {
	d, o, err := n.plan(s, time.Now(), nil)
	if err != nil {
		return err
	}
	v, _ := s.VM(vm)
	if i := n.info(s, v, d, o); !i.Protected {
		return refuse("%s is %s: its primary is not killed before it is protected %s", vm, i.Status, i.Detail)
	}
	return nil
}

// primaryHere is the primary that runs on this host.
func (n *Node) primaryHere(vm string) (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.procs[vm]
	if p == nil || !p.alive || p.status.Role != rolePrimary {
		return nil, api.Fail(http.StatusServiceUnavailable, fmt.Errorf("the primary of %s has left this host a moment ago: ask again", vm))
	}
	return p, nil
}

func (n *Node) commandHere(vm, command string) error {
	do := commands[command]
	if do == nil {
		return missing("command", command)
	}
	p, err := n.primaryHere(vm)
	if err != nil {
		return err
	}
	if err := do(p.client); err != nil {
		return api.Fail(http.StatusConflict, err)
	}
	return nil
}

func (n *Node) consoleHere(vm, query string) (net.Conn, error) {
	p, err := n.primaryHere(vm)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", p.file("control.sock"))
	if err != nil {
		return nil, err
	}
	return control.Upgrade(conn, "/console?"+query)
}

// getConsole joins a client with the console of a VM.
func (n *Node) getConsole(w http.ResponseWriter, r *http.Request) {
	n.join(w, r, func() (net.Conn, error) {
		vm := r.PathValue("name")
		p, _, _, err := n.find(r.Context(), vm)
		switch {
		case err != nil:
			return nil, err
		case p.here:
			return n.consoleHere(vm, r.URL.RawQuery)
		}
		conn, err := n.dialPeer(r.Context(), p.peer)
		if err != nil {
			return nil, err
		}
		return control.Upgrade(conn, peerPath+"vms/"+url.PathEscape(vm)+"/console?"+r.URL.RawQuery)
	})
}

// join joins a request's connection with another one, for as long as who asks may be
// there. A browser's is a WebSocket.
func (n *Node) join(w http.ResponseWriter, r *http.Request, open func() (net.Conn, error)) {
	if !api.IsSocket(r) && r.Header.Get("Upgrade") != control.ConsoleProtocol {
		api.Tell(w, api.Failf(http.StatusUpgradeRequired, "a console is joined by an upgrade to websocket or %s", control.ConsoleProtocol))
		return
	}
	ctx, cancel := api.While(r)
	defer cancel()
	far, err := open()
	if err != nil {
		api.Tell(w, err)
		return
	}
	var near io.ReadWriteCloser
	if api.IsSocket(r) {
		near, err = api.Socket(w, r)
	} else {
		near, err = control.Hijack(w)
	}
	if err != nil {
		far.Close()
		return
	}
	defer context.AfterFunc(ctx, func() { far.Close() })()
	control.Splice(near, far)
}

// peerTLS is how daemons know each other.
func (n *Node) peerTLS(address string) (*tls.Config, error) {
	pair, pool, err := certs.Load(filepath.Join(n.opt.State, pkiDir), hostPair)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: address}, nil
}

const (
	peerTime  = 5 * time.Second // that another daemon may take for the first word
	maxAnswer = 16 << 20        // bytes of its answer
)

func (n *Node) dialPeer(ctx context.Context, peer etcd.Node) (net.Conn, error) {
	conf, err := n.peerTLS(peer.Address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", peer.Join)
	if err != nil {
		return nil, fmt.Errorf("%s, which has the primary, does not answer: %w", peer.Name, err)
	}
	return conn, nil
}

// peerClient asks other daemons.
func (n *Node) peerClient(peer etcd.Node, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{IdleConnTimeout: peerTime,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return n.dialPeer(ctx, peer) }}}
}

// askPeer asks another daemon, once.
func (n *Node) askPeer(ctx context.Context, by *http.Client, peer etcd.Node, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+peer.Join+peerPath+path, nil)
	if err != nil {
		return err
	}
	resp, err := by.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return api.Problem(resp)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
}
