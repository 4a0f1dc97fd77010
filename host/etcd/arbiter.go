// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"tandem/host/confine"
	"tandem/machine/event"
	"tandem/world"
)

// Claim is a VM's record, and the node on which its owner runs.
type Claim struct {
	Epoch uint64 `json:"epoch"`
	Owner string `json:"owner"`
	Disk  uint64 `json:"disk"`
	Node  string `json:"node"`
}

func (c Claim) record() world.Record {
	return world.Record{Epoch: event.Epoch(c.Epoch), Owner: c.Owner, DiskGeneration: c.Disk}
}

var (
	vmName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)
	token  = regexp.MustCompile(`^[!-~]{1,128}$`)
)

// ValidName reports a name that a VM or a node may have.
func ValidName(s string) bool { return vmName.MatchString(s) }

// Arbiter is a world.Arbiter for one VM. A claim is one transaction: it is entered
// only if the record is still the one that was read, of the epoch before.
//
// It is made through all members of etcd at once, and the first answer counts: which
// of them is dead, silent or cut off from the others makes no difference then. The
// same claim entered twice is one.
type Arbiter struct {
	path, vm string // of the Config, which a node rewrites as members come and go
	id       string
	patience time.Duration // with one question to all members

	mu      sync.Mutex
	members map[string]*Client // by endpoint
}

// OpenArbiter names the record of vm in the etcd that the file at path describes.
func OpenArbiter(path, vm string) (*Arbiter, error) {
	if !vmName.MatchString(vm) {
		return nil, fmt.Errorf("etcd: %q is not a name of a VM: use at most 63 letters, digits, '-', '_' and '.'", vm)
	}
	cfg, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	return &Arbiter{path: path, vm: vm, id: cfg.Cluster, patience: claimPatience, members: map[string]*Client{}}, nil
}

// ID tells clusters apart: both sides of a pair must see the same.
func (a *Arbiter) ID() string { return a.id }

// Needs are what a claim opens.
func (a *Arbiter) Needs() confine.Needs {
	n := confine.Needs{Read: []string{filepath.Dir(a.path)}}
	cfg, err := LoadConfig(a.path)
	if err != nil {
		return n
	}
	n.Read = append(n.Read, cfg.CA, cfg.Cert, cfg.Key)
	if cfg.Guard != "" {
		n.Write = []string{filepath.Dir(cfg.Guard)}
	}
	for _, at := range cfg.Endpoints {
		if u, err := url.Parse(at); err == nil {
			n.Host(u.Hostname())
		}
	}
	return n
}

// Close ends the connections.
func (a *Arbiter) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for at, c := range a.members {
		errs = append(errs, c.Close())
		delete(a.members, at)
	}
	return errors.Join(errs...)
}

// Read implements world.Arbiter.
func (a *Arbiter) Read() (world.Record, error) {
	v, err := a.ask(func(ctx context.Context, c *Client) (v verdict, err error) {
		cur, _, err := c.claim(ctx, a.vm)
		return verdict{cur: cur.record()}, err
	})
	return v.cur, err
}

// Claim implements world.Arbiter.
func (a *Arbiter) Claim(epoch event.Epoch, owner string, gen uint64) (won bool, cur world.Record, err error) {
	if epoch == 0 || !token.MatchString(owner) {
		return false, cur, fmt.Errorf("etcd: claim epoch %d of VM %s for owner %q: epochs count from 1 and an owner is 1 to 128 printable characters", epoch, a.vm, owner)
	}
	v, err := a.ask(func(ctx context.Context, c *Client) (v verdict, err error) {
		v.won, v.cur, err = c.tryClaim(ctx, a.vm, Claim{Epoch: uint64(epoch), Owner: owner, Disk: gen, Node: c.cfg.Node})
		return v, err
	})
	if err != nil {
		return false, cur, fmt.Errorf("claim epoch %d of VM %s: %w", epoch, a.vm, err)
	}
	return v.won, v.cur, nil
}

// verdict is an answer of etcd.
type verdict struct {
	won bool
	cur world.Record
}

const (
	// claimPatience is longer than an election: members without a leader keep a
	// question, and answer it when there is one again.
	claimPatience = 5 * time.Second
	// askAgain is when a question is put once more beside those that are not answered:
	// one that was passed on to a leader that then died is lost.
	askAgain = 300 * time.Millisecond
)

// answer is what one member says, or why it says nothing.
type answer struct {
	verdict
	at  string
	err error
}

