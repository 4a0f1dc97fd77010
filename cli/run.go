// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"tandem/host"
	"tandem/host/ram"
	"tandem/host/site"
	"tandem/host/term"
	"tandem/image"
	"tandem/machine"
	"tandem/machine/state"
	"tandem/replay"
	"tandem/replica"
)

func runCommand() *cobra.Command {
	var v vmFlags
	var record, signature string
	var confine confineFlag
	c := &cobra.Command{
		Use:   "run [IMAGE]",
		Short: "Run one VM in the terminal",
		Long: "Runs a VM with its console on this terminal. Ctrl-A x leaves. The exit code is 0 when the\n" +
			"guest powers off, else what it gave the test device.",
		Example: "  tandem run ./web --forward 127.0.0.1:6379:6379\n" +
			"  tandem run --kernel Image --initrd initrd --append console=ttyS0 --disk root.raw\n" +
			"  tandem run --firmware fw_dynamic.bin --kernel u-boot.bin\n" +
			"  tandem run ./web --record boot.log && tandem replay boot.log",
		Args: args(0, 1, "at most one image"),
		RunE: func(c *cobra.Command, a []string) error {
			if signature != "" && v.elf == "" {
				return usageError{errors.New("--signature is of a test program: give it with --elf")}
			}
			var img *image.Image
			if len(a) == 1 {
				var err error
				if img, err = openImage(a[0]); err != nil {
					return err
				}
			}
			vm, err := v.build(img)
			if err != nil {
				return err
			}
			if err := confine.check(); err != nil {
				return err
			}
			e, err := v.engine.open()
			if err != nil {
				return err
			}
			return errors.Join(run(c.Context(), vm, e, confine, record, signature), e.close(c.ErrOrStderr()))
		},
	}
	v.add(c.Flags())
	confine.add(c.Flags())
	c.Flags().StringVar(&record, "record", "", "write the log of this run to a file, for tandem replay")
	c.Flags().StringVar(&signature, "signature", "", "with --elf: write begin_signature to end_signature to a file, in hex words")
	return c
}

// run runs an unprotected VM until it ends.
func run(ctx context.Context, vm vm, e *engine, bounds confineFlag, record, signature string) error {
	memory, err := ram.New(vm.config.RAM)
	if err != nil {
		return err
	}
	defer memory.Close()
	m, err := machine.New(vm.config, memory.Bytes())
	if err != nil {
		return err
	}
	if err := e.use(m, memory); err != nil {
		return err
	}
	host.LeanHeap()
	e.returnMemory()
	clock := host.NewClock()
	wake, woken := host.Wake()
	for _, s := range vm.slots {
		if s.Reads || s.Mode.Own() {
			return usageError{fmt.Errorf("--disk %s: reads=backup, mode=replicated and flush=both are for a pair: leave them out", s.Disk)}
		}
	}
	s := site.New(site.Config{VM: vm.name, Slots: vm.slots, Wake: wake})
	devices, err := s.OpenNow(0)
	if err != nil {
		return err
	}
	defer site.Close(devices)
	cfg := replica.DefaultConfig()
	cfg.FT.VM = [16]byte{'r', 'u', 'n'}
	cfg.Console = vm.console
	closeRecord, err := recordTo(record, vm.config, &cfg)
	if err != nil {
		return err
	}
	console, err := term.New(os.Stdin, os.Stdout, wake)
	if err != nil {
		return err
	}
	defer console.Close()
	r, err := replica.NewPrimary(cfg, replica.World{Clock: clock, Entropy: host.Entropy{}, Site: s, Terminal: console}, m, 1, devices)
	if err != nil {
		return err
	}
	needs := s.Needs()
	needs.Perf = e.perf != nil
	if signature != "" {
		needs.Write = append(needs.Write, filepath.Dir(signature))
	}
	if err := bounds.enter(needs); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-console.Quit():
			cancel()
		case <-ctx.Done():
		}
	}()
	err = host.Run(ctx, clock, woken, r.Turn)
	console.Close()
	if err := closeRecord(); err != nil {
		return fmt.Errorf("recording %s: %w", record, why(err))
	}
	select {
	case <-console.Quit():
		fmt.Fprintln(os.Stderr) // the prompt that follows has a line of its own
		return nil
	default:
	}
	if err != nil {
		return errors.New("stopped by a signal: the guest was not shut down")
	}
	return ended(r, m, vm, signature)
}

