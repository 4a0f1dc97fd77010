// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tandem/cluster"
	"tandem/host/etcd"
)

// The embedded etcd has three voters, or five of five members that are heard. Others are
// spares: learners, which have the data and no vote. The node that has etcd's leader
// looks after that, and passes the leadership on to a host that VMs depend on less: when
// a host dies a copy claims, and a claim waits for as long as there is no leader.

const (
	fewVoters  = 3
	manyVoters = 5
	// deadTime is how long a voter is silent before a spare takes its place. A host that
	// is booted again is back before, and an even number of voters outlives no more.
	deadTime = time.Minute
	// heirTime is how long another host must have been the better one for etcd's leader.
	heirTime = 3 * time.Second
)

// seat is a member of etcd at one look.
type seat struct {
	etcd.Member
	up   bool
	dead bool // silent for deadTime
}

// council is what is to change about who votes: a spare to promote, or a voter to
// remove. Zero is nobody.
func council(seats []seat) (promote, remove seat) {
	var voters, alive, heard int
	var spares, dead []seat
	for _, s := range seats {
		switch {
		case s.Learner && s.up:
			spares = append(spares, s)
		case s.Learner || s.Name == "":
		default:
			voters++
			if s.dead {
				dead = append(dead, s)
			} else {
				alive++
			}
			if s.up {
				heard++
			}
		}
	}
	majority := func(n int) int { return n/2 + 1 }
	switch {
	case len(spares) > 0 && alive < size(alive+len(spares)):
		return spares[0], seat{}
	case len(dead) > 0 && heard == alive && alive >= fewVoters && majority(alive) < majority(voters):
		return seat{}, dead[0]
	}
	return seat{}, seat{}
}

// size is how many of n members shall vote.
func size(n int) int {
	switch {
	case n >= manyVoters:
		return manyVoters
	case n >= fewVoters:
		return fewVoters
	}
	return n
}

// bench is what a node remembers between two looks at the members.
type bench struct {
	silent map[uint64]time.Time // since when a voter has not been heard
	better time.Time            // since when there has been a better host for the leader
}

// seats joins the list of members with who is heard.
func (b *bench) seats(list []etcd.Member, heard map[uint64]bool, now time.Time) (seats []seat) {
	for _, m := range list {
		s := seat{Member: m, up: heard[m.ID]}
		if since, is := b.silent[m.ID]; s.up {
			delete(b.silent, m.ID)
		} else if !is {
			b.silent[m.ID] = now
		} else {
			s.dead = now.Sub(since) >= deadTime
		}
		seats = append(seats, s)
	}
	return seats
}

// heir is a voter that is heard and whose host VMs depend on less than on all others,
// if that is less than on ours.
func heir(me string, seats []seat, weight map[string]int) (best seat) {
	least := weight[me]
	for _, s := range seats {
		if !s.Learner && s.up && weight[s.Name] < least {
			best, least = s, weight[s.Name]
		}
	}
	return best
}

// Weights of hosts for heir.
const (
	hasNoCopy = iota
	hasBackup // its loss makes a primary claim
	hasPrimary
)

// weights says which hosts the protected VMs depend on.
func weights(s *etcd.Snapshot) map[string]int {
	w := map[string]int{}
	if s == nil {
		return w
	}
	for _, v := range s.VMs {
		in := instanceOf(s, v)
		if in.Primary.State == cluster.Running {
			w[in.Primary.Host] = hasPrimary
		}
		if in.Backup.State == cluster.Protected || in.Backup.State == cluster.Syncing || in.Backup.State == cluster.Cloning {
			w[in.Backup.Host] = max(w[in.Backup.Host], hasBackup)
		}
	}
	return w
}

// preside does what the node of etcd's leader does.
func (n *Node) preside(ctx context.Context, c *etcd.Client, b *bench, seats []seat) {
	n.mu.Lock()
	server, snap := n.server, n.snap
	n.mu.Unlock()
	if server == nil || !server.Leads() {
		b.better = time.Time{}
		return
	}
	switch promote, remove := council(seats); {
	case promote.ID != 0:
		if c.TryPromote(ctx, promote.ID) == nil {
			n.opt.Log.Info("a spare member of etcd has got a vote", "member", promote.Name)
		}
		return
	case remove.ID != 0:
		err := c.RemoveMember(ctx, remove.ID)
		n.opt.Log.Info("a voter of etcd that is silent makes way; when its host is back it joins anew", "member", remove.Name, "err", err)
		return
	}
	next, now := heir(n.set.Name, seats, weights(snap)), time.Now()
	switch {
	case next.ID == 0:
		b.better = time.Time{}
	case b.better.IsZero():
		b.better = now
	case now.Sub(b.better) >= heirTime:
		b.better = time.Time{}
		if err := server.HandOver(ctx, next.ID); err != nil {
			n.opt.Log.Warn("etcd's leadership could not be passed on", "to", next.Name, "err", err)
			return
		}
		n.opt.Log.Info("etcd's leadership was passed on to a host that fewer copies are on", "to", next.Name)
	}
}

// readmit makes this host a member of etcd anew if it was taken out while it was away.
// If nobody can say, it starts as what it was.
func (n *Node) readmit(ctx context.Context, set *settings) (anew bool, err error) {
	dir := filepath.Join(n.opt.State, etcdDir)
	if _, err := os.Stat(dir); err != nil {
		return false, nil // its first start, for which everything is said
	}
	cfg := set.etcd(n.opt.State)
	cfg.Endpoints = slices.DeleteFunc(slices.Clone(set.URLs), func(url string) bool { return url == set.clientURL() })
	if len(cfg.Endpoints) == 0 {
		return false, nil
	}
	c, err := etcd.Dial(cfg)
	if err != nil {
		return false, err
	}
	defer c.Close()
	list, err := c.Members(ctx)
	if err != nil || slices.ContainsFunc(list, func(m etcd.Member) bool { return m.Name == set.Name }) {
		return false, nil
	}
	n.opt.Log.Warn("this host's member was taken out of etcd while it was silent: it joins anew")
	if set.Members, err = c.AddMember(ctx, set.Name, set.peerURL()); err != nil {
		return false, fmt.Errorf("join etcd anew: %w", err)
	}
	set.Joins, set.URLs = true, cfg.Endpoints // ours can't be asked before it has a vote
	if err := os.RemoveAll(dir); err != nil {
		return false, err
	}
	return true, set.save(n.opt.State)
}
