// SPDX-License-Identifier: Apache-2.0

// Command ft rebuilds the table of the VMware FT paper (§4.1, Table 1) with tandem's
// figures beside the paper's: what a backup costs the speed of a guest's work, and how
// much log that work makes.
//
//	alone           VM, and a second one beside it that is as busy
//	reads=log       VM with a backup, the data of disk reads in the log
//	reads=backup    VM with a backup that reads the shared disk itself (§4.2)
//
// One round boots a Debian guest in each mode, one after another, and each goes through
// its loads once; the table shows medians over the rounds. A VM that is alone runs beside
// a second one, so that primary and backup, which share the processors here, are not
// compared with a VM that has them for itself: contention is not the price of fault
// tolerance. All loads run in the guest, and the host's clock times them: from the
// moment the load says that it begins until it says that it has ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"tandem/bench/stage"
	"tandem/host/child"
	"tandem/image"
)

type options struct {
	tandem   string
	programs string
	rounds   int
	seconds  int
	settle   time.Duration
	memory   string
	modes    []string
	loads    []string
	format   string
	keep     string
	beside   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ft:", err)
		stop()
		os.Exit(1)
	}
}

func (o *options) parse(args []string) error {
	f := pflag.NewFlagSet("ft", pflag.ContinueOnError)
	f.StringVar(&o.tandem, "tandem", "bin/tandem", "the tandem to measure")
	f.StringVar(&o.programs, "programs", "bench/programs", "folder of the benchmark programs, which the guest compiles")
	f.IntVar(&o.rounds, "rounds", 3, "how often each row is measured; the table shows medians")
	f.IntVar(&o.seconds, "seconds", 60, "of each load")
	f.DurationVar(&o.settle, "settle", 10*time.Second, "what a guest gets after its boot, before anything is measured")
	f.StringVar(&o.memory, "memory", "384M", "of each guest: less than its database needs, so that there are disk reads")
	f.StringSliceVar(&o.modes, "modes", modes, "modes to run; without alone there are no ratios")
	f.StringSliceVar(&o.loads, "loads", names(), "loads to run")
	f.StringVar(&o.format, "format", "text", "text, markdown or json")
	f.StringVar(&o.keep, "keep", "", "folder for what all processes wrote")
	f.BoolVar(&o.beside, "beside", true, "let the VM that is alone run beside a second one")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, c := range []struct {
		flag      string
		given, of []string
	}{{"modes", o.modes, modes}, {"loads", o.loads, names()}, {"format", []string{o.format}, []string{"text", "markdown", "json"}}} {
		for _, v := range c.given {
			if !slices.Contains(c.of, v) {
				return fmt.Errorf("--%s %s: choose from %s", c.flag, v, strings.Join(c.of, ", "))
			}
		}
	}
	if o.rounds < 1 || o.seconds < 1 {
		return errors.New("--rounds and --seconds must be at least 1")
	}
	if _, err := exec.LookPath(o.tandem); err != nil {
		return fmt.Errorf("%w: make build", err)
	}
	return nil
}

func run(ctx context.Context) error {
	var o options
	if err := o.parse(os.Args[1:]); err != nil {
		return err
	}
	recipe, err := guest(o.programs)
	if err != nil {
		return err
	}
	g, err := recipe.Make(ctx, o.tandem, image.NewProgress(os.Stderr))
	if err != nil {
		return err
	}
	var all []reading
	for n := range o.rounds {
		for _, mode := range o.modes {
			got, err := o.measure(ctx, g, mode)
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", n+1, mode, err)
			}
			all = append(all, got...)
		}
	}
	return newReport(o, all).print(os.Stdout, o.format)
}

// Modes of a run.
const (
	alone       = "alone"
	readsLog    = "reads=log"
	readsBackup = "reads=backup"
)

var modes = []string{alone, readsLog, readsBackup}

// reading is one load in one mode, once. Rates are per second of the host's clock.
type reading struct {
	Load    string  `json:"load"`
	Mode    string  `json:"mode"`
	Speed   float64 `json:"speed,omitempty"` // pieces of work in a second
	Log     float64 `json:"log_bits"`        // entries and the messages they travel in, a second
	Wire    float64 `json:"wire_bits"`       // of the channel's TCP connection: with TLS, without TCP's headers
	Primary float64 `json:"primary_cpu"`     // of one CPU
	Backup  float64 `json:"backup_cpu"`
	Lag     float64 `json:"lag_seconds"`  // execution lag at the end
	Waited  float64 `json:"wait_seconds"` // that the primary waited for its backup
}

// The VMs. The second one is there only to be busy.
const (
	first  = "vm"
	second = "vm2"
)

