// SPDX-License-Identifier: Apache-2.0

// Package stage sets up protected VMs on this machine, for tests that kill them and for
// benchmarks: every box is a process of the tandem binary, and a caller talks to the
// guests through ports of the host.
//
//	caller ──TCP──► switch ──frames──► primary ══log══► backup
//	                  │                   └──── NBD ────┘
//	                  └ outlives all           store, arbiter folder
//
// A guest is built from Debian packages and prepared once, by a script that runs in it;
// what came of it is kept in the user's cache (Guest). Shell is a root's shell there.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/host/certs"
	"tandem/host/child"
	"tandem/host/control"
)

// Options describe a stage. All but Reads and Timeout are required.
type Options struct {
	Tandem  string // the binary
	Guest   *Guest
	Memory  string        // of each VM, as for --memory
	VMs     []string      // their names: at most 250
	Ports   []int         // of each guest that Addr knows, beside that of its Shell
	Reads   string        // log or backup, for --disk
	Timeout time.Duration // of detection; tandem's own if 0
}

// Stage is what runs. It is not for concurrent use.
type Stage struct {
	Options
	Dir   string // of all files of the stage
	procs []*child.Process
	addrs map[string]string // on the host, by VM and port
	made  int               // copies, for their names
}

// Copy is one copy of a VM. A VM's first copy is a primary.
type Copy struct {
	*child.Process
	VM     string
	stage  *Stage
	listen string // its own address
}

const sshPort = 22

