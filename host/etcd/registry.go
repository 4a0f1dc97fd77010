// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Node is a member of the cluster.
type Node struct {
	Name       string    `json:"name"`
	Address    string    `json:"address"`
	Join       string    `json:"join,omitempty"` // HOST:PORT where others join
	Domain     string    `json:"domain,omitempty"`
	Labels     []string  `json:"labels,omitempty"`
	Witness    bool      `json:"witness,omitempty"` // has no VMs
	Member     uint64    `json:"member,omitempty"`  // of the embedded etcd
	Joined     time.Time `json:"joined"`
	Evacuation string    `json:"evacuation,omitempty"` // empty, evacuate or force
	Cordoned   bool      `json:"cordoned,omitempty"`
	Dead       string    `json:"dead,omitempty"` // the Alive.Boot that an operator vouches has ended
}

// Alive is what a node says of itself while it is heard.
type Alive struct {
	Boot     string   `json:"boot"` // its kernel's boot and its daemon's start
	CPUs     int      `json:"cpus"`
	Memory   int64    `json:"memory"`
	Free     int64    `json:"free"`
	Versions []uint32 `json:"versions"`
}

// VM is a virtual machine as operators want it.
type VM struct {
	Name     string    `json:"name"`
	Revision int64     `json:"revision"`
	Power    bool      `json:"power"`
	Asked    int64     `json:"asked"` // revision in which Power was asked for
	Deleted  bool      `json:"deleted,omitempty"`
	FT       bool      `json:"ft"`
	Made     time.Time `json:"made"`
	Move     *Move     `json:"move,omitempty"` // the newest that was asked for
	Spec     Spec      `json:"spec"`
}

// Move is an operator's wish to have a copy elsewhere, and what came of it.
type Move struct {
	Role  string `json:"role"` // primary or backup
	To    string `json:"to"`
	Since int64  `json:"since"` // Unix time
	Done  bool   `json:"done,omitempty"`
	Over  string `json:"over,omitempty"` // why it was given up
}

// Ended reports that there is nothing left to do.
func (m Move) Ended() bool { return m.Done || m.Over != "" }

// Spec is a VM's hardware and where it may run. Paths are the same on every node.
type Spec struct {
	Image    string   `json:"image,omitempty"`
	Kernel   string   `json:"kernel,omitempty"`
	Initrd   string   `json:"initrd,omitempty"`
	Append   string   `json:"append,omitempty"`
	Firmware string   `json:"firmware,omitempty"`
	CPUs     int      `json:"cpus"`
	Memory   int64    `json:"memory"`                  // bytes
	Target   int64    `json:"memory_target,omitempty"` // of these, which the guest is asked to run in; 0: all
	Disks    []string `json:"disks,omitempty"`
	Sizes    []uint64 `json:"disk_sizes,omitempty"` // bytes, as a protected disk tells them to its owner only
	Network  string   `json:"network,omitempty"`
	Terminal string   `json:"terminal,omitempty"`
	Engine   string   `json:"engine,omitempty"`
	Timeout  string   `json:"timeout,omitempty"` // detection timeout
	Host     string   `json:"host,omitempty"`    // preferred for its start
	Labels   []string `json:"labels,omitempty"`
	Groups   []string `json:"groups,omitempty"` // anti-affinity
	Spread   string   `json:"spread,omitempty"` // prefer or require
}

// EmptyDrive stands among Spec.Disks for a drive that a disk can be put into while the VM
// runs.
const EmptyDrive = "empty"

