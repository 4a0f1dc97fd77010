// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// client writes one key after another and keeps a ledger of what was
// acknowledged. It is an ordinary client library with one connection.
type client struct {
	db    *redis.Client
	dials atomic.Int32
	next  int
	acked []int
	gaps  []time.Duration
	last  time.Time // of the last answer
}

// answerTimeout is how long a write may take, failover included.
const answerTimeout = 30 * time.Second

func newClient(addr string) *client {
	c := &client{}
	c.db = redis.NewClient(&redis.Options{
		Addr: addr, PoolSize: 1, MaxRetries: -1, Protocol: 2, DisableIdentity: true,
		ReadTimeout: answerTimeout, WriteTimeout: answerTimeout, DialTimeout: 10 * time.Second,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	return c
}

func (c *client) close() { c.db.Close() }

func key(i int) string   { return fmt.Sprintf("key-%08d", i) }
func value(i int) string { return fmt.Sprintf("value-%d-of-the-ledger", i) }

// write sets keys for a while.
func (c *client) write(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	if c.last.IsZero() {
		c.last = time.Now()
	}
	for time.Now().Before(end) {
		i := c.next
		c.next++
		if err := c.db.Set(ctx, key(i), value(i), 0).Err(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// Not acknowledged: it may or may not be there. The client goes on,
			// as an application would, and the reconnect is counted.
			if time.Now().After(end) {
				return fmt.Errorf("the database does not answer: %w", err)
			}
			continue
		}
		now := time.Now()
		c.gaps = append(c.gaps, now.Sub(c.last))
		c.last = now
		c.acked = append(c.acked, i)
	}
	return nil
}

func (c *client) acknowledged() int { return len(c.acked) }

// reconnects counts connections after the first.
func (c *client) reconnects() int { return max(int(c.dials.Load())-1, 0) }

func (c *client) longestGap() time.Duration { return c.longestSince(0) }

// longestSince leaves the first n gaps out.
func (c *client) longestSince(n int) time.Duration {
	if n >= len(c.gaps) {
		return 0
	}
	return slices.Max(c.gaps[n:])
}

func (c *client) median() time.Duration {
	if len(c.gaps) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(c.gaps))
	return sorted[len(sorted)/2]
}

// verify reads back every acknowledged write, over the same connection.
func (c *client) verify(ctx context.Context) (lost int, err error) {
	const batch = 200
	for rest := range slices.Chunk(c.acked, batch) {
		keys := make([]string, len(rest))
		for i, n := range rest {
			keys[i] = key(n)
		}
		got, err := c.db.MGet(ctx, keys...).Result()
		if err != nil {
			return 0, fmt.Errorf("read back what was written: %w", err)
		}
		for i, n := range rest {
			if got[i] != any(value(n)) {
				lost++
			}
		}
	}
	return lost, nil
}

// ping asks the database for a sign of life, on a connection of its own.
func ping(ctx context.Context, addr string) bool {
	db := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, Protocol: 2, DisableIdentity: true,
		DialTimeout: time.Second, ReadTimeout: 2 * time.Second})
	defer db.Close()
	return db.Ping(ctx).Err() == nil
}
