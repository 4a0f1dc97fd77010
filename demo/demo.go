// SPDX-License-Identifier: Apache-2.0

// Package demo tells the whole story on one machine: a fault-tolerant pair with a
// database in it, a client on one TCP connection, a primary that is killed.
//
//	client ──TCP──► switch ──frames──► primary ══log══► backup
//	                  │                   └──── NBD ────┘
//	                  └ outlives both          store, arbiter folder
//
// Each box is a process of its own, started from the same binary that runs the
// demo. Everything lives in a folder that is removed at the end.
package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"tandem/host/certs"
	"tandem/host/child"
	"tandem/host/control"
	"tandem/image"
)

// Options say how to run the demo.
type Options struct {
	Executable string        // the tandem binary
	Mirror     string        // for the image, see image.Options
	Before     time.Duration // of load before the kill
	After      time.Duration // and after it
	Out        io.Writer     // the timeline
	Kill       Victim
	Again      bool // then make a new backup, and kill the primary of that pair
	Memory     string
	Engines    [2]string // of the primary and of the backup
	Progress   image.Progress
	// BackupReads has the backup read the shared disk itself, in place of the log.
	BackupReads bool
	// Replicated gives each copy a disk of its own, in place of a shared one.
	Replicated bool
}

// Victim says who is killed.
type Victim string

const (
	KillPrimary Victim = "primary"
	KillBackup  Victim = "backup"
	KillBoth    Victim = "both"    // and start the VM again from its disk
	StopPrimary Victim = "stopped" // SIGSTOP until the backup is live, then SIGCONT
	SwitchRoles Victim = "switch"  // nobody: the roles change, again and again
)

// Victims are all there are.
var Victims = []Victim{KillPrimary, KillBackup, KillBoth, StopPrimary, SwitchRoles}

// switches is how often the roles change.
const switches = 3

// Summary is what came of it.
type Summary struct {
	Acknowledged   int     `json:"acknowledged"`
	Lost           int     `json:"lost"`
	Reconnects     int     `json:"reconnects"`
	LongestGap     float64 `json:"longest_gap_seconds"`
	Detection      float64 `json:"detection_seconds"`
	ReplayLag      float64 `json:"replay_lag_seconds"`
	LogBitsPerSec  float64 `json:"log_bits_per_second"`
	BootLogBytes   uint64  `json:"boot_log_bytes"` // until the database answered
	MedianAnswer   float64 `json:"median_answer_seconds"`
	BootToService  float64 `json:"boot_to_service_seconds"`
	FailoverToLive float64 `json:"failover_to_live_seconds"`
	OutputDelay    float64 `json:"output_delay_seconds"`
	Reprotection   float64 `json:"reprotection_seconds,omitempty"` // from the start of a new backup to Protected; 0 if none was made
	ClonePause     float64 `json:"clone_pause_seconds,omitempty"`  // that the guest stood still for it at a time, at most
}

// vmName is the demo's VM; its lease and disk go by it.
const vmName = "demo"

// Times that something may take before the demo gives up.
const (
	startTimeout = 30 * time.Second
	bootTimeout  = 4 * time.Minute
	pairTimeout  = 60 * time.Second
)

// story is a demo under way.
type story struct {
	Options
	dir   string
	began time.Time
	procs []*child.Process
	image *image.Image
	addr  string            // of the database on the host
	now   string            // the copy that is primary: the name of its process
	next  string            // its backup
	peers map[string]string // the copies' own addresses

	killed time.Time
	sum    Summary
}

// Run runs the demo and returns its summary.
func Run(ctx context.Context, o Options) (sum Summary, err error) {
	dir, err := os.MkdirTemp("", "tandem-demo-")
	if err != nil {
		return sum, err
	}
	s := &story{Options: o, dir: dir, began: time.Now()}
	defer s.cleanUp()
	for _, act := range []func(context.Context) error{s.makeImage, s.startServices, s.startPair, s.waitForService, s.load} {
		if err := act(ctx); err != nil {
			if ctx.Err() != nil {
				return s.sum, fmt.Errorf("interrupted: %w", ctx.Err())
			}
			return s.sum, fmt.Errorf("%w%s", err, s.diagnostics())
		}
	}
	return s.sum, nil
}

// say prints a line of the timeline.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.Out, "%7.2fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) path(name string) string { return filepath.Join(s.dir, name) }

// makeImage builds the guest, or takes it from the cache.
func (s *story) makeImage(ctx context.Context) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("no cache folder: %w: set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(cache, "tandem", "images", "demo")
	if s.image, err = image.Open(dir); err == nil && s.image.Current() {
		s.say("guest       %s (cached)", s.image)
		return nil
	}
	s.say("guest       building it from the Debian archive")
	s.image, err = image.Build(ctx, image.Options{Dir: dir, Packages: []string{"redis-server"}, Mirror: s.Mirror, Progress: s.Progress})
	if err != nil {
		return err
	}
	s.say("guest       %s", s.image)
	return nil
}

