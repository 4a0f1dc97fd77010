// SPDX-License-Identifier: Apache-2.0

// Command netbench measures a guest's network with and without a backup: iperf3 of
// Debian in both directions, and pings, through a tap and through the switch.
//
//	iperf3, ping ── br0 ── tap ───────────► guest: iperf3 -s      alone, or
//	iperf3 ─── forward ── tandem switch ──► guest: iperf3 -s      with a backup
//
// All of it runs on this machine, in a network namespace of its own, so it must be
// root. Each round measures each row once, alternately alone and with a backup, and
// the table shows medians. The VM that is alone runs beside a second one that is as
// busy as a backup would be, if there are no more than two processors: contention
// for them is not the price of fault tolerance.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/host/certs"
	"tandem/host/child"
	"tandem/image"
)

type options struct {
	tandem   string
	rounds   int
	seconds  int
	networks []string
	modes    []string
	format   string
	keep     string
	beside   bool
}

const inside = "TANDEM_NETBENCH"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "netbench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	f := pflag.NewFlagSet("netbench", pflag.ContinueOnError)
	f.StringVar(&o.tandem, "tandem", "bin/tandem", "the tandem to measure")
	f.IntVar(&o.rounds, "rounds", 3, "how often each row is measured; the table shows medians")
	f.IntVar(&o.seconds, "seconds", 5, "of one measurement")
	f.StringSliceVar(&o.networks, "networks", []string{"tap", "switch"}, "networks to measure")
	f.StringSliceVar(&o.modes, "modes", []string{alone, paired}, "alone, and with a backup")
	f.StringVar(&o.format, "format", "text", "text or json")
	f.StringVar(&o.keep, "keep", "", "folder for the diagnostics of all processes")
	f.BoolVar(&o.beside, "beside", true, "let the VM that is alone run beside a second one")
	if err := f.Parse(os.Args[1:]); err != nil {
		return err
	}
	for _, tool := range []string{o.tandem, "iperf3", "ping", "debugfs"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: make build, or apt-get install iperf3 iputils-ping e2fsprogs", err)
		}
	}
	img, err := guest(ctx)
	if err != nil {
		return err
	}
	if os.Getenv(inside) == "" {
		return again(ctx)
	}
	if err := makeNetwork(); err != nil {
		return err
	}
	results := map[row][]float64{}
	for range o.rounds {
		for _, network := range o.networks {
			for _, mode := range o.modes {
				if err := measure(ctx, o, img, network, mode, results); err != nil {
					return fmt.Errorf("%s, %s: %w", network, mode, err)
				}
			}
		}
	}
	return print(o, results)
}

// again runs this program once more, in namespaces of its own.
func again(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	err = cmd.Run()
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("make namespaces: %w: run as root", err)
	}
	return err
}

// The guests' network. The second VM is there only to be busy.
const (
	hostAddr   = "10.77.0.1"
	guestAddr  = "10.77.0.2"
	besideAddr = "10.77.0.3"
	port       = "5201"
	forward    = "127.0.0.1:15201"
	forward2   = "127.0.0.1:15202"
)

func makeNetwork() error {
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("sysfs", "/sys", "sysfs", 0, "")
	}
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	addr, _ := netlink.ParseAddr(hostAddr + "/24")
	return errors.Join(netlink.LinkAdd(br), netlink.AddrAdd(br, addr), netlink.LinkSetUp(br))
}

// guest builds the image, once.
func guest(ctx context.Context) (*image.Image, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "tandem", "images", "netbench")
	if img, err := image.Open(dir); err == nil && img.Current() {
		return img, nil
	}
	return image.Build(ctx, image.Options{Dir: dir, Packages: []string{"iperf3"}, Progress: image.NewProgress(os.Stderr)})
}

func bootArgs(addr string) string { return fmt.Sprintf("tandem.ip=%s/24,%s", addr, hostAddr) }

// addService makes the guest's init run the server.
func (w *world) addService(ctx context.Context, disk string) error {
	const service = "/etc/tandem/services/iperf3"
	if err := os.WriteFile(w.path("service"), []byte("#!/bin/sh\nexec iperf3 -s\n"), 0o755); err != nil {
		return err
	}
	for _, command := range []string{"write " + w.path("service") + " " + service, "sif " + service + " mode 0100755"} {
		if out, err := exec.CommandContext(ctx, "debugfs", "-w", "-R", command, disk).CombinedOutput(); err != nil {
			return fmt.Errorf("debugfs: %w: %s", err, out)
		}
	}
	return nil
}

// What is measured.
const (
	alone  = "alone"
	paired = "with a backup"

	receive  = "receive, Mbit/s"
	transmit = "transmit, Mbit/s"
	// What a busy host would allow: by the CPU time of the primary's process.
	receiveCost  = "receive, Mbit/s of one CPU"
	transmitCost = "transmit, Mbit/s of one CPU"
	pingTime     = "ping, µs"
)

