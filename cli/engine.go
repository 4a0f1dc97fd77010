// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/metrics"

	"github.com/spf13/pflag"

	"tandem/host"
	"tandem/host/codemem"
	"tandem/host/perfmap"
	"tandem/host/ram"
	"tandem/machine"
	"tandem/machine/hart"
	"tandem/machine/jit"
)

// The engines; both give the same bits.
const (
	engineInterpreter = "interpreter"
	engineJIT         = "jit"
)

// defaultEngine is the fastest that this host has.
func defaultEngine() string {
	if codemem.Supported() {
		return engineJIT
	}
	return engineInterpreter
}

// engineFlags choose what executes a guest, and what is told of it.
type engineFlags struct {
	engine  string
	cache   string
	stats   bool
	perf    bool
	symbols []string
}

func (v *engineFlags) add(f *pflag.FlagSet) {
	f.StringVar(&v.engine, "engine", defaultEngine(), "jit: translate hot code; or interpreter")
	f.StringVar(&v.cache, "code-cache", "64M", "memory for translated code, in bytes or with K or M; it is emptied when full")
	f.BoolVar(&v.stats, "stats", false, "at the end, print on stderr what the engine did")
	f.BoolVar(&v.perf, "perf", false, "write /tmp/perf-PID.map, by which perf names the guest's translated code")
	f.StringArrayVar(&v.symbols, "symbols", nil, "with --perf: ELF, System.map or the guest's /proc/kallsyms to name functions by; may be repeated")
}

// engine executes the machines of this process.
type engine struct {
	cache int // bytes for translated code, 0 for the interpreter
	stats bool
	perf  *perfmap.Map // or nil
	path  string       // of perf
	shelf *host.Shelf  // for what machines boot, or nil
	used  *machine.Machine
}

// open checks the flags and reads the symbols.
func (v *engineFlags) open() (*engine, error) {
	size, err := parseSize(v.cache)
	switch {
	case err != nil:
		return nil, usageError{fmt.Errorf("--code-cache %s: want a number of bytes, for instance 32M", v.cache)}
	case size < jit.MinCache || size > jit.MaxCache:
		return nil, usageError{fmt.Errorf("--code-cache %s: choose %d KiB to %d MiB", v.cache, jit.MinCache>>10, jit.MaxCache>>20)}
	case v.engine != engineInterpreter && v.engine != engineJIT:
		return nil, usageError{fmt.Errorf("--engine %s: choose interpreter or jit", v.engine)}
	case v.perf && v.engine != engineJIT:
		return nil, usageError{errors.New("--perf names translated code: give it with --engine jit")}
	case len(v.symbols) > 0 && !v.perf:
		return nil, usageError{errors.New("--symbols are names for --perf: give both")}
	case v.engine == engineJIT && !codemem.Supported():
		return nil, errors.New("--engine jit: there is no translator for this host's CPU: use --engine interpreter")
	}
	e := &engine{stats: v.stats}
	if v.engine == engineJIT {
		e.cache = int(size)
	}
	if e.shelf, err = host.NewShelf(); err != nil {
		diagnostics().Info("what the guest boots stays in memory", "err", err)
	}
	if v.perf {
		return e, e.openPerf(v.symbols)
	}
	return e, nil
}

func (e *engine) openPerf(files []string) (err error) {
	var s perfmap.Symbols
	for _, path := range files {
		if err := s.Load(path); err != nil {
			return fmt.Errorf("--symbols %s: %w", path, why(err))
		}
	}
	e.path = perfmap.Path(os.Getpid())
	if e.perf, err = perfmap.Create(e.path, &s); err != nil {
		return fmt.Errorf("--perf %s: %w; perf looks for it there, so make it possible to write it", e.path, why(err))
	}
	return nil
}

