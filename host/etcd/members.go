// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Member is a member of etcd.
type Member struct {
	ID      uint64
	Name    string // empty: it was added and has not started yet
	Peer    string
	Client  string
	Learner bool // has no vote yet
}

// Members lists etcd's members.
func (c *Client) Members(ctx context.Context) (list []Member, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("etcd: list the members: %w", err)
	}
	for _, m := range resp.Members {
		list = append(list, Member{m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), m.IsLearner})
	}
	return list, nil
}

// AddMember makes room for a member that has no vote yet, and returns what it needs
// for its first start. A member of that address which never started makes way.
func (c *Client) AddMember(ctx context.Context, name, peer string) (members string, err error) {
	list, err := c.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range list {
		switch {
		case m.Name == name:
			return "", fmt.Errorf("etcd has a member named %s: choose another name, or remove that one with tandem cluster remove %s", name, name)
		case m.Peer == peer && m.Name == "":
			if err := c.RemoveMember(ctx, m.ID); err != nil {
				return "", err
			}
		}
	}
	resp, err := c.addLearner(ctx, peer)
	if err != nil {
		return "", err
	}
	var all []string
	for _, m := range resp.Members {
		if m.ID == resp.Member.ID {
			m.Name = name
		}
		if m.Name == "" {
			continue // not started: it takes no part yet
		}
		for _, u := range m.PeerURLs {
			all = append(all, m.Name+"="+u)
		}
	}
	return strings.Join(all, ","), nil
}

// addTime is how long a new member waits for the one before it: etcd wants to have
// heard that for five seconds.
const addTime = 20 * time.Second

func (c *Client) addLearner(ctx context.Context, peer string) (*clientv3.MemberAddResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, addTime)
	defer cancel()
	for {
		resp, err := c.c.MemberAddAsLearner(ctx, []string{peer})
		if err == nil {
			return resp, nil
		}
		if !errors.Is(err, rpctypes.ErrTooManyLearners) && !errors.Is(err, rpctypes.ErrUnhealthy) {
			return nil, fmt.Errorf("etcd: add %s: %w", peer, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("etcd: add %s: %w; see that all members run, and that no other host is joining at this moment", peer, err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// Promote gives a member a vote, once it has caught up.
func (c *Client) Promote(ctx context.Context, id uint64) error {
	for {
		err := c.TryPromote(ctx, id)
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("etcd: this member got no vote: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TryPromote gives a member a vote if it has caught up.
func (c *Client) TryPromote(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.c.MemberPromote(ctx, id)
	return err
}

// RemoveMember takes a member out for good.
func (c *Client) RemoveMember(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.c.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("etcd: remove member %x: %w", id, err)
	}
	return nil
}

// Hearing asks members whether they take part, each on a connection of its own. It is
// used by one goroutine.
type Hearing struct {
	cfg     Config
	members map[uint64]*hearing
}

type hearing struct {
	client *Client // nil after a failure
	last   time.Time
	up     bool
}

const (
	hearTime = time.Second
	// deafTime is the silence after which a member counts as down. One that is only
	// busy, or whose packet was lost, is heard again before.
	deafTime = 2 * time.Second
)

// Hearing returns a Hearing, to be closed after use.
func (c *Client) Hearing() *Hearing { return &Hearing{c.cfg, map[uint64]*hearing{}} }

// Close ends the connections.
func (h *Hearing) Close() {
	for _, m := range h.members {
		m.close()
	}
}

// Ask asks all members of a list at once, and returns who of them takes part. A learner
// does, too.
func (h *Hearing) Ask(ctx context.Context, list []Member) map[uint64]bool {
	ctx, cancel := context.WithTimeout(ctx, hearTime)
	defer cancel()
	listed := map[uint64]bool{}
	var asked sync.WaitGroup
	for _, m := range list {
		listed[m.ID] = true
		at := h.members[m.ID]
		if at == nil {
			at = &hearing{}
			h.members[m.ID] = at
		}
		asked.Go(func() { at.ask(ctx, h.cfg, m) })
	}
	asked.Wait()
	up := map[uint64]bool{}
	for id, m := range h.members {
		if !listed[id] {
			m.close()
			delete(h.members, id)
			continue
		}
		up[id] = m.up
	}
	return up
}

// ask asks one member. One that refuses is down at once, one that is silent or has no
// leader after a while.
func (h *hearing) ask(ctx context.Context, cfg Config, m Member) {
	if h.client == nil && m.Client != "" {
		cfg.Endpoints = strings.Split(m.Client, ",")
		h.client, _ = Dial(cfg)
	}
	if h.client == nil { // it has not said yet where clients reach it
		h.up = false
		return
	}
	resp, err := pb.NewMaintenanceClient(h.client.c.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
	switch {
	case err == nil && resp.Leader != 0:
		h.up, h.last = true, time.Now()
	case status.Code(err) == codes.Unavailable || time.Since(h.last) > deafTime:
		h.up = false
	}
	if err != nil {
		h.close()
	}
}

func (h *hearing) close() {
	if h.client != nil {
		h.client.Close()
		h.client = nil
	}
}
