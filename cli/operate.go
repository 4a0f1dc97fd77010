// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/cluster"
	"tandem/host"
	"tandem/host/term"
	"tandem/node"
)

// The commands about a VM that runs.

// atOnce makes a command that a VM's primary does at once.
func atOnce(name, short string) *cobra.Command {
	return asking(name+" NAME", short, 1, 1, "the name of a VM", func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
		return a.client().Command(ctx, list[0], name)
	})
}

func shutdownCommand() *cobra.Command {
	var timeout time.Duration
	c := asking("shutdown NAME", "Ask a guest to shut down, and wait until it has powered off", 1, 1, "the name of a VM",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			if timeout <= 0 {
				return usageError{fmt.Errorf("--timeout %v: say how long the guest may take", timeout)}
			}
			client := a.client()
			before, err := client.VM(ctx, list[0])
			if err != nil {
				return err
			}
			if err := client.Command(ctx, list[0], "shutdown"); err != nil {
				return err
			}
			return awaitPowerOff(ctx, c.OutOrStdout(), a, client, before, timeout)
		})
	c.Long = "Presses the VM's power button. What comes of it is the guest's affair: systemd, and the init of images\n" +
		"that tandem makes, end all programs and power off. The VM then stays off until it is started again.\n" +
		"A guest that does not heed the button runs on, and the exit status is 1."
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long the guest may take")
	return c
}

// awaitPowerOff waits until a VM that was asked to shut down has no copy that runs.
func awaitPowerOff(ctx context.Context, w io.Writer, a *asks, c *node.Client, before node.VMInfo, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	for {
		v, err := c.VM(ctx, before.Name)
		if err == nil && (v.Primary == nil || v.Primary.State == cluster.PoweredOff.String()) {
			return a.show(w, v, func(w io.Writer) {
				fmt.Fprintf(w, "%s has powered off, after %v\n", v.Name, time.Since(began).Round(100*time.Millisecond))
			})
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) != context.DeadlineExceeded {
				return fmt.Errorf("interrupted: the button was pressed; tandem info %s tells whether the guest powers off", before.Name)
			}
			return fmt.Errorf("%s has not powered off within %v: its guest is still at it, or does not heed its power button; tandem stop %s pulls the plug",
				before.Name, timeout, before.Name)
		case <-after():
		}
	}
}

func resizeCommand() *cobra.Command {
	c := asking("resize NAME SLOT SIZE", "Make a disk of a running VM larger", 3, 3, "the name of a VM, the number of its disk and a size",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			slot, err := strconv.Atoi(list[1])
			if err != nil {
				return usageError{fmt.Errorf("disk %s: give its number; the first one is 0", list[1])}
			}
			size, err := sizeOf("SIZE", list[2])
			if err != nil {
				return err
			}
			return a.client().Resize(ctx, list[0], node.ResizeRequest{Slot: slot, Bytes: size})
		})
	c.Long = "The export grows in its store, then the guest is told, at the same instruction on both copies. Its\n" +
		"file systems grow by its own tools, for instance resize2fs /dev/vda. A disk can't become smaller."
	return c
}

func memoryCommand() *cobra.Command {
	c := asking("memory NAME SIZE", "Ask a guest to run in some of its memory, and to give back the rest", 2, 2, "the name of a VM and a size",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			n, err := sizeOf("SIZE", list[1])
			if err != nil {
				return err
			}
			return a.client().SetMemory(ctx, list[0], node.MemoryRequest{Bytes: int64(n)})
		})
	c.Long = "The guest's balloon driver gives memory back as far as the guest can do without it, and takes it again when\n" +
		"more is granted, up to what the VM was made with. What it has given back the hosts of both copies have, and a\n" +
		"new backup is cloned without it. Placement counts the VM's whole memory all the same."
	return c
}

func attachCommand() *cobra.Command {
	slot := -1
	c := asking("attach NAME DISK", "Put a disk into an empty drive of a VM", 2, 2, "the name of a VM and an nbd:// address",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			q := node.AttachRequest{Disk: list[1]}
			if c.Flags().Changed("drive") {
				q.Slot = &slot
			}
			return a.client().Attach(ctx, list[0], q)
		})
	c.Long = "The guest sees a disk in place of one of no size, at the same instruction on both copies. A VM has the\n" +
		"drives that it was made with: see --drives of tandem create. The VM may run or not."
	c.Flags().IntVar(&slot, "drive", -1, "number of the drive; the first empty one if it is left out")
	return c
}