// Secrets are PEM files by which a VM's replicas know each other.
type Secrets struct {
	CA   []byte `json:"ca"`
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// State is what the executors of actions did about a VM.
type State struct {
	Epoch    uint64  `json:"epoch"`    // of the last start
	Revision int64   `json:"revision"` // of the desired state that was acted upon
	Version  uint32  `json:"version"`  // of the machine that was booted
	CPUs     int     `json:"cpus"`
	Memory   int64   `json:"memory"`
	Backup   *Backup `json:"backup,omitempty"`
	Failures int     `json:"failures,omitempty"`
	FailedAt int64   `json:"failed_at,omitempty"` // Unix time
	FailedOn string  `json:"failed_on,omitempty"`
}

// Backup is a host's order to run a backup. The owner of the epoch gives it.
type Backup struct {
	Host  string `json:"host"`
	Token string `json:"token"`           // of the process to be
	Owner string `json:"owner"`           // the primary's token
	Epoch uint64 `json:"epoch"`           // the primary's
	Dial  string `json:"dial"`            // the primary's address
	Since int64  `json:"since"`           // Unix time
	Ready bool   `json:"ready,omitempty"` // it was protected at some time
	Over  string `json:"over,omitempty"`  // why it is given up
	Swap  bool   `json:"swap,omitempty"`  // it takes over once it can
}

// Copy is a replica's process, as its node sees it.
type Copy struct {
	Token    string `json:"token"`
	Role     string `json:"role"`  // that it was started in
	Epoch    uint64 `json:"epoch"` // that it claims, or would claim
	State    string `json:"state"` // of package ft; empty: not known yet
	Address  string `json:"address"`
	PID      int    `json:"pid"`
	Alive    bool   `json:"alive"`
	End      string `json:"end,omitempty"` // off, halted, failed or killed
	Why      string `json:"why,omitempty"`
	Progress int    `json:"progress,omitempty"` // of a clone that it sends, per mille
}

// Snapshot is all of a cluster at one revision. Its lists are in the order of names.
type Snapshot struct {
	Revision int64
	Identity Identity
	Nodes    []Node
	Alive    map[string]Alive // by node
	VMs      []VM
	Claims   map[string]Claim
	States   map[string]State
	Copies   map[string]map[string]Copy // by VM and node
	Tokens   map[string]APIToken
	mods     map[string]int64
}

// Node returns a member by name.
func (s *Snapshot) Node(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// VM returns a VM by name.
func (s *Snapshot) VM(name string) (VM, bool) {
	for _, v := range s.VMs {
		if v.Name == name {
			return v, true
		}
	}
	return VM{}, false
}

const prefixes = 7

// Load reads everything.
func (c *Client) Load(ctx context.Context) (*Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var gets []clientv3.Op
	for _, p := range [prefixes]string{"nodes/", "alive/", "vms/", "claims/", "states/", "copies/", "api-tokens/"} {
		gets = append(gets, clientv3.OpGet(root+p, clientv3.WithPrefix()))
	}
	resp, err := c.transact(ctx, nil, gets, nil)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Revision: resp.Header.Revision, Alive: map[string]Alive{}, Claims: map[string]Claim{},
		States: map[string]State{}, Copies: map[string]map[string]Copy{}, Tokens: map[string]APIToken{}, mods: map[string]int64{}}
	json.Unmarshal(resp.Responses[0].GetResponseRange().Kvs[0].Value, &s.Identity)
	for i := range prefixes {
		for _, kv := range ranged(resp, i).Kvs {
			if err := s.take(kv); err != nil {
				return nil, fmt.Errorf("etcd: record %s is damaged: %w", kv.Key, err)
			}
		}
	}
	return s, nil
}

func (s *Snapshot) take(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	s.mods[key] = kv.ModRevision
	parts := strings.Split(strings.TrimPrefix(key, root), "/")
	switch kind, name := parts[0], parts[1]; {
	case kind == "nodes":
		return appendTo(&s.Nodes, kv.Value)
	case kind == "alive":
		return decodeInto(s.Alive, name, kv.Value)
	case kind == "vms":
		return appendTo(&s.VMs, kv.Value)
	case kind == "claims":
		return decodeInto(s.Claims, name, kv.Value)
	case kind == "states":
		return decodeInto(s.States, name, kv.Value)
	case kind == "api-tokens":
		return decodeInto(s.Tokens, name, kv.Value)
	case kind == "copies" && len(parts) == 3:
		if s.Copies[name] == nil {
			s.Copies[name] = map[string]Copy{}
		}
		return decodeInto(s.Copies[name], parts[2], kv.Value)
	}
	return nil
}

func appendTo[T any](list *[]T, b []byte) error {
	var v T
	err := json.Unmarshal(b, &v)
	*list = append(*list, v)
	return err
}

func decodeInto[T any](m map[string]T, name string, b []byte) error {
	var v T
	err := json.Unmarshal(b, &v)
	m[name] = v
	return err
}

// Watch calls changed after something has changed, at most every moment, until ctx
// ends. After an interruption too: what was missed may have been a change.
func (c *Client) Watch(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		watch, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for range c.c.Watch(watch, root, clientv3.WithPrefix(), clientv3.WithKeysOnly()) {
			changed()
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		changed()
	}
}

// ErrChanged says that a record was changed by someone else since it was read.
var ErrChanged = errors.New("it was changed by someone else at the same time: try again")

// swap replaces a record that is still as in the snapshot; nil removes it.
func (c *Client) swap(ctx context.Context, s *Snapshot, key string, v any, more ...clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	op := clientv3.OpDelete(key)
	if v != nil {
		op = clientv3.OpPut(key, encode(v))
	}
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours(), unchanged(key, s.mods[key])}, append([]clientv3.Op{op}, more...), nil)
	switch {
	case err != nil:
		return err
	case !resp.Succeeded:
		return ErrChanged
	}
	s.mods[key] = resp.Header.Revision
	if v == nil {
		delete(s.mods, key)
	}
	return nil
}