// startServices starts what stands for the world around the two hosts.
func (s *story) startServices(ctx context.Context) error {
	disk := "disk.raw"
	if s.Replicated {
		disk = "primary.raw" // the other copies make their own
	}
	if err := copySparse(s.path(disk), s.image.Disk); err != nil {
		return err
	}
	if err := s.makeCerts(); err != nil {
		return err
	}
	if err := os.Mkdir(s.path("arbiter"), 0o700); err != nil {
		return err
	}
	ports, err := child.FreeAddrs(4)
	if err != nil {
		return err
	}
	s.addr = ports[0]
	services := []string{"switch.sock"}
	if !s.Replicated {
		services = append(services, "store.sock")
		if err := s.start("store", "store", "--listen", s.path("store.sock"), "--export", vmName+"="+s.path(disk)); err != nil {
			return err
		}
	}
	if err := s.start("switch", "switch", "--listen", s.path("switch.sock"),
		"--lease", vmName+"="+guestIP, "--forward", s.addr+":"+guestIP+":6379"); err != nil {
		return err
	}
	for _, sock := range services {
		if err := child.Until(ctx, startTimeout, sock, func() bool { return exists(s.path(sock)) }); err != nil {
			return err
		}
	}
	storage := "store (NBD, fenced by epoch)"
	if s.Replicated {
		storage = "a disk for each copy"
	}
	s.say("world       %s, switch (%s is the guest's port 6379), arbiter", storage, s.addr)
	s.peers = map[string]string{"primary": ports[1], "backup": ports[2], "backup2": ports[3]}
	return s.startReplicas()
}

// makeCerts makes the authority by which the replicas know each other.
func (s *story) makeCerts() error {
	ca, err := certs.NewCA(vmName)
	if err != nil {
		return err
	}
	if err := ca.Save(s.path("tls")); err != nil {
		return err
	}
	return ca.SavePair(s.path("tls"), certs.Replica)
}

const guestIP = "10.77.0.2"

// startReplicas starts primary and backup.
func (s *story) startReplicas() error {
	s.now, s.next = "primary", "backup"
	if err := s.startReplica(s.now, s.Engines[0], "primary"); err != nil {
		return err
	}
	if err := s.startReplica(s.next, s.Engines[1], "backup", "--dial", s.peers[s.now]); err != nil {
		return err
	}
	s.say("pair        primary is process %d, backup is process %d", s.proc(s.now).PID(), s.proc(s.next).PID())
	return nil
}

// startReplica starts one copy of the VM as a process with a name.
func (s *story) startReplica(name, engine, role string, more ...string) error {
	disk := "nbd+unix:///" + vmName + "?socket=" + s.path("store.sock")
	if s.Replicated {
		disk = s.path(name+".raw") + ",mode=replicated"
	}
	if s.BackupReads {
		disk += ",reads=backup"
	}
	args := append([]string{"replica", role, "--listen", s.peers[name], "--engine", engine,
		"--console", s.path(name + ".console"), "--events", s.path(name + ".events"), "--control", s.path(name + ".sock"),
		"--name", vmName, "--image", s.image.Dir, "--memory", s.Memory,
		"--disk", disk,
		"--disk-size", fmt.Sprint(s.image.Manifest.DiskSize),
		"--network", "switch:" + s.path("switch.sock"), "--tls", s.path("tls"), "--arbiter", s.path("arbiter")}, more...)
	if s.Kill == SwitchRoles { // which waits for no detection: patience costs it nothing
		args = append(args, "--timeout", "3s")
	}
	return s.start(name, args...)
}

func (s *story) control(name string) *control.Client {
	return control.NewClient(s.path(name + ".sock"))
}

// pairTime is how long a backup may take to become one: it may need a disk too.
func (s *story) pairTime() time.Duration {
	if s.Replicated {
		return 4 * pairTimeout
	}
	return pairTimeout
}

// startPair waits until the backup could go on.
func (s *story) startPair(ctx context.Context) error {
	err := s.until(ctx, s.pairTime(), "the pair is protected", func() bool {
		st, err := s.control(s.now).Status()
		return err == nil && st.State == "Protected"
	})
	if err != nil {
		return err
	}
	s.say("pair        protected: the backup follows the log and could go on at any entry")
	return nil
}

// waitForService waits for the database to answer.
func (s *story) waitForService(ctx context.Context) error {
	if err := s.until(ctx, bootTimeout, "the guest's database answers", func() bool { return ping(ctx, s.addr) }); err != nil {
		return err
	}
	st, _ := s.control(s.now).Status()
	s.sum.BootToService, s.sum.BootLogBytes = st.GuestSeconds, st.LogSentBytes
	s.say("boot        Debian is up and Redis answers (appendfsync always), %.1f s of guest time; log %.1f MB", st.GuestSeconds, float64(st.LogSentBytes)/1e6)
	return nil
}

