// SPDX-License-Identifier: Apache-2.0

// Command bench times the same programs on this host, in tandem and in other
// emulators, and prints the medians side by side.
//
//	programs/*.c ──host's gcc───► bench-native          console lines
//	     └────riscv64 gcc──► initrd ─┬─► tandem ──────► BENCH-BEGIN name
//	Debian's stock kernel ───────────┴─► QEMU ────────► BENCH-END name checksum
//
// A run is one boot that goes through all programs. Its times are read from the
// host's clock when the two lines of a program come out of the emulator, since a
// guest's clock may be anything. Rounds alternate between the engines, so that a
// busy moment of the host hits all alike. A checksum that differs from the
// native one is an error: a fast wrong answer is worth nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// bootRow is the time from the emulator's start to the first line of init.
const bootRow = "boot"

// programs are the rows, in the order of programs/main.c.
var programs = []string{
	"int_core", "sha256", "chase64M", "memcpy64M", "stream64M", "fmatmul256", "fmatmul256_fma", "nbody",
	"interp", "calls", "forkexec", "pipe", "getpid", "pagefault", "gzip32M", "gunzip32M",
}

type options struct {
	rounds  int
	only    []string
	engines []string
	format  string
	timeout time.Duration
	paths   paths
}

// paths are the files that engines run and read.
type paths struct {
	tandem, qemu, other    string
	kernel, initrd, native string
	dir                    string // for recordings
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	chosen, err := choose(&o)
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("no cache directory: %w: set XDG_CACHE_HOME", err)
	}
	cache = filepath.Join(cache, "tandem")
	if err := prepare(ctx, &o.paths, cache); err != nil {
		return err
	}
	if o.paths.dir, err = os.MkdirTemp(filepath.Join(cache, "bench"), "run-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.paths.dir)
	r := newReport(ctx, o, chosen)
	failed := measure(ctx, o, chosen, r)
	if err := r.print(out, o.format); err != nil {
		return err
	}
	return failed
}

func parse(args []string) (options, error) {
	var o options
	f := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	f.SortFlags = false
	f.IntVar(&o.rounds, "rounds", 3, "how often each engine runs; the table shows medians")
	f.StringSliceVar(&o.only, "only", nil, "rows to measure; default all of "+strings.Join(append([]string{bootRow}, programs...), ","))
	f.StringSliceVar(&o.engines, "engines", []string{"native", "tandem", "qemu"}, "engines to measure, of "+strings.Join(engineNames(), ","))
	f.StringVar(&o.format, "format", "text", "text, markdown or json")
	f.DurationVar(&o.timeout, "timeout", 15*time.Minute, "for one run of one engine")
	f.StringVar(&o.paths.tandem, "tandem", "bin/tandem", "the tandem to measure")
	f.StringVar(&o.paths.qemu, "qemu", "qemu-system-riscv64", "the QEMU to measure")
	f.StringVar(&o.paths.other, "other", "", "a program for the engine \"other\": it boots KERNEL INITRD APPEND, its arguments, with the console on stdout")
	f.StringVar(&o.paths.kernel, "kernel", "", "Linux Image; default Debian's stock kernel, fetched once")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is no flag: rows are chosen with --only", f.Arg(0))
	case o.rounds < 1:
		return o, fmt.Errorf("--rounds %d: give at least 1", o.rounds)
	case !slices.Contains([]string{"text", "markdown", "json"}, o.format):
		return o, fmt.Errorf("--format %s: text, markdown or json", o.format)
	}
	for _, name := range o.only {
		if name != bootRow && !slices.Contains(programs, name) {
			return o, fmt.Errorf("--only %s: no such row: choose from %s,%s", name, bootRow, strings.Join(programs, ","))
		}
	}
	return o, nil
}

// names are the programs of a run, in the order of the table.
func (o *options) names() []string {
	if len(o.only) == 0 {
		return programs
	}
	return slices.DeleteFunc(slices.Clone(programs), func(n string) bool { return !slices.Contains(o.only, n) })
}

// measure runs all rounds. An engine that failed takes no part in later ones,
// and what it measured before stays.
func measure(ctx context.Context, o options, chosen []engine, r *report) error {
	want, err := oracle(ctx, o, chosen)
	if err != nil {
		return err
	}
	failed := map[string]error{}
	for round := range o.rounds {
		for _, e := range chosen {
			if failed[e.name] != nil || failed[e.needs] != nil {
				continue
			}
			who := fmt.Sprintf("round %d/%d %s", round+1, o.rounds, e.name)
			got, err := o.run(ctx, e, who)
			if want == nil { // native comes first
				if err != nil {
					return fmt.Errorf("%s: %w", who, err) // nothing to compare with
				}
				want = got.sums
			}
			if err == nil {
				err = compare(got, want)
			}
			r.add(e.name, got)
			if err != nil {
				failed[e.name] = fmt.Errorf("%s: %w", who, err)
				fmt.Fprintln(os.Stderr, failed[e.name])
			}
			if ctx.Err() != nil {
				return errors.New("interrupted: the table has what was measured before")
			}
		}
	}
	var all []error
	for _, e := range chosen {
		if failed[e.name] != nil {
			all = append(all, failed[e.name])
		}
	}
	return errors.Join(all...)
}

// oracle runs the programs natively for their checksums, if no column does.
func oracle(ctx context.Context, o options, chosen []engine) (map[string]string, error) {
	if chosen[0].name == native {
		return nil, nil
	}
	got, err := o.run(ctx, engines[0], "checksums")
	if err != nil {
		return nil, fmt.Errorf("native checksums: %w", err)
	}
	return got.sums, nil
}