// New starts a store, a switch and an arbiter for the VMs, each with a disk of its own.
func New(ctx context.Context, o Options) (s *Stage, err error) {
	dir, err := os.MkdirTemp("", "tandem-stage-")
	if err != nil {
		return nil, err
	}
	s = &Stage{Options: o, Dir: dir, addrs: map[string]string{}}
	s.Ports = append([]int{sshPort}, o.Ports...)
	if err := s.open(ctx); err != nil {
		err = fmt.Errorf("%w%s", err, s.Diagnostics())
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stage) open(ctx context.Context) error {
	store := []string{"store", "--listen", s.path("store.sock")}
	net := []string{"switch", "--listen", s.path("switch.sock")}
	for i, vm := range s.VMs {
		if err := s.makeVM(ctx, vm); err != nil {
			return err
		}
		store = append(store, "--export", vm+"="+s.path(vm+".raw"))
		ip := fmt.Sprintf("10.77.0.%d", i+2)
		net = append(net, "--lease", vm+"="+ip)
		free, err := child.FreeAddrs(len(s.Ports))
		if err != nil {
			return err
		}
		for k, port := range s.Ports {
			s.addrs[fmt.Sprint(vm, ":", port)] = free[k]
			net = append(net, "--forward", fmt.Sprintf("%s:%s:%d", free[k], ip, port))
		}
	}
	if _, err := s.start("store", store...); err != nil {
		return err
	}
	if _, err := s.start("switch", net...); err != nil {
		return err
	}
	for _, sock := range []string{"store.sock", "switch.sock"} {
		err := child.Until(ctx, 30*time.Second, sock, func() bool { _, err := os.Stat(s.path(sock)); return err == nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// makeVM makes what a VM needs: disk, certificates, a folder for its claims.
func (s *Stage) makeVM(ctx context.Context, vm string) error {
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", s.Guest.Image.Disk, s.path(vm+".raw")).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the disk: %w: %s", err, out)
	}
	ca, err := certs.NewCA(vm)
	if err != nil {
		return err
	}
	return errors.Join(ca.Save(s.path(vm+".tls")), ca.SavePair(s.path(vm+".tls"), certs.Replica), os.Mkdir(s.path(vm+".arbiter"), 0o700))
}

func (s *Stage) path(name string) string { return filepath.Join(s.Dir, name) }

// Addr is where a guest's port is on the host.
func (s *Stage) Addr(vm string, port int) string { return s.addrs[fmt.Sprint(vm, ":", port)] }

// Primary boots a VM.
func (s *Stage) Primary(vm string) (*Copy, error) { return s.copy(vm, "primary") }

// Backup starts a backup for a copy that goes on.
func (s *Stage) Backup(of *Copy) (*Copy, error) { return s.copy(of.VM, "backup", "--dial", of.listen) }

func (s *Stage) copy(vm, role string, more ...string) (*Copy, error) {
	ports, err := child.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	s.made++
	name := fmt.Sprintf("%s-%d", vm, s.made)
	disk := "nbd+unix:///" + vm + "?socket=" + s.path("store.sock")
	if s.Reads != "" {
		disk += ",reads=" + s.Reads
	}
	args := append([]string{"replica", role, "--name", vm, "--listen", ports[0], "--image", s.Guest.Image.Dir, "--memory", s.Memory,
		"--disk", disk, "--disk-size", fmt.Sprint(s.Guest.Image.Manifest.DiskSize), "--network", "switch:" + s.path("switch.sock"),
		"--tls", s.path(vm + ".tls"), "--arbiter", s.path(vm + ".arbiter"), "--console", s.path(name + ".console"),
		"--events", s.path(name + ".events"), "--control", s.path(name + ".sock")}, more...)
	if s.Timeout != 0 {
		args = append(args, "--timeout", s.Timeout.String())
	}
	p, err := s.start(name, args...)
	return &Copy{p, vm, s, ports[0]}, err
}

// Status asks a copy.
func (c *Copy) Status() (control.Status, error) {
	return control.NewClient(c.stage.path(c.Name + ".sock")).Status()
}

// Protected says whether the copy is a primary whose backup could go on.
func (c *Copy) Protected() bool {
	st, err := c.Status()
	return err == nil && st.Role == "primary" && st.State == "Protected"
}

// ChannelBytes is what the copy has sent to the peer that has dialled it, as its kernel
// counts it: TLS and all, without TCP's headers.
func (c *Copy) ChannelBytes() (uint64, error) {
	list, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("ask the kernel about its TCP connections: %w", err)
	}
	for _, s := range list {
		here := fmt.Sprint(s.InetDiagMsg.ID.Source, ":", s.InetDiagMsg.ID.SourcePort)
		if here == c.listen && s.InetDiagMsg.State == netlink.TCP_ESTABLISHED && s.TCPInfo != nil {
			return s.TCPInfo.Bytes_acked, nil
		}
	}
	return 0, fmt.Errorf("%s has no connection at %s", c.Name, c.listen)
}

// Events are what a copy has reported.
func (c *Copy) Events() []control.Record {
	return control.ReadRecords(c.stage.path(c.Name + ".events"))
}

func (s *Stage) start(name string, args ...string) (*child.Process, error) {
	p, err := child.Start(name, s.path(name+".log"), s.Tandem, args...)
	if err != nil {
		return nil, err
	}
	s.procs = append(s.procs, p)
	return p, nil
}

// Close ends all processes, replicas first, and removes the folder.
func (s *Stage) Close() {
	for i := len(s.procs) - 1; i >= 0; i-- {
		s.procs[i].Kill()
	}
	os.RemoveAll(s.Dir)
}

// Diagnostics is the end of what each process of the last copies wrote.
func (s *Stage) Diagnostics() string {
	const most, newest = 4000, 6
	var out strings.Builder
	for i, p := range s.procs {
		if i > 1 && i < len(s.procs)-newest { // the first two are store and switch
			continue
		}
		for _, suffix := range []string{".log", ".events", ".console"} {
			if b, err := os.ReadFile(s.path(p.Name + suffix)); err == nil && len(b) > 0 {
				fmt.Fprintf(&out, "\n--- %s%s\n%s", p.Name, suffix, b[max(0, len(b)-most):])
			}
		}
	}
	return out.String()
}

// Keep copies what the processes wrote to a folder; each name begins with what.
func (s *Stage) Keep(dir, what string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, kind := range []string{"log", "console", "events"} {
		list, _ := filepath.Glob(s.path("*." + kind))
		for _, path := range list {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, what+"-"+filepath.Base(path)), b, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