// load drives the database, kills a replica and checks what was acknowledged.
func (s *story) load(ctx context.Context) error {
	c := newClient(s.addr)
	defer c.close()
	s.say("load        one client, one TCP connection, SET after SET")
	before, _ := s.control(s.now).Status()
	start := time.Now()
	if err := c.write(ctx, s.Before); err != nil {
		return err
	}
	after, err := s.control(s.now).Status()
	if err == nil {
		s.sum.LogBitsPerSec = float64(after.LogSentBytes-before.LogSentBytes) * 8 / time.Since(start).Seconds()
	}
	s.sum.ReplayLag = after.LagSeconds
	if n := after.Outputs - before.Outputs; n > 0 {
		s.sum.OutputDelay = (after.OutputDelay - before.OutputDelay) / float64(n)
	}
	s.say("load        %d writes acknowledged; log %.2f Mbit/s, execution lag %.1f ms", c.acknowledged(), s.sum.LogBitsPerSec/1e6, after.LagSeconds*1e3)
	act := s.failover
	if s.Kill == SwitchRoles {
		act = s.changeRoles
	}
	if err := act(ctx, c); err != nil {
		return err
	}
	if s.Again {
		if err := s.again(ctx, c); err != nil {
			return err
		}
	}
	s.sum.LongestGap, s.sum.MedianAnswer = c.longestGap().Seconds(), c.median().Seconds()
	s.say("load        goes on: %d writes acknowledged, longest gap between two answers %.0f ms", c.acknowledged(), s.sum.LongestGap*1e3)
	lost, err := c.verify(ctx)
	if err != nil {
		return err
	}
	s.sum.Acknowledged, s.sum.Lost, s.sum.Reconnects = c.acknowledged(), lost, c.reconnects()
	s.say("check       every acknowledged write read back: %d lost, %d reconnects", lost, c.reconnects())
	return nil
}

// failover strikes, and writes on.
func (s *story) failover(ctx context.Context, c *client) error {
	if err := s.strike(ctx); err != nil {
		return err
	}
	if err := c.write(ctx, s.After); err != nil {
		return err
	}
	if s.Kill == StopPrimary {
		if err := s.wakePrimary(ctx); err != nil {
			return err
		}
	}
	s.tellFailover()
	return nil
}

// changeRoles lets the backup become the primary under load, and gives it a new backup
// in place of the copy that made way, some times over.
func (s *story) changeRoles(ctx context.Context, c *client) error {
	for n := 1; ; n++ {
		old, before := s.proc(s.now), len(c.gaps)
		s.say("SWITCH      %s makes way for %s", s.now, s.next)
		s.killed = time.Now()
		asked := make(chan error, 1)
		go func(name string) { asked <- s.control(name).Switch() }(s.now)
		if err := c.write(ctx, s.After); err != nil {
			return err
		}
		if err := <-asked; err != nil {
			return err
		}
		s.now, s.next = s.next, s.now
		s.tellSurvivor(s.now)
		s.say("load        longest gap between two answers meanwhile %.0f ms", c.longestSince(before).Seconds()*1e3)
		if err := child.Until(ctx, startTimeout, "the old primary halts", old.Ended); err != nil {
			return err
		}
		s.forget(s.next)
		if n == switches {
			return nil
		}
		if err := s.startReplica(s.next, s.Engines[1], "backup", "--dial", s.peers[s.now]); err != nil {
			return err
		}
		if err := s.protectUnderLoad(ctx, c); err != nil {
			return err
		}
		s.say("pair        protected again: %s is a new backup of %s", s.next, s.now)
	}
}

// strike does to the pair what the demo is about.
func (s *story) strike(ctx context.Context) error {
	s.killed = time.Now()
	switch s.Kill {
	case StopPrimary:
		s.say("STOP        the primary, process %d", s.proc("primary").PID())
		return s.proc("primary").Signal(syscall.SIGSTOP)
	case KillBoth:
		return s.killBoth(ctx)
	}
	victim := s.proc(string(s.Kill))
	s.say("KILL -9     the %s, process %d", s.Kill, victim.PID())
	return victim.Signal(syscall.SIGKILL)
}

// killBoth loses both copies and starts the VM again from its disk, in a new epoch.
func (s *story) killBoth(ctx context.Context) error {
	for _, role := range []string{"primary", "backup"} {
		p := s.proc(role)
		s.say("KILL -9     the %s, process %d", role, p.PID())
		p.Kill()
		s.forget(role)
	}
	if err := s.startReplicas(); err != nil {
		return err
	}
	if err := s.startPair(ctx); err != nil {
		return err
	}
	return s.waitForService(ctx)
}

