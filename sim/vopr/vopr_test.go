// SPDX-License-Identifier: Apache-2.0

package vopr_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"tandem/machine/machinetest"
	"tandem/sim"
	"tandem/sim/vopr"
	"tandem/world"
)

var (
	first      = flag.Uint64("seed", 0, "the first seed")
	seeds      = flag.Int("seeds", 100, "how many seeds to run")
	hours      = flag.Float64("hours", 0, "run seeds until so many hours were simulated")
	trace      = flag.Bool("trace", false, "print the whole story")
	storyLines = flag.Int("story", 80, "lines of a failed seed's story")
)

// enough runs must reach all marks.
const enough = 1000

// Whole clusters among faults never break a rule, come to rest when the faults end, and
// reach the rare paths together. A failing seed prints its story.
func TestSeeds(t *testing.T) {
	guest := machinetest.Service(t, 2)
	began := time.Now()
	var marks vopr.Marks
	var simulated world.Time
	runs, failed, failovers, restarts, answers := 0, 0, 0, 0, 0
	for seed := *first; ; seed++ {
		if *hours == 0 && runs == *seeds || *hours > 0 && simulated >= world.Time(*hours*3600)*sim.Second {
			break
		}
		o := vopr.Options{Guest: guest}
		o.Guest.Harts = 1 + int(seed%4/3)
		if *trace {
			o.Trace = func(line string) { fmt.Fprintln(os.Stderr, line) }
		}
		r := vopr.Run(seed, o)
		if testing.Verbose() && runs%100 == 99 {
			fmt.Fprintf(os.Stderr, "seed %d, %.0f s\n", seed, time.Since(began).Seconds())
		}
		runs++
		simulated += r.Time
		failovers, restarts, answers = failovers+r.Failovers, restarts+r.Restarts, answers+r.Answers
		marks.Merge(r.Marks)
		if len(r.Broken) > 0 {
			story := r.Story[max(0, len(r.Story)-*storyLines):]
			t.Errorf("seed %d: %s\n%s\n\n%s\nrun it again: make sim SEED=%d", seed, r.Plan, strings.Join(story, "\n"), strings.Join(r.Broken, "\n"), seed)
			if failed++; failed == 5 {
				break
			}
		}
	}
	took := time.Since(began)
	t.Logf("%d runs, %.2f hours simulated in %.0f s; %d failovers (%.0f a minute), %d restarts from disk, %d answers to clients",
		runs, float64(simulated)/float64(3600*sim.Second), took.Seconds(), failovers, float64(failovers)/took.Minutes(), restarts, answers)
	for _, what := range vopr.Sometimes {
		t.Logf("%9d  %s", marks.Count(what), what)
		if marks.Count(what) == 0 && runs >= enough {
			t.Errorf("%q never happened", what)
		}
	}
}
