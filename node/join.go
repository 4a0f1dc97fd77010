// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/host/certs"
	"tandem/host/etcd"
)

// InitRequest makes this host the first of a cluster.
type InitRequest struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Port    int      `json:"port,omitempty"`
	Domain  string   `json:"domain,omitempty"`
	Labels  []string `json:"labels,omitempty"`
	// An external etcd: its addresses, and PEM files on this host.
	Etcd     []string `json:"etcd,omitempty"`
	EtcdCA   string   `json:"etcd_ca,omitempty"`
	EtcdCert string   `json:"etcd_cert,omitempty"`
	EtcdKey  string   `json:"etcd_key,omitempty"`
}

// JoinRequest makes this host one more of a cluster.
type JoinRequest struct {
	Token   string   `json:"token"`
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Port    int      `json:"port,omitempty"`
	Domain  string   `json:"domain,omitempty"`
	Labels  []string `json:"labels,omitempty"`
}

// Token is what a host needs to join: where, whom to believe, and a secret. The
// fingerprint makes sure that the secret is told to no one else.
type Token struct {
	Join        []string `json:"j"` // HOST:PORT of nodes
	Fingerprint string   `json:"f"` // SHA-256 of the cluster's CA certificate
	Secret      string   `json:"s"`
}

const (
	tokenPrefix = "tandem1."
	tokenLife   = 24 * time.Hour
	joinPath    = "/v1/join"
	maxJoin     = 1 << 20 // bytes of a request or an answer
)

