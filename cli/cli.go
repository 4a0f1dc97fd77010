// SPDX-License-Identifier: Apache-2.0

// Package cli is the command tandem: flags in, packages called, tables and
// errors out. A command ends with 0, with 1 for a failure or with 2 for wrong
// usage; tandem run ends with what the guest gave the test device.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// exitError carries an exit code without a message of its own.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is wrong usage: exit code 2.
type usageError struct{ error }

// Main runs the command and returns its exit code.
func Main(args []string) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "tandem: %v\n", err)
		return 2
	}
	fmt.Fprintf(os.Stderr, "tandem: %v\n", err)
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tandem",
		Short: "Fault-tolerant virtual machines by deterministic replay",
		Long: "tandem runs a virtual machine twice, on two hosts, in virtual lockstep. When a host dies\n" +
			"the other copy carries on from the same instruction: TCP connections stay open, no\n" +
			"acknowledged write is lost, and the guest knows nothing of it.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	group(root)
	root.AddCommand(runCommand(), replayCommand(), imageCommand(), storeCommand(), switchCommand(),
		replicaCommand(), demoCommand(), versionCommand(), nodeCommand(), witnessCommand(), clusterCommand(), nodesCommand(), topCommand())
	root.AddCommand(vmCommands()...)
	root.AddCommand(doctorCommand(), bundleCommand(), manCommand())
	root.InitDefaultCompletionCmd()
	arrange(root)
	finish(root)
	return root
}

// kinds are the types of flags as people call them.
var kinds = map[string]string{"int": "number", "bool": "true or false", "duration": "duration like 300ms or 5s"}

// group makes c a command that only has others: alone it prints its help.
func group(c *cobra.Command) {
	c.Args = func(c *cobra.Command, a []string) error {
		if len(a) == 0 {
			return nil
		}
		hint := ""
		if near := c.SuggestionsFor(a[0]); len(near) > 0 {
			hint = fmt.Sprintf(", perhaps you meant %s", strings.Join(near, " or "))
		}
		return usageError{fmt.Errorf("%s has no command %q%s; see %s --help", c.CommandPath(), a[0], hint, c.CommandPath())}
	}
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// args checks the number of arguments as usage.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if len(a) < min || len(a) > max {
			return usageError{fmt.Errorf("%s needs %s; see %s --help", c.CommandPath(), what, c.CommandPath())}
		}
		return nil
	}
}
