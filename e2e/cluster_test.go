// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host/control"
	"tandem/node"
)

// lab is a network of hosts that are namespaces: a bridge, with the store and the
// switch, in one of its own, and nodes around it.
//
//	tdm-world  10.99.0.1  bridge: store, switch, client
//	tdm-n1…n3  10.99.0.11…13  nodes
type lab struct {
	t   *testing.T
	dir string
}

const labWorld = "world"

// ns names a host's namespace. TANDEM_LAB tells labs apart that are there at once.
func ns(name string) string {
	lab := os.Getenv("TANDEM_LAB")
	if lab == "" {
		lab = "tdm"
	}
	return lab + "-" + name
}

func newLab(t *testing.T, hosts ...string) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("this test makes network namespaces: install iproute2")
	}
	dir, err := os.MkdirTemp("", "tdm-") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o711) // for replicas with a user of their own
	l := &lab{t, dir}
	for _, h := range append([]string{labWorld}, hosts...) {
		l.remove(h) // of a run that was cut off
	}
	t.Cleanup(func() {
		for _, h := range append(hosts, labWorld) {
			l.remove(h)
		}
		os.RemoveAll(dir)
	})
	l.ip("netns", "add", ns(labWorld))
	l.ip("-n", ns(labWorld), "link", "set", "lo", "up")
	l.ip("-n", ns(labWorld), "link", "add", "br0", "type", "bridge")
	l.ip("-n", ns(labWorld), "addr", "add", "10.99.0.1/24", "dev", "br0")
	l.ip("-n", ns(labWorld), "link", "set", "br0", "up")
	for i, h := range hosts {
		if err := os.Mkdir(l.path(h), 0o711); err != nil {
			t.Fatal(err)
		}
		l.ip("netns", "add", ns(h))
		l.ip("-n", ns(h), "link", "set", "lo", "up")
		l.ip("-n", ns(labWorld), "link", "add", "v-"+h, "type", "veth", "peer", "name", "eth0", "netns", ns(h))
		l.ip("-n", ns(labWorld), "link", "set", "v-"+h, "master", "br0", "up")
		l.ip("-n", ns(h), "addr", "add", fmt.Sprintf("10.99.0.%d/24", 11+i), "dev", "eth0")
		l.ip("-n", ns(h), "link", "set", "eth0", "up")
	}
	return l
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// pids are the processes of a host. This one may seem to be of the world: a thread that
// has dialed from there ends with its goroutine, but the first thread never does.
func (l *lab) pids(host string) (list []int) {
	out, _ := exec.Command("ip", "netns", "pids", ns(host)).Output()
	for _, f := range strings.Fields(string(out)) {
		var pid int
		fmt.Sscan(f, &pid)
		if pid != os.Getpid() {
			list = append(list, pid)
		}
	}
	return list
}

// crash kills all processes of a host at once.
func (l *lab) crash(host string) {
	for len(l.pids(host)) > 0 {
		for _, pid := range l.pids(host) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *lab) remove(host string) {
	if _, err := os.Stat("/run/netns/" + ns(host)); err != nil {
		return
	}
	l.crash(host)
	exec.Command("ip", "netns", "del", ns(host)).Run()
}

func (l *lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

// start starts tandem on a host.
func (l *lab) start(host string, args ...string) *exec.Cmd {
	l.t.Helper()
	log, err := os.OpenFile(l.path(host+"-"+args[0]+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns(host), binary(l.t)}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go cmd.Wait()
	return cmd
}

// replicaUser has no rights anywhere, and is on every host.
const replicaUser = "nobody"

// pid is the process of a host's copy.
func (l *lab) pid(host, vm string) int {
	l.t.Helper()
	var is struct {
		PID int `json:"pid"`
	}
	b, _ := os.ReadFile(l.path(host, "run", "notes", vm, "process.json"))
	if json.Unmarshal(b, &is) != nil || is.PID == 0 {
		l.t.Fatalf("the copy on %s has no process", host)
	}
	return is.PID
}

// confined checks that a host's copy is without rights.
func (l *lab) confined(host, vm string) {
	l.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.pid(host, vm)))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(b), want) {
			l.t.Errorf("the copy on %s has no %q:\n%s", host, want, b)
		}
	}
	if strings.Contains(string(b), "Uid:\t0\t") {
		l.t.Errorf("the copy on %s is root's", host)
	}
}

