// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"tandem/image/deb"
)

const (
	arch       = "riscv64"
	maxRelease = 4 << 20
	maxIndex   = 256 << 20
	maxDeb     = 1 << 30
)

// debianKeys are the public keys that sign Debian 13: the archive's automatic
// key and the stable release key.
//
//go:embed files/debian-archive-trixie.gpg
var debianKeys []byte

// archive is one suite of a mirror as its signed Release describes it.
type archive struct {
	fetcher
	cache    string
	keys     openpgp.EntityList
	progress Progress

	release deb.Stanza
	index   *deb.Index
}

// openArchive verifies the release and reads the index of packages.
func openArchive(ctx context.Context, a *archive, suite string) error {
	signed, err := a.readRelease(ctx, suite)
	if err != nil {
		return err
	}
	text, err := a.readIndex(ctx, suite)
	var missing *statusError
	if changed := (*ChangedError)(nil); errors.As(err, &changed) || errors.As(err, &missing) {
		signed, text, err = a.readWhole(ctx, suite, err)
	}
	if err == nil && signed != nil {
		err = writeFile(a.kept(suite), signed)
	}
	if err == nil {
		a.index, err = deb.NewIndex(text, arch)
	}
	return err
}

// kept is where the cache has a suite's release.
func (a *archive) kept(suite string) string { return filepath.Join(a.cache, "release", suite) }

// readRelease fetches InRelease. If the mirror can't be reached the last one serves, after
// the same checks; signed is nil then.
func (a *archive) readRelease(ctx context.Context, suite string) (signed []byte, err error) {
	path := "dists/" + suite + "/InRelease"
	err = errNetwork
	if !a.offline {
		signed, err = a.small(ctx, path, maxRelease)
	}
	b := signed
	if errors.Is(err, errNetwork) {
		why := err
		if b, err = readLimited(a.kept(suite), maxRelease); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w, and the cache has no index of %s: check the network or name another mirror with --mirror", why, suite)
		} else if err == nil && !a.offline {
			a.progress.Note(fmt.Sprintf("%v; using the index in the cache", why))
		}
	}
	if err != nil {
		return nil, err
	}
	if a.release, err = verifyRelease(b, a.keys, suite, time.Now()); err != nil {
		return nil, fmt.Errorf("%s: %w", a.url(path), err)
	}
	return signed, nil
}

// readWhole finds a release with its index where the newest one has none: mirrors take a
// release over file by file, and what caches before them hold is older than the rest for
// hours. It may be in our cache, or under the suite's other name ("stable").
func (a *archive) readWhole(ctx context.Context, suite string, why error) (signed []byte, text string, err error) {
	newest := a.release
	note := func() {
		a.progress.Note(fmt.Sprintf("the mirror is between two releases: its index is not that of %s; using the release of %s", newest.Get("Date"), a.release.Get("Date")))
	}
	if b, err := readLimited(a.kept(suite), maxRelease); err == nil {
		a.release, err = verifyRelease(b, a.keys, suite, time.Now())
		if err == nil && a.release != newest {
			if text, err = a.readIndex(ctx, suite); err == nil {
				note()
				return nil, text, nil
			}
		}
	}
	alias := newest.Get("Suite")
	if a.offline || alias == suite || alias == "" || strings.Contains(alias, "/") {
		return nil, "", why
	}
	if signed, err = a.small(ctx, "dists/"+alias+"/InRelease", maxRelease); err != nil {
		return nil, "", why
	}
	if a.release, err = verifyRelease(signed, a.keys, suite, time.Now()); err != nil || a.release == newest {
		return nil, "", why
	}
	if text, err = a.readIndex(ctx, alias); err != nil {
		return nil, "", why
	}
	note()
	return signed, text, nil
}

// verifyRelease checks the signature and that this is the suite asked for.
// A mirror may be behind, but what says until when it is valid must be.
func verifyRelease(b []byte, keys openpgp.EntityList, suite string, now time.Time) (deb.Stanza, error) {
	block, rest := clearsign.Decode(b)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return "", errors.New("not one signed message: is this a Debian mirror? Name another with --mirror")
	}
	if _, err := block.VerifySignature(keys, nil); err != nil {
		return "", fmt.Errorf("the signature is not good (%v): name another mirror with --mirror, or the keys of this archive with --keyring", err)
	}
	// block.Plaintext is what the signature covers.
	s := deb.Stanza(strings.Trim(string(block.Plaintext), "\n"))
	if s.Get("Codename") != suite && s.Get("Suite") != suite {
		return "", fmt.Errorf("this is suite %q, not %q: name another mirror with --mirror", s.Get("Codename"), suite)
	}
	if v := s.Get("Valid-Until"); v != "" {
		until, err := time.Parse(time.RFC1123, v)
		if err != nil || now.After(until) {
			return "", fmt.Errorf("the index was valid until %s: name a mirror that is up to date with --mirror", v)
		}
	}
	return s, nil
}

