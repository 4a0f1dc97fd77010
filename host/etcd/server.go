// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Times of the embedded etcd. An election begins after one to two times electionMs
// without a heartbeat, and while there is no leader no claim can be answered.
const (
	heartbeatMs  = 50
	electionMs   = 500
	startTimeout = 60 * time.Second
	quota        = 1 << 30 // bytes
	history      = "1h"    // of old revisions; nobody reads them
	// MaxLearners is how many members may have no vote. The leader sends them everything.
	MaxLearners = 4
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
	c.MaxLearners = MaxLearners
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

// Stopped is closed when the member has ended by itself, as one does that learns that the
// others have taken it out.
func (s *Server) Stopped() <-chan struct{} { return s.e.Server.StopNotify() }

// Leads reports that this member is the leader.
func (s *Server) Leads() bool { return s.e.Server.Leader() == s.e.Server.MemberID() }

// HandOver makes another voter the leader in place of this one.
func (s *Server) HandOver(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.e.Server.MoveLeader(ctx, s.ID(), id)
}

// ID is the member's number.
func (s *Server) ID() uint64 { return uint64(s.e.Server.MemberID()) }

// Close ends the member.
func (s *Server) Close() { s.e.Close() }
