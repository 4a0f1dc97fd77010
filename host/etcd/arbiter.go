// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

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
type Arbiter struct {
	path, vm string // of the Config, which a node rewrites as members come and go

	mu     sync.Mutex
	client *Client // nil after a failure
	id     string
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
	return &Arbiter{path: path, vm: vm, id: cfg.Cluster}, nil
}

// ID tells clusters apart: both sides of a pair must see the same.
func (a *Arbiter) ID() string { return a.id }

// Close ends the connection, if there is one.
func (a *Arbiter) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client == nil {
		return nil
	}
	err := a.client.Close()
	a.client = nil
	return err
}

// Read implements world.Arbiter.
func (a *Arbiter) Read() (world.Record, error) {
	var cur Claim
	err := a.with(func(ctx context.Context, c *Client) (err error) {
		cur, _, err = c.claim(ctx, a.vm)
		return err
	})
	return cur.record(), err
}

// Claim implements world.Arbiter.
func (a *Arbiter) Claim(epoch event.Epoch, owner string, gen uint64) (won bool, cur world.Record, err error) {
	if epoch == 0 || !token.MatchString(owner) {
		return false, cur, fmt.Errorf("etcd: claim epoch %d of VM %s for owner %q: epochs count from 1 and an owner is 1 to 128 printable characters", epoch, a.vm, owner)
	}
	err = a.with(func(ctx context.Context, c *Client) (err error) {
		won, cur, err = c.tryClaim(ctx, a.vm, Claim{Epoch: uint64(epoch), Owner: owner, Disk: gen, Node: c.cfg.Node})
		return err
	})
	if err != nil {
		return false, cur, fmt.Errorf("claim epoch %d of VM %s: %w", epoch, a.vm, err)
	}
	return won, cur, nil
}

// with runs f with a connection. One that failed is not used again: the next try
// reads anew where etcd is.
func (a *Arbiter) with(f func(context.Context, *Client) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client == nil {
		cfg, err := LoadConfig(a.path)
		if err != nil {
			return err
		}
		if cfg.Cluster != a.id {
			return fmt.Errorf("etcd: %s is of cluster %s now, this VM belongs to %s", a.path, cfg.Cluster, a.id)
		}
		if a.client, err = Dial(cfg); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := f(ctx, a.client)
	if err != nil {
		a.client.Close()
		a.client = nil
	}
	return err
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
