// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tandem/host/etcd"
)

// account is the user that replicas run as, nil for the daemon's own. What it must reach:
//
//	RUN 0711 · RUN/vms 0711 · RUN/vms/VM          its own
//	STATE 0711 · STATE/arbiter 0750               its group's, to read
//	STATE/guard 0770                              its group's
//	STATE/console 0711 · STATE/console/VM.log     its own
//
// All else in these folders is root's. So the daemon must not trust what it finds in the
// account's: it follows no link there and waits for no pipe (host.OpenPlain).
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
}

// DefaultUser is who replicas run as, if there is such a user.
const DefaultUser = "tandem"

// findAccount looks for the user; must says that there has to be one.
func findAccount(name string, must bool) (*account, error) {
	if os.Geteuid() != 0 {
		if must && name != "" {
			return nil, fmt.Errorf("--user %s: only root may start processes as another user: run the daemon as root, or leave --user out", name)
		}
		return nil, nil
	}
	if name == "" || name == "root" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) && !must {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--user %s: %w: make it with `useradd --system %s`", name, err, name)
	}
	a := &account{name: name}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("--user %s: its groups: %w", name, err)
	}
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--user %s: %w", name, err)
		}
		a.groups = append(a.groups, uint32(n))
	}
	a.uid, a.gid, a.groups = a.groups[0], a.groups[1], a.groups[2:]
	return a, nil
}

// folders gives the account its way.
func (a *account) folders(state, run string) error {
	if a == nil {
		return nil
	}
	for _, f := range []struct {
		path  string
		mode  fs.FileMode
		group int
	}{
		{run, 0o711, 0}, {filepath.Join(run, "vms"), 0o711, 0}, {state, 0o711, 0}, {filepath.Join(state, "console"), 0o711, 0},
		{filepath.Join(state, arbiterDir), 0o750, int(a.gid)}, {filepath.Join(state, guardDir), 0o770, int(a.gid)},
	} {
		if err := errors.Join(os.Chown(f.path, 0, f.group), os.Chmod(f.path, f.mode)); err != nil {
			return fmt.Errorf("let %s reach its folders: %w", a.name, err)
		}
	}
	return errors.Join(a.passes(state), a.passes(run))
}

// passes makes sure that the account can pass through a folder and those above it.
func (a *account) passes(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		owner, mode := st.Sys().(*syscall.Stat_t), st.Mode().Perm()
		switch {
		case owner.Uid == a.uid:
			mode >>= 6
		case owner.Gid == a.gid || slices.Contains(a.groups, owner.Gid):
			mode >>= 3
		}
		if mode&1 == 0 {
			return fmt.Errorf("replicas run as %s, who can't pass through %s: `chmod o+x %s`, or run the daemon with --user ''", a.name, dir, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// give makes a folder that no one else could write to so far the account's, with all in it.
func (a *account) give(dir string) error {
	if a == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(a.uid), int(a.gid)))
	})
}

// giveFile makes a file, unless it is there, that the account may write.
func (a *account) giveFile(path string) error {
	if a == nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(int(a.uid), int(a.gid)), f.Close())
}

// attributes are those of a replica's process: a session of its own, since it outlives
// the daemon, and the control group that it begins in, nil for the daemon's. Rights that
// it needs to begin with it has from us, and drops as it is confined.
func (a *account) attributes(group *os.File, spec etcd.Spec) *syscall.SysProcAttr {
	s := &syscall.SysProcAttr{Setsid: true}
	if group != nil {
		s.UseCgroupFD, s.CgroupFD = true, int(group.Fd())
	}
	if a == nil {
		return s
	}
	s.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
	lend := []uintptr{unix.CAP_SYS_NICE} // its priority
	if strings.HasPrefix(spec.Network, "tap:") {
		lend = append(lend, unix.CAP_NET_ADMIN)
	}
	var have [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &have[0]) != nil {
		return s
	}
	for _, c := range lend {
		if have[0].Permitted&(1<<c) != 0 { // in a container we may lack it ourselves
			s.AmbientCaps = append(s.AmbientCaps, c)
		}
	}
	return s
}
