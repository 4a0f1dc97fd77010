// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tandem/host/etcd"
)

// tree is a folder like the kernel's: the group of a service with its daemon in it.
func tree(t *testing.T, own, controllers string) (ownFile, mount string) {
	t.Helper()
	mount = t.TempDir()
	service := filepath.Join(mount, "system.slice", "tandem-node.service")
	if err := os.MkdirAll(service, 0o755); err != nil {
		t.Fatal(err)
	}
	ownFile = filepath.Join(mount, "own")
	for path, text := range map[string]string{ownFile: own, filepath.Join(service, "cgroup.controllers"): controllers} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return ownFile, mount
}

// TestLimits shows which limits a replica gets where the daemon was given groups.
func TestLimits(t *testing.T) {
	own, mount := tree(t, "9:name=systemd:/\n0::/system.slice/tandem-node.service/daemon\n", "cpuset cpu io memory pids\n")
	l, err := findLimits(own, mount)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.open("web", 512<<20)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	service := filepath.Join(mount, "system.slice", "tandem-node.service")
	for path, want := range map[string]string{"cgroup.subtree_control": "+memory +pids", "vm-web/memory.max": "956301312", "vm-web/pids.max": "512"} {
		if b, err := os.ReadFile(filepath.Join(service, path)); string(b) != want {
			t.Errorf("%s: %q, want %q (%v)", path, b, want, err)
		}
	}
	if _, err := l.open("../web", 1); err == nil {
		t.Error("a group outside of ours was made")
	}
}

// TestNoLimits shows that the daemon goes without groups where none were given to it,
// and says what is missing.
func TestNoLimits(t *testing.T) {
	for _, c := range []struct{ own, controllers, want string }{
		{"0::/system.slice/tandem-node.service\n", "memory pids", "not one called daemon"},
		{"4:memory:/x/daemon\n", "memory pids", "not one called daemon"},
		{"0::/system.slice/tandem-node.service/daemon\n", "hugetlb", "no controller memory"},
		{"0::/elsewhere/daemon\n", "memory pids", "cgroup.controllers"},
	} {
		own, mount := tree(t, c.own, c.controllers)
		l, err := findLimits(own, mount)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q with %q: %v, want %q", c.own, c.controllers, err, c.want)
		}
		if f, err := l.open("web", 1); f != nil || err != nil {
			t.Errorf("without groups: %v, %v", f, err)
		}
	}
}

// TestStartInGroup shows that a process begins its life in the group that it was given,
// in the kernel's own tree. What bounds it there is the kernel's.
func TestStartInGroup(t *testing.T) {
	var dir string
	for _, mount := range []string{cgroupMount, cgroupMount + "/unified"} {
		if _, err := os.Stat(mount + "/cgroup.controllers"); err == nil {
			dir = mount + "/tandem-test"
		}
	}
	if dir == "" || os.Mkdir(dir, 0o755) != nil {
		t.Skip("this test makes a control group (cgroup v2): run it as root")
	}
	defer os.Remove(dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("/bin/cat", "/proc/self/cgroup")
	cmd.SysProcAttr = (*account)(nil).attributes(f, etcd.Spec{})
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "0::/tandem-test\n") {
		t.Fatalf("%s %v", out, err)
	}
	if (*account)(nil).attributes(nil, etcd.Spec{}).UseCgroupFD {
		t.Error("a group without a group")
	}
}
