// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Times of the embedded etcd. An election takes one to two ElectionMs, and while
// the leader's host is lost no claim can be answered.
const (
	heartbeatMs  = 100
	electionMs   = 1000
	startTimeout = 60 * time.Second
	quota        = 1 << 30 // bytes
	history      = "1h"    // of old revisions; nobody reads them
)

// ServerConfig is one member of the embedded etcd.
type ServerConfig struct {
	Name, Dir     string
	Client, Peer  string // https://ADDRESS:PORT
	CA, Cert, Key string // PEM files
	Cluster       string // ID; a member of another cluster is not talked to
	Members       string // NAME=URL,… of all, for the first start
	Joins         bool   // the cluster is there already
	NoSync        bool   // for tests: a crash of the host loses what was acknowledged
	Log           string // file for its diagnostics; empty: standard error, errors only
}

// Server is a member of the embedded etcd.
type Server struct {
	cfg ServerConfig
	e   *embed.Etcd
}

// Serve starts a member and waits until it takes part.
func Serve(ctx context.Context, cfg ServerConfig) (*Server, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = cfg.Name, cfg.Dir
	client, err := url.Parse(cfg.Client)
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(cfg.Peer)
	if err != nil {
		return nil, err
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	c.InitialCluster, c.InitialClusterToken = cfg.Members, cfg.Cluster
	c.ClusterState = embed.ClusterStateFlagNew
	if cfg.Joins {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: cfg.Cert, KeyFile: cfg.Key, TrustedCAFile: cfg.CA, ClientCertAuth: true}
	c.PeerTLSInfo = c.ClientTLSInfo
	c.TickMs, c.ElectionMs = heartbeatMs, electionMs
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, history
	c.QuotaBackendBytes, c.UnsafeNoFsync = quota, cfg.NoSync
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger(cfg.Log))
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start etcd at %s: %w", cfg.Client, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return &Server{cfg, e}, nil
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("etcd at %s: %w", cfg.Client, err)
	case <-e.Server.StopNotify():
		e.Close()
		return nil, fmt.Errorf("etcd at %s stopped: this member may have been removed from the cluster; its diagnostics are in %s", cfg.Client, cfg.Log)
	case <-ctx.Done():
		e.Server.Stop()
		e.Close()
		return nil, ctx.Err()
	}
}

func logger(path string) *zap.Logger {
	c := zap.NewProductionConfig()
	c.Encoding = "console"
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	c.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	if path != "" {
		c.OutputPaths, c.ErrorOutputPaths = []string{path}, []string{path}
	} else {
		c.Level = zap.NewAtomicLevelAt(zap.ErrorLevel)
	}
	l, err := c.Build()
	if err != nil {
		return zap.NewNop()
	}
	return l
}

// Err delivers why the member failed.
func (s *Server) Err() <-chan error { return s.e.Err() }

// ID is the member's number.
func (s *Server) ID() uint64 { return uint64(s.e.Server.MemberID()) }

// Close ends the member.
func (s *Server) Close() { s.e.Close() }

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
		try, cancel := context.WithTimeout(ctx, patience)
		_, err := c.c.MemberPromote(try, id)
		cancel()
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

// RemoveMember takes a member out for good.
func (c *Client) RemoveMember(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.c.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("etcd: remove member %x: %w", id, err)
	}
	return nil
}
