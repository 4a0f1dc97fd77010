// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tandem/host/certs"
	"tandem/store"
)

// storeFlags describe a store on the command line.
type storeFlags struct {
	listen, state, tls, flush string
	exports                   []string
	unprotected               bool
}

func storeCommand() *cobra.Command {
	f := &storeFlags{}
	c := &cobra.Command{
		Use:   "store [FILE...] [--export NAME=PATH[,readonly]]",
		Short: "Serve disks by NBD, fenced by epoch: the shared storage of a pair",
		Long: "Serves files and block devices by standard NBD. A protected VM opens NAME@EPOCH; a newer\n" +
			"epoch ends and drains all older connections before its first write is taken. Any NBD\n" +
			"client may open NAME. A FILE is exported by its name without folder and extension.\n\n" +
			"A write is answered when every host can read it here. A flush is answered when fdatasync\n" +
			"has made all before it durable; with --flush always that is so of each write.",
		Example: "  tandem store --listen 127.0.0.1:10809 --export web=/var/lib/tandem/web.raw\n" +
			"  tandem store certs /etc/tandem/store --host 10.0.0.5\n" +
			"  tandem store --listen 10.0.0.5:10809 --tls /etc/tandem/store --state /var/lib/tandem web.raw --export db=/dev/vg0/db,cd=/srv/debian.iso,readonly",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, files []string) error {
			cfg, err := f.config(files)
			if err != nil {
				return err
			}
			ln, err := listen(f.listen)
			if err != nil {
				return err
			}
			return store.Serve(c.Context(), ln, cfg)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.listen, "listen", "127.0.0.1:10809", "HOST:PORT or path of a Unix socket")
	fs.StringArrayVar(&f.exports, "export", nil, "NAME=PATH of a file or block device, more after commas, ',readonly' after one; may be repeated")
	fs.StringVar(&f.state, "state", "", "folder for the newest epochs; default beside each file; a block device needs one")
	fs.StringVar(&f.tls, "tls", "", "folder with ca-cert.pem, server-cert.pem and server-key.pem: clients must use TLS and have a certificate of this CA")
	fs.StringVar(&f.flush, "flush", flushAsked, "when data is made durable by fdatasync: asked (as a client flushes) or always (at each write)")
	fs.BoolVar(&f.unprotected, "allow-unprotected", false, "admit connections without an epoch even after a protected one")
	c.AddCommand(storeCertsCommand())
	return c
}

// The policies of --flush.
const (
	flushAsked  = "asked"
	flushAlways = "always"
)

func (f *storeFlags) config(files []string) (store.Config, error) {
	cfg := store.Config{StateDir: f.state, AllowUnprotected: f.unprotected, SyncWrites: f.flush == flushAlways, Log: diagnostics()}
	if f.flush != flushAsked && f.flush != flushAlways {
		return cfg, usageError{fmt.Errorf("--flush %s: choose %s or %s", f.flush, flushAsked, flushAlways)}
	}
	for _, path := range files {
		name := filepath.Base(path)
		cfg.Exports = append(cfg.Exports, store.Export{Name: strings.TrimSuffix(name, filepath.Ext(name)), Path: path})
	}
	for _, list := range f.exports {
		more, err := parseExports(list)
		if err != nil {
			return cfg, usageError{err}
		}
		cfg.Exports = append(cfg.Exports, more...)
	}
	if len(cfg.Exports) == 0 {
		return cfg, usageError{errors.New("nothing to serve: name a FILE, or give --export NAME=FILE")}
	}
	if f.tls != "" {
		var err error
		if cfg.TLS, err = store.LoadTLS(f.tls); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// parseExports reads NAME=PATH[,readonly][,NAME=PATH…].
func parseExports(list string) (exports []store.Export, err error) {
	for _, part := range strings.Split(list, ",") {
		name, path, ok := strings.Cut(part, "=")
		switch {
		case part == "readonly" && len(exports) > 0:
			exports[len(exports)-1].ReadOnly = true
		case !ok || name == "" || path == "":
			return nil, fmt.Errorf("--export %s: want NAME=FILE, or NAME=FILE,readonly; a path with a comma in it can be given as FILE", list)
		default:
			exports = append(exports, store.Export{Name: name, Path: path})
		}
	}
	return exports, nil
}

func storeCertsCommand() *cobra.Command {
	var hosts []string
	c := &cobra.Command{
		Use:   "certs FOLDER --host NAME",
		Short: "Make certificates for a store and its clients",
		Long: "Makes a CA and two certificates under the names that QEMU, libnbd and nbdkit look for. The\n" +
			"store needs ca-cert.pem, server-cert.pem and server-key.pem; a client needs ca-cert.pem,\n" +
			"client-cert.pem and client-key.pem, and names their folder in its address:\n" +
			"nbds://HOST/EXPORT?tls-certificates=FOLDER. Keep ca-key.pem where it is safe.",
		Example: "  tandem store certs /etc/tandem/store --host 10.0.0.5 --host store.example",
		Args:    args(1, 1, "a folder"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(hosts) == 0 {
				return usageError{errors.New("--host is missing: the name or address by which clients reach the store")}
			}
			ca, err := certs.NewCA("tandem store")
			if err != nil {
				return err
			}
			return ca.SaveStandard(args[0], hosts)
		},
	}
	c.Flags().StringArrayVar(&hosts, "host", nil, "name or address of the store; may be repeated")
	return c
}