// wakePrimary lets a stopped primary go on, which must find that it has lost.
func (s *story) wakePrimary(ctx context.Context) error {
	p := s.proc("primary")
	s.say("CONT        the old primary wakes")
	if err := p.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	if err := child.Until(ctx, startTimeout, "the old primary halts", p.Ended); err != nil {
		return err
	}
	for _, e := range control.ReadRecords(s.path("primary.events")) {
		if e.To == "Halted" {
			s.say("            the old primary: %s → Halted: %s", e.From, e.Text)
		}
	}
	return nil
}

// again gives the copy that goes on a new backup under load, and kills that copy.
func (s *story) again(ctx context.Context, c *client) error {
	if s.Kill != KillBoth {
		s.next = "backup2"
		began := time.Now()
		if err := s.startReplica(s.next, s.Engines[1], "backup", "--dial", s.peers[s.now]); err != nil {
			return err
		}
		s.say("pair        a new backup is process %d; it dials %s, which goes on under load", s.proc(s.next).PID(), s.now)
		if err := s.protectUnderLoad(ctx, c); err != nil {
			return err
		}
		s.sum.Reprotection = time.Since(began).Seconds()
		st, _ := s.control(s.now).Status()
		s.sum.ClonePause = st.ClonePause
		s.say("pair        protected again after %.2f s, in epoch %d; %d MiB sent, the guest stood still for %.1f ms",
			s.sum.Reprotection, st.Epoch, st.CloneBytes>>20, st.ClonePause*1e3)
	}
	if err := c.write(ctx, s.After); err != nil {
		return err
	}
	victim := s.proc(s.now)
	s.say("KILL -9     %s, the primary now, process %d", s.now, victim.PID())
	s.killed = time.Now()
	if err := victim.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	s.now = s.next
	if err := c.write(ctx, s.After); err != nil {
		return err
	}
	s.tellSurvivor(s.now)
	return nil
}

// protectUnderLoad writes until the pair is protected.
func (s *story) protectUnderLoad(ctx context.Context, c *client) error {
	for end := time.Now().Add(s.pairTime()); ; {
		if err := c.write(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		if st, err := s.control(s.now).Status(); err == nil && st.State == "Protected" {
			return nil
		}
		if p := s.proc(s.next); p.Ended() || time.Now().After(end) {
			return fmt.Errorf("the VM was not protected again within %v (%s ended: %v)", s.pairTime(), s.next, p.Ended())
		}
	}
}

// tellFailover reads what the survivor wrote about it.
func (s *story) tellFailover() {
	switch s.Kill {
	case KillBoth:
		return // nobody survived
	case KillPrimary, StopPrimary:
		s.now = s.next
	}
	s.tellSurvivor(s.now)
}

func (s *story) tellSurvivor(survivor string) {
	for _, e := range control.ReadRecords(s.path(survivor + ".events")) {
		d := e.Time.Sub(s.killed)
		if d < 0 {
			continue
		}
		text := e.Text
		if e.Kind == "state" {
			text = fmt.Sprintf("%s → %s: %s", e.From, e.To, e.Text)
		}
		if e.Kind == "live" {
			text = fmt.Sprintf("this copy is the VM now, in epoch %d from step %d", e.Epoch, e.Step)
			if s.sum.FailoverToLive == 0 {
				s.sum.FailoverToLive = d.Seconds()
			}
		}
		if s.sum.Detection == 0 && e.Kind == "state" {
			s.sum.Detection = d.Seconds()
		}
		fmt.Fprintf(s.Out, "  +%6.1f ms  %s: %s\n", float64(d.Microseconds())/1e3, survivor, text)
	}
}

// Print writes the summary for people.
func (s Summary) Print(w io.Writer) {
	fmt.Fprintf(w, `
  writes acknowledged          %d
  writes lost                  %d
  reconnects                   %d
  longest gap between answers  %.0f ms   (median answer %.1f ms)
  detection                    %.1f ms
  replay lag at the kill       %.1f ms
  from the kill to live        %.1f ms
  log rate                     %.2f Mbit/s
  mean delay of a held output  %.2f ms
`, s.Acknowledged, s.Lost, s.Reconnects, s.LongestGap*1e3, s.MedianAnswer*1e3, s.Detection*1e3,
		s.ReplayLag*1e3, s.FailoverToLive*1e3, s.LogBitsPerSec/1e6, s.OutputDelay*1e3)
	if s.Reprotection > 0 {
		fmt.Fprintf(w, "  new backup to protected      %.2f s\n", s.Reprotection)
	}
}

// JSON writes the summary as one object on one line.
func (s Summary) JSON(w io.Writer) error { return json.NewEncoder(w).Encode(s) }
