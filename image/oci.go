// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"tandem/image/deb"
)

// PullOptions say which container image becomes a guest. Dir and Reference are required.
type PullOptions struct {
	Dir       string
	Reference string   // docker://NAME[:TAG|@DIGEST], or the same without docker://; oci:FOLDER[:TAG]
	Insecure  bool     // speak HTTP with the registry
	Size      int64    // of the disk in bytes; else by the layers' size, at least 1 GiB
	Hostname  string   // "tandem"
	Env       []string // NAME=VALUE, beside the image's own
	Command   []string // instead of the image's

	Archive Options // where the kernel comes from, and Progress
}

const (
	refName   = "org.opencontainers.image.ref.name" // annotation of a tag in a layout
	maxConfig = 4 << 20
)

// Pull makes an image of a container image: its layers on a disk, a kernel of
// Debian's, and a small init that starts the image's program.
func Pull(ctx context.Context, o PullOptions) (*Image, error) {
	o.Archive.Dir, o.Archive.Hostname = o.Dir, o.Hostname
	if o.Size != 0 {
		o.Archive.Size = o.Size
	}
	if err := o.Archive.defaults(); err != nil {
		return nil, err
	}
	if err := usableDir(o.Dir); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(o.Env, func(e string) bool { return strings.IndexByte(e, '=') < 1 }); i >= 0 {
		return nil, fmt.Errorf("environment %q: want NAME=VALUE", o.Env[i])
	}
	source, err := openReference(ctx, o.Reference, o.Insecure)
	if err != nil {
		return nil, fmt.Errorf("container image %s: %w", o.Reference, err)
	}
	a, unlock, err := o.Archive.openArchive(ctx)
	if err != nil {
		return nil, fmt.Errorf("the kernel for it: %w", err)
	}
	defer unlock()
	b := &builder{opt: &o.Archive, archive: a}
	if b.kernel, err = kernelPackage(a.index); err != nil {
		return nil, err
	}
	if b.packages, err = a.index.Solve([]string{busyboxPackage}); err != nil {
		return nil, err
	}
	b.packages = slices.DeleteFunc(b.packages, func(p *deb.Package) bool { return p.Name != busyboxPackage })
	if err := b.fetch(ctx); err != nil {
		return nil, err
	}
	m := &Manifest{}
	return replace(o.Dir, m, func(tmp string) error {
		if err := o.write(ctx, b, source, tmp, m); err != nil {
			return fmt.Errorf("container image %s: %w", o.Reference, err)
		}
		return nil
	})
}

// openReference finds the riscv64 image that a reference means.
func openReference(ctx context.Context, ref string, insecure bool) (v1.Image, error) {
	if dir, ok := strings.CutPrefix(ref, "oci:"); ok {
		return openLayout(dir)
	}
	var options []name.Option
	if insecure {
		options = append(options, name.Insecure)
	}
	r, err := name.ParseReference(strings.TrimPrefix(ref, "docker://"), options...)
	if err != nil {
		return nil, fmt.Errorf("%w: want docker://NAME[:TAG] or oci:FOLDER[:TAG]", err)
	}
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithPlatform(platform), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("tandem"))
	if err != nil {
		return nil, registryError(r, err)
	}
	return img, checkArch(img)
}

var platform = v1.Platform{OS: "linux", Architecture: arch}

// registryError adds the remedy.
func registryError(r name.Reference, err error) error {
	var refused *transport.Error
	registry := r.Context().RegistryStr()
	switch {
	case strings.Contains(err.Error(), "no child with platform"):
		return errors.New("it has no variant for linux/riscv64: choose an image that has one, or build one")
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return fmt.Errorf("registry %s has no %s: see its name and tag", registry, strings.TrimPrefix(r.Name(), registry+"/"))
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return fmt.Errorf("registry %s lets nobody in without a password, or there is no such image: log in with docker or podman, whose passwords tandem uses", registry)
	}
	return fmt.Errorf("%w: see that registry %s can be reached, with --insecure if it speaks HTTP only", err, registry)
}

