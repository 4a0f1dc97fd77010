// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is one thing that happened to a VM, and why.
type Event struct {
	Time  time.Time `json:"time"`
	Node  string    `json:"node"`
	Kind  string    `json:"kind"` // action, state, live, process, asked, …
	Text  string    `json:"text"`
	Epoch uint64    `json:"epoch,omitempty"`
}

// KeptEvents is how many events of each VM are kept.
const KeptEvents = 200

func eventsKey(vm string) string { return root + "events/" + vm + "/" }

// AddEvent appends an event. The same one given again is not entered twice, so a
// doubtful answer is asked again.
func (c *Client) AddEvent(ctx context.Context, vm string, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	prefix := eventsKey(vm)
	key := fmt.Sprintf("%s%020d-%s-%s", prefix, e.Time.UnixNano(), e.Node, e.Kind)
	all := clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(KeptEvents/4))
	resp, err := c.transact(ctx, []clientv3.Cmp{c.ours()}, []clientv3.Op{clientv3.OpPut(key, encode(e)), clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly()), all}, nil)
	if err != nil || !resp.Succeeded {
		return err
	}
	count, oldest := ranged(resp, 1).Count, ranged(resp, 2).Kvs
	for _, kv := range oldest[:min(int64(len(oldest)), max(0, count-KeptEvents))] {
		if _, err := c.c.Delete(ctx, string(kv.Key)); err != nil {
			return fmt.Errorf("etcd: drop old events: %w", err)
		}
	}
	return nil
}

// Events returns a VM's events, the oldest first.
func (c *Client) Events(ctx context.Context, vm string) (list []Event, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.transact(ctx, nil, []clientv3.Op{clientv3.OpGet(eventsKey(vm), clientv3.WithPrefix())}, nil)
	if err != nil {
		return nil, err
	}
	for _, kv := range ranged(resp, 0).Kvs {
		var e Event
		if json.Unmarshal(kv.Value, &e) == nil {
			list = append(list, e)
		}
	}
	return list, nil
}

// WatchEvents calls f with each event that is added from now on, until ctx ends. After
// an interruption it goes on where it was, as far as etcd remembers.
func (c *Client) WatchEvents(ctx context.Context, f func(vm string, e Event)) {
	var from int64 // 0: now
	for ctx.Err() == nil {
		watch, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for resp := range c.c.Watch(watch, root+"events/", clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithRev(from), clientv3.WithCreatedNotify()) {
			from = max(from, resp.CompactRevision)
			if resp.Err() == nil {
				from = max(from, resp.Header.Revision+1)
			}
			for _, ev := range resp.Events {
				var e Event
				vm, _, ok := strings.Cut(strings.TrimPrefix(string(ev.Kv.Key), root+"events/"), "/")
				if ok && json.Unmarshal(ev.Kv.Value, &e) == nil {
					f(vm, e)
				}
			}
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
