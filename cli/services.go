// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tandem/host/nbd"
	"tandem/host/netswitch"
	"tandem/host/site"
)

// storePatience is how long a store may take to tell a disk's size.
const storePatience = 5 * time.Second

// nbdSize asks a server for the size of an export.
func nbdSize(url string) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	d, err := nbd.Dial(ctx, url, 0, func() {})
	if errors.Is(err, nbd.ErrFenced) { // a protected VM has it: who only reads may look
		d, err = nbd.DialReader(ctx, url, func() {})
	}
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("disk %s: no NBD server answered there for %v; see that tandem store runs and is reached", url, storePatience)
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT):
		return 0, fmt.Errorf("%w; start tandem store, or correct the address", err)
	case err != nil:
		return 0, err
	}
	defer d.Close()
	return d.Size(), nil
}

// listen opens HOST:PORT or the path of a Unix socket.
func listen(addr string) (net.Listener, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "unix:") {
		network, addr = "unix", strings.TrimPrefix(addr, "unix:")
	}
	ln, err := net.Listen(network, addr)
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w; choose an address of this host and a free port, or stop what uses it", addr, err)
	}
	return ln, nil
}

// diagnostics is where services write what people read.
func diagnostics() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

func switchCommand() *cobra.Command {
	var addr, subnet string
	var forwards, leases []string
	c := &cobra.Command{
		Use:   "switch",
		Short: "Run a learning switch with DHCP, DNS, NAT and port forwards",
		Long: "Stands for the physical network: replicas plug into it, it outlives them, and a TCP\n" +
			"connection through one of its forwards lives on through a failover.",
		Example: "  tandem switch --listen /run/tandem/switch.sock --lease web=10.77.0.2 --forward 127.0.0.1:6379:10.77.0.2:6379",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := switchConfig(subnet, leases, forwards)
			if err != nil {
				return usageError{err}
			}
			cfg.Log = diagnostics()
			ln, err := listen(addr)
			if err != nil {
				return err
			}
			return netswitch.Serve(c.Context(), ln, cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&addr, "listen", "127.0.0.1:7077", "HOST:PORT or path of a Unix socket")
	f.StringVar(&subnet, "subnet", "10.77.0.0/24", "the guests' network")
	f.StringArrayVar(&leases, "lease", nil, "VM=ADDRESS, a fixed address for a VM's first network device; may be repeated")
	f.StringArrayVar(&forwards, "forward", nil, "HOST:PORT:ADDRESS:PORT, a TCP port of the host for one of a guest; may be repeated")
	return c
}

func switchConfig(subnet string, leases, forwards []string) (cfg netswitch.Config, err error) {
	if cfg.Subnet, err = netip.ParsePrefix(subnet); err != nil {
		return cfg, fmt.Errorf("--subnet %s: want an address and length like 10.77.0.0/24", subnet)
	}
	for _, l := range leases {
		name, ip, _ := strings.Cut(l, "=")
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return cfg, fmt.Errorf("--lease %s: want VM=ADDRESS, for instance web=10.77.0.2", l)
		}
		cfg.Leases = append(cfg.Leases, netswitch.Lease{MAC: site.MAC(name, networkIndex), IP: addr})
	}
	for _, f := range forwards {
		parts := strings.Split(f, ":")
		if len(parts) < 4 {
			return cfg, fmt.Errorf("--forward %s: want HOST:PORT:ADDRESS:PORT", f)
		}
		n := len(parts)
		guest, err := netip.ParseAddrPort(parts[n-2] + ":" + parts[n-1])
		if err != nil {
			return cfg, fmt.Errorf("--forward %s: %s:%s is no address and port", f, parts[n-2], parts[n-1])
		}
		cfg.Forwards = append(cfg.Forwards, netswitch.Forward{Host: strings.Join(parts[:n-2], ":"), Guest: guest})
	}
	return cfg, nil
}
