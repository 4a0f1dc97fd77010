// SPDX-License-Identifier: Apache-2.0

// Package claim is the paper's atomic test-and-set (§2.3) as files in a folder
// that both hosts reach: NFS, a cluster file system, or a local folder for a
// pair on one machine.
//
// Each epoch of a VM is a file that is made once and never changed:
//
//	NAME.epoch-000000012        tandem claim 1
//	                            epoch 12
//	                            owner 5f0c…
//	                            disk 3
//
// It is written under another name, synced and then given its name by link(2),
// which fails if the name is taken. Link is atomic on NFS too, where an
// exclusive create may not be; but there its answer may be lost and the repeat
// fails although the first succeeded. So whatever link says, the record is read
// back, and the token in it decides.
//
// One who fell asleep between looking and linking might make the file of an
// epoch so old that it had been pruned. So the folder is listed once more after
// the link, and a newer record means that the claim is lost.
//
// The file tandem-arbiter holds an identity made at the folder's first use. Both
// sides of a pair compare it (ID), and each claim reads it again: a folder whose
// file system isn't mounted must not look like one without claims.
package claim

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"tandem/host/confine"
	"tandem/machine/event"
	"tandem/world"
)

const (
	keep      = 16   // records left after pruning, for people who ask what happened
	maxRecord = 1024 // bytes of a record that are read
	idFile    = "tandem-arbiter"
)

// Folder is a world.Arbiter for one VM. It keeps nothing open and may be used
// by several goroutines and processes.
type Folder struct {
	dir, vm, id string
}

// errUnseen is for a file system whose listing lags behind its links.
var errUnseen = errors.New("the folder doesn't list it; mount it with synchronous metadata")

var (
	vmName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	token  = regexp.MustCompile(`^[!-~]{1,128}$`)
)

// Open names the record of vm in the folder dir, which must exist.
func Open(dir, vm string) (*Folder, error) {
	if !vmName.MatchString(vm) {
		return nil, fmt.Errorf("claim: %q is not a name of a VM: use letters, digits, '-', '_' and '.'", vm)
	}
	f := &Folder{dir: dir, vm: vm}
	id, err := f.readID()
	if errors.Is(err, fs.ErrNotExist) {
		id, err = f.makeID()
	}
	if err != nil {
		return nil, fmt.Errorf("claim: folder %s: %w; it must exist, be shared by both hosts and be writable", dir, err)
	}
	f.id = id
	return f, nil
}

// ID tells folders apart. A pair is protected only if both sides see the same one.
func (f *Folder) ID() string { return f.id }

// Needs are what a claim opens.
func (f *Folder) Needs() confine.Needs { return confine.Needs{Write: []string{f.dir}} }

// Read returns the newest record.
func (f *Folder) Read() (world.Record, error) {
	cur, err := f.newest()
	if err != nil {
		return world.Record{}, f.fail("read", err)
	}
	return cur, nil
}

// Claim opens epoch for owner; see world.Arbiter.
func (f *Folder) Claim(epoch event.Epoch, owner string, gen uint64) (won bool, cur world.Record, err error) {
	if epoch == 0 || !token.MatchString(owner) {
		return false, cur, f.fail("claim", fmt.Errorf("epoch %d for owner %q: epochs count from 1 and an owner is 1 to 128 printable characters", epoch, owner))
	}
	won, cur, err = f.claim(world.Record{Epoch: epoch, Owner: owner, DiskGeneration: gen})
	if err != nil {
		return false, cur, f.fail(fmt.Sprintf("claim epoch %d", epoch), err)
	}
	return won, cur, nil
}

func (f *Folder) claim(want world.Record) (won bool, cur world.Record, err error) {
	if cur, err = f.newest(); err != nil {
		return false, cur, err
	}
	if cur.Epoch+1 < want.Epoch {
		return false, cur, fmt.Errorf("the newest record is of epoch %d: epoch %d was never claimed here", cur.Epoch, want.Epoch-1)
	}
	var linked error
	if cur.Epoch < want.Epoch {
		linked = f.link(want)
		if cur, err = f.newest(); err != nil {
			return false, cur, err
		}
	}
	if cur.Epoch < want.Epoch {
		return false, cur, fmt.Errorf("the record can't be read back: %w", errors.Join(linked, errUnseen))
	}
	if cur.Epoch > want.Epoch || cur.Owner != want.Owner {
		return false, cur, nil
	}
	// The name must be on the disk before anyone acts on it, also when an
	// earlier attempt made it and was cut off before its sync.
	if err := syncDir(f.dir); err != nil {
		return false, cur, err
	}
	f.prune(cur.Epoch)
	return true, cur, nil
}

