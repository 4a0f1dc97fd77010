// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tandem/host/filedisk"
	"tandem/image"
)

func imageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Make and keep guest images",
		Long: "An image is a folder with a kernel, a disk and a manifest. One with a name lives in the image\n" +
			"store: $TANDEM_IMAGES, or /var/lib/tandem/images for root, or tandem/images in the user's data\n" +
			"folder. Wherever an IMAGE is asked for, a name without a slash is looked up there, and anything\n" +
			"with a slash is the path of a folder.",
		Example: "  tandem image build web --packages redis-server\n  tandem image list\n  tandem image delete web",
	}
	group(c)
	c.AddCommand(imageBuildCommand(), imageImportCommand(), imagePullCommand(), imageListCommand(), imageDeleteCommand(), imagePruneCommand())
	return c
}

// openImage opens an image by name or path.
func openImage(arg string) (*image.Image, error) {
	s, err := image.DefaultStore()
	if err != nil {
		return nil, err
	}
	return s.Open(arg)
}

// imageNames completes the names of images, and folders.
func imageNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := image.DefaultStore()
	if err != nil {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return s.Names(), cobra.ShellCompDirectiveDefault
}

// oneImage completes the first argument only.
func oneImage(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return imageNames(c, args, word)
}

// newImage is the folder of an image to make.
func newImage(arg string) (string, error) {
	s, err := image.DefaultStore()
	if err != nil {
		return "", err
	}
	dir, err := s.Folder(arg)
	if err != nil {
		return "", usageError{err}
	}
	return dir, nil
}

// imageSize reads --size; empty leaves the size to the image.
func imageSize(text string, size *int64) error {
	if text == "" {
		return nil
	}
	n, err := sizeOf("size", text)
	*size = int64(n)
	return err
}

// made says what was made and what to do with it, or why nothing was.
func made(c *cobra.Command, arg string, img *image.Image, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintln(c.OutOrStdout(), img)
	hint := ""
	for _, p := range img.Manifest.Ports {
		if port, ok := strings.CutSuffix(p, "/tcp"); ok {
			hint += fmt.Sprintf(" --forward 127.0.0.1:%s:%s", port, port)
		}
	}
	fmt.Fprintf(c.ErrOrStderr(), "run it: tandem run %s%s\n", arg, hint)
	return nil
}

// archiveFlags say where Debian's packages come from.
func archiveFlags(f *pflag.FlagSet, o *image.Options) {
	f.StringVar(&o.Mirror, "mirror", "", "Debian mirror; default $TANDEM_MIRROR, then the host's apt configuration")
	f.StringVar(&o.Keyring, "keyring", "", "file of public keys; default Debian's, built in")
	f.StringVar(&o.CacheDir, "cache", "", "folder for downloads; default tandem in the user's cache folder")
	f.BoolVar(&o.Offline, "offline", false, "use only what is cached")
	f.StringVar(&o.Suite, "suite", "trixie", "Debian suite of the packages")
}

// readKeyFiles reads public ssh keys: files of them, or keys as they are.
func readKeyFiles(keys []string) (lines []string, err error) {
	for _, k := range keys {
		if strings.Contains(k, " ") && !strings.Contains(k, "/") || strings.HasPrefix(k, "ssh-") {
			lines = append(lines, k)
			continue
		}
		b, err := readFile("ssh key", k)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(b), "PRIVATE KEY") {
			return nil, fmt.Errorf("ssh key %s is a private key: give the public one, %s.pub", k, k)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
	}
	return lines, nil
}

func imageBuildCommand() *cobra.Command {
	o := image.Options{}
	var size string
	var keys []string
	c := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Build a Debian riscv64 image from the archive",
		Long: "Fetches the release, its kernel and packages from a Debian mirror, verifies signature and\n" +
			"hashes, and writes kernel, initrd and disk. Needs no root. Downloads are cached and resumed.\n" +
			"With --ssh-key an ssh server is started that lets root and the users in by these keys.",
		Example: "  tandem image build web --packages redis-server,curl --size 2G\n" +
			"  tandem image build ./web --user ada --ssh-key ~/.ssh/id_ed25519.pub\n" +
			"  tandem image build next --suite forky --hostname next",
		Args: args(1, 1, "a name or folder for the image"), ValidArgsFunction: oneImage,
		RunE: func(c *cobra.Command, a []string) (err error) {
			if err := imageSize(size, &o.Size); err != nil {
				return err
			}
			if o.Dir, err = newImage(a[0]); err != nil {
				return err
			}
			if o.SSHKeys, err = readKeyFiles(keys); err != nil {
				return err
			}
			o.Progress = image.NewProgress(os.Stderr)
			img, err := image.Build(c.Context(), o)
			return made(c, a[0], img, err)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&o.Packages, "packages", nil, "packages to install, with what they depend on")
	f.StringVar(&size, "size", "1G", "size of the disk")
	f.StringVar(&o.Hostname, "hostname", "tandem", "name of the guest")
	f.StringSliceVar(&o.Users, "user", nil, "user to make beside root; may be repeated")
	f.StringArrayVar(&keys, "ssh-key", nil, "file of public keys, or a key, for root and the users; may be repeated")
	f.BoolVar(&o.Essential, "essential", false, "install all essential packages, so that dpkg in the guest can configure")
	archiveFlags(f, &o)
	return c
}