// use gives a machine memory for translated code, for the life of the process, and the
// host what the guest gives back of its memory and the memory of what it boots.
func (e *engine) use(m *machine.Machine, memory *ram.RAM) error {
	e.used = m
	m.OnRelease(func(off, n uint64) { memory.Release(off, n) }) // refused on hosts with larger pages
	if e.shelf != nil {
		m.KeepBoot(e.shelf.Keep)
	}
	if e.cache == 0 {
		return nil
	}
	alloc := codemem.New
	if e.perf != nil {
		alloc = codemem.NewAnonymous
	}
	code, err := alloc(e.cache)
	if err != nil {
		return err
	}
	m.Translate(code.RW, code.RX())
	if e.perf != nil {
		m.Observe(e.perf.Add)
	}
	return nil
}

// returnMemory gives the host what a start or a clone has left behind.
func (e *engine) returnMemory() {
	if e.shelf != nil {
		e.shelf.PutAway()
	}
	host.ReturnMemory()
}

// close ends the map for perf and prints what was asked for; e may be nil.
func (e *engine) close(to io.Writer) error {
	if e == nil {
		return nil
	}
	if e.stats && e.used != nil {
		printStats(to, e.used.Stats())
		printPauses(to)
	}
	if e.perf == nil {
		return nil
	}
	if err := e.perf.Close(); err != nil {
		return fmt.Errorf("--perf %s: %w; make room there", e.path, why(err))
	}
	if e.used != nil && e.used.Stats().Translated.Resets > 0 {
		fmt.Fprintln(to, "tandem: the code cache was emptied, so that perf may take code for what was there before: give a larger --code-cache")
	}
	return nil
}

// printPauses says how often Go's runtime stopped the world, and how long at most it
// waited until it stood: translated code does not stop before its slice ends.
func printPauses(to io.Writer) {
	samples := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}, {Name: "/sched/pauses/stopping/other:seconds"}}
	metrics.Read(samples)
	var count uint64
	var longest float64
	for _, s := range samples {
		if s.Value.Kind() != metrics.KindFloat64Histogram {
			continue
		}
		h := s.Value.Float64Histogram()
		for i, n := range h.Counts {
			if count += n; n > 0 {
				longest = max(longest, h.Buckets[i+1])
			}
		}
	}
	fmt.Fprintf(to, "%-52s %15d\n%-52s %15.0f µs\n", "stops of the world, by Go's runtime", count, "  the longest wait for it, at most", longest*1e6)
}

// mostSingles is how many operations --stats names.
const mostSingles = 10

// exitNames are the reasons for which translated code comes back to Go.
var exitNames = [...]struct {
	reason jit.Reason
	name   string
}{
	{jit.AtOffset, "to code of the same page that is not translated"},
	{jit.AtPC, "to an address that is not in the jump cache"},
	{jit.Interpret, "at an instruction of the interpreter's"},
	{jit.Short, "too few steps left for a block"},
	{jit.Miss, "TLB misses"},
}

// printStats prints what an engine did as a table.
func printStats(to io.Writer, s *hart.Stats) {
	t := &s.Translated
	all := t.Steps + s.Interpreted + s.Interrupts
	row := func(name string, n uint64) { fmt.Fprintf(to, "%-52s %15d\n", name, n) }
	share := func(name string, n uint64) {
		fmt.Fprintf(to, "%-52s %15d %6.2f %%\n", name, n, 100*float64(n)/float64(max(all, 1)))
	}
	row("steps", all)
	share("  by translated code", t.Steps)
	share("  by the interpreter", s.Interpreted)
	share("  interrupts taken", s.Interrupts)
	if s.CodeSize == 0 {
		return
	}
	row("regions translated", t.Regions)
	row("  instructions in them", t.Insts)
	row("  jumps chained from region to region", t.Chained)
	row("code cache, bytes", uint64(s.CodeSize))
	row("  in use", uint64(s.CodeUsed))
	row("  times emptied", t.Resets)
	row("jump cache places filled", t.Jumps)
	row("entries into translated code, so many exits", t.Entries)
	for _, x := range exitNames {
		row("  "+x.name, t.Exits[x.reason])
	}
	row("    refilled, to go on with the same instruction", t.Refills)
	row("instructions left to the interpreter one at a time", s.Single())
	for _, c := range s.TopSingles(mostSingles) {
		row("  "+c.Op.String(), c.Count)
	}
}
