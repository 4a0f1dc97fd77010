// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"tandem/host"
)

// guard is the file of what etcd must not fall behind. The daemon and the replicas
// of a node share it; a lock on it is held while it changes.
type guard struct {
	path    string // empty: nothing is kept
	cluster string
}

type guardRecord struct {
	Cluster    string `json:"cluster"`
	Generation uint64 `json:"generation"`
	Revision   int64  `json:"revision"`
}

func (g *guard) read() (r guardRecord, err error) {
	r.Cluster = g.cluster
	if g.path == "" {
		return r, nil
	}
	b, err := host.ReadPlain(g.path, maxGuard)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	switch {
	case err != nil:
		return r, fmt.Errorf("etcd: %s, which says what etcd must not fall behind, can't be read (%w): remove it, then tandem cluster confirm", g.path, err)
	case r.Cluster != g.cluster:
		return r, fmt.Errorf("etcd: %s is of cluster %s, this is cluster %s: remove it if this node has moved", g.path, r.Cluster, g.cluster)
	}
	return r, nil
}

// check judges an answer of etcd, what it says of the cluster and its revision, by
// what was known before it was asked.
func (g *guard) check(floor guardRecord, is Identity, revision int64) error {
	const remedy = "restore a newer backup, or make sure that no VM runs twice and run tandem cluster confirm"
	switch {
	case is.ID == "":
		return fmt.Errorf("%w: there is no record of the cluster; %s", ErrForgot, remedy)
	case is.ID != g.cluster:
		return fmt.Errorf("%w: it holds cluster %s instead of %s; %s", ErrForgot, is.ID, g.cluster, remedy)
	case is.Generation > floor.Generation:
		return g.set(is.Generation, revision) // confirmed by an operator, on another node; or our first look
	case is.Generation < floor.Generation || revision < floor.Revision:
		return fmt.Errorf("%w: it is at generation %d, revision %d, and was at %d, %d before; %s",
			ErrForgot, is.Generation, revision, floor.Generation, floor.Revision, remedy)
	}
	return nil
}

// raise moves the floor up.
func (g *guard) raise(revision int64) error {
	return g.update(func(r *guardRecord) bool {
		if revision <= r.Revision {
			return false
		}
		r.Revision = revision
		return true
	})
}

// set begins a generation.
func (g *guard) set(generation uint64, revision int64) error {
	return g.update(func(r *guardRecord) bool {
		if generation <= r.Generation {
			return false
		}
		r.Generation, r.Revision = generation, revision
		return true
	})
}

func (g *guard) update(change func(*guardRecord) bool) error {
	if g.path == "" {
		return nil
	}
	lock, err := os.OpenFile(g.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, guardMode)
	if err != nil {
		return err
	}
	defer lock.Close()
	share(lock, filepath.Dir(g.path), guardMode)
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	r, err := g.read()
	if err != nil {
		return err
	}
	if !change(&r) {
		return nil
	}
	return WriteFile(g.path, []byte(encode(r)), guardMode)
}

const (
	maxGuard  = 4 << 10
	guardMode = 0o660 // for the daemon and its replicas: see share
)

// share gives a file a mode and the group of its folder, which may be that of replicas.
// Only its owner can, and needs to.
func share(f *os.File, dir string, mode fs.FileMode) {
	folder, err := os.Stat(dir)
	file, err2 := f.Stat()
	if errors.Join(err, err2) != nil {
		return
	}
	if gid := folder.Sys().(*syscall.Stat_t).Gid; gid != file.Sys().(*syscall.Stat_t).Gid {
		f.Chown(-1, int(gid))
	}
	if file.Mode().Perm() != mode {
		f.Chmod(mode)
	}
}

// WriteFile replaces a file as a whole: a reader or a crash meets the old or the
// new one. It belongs to the group of its folder.
func WriteFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	share(f, filepath.Dir(path), mode)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
