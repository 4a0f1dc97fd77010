// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tandem/demo"
	"tandem/image"
)

// demoMemory is enough for Debian and its database.
const demoMemory = 128 << 20

func demoCommand() *cobra.Command {
	o := demo.Options{Out: os.Stdout}
	var format, kill, engine, reads, disks string
	c := &cobra.Command{
		Use:   "demo",
		Short: "The whole story on this machine: a pair, a database, a kill, nothing lost",
		Long: "Boots a stock Debian guest with Redis as a fault-tolerant pair, drives it over one TCP\n" +
			"connection, kills the primary with SIGKILL, goes on and checks every acknowledged write.\n" +
			"Ends with 1 if anything was lost.",
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return usageError{fmt.Errorf("--format %s: choose text or json", format)}
			}
			if !slices.Contains(demo.Victims, demo.Victim(kill)) {
				return usageError{fmt.Errorf("--kill %s: choose one of %v", kill, demo.Victims)}
			}
			if n, err := parseSize(o.Memory); err != nil || n < demoMemory {
				return usageError{fmt.Errorf("--memory %s: give the guest at least %dM", o.Memory, demoMemory>>20)}
			}
			if reads != "log" && reads != "backup" {
				return usageError{fmt.Errorf("--reads %s: choose log or backup", reads)}
			}
			if disks != "shared" && disks != "replicated" {
				return usageError{fmt.Errorf("--disks %s: choose shared or replicated", disks)}
			}
			o.BackupReads, o.Replicated = reads == "backup", disks == "replicated"
			o.Engines = [2]string{engine, engine}
			if engine == engineMixed {
				o.Engines = [2]string{engineJIT, engineInterpreter}
			}
			return runDemo(c, o, demo.Victim(kill), format, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&o.Mirror, "mirror", "", "Debian mirror; default $TANDEM_MIRROR, then the host's apt configuration")
	f.DurationVar(&o.Before, "before", 5*time.Second, "load before the kill")
	f.DurationVar(&o.After, "after", 5*time.Second, "load after the kill")
	f.StringVar(&o.Memory, "memory", "512M", "guest memory")
	f.StringVar(&kill, "kill", string(demo.KillPrimary), "who is killed: primary, backup, both (then the VM starts again from its disk), stopped (a primary that sleeps and wakes), or switch (nobody: the roles change three times)")
	f.BoolVar(&o.Again, "again", false, "then give the survivor a new backup under load, and kill the primary once more")
	f.StringVar(&engine, "engine", defaultEngine(), "jit, interpreter, or mixed: a primary that translates and a backup that interprets")
	f.StringVar(&disks, "disks", "shared", "shared: one disk that a store serves; replicated: one for each copy")
	f.StringVar(&reads, "reads", "log", "where the backup takes what is read from disk: from the log, or from the disk itself (backup)")
	f.StringVar(&format, "format", "text", "text, or json for one object as the last line")
	return c
}

// engineMixed gives the two copies of the demo different engines.
const engineMixed = "mixed"

func runDemo(c *cobra.Command, o demo.Options, kill demo.Victim, format string, out io.Writer) (err error) {
	if o.Executable, err = os.Executable(); err != nil {
		return err
	}
	o.Kill, o.Out = kill, out
	o.Progress = image.NewProgress(os.Stderr)
	sum, err := demo.Run(c.Context(), o)
	if err != nil {
		return err
	}
	sum.Print(out)
	if format == "json" {
		if err := sum.JSON(out); err != nil {
			return err
		}
	}
	if sum.Lost > 0 {
		return fmt.Errorf("%d acknowledged writes were lost", sum.Lost)
	}
	return nil
}