type row struct{ network, mode, what string }

// world is what one measurement runs in.
type world struct {
	o     options
	dir   string
	img   *image.Image
	procs []*child.Process
}

func measure(ctx context.Context, o options, img *image.Image, network, mode string, results map[row][]float64) (err error) {
	dir, err := os.MkdirTemp("", "tandem-netbench-")
	if err != nil {
		return err
	}
	w := &world{o: o, dir: dir, img: img}
	defer func() {
		w.stop()
		if o.keep != "" {
			keep(o.keep, dir)
		}
		os.RemoveAll(dir)
	}()
	if err := w.start(ctx, network, mode); err != nil {
		return err
	}
	target := []string{"-c", guestAddr, "-p", port}
	if network == "switch" {
		host, p, _ := strings.Cut(forward, ":")
		target = []string{"-c", host, "-p", p}
	}
	add := func(what string, v float64, err error) error {
		fmt.Fprintf(os.Stderr, "%s, %s: %s %.1f %v\n", network, mode, what, v, orEmpty(err))
		results[row{network, mode, what}] = append(results[row{network, mode, what}], v)
		return err
	}
	if network == "tap" {
		v, err := ping(ctx)
		if err := add(pingTime, v, err); err != nil {
			return err
		}
	}
	for _, dir := range []struct {
		what, cost string
		more       []string
	}{{receive, receiveCost, nil}, {transmit, transmitCost, []string{"-R"}}} {
		before := w.primary().CPUTime()
		v, err := w.iperf(ctx, mode, append(slices.Clone(target), dir.more...))
		spent := w.primary().CPUTime() - before
		if err := add(dir.what, v, err); err != nil {
			return err
		}
		add(dir.cost, v*float64(o.seconds)/spent.Seconds(), nil)
	}
	return nil
}

// keep copies what the processes wrote.
func keep(to, from string) {
	os.MkdirAll(to, 0o755)
	for _, kind := range []string{"log", "console", "events"} {
		names, _ := filepath.Glob(filepath.Join(from, "*."+kind))
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil {
				os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o644)
			}
		}
	}
}

