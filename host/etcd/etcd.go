// SPDX-License-Identifier: Apache-2.0

// Package etcd keeps what a cluster must agree on in etcd: who holds each VM
// (Arbiter, the paper's test-and-set, §2.3), which hosts there are, what operators
// want and what was observed (Registry). The etcd is an external one or the one
// that runs inside `tandem node` (Server).
//
//	/tandem/cluster             Identity: which cluster this is, and its generation
//	/tandem/nodes/NODE          Node: a member, for good
//	/tandem/alive/NODE          Alive: that it is heard, by a lease
//	/tandem/vms/VM              VM: what is wanted
//	/tandem/secrets/VM          the certificates of a VM's replicas
//	/tandem/claims/VM           who holds it: never deleted, as stores remember epochs too
//	/tandem/states/VM           State: what was done about it
//	/tandem/copies/VM/NODE      Copy: what NODE's daemon says of its process
//	/tandem/events/VM/TIME-…    Event, a bounded number for each VM
//	/tandem/tokens/HASH         a secret that lets a host join, by a lease
//	/tandem/api-tokens/ID       APIToken: what a token of the API allows, by a lease if it expires
//
// # An etcd that forgot
//
// A majority of disks that were wiped, or a backup put in their place, would bring
// back records from before a claim: the same epoch could be won twice. So each node
// keeps on its own disk what etcd must not fall behind (the guard file): the
// cluster's identity, its generation and the newest revision seen. An etcd that
// shows less counts as unreachable. Running pairs go on, nothing is claimed and
// nothing is planned, until an operator has looked and confirms (Confirm), which
// counts the generation up; the other nodes follow that.
//
// What this can't see: a backup that is newer than what every node that still
// answers has seen. A primary that claimed an epoch while its backup's host was cut
// off, and whose claim is then lost by such a restore, needs both failures at once.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	root        = "/tandem/"
	identityKey = root + "cluster"

	dialTimeout = 2 * time.Second
	// patience bounds one request. It is longer than an election takes when the
	// leader's host dies, which a request that is sent again then meets.
	patience = 2 * time.Second
	// reconnectMax is the longest pause before a member that was lost is tried again.
	reconnectMax = time.Second
)

// Config says how etcd is reached. A node keeps it as a file for its replicas.
type Config struct {
	Endpoints []string `json:"endpoints"`      // https://HOST:PORT
	CA        string   `json:"ca,omitempty"`   // PEM files
	Cert      string   `json:"cert,omitempty"` // our own, if etcd asks for one
	Key       string   `json:"key,omitempty"`
	Cluster   string   `json:"cluster"` // Identity.ID
	Node      string   `json:"node"`    // who claims
	Guard     string   `json:"guard"`   // file on the node's own disk
}

// LoadConfig reads a Config that a node has written.
func LoadConfig(path string) (cfg Config, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return cfg, fmt.Errorf("etcd: %w; tandem node writes this file", err)
	}
	if err := json.Unmarshal(b, &cfg); err != nil {
		return cfg, fmt.Errorf("etcd: %s is damaged (%w); restart tandem node, which writes it again", path, err)
	}
	return cfg, nil
}

// Identity says which cluster an etcd holds. Generation counts the times that an
// operator confirmed an etcd that had been wiped or restored.
type Identity struct {
	ID         string    `json:"id"`
	Generation uint64    `json:"generation"`
	Made       time.Time `json:"made"`
}

// Client is a connection to the cluster's etcd. Its methods may be called by
// several goroutines.
type Client struct {
	cfg   Config
	c     *clientv3.Client
	guard guard
}

// ErrForgot is wrapped by errors of an etcd that was wiped or restored.
var ErrForgot = errors.New("etcd has lost what it knew")

// Dial connects to etcd; it does not wait for an answer.
func Dial(cfg Config) (*Client, error) {
	conf, err := loadTLS(cfg)
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: conf, DialTimeout: dialTimeout,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout,
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax}})},
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %v: %w", cfg.Endpoints, err)
	}
	return &Client{cfg: cfg, c: c, guard: guard{path: cfg.Guard, cluster: cfg.Cluster}}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.c.Close() }

// ID tells clusters apart.
func (c *Client) ID() string { return c.cfg.Cluster }

// SetEndpoints tells of members that came or went.
func (c *Client) SetEndpoints(list []string) { c.c.SetEndpoints(list...) }

