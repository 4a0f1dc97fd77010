// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A daemon that was killed takes a moment to go, longer on a busy host, and holds its
// ports until then. The one that is started in its place waits: if it gave up, this
// host would be without an etcd member, and the next host to fail would take etcd's
// majority with it.
const (
	lockFile = "node.lock"
	goneTime = 15 * time.Second
	lookTime = 20 * time.Millisecond
)

// alone makes sure that this daemon is the only one of its folders, until release.
func (n *Node) alone(ctx context.Context) (release func(), err error) {
	var locks []*os.File
	release = func() {
		for _, f := range locks {
			f.Close()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, goneTime)
	defer cancel()
	for _, dir := range []string{n.opt.State, n.opt.Run} {
		path := filepath.Join(dir, lockFile)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			release()
			return nil, fmt.Errorf("make sure that this is the only daemon: %w", err)
		}
		locks = append(locks, f)
		err = await(ctx, syscall.EWOULDBLOCK, func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) })
		if err != nil {
			release()
			return nil, fmt.Errorf("a daemon that uses %s runs already: stop it first, or choose other folders with --state and --run (%w)", dir, err)
		}
	}
	return release, nil
}

// listen opens a port, once the daemon before us has left it.
func listen(ctx context.Context, addr string) (l net.Listener, err error) {
	ctx, cancel := context.WithTimeout(ctx, goneTime)
	defer cancel()
	err = await(ctx, syscall.EADDRINUSE, func() (err error) { l, err = net.Listen("tcp", addr); return err })
	return l, err
}

// freed waits until ports can be opened.
func freed(ctx context.Context, addrs ...string) error {
	for _, addr := range addrs {
		l, err := listen(ctx, addr)
		if err != nil {
			return fmt.Errorf("%w: free this port, or choose others with --port", err)
		}
		l.Close()
	}
	return nil
}

// await tries until it works, ctx ends or there is another error than the one that
// passes.
func await(ctx context.Context, passes error, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, passes) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookTime):
		}
	}
}
