// SPDX-License-Identifier: Apache-2.0

// Package node is the daemon on each host: it makes what operators want come true
// and restores redundancy by itself (paper §3.1, the clustering service).
//
//	etcd ── Snapshot ─► observe ─► cluster.Plan ─► actions that are ours ─► execute ─┐
//	  ▲                                                                              │
//	  └── Copy: what our processes do ◄── poll ◄── control sockets ◄── processes ◄───┘
//
// # Who does what
//
// There is no leader. Every node looks at the same records, plans the same, and
// executes those actions whose executor it is: the owner of the VM's epoch, or the
// host that starts it. What an executor writes (State) is entered only if neither
// that record nor the claim changed since it looked, so an action planned from an
// old look comes to nothing.
//
//   - StartPrimary, ColdRestart: the State names the epoch to claim, then a process
//     `tandem replica primary` is started, which claims exactly that one, or ends.
//   - CloneBackup: the owner writes an order (etcd.Backup) with the token of the
//     process to be. The other node obeys: it starts `tandem replica backup`, which
//     dials the primary. An order is obeyed once.
//   - StopBackup: the order is withdrawn and the primary told to detach; the node that
//     obeyed ends what is left.
//   - MigrateBackup: the backup is stopped; the next plan clones a new one elsewhere.
//   - SwapRoles, and the second step of MigratePrimary: the primary is told to hand over.
//
// Which copy goes on after a failure is never decided here: the copies do, by the
// arbiter. A node sees the outcome in the claim, reports what it sees of its own
// processes, and ends those that a newer epoch has made meaningless.
//
// # Processes outlive the daemon
//
// A replica runs in a session of its own and is known by two folders:
//
//	RUN/notes/VM/process.json  what was started
//	RUN/vms/VM/control.sock    its control socket
//	RUN/vms/VM/events.jsonl    what happened in it; the daemon carries it to etcd
//	RUN/vms/VM/result.json     its last word
//
// So a daemon that starts adopts what it finds. What was reported as alive and isn't
// found has ended: RUN does not outlive the host's boot.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"tandem/api"
	"tandem/cluster"
	"tandem/host/etcd"
)

// Options say how a node runs.
type Options struct {
	State      string // folder that outlives the boot
	Run        string // folder that does not
	Executable string // the tandem binary, for replicas
	Images     string // folder of the images that VMs name without a slash
	Witness    bool   // an etcd member only
	Metrics    string // HOST:PORT for Prometheus; empty: none
	API        string // HOST:PORT of the API and the dashboard, with TLS; empty: the socket only
	APICert    string // files of a certificate for that; empty: the host's, of the cluster's CA
	APIKey     string
	Memory     int64  // bytes offered to VMs
	User       string // that replicas run as, if the daemon is root's; empty: its own
	NeedUser   bool   // the user must exist
	Confine    string // of replicas: auto, on or off
	Version    uint32 // of package machine
	Log        *slog.Logger
}

// notesDir is where the daemon keeps what it knows of processes, in RUN.
const notesDir = "notes"

const (
	tick      = 250 * time.Millisecond
	loadEvery = 2 * time.Second // without a change
	beatEvery = time.Second
)

// Node is a running daemon.
type Node struct {
	opt  Options
	boot string
	wake chan struct{}
	hub  *api.Hub

	mu       sync.Mutex
	set      *settings // nil: of no cluster yet
	server   *etcd.Server
	client   *etcd.Client
	snap     *etcd.Snapshot // newest
	trouble  error          // why etcd is not followed
	becoming bool           // a member is being made of this host
	votes    votes
	members  []etcd.Member // of the embedded etcd
	procs    map[string]*process
	// mismatches counts, by VM, copies here that were found to differ from the log.
	mismatches map[string]int
	series     map[string]*series // of copies here, by VM

	limits  limits
	account *account

	// Of the loop.
	seen       map[string]hostSeen
	beat       *etcd.Heartbeat
	beaten     time.Time
	loaded     time.Time
	changed    bool
	remembered time.Time
	doing      map[string]doing
	answers    chan answered
	said       map[string]string // last trouble told of each VM
	told       map[string]string // last told on the stream, by what it is of
	stopFunc   context.CancelFunc
	wg         sync.WaitGroup
}

// doing is an action under way that no copy shows.
type doing struct {
	kind  cluster.Kind
	until time.Time
}