// String is a token as people copy it.
func (t Token) String() string {
	b, _ := json.Marshal(t)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads a token.
func ParseToken(s string) (t Token, err error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if !ok || err != nil || len(t.Join) == 0 || len(t.Fingerprint) != 2*sha256.Size || t.Secret == "" {
		return t, errors.New("this is no join token: copy all of what tandem cluster token printed")
	}
	return t, nil
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

var errMember = errors.New("this host is in a cluster already")

// Init founds a cluster, and returns a token for the others.
func (n *Node) Init(ctx context.Context, r InitRequest) (token string, err error) {
	s := &settings{Name: r.Name, Address: r.Address, Port: r.Port, Domain: r.Domain, Labels: r.Labels,
		Cluster: rand.Text(), Embedded: len(r.Etcd) == 0, URLs: r.Etcd, CA: r.EtcdCA, Cert: r.EtcdCert, Key: r.EtcdKey}
	if s.Port == 0 {
		s.Port = DefaultPort
	}
	if err := s.check(); err != nil {
		return "", err
	}
	if n.opt.Witness {
		return "", errors.New("a witness can't be the first of a cluster: run tandem node and tandem cluster init on a host for VMs")
	}
	s.NoSync = os.Getenv("TANDEM_TEST_NOSYNC") != ""
	if s.Embedded {
		s.URLs, s.Members = []string{s.clientURL()}, s.Name+"="+s.peerURL()
	}
	err = n.become(s, func() error {
		ca, err := certs.NewCA("tandem cluster " + s.Cluster)
		if err != nil {
			return err
		}
		pki := filepath.Join(n.opt.State, pkiDir)
		if err := errors.Join(ca.Save(pki), ca.SaveHost(pki, hostPair, net.ParseIP(s.Address))); err != nil {
			return err
		}
		if err := n.enter(ctx, s); err != nil {
			return err
		}
		if err := n.client.Found(ctx); err != nil {
			return err
		}
		return n.register(ctx)
	})
	if err != nil {
		return "", err
	}
	return n.NewToken(ctx)
}

// become runs what makes this host a member; if that fails nothing of it stays.
func (n *Node) become(s *settings, f func() error) error {
	n.mu.Lock()
	taken := n.set != nil || n.becoming
	if !taken {
		n.becoming = true
	}
	n.mu.Unlock()
	if taken {
		return errMember
	}
	err := f()
	if err == nil {
		err = s.save(n.opt.State)
	}
	if err != nil {
		n.leave()
		for _, name := range []string{pkiDir, etcdDir, etcdFile, guardFile, settingsFile} {
			os.RemoveAll(filepath.Join(n.opt.State, name))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.becoming = false
	if err != nil {
		n.set = nil
	}
	return err
}

// register enters this node in the registry.
func (n *Node) register(ctx context.Context) error {
	for {
		s, err := n.client.Load(ctx)
		if err != nil {
			return err
		}
		rec := n.set.record()
		if n.server != nil {
			rec.Member = n.server.ID()
		}
		if was, is := s.Node(rec.Name); is {
			was.Member, rec = rec.Member, was
		}
		if err = n.client.SaveNode(ctx, s, rec); !errors.Is(err, etcd.ErrChanged) {
			return err
		}
	}
}

// NewToken lets hosts join for a day.
func (n *Node) NewToken(ctx context.Context) (string, error) {
	c, err := n.connected()
	if err != nil {
		return "", err
	}
	pemCA, err := os.ReadFile(filepath.Join(n.opt.State, pkiDir, "ca.pem"))
	if err != nil {
		return "", err
	}
	t := Token{Join: []string{n.set.joinAddr()}, Secret: rand.Text()}
	if t.Fingerprint, err = certs.Fingerprint(pemCA); err != nil {
		return "", err
	}
	s, err := c.Load(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range s.Nodes {
		if _, up := s.Alive[o.Name]; up && o.Join != "" && o.Join != t.Join[0] {
			t.Join = append(t.Join, o.Join)
		}
	}
	return t.String(), c.PutToken(ctx, hash(t.Secret), tokenLife)
}

// admission is what a member asks and gets.
type admissionRequest struct {
	Secret  string `json:"secret"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Peer    string `json:"peer"`
	Witness bool   `json:"witness"`
	Request []byte `json:"request"` // for a certificate
}

type admission struct {
	Cluster  string   `json:"cluster"`
	Cert     []byte   `json:"cert"`
	CA       []byte   `json:"ca"`
	CAKey    []byte   `json:"ca_key,omitempty"` // not for a witness
	Embedded bool     `json:"embedded"`
	Members  string   `json:"members,omitempty"`
	URLs     []string `json:"urls"`
	NoSync   bool     `json:"no_sync,omitempty"`
	// Of an external etcd.
	EtcdCA   []byte `json:"etcd_ca,omitempty"`
	EtcdCert []byte `json:"etcd_cert,omitempty"`
	EtcdKey  []byte `json:"etcd_key,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Join makes this host a member: it is admitted by one, its etcd member starts without
// a vote, and gets one when it has caught up.
func (n *Node) Join(ctx context.Context, r JoinRequest) error {
	t, err := ParseToken(r.Token)
	if err != nil {
		return err
	}
	s := &settings{Name: r.Name, Address: r.Address, Port: r.Port, Domain: r.Domain, Labels: r.Labels, Witness: n.opt.Witness, Joins: true}
	if s.Port == 0 {
		s.Port = DefaultPort
	}
	if err := s.check(); err != nil {
		return err
	}
	return n.become(s, func() error {
		request, key, err := certs.Request(s.Name)
		if err != nil {
			return err
		}
		a, err := ask(ctx, t, admissionRequest{t.Secret, s.Name, s.Address, s.peerURL(), s.Witness, request})
		if err != nil {
			return err
		}
		s.Cluster, s.Embedded, s.Members, s.URLs, s.NoSync = a.Cluster, a.Embedded, a.Members, a.URLs, a.NoSync
		s.NoMember = a.Embedded && a.Members == ""
		switch {
		case s.Witness && !s.Embedded:
			return errors.New("this cluster's etcd is an external one: it needs no witness")
		case s.Witness && s.NoMember:
			return errors.New("this cluster's etcd has as many members as it may: it needs no witness")
		}
		if err := n.keep(s, a, key); err != nil {
			return err
		}
		// From here on the member may take part: a crash must not forget that.
		if err := s.save(n.opt.State); err != nil {
			return err
		}
		if err := n.enter(ctx, s); err != nil {
			return err
		}
		if n.server != nil {
			if err := n.vote(ctx); err != nil {
				return err
			}
		}
		return n.register(ctx)
	})
}

// vote gives our member a vote, unless there are voters enough: then it is a spare, and
// the leader's node promotes it when there is need.
func (n *Node) vote(ctx context.Context) error {
	list, err := n.client.Members(ctx)
	if err != nil {
		return err
	}
	if len(voters(list)) >= fewVoters {
		return nil
	}
	return n.client.Promote(ctx, n.server.ID())
}

// keep writes what the admission brought to our own disk.
func (n *Node) keep(s *settings, a admission, key []byte) error {
	pki := filepath.Join(n.opt.State, pkiDir)
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
		use  *string
	}{
		{"ca.pem", a.CA, nil}, {"ca.key", a.CAKey, nil}, {hostPair + ".pem", a.Cert, nil}, {hostPair + ".key", key, nil},
		{"etcd-ca.pem", a.EtcdCA, &s.CA}, {"etcd.pem", a.EtcdCert, &s.Cert}, {"etcd.key", a.EtcdKey, &s.Key},
	}
	for _, f := range files {
		if len(f.data) == 0 {
			continue
		}
		path := filepath.Join(pki, f.name)
		if err := etcd.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		if f.use != nil {
			*f.use = path
		}
	}
	return nil
}

// ask asks the nodes of a token, one after the other, to be admitted. Only a server
// whose certificate is of the CA with the token's fingerprint is told the secret.
func ask(ctx context.Context, t Token, r admissionRequest) (a admission, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // checked below, by the fingerprint instead of a pool
		VerifyConnection: func(s tls.ConnectionState) error { return verify(s, t.Fingerprint) },
	}}}
	defer client.CloseIdleConnections()
	var errs []error
	for _, addr := range t.Join {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+joinPath, bytes.NewReader(body))
		if err != nil {
			return a, err
		}
		resp, err := client.Do(req)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxJoin)).Decode(&a)
		resp.Body.Close()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			continue
		case a.Error != "":
			return a, fmt.Errorf("%s refuses: %s", addr, a.Error)
		}
		if fp, err := certs.Fingerprint(a.CA); err != nil || fp != t.Fingerprint {
			return a, fmt.Errorf("%s sent another CA than the token names", addr)
		}
		return a, nil
	}
	return a, fmt.Errorf("no node of the token could be asked: %w", errors.Join(errs...))
}