func detachCommand() *cobra.Command {
	c := asking("detach NAME SLOT", "Take a disk out of a VM", 2, 2, "the name of a VM and the number of its disk",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			slot, err := strconv.Atoi(list[1])
			if err != nil {
				return usageError{fmt.Errorf("disk %s: give its number; the first one is 0", list[1])}
			}
			return a.client().Detach(ctx, list[0], node.DetachRequest{Slot: slot})
		})
	c.Long = "Unmount it in the guest first: one that the guest is using at that moment is not taken out. Its data stay\n" +
		"where they are, and its drive stays, empty."
	return c
}

func moveDiskCommand() *cobra.Command {
	var leave, cancel bool
	c := asking("move NAME SLOT DISK", "Move a disk of a running VM to another place", 1, 3, "the name of a VM, the number of its disk and an nbd:// address",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			client := a.client()
			switch {
			case cancel && len(list) == 1:
				return client.StayDisk(ctx, list[0])
			case cancel || len(list) != 3:
				return usageError{errors.New("give NAME SLOT DISK, or NAME --cancel")}
			}
			slot, err := strconv.Atoi(list[1])
			if err != nil {
				return usageError{fmt.Errorf("disk %s: give its number; the first one is 0", list[1])}
			}
			if err := client.MoveDisk(ctx, list[0], node.DiskMoveRequest{Slot: slot, Disk: list[2]}); err != nil || leave {
				return err
			}
			return awaitDiskMove(ctx, c.ErrOrStderr(), client, list[0], slot, list[2])
		})
	c.Long = "The disk is copied while the guest uses it, protected or not; then both disks are written to until the VM's\n" +
		"record has the new one, which is the only one from there on. What was on the new one is lost. A primary that is\n" +
		"lost while the disk is copied leaves it where it was: ask again. The old disk keeps what was there at the end."
	c.Flags().BoolVar(&leave, "no-wait", false, "only begin it; tandem events NAME tells what came of it")
	c.Flags().BoolVar(&cancel, "cancel", false, "give up a move that is still copying")
	return c
}

// awaitDiskMove shows how a disk is copied, until it has moved or stays. A primary that
// went live meanwhile knows of no move, unless the disk had been copied.
func awaitDiskMove(ctx context.Context, w io.Writer, c *node.Client, vm string, slot int, to string) error {
	for said := -1; ; {
		v, err := c.VM(ctx, vm)
		moved := err == nil && slot < len(v.Spec.Disks) && strings.HasPrefix(v.Spec.Disks[slot]+",", to+",")
		m, err2 := c.DiskMove(ctx, vm)
		known := err2 == nil && m.Slot == slot && m.To == to
		switch {
		case err != nil || err2 != nil && !node.Missing(err2): // for a moment
		case moved && (!known || m.Phase == ""):
			fmt.Fprintf(w, "disk %d of %s is %s now\n", slot, vm, to)
			return nil
		case moved:
		case !known:
			return fmt.Errorf("disk %d of %s stays where it is: the primary was lost while it was copied; ask again", slot, vm)
		case m.Phase == "":
			return fmt.Errorf("disk %d of %s stays where it is: %s", slot, vm, m.Error)
		case m.Size > 0:
			if tenth := int(m.Copied * 10 / m.Size); tenth != said {
				said = tenth
				fmt.Fprintf(w, "%3d %% of %d MiB copied\n", 10*tenth, m.Size>>20)
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted: the move goes on; tandem events tells what comes of it, and --cancel gives it up")
		case <-after():
		}
	}
}

// moveCommand moves a copy, and waits until it is there.
func moveCommand(use, short, long, role string) *cobra.Command {
	var to string
	var leave bool
	c := asking(use+" NAME --to NODE", short, 1, 1, "the name of a VM", func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
		if to == "" {
			return usageError{fmt.Errorf("--to is missing: name the host; tandem nodes lists them")}
		}
		client := a.client()
		if err := client.Move(ctx, list[0], node.MoveRequest{Role: role, To: to}); err != nil || leave {
			return err
		}
		return awaitMove(ctx, c.OutOrStdout(), a, client, list[0])
	})
	c.Long = long
	c.Flags().StringVar(&to, "to", "", "host that the "+role+" shall be on")
	c.Flags().BoolVar(&leave, "no-wait", false, "only ask for it; tandem events NAME tells what came of it")
	return c
}

// awaitMove waits until a move was made or given up. A daemon that does not answer for a
// moment is asked again.
func awaitMove(ctx context.Context, w io.Writer, a *asks, c *node.Client, vm string) error {
	for {
		v, err := c.VM(ctx, vm)
		switch {
		case err == nil && v.Move != nil && v.Move.Over != "":
			return fmt.Errorf("%s stays where it is: %s", vm, v.Move.Over)
		case err == nil && v.Move != nil && v.Move.Done:
			return a.show(w, v, func(w io.Writer) { describeVM(w, v) })
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted: the move goes on; tandem events tells what comes of it")
		case <-after():
		}
	}
}