func imageImportCommand() *cobra.Command {
	var o image.ImportOptions
	var size, userData string
	var keys []string
	c := &cobra.Command{
		Use:   "import FILE IMAGE",
		Short: "Make an image of a raw or qcow2 disk, such as a cloud image",
		Long: "Copies the disk, finds the newest kernel in its ext4 file systems with its initrd and command\n" +
			"line, and starts that; or, with --boot uefi, OpenSBI and U-Boot from Debian's archive, which start\n" +
			"what a board would: an EFI program or extlinux.conf. --hostname, --ssh-key and --user-data make a\n" +
			"second disk on which cloud-init in the guest finds them (NoCloud).",
		Example: "  tandem image import debian-13-generic-riscv64.qcow2 debian --ssh-key ~/.ssh/id_ed25519.pub --size 10G\n" +
			"  tandem image import alpine.qcow2 ./alpine --boot uefi\n" +
			"  tandem image import disk.raw web --user-data web.yaml --hostname web --append 'loglevel=4'",
		Args: args(2, 2, "a file and a name or folder for the image"),
		ValidArgsFunction: func(c *cobra.Command, a []string, word string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, a []string) (err error) {
			if err := imageSize(size, &o.Size); err != nil {
				return err
			}
			switch o.Boot {
			case image.BootAuto, image.BootKernel, image.BootUEFI:
			default:
				return usageError{fmt.Errorf("--boot %s: choose auto, kernel or uefi", o.Boot)}
			}
			o.File = a[0]
			if o.Dir, err = newImage(a[1]); err != nil {
				return err
			}
			if o.Seed.SSHKeys, err = readKeyFiles(keys); err != nil {
				return err
			}
			if o.Seed.UserData, err = readFile("user data", userData); err != nil {
				return err
			}
			o.Archive.Progress = image.NewProgress(os.Stderr)
			img, err := image.Import(c.Context(), o)
			return made(c, a[1], img, err)
		},
	}
	f := c.Flags()
	f.StringVar((*string)(&o.Boot), "boot", string(image.BootAuto), "kernel: the one found in the disk; uefi: OpenSBI and U-Boot; auto: the first that can be")
	f.StringVar(&size, "size", "", "let the disk grow to this size; default as it is")
	f.StringVar(&o.Append, "append", "", "more words for the kernel's command line")
	f.StringVar(&o.Seed.Hostname, "hostname", "", "name of the guest, for cloud-init")
	f.StringArrayVar(&keys, "ssh-key", nil, "file of public keys, or a key, for cloud-init's default user; may be repeated")
	f.StringVar(&userData, "user-data", "", "file for cloud-init: #cloud-config or a script")
	archiveFlags(f, &o.Archive)
	c.RegisterFlagCompletionFunc("boot", cobra.FixedCompletions([]string{"auto", "kernel", "uefi"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func imagePullCommand() *cobra.Command {
	var o image.PullOptions
	var size string
	c := &cobra.Command{
		Use:   "pull REFERENCE IMAGE [-- ARGUMENT...]",
		Short: "Make an image of a container image",
		Long: "Unpacks the layers of a container image for linux/riscv64 onto a disk, with a kernel of Debian's\n" +
			"and a small init that starts the image's program on the console and ends the VM with the\n" +
			"program's exit code. REFERENCE is docker://NAME[:TAG|@DIGEST] in a registry, or\n" +
			"oci:FOLDER[:TAG], an OCI layout. What follows -- is given to the program instead of the image's\n" +
			"own arguments. Passwords for registries are those of docker or podman.",
		Example: "  tandem image pull docker://riscv64/alpine:3.22 alpine -- /bin/sh\n" +
			"  tandem image pull docker://localhost:5000/web:1 web --env LOG=debug\n" +
			"  tandem image pull oci:./layout:latest ./web --size 4G",
		Args: func(c *cobra.Command, a []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				o.Command, a = a[n:], a[:n]
			}
			return args(2, 2, "a reference and a name or folder for the image")(c, a)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"docker://", "oci:"}, cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(c *cobra.Command, a []string) (err error) {
			if err := imageSize(size, &o.Size); err != nil {
				return err
			}
			o.Reference = a[0]
			if o.Dir, err = newImage(a[1]); err != nil {
				return err
			}
			o.Archive.Progress = image.NewProgress(os.Stderr)
			img, err := image.Pull(c.Context(), o)
			return made(c, a[1], img, err)
		},
	}
	f := c.Flags()
	f.StringVar(&size, "size", "", "size of the disk; default four times the layers' size, at least 1G")
	f.StringVar(&o.Hostname, "hostname", "tandem", "name of the guest")
	f.StringArrayVar(&o.Env, "env", nil, "NAME=VALUE for the program; may be repeated")
	f.BoolVar(&o.Insecure, "insecure", false, "speak HTTP with the registry; one on this host is spoken to so anyway")
	archiveFlags(f, &o.Archive)
	return c
}

func imageListCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short:   "List the images that have a name",
		Example: "  tandem image list\n  tandem image list --format json",
		Args:    args(0, 0, "no arguments"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			s, err := image.DefaultStore()
			if err != nil {
				return err
			}
			list, err := s.List()
			if err != nil {
				return err
			}
			if len(list) == 0 && o.format == "text" {
				fmt.Fprintf(c.ErrOrStderr(), "no images in %s: make one with tandem image build, pull or import\n", s.Dir)
				return nil
			}
			return o.print(c.OutOrStdout(), list, func(w io.Writer) { listImages(w, list) })
		},
	}
	o.add(c)
	return c
}

func listImages(w io.Writer, list []image.Entry) {
	fmt.Fprintln(w, "NAME\tKIND\tDISK\tUSED\tMADE\tMADE OF")
	total := int64(0)
	for _, e := range list {
		total += e.Used
		if e.Problem != "" {
			fmt.Fprintf(w, "%s\tbroken\t\t%s\t\t%s\n", e.Name, image.Bytes(e.Used), e.Problem)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Name, e.Kind, image.Bytes(e.Disk), image.Bytes(e.Used), e.Made.Format("2006-01-02 15:04"), e.Source)
	}
	if len(list) > 1 {
		fmt.Fprintf(w, "\t\t\t%s\t\tin all\n", image.Bytes(total))
	}
}

func imageDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete IMAGE...", Aliases: []string{"rm"},
		Short: "Delete images",
		Long: "Deletes images with all that guests wrote to their disks. An image whose disk is in use by a VM\n" +
			"or a store of this host is refused. What was downloaded for it stays until tandem image prune.",
		Example: "  tandem image delete web\n  tandem image delete ./web old",
		Args:    args(1, 1000, "the names or folders of images"), ValidArgsFunction: imageNames,
		RunE: func(c *cobra.Command, a []string) error {
			s, err := image.DefaultStore()
			if err != nil {
				return err
			}
			for _, name := range a {
				freed, err := s.Delete(name, diskInUse)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "deleted %s, %s\n", name, image.Bytes(freed))
			}
			return nil
		},
	}
}