func orEmpty(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// start runs the services and the copies until the guests answer.
func (w *world) start(ctx context.Context, network, mode string) error {
	ca, err := certs.NewCA("netbench")
	if err != nil {
		return err
	}
	err = errors.Join(ca.Save(w.path("tls")), ca.SavePair(w.path("tls"), certs.Replica), os.Mkdir(w.path("arbiter"), 0o700))
	if err != nil {
		return err
	}
	for _, name := range []string{"vm", "vm2"} {
		if err := exec.CommandContext(ctx, "cp", "--sparse=always", w.img.Disk, w.path(name+".raw")).Run(); err != nil {
			return fmt.Errorf("copy the disk: %w", err)
		}
		if err := w.addService(ctx, w.path(name+".raw")); err != nil {
			return err
		}
	}
	err = errors.Join(
		w.run("store", "store", "--listen", w.path("store.sock"), "--export", "vm="+w.path("vm.raw"), "--export", "vm2="+w.path("vm2.raw")),
		w.run("switch", "switch", "--listen", w.path("switch.sock"), "--lease", "vm="+guestAddr, "--lease", "vm2="+besideAddr,
			"--forward", forward+":"+guestAddr+":"+port, "--forward", forward2+":"+besideAddr+":"+port))
	if err != nil {
		return err
	}
	for _, sock := range []string{"store.sock", "switch.sock"} {
		if err := child.Until(ctx, 10*time.Second, sock, func() bool { _, err := os.Stat(w.path(sock)); return err == nil }); err != nil {
			return err
		}
	}
	net := [2]string{"switch:" + w.path("switch.sock"), "switch:" + w.path("switch.sock")}
	if network == "tap" {
		net = [2]string{"tap:vm0,bridge=br0", "tap:vm1,bridge=br0"}
	}
	if err := w.replica("vm", "primary", guestAddr, net[0], "--listen", "127.0.0.1:7001"); err != nil {
		return err
	}
	switch {
	case mode == paired:
		err = w.replica("vm", "backup", guestAddr, net[1], "--dial", "127.0.0.1:7001")
	case w.o.beside:
		err = w.replica("vm2", "primary", besideAddr, net[1], "--listen", "127.0.0.1:7002")
	}
	if err != nil {
		return err
	}
	return child.Until(ctx, time.Minute, "the guest answers", func() bool { return w.answers(ctx, network, mode) })
}

// answers runs a short test, which needs the guest's server.
func (w *world) answers(ctx context.Context, network, mode string) bool {
	targets := [][]string{{guestAddr, port}, {besideAddr, port}}
	if network == "switch" {
		targets = [][]string{strings.Split(forward, ":"), strings.Split(forward2, ":")}
	}
	if mode == paired || !w.o.beside {
		targets = targets[:1]
	}
	for _, t := range targets {
		if _, err := iperf(ctx, []string{"-c", t[0], "-p", t[1], "-n", "100K", "--connect-timeout", "1000"}); err != nil {
			return false
		}
	}
	if mode == alone {
		return true
	}
	b, err := os.ReadFile(w.path("vm-primary.events"))
	return err == nil && strings.Contains(string(b), `"Protected"`)
}

func (w *world) replica(vm, role, addr, network string, more ...string) error {
	name := vm + "-" + role
	return w.run(name, append([]string{"replica", role, "--name", vm, "--image", w.img.Dir, "--append", bootArgs(addr),
		"--disk", "nbd+unix:///" + vm + "?socket=" + w.path("store.sock"), "--disk-size", fmt.Sprint(w.img.Manifest.DiskSize),
		"--network", network, "--tls", w.path("tls"), "--arbiter", w.path("arbiter"), "--console", w.path(name + ".console"),
		"--events", w.path(name + ".events"), "--control", w.path(name + ".sock"), "--timeout", "2s"}, more...)...)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) run(name string, args ...string) error {
	p, err := child.Start(name, w.path(name+".log"), w.o.tandem, args...)
	if err != nil {
		return err
	}
	w.procs = append(w.procs, p)
	return nil
}

// primary is the process of the VM that is measured.
func (w *world) primary() *child.Process {
	return w.procs[slices.IndexFunc(w.procs, func(p *child.Process) bool { return p.Name == "vm-primary" })]
}

// stop ends all processes, replicas first.
func (w *world) stop() {
	for _, p := range slices.Backward(w.procs) {
		p.Kill()
	}
}

// iperf measures the first VM, while the second is as busy, if there is one.
func (w *world) iperf(ctx context.Context, mode string, args []string) (float64, error) {
	seconds := fmt.Sprint(w.o.seconds)
	if mode == alone && w.o.beside {
		other := slices.Clone(args)
		for i, a := range other {
			switch {
			case a == guestAddr:
				other[i] = besideAddr
			case strings.HasSuffix(forward, ":"+a):
				_, other[i], _ = strings.Cut(forward2, ":")
			}
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			iperf(ctx, append(other, "-t", fmt.Sprint(w.o.seconds+2)))
		}()
		defer func() { cancel(); <-done }()
		time.Sleep(time.Second)
	}
	// The server may still be busy with the end of the last test.
	for try := 1; ; try++ {
		v, err := iperf(ctx, append(args, "-t", seconds))
		if err == nil || try == 3 || ctx.Err() != nil {
			return v, err
		}
		time.Sleep(2 * time.Second)
	}
}

// iperf returns what arrived, in Mbit/s.
func iperf(ctx context.Context, args []string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "iperf3", append(args, "-J")...).Output()
	var result struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
		Error string `json:"error"`
	}
	if e := json.Unmarshal(out, &result); e != nil && err == nil {
		err = e
	}
	if err == nil && result.Error != "" { // some releases end with 0 all the same
		err = errors.New(result.Error)
	}
	if err != nil {
		return 0, fmt.Errorf("iperf3: %w", err)
	}
	return result.End.Received.Bits / 1e6, nil
}

// ping returns the median round trip in µs.
func ping(ctx context.Context) (float64, error) {
	out, err := exec.CommandContext(ctx, "ping", "-c", "300", "-i", "0.005", guestAddr).Output()
	if err != nil {
		return 0, fmt.Errorf("ping: %w: %s", err, out[max(0, len(out)-200):])
	}
	var all []float64
	for line := range strings.Lines(string(out)) {
		if _, t, ok := strings.Cut(line, "time="); ok {
			var ms float64
			if _, err := fmt.Sscan(t, &ms); err == nil {
				all = append(all, ms*1e3)
			}
		}
	}
	return median(all), nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func print(o options, results map[row][]float64) error {
	type line struct {
		Network string             `json:"network"`
		What    string             `json:"what"`
		Median  map[string]float64 `json:"median"`
		Ratio   float64            `json:"ratio,omitempty"`
		All     map[string][]float64
	}
	var lines []line
	for _, network := range o.networks {
		for _, what := range []string{receive, receiveCost, transmit, transmitCost, pingTime} {
			l := line{Network: network, What: what, Median: map[string]float64{}, All: map[string][]float64{}}
			for _, mode := range o.modes {
				if v := results[row{network, mode, what}]; len(v) > 0 {
					l.Median[mode], l.All[mode] = median(v), v
				}
			}
			if l.Median[alone] > 0 {
				l.Ratio = l.Median[paired] / l.Median[alone]
			}
			if len(l.Median) > 0 {
				lines = append(lines, l)
			}
		}
	}
	if o.format == "json" {
		return json.NewEncoder(os.Stdout).Encode(lines)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "network\t\t%s\t%s\tratio\n", alone, paired)
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.1f\t%.2f\n", l.Network, l.What, l.Median[alone], l.Median[paired], l.Ratio)
	}
	return t.Flush()
}