// link makes the file of an epoch, if there is none.
func (f *Folder) link(r world.Record) error {
	name := f.name(r.Epoch)
	temp := filepath.Join(f.dir, "."+name+"."+rand.Text()+".tmp")
	defer os.Remove(temp)
	if err := writeSynced(temp, encode(r)); err != nil {
		return err
	}
	return os.Link(temp, filepath.Join(f.dir, name))
}

// newest finds the record of the highest epoch. A record pruned between the
// listing and the look at it was not the newest, so the folder is listed again.
func (f *Folder) newest() (world.Record, error) {
	for range 100 {
		if id, err := f.readID(); err != nil || id != f.id {
			return world.Record{}, fmt.Errorf("the folder is not the one that was opened (identity %q, now %q, %v): is its file system mounted?", f.id, id, err)
		}
		epochs, err := f.epochs()
		if err != nil || len(epochs) == 0 {
			return world.Record{}, err
		}
		last := epochs[0]
		for _, e := range epochs {
			last = max(last, e)
		}
		b, err := readSmall(filepath.Join(f.dir, f.name(last)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return world.Record{}, err
		}
		return decode(b, last)
	}
	return world.Record{}, errors.New("records vanish while they are read: remove no file of this folder by hand")
}

// epochs lists the epochs that have a file, in no order.
func (f *Folder) epochs() ([]event.Epoch, error) {
	d, err := os.Open(f.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var es []event.Epoch
	for _, n := range names {
		if e, ok := f.parseName(n); ok {
			es = append(es, e)
		}
	}
	return es, nil
}

// prune removes records that are much older than the newest, and the temporary
// files of contenders for epochs before it: one that is still at work fails to
// link, and has lost anyway. What can't be removed now goes next time.
func (f *Folder) prune(newest event.Epoch) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return
	}
	for _, d := range entries {
		e, ok := f.parseName(d.Name())
		old := ok && e+keep <= newest
		if base, temp := strings.CutSuffix(d.Name(), ".tmp"); temp && strings.HasPrefix(base, ".") {
			base = strings.TrimSuffix(base, filepath.Ext(base))
			e, ok = f.parseName(base[1:])
			old = ok && e < newest
		}
		if old {
			os.Remove(filepath.Join(f.dir, d.Name()))
		}
	}
}

func (f *Folder) name(e event.Epoch) string { return fmt.Sprintf("%s.epoch-%09d", f.vm, e) }

func (f *Folder) parseName(name string) (event.Epoch, bool) {
	digits, ok := strings.CutPrefix(name, f.vm+".epoch-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	e := event.Epoch(n)
	return e, err == nil && e > 0 && f.name(e) == name
}

func (f *Folder) fail(what string, err error) error {
	return fmt.Errorf("claim: %s of VM %s in folder %s: %w", what, f.vm, f.dir, err)
}

const form = "tandem claim 1\nepoch %d\nowner %s\ndisk %d\n"

func encode(r world.Record) []byte {
	return fmt.Appendf(nil, form, r.Epoch, r.Owner, r.DiskGeneration)
}

func decode(b []byte, epoch event.Epoch) (r world.Record, err error) {
	_, err = fmt.Sscanf(string(b), form, &r.Epoch, &r.Owner, &r.DiskGeneration)
	if err != nil || r.Epoch != epoch || !token.MatchString(r.Owner) || string(encode(r)) != string(b) {
		return world.Record{}, fmt.Errorf("the record of epoch %d is damaged (%.60q): stop both copies of the VM, then restore the folder from a backup or remove this record", epoch, b)
	}
	return r, nil
}

func (f *Folder) readID() (string, error) {
	b, err := readSmall(filepath.Join(f.dir, idFile))
	if err != nil {
		return "", err
	}
	id := strings.TrimSuffix(string(b), "\n")
	if !token.MatchString(id) {
		return "", fmt.Errorf("file %s is damaged", idFile)
	}
	return id, nil
}

// makeID gives the folder its identity, unless another process did so first.
func (f *Folder) makeID() (string, error) {
	temp := filepath.Join(f.dir, "."+idFile+"."+rand.Text()+".tmp")
	defer os.Remove(temp)
	if err := writeSynced(temp, []byte(rand.Text()+"\n")); err != nil {
		return "", err
	}
	linked := os.Link(temp, filepath.Join(f.dir, idFile))
	id, err := f.readID()
	if err != nil {
		return "", errors.Join(linked, err)
	}
	return id, syncDir(f.dir)
}

func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxRecord))
}

func writeSynced(path string, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
