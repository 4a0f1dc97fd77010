// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/net/netutil"

	"tandem/api"
	"tandem/host/certs"
	"tandem/host/etcd"
)

// maxClients bounds the connections from afar.
const maxClients = 256

// serveRemote serves the API and the dashboard over TLS, if an address was given. Until
// this host is in a cluster nobody gets further than the handshake.
func (n *Node) serveRemote(ctx context.Context, h http.Handler) (io.Closer, error) {
	if n.opt.API == "" {
		return io.NopCloser(nil), nil
	}
	if (n.opt.APICert == "") != (n.opt.APIKey == "") {
		return nil, errors.New("--api-cert and --api-key belong together: give both, or none")
	}
	if n.opt.APICert != "" {
		if _, err := tls.LoadX509KeyPair(n.opt.APICert, n.opt.APIKey); err != nil {
			return nil, fmt.Errorf("--api-cert %s, --api-key %s: %w; give PEM files of a certificate and its key", n.opt.APICert, n.opt.APIKey, err)
		}
	}
	ln, err := listen(ctx, n.opt.API)
	if err != nil {
		return nil, fmt.Errorf("--api %s: %w; choose an address of this host and a free port", n.opt.API, err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // of handshakes, which anybody can make fail
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return n.remoteTLS()
		}}}
	n.wg.Go(func() { srv.ServeTLS(netutil.LimitListener(ln, maxClients), "", "") })
	n.opt.Log.Info("the API and the dashboard are served", "url", "https://"+ln.Addr().String()+"/")
	return srv, nil
}

// remoteTLS reads the certificates for each handshake, so that new ones need no restart.
func (n *Node) remoteTLS() (*tls.Config, error) {
	pair, pool, err := certs.Load(filepath.Join(n.opt.State, pkiDir), hostPair)
	if err == nil && n.opt.APICert != "" {
		pair, err = tls.LoadX509KeyPair(n.opt.APICert, n.opt.APIKey)
	}
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"},
		ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}, nil
}

// noteChange writes who asked for a change from afar.
func (n *Node) noteChange(who api.Grant, r *http.Request) {
	n.opt.Log.Info("asked for from afar", "by", who.String(), "role", who.Role.String(), "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr)
}

// asked tells of a change that somebody wanted of a VM.
func (n *Node) asked(r *http.Request, c *etcd.Client, vm string, epoch uint64, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if who := api.Who(r); who.By != "" && who.By != api.BySocket {
		text += " (by " + who.String() + ")"
	}
	n.event(r.Context(), c, vm, "asked", epoch, "%s", text)
}

// TokenRequest makes a token of the API.
type TokenRequest struct {
	Name    string   `json:"name,omitempty"` // for people; default: its role
	Role    api.Role `json:"role"`
	Seconds int64    `json:"expires_in_seconds,omitempty"` // 0: never
}

// MadeToken is a token that was made; its text is told this once.
type MadeToken struct {
	api.Token
	Text string `json:"token"`
}

const (
	maxTokens    = 1000
	maxTokenLife = 10 * 365 * 24 * time.Hour
)

func tokenOf(t etcd.APIToken) (api.Token, bool) {
	role, err := api.ParseRole(t.Role)
	return api.Token{ID: t.ID, Name: t.Name, Role: role, Hash: t.Hash, Made: t.Made, Expires: t.Expires}, err == nil
}

// findToken looks a token up in the newest look at etcd. While etcd does not answer,
// tokens are good as they were.
func (n *Node) findToken(id string) (api.Token, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.snap == nil {
		return api.Token{}, false
	}
	t, ok := n.snap.Tokens[id]
	if !ok {
		return api.Token{}, false
	}
	return tokenOf(t)
}

func (n *Node) getTokens(r *http.Request) (any, error) {
	_, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	list := []api.Token{}
	for _, id := range slices.Sorted(maps.Keys(s.Tokens)) {
		if t, ok := tokenOf(s.Tokens[id]); ok {
			list = append(list, t)
		}
	}
	slices.SortStableFunc(list, func(a, b api.Token) int { return a.Made.Compare(b.Made) })
	return list, nil
}

func (n *Node) postAPIToken(r *http.Request) (any, error) {
	q, err := api.Read[TokenRequest](r)
	if err != nil {
		return nil, err
	}
	name, life := cmp.Or(q.Name, q.Role.String()), time.Duration(q.Seconds)*time.Second
	switch {
	case q.Role == api.Public:
		return nil, refuse("what may the token do? Give a role: view, operate or admin")
	case !etcd.ValidName(name):
		return nil, refuse("%q is no name of a token: use at most 63 letters, digits, '-', '_' and '.'", name)
	case q.Seconds < 0 || q.Seconds > int64(maxTokenLife/time.Second):
		return nil, refuse("a life of %d seconds: give 1 to ten years, or nothing for a token that does not expire", q.Seconds)
	}
	c, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	if len(s.Tokens) >= maxTokens {
		return nil, refuse("there are %d tokens: revoke some first", len(s.Tokens))
	}
	text, t := api.NewToken(name, q.Role, time.Now(), life)
	if err := c.PutAPIToken(r.Context(), etcd.APIToken{ID: t.ID, Name: t.Name, Role: t.Role.String(), Hash: t.Hash, Made: t.Made, Expires: t.Expires}); err != nil {
		return nil, err
	}
	n.awaitToken(r.Context(), t.ID, true)
	return MadeToken{t, text}, nil
}

func (n *Node) deleteToken(r *http.Request) (any, error) {
	c, err := n.connected()
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	switch was, err := c.DropAPIToken(r.Context(), id); {
	case err != nil:
		return nil, err
	case !was:
		return nil, missing("token", id)
	}
	n.awaitToken(r.Context(), id, false)
	return struct{}{}, nil
}

// awaitToken waits until this host's newest look knows of a change, so that whoever made
// it finds it made. Other hosts follow in a moment.
func (n *Node) awaitToken(ctx context.Context, id string, there bool) {
	n.kick()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(lookTime) {
		if _, is := n.findToken(id); is == there {
			return
		}
	}
}
