// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"tandem/host/control"
	"tandem/image"
	"tandem/node"
	"tandem/support"
)

// bundler gathers a support bundle.
type bundler struct {
	doctor   doctor
	etc      string // folder of configuration
	services bool   // their journal
	*support.Bundle
}

// bundleParts in the order in which they are gathered: what matters most is first, should
// the bundle become full.
var bundleParts = []func(*bundler, context.Context){
	(*bundler).about, (*bundler).host, (*bundler).cluster, (*bundler).config, (*bundler).replicas, (*bundler).folders, (*bundler).journal,
}

func bundleCommand() *cobra.Command {
	g := bundler{}
	var o output
	var file string
	c := &cobra.Command{
		Use:   "support-bundle",
		Short: "Pack what an engineer needs to see of this host into one archive",
		Long: "Writes a .tar.gz with version, doctor's findings, facts of the host, what the daemon answers (hosts,\n" +
			"VMs, events, samples, metrics), configuration, and the events and diagnostics of the copies of VMs on\n" +
			"this host. It works without a daemon too; what could not be had is told, and named in index.json.\n\n" +
			"No keys, certificates, tokens, passwords, user data, consoles, memory or disks are in it: what looks\n" +
			"like a secret is replaced by a number that is equal for equal secrets of one bundle. Names, addresses\n" +
			"and paths are in it, so look into it before it leaves your hands.",
		Example: "  tandem support-bundle\n  tandem support-bundle -o /tmp/web-trouble.tar.gz\n  ssh root@b tandem support-bundle -o - > b.tar.gz",
		Args:    args(0, 0, "no arguments"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			g.doctor.now, g.doctor.offline = time.Now(), true
			return g.run(c, file, o)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "output", "o", "", "file to make, - for standard output; default: tandem-support-HOST-TIME.tar.gz here")
	f.StringVar(&g.doctor.state, "state", stateFolder, "state folder of the daemon")
	f.StringVar(&g.doctor.run, "run", defaultRun(), "run folder of the daemon; default from TANDEM_RUN")
	f.IntVar(&g.doctor.port, "port", node.DefaultPort, "first of the daemon's three TCP ports")
	f.StringVar(&g.etc, "etc", "/etc/tandem", "folder of configuration")
	f.BoolVar(&g.services, "journal", true, "the end of what tandem's services wrote to the system's journal")
	o.add(c)
	return c
}

// bundled is what is told of a bundle that was made.
type bundled struct {
	File    string            `json:"file"`
	Bytes   int64             `json:"bytes"`
	Files   int               `json:"files"`
	Missing []support.Missing `json:"missing"`
}

func (g *bundler) run(c *cobra.Command, file string, o output) error {
	name, _ := os.Hostname()
	folder := fmt.Sprintf("tandem-support-%s-%s", orElse(name, "host"), g.doctor.now.UTC().Format("20060102T150405Z"))
	tell, out := c.OutOrStdout(), os.Stdout
	if file == "-" {
		if tell = c.ErrOrStderr(); term.IsTerminal(int(out.Fd())) {
			return usageError{errors.New("-o -: an archive is not for a terminal: send it to a file or a pipe")}
		}
	} else {
		file = orElse(file, folder+".tar.gz")
		var err error
		if out, err = os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return fmt.Errorf("-o %s: %w; name a new file in a folder that can be written", file, why(err))
		}
	}
	told, err := g.gather(c.Context(), out, folder)
	if file != "-" {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(file)
		}
	}
	switch {
	case c.Context().Err() != nil:
		return errors.New("interrupted: no bundle was made")
	case err != nil:
		return fmt.Errorf("-o %s: %w; name a file on a disk with room", file, why(err))
	}
	told.File = file
	return o.print(tell, told, func(w io.Writer) {
		for _, m := range told.Missing {
			fmt.Fprintf(w, "not had: %s: %s\n", m.Name, m.Why)
		}
		fmt.Fprintf(w, "%s: %d files, %s; look into it before you send it: it names hosts, addresses and VMs\n", told.File, told.Files, image.Bytes(told.Bytes))
	})
}

// counter counts what is written.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n += int64(n)
	return n, err
}