// SaveNode changes a member's record.
func (c *Client) SaveNode(ctx context.Context, s *Snapshot, n Node) error {
	return c.swap(ctx, s, root+"nodes/"+n.Name, n)
}

// RemoveNode removes a member's record.
func (c *Client) RemoveNode(ctx context.Context, s *Snapshot, name string) error {
	return c.swap(ctx, s, root+"nodes/"+name, nil)
}

// CreateVM makes a VM; it fails if there is one of that name.
func (c *Client) CreateVM(ctx context.Context, s *Snapshot, v VM, secrets Secrets) error {
	if _, is := s.VM(v.Name); is {
		return fmt.Errorf("there is a VM %s already: choose another name, or tandem delete %s", v.Name, v.Name)
	}
	return c.swap(ctx, s, root+"vms/"+v.Name, v, clientv3.OpPut(root+"secrets/"+v.Name, encode(secrets)))
}

// SaveVM changes what is wanted.
func (c *Client) SaveVM(ctx context.Context, s *Snapshot, v VM) error {
	return c.swap(ctx, s, root+"vms/"+v.Name, v)
}

// ForgetVM removes all of a VM but its claim and its events.
func (c *Client) ForgetVM(ctx context.Context, s *Snapshot, name string) error {
	return c.swap(ctx, s, root+"vms/"+name, nil, clientv3.OpDelete(root+"secrets/"+name),
		clientv3.OpDelete(root+"states/"+name), clientv3.OpDelete(root+"copies/"+name+"/", clientv3.WithPrefix()))
}

// Secrets reads a VM's certificates.
func (c *Client) Secrets(ctx context.Context, vm string) (s Secrets, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.transact(ctx, nil, []clientv3.Op{clientv3.OpGet(root + "secrets/" + vm)}, nil)
	if err != nil {
		return s, err
	}
	kvs := ranged(resp, 0).Kvs
	if len(kvs) == 0 {
		return s, fmt.Errorf("etcd: VM %s has no certificates", vm)
	}
	return s, json.Unmarshal(kvs[0].Value, &s)
}

// SaveState changes what was done about a VM, if its claim is still that of the
// snapshot: only the owner of the epoch acts.
func (c *Client) SaveState(ctx context.Context, s *Snapshot, vm string, st State) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := root + "states/" + vm
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours(), unchanged(key, s.mods[key]), unchanged(claimKey(vm), s.mods[claimKey(vm)])},
		[]clientv3.Op{clientv3.OpPut(key, encode(st))}, nil)
	switch {
	case err != nil:
		return err
	case !resp.Succeeded:
		return ErrChanged
	}
	s.mods[key] = resp.Header.Revision
	s.States[vm] = st
	return nil
}

// SaveCopy writes what a node sees of its own process; nobody else writes it.
func (c *Client) SaveCopy(ctx context.Context, vm, node string, copy Copy) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpPut(root+"copies/"+vm+"/"+node, encode(copy))}, nil)
	if err == nil && !resp.Succeeded {
		err = ErrForgot
	}
	return err
}

// DropCopy removes the report of a process that was the last of its VM here.
func (c *Client) DropCopy(ctx context.Context, vm, node string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpDelete(root + "copies/" + vm + "/" + node)}, nil)
	return err
}

