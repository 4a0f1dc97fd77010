// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tandem/image"
	"tandem/machine"
	"tandem/node"
)

// Folders of the daemon.
const (
	stateFolder = "/var/lib/tandem"
	runFolder   = "/run/tandem"
)

// hostReserve is memory that a host keeps for itself, if nothing else was said.
const hostReserve = 1 << 30

func nodeCommand() *cobra.Command {
	opt := node.Options{}
	var memory string
	var bounds confineFlag
	c := &cobra.Command{
		Use:   "node",
		Short: "Run this host's daemon: it runs VMs and restores their redundancy",
		Long: "Runs VMs, each copy as a process of its own, which the daemon may be restarted under. A host that is\n" +
			"in no cluster yet waits for tandem cluster init or tandem cluster join.",
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if opt.Memory, err = offered(memory); err != nil {
				return err
			}
			if err := bounds.check(); err != nil {
				return err
			}
			opt.NeedUser, opt.Confine = c.Flags().Changed("user"), string(bounds)
			return runNode(c.Context(), opt)
		},
	}
	f := c.Flags()
	f.StringVar(&opt.State, "state", stateFolder, "folder for what outlives a boot: certificates, etcd, consoles")
	f.StringVar(&opt.Run, "run", runFolder, "folder for what does not: sockets and processes")
	f.StringVar(&opt.Metrics, "metrics", "", "HOST:PORT for Prometheus; default: none")
	f.StringVar(&opt.API, "api", "", "HOST:PORT for the HTTP API and the dashboard, with TLS; default: the socket only")
	f.StringVar(&opt.APICert, "api-cert", "", "PEM file of a certificate for --api that browsers know; default: the host's own, of the cluster's CA")
	f.StringVar(&opt.APIKey, "api-key", "", "PEM file of the key of --api-cert")
	f.StringVar(&memory, "memory", "", "memory offered to VMs; default: all but 1G")
	f.StringVar(&opt.User, "user", node.DefaultUser, "user that replicas run as, if the daemon is root's and the user exists; empty for root")
	bounds.add(f)
	f.Lookup("confine").Usage = "confine replicas, see docs/SECURITY.md: auto: as far as the kernel can; on: or don't run; off"
	return c
}

func witnessCommand() *cobra.Command {
	opt := node.Options{Witness: true}
	var token string
	var join node.JoinRequest
	c := &cobra.Command{
		Use:   "witness",
		Short: "Run an etcd member only: the third vote of a cluster of two hosts",
		Long: "Joins a cluster with a token, once, and from then on takes part in its etcd. It runs no VMs and\n" +
			"does little: any small machine will do that fails independently of the other two.",
		Example: "  tandem witness --token tandem1.… --name w1 --address 10.0.0.9",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if token == "" {
				return runNode(c.Context(), opt)
			}
			ctx, stop := context.WithCancel(c.Context())
			defer stop()
			joined := make(chan error, 1)
			go func() {
				err := joinWitness(ctx, opt.Run, token, join)
				if err != nil {
					stop()
				}
				joined <- err
			}()
			err := runNode(ctx, opt)
			select {
			case j := <-joined:
				return errors.Join(j, err)
			default:
				return err
			}
		},
	}
	f := c.Flags()
	f.StringVar(&opt.State, "state", stateFolder, "folder for certificates and etcd")
	f.StringVar(&opt.Run, "run", runFolder, "folder for the socket")
	f.StringVar(&opt.Metrics, "metrics", "", "HOST:PORT for Prometheus; default: none")
	f.StringVar(&token, "token", "", "join token, for the first start; - reads it from standard input")
	addMember(f, &join.Name, &join.Address, &join.Port, &join.Domain, &join.Labels)
	return c
}

// joinWitness joins, unless this host is a member already.
func joinWitness(ctx context.Context, run, token string, join node.JoinRequest) (err error) {
	if join.Token, err = tokenOf(token); err != nil {
		return err
	}
	client := node.NewClient(run)
	for {
		i, err := client.Info(ctx)
		if err == nil && i.Name != "" {
			return nil
		}
		if err == nil {
			return client.Join(ctx, join)
		}
		select {
		case <-ctx.Done():
			return err
		case <-after():
		}
	}
}

func runNode(ctx context.Context, opt node.Options) (err error) {
	if opt.Executable, err = os.Executable(); err != nil {
		return err
	}
	images, err := image.DefaultStore()
	if err != nil {
		return err
	}
	opt.Images, opt.Version, opt.Log = images.Dir, machine.Version, diagnostics()
	n, err := node.New(opt)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// offered is the memory for VMs.
func offered(flag string) (int64, error) {
	if flag != "" {
		m, err := sizeOf("memory", flag)
		return int64(m), err
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("how much memory is there? %w: say it with --memory", err)
	}
	for in := bufio.NewScanner(strings.NewReader(string(b))); in.Scan(); {
		if f := strings.Fields(in.Text()); len(f) > 1 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err == nil && kb<<10 > hostReserve {
				return kb<<10 - hostReserve, nil
			}
		}
	}
	return 0, errors.New("this host has too little memory to keep 1G for itself: say with --memory what VMs may have")
}

// addMember adds the flags by which a host describes itself.
func addMember(f *pflag.FlagSet, name, address *string, port *int, domain *string, labels *[]string) {
	host, _ := os.Hostname()
	f.StringVar(name, "name", host, "this host's name in the cluster")
	f.StringVar(address, "address", "", "IP address of this host that the other hosts reach")
	f.IntVar(port, "port", node.DefaultPort, "first of three TCP ports: etcd's for clients, for peers, and for joining")
	f.StringVar(domain, "domain", "", "failure domain: hosts of one rack, say, share a name")
	f.StringArrayVar(labels, "label", nil, "label that VMs may ask for; may be repeated")
}
