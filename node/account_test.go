// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tandem/host/etcd"
)

// TestAccount shows what a process that runs as the account of replicas reaches of the
// daemon's folders, and that it reaches nothing else there.
func TestAccount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this test starts a process as another user: run it as root")
	}
	a, err := findAccount("nobody", true)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tandem-account-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	n, err := New(Options{State: state, Run: run})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.folders(state, run); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatal("a folder above that nobody may pass: ", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := a.folders(state, run); err != nil {
		t.Fatal(err)
	}
	n.set = &settings{Name: "n", URLs: []string{"https://127.0.0.1:1"}}
	p := &process{VM: "web", dir: n.folder("web"), notes: filepath.Join(run, notesDir, "web")}
	for _, err := range []error{n.set.share(state), n.set.save(state), p.prepare(etcd.Secrets{CA: []byte("ca")}), a.give(p.dir), a.giveFile(n.consoleFile("web"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	script := `
		yes() { "$@" >/dev/null 2>&1 || echo "can't $*"; }
		no() { "$@" >/dev/null 2>&1 && echo "can $*"; }
		yes cat $STATE/arbiter/etcd.json; yes touch $STATE/guard/x; yes touch $RUN/vms/web/control.sock
		yes cat $RUN/vms/web/tls/ca.pem; yes dd of=$STATE/console/web.log count=0
		no touch $STATE/arbiter/x; no touch $STATE/x; no touch $STATE/console/x; no touch $RUN/vms/x; no touch $RUN/x
		no ls $STATE; no ls $STATE/console; no ls $RUN/vms; no ls $RUN/notes; no cat $STATE/node.json; no cat $RUN/notes/web/process.json
		test $(id -u) != 0 || echo "is root"; true`
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "STATE="+state, "RUN="+run)
	cmd.Dir = "/"
	cmd.SysProcAttr = a.attributes(nil, etcd.Spec{})
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNoAccount shows who is refused as the user of replicas, and who means the daemon's.
func TestNoAccount(t *testing.T) {
	for _, name := range []string{"", "root", "no-such-user"} {
		if a, err := findAccount(name, false); a != nil || err != nil {
			t.Errorf("%q: %v, %v", name, a, err)
		}
	}
	if a, err := findAccount("no-such-user", true); a != nil || err == nil {
		t.Errorf("%v, %v", a, err)
	}
}
