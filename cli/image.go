// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"tandem/image"
)

func imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Make guest images"}
	group(c)
	c.AddCommand(imageBuildCommand())
	return c
}

func imageBuildCommand() *cobra.Command {
	o := image.Options{}
	var size string
	c := &cobra.Command{
		Use:   "build DIR",
		Short: "Build a Debian 13 riscv64 image from the archive",
		Long: "Fetches the release, its kernel and packages from a Debian mirror, verifies signature and\n" +
			"hashes, and writes kernel, initrd and disk to DIR. Needs no root. Downloads are cached and resumed.",
		Example: "  tandem image build ./web --packages redis-server,curl --size 2G",
		Args:    args(1, 1, "a folder for the image"),
		RunE: func(c *cobra.Command, a []string) error {
			n, err := parseSize(size)
			if err != nil {
				return usageError{fmt.Errorf("--size %s: %w", size, err)}
			}
			if o.Dir, o.Size = a[0], int64(n); o.Dir == "" {
				return usageError{errors.New("the image's folder has no name")}
			}
			o.Progress = image.NewProgress(os.Stderr)
			img, err := image.Build(c.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), img)
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVar(&o.Packages, "packages", nil, "packages to install, with what they depend on")
	f.StringVar(&size, "size", "1G", "size of the disk")
	f.StringVar(&o.Hostname, "hostname", "tandem", "name of the guest")
	f.StringVar(&o.Mirror, "mirror", "", "Debian mirror; default $TANDEM_MIRROR, then the host's apt configuration")
	f.StringVar(&o.Keyring, "keyring", "", "file of public keys; default Debian's, built in")
	f.StringVar(&o.CacheDir, "cache", "", "folder for downloads; default tandem in the user's cache folder")
	f.BoolVar(&o.Offline, "offline", false, "use only what is cached")
	f.BoolVar(&o.Essential, "essential", false, "install all essential packages, so that dpkg in the guest can configure")
	return c
}