// failoverTime is how long a new primary, and then a new backup, are waited for.
const failoverTime = 2 * time.Minute

func testFailover() *cobra.Command {
	var yes, leave bool
	c := asking("test-failover NAME", "Kill a VM's primary on purpose, and see its backup go on", 1, 1, "the name of a VM",
		func(ctx context.Context, c *cobra.Command, a *asks, list []string) error {
			if !yes {
				return usageError{errors.New("test-failover kills the primary's process as kill -9 does: say --yes")}
			}
			client := a.client()
			before, err := client.VM(ctx, list[0])
			if err != nil {
				return err
			}
			if err := client.Command(ctx, list[0], "test-failover"); err != nil || leave {
				return err
			}
			return awaitFailover(ctx, c.OutOrStdout(), a, client, before)
		})
	c.Flags().BoolVar(&yes, "yes", false, "the primary is meant to be killed")
	c.Flags().BoolVar(&leave, "no-wait", false, "don't wait until the VM is protected again")
	return c
}

// awaitFailover waits until a VM is protected in a newer epoch.
func awaitFailover(ctx context.Context, w io.Writer, a *asks, c *node.Client, before node.VMInfo) error {
	ctx, cancel := context.WithTimeout(ctx, failoverTime)
	defer cancel()
	began, v := time.Now(), before
	for {
		if now, err := c.VM(ctx, before.Name); err == nil {
			v = now
		}
		if v.Epoch > before.Epoch && v.Protected {
			return a.show(w, v, func(w io.Writer) {
				fmt.Fprintf(w, "again protected after\t%v\n", time.Since(began).Round(100*time.Millisecond))
				describeVM(w, v)
			})
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is %s (%s) after %v, in epoch %d; it was %d before: tandem events %s tells why", v.Name, v.Status, v.Detail,
				time.Since(began).Round(time.Second), v.Epoch, before.Epoch, v.Name)
		case <-after():
		}
	}
}

// consoleTime is how long the console of a VM that has lost its primary is asked for.
const consoleTime = time.Minute

func consoleCommand() *cobra.Command {
	c := asking("console NAME", "Join a VM's console; Ctrl-A x leaves", 1, 1, "the name of a VM",
		func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
			conn, err := a.client().Console(ctx, list[0], true)
			if err != nil {
				return err
			}
			wake, woken := host.Wake()
			t, err := term.New(os.Stdin, os.Stdout, wake)
			if err != nil {
				conn.Close()
				return err
			}
			s := &session{vm: list[0], client: a.client(), term: t, woken: woken}
			return errors.Join(s.run(ctx, conn), t.Close())
		})
	c.Long = "Shows what the VM printed last, and what it prints from then on; what is typed is the guest's. When\n" +
		"another copy becomes the VM the console is joined again there. Ctrl-A x leaves, Ctrl-A h helps."
	return c
}

// session is somebody at a console.
type session struct {
	vm     string
	client *node.Client
	term   *term.Terminal
	woken  <-chan struct{}
	offset uint64 // of what was printed here
}

// run serves connections, one after the other, until the user leaves.
func (s *session) run(ctx context.Context, conn net.Conn) error {
	for {
		if left := s.serve(ctx, conn); left {
			return nil
		}
		s.print([]byte("\r\n[the primary is gone; looking for the VM]\r\n"))
		var err error
		if conn, err = s.again(ctx); conn == nil {
			return err
		}
	}
}

// serve passes both directions on until the connection ends, or the user leaves.
func (s *session) serve(ctx context.Context, conn net.Conn) (left bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			s.print(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	defer func() { conn.Close(); <-ended }()
	for {
		if b := s.term.Read(); len(b) > 0 {
			if _, err := conn.Write(b); err != nil {
				return false
			}
		}
		select {
		case <-s.woken:
		case <-ended:
			return false
		case <-s.term.Quit():
			return true
		case <-ctx.Done():
			return true
		}
	}
}

func (s *session) print(b []byte) {
	s.term.Write(s.offset, b)
	s.offset += uint64(len(b))
}

// again joins the console of the copy that is the VM now; without an error and a
// connection the user has left.
func (s *session) again(ctx context.Context) (net.Conn, error) {
	for end := time.Now().Add(consoleTime); ; {
		conn, err := s.client.Console(ctx, s.vm, false)
		if err == nil {
			return conn, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("the console of %s is lost: %w", s.vm, err)
		}
		select {
		case <-s.term.Quit():
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		case <-after():
		}
	}
}
