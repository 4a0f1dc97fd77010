// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/host/etcd"
	"tandem/node"
)

// notProtected is the exit code of tandem ft status for a VM that isn't.
const notProtected = 3

// vmCommands are those about the VMs of a cluster.
func vmCommands() []*cobra.Command {
	yes, no := true, false
	change := func(use, short string, q node.VMChange) *cobra.Command {
		return asking(use+" NAME", short, 1, 1, "the name of a VM", func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
			return a.client().ChangeVM(ctx, list[0], q)
		})
	}
	ft := &cobra.Command{Use: "ft", Short: "Fault tolerance of a VM"}
	group(ft)
	ft.AddCommand(
		change("enable", "Keep a backup of a VM that could go on at any moment", node.VMChange{FT: &yes}),
		change("disable", "End a VM's backup, and make no other", node.VMChange{FT: &no}),
		ftStatus(), testFailover(),
		moveCommand("migrate-backup", "Move a VM's backup to another host", "A pair has one backup at a time: the old one ends before the new one is cloned, so the VM is\n"+
			"unprotected while it is copied. Move to a host that is known to be good.", "backup"))
	disk := &cobra.Command{Use: "disk", Short: "Disks of a VM"}
	group(disk)
	disk.AddCommand(attachCommand(), detachCommand(), moveDiskCommand(), resizeCommand())
	return []*cobra.Command{createCommand(), disk,
		change("start", "Start a VM", node.VMChange{Power: &yes}),
		change("stop", "Pull the plug on a VM", node.VMChange{Power: &no}),
		asking("delete NAME", "End a VM and forget it; its disks stay where they are", 1, 1, "the name of a VM",
			func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
				return a.client().Delete(ctx, list[0])
			}),
		moveCommand("migrate", "Move a running VM to another host", "The backup takes over if it is on that host; else it is moved there first, and a VM without FT is copied.\n"+
			"Connections stay open. A VM with FT is protected again by a new backup afterwards.", "primary"),
		atOnce("reset", "Press a VM's reset button"),
		shutdownCommand(), memoryCommand(),
		consoleCommand(), listCommand(), infoCommand(), eventsCommand(), ft}
}

func createCommand() *cobra.Command {
	q := node.CreateRequest{}
	s := &q.Spec
	var memory, diskSize string
	var timeout time.Duration
	var drives uint8
	c := asking("create NAME", "Make a VM in the cluster", 1, 1, "a name",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			q.Name = list[0]
			for _, z := range []struct {
				flag, text string
				to         func(uint64)
			}{{"memory", memory, func(n uint64) { s.Memory = int64(n) }}, {"disk-size", diskSize, func(n uint64) {
				for range s.Disks {
					s.Sizes = append(s.Sizes, n)
				}
			}}} {
				if z.text == "" {
					continue
				}
				n, err := sizeOf(z.flag, z.text)
				if err != nil {
					return err
				}
				z.to(n)
			}
			for _, path := range []*string{&s.Image, &s.Kernel, &s.Initrd, &s.Firmware} {
				if *path != "" && (path != &s.Image || strings.ContainsRune(*path, '/')) {
					whole, err := filepath.Abs(*path)
					if err != nil {
						return err
					}
					*path = whole
				}
			}
			free := max(0, maxDisks-len(s.Disks))
			if s.Terminal == terminalVirtio {
				free = max(0, free-1)
			}
			if c.Flags().Changed("drives") && int(drives) > free {
				return usageError{fmt.Errorf("--drives %d: beside %d disks there is room for %d", drives, len(s.Disks), free)}
			}
			for range min(int(drives), free) {
				s.Disks = append(s.Disks, etcd.EmptyDrive)
			}
			if c.Flags().Changed("timeout") {
				s.Timeout = timeout.String()
			}
			return a.client().Create(ctx, q)
		})
	f := c.Flags()
	f.StringVar(&s.Image, "image", "", "name of an image, or the path of its folder; the same on every host")
	f.StringVar(&s.Kernel, "kernel", "", "Linux Image to boot; the same path on every host")
	f.StringVar(&s.Initrd, "initrd", "", "initial RAM disk")
	f.StringVar(&s.Append, "append", "", "kernel command line")
	f.StringVar(&s.Firmware, "firmware", "", "OpenSBI or U-Boot to start in M-mode")
	f.IntVar(&s.CPUs, "cpus", 1, "number of harts")
	f.StringVarP(&memory, "memory", "m", "512M", "guest memory, in bytes or with K, M or G")
	f.StringArrayVar(&s.Disks, "disk", nil, "nbd://HOST:PORT/EXPORT of a tandem store that every host reaches; may be repeated")
	f.Uint8Var(&drives, "drives", 2, "empty drives, into which disk attach puts disks while the VM runs")
	f.StringVar(&diskSize, "disk-size", "", "size of the disks, if the server may not be asked")
	f.StringVar(&s.Network, "network", "none", "switch:ADDRESS, tap:NAME[,bridge=BRIDGE][,mtu=BYTES] (the same on every host) or none")
	f.StringVar(&s.Terminal, "terminal", "", "the guest's console that is kept: uart (ttyS0) or virtio (hvc0)")
	f.StringVar(&s.Engine, "engine", "", "interpreter or jit")
	f.DurationVar(&timeout, "timeout", 300*time.Millisecond, "detection timeout")
	f.BoolVar(&q.FT, "ft", false, "keep a backup that could go on at any moment")
	f.BoolVar(&q.Start, "start", false, "start it at once")
	f.StringVar(&s.Host, "host", "", "preferred host for its start")
	f.StringArrayVar(&s.Labels, "label", nil, "label that its hosts must have; may be repeated")
	f.StringArrayVar(&s.Groups, "group", nil, "anti-affinity group: no two primaries of one on a host; may be repeated")
	f.StringVar(&s.Spread, "spread", "prefer", "failure domains of the copies: prefer, or require different ones")
	return c
}

