// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
)

// writer is a machine of 1 GiB that stores to one page after another.
func writer(b *testing.B) *machine.Machine {
	const mib = 1024
	m, err := machine.New(machine.Config{Harts: 1, RAM: mib << 20, Levels: 3, Boot: machinetest.Writer(mib)}, make([]byte, mib<<20))
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func run(b *testing.B, m *machine.Machine, steps event.Step) {
	if err := m.Apply(event.Clock{Base: m.Time(), Rate: 1 << 28, Limit: m.Step() + steps}); err != nil {
		b.Fatal(err)
	}
	m.Run(m.Step() + steps)
	m.Outputs()
}

// used is the processor time of this thread: other processes don't count.
func used() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_THREAD, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A guest of 1 GiB that stores to a quarter of its pages in each round, as one does
// that dirties 100 MiB/s over a link of 400 MiB/s, and one that stores to all.
func BenchmarkClone(b *testing.B) {
	for name, perRound := range map[string]event.Step{"100MiBps": 3 * 65536, "stubborn": 3 * 262144} {
		b.Run(name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			m := writer(b)
			run(b, m, 3*262144)
			for b.Loop() {
				began := used()
				s, err := NewSource(m)
				start := used() - began
				if err != nil {
					b.Fatal(err)
				}
				var pause, longest time.Duration
				parts, rounds := 0, 0
				for !s.Ended() {
					began := used()
					if s.Settled() {
						if err := s.Freeze(); err != nil {
							b.Fatal(err)
						}
						pause = used() - began
					}
					_, ok := s.Next()
					longest = max(longest, used()-began)
					if ok {
						parts++
					}
					// A part is one of 4096 of the first round.
					run(b, m, max(perRound/4096, 1))
					rounds = s.round
				}
				b.ReportMetric(float64(start.Microseconds())/1e3, "start-ms")
				b.ReportMetric(float64(pause.Microseconds())/1e3, "pause-ms")
				b.ReportMetric(float64(longest.Microseconds())/1e3, "longest-ms")
				b.ReportMetric(float64(rounds+1), "rounds")
				b.ReportMetric(float64(parts), "parts")
				s.Close()
			}
		})
	}
}