func (g *bundler) gather(ctx context.Context, out io.Writer, folder string) (bundled, error) {
	to := &counter{Writer: out}
	g.Bundle = support.New(to, folder, g.doctor.now)
	for _, part := range bundleParts {
		part(g, ctx)
	}
	index, err := g.Close()
	return bundled{Bytes: to.n, Files: len(index.Files), Missing: index.Missing}, errors.Join(err, ctx.Err())
}

// about says what program this is, and what doctor finds.
func (g *bundler) about(ctx context.Context) {
	g.AddJSON("version.json", readBuild())
	list := g.doctor.examine(ctx)
	g.AddJSON("doctor.json", list)
}

// hostFiles are the system's own, of which none holds a secret.
var hostFiles = []string{
	"/etc/os-release", "/proc/version", "/proc/cpuinfo", "/proc/meminfo", "/proc/loadavg", "/proc/uptime", "/proc/self/limits", "/proc/self/cgroup",
	"/proc/self/mountinfo", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io", "/proc/net/dev", "/proc/vmstat",
	"/proc/sys/vm/memfd_noexec", "/proc/sys/vm/nr_hugepages", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/max_map_count",
	"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
}

func (g *bundler) host(context.Context) {
	for _, path := range hostFiles {
		name := "host" + path
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			g.Lack(name, why(err))
			continue
		}
		g.AddFile(name, real)
	}
	g.Add("host/interfaces", interfaces())
	var b bytes.Buffer
	for _, dir := range []string{g.doctor.state, g.doctor.run, os.TempDir()} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			fmt.Fprintf(&b, "%s: %v\n", dir, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %s of %s free, %d of %d inodes\n", dir, image.Bytes(int64(st.Bavail)*st.Bsize), image.Bytes(int64(st.Blocks)*st.Bsize), st.Ffree, st.Files)
	}
	g.Add("host/space", b.Bytes())
}

func interfaces() []byte {
	var b bytes.Buffer
	list, err := net.Interfaces()
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, i := range list {
		addrs, _ := i.Addrs() // of one that is gone: none
		fmt.Fprintf(&b, "%s mtu %d %v %v %v\n", i.Name, i.MTU, i.HardwareAddr, i.Flags, addrs)
	}
	return b.Bytes()
}

// bundlePatience is how long the daemon may take for an answer.
const bundlePatience = 10 * time.Second

// ask adds an answer of the daemon's.
func (g *bundler) ask(ctx context.Context, name, path string) (text []byte, ok bool) {
	ctx, stop := context.WithTimeout(ctx, bundlePatience)
	defer stop()
	text, err := node.NewClient(g.doctor.run).Raw(ctx, path)
	if err != nil {
		g.Lack(name, err)
		return nil, false
	}
	var neat bytes.Buffer
	if json.Indent(&neat, text, "", "  ") == nil {
		text = neat.Bytes()
	}
	g.Add(name, text)
	return text, true
}

// cluster adds what the daemon knows of its cluster.
func (g *bundler) cluster(ctx context.Context) {
	if _, ok := g.ask(ctx, "api/info.json", "/info"); !ok {
		return
	}
	g.ask(ctx, "api/metrics.txt", "/metrics")
	g.ask(ctx, "api/nodes.json", "/nodes")
	text, ok := g.ask(ctx, "api/vms.json", "/vms")
	if !ok {
		return
	}
	var vms []struct{ Name string }
	if err := json.Unmarshal(text, &vms); err != nil {
		g.Lack("api/vms", err)
	}
	for _, v := range vms {
		dir := "api/vms/" + filepath.Base(v.Name) + "/"
		g.ask(ctx, dir+"events.json", "/vms/"+url.PathEscape(v.Name)+"/events")
		g.ask(ctx, dir+"samples.json", "/vms/"+url.PathEscape(v.Name)+"/samples")
	}
}

