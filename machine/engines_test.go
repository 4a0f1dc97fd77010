// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"

	"tandem/machine"
	"tandem/machine/event"
)

// endless is the clock of programs that never end.
var endless = event.Clock{Rate: 1 << event.RateShift / 16, Limit: 1 << 60}

// The loops of testdata/privileged/speed.S on both engines, in millions of steps
// a second, and which part of them was translated.
func BenchmarkEngines(b *testing.B) {
	for _, name := range []string{"integer", "stream", "calls", "chase", "divide", "atomics", "floats", "kernel", "system", "syscalls"} {
		p := assemble(b, "speed", "-DPROGRAM="+name)
		for _, engine := range []string{"interpreter", "jit"} {
			b.Run(name+"/"+engine, func(b *testing.B) {
				m := p.start(b, 1)
				if engine == "jit" {
					translated(b, m, largeCache)
				}
				apply(b, m, endless)
				m.Run(1_000_000)
				const slice = 1_000_000
				for b.Loop() {
					m.Run(m.Step() + slice)
				}
				b.ReportMetric(float64(b.N)*slice/1e6/b.Elapsed().Seconds(), "Msteps/s")
				b.ReportMetric(100*float64(m.Translated().Steps)/float64(m.Step()), "%translated")
			})
		}
	}
}

// Go's runtime and translated code do not disturb each other: collections of
// garbage, stacks that grow and move, and the signals of the profiler.
func TestTranslatedInGo(t *testing.T) {
	p := assemble(t, "speed", "-DPROGRAM=calls")
	start := func() *machine.Machine {
		m := p.start(t, 1)
		apply(t, m, endless)
		return m
	}
	runtime.SetCPUProfileRate(5000) // Hz; StartCPUProfile grumbles, and keeps it
	var profile bytes.Buffer
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC()
			}
		}
	})
	m := translated(t, start(), largeCache)
	const slice = 200_000
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for i := range rounds {
		grown := make(chan struct{})
		go func() { // on a new stack, at some depth of it
			defer close(grown)
			deep(i%100*20, func() { m.Run(m.Step() + slice) })
		}()
		<-grown
	}
	close(done)
	wg.Wait()
	pprof.StopCPUProfile()
	oracle := start()
	oracle.Run(event.Step(rounds * slice))
	if m.HashAll() != oracle.HashAll() {
		t.Errorf("%s, want %s", m.Describe(), oracle.Describe())
	}
}

// deep calls f below n frames of half a KiB.
func deep(n int, f func()) byte {
	var frame [512]byte
	if n == 0 {
		f()
		return 0
	}
	frame[n%512] = deep(n-1, f)
	return frame[(n+1)%512]
}