func listCommand() *cobra.Command {
	return asking("list", "List the VMs of the cluster", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
			list, err := a.client().VMs(ctx)
			if err != nil {
				return err
			}
			return a.show(c.OutOrStdout(), list, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tSTATUS\tPRIMARY\tBACKUP\tCPUS\tMEMORY\t")
				for _, v := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t\n", v.Name, v.Status, where(v.Primary), where(v.Backup), v.Spec.CPUs, size(v.Spec.Memory))
				}
			})
		})
}

func where(c *node.CopyInfo) string {
	if c == nil {
		return "-"
	}
	return c.Node + " (" + c.State + ")"
}

func describeVM(w io.Writer, v node.VMInfo) {
	fmt.Fprintf(w, "status\t%s\n", v.Status)
	if v.Detail != "" {
		fmt.Fprintf(w, "detail\t%s\n", v.Detail)
	}
	fmt.Fprintf(w, "epoch\t%d\nprimary\t%s\nbackup\t%s\n", v.Epoch, where(v.Primary), where(v.Backup))
	if v.Next != nil {
		fmt.Fprintf(w, "next\t%s\n", where(v.Next))
	}
}

func infoCommand() *cobra.Command {
	return asking("info NAME", "Show a VM", 1, 1, "the name of a VM",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			v, err := a.client().VM(ctx, list[0])
			if err != nil {
				return err
			}
			return a.show(c.OutOrStdout(), v, func(w io.Writer) {
				fmt.Fprintf(w, "name\t%s\nshould run\t%v\nFT\t%v\n", v.Name, v.Power, v.FT)
				describeVM(w, v)
				memory := size(v.Spec.Memory)
				if v.Spec.Target > 0 && v.Spec.Target < v.Spec.Memory {
					memory += ", of which the guest is asked to use " + size(v.Spec.Target)
				}
				fmt.Fprintf(w, "CPUs\t%d\nmemory\t%s\nimage\t%s\nkernel\t%s\nnetwork\t%s\n", v.Spec.CPUs, memory, v.Spec.Image, v.Spec.Kernel, v.Spec.Network)
				for _, d := range v.Spec.Disks {
					fmt.Fprintf(w, "disk\t%s\n", d)
				}
			})
		})
}

func eventsCommand() *cobra.Command {
	return asking("events NAME", "Show what happened to a VM, and why", 1, 1, "the name of a VM",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			events, err := a.client().Events(ctx, list[0])
			if err != nil {
				return err
			}
			return a.show(c.OutOrStdout(), events, func(w io.Writer) {
				for _, e := range events {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Node, e.Kind, e.Text)
				}
			})
		})
}

func ftStatus() *cobra.Command {
	return asking("status NAME", "Show whether a VM is protected; exit status 3 if it is not", 1, 1, "the name of a VM",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			v, err := a.client().VM(ctx, list[0])
			if err != nil {
				return err
			}
			if err := a.show(c.OutOrStdout(), v, func(w io.Writer) { describeVM(w, v) }); err != nil {
				return err
			}
			if !v.Protected {
				return exitError(notProtected)
			}
			return nil
		})
}