// diskInUse is the reason why somebody else can't have a disk now.
func diskInUse(disk string) error {
	f, err := filedisk.OpenFile(disk, true)
	if err == nil {
		f.Close()
		f, err = filedisk.OpenFile(disk, false)
	}
	if err == nil {
		return f.Close()
	}
	if errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "in use") {
		return err
	}
	return nil // damaged: it may go
}

func imagePruneCommand() *cobra.Command {
	var cache string
	var all, dry bool
	var o output
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove downloads that no image needs, and leftovers",
		Long: "Removes from the cache the packages that belong to no image with a name, indices of older\n" +
			"releases and downloads that broke off, and what interrupted commands left in the image store.\n" +
			"Images themselves stay. What is missing later is fetched again.",
		Example: "  tandem image prune --dry-run\n  tandem image prune\n  tandem image prune --all",
		Args:    args(0, 0, "no arguments"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			p, err := prune(c.Context(), cache, all, dry)
			if err != nil {
				return err
			}
			return o.print(c.OutOrStdout(), p, func(w io.Writer) {
				verb := "removed"
				if dry {
					verb = "would remove"
					for _, f := range p.Files {
						fmt.Fprintln(w, f)
					}
				}
				fmt.Fprintf(w, "%s %d files and folders, %s\n", verb, len(p.Files), image.Bytes(p.Bytes))
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "empty the cache, with the images that tandem demo and the benchmark made for themselves")
	f.BoolVar(&dry, "dry-run", false, "remove nothing, only say what would be removed")
	f.StringVar(&cache, "cache", "", "folder for downloads; default tandem in the user's cache folder")
	o.add(c)
	return c
}

func prune(ctx context.Context, cache string, all, dry bool) (image.Pruned, error) {
	s, err := image.DefaultStore()
	if err != nil {
		return image.Pruned{}, err
	}
	return image.Prune(ctx, s, cache, all, dry, image.NewProgress(os.Stderr))
}
