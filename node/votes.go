// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/cluster"
	"tandem/host/etcd"
)

// votes are the members of the embedded etcd that have a vote, by the names of their
// hosts, and whether each was heard lately. An external etcd is its operator's
// business: of it nothing is known.
type votes struct {
	external bool
	up       map[string]bool
}

// arbiterVoters is how many members etcd needs to outlive any one host: with fewer,
// the loss of one may silence the arbiter together with a copy.
const arbiterVoters = 3

// enough reports that etcd is made to outlive a host.
func (v votes) enough() bool { return v.external || len(v.up) >= arbiterVoters }

// outlive reports that a majority is heard even without any one of the hosts: one that
// is down already counts as such, so with three members and one of them lost, the
// next host takes the arbiter with it.
func (v votes) outlive(hosts ...string) bool {
	if v.external {
		return true
	}
	for _, lost := range hosts {
		left := 0
		for name, up := range v.up {
			if up && name != lost {
				left++
			}
		}
		if left <= len(v.up)/2 {
			return false
		}
	}
	return true
}

// String says how many there are and who is silent.
func (v votes) String() string {
	if v.external {
		return "etcd is an external one"
	}
	var silent []string
	for _, name := range slices.Sorted(maps.Keys(v.up)) {
		if !v.up[name] {
			silent = append(silent, name)
		}
	}
	text := fmt.Sprintf("%d of %d etcd members with a vote are heard", len(v.up)-len(silent), len(v.up))
	if len(silent) > 0 {
		text += ", not " + strings.Join(silent, " and ")
	}
	switch {
	case len(v.up) < arbiterVoters:
		text += ": add a host or a witness"
	case len(silent) > 0:
		text += ": bring that back, or replace it"
	}
	return text
}

// endangered reports a VM that could not go on if the host of one of its copies were
// lost, since that host's vote would be missed.
func (v votes) endangered(in cluster.Instance) bool {
	var hosts []string
	for _, c := range []cluster.Copy{in.Primary, in.Backup} {
		if c.Host != "" {
			hosts = append(hosts, c.Host)
		}
	}
	return !v.outlive(hosts...)
}

// hearVotes keeps the votes up to date until ctx ends.
func (n *Node) hearVotes(ctx context.Context, c *etcd.Client, embedded bool) {
	if !embedded {
		n.setVotes(ctx, votes{external: true}, nil)
		return
	}
	h := c.Hearing()
	defer h.Close()
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	var members []etcd.Member
	b := &bench{silent: map[uint64]time.Time{}}
	for {
		if list, err := c.Members(ctx); err == nil {
			members = list
		}
		heard := h.Ask(ctx, members)
		now := votes{up: map[string]bool{}}
		for _, m := range voters(members) {
			now.up[m.Name] = heard[m.ID]
		}
		n.setVotes(ctx, now, members)
		n.preside(ctx, c, b, b.seats(members, heard, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// setVotes makes a look the newest one, unless this host has left meanwhile.
func (n *Node) setVotes(ctx context.Context, now votes, members []etcd.Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if !now.external && !maps.Equal(n.votes.up, now.up) {
		n.opt.Log.Info(now.String())
	}
	n.votes, n.members = now, members
}

// voters are those of a list that have a vote.
func voters(list []etcd.Member) (out []etcd.Member) {
	for _, m := range list {
		if !m.Learner && m.Name != "" {
			out = append(out, m)
		}
	}
	return out
}

// count is how many have a vote, and how many of them are heard.
func (v votes) count() (all, heard int) {
	for _, up := range v.up {
		if up {
			heard++
		}
	}
	return len(v.up), heard
}

// voice says what is the matter with the arbiter.
func (n *Node) voice() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.votes.String()
}