func (l *lab) node(host string) *exec.Cmd {
	return l.start(host, "node", "--user", replicaUser, "--state", l.path(host, "state"), "--run", l.path(host, "run"), "--memory", "1500M", "--metrics", "127.0.0.1:9090", "--api", ":7380")
}

// ask asks a host's daemon, and fails the test if it refuses.
func (l *lab) ask(host string, args ...string) string {
	l.t.Helper()
	out, diag, code := l.try(host, args...)
	if code != 0 {
		l.fatalf("tandem %s on %s: exit %d: %s%s", strings.Join(args, " "), host, code, out, diag)
	}
	return out
}

func (l *lab) try(host string, args ...string) (stdout, stderr string, code int) {
	cmd := exec.Command(binary(l.t), append(args, "--run", l.path(host, "run"))...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.Run()
	return out.String(), diag.String(), cmd.ProcessState.ExitCode()
}

// until waits for a condition.
func (l *lab) until(what string, limit time.Duration, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			l.fatalf("%s: not within %v", what, limit)
		}
	}
}

// fatalf ends the test with what the processes wrote.
func (l *lab) fatalf(format string, args ...any) {
	l.t.Helper()
	var out strings.Builder
	for _, pattern := range []string{"*.log", "*/run/vms/*/log", "*/run/vms/*/events.jsonl", "*/state/etcd.log", "*/state/console/*"} {
		list, _ := filepath.Glob(l.path(pattern))
		for _, path := range list {
			b, _ := os.ReadFile(path)
			fmt.Fprintf(&out, "--- %s\n%s\n", strings.TrimPrefix(path, l.dir), b[max(0, len(b)-2500):])
		}
	}
	l.t.Fatalf(format+"\n%s", append(args, out.String())...)
}

func (l *lab) vm(host, name string) (v node.VMInfo) {
	out, _, _ := l.try(host, "info", name, "--format", "json")
	json.Unmarshal([]byte(out), &v)
	return v
}