// config adds the daemon's settings, and those of services.
func (g *bundler) config(context.Context) {
	for _, name := range []string{"node.json", "arbiter/etcd.json"} {
		if path := filepath.Join(g.doctor.state, name); there(path) {
			g.AddFile("config/"+name, path)
		}
	}
	list, _ := filepath.Glob(filepath.Join(g.etc, "*"))
	for _, path := range list {
		if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && settings(filepath.Base(path)) {
			g.AddFile("config/etc/"+filepath.Base(path), path)
		}
	}
	if path := filepath.Join(g.doctor.state, "etcd.log"); there(path) {
		g.AddFile("log/etcd.log", path)
	}
}

// settings reports a file of configuration by its name: keys and certificates are none.
func settings(name string) bool {
	switch filepath.Ext(name) {
	case "", ".conf", ".yaml", ".yml", ".json", ".env":
		return true
	}
	return false
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// replicas adds what the copies on this host left behind. A copy may write its folder: of
// what is in there, files of these names are read, and no links.
func (g *bundler) replicas(context.Context) {
	dirs, _ := filepath.Glob(filepath.Join(g.doctor.run, "vms", "*"))
	for _, dir := range dirs {
		vm := filepath.Base(dir)
		to := "replicas/" + vm + "/"
		for _, name := range []string{"events.jsonl", "log", "result.json"} {
			if path := filepath.Join(dir, name); there(path) {
				g.AddFile(to+name, path)
			}
		}
		if path := filepath.Join(dir, "control.sock"); there(path) {
			if st, err := control.NewClient(path).Status(); err != nil {
				g.Lack(to+"status.json", err)
			} else {
				g.AddJSON(to+"status.json", st)
			}
		}
		g.process(to, vm)
	}
}

// process adds what the kernel knows of a copy's process.
func (g *bundler) process(to, vm string) {
	path := filepath.Join(g.doctor.run, "notes", vm, "process.json")
	if !there(path) {
		return
	}
	g.AddFile(to+"process.json", path)
	var p struct{ PID int }
	if b, err := os.ReadFile(path); err != nil || json.Unmarshal(b, &p) != nil || p.PID <= 0 {
		return
	}
	for _, name := range []string{"status", "limits", "cgroup"} {
		if path := fmt.Sprintf("/proc/%d/%s", p.PID, name); there(path) {
			g.AddFile(to+"proc/"+name, path)
		}
	}
}

// maxListed bounds the files whose names are told.
const maxListed = 5000

// folders lists the daemon's folders: names, owners and sizes only.
func (g *bundler) folders(context.Context) {
	var b bytes.Buffer
	n := 0
	for _, dir := range []string{g.doctor.state, g.doctor.run} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if n++; n > maxListed {
				return fs.SkipAll
			}
			if err != nil {
				fmt.Fprintf(&b, "%s: %v\n", path, why(err))
				return nil
			}
			if st, err := d.Info(); err == nil {
				uid, gid := -1, -1
				if s, ok := st.Sys().(*syscall.Stat_t); ok {
					uid, gid = int(s.Uid), int(s.Gid)
				}
				fmt.Fprintf(&b, "%v %d:%d %12d %s %s\n", st.Mode(), uid, gid, st.Size(), st.ModTime().UTC().Format(time.RFC3339), path)
			}
			return nil
		})
	}
	g.Add("files.txt", b.Bytes())
}

// units whose diagnostics are in the journal.
var units = []string{"tandem-node", "tandem-store", "tandem-switch", "tandem-witness"}

const (
	journalLines = "5000"
	journalTime  = 20 * time.Second
)

func (g *bundler) journal(ctx context.Context) {
	if !g.services {
		return
	}
	ctx, stop := context.WithTimeout(ctx, journalTime)
	defer stop()
	for _, u := range units {
		name := "log/" + u + ".journal"
		text, err := exec.CommandContext(ctx, "journalctl", "--no-pager", "--quiet", "--output=short-iso-precise", "--lines="+journalLines, "--unit="+u).Output()
		switch exit := (*exec.ExitError)(nil); {
		case errors.Is(err, exec.ErrNotFound):
			g.Lack("log/journal", errors.New("this host has no journalctl"))
			return
		case errors.As(err, &exit):
			g.Lack(name, fmt.Errorf("journalctl: %s", strings.TrimSpace(string(exit.Stderr))))
		case err != nil:
			g.Lack(name, err)
		case len(text) > 0:
			g.Add(name, text)
		}
	}
}