// checkArch checks the configuration.
func checkArch(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if m.Config.Size > maxConfig {
		return fmt.Errorf("its configuration has %s, at most %s are read", Bytes(m.Config.Size), Bytes(maxConfig))
	}
	raw, err := img.RawConfigFile()
	if err := unchanged("configuration", raw, err, m.Config.Digest); err != nil {
		return err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if c.OS != "linux" && c.OS != "" || c.Architecture != arch {
		return fmt.Errorf("it is for %s/%s: choose an image for linux/riscv64, or build one", c.OS, c.Architecture)
	}
	return nil
}

// openLayout reads FOLDER[:TAG] (OCI image layout).
func openLayout(ref string) (v1.Image, error) {
	dir, tag := ref, ""
	if _, err := os.Stat(dir); err != nil {
		if i := strings.LastIndexByte(ref, ':'); i > 0 {
			dir, tag = ref[:i], ref[i+1:]
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI layout (%w): give a folder with index.json, for instance of skopeo copy or podman push oci:", dir, why(err))
	}
	img, err := choose(index, tag, 4)
	if err != nil {
		return nil, err
	}
	return img, checkArch(img)
}

// unchanged compares what a file of a layout holds with the digest that named it.
func unchanged(what string, raw []byte, err error, want v1.Hash) error {
	if err != nil {
		return fmt.Errorf("its %s: %w", what, err)
	}
	if got := sha256.Sum256(raw); want.Algorithm != "sha256" || hex.EncodeToString(got[:]) != want.Hex {
		return fmt.Errorf("its %s has changed: expected %s, found sha256:%x: fetch or copy it again", what, want, got)
	}
	return nil
}

// choose follows an index to the image with a tag, for our architecture.
func choose(index v1.ImageIndex, tag string, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("its index: %w", err)
	}
	var tags []string
	var fits []v1.Descriptor
	for _, d := range m.Manifests {
		t := d.Annotations[refName]
		if t != "" {
			tags = append(tags, t)
		}
		if (tag == "" || t == tag) && (d.Platform == nil || d.Platform.Architecture == arch) && (d.MediaType.IsImage() || d.MediaType.IsIndex()) {
			fits = append(fits, d)
		}
	}
	switch {
	case len(fits) == 0 && tag != "":
		return nil, fmt.Errorf("it has no tag %s for riscv64: it has %s", tag, strings.Join(tags, ", "))
	case len(fits) == 0:
		return nil, errors.New("it has no variant for linux/riscv64: choose an image that has one, or build one")
	case len(fits) > 1 && tag == "" && len(tags) > 1:
		return nil, fmt.Errorf("it has several images: add a tag, one of %s", strings.Join(tags, ", "))
	case fits[0].MediaType.IsImage():
		img, err := index.Image(fits[0].Digest)
		if err != nil {
			return nil, err
		}
		raw, err := img.RawManifest()
		return img, unchanged("manifest", raw, err, fits[0].Digest)
	case depth == 0:
		return nil, errors.New("its indices are nested too deeply")
	}
	next, err := index.ImageIndex(fits[0].Digest)
	if err != nil {
		return nil, err
	}
	raw, err := next.RawManifest()
	if err := unchanged("index", raw, err, fits[0].Digest); err != nil {
		return nil, err
	}
	return choose(next, "", depth-1)
}

// write makes the files of the image.
func (o *PullOptions) write(ctx context.Context, b *builder, source v1.Image, tmp string, m *Manifest) error {
	config, err := source.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := source.Layers()
	if err != nil {
		return err
	}
	boot, err := b.boot()
	if err != nil {
		return err
	}
	busybox, err := b.busybox()
	if err != nil {
		return err
	}
	digest, err := source.Digest()
	if err != nil {
		return err
	}
	*m = Manifest{Kind: KindOCI, Source: o.Reference, Digest: digest.String(), KernelVersion: boot.version, Release: b.archive.release.Get("Version"),
		Append: containerAppend, Scripts: scripts(), DiskSize: o.diskSize(layers)}
	for _, p := range []*deb.Package{b.packages[0], b.kernel} {
		m.Packages = append(m.Packages, PackageInfo{p.Name, p.Version, p.SHA256, false})
	}
	for port := range config.Config.ExposedPorts {
		m.Ports = append(m.Ports, port)
	}
	slices.Sort(m.Ports)
	if err := o.writeRoot(ctx, filepath.Join(tmp, diskName), m.DiskSize, layers, config, digest, busybox); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, "kernel"), boot.kernel); err != nil {
		return err
	}
	return writeTo(filepath.Join(tmp, "initrd"), func(w io.Writer) error { return writeInitrd(w, busybox, boot.modules) })
}

// containerAppend keeps the kernel's messages off the program's output.
const containerAppend = "root=/dev/vda rw console=ttyS0 quiet init=/.tandem/init"

// busybox takes the shell of the init out of its package.
func (b *builder) busybox() ([]byte, error) {
	p := b.packages[0]
	var found []byte
	err := b.sources[p].read(quiet{}, func(r io.Reader) error {
		return deb.Entries(r, func(e deb.Entry, body io.Reader) (err error) {
			if e.Name == "usr/bin/busybox" || e.Name == "bin/busybox" {
				found, err = readAll(body, maxModule)
			}
			return err
		})
	})
	if err == nil && found == nil {
		err = fmt.Errorf("package %s has no busybox", p.Name)
	}
	return found, err
}

// diskSize has room for the layers, which are packed, and for what is written later.
func (o *PullOptions) diskSize(layers []v1.Layer) int64 {
	if o.Size != 0 {
		return o.Size
	}
	n := int64(0)
	for _, l := range layers {
		if size, err := l.Size(); err == nil {
			n += size
		}
	}
	return max(1<<30, (4*n+1<<29)>>20<<20)
}