// New returns a Node and makes its folders.
func New(opt Options) (*Node, error) {
	for _, dir := range []string{opt.State, filepath.Join(opt.State, "console"), filepath.Join(opt.State, arbiterDir), filepath.Join(opt.State, guardDir),
		opt.Run, filepath.Join(opt.Run, "vms"), filepath.Join(opt.Run, notesDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the node's folders: %w; run as root, or choose others with --state and --run", err)
		}
	}
	return &Node{opt: opt, wake: make(chan struct{}, 1), procs: map[string]*process{}, mismatches: map[string]int{}, seen: map[string]hostSeen{},
		series: map[string]*series{}, told: map[string]string{}, hub: api.NewHub(keptMessages),
		doing: map[string]doing{}, answers: make(chan answered, 1000), said: map[string]string{}, boot: bootID() + "." + fmt.Sprint(time.Now().UnixNano())}, nil
}

// Run serves until ctx ends. VMs run on after it.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer n.wg.Wait()
	defer cancel()
	release, err := n.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	if n.set, err = loadSettings(n.opt.State); err != nil {
		return err
	}
	if !n.opt.Witness {
		if n.account, err = findAccount(n.opt.User, n.opt.NeedUser); err != nil {
			return err
		}
		if err := n.account.folders(n.opt.State, n.opt.Run); err != nil {
			return err
		}
		if n.account == nil && os.Geteuid() == 0 {
			n.opt.Log.Info("replicas run as root, as far as they are not confined: make a user for them, with useradd --system " + DefaultUser)
		}
		if n.limits, err = findLimits("/proc/self/cgroup", cgroupMount); err != nil {
			n.opt.Log.Info("the memory of replicas has no limit", "err", err)
		}
		n.adopt()
	}
	endAPI, err := n.serveAPI(ctx)
	if err != nil {
		return err
	}
	defer endAPI()
	n.wg.Go(func() { n.feed(ctx) })
	metrics, err := n.serveMetrics(ctx)
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	daemon.SdNotify(false, daemon.SdNotifyReady)
	defer daemon.SdNotify(false, daemon.SdNotifyStopping)
	n.mu.Lock()
	set := n.set
	n.mu.Unlock()
	defer n.leave()
	entered := make(chan error, 1)
	if set != nil { // a member waits for the others, and the daemon answers meanwhile
		n.wg.Go(func() { entered <- n.enter(ctx, set) })
	} else {
		n.opt.Log.Info("this host is in no cluster yet: run tandem cluster init or tandem cluster join")
	}
	return n.loop(ctx, entered)
}

func (n *Node) loop(ctx context.Context, entered chan error) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-entered:
			if err != nil {
				return err
			}
		case <-t.C:
		case <-n.wake:
		}
		daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		n.mu.Lock()
		server, client, becoming := n.server, n.client, n.becoming
		n.mu.Unlock()
		if server != nil {
			select {
			case err := <-server.Err():
				return fmt.Errorf("the embedded etcd failed: %w", err)
			case <-server.Stopped(): // the others have taken it out
				n.opt.Log.Warn("the member of etcd has stopped: it is started anew")
				n.leave()
				n.wg.Go(func() { entered <- n.enter(ctx, n.set) })
				continue
			default:
			}
		}
		if client != nil && !becoming {
			n.turn(ctx, client)
		}
	}
}

