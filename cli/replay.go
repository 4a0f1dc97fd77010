// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"tandem/host/ram"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/replay"
)

func replayCommand() *cobra.Command {
	var console bool
	var flags engineFlags
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Run a recording again and compare every hash",
		Long: "Runs the machine of a recording from its log alone, without disk, network or clock, and\n" +
			"compares its state with every hash entry. Ends with 1 at the first difference.",
		Args: args(1, 1, "a recording"),
		RunE: func(c *cobra.Command, a []string) error {
			out := io.Discard
			if console {
				out = c.OutOrStdout()
			}
			e, err := flags.open()
			if err != nil {
				return err
			}
			s, err := replayFile(a[0], e, out)
			if err != nil {
				err = fmt.Errorf("recording %s: %w", a[0], err)
			}
			if err := errors.Join(err, e.close(c.ErrOrStderr())); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "replayed %d entries, %d steps; %d hashes equal\n", s.entries, s.steps, s.hashes)
			return nil
		},
	}
	flags.add(c.Flags())
	c.Flags().BoolVar(&console, "console", false, "print what the guest prints")
	return c
}

// replayed counts what a replay went through.
type replayed struct {
	entries, hashes int
	steps           event.Step
}

func replayFile(path string, use *engine, console io.Writer) (s replayed, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, fmt.Errorf("%w; make one with tandem run --record", why(err))
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return s, errors.New("this is a folder; make a recording with tandem run --record")
	}
	in, err := replay.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return s, err
	}
	cfg, err := undescribe(in.Description(), maxDescribed)
	if err != nil {
		return s, err
	}
	memory, err := ram.New(cfg.RAM)
	if err != nil {
		return s, err
	}
	defer memory.Close()
	m, err := machine.New(cfg, memory.Bytes())
	if err != nil {
		return s, err
	}
	if err := use.use(m, memory); err != nil {
		return s, err
	}
	r := replay.NewReplayer(m, 0, m.LastOutput())
	r.Applied = func(e event.Entry) {
		s.entries++
		if e.Input.Kind() == event.KindHash {
			s.hashes++
		}
	}
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			s.steps = m.Step()
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if err := r.Feed(e); err != nil {
			return s, err
		}
		if _, err := r.Advance(^event.Step(0)); err != nil {
			return s, err
		}
		for _, o := range r.Outputs() {
			if p, ok := o.Body.(event.ConsoleOut); ok {
				console.Write(p.Data)
			}
		}
	}
}