// ended turns the end of a replica into the command's.
func ended(r *replica.Replica, m *machine.Machine, vm vm, signature string) error {
	if err := r.Err(); !errors.Is(err, replica.ErrEnded) {
		return err
	}
	if signature != "" {
		if err := writeSignature(m, vm, signature); err != nil {
			return err
		}
	}
	code := r.ExitCode()
	if code != 0 && vm.config.Boot.ToHost != 0 {
		fmt.Fprintf(os.Stderr, "tandem: test %d failed\n", code)
		return exitError(min(code, maxTestStatus))
	}
	return exitStatus(code)
}

// What a process can return: the highest status, and the highest that a shell
// does not take for its own.
const (
	maxStatus     = 255
	maxTestStatus = 125
)

// exitStatus is the guest's exit code as that of the command.
func exitStatus(code int) error {
	if code == 0 {
		return nil
	}
	return exitError(min(code, maxStatus))
}

// writeSignature dumps what the architecture tests compare: 4-byte words in hex.
func writeSignature(m *machine.Machine, vm vm, path string) error {
	p := vm.program
	if p.SignatureEnd <= p.SignatureBegin || p.SignatureEnd-p.SignatureBegin > vm.config.RAM {
		return errors.New("the program has no symbols begin_signature and end_signature: build it for the architecture tests")
	}
	b := make([]byte, (p.SignatureEnd-p.SignatureBegin+3)&^3)
	if !m.Memory(p.SignatureBegin, b) {
		return errors.New("the signature lies outside the machine's memory")
	}
	var out bytes.Buffer
	for ; len(b) > 0; b = b[4:] {
		fmt.Fprintf(&out, "%02x%02x%02x%02x\n", b[3], b[2], b[1], b[0])
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("--signature %s: %w; name a file that can be written", path, why(err))
	}
	return nil
}

// recordTo makes cfg write its log to a file.
func recordTo(path string, vm machine.Config, cfg *replica.Config) (closer func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--record %s: %w; name a file that can be written", path, why(err))
	}
	description, err := describe(vm)
	if err != nil {
		return nil, err
	}
	w, err := replay.NewWriter(f, description)
	if err != nil {
		return nil, err
	}
	cfg.Sink = w.Append
	return func() error { return errors.Join(w.Close(), f.Close()) }, nil
}

// describe encodes a machine's Config for the head of a recording: the Config's
// State, compressed with Zstandard.
func describe(vm machine.Config) ([]byte, error) {
	var b bytes.Buffer
	zip, err := zstd.NewWriter(&b)
	if err != nil {
		return nil, err
	}
	c := state.Saver(zip)
	vm.State(c)
	err = errors.Join(c.Err(), zip.Close())
	return b.Bytes(), err
}

const (
	maxDescribed = 2*machine.MaxBootBytes + 1<<20 // of a description: kernel, initrd, and the rest
	maxWindow    = 32 << 20                       // that its decoder must keep; describe asks for 8 MiB
)

// undescribe reads what describe wrote, of at most limit bytes.
func undescribe(b []byte, limit int64) (vm machine.Config, err error) {
	zip, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return vm, err
	}
	defer zip.Close()
	c := state.Loader(io.LimitReader(zip, limit))
	vm.State(c)
	if c.Err() != nil {
		return vm, fmt.Errorf("the recording's machine: %w", c.Err())
	}
	return vm, vm.CheckRAM()
}
