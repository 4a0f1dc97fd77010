// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tandem/image/deb"
	"tandem/image/ext4"
)

//go:embed files/container-init
var containerInit string

// Names of files in a layer that take away what is below (OCI image spec, Layer
// Filesystem Changeset).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// shellName is what a shell can set.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

const (
	ours          = "/.tandem" // folder of what tandem adds
	maxLayerFiles = 4 << 20
	maxLayerNames = 256 << 20 // bytes of the names of those
)

// writeRoot unpacks the layers, the lowest first, and adds the init.
func (o *PullOptions) writeRoot(ctx context.Context, name string, size int64, layers []v1.Layer, config *v1.ConfigFile, id v1.Hash, busybox []byte) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	made := config.Created.UTC()
	if made.Unix() < 0 {
		made = time.Unix(0, 0).UTC()
	}
	fsID := [16]byte{}
	raw, _ := hex.DecodeString(id.Hex)
	copy(fsID[:], raw)
	fsID[6], fsID[8] = fsID[6]&0x0f|0x80, fsID[8]&0x3f|0x80
	fs, err := ext4.New(f, ext4.Options{Size: size, UUID: fsID, Label: "root", Time: made})
	if err != nil {
		return err
	}
	r := &rootfs{fs: fs, time: made}
	total := int64(0)
	for _, l := range layers {
		n, _ := l.Size()
		total += n
	}
	t := o.Archive.Progress.Start(fmt.Sprintf("%d layers", len(layers)), total)
	defer t.Done()
	for i, l := range layers {
		if err := r.layer(ctx, l, t); err != nil {
			if errors.Is(err, ext4.ErrNoSpace) {
				err = fmt.Errorf("%w: give the disk more than %s with --size", err, Bytes(size))
			}
			return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	if err := r.container(o, config, busybox); err != nil {
		return err
	}
	return fs.Close()
}

// layer unpacks one layer, whose bytes must be those that its digest names.
func (r *rootfs) layer(ctx context.Context, l v1.Layer, t Task) error {
	want, err := l.Digest()
	if err != nil {
		return err
	}
	packed, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("%w: try again, or see the registry or folder", err)
	}
	defer packed.Close()
	h := sha256.New()
	in := bufio.NewReaderSize(io.TeeReader(packed, io.MultiWriter(h, taskWriter{t})), 64<<10)
	head, _ := in.Peek(4)
	kind := ""
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		kind = ".gz"
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		kind = ".zst"
	}
	plain, err := deb.Decompress(kind, in)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := r.changeset(ctx, plain); err != nil {
		return err
	}
	// A layer may have more behind the end of its tar; the digest covers it.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("it has changed: expected %s, found sha256:%s: fetch or copy it again", want, got)
	}
	return nil
}

