// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine/event"
)

// What an operator asks of a protected VM (paper §3.3). Each request either begins, or
// returns an error that says why it can't be now and what to do. Those about the VM
// become control entries, so that both copies carry them out at one step; those about
// the pair end it in order, and Operation tells what came of them.

// ErrRefused is wrapped by the errors of requests that the present state forbids.
var ErrRefused = errors.New("not possible now")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

// The least share of a CPU that a machine can be given, in thousandths.
const LeastCPUShare = 10

// switchTime is how long a change of roles may keep the guest waiting for its own disk
// I/O (§3.3: "the primary can simply wait for its own") before it is given up.
const switchTime = ft.Second

// Names of operations.
const (
	SwitchOperation = "switch"
	DetachOperation = "detach"
	ResizeOperation = "resize"
	AttachOperation = "attach"
)

// Operation is a request that takes a while: the newest one.
type Operation struct {
	Name  string // empty: there was none
	Under bool   // it is under way
	Err   error  // why it was given up

	deadline ft.Time // of a switch: the machine waits until then at most; of others: the disk
	slot     event.DeviceID
	size     uint64 // of a resize: the disk's
}

// Operation returns how the newest Switch or Detach goes.
func (r *Replica) Operation() Operation { return r.op }

// PowerOff pulls the plug on the VM: both copies end.
func (r *Replica) PowerOff() error {
	if err := r.operable(); err != nil {
		return err
	}
	if _, ended := r.m.Exited(); !ended {
		r.control(event.PowerOff, 0)
	}
	return nil
}

// Shutdown asks the guest to shut down: it presses the power button. What comes of it
// is the guest's affair; if it powers off, both copies end.
func (r *Replica) Shutdown() error {
	if err := r.running(); err != nil {
		return err
	}
	if !r.m.ButtonDriven() {
		return refused("the guest has no driver for its power button, virtio_input, or none yet: try again once it has booted, or run poweroff at its console, or pull the plug with stop")
	}
	r.wake(true)
	r.control(event.PowerButton, 0)
	return nil
}

// Reset presses the reset button.
func (r *Replica) Reset() error {
	if err := r.running(); err != nil {
		return err
	}
	r.wake(true)
	r.control(event.Reset, 0)
	return nil
}

// SetCPUShare bounds what the machine uses of one CPU, in thousandths, on this host and
// on that of any copy that goes on later.
func (r *Replica) SetCPUShare(thousandths int) error {
	if thousandths < LeastCPUShare || thousandths > ft.FullShare {
		return refused("a CPU share of %d: choose from %d to %d thousandths", thousandths, LeastCPUShare, ft.FullShare)
	}
	if err := r.running(); err != nil {
		return err
	}
	r.control(event.CPUShare, uint64(thousandths))
	return nil
}

// SetMemory asks the guest to run in so many bytes of its memory, and to give back the
// rest: its balloon driver does so as far as it can. Memory tells how far that is.
func (r *Replica) SetMemory(bytes uint64) error {
	if err := r.running(); err != nil {
		return err
	}
	ram := r.m.Config().RAM
	if bytes < min(event.LeastMemory, ram) || bytes > ram {
		return refused("memory of %d bytes: choose from %d to %d, which is all that the VM has", bytes, min(event.LeastMemory, ram), ram)
	}
	if _, driven := r.m.Given(); !driven {
		return refused("the guest has no driver for its memory balloon, virtio_balloon, or none yet: try again once it has booted")
	}
	r.wake(true)
	r.control(event.Balloon, ram-bytes)
	return nil
}

// Memory returns what the guest is to run in, in bytes, and what it does without at present.
func (r *Replica) Memory() (wanted, given uint64) {
	if r.m == nil {
		return 0, 0
	}
	cfg := r.m.Config()
	given, _ = r.m.Given()
	return cfg.RAM - cfg.Balloon, given
}

// CPUShare returns the bound, in thousandths.
func (r *Replica) CPUShare() int { return r.limit }

// Switch changes the roles of a protected pair: the machine stops until its disk I/O is
// done and its outputs have left, then the backup goes on, and this copy halts. If it
// can't, this copy goes on.
func (r *Replica) Switch() error {
	if err := r.protected(); err != nil {
		return err
	}
	r.op = Operation{Name: SwitchOperation, Under: true, deadline: r.now + switchTime}
	r.report(Event{Kind: Operated, Text: "the roles are to change: the guest waits for its disk I/O"})
	return nil
}

// Detach ends the backup: it halts, and this copy goes on alone.
func (r *Replica) Detach() error {
	err := r.running()
	if err == nil {
		switch s := r.p.State(); s {
		case ft.Syncing, ft.Protected:
		default:
			err = refused("there is no backup to detach (%v)", s)
		}
	}
	if err != nil {
		return err
	}
	r.op = Operation{Name: DetachOperation, Under: true}
	if err := r.p.Detach(r.now, "the operator asked for it"); err != nil {
		r.endOperation(err)
		return err
	}
	r.act()
	return nil
}

