// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tandem/node"
)

// asks are the flags of commands that ask the local daemon.
type asks struct {
	run    string
	format string
}

func (a *asks) add(f *pflag.FlagSet) {
	f.StringVar(&a.run, "run", defaultRun(), "run folder of the daemon; default from TANDEM_RUN")
	f.StringVar(&a.format, "format", "text", "text, or json for programs")
}

func defaultRun() string { return orElse(os.Getenv("TANDEM_RUN"), runFolder) }

func (a *asks) client() *node.Client { return node.NewClient(a.run) }

// show prints v as JSON, or as text does it.
func (a *asks) show(w io.Writer, v any, text func(io.Writer)) error {
	if a.format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(t)
	return t.Flush()
}

// asking makes a command that asks the daemon.
func asking(use, short string, min, max int, what string, run func(context.Context, *cobra.Command, *asks, []string) error) *cobra.Command {
	a := &asks{}
	c := &cobra.Command{Use: use, Short: short, Args: args(min, max, what),
		RunE: func(c *cobra.Command, list []string) error {
			if a.format != "text" && a.format != "json" {
				return usageError{fmt.Errorf("--format %s: choose text or json", a.format)}
			}
			return run(c.Context(), c, a, list)
		}}
	a.add(c.Flags())
	return c
}

// after is the pause between two looks.
func after() <-chan time.Time { return time.After(100 * time.Millisecond) }

// tokenOf reads a token from an argument, or from standard input.
func tokenOf(s string) (string, error) {
	if s != "-" {
		return s, nil
	}
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(line), nil
}

func clusterCommand() *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "Make a cluster of hosts, and look after it"}
	group(c)
	c.AddCommand(clusterInit(), clusterJoin(), tokenCommand(), clusterEvacuate(),
		asking("restore NODE", "Let a host that was evacuated take copies again", 1, 1, "the name of a node",
			func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
				stay, no := "", false
				return a.client().ChangeNode(ctx, list[0], node.NodeChange{Evacuation: &stay, Cordoned: &no})
			}),
		asking("dead NODE", "Vouch that a silent host is off, so that its VMs are started elsewhere", 1, 1, "the name of a node",
			func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
				yes := true
				return a.client().ChangeNode(ctx, list[0], node.NodeChange{Dead: &yes})
			}),
		asking("remove NODE", "Take a host out of the cluster for good", 1, 1, "the name of a node",
			func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
				return a.client().RemoveNode(ctx, list[0])
			}),
		asking("confirm", "Accept an etcd that was wiped, or restored from a backup", 0, 0, "no arguments",
			func(ctx context.Context, _ *cobra.Command, a *asks, _ []string) error {
				return a.client().Confirm(ctx)
			}))
	return c
}

func tellToken(w io.Writer, a *asks, token string, err error) error {
	if err != nil {
		return err
	}
	return a.show(w, map[string]string{"token": token}, func(w io.Writer) { fmt.Fprintln(w, token) })
}

func clusterInit() *cobra.Command {
	var q node.InitRequest
	var urls string
	c := asking("init", "Make this host the first of a cluster, and print a join token", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
			if q.Address == "" {
				return usageError{errors.New("--address is missing: give an IP address of this host that the other hosts reach")}
			}
			if urls != "" {
				q.Etcd = strings.Split(urls, ",")
			}
			token, err := a.client().Init(ctx, q)
			return tellToken(c.OutOrStdout(), a, token, err)
		})
	f := c.Flags()
	addMember(f, &q.Name, &q.Address, &q.Port, &q.Domain, &q.Labels)
	f.StringVar(&urls, "etcd", "", "https:// addresses of an external etcd, separated by commas; default: an embedded one")
	f.StringVar(&q.EtcdCA, "etcd-ca", "", "CA certificate of the external etcd")
	f.StringVar(&q.EtcdCert, "etcd-cert", "", "certificate for the external etcd, if it asks for one")
	f.StringVar(&q.EtcdKey, "etcd-key", "", "key of --etcd-cert")
	return c
}

func clusterJoin() *cobra.Command {
	var q node.JoinRequest
	c := asking("join TOKEN", "Make this host a member; - reads the token from standard input", 1, 1, "a token",
		func(ctx context.Context, _ *cobra.Command, a *asks, list []string) (err error) {
			if q.Address == "" {
				return usageError{errors.New("--address is missing: give an IP address of this host that the other hosts reach")}
			}
			if q.Token, err = tokenOf(list[0]); err != nil {
				return err
			}
			return a.client().Join(ctx, q)
		})
	addMember(c.Flags(), &q.Name, &q.Address, &q.Port, &q.Domain, &q.Labels)
	return c
}

func clusterEvacuate() *cobra.Command {
	var force bool
	c := asking("evacuate NODE", "Move all copies off a host, without losing protection", 1, 1, "the name of a node",
		func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
			how := "evacuate"
			if force {
				how = "force"
			}
			return a.client().ChangeNode(ctx, list[0], node.NodeChange{Evacuation: &how})
		})
	c.Flags().BoolVar(&force, "force", false, "even if VMs lose their protection by it")
	return c
}

func nodesCommand() *cobra.Command {
	return asking("nodes", "List the hosts of the cluster", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
			list, err := a.client().Nodes(ctx)
			if err != nil {
				return err
			}
			return a.show(c.OutOrStdout(), list, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tSTATE\tADDRESS\tDOMAIN\tCPUS\tMEMORY\tLEFT\tPRIMARIES\tBACKUPS\tETCD\t")
				for _, n := range list {
					state := n.State
					if n.Evacuation != "" {
						state += ", evacuated"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t\n", n.Name, state, n.Address, n.Domain, n.CPUs, size(n.Memory), size(n.Left), n.Primaries, n.Backups, orElse(n.Etcd, "-"))
				}
			})
		})
}

// size prints bytes for people.
func size(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%dG", n>>30)
	}
	return fmt.Sprintf("%dM", n>>20)
}