// verify checks that a server's chain ends in the CA of a fingerprint.
func verify(s tls.ConnectionState, fingerprint string) error {
	for _, ca := range s.PeerCertificates[1:] {
		sum := sha256.Sum256(ca.Raw)
		if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(fingerprint)) != 1 {
			continue
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca)
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
		return err
	}
	return errors.New("this is not the cluster of the token: its CA has another fingerprint")
}

// serveJoins admits hosts that know a secret, until ctx ends. It is called with mu held.
func (n *Node) serveJoins(ctx context.Context) {
	pki := filepath.Join(n.opt.State, pkiDir)
	pair, pool, err := certs.Load(pki, hostPair)
	if err == nil {
		var caPEM []byte
		if caPEM, err = os.ReadFile(filepath.Join(pki, "ca.pem")); err == nil {
			if block, _ := pem.Decode(caPEM); block != nil {
				pair.Certificate = append(pair.Certificate, block.Bytes) // for verify
			}
		}
	}
	if err != nil {
		n.opt.Log.Warn("no host can join through this node", "err", err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+joinPath, n.admit)
	n.servePeers(mux)
	srv := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, ErrorLog: nil,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only, which can be upgraded
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
			ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}}
	addr := n.set.joinAddr()
	n.wg.Go(func() {
		ln, err := listen(ctx, addr)
		if err != nil {
			n.opt.Log.Warn("no host can join through this node", "err", err)
			return
		}
		srv.ServeTLS(ln, "", "")
	})
	context.AfterFunc(ctx, func() { srv.Close() })
}

func (n *Node) admit(w http.ResponseWriter, r *http.Request) {
	var q admissionRequest
	var a admission
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&q)
	if err == nil {
		a, err = n.admission(r.Context(), q)
	}
	if err != nil {
		n.opt.Log.Warn("a host was not admitted", "from", r.RemoteAddr, "err", err)
		a = admission{Error: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a)
}

func (n *Node) admission(ctx context.Context, q admissionRequest) (a admission, err error) {
	c, err := n.connected()
	if err != nil {
		return a, err
	}
	switch known, err := c.HasToken(ctx, hash(q.Secret)); {
	case err != nil:
		return a, err
	case !known:
		return a, errors.New("the token is not known, or its day is over: run tandem cluster token again")
	}
	ip := net.ParseIP(q.Address)
	if !etcd.ValidName(q.Name) || ip == nil || !strings.HasPrefix(q.Peer, "https://"+net.JoinHostPort(q.Address, "")) {
		return a, fmt.Errorf("name %q or address %q is not valid", q.Name, q.Address)
	}
	s, err := c.Load(ctx)
	if err != nil {
		return a, err
	}
	if _, is := s.Node(q.Name); is {
		return a, fmt.Errorf("there is a node %s already: choose another name, or run tandem cluster remove %s first", q.Name, q.Name)
	}
	ca, err := certs.LoadCA(filepath.Join(n.opt.State, pkiDir))
	if err != nil {
		return a, err
	}
	a = admission{Cluster: n.set.Cluster, CA: ca.CertPEM, Embedded: n.set.Embedded, NoSync: n.set.NoSync}
	if a.Cert, err = ca.Sign(q.Request, q.Name, ip); err != nil {
		return a, err
	}
	if !q.Witness {
		a.CAKey = ca.KeyPEM
	}
	a.URLs = n.set.URLs
	if !a.Embedded {
		for _, f := range []struct {
			path string
			to   *[]byte
		}{{n.set.CA, &a.EtcdCA}, {n.set.Cert, &a.EtcdCert}, {n.set.Key, &a.EtcdKey}} {
			if f.path == "" {
				continue
			}
			if *f.to, err = os.ReadFile(f.path); err != nil {
				return a, err
			}
		}
		return a, nil
	}
	list, err := c.Members(ctx)
	if err != nil {
		return a, err
	}
	if len(list)-len(voters(list)) >= etcd.MaxLearners && len(voters(list)) >= fewVoters {
		return a, nil // spares enough: it follows etcd without a member of its own
	}
	a.Members, err = c.AddMember(ctx, q.Name, q.Peer)
	return a, err
}

// connected returns the connection to etcd, or why there is none.
func (n *Node) connected() (*etcd.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.client == nil && n.set != nil:
		return nil, errors.New("this host's daemon has not reached etcd yet: ask again in a moment; if it stays so, see its diagnostics and those of the other members")
	case n.client == nil:
		return nil, errors.New("this host is in no cluster: run tandem cluster init, or tandem cluster join with a token")
	}
	return n.client, nil
}
