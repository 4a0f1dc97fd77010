// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tandem/host/etcd"
)

// limits are the control groups of this host's replicas, one for each VM, beside that of
// the daemon:
//
//	…/tandem-node.service/daemon     DelegateSubgroup= of the unit
//	…/tandem-node.service/vm-NAME    memory.max, pids.max
//
// There are groups only where the daemon was put into such a subgroup: to move itself
// would leave processes where the next daemon is to start, which the kernel refuses
// (cgroup-v2.rst, "No Internal Process Constraint").
type limits struct{ dir string } // empty: no groups

const (
	cgroupMount = "/sys/fs/cgroup"
	daemonGroup = "daemon"
	vmGroup     = "vm-"

	// replicaMemory is what a replica may use beside its guest's memory: code cache, log,
	// a clone under way. It is far more than any was seen to use, for the kernel kills who
	// has reached it.
	replicaMemory = 400 << 20
	// replicaThreads are those of Go's runtime: some 20 in use.
	replicaThreads = 512
)

// controllers are those that bound a replica.
var controllers = []string{"memory", "pids"}

// findLimits looks for groups that are ours to make; own is /proc/self/cgroup.
func findLimits(own, mount string) (limits, error) {
	const remedy = "run the daemon by packaging/tandem-node.service, with systemd 254 or later and cgroup v2"
	b, err := os.ReadFile(own)
	if err != nil {
		return limits{}, err
	}
	path := ""
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	if filepath.Base(path) != daemonGroup {
		return limits{}, fmt.Errorf("the daemon's control group %q is not one called %s in a group of its own: %s", path, daemonGroup, remedy)
	}
	l := limits{filepath.Join(mount, filepath.Dir(path))}
	has, err := os.ReadFile(filepath.Join(l.dir, "cgroup.controllers"))
	if err != nil {
		return limits{}, fmt.Errorf("%w: %s", err, remedy)
	}
	var enable []string
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(has)), c) {
			return limits{}, fmt.Errorf("the control group %s has no controller %s: %s", l.dir, c, remedy)
		}
		enable = append(enable, "+"+c)
	}
	return l, os.WriteFile(filepath.Join(l.dir, "cgroup.subtree_control"), []byte(strings.Join(enable, " ")), 0o644)
}

// open makes the group of a VM's copy and returns its folder, nil if there are no
// groups. The limits of one that is there already are set anew.
func (l limits) open(vm string, memory int64) (*os.File, error) {
	if l.dir == "" {
		return nil, nil
	}
	if !etcd.ValidName(vm) {
		return nil, fmt.Errorf("%q is not a name of a VM", vm)
	}
	dir := filepath.Join(l.dir, vmGroup+vm)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	for name, value := range map[string]int64{"memory.max": memory + replicaMemory, "pids.max": replicaThreads} {
		if err := os.WriteFile(filepath.Join(dir, name), strconv.AppendInt(nil, value, 10), 0o644); err != nil {
			return nil, err
		}
	}
	return os.Open(dir)
}

// remove takes the group of a copy that has ended. One with a process in it stays.
func (l limits) remove(vm string) {
	if l.dir != "" {
		os.Remove(filepath.Join(l.dir, vmGroup+vm))
	}
}
