// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"tandem/host/filedisk"
	"tandem/host/nbd/wire"
)

// export is a served disk and its fence.
type export struct {
	name             string
	disk             disk
	readOnly         bool
	allowUnprotected bool
	state            string // path of the file that keeps the newest epoch

	mu     sync.Mutex
	newest turn
	conns  map[*conn]struct{} // admitted, or waiting to be, until drained
}

// turn places the connections of an export in order: a newer one ends the older.
type turn struct {
	epoch uint64
	try   uint64 // within the epoch; not kept across restarts, which end all tries
}

func (a turn) before(b turn) bool {
	return a.epoch < b.epoch || a.epoch == b.epoch && a.try < b.try
}

// refusal is an error that the client is told as policy.
type refusal string

func (r refusal) Error() string { return string(r) }

// enter admits a connection under the name it asked for. It returns when all
// older connections are ended and drained, or with the reason why it may not enter.
func (x *export) enter(c *conn, n wire.Name) error {
	before, err := x.take(c, n)
	if err != nil {
		return err
	}
	for _, old := range before {
		<-old.drained
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.ended {
		delete(x.conns, c)
		return x.fenced(n.Epoch)
	}
	return nil
}

// take gives the connection its turn, ends older ones, and returns those that
// aren't drained yet.
func (x *export) take(c *conn, n wire.Name) (before []*conn, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.check(n); err != nil {
		return nil, err
	}
	if n.Reader {
		return nil, nil // in no turn: it changes nothing
	}
	c.turn = turn{n.Epoch, n.Try}
	if n.Try == 0 && n.Epoch == x.newest.epoch {
		c.turn = x.newest
	}
	if !x.readOnly && x.newest.before(c.turn) {
		if err := x.advance(c.turn); err != nil {
			return nil, err
		}
	}
	for old := range x.conns {
		if old.ended {
			before = append(before, old)
		}
	}
	x.conns[c] = struct{}{}
	return before, nil
}

func (x *export) check(n wire.Name) error {
	switch {
	case x.readOnly, n.Reader:
		return nil
	case n.Epoch == 0 && x.newest.epoch > 0 && x.allowUnprotected:
		return nil
	case n.Epoch < x.newest.epoch:
		return x.fenced(n.Epoch)
	case n.Epoch == x.newest.epoch && n.Try > 0 && n.Try < x.newest.try:
		return refusal(fmt.Sprintf("superseded: try %d of epoch %d was here before try %d", x.newest.try, n.Epoch, n.Try))
	}
	return nil
}

func (x *export) fenced(epoch uint64) error {
	if epoch == 0 {
		return refusal(fmt.Sprintf(wire.FencedPrefix+"export %s belongs to a protected VM (epoch %d); open it as %s@EPOCH, or stop the VM and allow unprotected clients", x.name, x.newest.epoch, x.name))
	}
	return refusal(fmt.Sprintf(wire.FencedPrefix+"epoch %d of export %s has ended; epoch %d has it now", epoch, x.name, x.newest.epoch))
}

// advance makes t the newest turn and ends all connections before it. The epoch
// is durable first: once anyone has relied on it, a restart must know it.
func (x *export) advance(t turn) error {
	if t.epoch > x.newest.epoch {
		if err := saveEpoch(x.state, t.epoch); err != nil {
			return fmt.Errorf("keeping epoch %d in %s: %w", t.epoch, x.state, err)
		}
	}
	x.newest = t
	for old := range x.conns {
		if !old.ended && old.turn.before(t) {
			old.ended = true
			old.end()
		}
	}
	return nil
}

// leave takes a drained connection out.
func (x *export) leave(c *conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.conns, c)
}

// openState finds the newest epoch of an export that is being opened.
func (x *export) openState(dir, beside string, device bool) error {
	if dir == "" && device {
		return errors.New("a block device needs a folder for its epoch: give a state directory on a disk that survives a reboot")
	}
	if dir == "" {
		dir = beside
	}
	x.state = filepath.Join(dir, x.name+".epoch")
	epoch, err := loadEpoch(x.state)
	if err != nil {
		return err
	}
	// Writing it now shows that it can be written when it matters.
	if err := saveEpoch(x.state, epoch); err != nil {
		return fmt.Errorf("keeping its epoch in %s: %w; make the folder writable or choose another state directory", x.state, err)
	}
	x.newest.epoch = epoch
	return nil
}

func loadEpoch(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	epoch, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is damaged (%.40q): make sure that no VM runs on this disk, then write the epoch of its newest claim into it", path, b)
	}
	return epoch, nil
}

// saveEpoch replaces the file in one step and durably.
func saveEpoch(path string, epoch uint64) error {
	return filedisk.Replace(path, fmt.Appendln(nil, epoch))
}