// measure boots the VMs of a mode and goes through its loads.
func (o *options) measure(ctx context.Context, g *stage.Guest, mode string) (all []reading, err error) {
	so := stage.Options{Tandem: o.tandem, Guest: g, Memory: o.memory, VMs: []string{first, second}, Timeout: 2 * time.Second}
	if reads, ok := strings.CutPrefix(mode, "reads="); ok {
		so.Reads = reads
	}
	s, err := stage.New(ctx, so)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w%s", err, s.Diagnostics())
		}
		if o.keep != "" {
			s.Keep(o.keep, mode)
		}
	}()
	w := &world{o: o, mode: mode}
	if err := w.start(ctx, s); err != nil {
		return nil, err
	}
	for _, l := range loads {
		if !slices.Contains(o.loads, l.name) || !slices.Contains(l.modes, mode) {
			continue
		}
		r, err := w.load(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s, %s: %.3f/s, log %.3f Mbit/s, wire %.3f Mbit/s, CPU %.2f and %.2f, lag %.1f ms, waited %.2f s\n",
			l.name, mode, r.Speed, r.Log/1e6, r.Wire/1e6, r.Primary, r.Backup, r.Lag*1e3, r.Waited)
		all = append(all, r)
	}
	return all, nil
}

// world is what one mode runs in.
type world struct {
	o               *options
	mode            string
	primary, backup *stage.Copy
	shell, beside   *stage.Shell // of the first VM, and of the second if there is one
}

func (w *world) start(ctx context.Context, s *stage.Stage) (err error) {
	if w.primary, err = s.Primary(first); err != nil {
		return err
	}
	switch {
	case w.mode != alone:
		w.backup, err = s.Backup(w.primary)
	case w.o.beside:
		_, err = s.Primary(second)
	}
	if err != nil {
		return err
	}
	if w.shell, err = ready(ctx, s, first); err != nil {
		return err
	}
	if w.mode == alone && w.o.beside {
		if w.beside, err = ready(ctx, s, second); err != nil {
			return err
		}
	}
	if w.backup != nil {
		if err := child.Until(ctx, 2*time.Minute, "protected", w.primary.Protected); err != nil {
			return err
		}
	}
	return sleep(ctx, w.o.settle)
}

// ready returns a shell of a guest whose database answers.
func ready(ctx context.Context, s *stage.Stage, vm string) (*stage.Shell, error) {
	sh, err := s.Shell(ctx, vm)
	if err != nil {
		return nil, err
	}
	_, err = sh.Run(ctx, untilPostgres)
	return sh, err
}

// sample is what is counted, at one moment.
type sample struct {
	log, wire       uint64
	primary, backup time.Duration
	waited          float64
}

func (w *world) sample() (s sample, lag float64, err error) {
	st, err := w.primary.Status()
	if err != nil {
		return s, 0, err
	}
	s = sample{log: st.LogSentBytes, primary: w.primary.CPUTime(), waited: st.WaitTime}
	if w.backup != nil {
		if st.State != "Protected" {
			return s, 0, fmt.Errorf("the VM is not protected any more: %s", st.State)
		}
		s.backup = w.backup.CPUTime()
		s.wire, err = w.primary.ChannelBytes()
	}
	return s, st.LagSeconds, err
}

// load runs one load, on the second VM too.
func (w *world) load(ctx context.Context, l load) (r reading, err error) {
	for _, sh := range []*stage.Shell{w.shell, w.beside} {
		if sh == nil || l.warm == "" {
			continue
		}
		if out, err := sh.Run(ctx, l.warm); err != nil {
			return r, fmt.Errorf("%w:\n%s", err, out)
		}
	}
	if w.beside != nil {
		other := make(chan error, 1)
		go func() {
			_, _, err := l.run(ctx, w.beside, w.o.seconds)
			other <- err
		}()
		defer func() { err = errors.Join(err, <-other) }()
	}
	before, _, err := w.sample() // now, while nothing is on its way
	if err != nil {
		return r, err
	}
	work, took, err := l.run(ctx, w.shell, w.o.seconds)
	if err != nil {
		return r, err
	}
	after, lag, err := w.sample()
	if err != nil {
		return r, err
	}
	s := took.Seconds()
	return reading{Load: l.name, Mode: w.mode, Speed: work / s, Lag: lag, Waited: after.waited - before.waited,
		Log: float64(after.log-before.log) * 8 / s, Wire: float64(after.wire-before.wire) * 8 / s,
		Primary: (after.primary - before.primary).Seconds() / s, Backup: (after.backup - before.backup).Seconds() / s}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
