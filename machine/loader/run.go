// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"tandem/machine"
	"tandem/machine/event"
)

// Result is how a bare-metal program ended.
type Result struct {
	Code      int    // 0 is success; a failed test is its number
	Signature []byte // begin_signature to end_signature, nil where the program has none
	Console   []byte // what it printed
	Steps     event.Step
}

// ErrUnfinished is wrapped by the error for a program that did not end in its steps.
var ErrUnfinished = errors.New("the program did not end")

// testRate is the clock of RunELF: one tick in 16 steps, as if the hart ran at
// 160 million steps a second.
const testRate = 1 << event.RateShift / 16

// RunELF runs a bare-metal ELF program on one hart of a machine of its own
// until it stores to tohost or powers off, for at most limit steps. Guest time
// follows the steps and skips idle time, so that the result is always the same.
func RunELF(ram uint64, file []byte, limit event.Step) (Result, error) {
	prog, err := ELF(ram, file)
	if err != nil {
		return Result{}, err
	}
	m, err := machine.New(machine.Config{Harts: 1, RAM: ram, Levels: 5, Boot: prog.Boot}, make([]byte, ram))
	if err != nil {
		return Result{}, err
	}
	var r Result
	if err := r.run(m, limit); err != nil {
		return r, err
	}
	if size := prog.SignatureEnd - prog.SignatureBegin; prog.SignatureEnd > prog.SignatureBegin && size <= ram {
		r.Signature = make([]byte, size)
		if !m.Memory(prog.SignatureBegin, r.Signature) {
			return r, fmt.Errorf("the signature at %#x to %#x lies outside memory", prog.SignatureBegin, prog.SignatureEnd)
		}
	}
	return r, nil
}

// run drives the machine: the clock is all that it needs from the world.
func (r *Result) run(m *machine.Machine, limit event.Step) error {
	clock := event.Clock{Rate: testRate, Limit: limit}
	for {
		clock.Base = max(clock.Base, m.Time())
		if err := m.Apply(clock); err != nil {
			return err
		}
		stop := m.Run(limit)
		r.Steps = m.Step()
		for _, o := range m.Outputs() {
			switch b := o.Body.(type) {
			case event.ConsoleOut:
				r.Console = append(r.Console, b.Data...)
			case event.Exit:
				r.Code = b.Code
			}
		}
		switch stop {
		case event.StopExit:
			return nil
		case event.StopIdle:
			due, ok := m.NextTimer()
			if !ok {
				return fmt.Errorf("%w: it waits for an interrupt that never comes (%s)", ErrUnfinished, m.Describe())
			}
			clock.Base = due
		case event.StopLimit, event.StopClock:
			return fmt.Errorf("%w in %d steps (%s)", ErrUnfinished, limit, m.Describe())
		}
	}
}