// changeset applies the entries of a layer.
func (r *rootfs) changeset(ctx context.Context, in io.Reader) error {
	t := tar.NewReader(in)
	here := map[string]bool{} // names of this layer, which an opaque mark doesn't hide
	room := maxLayerNames
	for range maxLayerFiles {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		name, ok := inside(h.Name)
		if !ok || h.Uid < 0 || h.Gid < 0 {
			return fmt.Errorf("it has a file %q of user %d", h.Name, h.Uid)
		}
		if room -= len(name); room < 0 {
			return fmt.Errorf("its names have more than %s", Bytes(maxLayerNames))
		}
		dir, base := path.Split(name)
		switch {
		case name == "/":
			err = r.fs.SetAttr("/", ext4.Attr{Mode: uint16(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Time: h.ModTime})
		case base == opaque:
			err = r.clear(dir, here)
		case strings.HasPrefix(base, whiteout):
			err = r.fs.Remove(dir + strings.TrimPrefix(base, whiteout))
		default:
			here[name] = true
			err = r.change(name, h, t)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("it has more than %d files", maxLayerFiles)
}

// inside is a name in a layer as an absolute path; one that climbs is not ok.
func inside(name string) (string, bool) {
	if slices.Contains(strings.Split(name, "/"), "..") || strings.IndexByte(name, 0) >= 0 || len(name) > 4096 {
		return "", false
	}
	return path.Clean("/" + name), true
}

// clear takes away what lower layers have in a folder.
func (r *rootfs) clear(dir string, here map[string]bool) error {
	names, err := r.fs.Names(dir)
	if errors.Is(err, ext4.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		if full := path.Join(dir, n); err == nil && !here[full] {
			err = r.fs.Remove(full)
		}
	}
	return err
}

// change puts one entry in the place of what was there. A folder over a folder
// keeps what is in it.
func (r *rootfs) change(name string, h *tar.Header, body io.Reader) error {
	kind, _, err := r.fs.Stat(name)
	if err == nil && !(kind == ext4.Dir && h.Typeflag == tar.TypeDir) {
		if err := r.fs.Remove(name); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeLink {
		target, ok := inside(h.Linkname)
		if !ok {
			return fmt.Errorf("%s is a link to %q", name, h.Linkname)
		}
		return r.fs.Link(name, target)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		h.Name = strings.TrimPrefix(name, "/")
		return r.plain(deb.Entry{Header: h}, body)
	}
	return fmt.Errorf("%s has type %q", name, h.Typeflag)
}

// container adds the init and what it needs.
func (r *rootfs) container(o *PullOptions, config *v1.ConfigFile, busybox []byte) error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/etc", "/tmp", ours} {
		if !r.exists(d) {
			mode := uint16(0o755)
			if d == "/tmp" {
				mode = 0o1777
			}
			r.dir(d, mode)
		}
	}
	host := o.Archive.Hostname
	r.file("/etc/hostname", 0o644, host+"\n")
	if !r.exists("/etc/hosts") {
		r.file("/etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 "+host+"\n::1 localhost\n")
	}
	if !r.exists("/etc/resolv.conf") {
		r.file("/etc/resolv.conf", 0o644, "")
	}
	run, err := r.runScript(o, config)
	if err != nil {
		return err
	}
	r.file(ours+"/busybox", 0o755, string(busybox))
	r.file(ours+"/init", 0o755, withShared(containerInit))
	r.file(ours+"/udhcpc", 0o755, strings.ReplaceAll(string(udhcpcScript), "/bin/busybox", ours+"/busybox"))
	r.file(ours+"/run", 0o755, run)
	return r.err
}

// runScript starts the image's program as its configuration says. Names are
// looked up here, where the files are: the init's shell would find its own.
func (r *rootfs) runScript(o *PullOptions, config *v1.ConfigFile) (string, error) {
	c := config.Config
	argv := slices.Concat(c.Entrypoint, c.Cmd)
	if len(o.Command) > 0 {
		argv = slices.Concat(c.Entrypoint, o.Command)
	}
	if len(argv) == 0 {
		return "", errors.New("it names no program to run: give one after --, for instance -- /bin/sh")
	}
	u, err := r.user(c.User)
	if err != nil {
		return "", err
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux", "HOME=" + u.home, "HOSTNAME=" + o.Archive.Hostname}
	env = slices.Concat(env, c.Env, o.Env)
	search, dir := "", path.Join("/", c.WorkingDir)
	var s strings.Builder
	fmt.Fprintf(&s, "#!%s/busybox sh\n", ours)
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		if !shellName.MatchString(key) {
			continue // no shell can set it
		}
		if key == "PATH" {
			search = value
		}
		fmt.Fprintf(&s, "export %s=%s\n", key, quote(value))
	}
	program, err := r.find(argv[0], search, dir)
	if err != nil {
		return "", err
	}
	if !r.exists(dir) {
		r.dir(dir, 0o755)
	}
	fmt.Fprintf(&s, "cd %s || exit 125\n", quote(dir))
	if u.uid == 0 && u.gid == 0 {
		fmt.Fprintf(&s, "exec %s", quote(program))
	} else {
		fmt.Fprintf(&s, "exec %s/busybox start-stop-daemon -S -c %d:%d -x %s --", ours, u.uid, u.gid, quote(program))
	}
	for _, a := range argv[1:] {
		s.WriteString(" " + quote(a))
	}
	s.WriteString("\n")
	return s.String(), nil
}

// quote makes one word of a shell of any text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// find is the path of a program, as execvp(3) would find it.
func (r *rootfs) find(program, search, dir string) (string, error) {
	if strings.Contains(program, "/") {
		if !path.IsAbs(program) {
			program = path.Join(dir, program)
		}
		if !r.leads(program) {
			return "", fmt.Errorf("its program %s is not in it", program)
		}
		return program, nil
	}
	for _, d := range strings.Split(search, ":") {
		if p := path.Join("/", d, program); r.leads(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("its program %s is not in its PATH, %s", program, search)
}

// leads reports whether a name leads to a file, through symbolic links.
func (r *rootfs) leads(name string) bool {
	_, err := r.fs.Names(name)
	return errors.Is(err, ext4.ErrNotDir)
}

type user struct {
	uid, gid uint64
	home     string
}

// user reads USER[:GROUP], names or numbers, with the image's own account files.
func (r *rootfs) user(spec string) (u user, err error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u.home = "/"
	line := r.account("/etc/passwd", name)
	if len(line) >= 6 {
		u.gid, _ = strconv.ParseUint(line[3], 10, 32)
		u.home = line[5]
	} else if name == "0" {
		u.home = "/root"
	}
	if u.uid, err = number(name, line); err != nil {
		return u, fmt.Errorf("its user %s is not in its /etc/passwd", name)
	}
	if hasGroup && group != "" {
		if u.gid, err = number(group, r.account("/etc/group", group)); err != nil {
			return u, fmt.Errorf("its group %s is not in its /etc/group", group)
		}
	}
	return u, nil
}

func number(name string, line []string) (uint64, error) {
	if len(line) >= 3 {
		name = line[2]
	}
	return strconv.ParseUint(name, 10, 32)
}

// account finds a line by its name or number.
func (r *rootfs) account(file, name string) []string {
	text, _ := r.fs.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 3 && (f[0] == name || f[2] == name) {
			return f
		}
	}
	return nil
}