// date is when the release was made: the clock of everything we build from it.
func (a *archive) date() time.Time {
	t, err := time.Parse(time.RFC1123, a.release.Get("Date"))
	if err != nil {
		return time.Unix(0, 0).UTC()
	}
	return t.UTC()
}

// listed finds a file in the release's SHA256 list.
func listed(release deb.Stanza, name string) (digest, error) {
	for line := range strings.Lines(release.Get("SHA256")) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != name {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		raw, hexErr := hex.DecodeString(f[0])
		if err != nil || hexErr != nil || len(raw) != 32 || n <= 0 || n > maxIndex {
			return digest{}, fmt.Errorf("the release lists %s with hash %q and size %q", name, f[0], f[1])
		}
		return digest{f[0], n}, nil
	}
	return digest{}, fmt.Errorf("the release does not list %s: name a mirror that carries %s with --mirror", name, arch)
}

// readIndex returns the Packages file of the release, which lies beside it. The cache
// keeps it unpacked, under the hash that the release gives for it in that form.
func (a *archive) readIndex(ctx context.Context, suite string) (string, error) {
	const plain = "main/binary-" + arch + "/Packages"
	want, err := listed(a.release, plain)
	if err != nil {
		return "", err
	}
	file := filepath.Join(a.cache, "index", want.sha256)
	err = check("index of "+suite, file, want)
	if errors.Is(err, os.ErrNotExist) {
		err = a.fetchIndex(ctx, suite, plain+".xz", file, want)
	}
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	return string(b), err
}

func (a *archive) fetchIndex(ctx context.Context, suite, name, file string, plain digest) error {
	packed, err := listed(a.release, name)
	if err != nil {
		return err
	}
	t := a.progress.Start("index of "+suite, packed.size)
	defer t.Done()
	// The name by hash stays while the mirror changes to a new release.
	dir := "dists/" + suite + "/" + name[:strings.LastIndexByte(name, '/')+1]
	path := dir + "by-hash/SHA256/" + packed.sha256
	what := "index of " + suite
	var missing *statusError
	err = a.fetch(ctx, what, path, file+".xz", packed, t)
	if errors.As(err, &missing) && missing.code == http.StatusNotFound {
		err = a.fetch(ctx, what, "dists/"+suite+"/"+name, file+".xz", packed, t)
	}
	if err != nil {
		return err
	}
	if err := unpackIndex(file, plain); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return errors.Join(check(what, file, plain), os.Remove(file+".xz"))
}

func unpackIndex(file string, plain digest) error {
	in, err := os.Open(file + ".xz")
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := deb.Decompress(".xz", in)
	if err != nil {
		return err
	}
	return writeTo(file, func(w io.Writer) error {
		n, err := io.Copy(w, io.LimitReader(r, plain.size+1))
		if err == nil && n != plain.size {
			err = fmt.Errorf("unpacks to %d bytes, the release says %d", n, plain.size)
		}
		return err
	})
}

// deb brings one package into the cache and returns its file.
func (a *archive) deb(ctx context.Context, p *deb.Package, t Task) (string, error) {
	if p.Size > maxDeb || strings.Contains("/"+p.Filename+"/", "/../") || !isHex(p.SHA256) {
		return "", fmt.Errorf("package %s: the index gives size %d, file %q, SHA256 %q", p.Name, p.Size, p.Filename, p.SHA256)
	}
	file := filepath.Join(a.cache, "deb", p.SHA256+".deb")
	return file, a.fetch(ctx, p.Name+" "+p.Version, p.Filename, file, digest{p.SHA256, p.Size}, t)
}

func isHex(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

func writeFile(name string, b []byte) error {
	return writeTo(name, func(w io.Writer) error { _, err := w.Write(b); return err })
}

// writeTo makes a file whole or not at all.
func writeTo(name string, fn func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	if err := errors.Join(fn(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// readKeys reads a keyring file, armored or not; none means Debian's own.
func readKeys(file string) (openpgp.EntityList, error) {
	b := debianKeys
	if file != "" {
		var err error
		if b, err = readLimited(file, 4<<20); err != nil {
			return nil, fmt.Errorf("keyring: %w", err)
		}
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(b, []byte("-----BEGIN")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(b))
	if err == nil && len(keys) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("keyring %s has no usable OpenPGP key (%v): give a file of public keys with --keyring", file, err)
	}
	return keys, nil
}