// dial connects from the world's namespace.
func (l *lab) dial(addr string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result)
	go func() { // on a thread that ends with it
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns(labWorld), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{nil, err}
			return
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		c, err := net.DialTimeout("tcp", addr, 2*time.Second)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// redis is a client on one connection, by hand so that nothing can reconnect.
type redis struct {
	c  net.Conn
	in *bufio.Reader
}

func (r *redis) ask(line string) (string, error) {
	r.c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(r.c, "%s\r\n", line); err != nil {
		return "", err
	}
	s, err := r.in.ReadString('\n')
	return strings.TrimSpace(s), err
}

// newCluster makes a lab with a store and a switch for a VM named web, whose database
// answers at 127.0.0.1:6379 of the world, and a cluster of all hosts.
func newCluster(t *testing.T, img string, hosts ...string) (*lab, map[string]*exec.Cmd) {
	t.Helper()
	l := newLab(t, hosts...)
	l.start(labWorld, "store", "--listen", "10.99.0.1:10809", "--export", "web="+filepath.Join(img, "disk.raw"), "--state", l.dir)
	l.start(labWorld, "switch", "--listen", "10.99.0.1:7077", "--lease", "web=10.77.0.2", "--forward", "127.0.0.1:6379:10.77.0.2:6379")
	daemons := map[string]*exec.Cmd{}
	for _, h := range hosts {
		daemons[h] = l.node(h)
		l.until("the daemon of "+h, time.Minute, func() bool { _, err := os.Stat(l.path(h, "run", node.Socket)); return err == nil })
	}
	token := strings.TrimSpace(l.ask(hosts[0], "cluster", "init", "--name", hosts[0], "--address", "10.99.0.11"))
	for i, h := range hosts[1:] {
		l.ask(h, "cluster", "join", token, "--name", h, "--address", fmt.Sprintf("10.99.0.%d", 12+i))
	}
	return l, daemons
}

// database connects to the VM's database, once it answers.
func (l *lab) database() *redis {
	l.t.Helper()
	var c *redis
	l.until("the database", 3*time.Minute, func() bool {
		conn, err := l.dial("127.0.0.1:6379")
		if err != nil {
			return false
		}
		c = &redis{conn, bufio.NewReader(conn)}
		if s, err := c.ask("PING"); err == nil && s == "+PONG" {
			return true
		}
		conn.Close()
		return false
	})
	return c
}

// Three hosts make a cluster; a VM with FT is protected on two of them; its primary's
// host dies with all its processes; the VM goes on over the same TCP connection with
// every acknowledged write, and is protected again on the third without a hand. A
// daemon that was killed adopts its replica. ft status tells by its exit code.
func TestCluster(t *testing.T) {
	img := guest(t)
	hosts := []string{"n1", "n2", "n3"}
	l, daemons := newCluster(t, img, hosts...)
	l.ask("n2", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--host", "n1",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077", "--timeout", "1s")
	if _, _, code := l.try("n3", "ft", "status", "web"); code != 3 {
		t.Errorf("ft status of a VM that does not run: exit %d, want 3", code)
	}
	l.ask("n3", "start", "web")
	l.until("protected", 2*time.Minute, func() bool { return l.vm("n2", "web").Protected })
	if _, _, code := l.try("n3", "ft", "status", "web"); code != 0 {
		t.Errorf("ft status of a protected VM: exit %d, want 0", code)
	}
	before := l.vm("n2", "web")
	t.Logf("protected: primary on %s, backup on %s", before.Primary.Node, before.Backup.Node)
	l.confined(before.Primary.Node, "web")
	l.confined(before.Backup.Node, "web")

	c := l.database()
	defer c.c.Close()
	acked := 0
	write := func(d time.Duration) (longest time.Duration) {
		t.Helper()
		for end := time.Now().Add(d); time.Now().Before(end); acked++ {
			asked := time.Now()
			if s, err := c.ask(fmt.Sprintf("SET k%d v%d", acked, acked)); err != nil || s != "+OK" {
				l.fatalf("write %d on the one connection: %q, %v", acked, s, err)
			}
			longest = max(longest, time.Since(asked))
		}
		return longest
	}
	write(time.Second)

	// The daemon of the backup's host is killed and started again at once: its replica
	// lives on. Before it has its vote again, another host's loss would be one too many.
	syscall.Kill(daemons[before.Backup.Node].Process.Pid, syscall.SIGKILL)
	l.node(before.Backup.Node)
	l.until("the new daemon has its vote", time.Minute, func() bool { return l.vm(before.Backup.Node, "web").Protected })
	write(time.Second)

	victim := before.Primary.Node
	third := ""
	for _, h := range hosts {
		if h != victim && h != before.Backup.Node {
			third = h
		}
	}
	killed := time.Now()
	l.crash(victim)
	longest := write(time.Second)
	t.Logf("%s is dead; the backup is live after %v, the client's longest wait is %v", victim, l.live(before.Backup.Node, "web").Sub(killed), longest)
	// A new backup is made without a hand; but of three votes two are left, which
	// don't outlive another host, and the status says so.
	var after node.VMInfo
	l.until("a backup again", time.Minute, func() bool {
		write(200 * time.Millisecond)
		after = l.vm(third, "web")
		return after.Status == "not protected: no arbiter" && after.Epoch > before.Epoch && after.Backup.State == "protected"
	})
	t.Logf("a backup again %v after the kill: primary on %s, backup on %s; %s", time.Since(killed), after.Primary.Node, after.Backup.Node, after.Detail)
	if after.Primary.Node != before.Backup.Node || after.Backup.Node != third {
		t.Errorf("primary on %s, backup on %s; want %s, %s", after.Primary.Node, after.Backup.Node, before.Backup.Node, third)
	}
	write(time.Second)
	for i := range acked {
		if _, err := c.ask(fmt.Sprintf("GET k%d", i)); err != nil {
			l.fatalf("read %d: %v", i, err)
		}
		if s, err := c.in.ReadString('\n'); err != nil || strings.TrimSpace(s) != fmt.Sprintf("v%d", i) {
			l.fatalf("key %d holds %q, %v", i, s, err)
		}
	}
	t.Logf("%d acknowledged writes, none lost, one connection", acked)
	for _, want := range []string{"clone backup", "is the VM now", "protected: the backup on " + third} {
		if out := l.ask(third, "events", "web"); !strings.Contains(out, want) {
			t.Errorf("the events don't tell %q:\n%s", want, out)
		}
	}

	// The dead host comes back and is a member as before; then the backup's is evacuated.
	l.node(victim)
	l.until(victim+" is back", time.Minute, func() bool {
		return strings.Contains(l.line(third, "nodes", victim), "up") && l.vm(third, "web").Protected
	})
	l.ask(third, "cluster", "evacuate", third)
	l.until("the backup has moved", time.Minute, func() bool {
		write(200 * time.Millisecond)
		v := l.vm(third, "web")
		return v.Protected && v.Backup.Node == victim
	})
	if v := l.vm(third, "web"); v.Primary.Node != before.Backup.Node {
		t.Errorf("the primary is on %s, want %s: nobody asked it to move", v.Primary.Node, before.Backup.Node)
	}
	// Then the primary's: the roles change under the client, and a new backup follows.
	l.ask(third, "cluster", "restore", third)
	l.ask(third, "cluster", "evacuate", before.Backup.Node)
	l.until("the primary has moved", time.Minute, func() bool {
		write(200 * time.Millisecond)
		v := l.vm(third, "web")
		return v.Protected && v.Primary.Node == victim && v.Backup.Node == third
	})
	l.ask(third, "cluster", "restore", before.Backup.Node)
	l.operate(c, before.Backup.Node)
	l.ask(third, "ft", "disable", "web")
	l.until("no backup", time.Minute, func() bool { v := l.vm(third, "web"); return v.Backup == nil })
	// A VM without FT moves by a clone, and has no backup after it.
	l.ask(victim, "migrate", "web", "--to", elsewhere(l.vm(third, "web").Primary.Node, hosts))
	l.until("one copy", time.Minute, func() bool { v := l.vm(third, "web"); return v.Primary != nil && v.Backup == nil })
	l.ask(third, "stop", "web")
	l.until("stopped", time.Minute, func() bool { v := l.vm(third, "web"); return v.Status == "not protected: not running" })
	l.ask(third, "delete", "web")
	l.until("deleted", time.Minute, func() bool { _, _, code := l.try(third, "info", "web"); return code == 1 })
}

// operate moves copies of the VM between hosts, kills its primary by the command for
// that, and resets it, from a host that has no copy: a client's connection lives until
// the reset, and somebody at the console sees it all.
func (l *lab) operate(c *redis, free string) {
	l.t.Helper()
	w := startWriter(c)
	v := l.vm(free, "web")
	one, two := v.Primary.Node, v.Backup.Node
	begin := time.Now()
	at := func(primary, backup string) {
		l.t.Helper()
		l.until("the primary on "+primary+", the backup on "+backup, time.Minute, func() bool {
			v = l.vm(free, "web")
			return v.Protected && v.Primary.Node == primary && v.Backup.Node == backup
		})
		l.t.Logf("primary on %s, backup on %s after %v; the client waited %v", primary, backup, time.Since(begin).Round(10*time.Millisecond), w.gap().Round(time.Millisecond))
		begin = time.Now()
	}
	if _, diag, code := l.try(free, "migrate", "web", "--to", one); code != 1 || !strings.Contains(diag, "already") {
		l.t.Errorf("a move to where it is: exit %d: %s", code, diag)
	}
	l.ask(free, "ft", "migrate-backup", "web", "--to", free)
	at(one, free)
	l.ask(two, "migrate", "web", "--to", two) // where no copy is: two steps
	l.until("protected", time.Minute, func() bool { v = l.vm(free, "web"); return v.Protected && v.Primary.Node == two })
	at(two, v.Backup.Node)
	l.ask(one, "migrate", "web", "--to", v.Backup.Node) // one step
	l.until("protected", time.Minute, func() bool { v = l.vm(free, "web"); return v.Protected && v.Primary.Node != two })
	at(v.Primary.Node, v.Backup.Node)
	console := l.console(free, "web")
	console.ask("echo joined=$((1+1))", "joined=2")
	out := l.ask(free, "ft", "test-failover", "web", "--yes")
	l.t.Logf("test-failover: the client waited %v\n%s", w.gap().Round(time.Millisecond), out)
	if acked, err := w.end(); err != nil {
		l.fatalf("%v", err)
	} else {
		l.t.Logf("%d writes while copies moved, none lost, one connection", acked)
	}
	console.expect("looking for the VM")
	console.ask("echo console=$((40+2))", "console=42")
	l.ask(free, "reset", "web")
	console.expect(ready)
	console.in.Close()
	console.cmd.Process.Signal(syscall.SIGTERM)
	if out := l.ask(free, "events", "web"); !strings.Contains(out, "as was asked") || !strings.Contains(out, "the reset button was pressed") {
		l.t.Errorf("the events don't tell of it:\n%s", out)
	}
}

// Four hosts have three voters and a spare. A host that is lost for good is replaced in
// both of its roles without a hand: the VM has a backup elsewhere, and the spare gets
// the dead one's vote, so that it is protected again in full. What returns later is a
// spare. etcd's leader is never where the VM's copies are for long.
func TestSpare(t *testing.T) {
	img := guest(t)
	hosts := []string{"n1", "n2", "n3", "n4"}
	l, _ := newCluster(t, img, hosts...)
	l.until("a spare", time.Minute, func() bool { return strings.Contains(l.line("n1", "nodes", "n4"), "spare") })
	l.ask("n2", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start", "--host", "n1",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077")
	l.until("protected", 2*time.Minute, func() bool { return l.vm("n2", "web").Protected })
	w := startWriter(l.database())
	v := l.vm("n2", "web")
	victim, asked := v.Primary.Node, v.Backup.Node
	l.until("etcd's leader is on a host without a copy", time.Minute, func() bool {
		return strings.Contains(l.log(victim+"-node")+l.log(asked+"-node"), "leadership was passed on")
	})
	w.gap()
	l.crash(victim)
	lost := time.Now()
	l.until("the spare has the vote of the lost host", 3*time.Minute, func() bool {
		out, _, _ := l.try(asked, "nodes")
		return strings.Count(out, "voter") == 3 && !strings.Contains(l.line(asked, "nodes", victim), "voter")
	})
	l.until("protected by the other three", time.Minute, func() bool {
		now := l.vm(asked, "web")
		return now.Protected && now.Epoch > v.Epoch && now.Primary.Node != victim && now.Backup.Node != victim
	})
	t.Logf("%s of four is lost for good: protected again after %v; the client waited %v", victim, time.Since(lost).Round(time.Second), w.gap().Round(time.Millisecond))
	l.node(victim)
	l.until("it is back as a spare", 2*time.Minute, func() bool { return strings.Contains(l.line(victim, "nodes", victim), "spare") })
	l.until("protected still", time.Minute, func() bool { return l.vm(victim, "web").Protected })
	if acked, err := w.end(); err != nil {
		l.fatalf("%v", err)
	} else {
		t.Logf("%d writes, none lost, one connection", acked)
	}
}

// log is what a process wrote.
func (l *lab) log(name string) string {
	b, _ := os.ReadFile(l.path(name + ".log"))
	return string(b)
}

// elsewhere is a host other than one.
func elsewhere(host string, hosts []string) string {
	return hosts[(slices.Index(hosts, host)+1)%len(hosts)]
}

// console joins a VM's console from a host.
func (l *lab) console(host, vm string) *console {
	l.t.Helper()
	return start(l.t, "console", vm, "--run", l.path(host, "run"))
}

// line is the line of a table that begins with a name.
func (l *lab) line(host, command, name string) string {
	out, _, _ := l.try(host, command)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, name+" ") {
			return line
		}
	}
	return ""
}

