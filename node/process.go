// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/host"
	"tandem/host/certs"
	"tandem/host/control"
	"tandem/host/etcd"
)

// process is a replica on this host; its exported fields are what is kept of it in
// its folder.
type process struct {
	VM      string    `json:"vm"`
	Token   string    `json:"token"`
	Role    string    `json:"role"`
	Epoch   uint64    `json:"epoch"` // that it claims, or would claim
	Address string    `json:"address"`
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"` // clock ticks from boot, tells reused numbers apart
	Began   time.Time `json:"began"`

	dir     string // the copy's own
	notes   string // ours
	alive   bool
	ended   time.Time
	stale   time.Time // since when a newer epoch has left it behind
	result  control.Result
	client  *control.Client
	status  control.Status
	offset  int64     // of events that etcd has
	written etcd.Copy // what etcd has
	failed  bool      // its failure was counted

	settling bool // the move of a disk is being ended
}

// Roles of processes.
const (
	rolePrimary = "primary"
	roleBackup  = "backup"
)

func (n *Node) folder(vm string) string { return filepath.Join(n.opt.Run, "vms", vm) }

func (p *process) file(name string) string { return filepath.Join(p.dir, name) }

// note is a file of the daemon's about a process, which the process can't write.
func (p *process) note(name string) string { return filepath.Join(p.notes, name) }

const (
	processFile = "process.json"
	offsetFile  = "events.offset"
)

// adopt takes over the processes of a daemon before us.
func (n *Node) adopt() {
	list, _ := filepath.Glob(filepath.Join(n.opt.Run, notesDir, "*", processFile))
	for _, path := range list {
		p := &process{notes: filepath.Dir(path)}
		p.dir = n.folder(filepath.Base(p.notes))
		b, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(b, p) != nil {
			n.opt.Log.Warn("a replica's folder can't be read: end its process by hand if there is one", "path", path, "err", err)
			continue
		}
		p.client = control.NewClient(p.file("control.sock"))
		if p.PID == 0 { // the daemon ended between its start and the note of it
			p.PID = peerOf(p.file("control.sock"))
			p.Start, _ = startTime(p.PID)
		}
		b, _ = os.ReadFile(p.note(offsetFile))
		p.offset, _ = strconv.ParseInt(string(b), 10, 64)
		p.alive = true // poll finds out
		n.procs[p.VM] = p
		n.opt.Log.Info("adopted a replica", "vm", p.VM, "role", p.Role, "pid", p.PID)
	}
}

