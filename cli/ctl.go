// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tandem/host/control"
)

// controls are what a replica's control socket can be asked for.
var controls = []struct {
	name string
	do   func(c *control.Client, arg string) error
}{
	{"stop", func(c *control.Client, _ string) error { return c.PowerOff() }},
	{"shutdown", func(c *control.Client, _ string) error { return c.Shutdown() }},
	{"reset", func(c *control.Client, _ string) error { return c.Reset() }},
	{"cpu-share", func(c *control.Client, arg string) error {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return usageError{fmt.Errorf("cpu-share %s: give a number of thousandths of one CPU", arg)}
		}
		return c.SetCPUShare(n)
	}},
	{"memory", func(c *control.Client, arg string) error {
		n, err := parseSize(arg)
		if err != nil {
			return usageError{fmt.Errorf("memory %s: %w", arg, err)}
		}
		return c.SetMemory(n)
	}},
	{"disk-resize", func(c *control.Client, arg string) error {
		slot, size, _ := strings.Cut(arg, ":")
		n, err := strconv.Atoi(slot)
		bytes, err2 := parseSize(size)
		if err != nil || err2 != nil {
			return usageError{fmt.Errorf("disk-resize %s: give the disk's number and its new size, for instance 0:20G", arg)}
		}
		return c.ResizeDisk(n, bytes)
	}},
	{"disk-attach", func(c *control.Client, arg string) error {
		n, disk, err := diskArgument("disk-attach", arg)
		if err != nil {
			return err
		}
		return c.InsertDisk(n, disk)
	}},
	{"disk-detach", onDisk("disk-detach", (*control.Client).EjectDisk)},
	{"disk-move", func(c *control.Client, arg string) error {
		n, disk, err := diskArgument("disk-move", arg)
		if err != nil {
			return err
		}
		return c.MoveDisk(n, disk)
	}},
	{"disk-settle", onDisk("disk-settle", (*control.Client).SettleDisk)},
	{"disk-stay", func(c *control.Client, _ string) error { return c.StayDisk() }},
	{"switch", func(c *control.Client, _ string) error { return c.Switch() }},
	{"detach", func(c *control.Client, _ string) error { return c.Detach() }},
	{"resume", func(c *control.Client, _ string) error { return c.Resume() }},
	{"report", func(c *control.Client, _ string) error { return c.ReportDiskErrors() }},
	{"test-failover", func(c *control.Client, _ string) error { return c.TestFailover() }},
}

// diskArgument reads a slot and an address.
func diskArgument(command, arg string) (slot int, disk string, err error) {
	number, disk, _ := strings.Cut(arg, ":")
	if slot, err = strconv.Atoi(number); err != nil || disk == "" {
		return 0, "", usageError{fmt.Errorf("%s %s: give the disk's number and its place, for instance 1:nbd://10.0.0.5/data", command, arg)}
	}
	return slot, disk, nil
}

// onDisk is a command whose argument is a slot.
func onDisk(command string, do func(*control.Client, int) error) func(*control.Client, string) error {
	return func(c *control.Client, arg string) error {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return usageError{fmt.Errorf("%s %s: give the disk's number", command, arg)}
		}
		return do(c, n)
	}
}

func ctlCommand() *cobra.Command {
	var yes bool
	names := []string{"status"}
	for _, k := range controls {
		names = append(names, k.name)
	}
	c := &cobra.Command{
		Use:   "ctl SOCKET COMMAND [ARGUMENT]",
		Short: "Ask one copy of a VM for something, by its control socket",
		Long: "status prints the copy's status. Of the primary's copy:\n" +
			"  stop           pull the plug: both copies end\n" +
			"  shutdown       press the power button: the guest is asked to shut down\n" +
			"  reset          press the reset button\n" +
			"  cpu-share N    bound what the VM uses of one CPU, in thousandths, on whichever host it is\n" +
			"  memory SIZE    ask the guest to run in so much of its memory, and to give back the rest\n" +
			"  disk-resize N:SIZE  make disk N larger; the first one is 0\n" +
			"  disk-attach N:URL  put a disk into the empty drive N\n" +
			"  disk-detach N  take the disk out of drive N; the guest must have unmounted it\n" +
			"  disk-move N:URL  copy disk N to another place while the VM uses it; status tells how far it is\n" +
			"  disk-settle N  leave its old place behind, once the VM will be started with the new one\n" +
			"  disk-stay      give up a move that is still copying\n" +
			"  switch         the backup becomes the primary, this copy ends\n" +
			"  detach         the backup ends, this copy goes on alone\n" +
			"  resume         of a VM that stopped as a disk failed: try that again, and go on\n" +
			"  report         of such a VM: tell the guest of the error, and go on\n" +
			"  test-failover  kill this copy as by kill -9, so that the backup goes on (with --yes)",
		Args: args(2, 3, "SOCKET COMMAND [ARGUMENT]"),
		RunE: func(c *cobra.Command, a []string) error {
			client := control.NewClient(a[0])
			if a[1] == "status" {
				s, err := client.Status()
				if err != nil {
					return fmt.Errorf("ask the replica at %s: %w", a[0], err)
				}
				out := json.NewEncoder(c.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(s)
			}
			for _, k := range controls {
				switch {
				case k.name != a[1]:
				case (k.name == "cpu-share" || k.name == "disk-resize") != (len(a) == 3):
					return usageError{fmt.Errorf("%s: cpu-share takes a number of thousandths, disk-resize N:SIZE, the others nothing", k.name)}
				case k.name == "test-failover" && !yes:
					return usageError{fmt.Errorf("test-failover kills this copy of the VM: say --yes")}
				default:
					return k.do(client, a[len(a)-1])
				}
			}
			return usageError{fmt.Errorf("there is no command %s: choose one of %s", a[1], strings.Join(names, ", "))}
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "with test-failover: the process is meant to be killed")
	return c
}
