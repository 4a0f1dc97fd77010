// SPDX-License-Identifier: Apache-2.0

// Package image builds and opens guest images: a folder with a kernel, an
// initrd and a disk, made of Debian's riscv64 packages, without root and
// without tools of the host.
//
//	mirror ── InRelease ── signature checked with the keys in the program
//	             │ SHA256
//	          Packages ── the packages asked for and what they depend on
//	             │ SHA256
//	           *.deb ── kernel ─► kernel, initrd (busybox, modules, a script)
//	             └──── the rest ► disk.raw (ext4)
//
// Every package hangs on the signature: its hash is compared before each use,
// also when it comes from the cache. The cache's unpacked copies of packages
// are our own work and bear a checksum against damage, not against a user who
// writes into his own cache.
//
// The packages' scripts are programs of the guest's CPU and do not run here. We
// make what they would have made where it matters (users, merged /usr, a few
// links), and dpkg's database says "unpacked", not "installed". The guest's
// first process is a small script, /usr/sbin/tandem-init.
//
// An image is a function of the archive's release and the options: the same
// inputs give the same bytes.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"tandem/image/deb"
	"tandem/image/ext4"
)

// Options say what to build. Dir is required, the rest have defaults.
type Options struct {
	Dir       string   // of the image; made if missing, its old image replaced
	Packages  []string // beside the base, e.g. "redis-server"
	Suite     string   // "trixie"
	Size      int64    // of the disk in bytes; 1 GiB
	Hostname  string   // "tandem"
	Users     []string // beside root, from uid 1000 on
	SSHKeys   []string // lines of authorized_keys, for root and all Users
	Mirror    string   // else $TANDEM_MIRROR, else the host's apt configuration
	Keyring   string   // file of public keys; else Debian's, which are built in
	CacheDir  string   // else tandem in the user's cache directory
	Offline   bool     // use the cache only
	Essential bool     // add all Essential packages, so that dpkg in the guest can configure
	Docs      bool     // keep manuals, translations and the like

	Progress Progress     // else silent
	Client   *http.Client // else one that waits 30 s for an answer
}

// Image is a guest to start: the paths of its files and the kernel command line.
// A path is empty where the image has no such file.
type Image struct {
	Dir            string
	Firmware       string // if it starts this and not a kernel; Kernel is then what the firmware starts
	Kernel, Initrd string
	Disk           string
	Seed           string // a second disk, with cloud-init's data
	Append         string
	Manifest       Manifest
}

// Kind tells how an image was made.
type Kind string

const (
	KindDebian Kind = "debian" // of packages; also that of images without a kind
	KindImport Kind = "import" // of a disk that others made
	KindOCI    Kind = "oci"    // of a container image
)

// Manifest is image.json.
type Manifest struct {
	Format        int               `json:"format"`
	Kind          Kind              `json:"kind,omitempty"`
	Source        string            `json:"source,omitempty"` // the file or reference it was made of, if no packages
	Digest        string            `json:"digest,omitempty"` // of the container image
	Ports         []string          `json:"ports,omitempty"`  // that its program serves, for instance 80/tcp
	Suite         string            `json:"suite,omitempty"`
	Release       string            `json:"release,omitempty"` // e.g. "13.7"
	Date          time.Time         `json:"date,omitzero"`     // of the release
	Architecture  string            `json:"architecture"`
	KernelVersion string            `json:"kernel_version,omitempty"`
	Append        string            `json:"append"`
	Requested     []string          `json:"requested,omitempty"`
	Users         []string          `json:"users,omitempty"`
	Scripts       string            `json:"scripts,omitempty"` // hash of what tandem itself puts into the guest
	DiskSize      int64             `json:"disk_size"`         // bytes
	SHA256        map[string]string `json:"sha256"`            // of all files but the disk, which changes
	Packages      []PackageInfo     `json:"packages,omitempty"`
}

// PackageInfo is one package of the image. That of the kernel is not on the disk.
type PackageInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	OnDisk  bool   `json:"on_disk"`
}

const (
	manifestFormat = 1
	manifestName   = "image.json"
	busyboxPackage = "busybox-static"
	defaultAppend  = "root=/dev/vda rw console=ttyS0"
)

// base is what every image has.
var base = []string{"base-files", "base-passwd", busyboxPackage, "coreutils", "dash", "dpkg", "libc-bin"}

func (o *Options) defaults() error {
	for _, d := range []struct {
		field *string
		value string
	}{{&o.Suite, "trixie"}, {&o.Hostname, "tandem"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if o.Size == 0 {
		o.Size = 1 << 30
	}
	if o.Progress == nil {
		o.Progress = quiet{}
	}
	if o.Client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 30 * time.Second
		t.MaxConnsPerHost = downloads
		o.Client = &http.Client{Transport: t}
	}
	var err error
	if o.CacheDir, err = cacheDir(o.CacheDir); err != nil {
		return err
	}
	return o.valid()
}

// cacheDir is where downloads are kept: the folder given, or the user's.
func cacheDir(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory (%w): name one with --cache", err)
	}
	return filepath.Join(dir, "tandem"), nil
}