// peerOf is the process that listens at a Unix socket, 0 if none does.
func peerOf(path string) int {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// startTime is when a process started, false if there is none or it is a zombie.
func startTime(pid int) (uint64, bool) {
	if pid <= 0 {
		return 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name, in parentheses, may hold anything: what follows it is counted.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, false
	}
	t, err := strconv.ParseUint(f[19], 10, 64)
	return t, err == nil
}

// poll looks at all processes, and reports whether one has ended or changed its state.
func (n *Node) poll() (moved bool) {
	n.mu.Lock()
	var list []*process
	for _, p := range n.procs {
		list = append(list, p)
	}
	n.mu.Unlock()
	var asked sync.WaitGroup
	for _, p := range list {
		if p.alive {
			asked.Go(func() { n.inspect(p, &moved) })
		}
	}
	asked.Wait()
	return moved
}

// inspect looks at one process; one that was stopped takes its time.
func (n *Node) inspect(p *process, moved *bool) {
	start, is := startTime(p.PID)
	is = is && start == p.Start
	var st control.Status
	err := errors.New("not asked")
	if is {
		st, err = p.client.Status()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !is:
		p.alive, p.ended, *moved = false, time.Now(), true
		n.limits.remove(p.VM)
		p.result = control.LoadResult(p.file("result.json"))
	case err == nil:
		*moved = *moved || st.State != p.status.State || st.Epoch != p.status.Epoch
		p.status = st
	}
}

// copyRecord is a process as etcd is told of it.
func (p *process) copyRecord() etcd.Copy {
	c := etcd.Copy{Token: p.Token, Role: p.Role, Epoch: p.Epoch, State: p.status.State, Address: p.Address, PID: p.PID, Alive: p.alive}
	if !p.alive {
		c.End, c.Why = p.result.End, p.result.Why
	}
	return c
}

// start starts a replica. The registry knows of it before it runs.
func (n *Node) start(ctx context.Context, c *etcd.Client, vm etcd.VM, p *process, more ...string) error {
	p.VM, p.dir, p.Began, p.alive = vm.Name, n.folder(vm.Name), time.Now(), true
	p.notes = filepath.Join(n.opt.Run, notesDir, vm.Name)
	secrets, err := c.Secrets(ctx, vm.Name)
	if err != nil {
		return err
	}
	if p.Address, err = n.freeAddress(); err != nil {
		return err
	}
	if err := p.prepare(secrets); err != nil {
		return err
	}
	if err := c.SaveCopy(ctx, vm.Name, n.set.Name, p.copyRecord()); err != nil {
		return err
	}
	p.written = p.copyRecord()
	n.mu.Lock()
	n.procs[vm.Name] = p
	n.mu.Unlock()
	if err := p.run(n, vm.Spec, more); err != nil {
		n.mu.Lock()
		p.alive, p.ended, p.result = false, time.Now(), control.Result{End: control.EndFailed, Why: err.Error()}
		n.mu.Unlock()
		return err
	}
	return nil
}

// prepare makes the folders of a process; those of the one before go.
func (p *process) prepare(s etcd.Secrets) error {
	if err := p.forget(); err != nil {
		return err
	}
	tls := p.file("tls")
	if err := errors.Join(os.MkdirAll(tls, 0o700), os.MkdirAll(p.notes, 0o700)); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(tls, "ca.pem"), s.CA, 0o600),
		os.WriteFile(filepath.Join(tls, certs.Replica+".pem"), s.Cert, 0o600),
		os.WriteFile(filepath.Join(tls, certs.Replica+".key"), s.Key, 0o600),
		saveJSON(p.note(processFile), p))
}

// forget removes all of a process but its events in etcd.
func (p *process) forget() error { return errors.Join(os.RemoveAll(p.dir), os.RemoveAll(p.notes)) }