// Two hosts and a witness protect a VM: with two voters the status says that there is
// no arbiter, with the witness's vote the VM is protected, and when one host falls
// silent the other goes on. A VM whose only copy dies with its host is started elsewhere when an
// operator vouches for that, and both copies' end is survived from the disk.
func TestWitness(t *testing.T) {
	img := guest(t)
	l := newLab(t, "n1", "n2", "w")
	l.start(labWorld, "store", "--listen", "10.99.0.1:10809", "--export", "vm="+filepath.Join(img, "disk.raw"), "--state", l.dir)
	for _, h := range []string{"n1", "n2"} {
		l.node(h)
		l.until("the daemon of "+h, time.Minute, func() bool { _, err := os.Stat(l.path(h, "run", node.Socket)); return err == nil })
	}
	token := strings.TrimSpace(l.ask("n1", "cluster", "init", "--name", "n1", "--address", "10.99.0.11"))
	l.ask("n2", "cluster", "join", token, "--name", "n2", "--address", "10.99.0.12")
	l.ask("n1", "create", "vm", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start", "--host", "n1",
		"--disk", "nbd://10.99.0.1:10809/vm", "--timeout", "1s")
	l.until("no arbiter", time.Minute, func() bool { return l.vm("n2", "vm").Status == "not protected: no arbiter" })
	l.start("w", "witness", "--state", l.path("w", "state"), "--run", l.path("w", "run"), "--token", token, "--name", "w", "--address", "10.99.0.13")
	l.until("protected", time.Minute, func() bool { return l.vm("n2", "vm").Protected })
	// n1 falls silent: no connection is refused, nothing is answered.
	cut := time.Now()
	l.ip("-n", ns(labWorld), "link", "set", "v-n1", "down")
	l.until("n2 goes on", time.Minute, func() bool {
		v := l.vm("n2", "vm")
		return v.Primary != nil && v.Primary.Node == "n2" && v.Status == "not protected: needs backup"
	})
	t.Logf("n1 is silent; n2 goes on after %v", l.live("n2", "vm").Sub(cut))
	l.crash("n1")
	l.ip("-n", ns(labWorld), "link", "set", "v-n1", "up")
	l.crash("n2")
	l.node("n1")
	l.ask1("n1", "cluster", "dead", "n2")
	l.until("started from its disk", time.Minute, func() bool {
		v := l.vm("n1", "vm")
		return v.Primary != nil && v.Primary.Node == "n1" && v.Primary.State == "running"
	})
	if out := l.ask("n1", "events", "vm"); !strings.Contains(out, "cold restart vm") {
		t.Errorf("the events don't tell of the restart:\n%s", out)
	}
}

// live is when the copy on a host went live last.
func (l *lab) live(host, vm string) time.Time {
	var r control.Record
	b, _ := os.ReadFile(l.path(host, "run", "vms", vm, "events.jsonl"))
	for line := range bytes.Lines(b) {
		var next control.Record
		if json.Unmarshal(line, &next) == nil && next.Kind == "live" {
			r = next
		}
	}
	if r.Time.IsZero() {
		l.fatalf("the copy of %s on %s never went live", vm, host)
	}
	return r.Time
}

// ask1 asks until the daemon agrees: it may still wait for a lease to lapse.
func (l *lab) ask1(host string, args ...string) {
	l.t.Helper()
	l.until("tandem "+strings.Join(args, " "), time.Minute, func() bool { _, _, code := l.try(host, args...); return code == 0 })
}
