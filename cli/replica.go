// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tandem/ft"
	"tandem/host"
	"tandem/host/certs"
	"tandem/host/claim"
	"tandem/host/confine"
	"tandem/host/control"
	"tandem/host/etcd"
	"tandem/host/link"
	"tandem/host/ram"
	"tandem/host/site"
	"tandem/host/term"
	"tandem/image"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/replica"
	"tandem/world"
)

// replicaFlags describe one copy of a protected VM.
type replicaFlags struct {
	vm       vmFlags
	image    string
	diskSize string
	tls      string
	arbiter  string
	listen   string // own address
	dial     string // of the primary
	timeout  time.Duration
	diverged string
	rate     string // of clones
	console  string
	events   string
	control  string
	owner    string // token; made here if empty
	epoch    uint64 // that a primary claims; 0: the next one
	result   string
	force    bool
	errors   string // of disks
	confine  confineFlag
}

func replicaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:    "replica",
		Short:  "Run one copy of a protected VM",
		Hidden: true, // what tandem demo starts: one process for each copy
	}
	group(c)
	primary, f := replicaRole("primary", []string{"tls", "arbiter", "listen"}, runPrimary)
	primary.Flags().StringVar(&f.listen, "listen", "", "HOST:PORT of this copy, where a backup may dial at any time")
	primary.Flags().BoolVar(&f.force, "force", false, "boot from replicated disks that are stale, or not this VM's: what the newest disk has more is lost")
	backup, f := replicaRole("backup", []string{"tls", "arbiter", "dial"}, runBackup)
	backup.Flags().StringVar(&f.dial, "dial", "", "HOST:PORT of the primary")
	backup.Flags().StringVar(&f.listen, "listen", "", "HOST:PORT of this copy, where the next backup may dial once this one has gone live")
	c.AddCommand(primary, backup, ctlCommand())
	return c
}

func replicaRole(role string, needs []string, run func(context.Context, *replicaFlags) error) (*cobra.Command, *replicaFlags) {
	f := &replicaFlags{}
	c := &cobra.Command{
		Use: role, Short: "Run the " + role + " of a VM", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			for _, name := range needs {
				if !c.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s is missing; see %s --help", name, c.CommandPath())}
				}
			}
			if err := errors.Join(f.tune(&replica.Config{}), f.confine.check()); err != nil {
				return err // before anything is opened
			}
			return f.end(run(c.Context(), f))
		},
	}
	fs := c.Flags()
	f.vm.add(fs)
	fs.Lookup("disk").Usage = "nbd://HOST:PORT/EXPORT of a tandem store, nbds:// with TLS; ',reads=backup' has the backup read it itself, in place of the log; or FILE,mode=replicated, a disk of each copy's own, 'flush=both' has flushes wait for both; may be repeated"
	fs.StringVar(&f.image, "image", "", "image to boot; its disk is given by --disk")
	fs.StringVar(&f.diskSize, "disk-size", "", "size of the disk, if the server may not be asked")
	fs.StringVar(&f.tls, "tls", "", "folder with ca.pem, replica.pem and replica.key")
	fs.StringVar(&f.arbiter, "arbiter", "", "folder on shared storage for the claims, or etcd:FILE, a file that tandem node keeps")
	fs.DurationVar(&f.timeout, "timeout", 300*time.Millisecond, "detection timeout")
	fs.StringVar(&f.diverged, "on-divergence", "restart", "if this copy differs from the log of a primary that is lost: restart the VM from its disk, or continue")
	fs.StringVar(&f.errors, "disk-error", "report", "if a disk fails or is full: report it to the guest, or stop the VM until 'ctl resume'")
	fs.StringVar(&f.rate, "clone-rate", "", "bytes a second, with K, M or G, that a clone of this copy for a new backup may send; default: what the network takes")
	fs.StringVar(&f.console, "console", "", "file that the console is appended to")
	fs.StringVar(&f.events, "events", "", "file that events are appended to, one JSON object a line")
	fs.StringVar(&f.control, "control", "", "path of the control socket")
	fs.StringVar(&f.owner, "owner", "", "token of this process for its claims, never used before; default: a random one")
	fs.Uint64Var(&f.epoch, "epoch", 0, "epoch that a primary claims, or ends; default: the next one, whichever it is")
	f.confine.add(fs)
	fs.StringVar(&f.result, "result", "", "file that says at the end how this copy ended")
	return c, f
}

// end writes how a copy ended, for a daemon that may not be its parent.
func (f *replicaFlags) end(err error) error {
	if f.result == "" {
		return err
	}
	r := control.Result{End: control.EndOff}
	var guest exitError
	switch {
	case err == nil:
	case errors.As(err, &guest):
		r.Why = "the guest left " + err.Error()
	case errors.Is(err, replica.ErrHalted):
		r = control.Result{End: control.EndHalted, Why: err.Error()}
	default:
		r = control.Result{End: control.EndFailed, Why: err.Error()}
	}
	return errors.Join(err, r.Save(f.result))
}

