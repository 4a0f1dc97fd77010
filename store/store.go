// SPDX-License-Identifier: Apache-2.0

// Package store serves files and block devices to both hosts of a pair: the
// shared virtual disks of the paper (§2), in a process of its own that outlives
// the replicas. The protocol is standard NBD, so any NBD client can use it.
//
// What it adds is the fence. A replica that lost its claim may still have writes
// on their way, and they must not land after those of the one that won. So a
// protected VM opens its disk under an export name that carries its epoch
// (wire.Name), and
//
//	replica of epoch 4          store                     replica of epoch 5
//	  write ───────────────────► in progress
//	                             │            ◄────────────── open NAME@5
//	                             │ epoch 5 made durable
//	  ◄──────── connection ended │
//	                             done (or dropped)
//	                             negotiation ends ──────────► write …
//	  open NAME@4 ─────────────► refused: fenced
//
// A connection of a newer epoch is let in only when each older one has been
// ended and drained: its operations have finished and no other can begin. The
// newest epoch is kept in a file beside the export, written before anyone is let
// in by it, so that a store which is restarted still knows it. The lock on the
// export makes a new store wait, in effect, for the last operation of the old.
//
// A write is acknowledged when it is in the server's file: from then on every
// host reads it here (design §6). A flush, or a write with FUA, is acknowledged when
// fdatasync has returned: from then on the data survives the loss of power, as far
// as the disk tells the truth. One failed fdatasync fails all later flushes: the
// kernel has forgotten what it couldn't write.
//
// With TLS clients must start it before anything else, and show a certificate of
// the same CA. Without, nobody is authenticated: keep the port on the storage network.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"tandem/host/certs"
	"tandem/host/filedisk"
	"tandem/host/nbd/wire"
)

// Limits for clients.
const (
	maxConnections   = 64
	connectionMemory = 32 << 20         // bytes of payloads held for one connection, at least one request's
	connectionWork   = 16               // operations in progress for one connection
	handshakeTime    = 30 * time.Second // until an export is chosen
	sendTime         = 60 * time.Second // until a client takes a reply
)

// Export is a disk under a name.
type Export struct {
	Name     string
	Path     string // a file or block device
	ReadOnly bool   // for installation images and the like; needs no fence
}

// Config says what to serve.
type Config struct {
	Exports []Export

	// StateDir holds a file NAME.epoch for each export, which belongs to the
	// disk like its contents. If empty it is the folder of the export's file;
	// a block device needs one, since /dev is lost at a reboot.
	StateDir string

	// AllowUnprotected admits clients without an epoch also to exports that a
	// protected VM has used, for instance to copy its disk. They are not fenced
	// from it: use it while the VM is stopped.
	AllowUnprotected bool

	// TLS, if set, is required of each client, and its certificate too if this says so.
	TLS *tls.Config

	// SyncWrites makes each change durable before it is acknowledged, for clients that
	// never flush.
	SyncWrites bool

	Log *slog.Logger // nil for none
}

// LoadTLS reads a server's TLS configuration from a folder in which files have their
// standard names (certs.LoadStandard). Clients must have a certificate of the same CA.
func LoadTLS(dir string) (*tls.Config, error) {
	cert, pool, err := certs.LoadStandard(dir, certs.Server)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}, nil
}

// Serve serves on ln until ctx ends, and then ends what is in progress, tells
// the disks to keep it and closes them. It returns nil if it was asked to end.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	s, err := open(cfg)
	if err != nil {
		ln.Close()
		return fmt.Errorf("store: %w", err)
	}
	err = errors.Join(s.accept(ctx, ln), s.close())
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

type store struct {
	cfg     Config
	log     *slog.Logger
	exports []*export
	boot    string // tells reboots of this host apart, see description
	clients sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

func open(cfg Config) (*store, error) {
	s := &store{cfg: cfg, log: cfg.Log, conns: map[*conn]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	s.boot = strings.TrimSpace(string(boot))
	for _, e := range cfg.Exports {
		x, err := s.openExport(e)
		if err != nil {
			s.close()
			return nil, err
		}
		s.exports = append(s.exports, x)
	}
	return s, nil
}

var exportName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func (s *store) openExport(e Export) (*export, error) {
	if !exportName.MatchString(e.Name) {
		return nil, fmt.Errorf("%q is not a name of an export: use letters, digits, '-', '_' and '.'", e.Name)
	}
	if s.find(e.Name) != nil {
		return nil, fmt.Errorf("two exports have the name %s: rename one", e.Name)
	}
	f, err := filedisk.OpenFile(e.Path, e.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", e.Name, err)
	}
	x := &export{name: e.Name, disk: f, readOnly: e.ReadOnly, allowUnprotected: s.cfg.AllowUnprotected, conns: map[*conn]struct{}{}}
	if !e.ReadOnly {
		err = x.openState(s.cfg.StateDir, filepath.Dir(e.Path), f.Device())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("export %s: %w", e.Name, err)
	}
	s.log.Info("export opened", "export", e.Name, "path", e.Path, "bytes", f.Size(), "epoch", x.newest.epoch)
	return x, nil
}

// find returns an export by its name, the only one also without.
func (s *store) find(name string) *export {
	for _, x := range s.exports {
		if x.name == name || name == "" && len(s.exports) == 1 {
			return x
		}
	}
	return nil
}

// accept lets clients in until ctx ends, and returns when the last one has left.
func (s *store) accept(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer s.clients.Wait()
	defer s.finishAll()
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // such as too many open files: it may pass
			s.log.Warn("accepting a client", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		default:
			s.admit(nc)
		}
	}
}

func (s *store) admit(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	full := len(s.conns) >= maxConnections
	if !full {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		s.log.Warn("client refused: too many connections", "client", nc.RemoteAddr(), "limit", maxConnections)
		nc.Close()
		return
	}
	s.clients.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// finishAll asks each connection to end after what it has in progress.
func (s *store) finishAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.finish()
	}
}

func (s *store) close() error {
	var errs []error
	for _, x := range s.exports {
		if err := errors.Join(x.disk.Sync(), x.disk.Close()); err != nil {
			errs = append(errs, fmt.Errorf("export %s: %w", x.name, err))
		}
	}
	return errors.Join(errs...)
}

// description lets a client notice that this host was restarted between two of
// its connections, and with it lost what had been written but not flushed.
func (s *store) description() string { return wire.StorePrefix + ", boot " + s.boot }

// disk is what an export needs of filedisk.File; tests put others in its place.
type disk interface {
	io.Closer
	Size() uint64
	ReadAt(b []byte, off uint64) error
	WriteAt(b []byte, off uint64) error
	Zero(off, n uint64, hole bool) error
	Grow(size uint64) error
	Sync() error
}