func loadTLS(cfg Config) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		b, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("etcd's CA: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("etcd's CA: %s holds no certificate", cfg.CA)
		}
	}
	if cfg.Cert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate for etcd: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	for _, e := range cfg.Endpoints {
		if len(e) < 8 || e[:8] != "https://" {
			return nil, fmt.Errorf("etcd at %s: only https:// is spoken, since who can write there can take any VM", e)
		}
	}
	return conf, nil
}

// Found makes this etcd the home of a new cluster; a cluster that is there is kept
// and refused.
func (c *Client) Found(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	id := Identity{ID: c.cfg.Cluster, Generation: 1, Made: time.Now().UTC()}
	resp, err := c.c.Txn(ctx).If(absent(identityKey)).Then(clientv3.OpPut(identityKey, encode(id))).Else(clientv3.OpGet(identityKey)).Commit()
	if err != nil {
		return fmt.Errorf("etcd: make the cluster's record: %w", err)
	}
	if !resp.Succeeded {
		var is Identity
		if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 && json.Unmarshal(kvs[0].Value, &is) == nil && is.ID == id.ID {
			return nil
		}
		return errors.New("etcd: it holds another tandem cluster: join that one, or remove what lies under " + root)
	}
	return c.guard.set(1, resp.Header.Revision)
}

// Confirm accepts an etcd that was wiped or restored from a backup: what it says
// counts from now on, for every node. The operator has made sure that what it
// forgot does no harm.
func (c *Client) Confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	got, err := c.c.Get(ctx, identityKey)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	id := Identity{ID: c.cfg.Cluster, Made: time.Now().UTC()}
	guard := absent(identityKey)
	if len(got.Kvs) == 1 {
		if err := json.Unmarshal(got.Kvs[0].Value, &id); err != nil || id.ID != c.cfg.Cluster {
			return fmt.Errorf("etcd: it holds another cluster (%.60q): see where its addresses lead", got.Kvs[0].Value)
		}
		guard = clientv3.Compare(clientv3.ModRevision(identityKey), "=", got.Kvs[0].ModRevision)
	}
	floor, err := c.guard.read()
	if err != nil {
		return err
	}
	id.Generation = max(id.Generation, floor.Generation) + 1
	resp, err := c.c.Txn(ctx).If(guard).Then(clientv3.OpPut(identityKey, encode(id))).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("etcd: %w", err)
	case !resp.Succeeded:
		return errors.New("etcd: another node confirmed at the same time")
	}
	return c.guard.set(id.Generation, resp.Header.Revision)
}

// Remember writes down how far etcd has come, so that less is known for a loss.
func (c *Client) Remember(revision int64) error { return c.guard.raise(revision) }

// transact runs operations of which the first must be the read of the identity, and
// judges the answer by it.
func (c *Client) transact(ctx context.Context, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	floor, err := c.guard.read() // before the question: meanwhile others may raise it
	if err != nil {
		return nil, err
	}
	id := clientv3.OpGet(identityKey)
	then, otherwise = append([]clientv3.Op{id}, then...), append([]clientv3.Op{id}, otherwise...)
	var resp *clientv3.TxnResponse
	for end := time.Now().Add(electionPatience); ; {
		resp, err = c.c.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
		elects := errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrNoLeader)
		if !elects || !onlyReads(then) || !onlyReads(otherwise) || time.Now().After(end) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(electionPatience / 30):
		}
	}
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	var is Identity
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		if err := json.Unmarshal(kvs[0].Value, &is); err != nil {
			return nil, fmt.Errorf("%w: its record of the cluster is damaged", ErrForgot)
		}
	}
	return resp, c.guard.check(floor, is, resp.Header.Revision)
}

// electionPatience is how long a read is asked for again while etcd elects a leader. A
// write that was answered so may have happened, which its caller must find out.
const electionPatience = 3 * time.Second

func onlyReads(ops []clientv3.Op) bool {
	return !slices.ContainsFunc(ops, func(op clientv3.Op) bool { return !op.IsGet() })
}

// ours compares the cluster's record, so that nothing is ever written to an etcd
// that was wiped.
func (c *Client) ours() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(identityKey), ">", 0)
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}

func unchanged(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always can
	}
	return string(b)
}

// ranged returns what operation i of a transaction read, the identity not counted.
func ranged(resp *clientv3.TxnResponse, i int) *pb.RangeResponse {
	if r := resp.Responses[i+1].GetResponseRange(); r != nil {
		return r
	}
	return &pb.RangeResponse{}
}