// ask puts a question to all members and returns the first answer. A connection that
// failed is not used again, and who is asked is read anew each time.
func (a *Arbiter) ask(question func(context.Context, *Client) (verdict, error)) (verdict, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.connect(); err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.patience)
	defer cancel()
	failed := map[string]error{}
	defer a.drop(failed)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	answers := make(chan answer, len(a.members)*(2+int(a.patience/askAgain)))
	open := 0
	round := func() {
		for at, c := range a.members {
			if failed[at] == nil {
				open++
				asked.Go(func() {
					v, err := question(ctx, c)
					answers <- answer{v, at, err}
				})
			}
		}
	}
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for round(); open > 0; {
		select {
		case <-again.C:
			if ctx.Err() == nil {
				round()
			}
		case r := <-answers:
			open--
			if r.err == nil {
				return r.verdict, nil
			}
			failed[r.at] = r.err
		}
	}
	return verdict{}, reason(failed)
}

// drop ends the connections that failed.
func (a *Arbiter) drop(failed map[string]error) {
	for at := range failed {
		a.members[at].Close()
		delete(a.members, at)
	}
}

// connect makes the connections that the node's file asks for.
func (a *Arbiter) connect() error {
	cfg, err := LoadConfig(a.path)
	if err != nil {
		return err
	}
	switch {
	case cfg.Cluster != a.id:
		return fmt.Errorf("etcd: %s is of cluster %s now, this VM belongs to %s", a.path, cfg.Cluster, a.id)
	case len(cfg.Endpoints) == 0:
		return fmt.Errorf("etcd: %s names no member: restart tandem node, which writes it again", a.path)
	}
	for at, c := range a.members {
		if !slices.Contains(cfg.Endpoints, at) {
			c.Close()
			delete(a.members, at)
		}
	}
	for _, at := range cfg.Endpoints {
		if a.members[at] != nil {
			continue
		}
		one := cfg
		one.Endpoints = []string{at}
		if a.members[at], err = Dial(one); err != nil {
			delete(a.members, at)
			return err
		}
	}
	return nil
}

// reason says why no member answered: each error once, with who gave it.
func reason(failed map[string]error) error {
	var errs []error
	for _, at := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, fmt.Errorf("%s: %w", at, failed[at]))
	}
	return errors.Join(errs...)
}

func claimKey(vm string) string { return root + "claims/" + vm }

// claim reads the newest record, and the revision that it was written in.
func (c *Client) claim(ctx context.Context, vm string) (cur Claim, revision int64, err error) {
	resp, err := c.transact(ctx, nil, []clientv3.Op{clientv3.OpGet(claimKey(vm))}, nil)
	if err != nil {
		return cur, 0, err
	}
	kvs := ranged(resp, 0).Kvs
	if len(kvs) == 0 {
		return cur, 0, nil
	}
	if cur, err = decodeClaim(kvs[0].Value); err != nil {
		return cur, 0, fmt.Errorf("etcd: the claim of VM %s: %w", vm, err)
	}
	return cur, kvs[0].ModRevision, nil
}

func decodeClaim(b []byte) (c Claim, err error) {
	if err = json.Unmarshal(b, &c); err != nil || c.Epoch == 0 || !token.MatchString(c.Owner) {
		return Claim{}, fmt.Errorf("the record is damaged (%.60q): stop both copies of the VM, then restore it", b)
	}
	return c, nil
}

// tryClaim claims once. An error leaves the question open: the transaction may have
// been entered. Asked again, the record says who won.
func (c *Client) tryClaim(ctx context.Context, vm string, want Claim) (won bool, rec world.Record, err error) {
	cur, revision, err := c.claim(ctx, vm)
	if err != nil {
		return false, rec, err
	}
	if cur.Epoch+1 < want.Epoch {
		return false, cur.record(), fmt.Errorf("etcd: the newest record is of epoch %d: epoch %d was never claimed here", cur.Epoch, want.Epoch-1)
	}
	if cur.Epoch < want.Epoch {
		key := claimKey(vm)
		resp, err := c.transact(ctx, []clientv3.Cmp{c.ours(), unchanged(key, revision)},
			[]clientv3.Op{clientv3.OpPut(key, encode(want))}, []clientv3.Op{clientv3.OpGet(key)})
		switch {
		case err != nil:
			// An answer that was lost is looked for at once.
			var back error
			if cur, _, back = c.claim(ctx, vm); back != nil || cur.Epoch < want.Epoch {
				return false, rec, errors.Join(err, back)
			}
		case resp.Succeeded:
			cur, revision = want, resp.Header.Revision
		default:
			kvs := ranged(resp, 0).Kvs
			if len(kvs) == 0 {
				return false, rec, errors.New("etcd: the claim's record vanished")
			}
			if cur, err = decodeClaim(kvs[0].Value); err != nil {
				return false, rec, err
			}
		}
	}
	won = cur.Epoch == want.Epoch && cur.Owner == want.Owner
	if won {
		// From here on an etcd that doesn't know of this claim is one that forgot.
		if err := c.guard.raise(revision); err != nil {
			return false, rec, err
		}
	}
	return won, cur.record(), nil
}

var _ world.Arbiter = (*Arbiter)(nil)