// enter takes part in the cluster of the settings: the etcd member starts, and the
// connection is made.
func (n *Node) enter(ctx context.Context, set *settings) error {
	var server *etcd.Server
	anew := false // our member was taken out meanwhile
	if set.Embedded && !set.NoMember {
		var err error
		if anew, err = n.readmit(ctx, set); err != nil {
			return err
		}
		err = freed(ctx, set.at(0), set.at(1))
		if err != nil {
			return err
		}
		if server, err = etcd.Serve(ctx, set.server(n.opt.State)); err != nil {
			return err
		}
	}
	cfg := set.etcd(n.opt.State)
	client, err := etcd.Dial(cfg)
	if err == nil {
		err = set.share(n.opt.State)
	}
	if err != nil {
		if server != nil {
			server.Close()
		}
		return err
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.wg.Go(func() { client.Watch(watch, n.kick) })
	n.wg.Go(func() { client.WatchEvents(watch, n.publishEvent) })
	n.wg.Go(func() { n.hearVotes(watch, client, set.Embedded) })
	n.mu.Lock()
	n.set, n.server, n.client, n.stopFunc = set, server, client, stop
	n.beat = client.Heartbeat(set.Name)
	n.beaten, n.loaded = time.Time{}, time.Time{}
	if !set.Witness {
		n.serveJoins(watch)
	}
	n.mu.Unlock()
	if anew { // its number is another one
		return n.register(ctx)
	}
	return nil
}

// leave ends what enter began.
func (n *Node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.client == nil {
		return
	}
	n.stopFunc()
	n.client.Close()
	if n.server != nil {
		n.server.Close()
	}
	n.client, n.server, n.beat = nil, nil, nil
	n.votes, n.members = votes{}, nil
}

// kick makes the loop turn and look at etcd.
func (n *Node) kick() {
	n.mu.Lock()
	n.changed = true
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// turn looks at everything once and does what there is to do.
func (n *Node) turn(ctx context.Context, c *etcd.Client) {
	now := time.Now()
	moved := n.poll()
	n.sample(now)
	n.settleDisks(ctx)
	if !n.set.Witness && now.Sub(n.beaten) >= beatEvery {
		if err := n.beat.Beat(ctx, n.alive()); err != nil {
			n.lost(err)
			return
		}
		n.beaten = now
	}
	n.mu.Lock()
	changed := n.changed
	n.changed = false
	n.mu.Unlock()
	if !changed && !moved && now.Sub(n.loaded) < loadEvery {
		return
	}
	s, err := c.Load(ctx)
	if err != nil {
		n.lost(err)
		return
	}
	n.loaded = now
	n.remember(c, now)
	if n.set.Witness {
		n.follow(s)
		n.publish(s, now)
		return
	}
	n.hear(ctx, c)
	n.report(ctx, c, s)
	n.settle(ctx, c, s)
	n.seeHosts(s, now)
	d, o, err := n.plan(s, now, n.doing)
	if err != nil {
		n.lost(err)
		return
	}
	n.follow(s)
	n.publish(s, now)
	for _, a := range d.Actions {
		if a.By == n.set.Name {
			n.execute(ctx, c, s, a)
		}
	}
	n.obey(ctx, c, s)
	n.endMoves(ctx, c, s, d, o)
	n.carryEvents(ctx, c)
}

// follow makes a look the newest one.
func (n *Node) follow(s *etcd.Snapshot) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.trouble != nil {
		n.opt.Log.Info("etcd answers again")
	}
	n.snap, n.trouble = s, nil
}

// lost says that etcd is not followed now. VMs run on.
func (n *Node) lost(err error) {
	defer n.publishInfo()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.trouble == nil || errors.Is(err, etcd.ErrForgot) != errors.Is(n.trouble, etcd.ErrForgot) {
		n.opt.Log.Warn("the cluster can't be followed: VMs run on, and protected ones stay so, but nothing is started, moved or protected anew", "err", err)
	}
	n.trouble = err
}

// remember writes down how far etcd has come, and where it is.
func (n *Node) remember(c *etcd.Client, now time.Time) {
	if now.Sub(n.remembered) < beatEvery {
		return
	}
	n.remembered = now
	if s := n.snap; s != nil {
		if err := c.Remember(s.Revision); err != nil {
			n.opt.Log.Warn("the newest revision of etcd can't be written down", "err", err)
		}
	}
	n.mu.Lock()
	var urls []string
	for _, m := range voters(n.members) {
		urls = append(urls, m.Client)
	}
	n.mu.Unlock()
	if len(urls) > 0 && n.set.learn(urls) {
		cfg := n.set.etcd(n.opt.State)
		c.SetEndpoints(cfg.Endpoints)
		err := errors.Join(n.set.save(n.opt.State), n.set.share(n.opt.State))
		if err != nil {
			n.opt.Log.Warn("the addresses of etcd can't be written down", "err", err)
		}
	}
}

// alive is what this host offers.
func (n *Node) alive() etcd.Alive {
	n.mu.Lock()
	defer n.mu.Unlock()
	free := n.opt.Memory
	for vm, p := range n.procs {
		if p.alive && n.snap != nil {
			free -= n.snap.States[vm].Memory + cluster.DefaultPolicy().Overhead
		}
	}
	return etcd.Alive{Boot: n.boot, CPUs: runtime.NumCPU(), Memory: n.opt.Memory, Free: max(0, free), Versions: []uint32{n.opt.Version}}
}

// event tells of something that happened to a VM.
func (n *Node) event(ctx context.Context, c *etcd.Client, vm, kind string, epoch uint64, format string, args ...any) {
	e := etcd.Event{Time: time.Now().UTC(), Node: n.set.Name, Kind: kind, Epoch: epoch, Text: fmt.Sprintf(format, args...)}
	n.opt.Log.Info(e.Text, "vm", vm, "kind", kind, "epoch", epoch)
	if err := c.AddEvent(ctx, vm, e); err != nil {
		n.opt.Log.Warn("an event could not be kept", "vm", vm, "err", err)
	}
}

// complain tells of trouble once, until it is another one.
func (n *Node) complain(ctx context.Context, c *etcd.Client, vm, text string) {
	if n.said[vm] != text {
		n.said[vm] = text
		n.event(ctx, c, vm, "trouble", 0, "%s", text)
	}
}

// bootID tells boots of the kernel apart.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(b) < 36 {
		return "unknown"
	}
	return string(b[:36])
}