// TakeEpoch claims an epoch for nobody, so that no copy of an older one can go on.
func (c *Client) TakeEpoch(ctx context.Context, vm string, epoch uint64, token string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	won, cur, err := c.tryClaim(ctx, vm, Claim{Epoch: epoch, Owner: token, Node: c.cfg.Node})
	if err == nil && !won {
		err = fmt.Errorf("epoch %d is owned by %s: %w", cur.Epoch, cur.Owner, ErrChanged)
	}
	return err
}

// Heartbeat is a node's lease: while it is renewed the node is heard.
type Heartbeat struct {
	c     *Client
	node  string
	lease clientv3.LeaseID
	last  string
}

// leaseTime is the silence after which a host counts as down, in seconds.
const leaseTime = 5

// Heartbeat returns the heartbeat of a node.
func (c *Client) Heartbeat(node string) *Heartbeat { return &Heartbeat{c: c, node: node} }

// Beat renews the lease and says what has changed. It is to be called about every
// second.
func (h *Heartbeat) Beat(ctx context.Context, a Alive) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if h.lease != 0 {
		_, err := h.c.c.KeepAliveOnce(ctx, h.lease)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			h.lease, h.last = 0, ""
		} else if err != nil {
			return fmt.Errorf("etcd: renew the lease: %w", err)
		}
	}
	if h.lease == 0 {
		resp, err := h.c.c.Grant(ctx, leaseTime)
		if err != nil {
			return fmt.Errorf("etcd: ask for a lease: %w", err)
		}
		h.lease = resp.ID
	}
	now := encode(a)
	if now == h.last {
		return nil
	}
	resp, err := h.c.transact(ctx, []clientv3.Cmp{h.c.ours()}, []clientv3.Op{clientv3.OpPut(root+"alive/"+h.node, now, clientv3.WithLease(h.lease))}, nil)
	if err == nil && !resp.Succeeded {
		err = ErrForgot
	}
	if err == nil {
		h.last = now
	}
	return err
}

// End gives the lease up: the node leaves on purpose.
func (h *Heartbeat) End(ctx context.Context) {
	if h.lease != 0 {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		h.c.c.Revoke(ctx, h.lease)
		h.lease, h.last = 0, ""
	}
}

// PutToken lets hosts that know the secret of a hash join, for some time.
func (c *Client) PutToken(ctx context.Context, hash string, life time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lease, err := c.c.Grant(ctx, int64(life/time.Second))
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	_, err = c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpPut(tokensKey+hash, "1", clientv3.WithLease(lease.ID))}, nil)
	return err
}

const tokensKey = root + "tokens/"

// DropTokens lets nobody join who knows a secret of before.
func (c *Client) DropTokens(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpDelete(tokensKey, clientv3.WithPrefix())}, nil)
	return err
}

// HasToken reports whether a secret of that hash lets a host join.
func (c *Client) HasToken(ctx context.Context, hash string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.transact(ctx, nil, []clientv3.Op{clientv3.OpGet(tokensKey + hash)}, nil)
	if err != nil {
		return false, err
	}
	return len(ranged(resp, 0).Kvs) == 1, nil
}

// APIToken is what is kept of a token of the HTTP API: no secret.
type APIToken struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Hash    string    `json:"hash"` // of its secret
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires,omitzero"`
}

// PutAPIToken keeps a token, for as long as it is good.
func (c *Client) PutAPIToken(ctx context.Context, t APIToken) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var opts []clientv3.OpOption
	if !t.Expires.IsZero() {
		lease, err := c.c.Grant(ctx, int64(time.Until(t.Expires)/time.Second)+1)
		if err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		opts = append(opts, clientv3.WithLease(lease.ID))
	}
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpPut(root+"api-tokens/"+t.ID, encode(t), opts...)}, nil)
	if err == nil && !resp.Succeeded {
		err = ErrForgot
	}
	return err
}

// DropAPIToken revokes a token, and reports whether there was one.
func (c *Client) DropAPIToken(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := root + "api-tokens/" + id
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours(), clientv3.Compare(clientv3.ModRevision(key), ">", 0)}, []clientv3.Op{clientv3.OpDelete(key)}, nil)
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}