// arbiter decides who holds the VM.
type arbiter interface {
	world.Arbiter
	// ID tells arbiters of a kind apart.
	ID() string
	// Needs are what a claim opens.
	Needs() confine.Needs
}

// openArbiter opens a folder, or what etcd:FILE describes; kind is part of its name
// to the peer.
func (f *replicaFlags) openArbiter() (a arbiter, kind string, err error) {
	if path, ok := strings.CutPrefix(f.arbiter, "etcd:"); ok {
		a, err = etcd.OpenArbiter(path, f.vm.name)
		return a, "etcd", err
	}
	a, err = claim.Open(f.arbiter, f.vm.name)
	return a, "folder", err
}

// copyOfVM is what both roles need to run.
type copyOfVM struct {
	clock   *host.Clock
	wake    func()
	woken   <-chan struct{}
	site    *site.Site
	arbiter arbiter
	owner   string
	cfg     replica.Config
	world   replica.World
	control *control.Server
	engine  *engine
	tls     link.Config
	closers []io.Closer
	memory  *ram.RAM // the guest's, once it is there
}

func (c *copyOfVM) close() {
	for _, x := range c.closers {
		x.Close()
	}
	if err := c.engine.close(os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "tandem: %v\n", err)
	}
}

func (f *replicaFlags) open(vm vm) (c *copyOfVM, err error) {
	// A terminal's interrupt goes to all processes; a replica ends by its
	// control socket, or with its VM.
	signal.Ignore(os.Interrupt)
	host.LeanHeap()
	if err := host.Prioritize(); err != nil {
		diagnostics().Info("no higher priority for this replica: other work of the host may delay its heartbeats", "err", err)
	}
	c = &copyOfVM{clock: host.NewClock(), cfg: replica.DefaultConfig()}
	c.wake, c.woken = host.Wake()
	if c.owner = f.owner; c.owner == "" {
		token := make([]byte, 16)
		rand.Read(token)
		name, _ := os.Hostname()
		c.owner = hex.EncodeToString(token) + "@" + strings.Map(printable, name[:min(len(name), 64)])
	}
	var kind string
	if c.arbiter, kind, err = f.openArbiter(); err != nil {
		return nil, err
	}
	if c.tls, err = loadTLS(f.tls); err != nil {
		return nil, err
	}
	c.tls.Log = diagnostics()
	c.site = site.New(site.Config{VM: f.vm.name, Owner: c.owner, Arbiter: c.arbiter, Slots: vm.slots, Wake: c.wake})
	console := io.Discard
	if f.console != "" {
		file, err := os.OpenFile(f.console, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		behind := host.NewBehind(file)
		console, c.closers = behind, append(c.closers, behind, file)
	}
	events, err := control.OpenLog(f.events)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, events)
	c.cfg.FT = c.cfg.FT.WithTimeout(ft.Time(f.timeout))
	if err := f.tune(&c.cfg); err != nil {
		return nil, err
	}
	id := sha256.Sum256([]byte(f.vm.name))
	c.cfg.FT.VM = ft.VM(id[:16])
	c.cfg.FT.Machine = machine.Version
	c.cfg.FT.Arbiter = kind + " " + c.arbiter.ID()
	c.cfg.Console = vm.console
	for i, s := range vm.slots {
		if s.Reads {
			c.cfg.Reads = c.cfg.Reads.With(event.DeviceID(i))
		}
	}
	c.cfg.Report = func(e replica.Event) {
		events.Report(e)
		if e.Kind == replica.CloneSent || e.To == ft.Replaying {
			go c.engine.returnMemory() // the parts of the clone
		}
	}
	hub := term.NewHub(console, c.wake)
	c.world = replica.World{Clock: c.clock, Entropy: host.Entropy{}, Site: c.site,
		Terminal: hub, RAM: c.newRAM}
	if c.engine, err = f.vm.engine.open(); err != nil {
		return nil, err
	}
	c.world.Engine = func(m *machine.Machine) error { return c.engine.use(m, c.memory) }
	if f.control != "" {
		if c.control, err = control.Listen(f.control, c.wake, hub.Join); err != nil {
			return nil, err
		}
		c.closers = append(c.closers, c.control)
	}
	return c, c.cfg.FT.Validate()
}

// printable keeps what an owner's name may have.
func printable(r rune) rune {
	if r > ' ' && r < 0x7f {
		return r
	}
	return -1
}

// tune takes what flags say about how the copy runs.
func (f *replicaFlags) tune(cfg *replica.Config) error {
	switch f.diverged {
	case "restart":
		cfg.FT.OnDivergence = ft.RestartOnDivergence
	case "continue":
		cfg.FT.OnDivergence = ft.ContinueOnDivergence
	default:
		return usageError{fmt.Errorf("--on-divergence %s: choose restart or continue", f.diverged)}
	}
	switch f.errors {
	case "report", "stop":
		cfg.StopOnDiskError = f.errors == "stop"
	default:
		return usageError{fmt.Errorf("--disk-error %s: choose report or stop", f.errors)}
	}
	if f.rate != "" {
		n, err := sizeOf("clone-rate", f.rate)
		if err != nil {
			return err
		}
		cfg.CloneRate = int(min(n, 1<<40))
	}
	return nil
}