// run starts the process, in a session of its own: it outlives the daemon.
func (p *process) run(n *Node, spec etcd.Spec, more []string) error {
	log, err := os.Create(p.file("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.opt.Executable, append(p.arguments(n, spec), more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	group, err := n.limits.open(p.VM, spec.Memory)
	if err != nil {
		n.opt.Log.Warn("this copy's memory has no limit", "vm", p.VM, "err", err)
	}
	defer group.Close()
	cmd.SysProcAttr = n.account.attributes(group, spec)
	if err := errors.Join(n.account.give(p.dir), n.account.giveFile(n.consoleFile(p.VM))); err != nil {
		return fmt.Errorf("start the %s: %w", p.Role, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the %s: %w", p.Role, err)
	}
	p.PID = cmd.Process.Pid
	p.Start, _ = startTime(p.PID)
	p.client = control.NewClient(p.file("control.sock"))
	go func() { // the parent takes its exit status, or it stays a zombie
		cmd.Wait()
		n.kick()
	}()
	return saveJSON(p.note(processFile), p)
}

func (n *Node) consoleFile(vm string) string { return filepath.Join(n.opt.State, "console", vm+".log") }

// arguments are those of `tandem replica`.
func (p *process) arguments(n *Node, s etcd.Spec) []string {
	if s.Image != "" && !strings.ContainsRune(s.Image, '/') {
		s.Image = filepath.Join(n.opt.Images, s.Image)
	}
	args := []string{"replica", p.Role, "--name", p.VM, "--listen", p.Address, "--owner", p.Token,
		"--arbiter", "etcd:" + filepath.Join(n.opt.State, etcdFile), "--tls", p.file("tls"),
		"--control", p.file("control.sock"), "--events", p.file("events.jsonl"), "--result", p.file("result.json"),
		"--console", n.consoleFile(p.VM), "--confine", cmp.Or(n.opt.Confine, "auto"),
		"--cpus", strconv.Itoa(s.CPUs), "--memory", strconv.FormatInt(s.Memory, 10)}
	for _, f := range []struct{ name, value string }{
		{"image", s.Image}, {"kernel", s.Kernel}, {"initrd", s.Initrd}, {"append", s.Append}, {"firmware", s.Firmware},
		{"network", s.Network}, {"terminal", s.Terminal}, {"engine", s.Engine}, {"timeout", s.Timeout},
	} {
		if f.value != "" {
			args = append(args, "--"+f.name, f.value)
		}
	}
	if s.Target > 0 {
		args = append(args, "--memory-target", strconv.FormatInt(s.Target, 10))
	}
	for i, d := range s.Disks {
		if i < len(s.Sizes) {
			d += fmt.Sprintf(",size=%d", s.Sizes[i])
		}
		args = append(args, "--disk", d)
	}
	return args
}

// freeAddress finds a port of this host for a copy's channel and heartbeats.
func (n *Node) freeAddress() (string, error) {
	const ports = lastReplicaPort - firstReplicaPort + 1
	for i, at := 0, rand.IntN(ports); i < ports; i++ {
		addr := net.JoinHostPort(n.set.Address, strconv.Itoa(firstReplicaPort+(at+i)%ports))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr, nil
		}
	}
	return "", fmt.Errorf("no port of %s from %d to %d is free", n.set.Address, firstReplicaPort, lastReplicaPort)
}

// kill ends a process at once.
func (p *process) kill() error {
	if start, is := startTime(p.PID); !is || start != p.Start {
		return nil
	}
	return syscall.Kill(p.PID, syscall.SIGKILL)
}

// kindDiverged is replica.Diverged.
const kindDiverged = "diverged"

// told are the kinds of a replica's events that are worth keeping.
var told = map[string]bool{"state": true, "live": true, "restarted": true, "trouble": true, "exit": true, "operation": true, kindDiverged: true}

// maxEvents are the bytes of a replica's events that are read at a time.
const maxEvents = 1 << 20

// carryEvents takes what replicas wrote to etcd. The offset is written down after,
// and the same event entered twice is one.
func (n *Node) carryEvents(ctx context.Context, c *etcd.Client) {
	for _, p := range n.procs {
		f, err := host.OpenPlain(p.file("events.jsonl"))
		if err != nil {
			continue
		}
		f.Seek(p.offset, 0)
		in := bufio.NewReader(io.LimitReader(f, maxEvents))
		before := p.offset
		for range 50 { // the rest next time
			line, err := in.ReadBytes('\n')
			if err != nil {
				break
			}
			var r control.Record
			if json.Unmarshal(line, &r) == nil && told[r.Kind] {
				text := r.Text
				if r.Kind == "state" {
					text = fmt.Sprintf("%s → %s: %s", r.From, r.To, r.Text)
				}
				if r.Kind == "live" {
					text = fmt.Sprintf("the copy on %s is the VM now, from step %d", n.set.Name, r.Step)
				}
				if c.AddEvent(ctx, p.VM, etcd.Event{Time: r.Time.UTC(), Node: n.set.Name, Kind: r.Kind, Text: text, Epoch: r.Epoch}) != nil {
					break
				}
			}
			if r.Kind == kindDiverged {
				n.mu.Lock()
				n.mismatches[p.VM]++
				n.mu.Unlock()
			}
			p.offset += int64(len(line))
		}
		f.Close()
		if p.offset != before {
			os.WriteFile(p.note(offsetFile), strconv.AppendInt(nil, p.offset, 10), 0o600)
		}
	}
}