// TestFailover reports whether this copy may be killed so that the backup goes on. Who
// asks does the killing, at once.
func (r *Replica) TestFailover() error { return r.protected() }

// operable says why nothing can be asked of this copy now.
func (r *Replica) operable() error {
	r.now = r.clock()
	r.expire()
	switch {
	case r.done != nil:
		return refused("this copy has ended: %w", r.done)
	case r.p == nil:
		return refused("this copy is a backup: ask the VM's primary")
	case r.op.Under:
		return refused("%s is under way: try again when it has ended, at the copy that is the primary then", r.op.Name)
	}
	return nil
}

func (r *Replica) running() error {
	err := r.operable()
	if err == nil {
		if _, ended := r.m.Exited(); ended {
			err = refused("the VM has ended")
		}
	}
	return err
}

func (r *Replica) protected() error {
	err := r.running()
	if err == nil {
		switch s := r.p.State(); s {
		case ft.Protected:
		case ft.Solo:
			err = refused("the VM has no backup (%v): attach one and wait until the state is Protected", s)
		default:
			err = refused("the VM is not protected (%v): wait until the state is Protected", s)
		}
	}
	return err
}

// control writes an operation into the log.
func (r *Replica) control(op event.ControlOp, arg uint64) {
	r.record(event.Control{Op: op, Arg: arg})
	r.act()
}

// heed sees a control entry on either side, when it was applied.
func (r *Replica) heed(c event.Control) {
	switch c.Op {
	case event.CPUShare:
		r.limit = int(min(max(c.Arg, LeastCPUShare), ft.FullShare))
		r.report(Event{Kind: Operated, Text: fmt.Sprintf("the machine may use %d thousandths of a CPU", r.limit)})
	case event.Reset:
		r.report(Event{Kind: Operated, Text: "the reset button was pressed"})
	case event.PowerOff:
		r.report(Event{Kind: Operated, Text: "the plug was pulled"})
	case event.Resize:
		r.resized(event.Resized(c.Arg))
	case event.Balloon:
		r.report(Event{Kind: Operated, Text: fmt.Sprintf("the guest is asked to do without %d bytes of its memory", c.Arg)})
	case event.PowerButton:
		r.report(Event{Kind: Operated, Text: "the power button was pressed"})
	}
}

// share is what the machine may use of a CPU, in thousandths.
func (r *Replica) share() int { return max(r.p.Status().Share*r.limit/ft.FullShare, 1) }

// quiescing reports that the machine must not run, for the roles are to change: what is
// outstanding comes to its end.
func (r *Replica) quiescing() bool { return r.op.Under && r.op.Name == SwitchOperation }

// handOver changes the roles once the machine's own I/O is done (§3.3), what it said has
// left, and the backup has nearly no log left to execute.
func (r *Replica) handOver() {
	if !r.quiescing() || r.p.Leaving() {
		return
	}
	switch s := r.p.Status(); {
	case s.State != ft.Protected:
		r.endOperation(fmt.Errorf("the VM is not protected any more (%v)", s.State))
	case len(r.held) == 0 && s.Lag < r.cfg.FT.LagCut && len(r.m.PendingDisk()) == 0:
		if err := r.p.HandOver(r.now); err != nil {
			r.endOperation(err)
		}
		r.act()
	case r.now >= r.op.deadline:
		r.endOperation(fmt.Errorf("not ready within %d ms (%d disk requests outstanding, %d outputs held, a lag of %d ms): the guest goes on here",
			switchTime/ft.Millisecond, len(r.m.PendingDisk()), len(r.held), s.Lag/ft.Millisecond))
	}
}

// conclude ends an operation that a change of state has decided.
func (r *Replica) conclude(c ft.Changed) {
	switch {
	case !r.op.Under:
	case (r.op.Name == ResizeOperation || r.op.Name == AttachOperation) && c.To != ft.Halted && c.To != ft.Off: // with or without a backup
	case r.op.Name == DetachOperation && (c.To == ft.Solo || c.To == ft.Off):
		r.endOperation(nil)
	case r.op.Name == SwitchOperation && c.To == ft.Halted && r.p.Leaving():
		r.endOperation(nil)
	case c.To == ft.Halted, c.To == ft.Off:
		r.endOperation(errors.New(c.Why))
	case c.To == ft.Solo, c.To == ft.Claiming && r.quiescing() && !r.p.Leaving():
		r.endOperation(fmt.Errorf("the backup did not take over (%s): this copy goes on", c.Why))
	}
}

func (r *Replica) endOperation(err error) {
	r.op.Under, r.op.Err = false, err
	text := r.op.Name + ": done"
	if err != nil {
		text = fmt.Sprintf("%s: given up: %v", r.op.Name, err)
	}
	r.report(Event{Kind: Operated, Text: text})
}