// newRAM maps the guest's memory, for the life of the process.
func (c *copyOfVM) newRAM(size uint64) (b []byte, err error) {
	if c.memory, err = ram.New(size); err != nil {
		return nil, err
	}
	return c.memory.Bytes(), nil
}

// loadTLS reads the replica's certificate from a folder that certs has made.
func loadTLS(dir string) (cfg link.Config, err error) {
	cfg.Certificate, cfg.Peers, err = certs.Load(dir, certs.Replica)
	return cfg, err
}

// confine leaves the process what the copy may yet need: to claim, to fence and to open
// devices at a failover, and to say how it ended.
func (c *copyOfVM) confine(f *replicaFlags) error {
	n := confine.Needs{Perf: f.vm.engine.perf}
	n.Also(c.arbiter.Needs())
	n.Also(c.site.Needs())
	n.Address(f.dial)
	for _, path := range []string{f.control, f.result} {
		if path != "" {
			n.Write = append(n.Write, filepath.Dir(path))
		}
	}
	return f.confine.enter(n)
}

// run turns the replica until it ends.
func (c *copyOfVM) run(ctx context.Context, r *replica.Replica) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	err := host.Run(ctx, c.clock, c.woken, func() (world.Time, bool) {
		c.control.Serve(r)
		defer c.control.Settle(r)
		return r.Turn()
	})
	if err != nil {
		return err
	}
	if err := r.Err(); !errors.Is(err, replica.ErrEnded) {
		return err
	}
	return exitStatus(r.ExitCode())
}

func runPrimary(ctx context.Context, f *replicaFlags) error {
	vm, err := f.build()
	if err != nil {
		return err
	}
	c, err := f.open(vm)
	if err != nil {
		return err
	}
	defer c.close()
	epoch, err := c.claimNext(event.Epoch(f.epoch), f.force)
	if err != nil {
		return err
	}
	if epoch > 1 { // it boots again: see machine.Config
		vm.config.Console = machine.ConsoleStart(epoch)
	}
	devices, err := c.site.OpenNow(epoch)
	if err != nil {
		return err
	}
	defer site.Close(devices)
	memory, err := c.newRAM(vm.config.RAM)
	if err != nil {
		return err
	}
	m, err := machine.New(vm.config, memory)
	if err != nil {
		return err
	}
	if err := c.world.Engine(m); err != nil {
		return err
	}
	c.engine.returnMemory()
	l, err := link.Listen(f.listen, c.tls, c.wake)
	if err != nil {
		return err
	}
	defer l.Close()
	c.world.Channel = l
	r, err := replica.NewPrimary(c.cfg, c.world, m, epoch, devices)
	if err == nil {
		err = c.confine(f)
	}
	if err != nil {
		return err
	}
	return c.run(ctx, r)
}

// claimNext opens the VM's next epoch for this process: the one that it was planned
// for, if that was said.
func (c *copyOfVM) claimNext(epoch event.Epoch, force bool) (event.Epoch, error) {
	rec, err := c.arbiter.Read()
	if err != nil {
		return 0, err
	}
	if err := c.site.CheckDisks(rec); err != nil && !force {
		return 0, err
	} else if err != nil {
		diagnostics().Warn("going on all the same", "err", err)
	}
	if epoch == 0 {
		epoch = rec.Epoch + 1
	}
	won, cur, err := c.site.ClaimNow(epoch)
	if err != nil {
		return 0, err
	}
	if !won {
		return 0, fmt.Errorf("epoch %d of this VM belongs to another process (%s): stop that one first", cur.Epoch, cur.Owner)
	}
	return epoch, nil
}

func runBackup(ctx context.Context, f *replicaFlags) error {
	vm, err := f.build()
	if err != nil {
		return err
	}
	c, err := f.open(vm)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.site.Prepare(); err != nil {
		return err
	}
	defer c.site.Release()
	c.tls.Address = f.listen
	l, err := link.Dial(f.dial, c.tls, c.wake)
	if err != nil {
		return err
	}
	defer l.Close()
	c.world.Channel = l
	r, err := replica.NewBackup(c.cfg, c.world)
	if err == nil {
		err = c.confine(f)
	}
	if err != nil {
		return err
	}
	return c.run(ctx, r)
}

// build lays out the machine. The disk of an image is not used: a protected VM's
// is shared.
func (f *replicaFlags) build() (vm, error) {
	if f.diskSize != "" {
		n, err := sizeOf("disk-size", f.diskSize)
		if err != nil {
			return vm{}, err
		}
		f.vm.capacity = n
	}
	if f.image == "" {
		return f.vm.build(nil)
	}
	s, err := image.DefaultStore()
	if err != nil {
		return vm{}, err
	}
	img, err := s.OpenBoot(f.image)
	if err != nil {
		return vm{}, err
	}
	img.Seed = ""
	return f.vm.build(img)
}