var (
	suiteName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	hostName  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?$`)
)

func (o *Options) valid() error {
	switch {
	case o.Dir == "":
		return errors.New("no directory given for the image")
	case !suiteName.MatchString(o.Suite):
		return fmt.Errorf("suite %q is not a name", o.Suite)
	case !hostName.MatchString(o.Hostname):
		return fmt.Errorf("host name %q: use letters, digits and hyphens, at most 64", o.Hostname)
	case o.Size < ext4.MinSize || o.Size > ext4.MaxSize:
		return fmt.Errorf("disk size %s: choose one from %s to %s", Bytes(o.Size), Bytes(ext4.MinSize), Bytes(ext4.MaxSize))
	}
	return o.validUsers()
}

// Build makes an image. Downloads are kept in the cache, so that a second build
// takes seconds. The folder changes only when everything has been made.
func Build(ctx context.Context, o Options) (*Image, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	if err := usableDir(o.Dir); err != nil {
		return nil, err
	}
	a, unlock, err := o.openArchive(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := &builder{opt: &o, archive: a}
	if err := b.choose(); err != nil {
		return nil, err
	}
	if err := b.fetch(ctx); err != nil {
		return nil, err
	}
	m := &Manifest{}
	return replace(o.Dir, m, func(tmp string) error { return b.write(ctx, tmp, m) })
}

// openArchive opens the archive of packages. The cache is ours until unlock.
func (o *Options) openArchive(ctx context.Context) (a *archive, unlock func() error, err error) {
	uri, err := mirror(o.Mirror, os.Getenv(MirrorVar), "/etc/apt")
	if err != nil && !o.Offline {
		return nil, nil, err
	}
	keys, err := readKeys(o.Keyring)
	if err != nil {
		return nil, nil, err
	}
	a = &archive{cache: o.CacheDir, keys: keys, progress: o.Progress,
		fetcher: fetcher{client: o.Client, mirror: uri, offline: o.Offline, retry: time.Second}}
	if unlock, err = lock(ctx, o.CacheDir, o.Progress); err != nil {
		return nil, nil, err
	}
	if err := openArchive(ctx, a, o.Suite); err != nil {
		unlock()
		return nil, nil, err
	}
	return a, unlock, nil
}

// usableDir refuses a folder that holds something else.
func usableDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		// Before anything is fetched: can it be made?
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return badDir(err)
		}
		return os.Remove(dir)
	}
	if err != nil {
		return badDir(err)
	}
	if len(entries) == 0 || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == manifestName }) {
		return nil
	}
	return fmt.Errorf("%s is not empty and has no %s: name a new directory", dir, manifestName)
}

// badDir is an error at the image's folder, which err names.
func badDir(err error) error {
	return fmt.Errorf("image folder: %w: name one that can be made and written", err)
}

// builder is one build between its steps.
type builder struct {
	opt      *Options
	archive  *archive
	packages []*deb.Package // for the disk
	kernel   *deb.Package
	sources  map[*deb.Package]source
}

func (b *builder) choose() error {
	want := slices.Concat(base, b.opt.Packages)
	if len(b.opt.SSHKeys) > 0 {
		want = append(want, sshServer)
	}
	if b.opt.Essential {
		want = append(want, b.archive.index.Essential()...)
	}
	var err error
	if b.packages, err = b.archive.index.Solve(want); err != nil {
		return err
	}
	b.kernel, err = kernelPackage(b.archive.index)
	return err
}

// replace makes the image in a folder anew: fill writes its files under other
// names, then they get theirs. The manifest is made of m.
func replace(dir string, m *Manifest, fill func(tmp string) error) (*Image, error) {
	if err := usableDir(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, badDir(err)
	}
	defer os.Remove(dir) // if nothing came of it: what is not empty stays
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return nil, badDir(err)
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return nil, err
	}
	if err := m.write(tmp); err != nil {
		return nil, err
	}
	// Without its manifest a folder is no image: it goes first and comes last.
	for _, name := range slices.Concat([]string{manifestName, diskName}, hashed) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for _, name := range slices.Concat([]string{diskName}, hashed, []string{manifestName}) {
		err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return Open(dir)
}

// diskName is the file with the guest's disk, which changes; hashed are those
// that must stay as they are. An image has those that it needs.
const diskName = "disk.raw"

var hashed = []string{"firmware", "kernel", "initrd", seedName}

// write makes the files of an image.
func (b *builder) write(ctx context.Context, tmp string, m *Manifest) error {
	boot, err := b.boot()
	if err != nil {
		return fmt.Errorf("package %s: %w", b.kernel.Name, err)
	}
	busybox, err := b.writeDisk(ctx, filepath.Join(tmp, "disk.raw"))
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, "kernel"), boot.kernel); err != nil {
		return err
	}
	if err := writeTo(filepath.Join(tmp, "initrd"), func(w io.Writer) error {
		return writeInitrd(w, busybox, boot.modules)
	}); err != nil {
		return err
	}
	b.describe(m, boot.version)
	return nil
}

// writeDisk makes the root file system and returns its busybox, for the initrd.
func (b *builder) writeDisk(ctx context.Context, name string) (busybox []byte, err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(b.opt.Size); err != nil {
		return nil, err
	}
	date := b.archive.date()
	fs, err := ext4.New(f, ext4.Options{Size: b.opt.Size, UUID: b.uuid(), Label: "root", Time: date})
	if err != nil {
		return nil, err
	}
	t := b.opt.Progress.Start("root file system", b.unpackedSize())
	defer t.Done()
	r := newRootfs(fs, b.opt.Docs, date)
	for _, p := range b.packages {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := b.install(r, p, t); err != nil {
			return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
	}
	if err := r.finish(b.opt); err != nil {
		return nil, err
	}
	if busybox, err = fs.ReadFile("/bin/busybox"); err != nil {
		return nil, err
	}
	return busybox, fs.Close()
}

// uuid identifies the file system: it is a hash of what is in it.
func (b *builder) uuid() (u [16]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %t %d %q %q\n", b.opt.Size, b.opt.Hostname, b.opt.Docs, b.archive.date().Unix(), b.opt.Users, b.opt.SSHKeys)
	for _, p := range b.packages {
		fmt.Fprintln(h, p.SHA256)
	}
	copy(u[:], h.Sum(nil))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // RFC 9562, version 8: of our own making
	return u
}

// describe fills the manifest.
func (b *builder) describe(m *Manifest, kernelVersion string) {
	rel := b.archive.release
	*m = Manifest{
		Kind: KindDebian, Suite: b.opt.Suite, Release: rel.Get("Version"), Date: b.archive.date(),
		KernelVersion: kernelVersion, Append: defaultAppend,
		Requested: append([]string{}, b.opt.Packages...), Users: b.opt.Users, Scripts: scripts(), DiskSize: b.opt.Size,
	}
	for _, p := range b.packages {
		m.Packages = append(m.Packages, PackageInfo{p.Name, p.Version, p.SHA256, true})
	}
	m.Packages = append(m.Packages, PackageInfo{b.kernel.Name, b.kernel.Version, b.kernel.SHA256, false})
}

// write writes image.json, with the hashes of the files beside it.
func (m *Manifest) write(dir string) error {
	m.Format, m.Architecture, m.SHA256 = manifestFormat, arch, map[string]string{}
	for _, name := range hashed {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		m.SHA256[name], _, err = hashFile(f)
		f.Close()
		if err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, manifestName), append(text, '\n'))
}

// scripts is the hash of what tandem itself puts into the guest.
func scripts() string {
	h := sha256.New()
	for _, b := range [][]byte{initScript, guestInit, udhcpcScript, []byte(redisService), []byte(redisReady), []byte(postgresService), []byte(postgresReady),
		[]byte(sshService), []byte(networkScript), []byte(buttonScript), []byte(containerInit)} {
		fmt.Fprintf(h, "%d:%s", len(b), b)
	}
	fmt.Fprint(h, wanted)
	return hex.EncodeToString(h.Sum(nil))
}

// Current reports whether this tandem would put the same scripts into the image.
// An older image works as it did when it was built.
func (i *Image) Current() bool { return i.Manifest.Scripts == scripts() }

// Open reads the image in a folder and checks the files that don't change.
func Open(dir string) (*Image, error) {
	i, err := OpenBoot(dir)
	if err != nil {
		return nil, err
	}
	i.Disk = filepath.Join(dir, diskName)
	if st, err := os.Stat(i.Disk); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("image %s has no disk (%v): make it again", dir, err)
	}
	return i, nil
}

// OpenBoot opens what of an image boots, for a VM with a disk of its own: the image's
// need not be on this host.
func OpenBoot(dir string) (*Image, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	i := &Image{Dir: dir, Append: m.Append, Manifest: m}
	for k, path := range []*string{&i.Firmware, &i.Kernel, &i.Initrd, &i.Seed} {
		name := hashed[k]
		want, ok := m.SHA256[name]
		if !ok && (name != "kernel" || m.SHA256["firmware"] != "") {
			continue
		}
		if raw, err := hex.DecodeString(want); err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("image %s: %s gives no SHA256 of its %s: make it again", dir, manifestName, name)
		}
		*path = filepath.Join(dir, name)
		if err := check("the "+name+" of image "+dir, *path, digest{sha256: want}); err != nil {
			var changed *ChangedError
			if errors.As(err, &changed) {
				changed.Remedy = "make the image again"
			} else {
				err = fmt.Errorf("image %s: its %s: %w: run it as the user who made it, or make it again", dir, name, why(err))
			}
			return nil, err
		}
	}
	return i, nil
}

func (i *Image) String() string {
	return fmt.Sprintf("%s: %s", i.Dir, i.Manifest.describe())
}

// describe says what an image was made of.
func (m *Manifest) describe() string {
	if m.Kind != KindDebian {
		return m.Source
	}
	return strings.Join(append([]string{"Debian " + m.Release, "Linux " + m.KernelVersion}, m.Requested...), ", ")
}
