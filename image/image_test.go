// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// testArchive is a small signed archive on loopback.
type testArchive struct {
	t       *testing.T
	key     *openpgp.Entity
	keyring string // file
	cache   string
	mirror  string

	mu     sync.Mutex // guards what follows, which the server reads
	files  map[string][]byte
	asked  []string                 // "path range"
	tamper func(path string) []byte // instead of a file, if not nil
	cut    map[string][]int         // places in a file where answers break off, each once
}

// pkg is one package: control fields beside name and version, and its files.
type pkg struct {
	name, fields string
	files        []tar.Header // content in Uname
	control      map[string]string
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
func file(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Uname: content}
}

func tarOf(t *testing.T, headers []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := h.Uname
		h.Uname, h.Size, h.ModTime = "", int64(len(body)), time.Unix(1700000000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(body))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func xzOf(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 64 << 10}.NewWriter(&out) // its default costs more than the test
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (p pkg) deb(t *testing.T, version string) []byte {
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: riscv64\nMaintainer: t\nDescription: t\n%s", p.name, version, p.fields)
	files := []tar.Header{file("./control", control)}
	for name, text := range p.control {
		files = append(files, file("./"+name, text))
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.xz", xzOf(t, tarOf(t, files))}, {"data.tar.xz", xzOf(t, tarOf(t, p.files))}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// fakeImage has what marks a kernel, and nothing else.
func fakeImage() []byte {
	b := make([]byte, 4096)
	copy(b[imageMagicAt:], imageMagic)
	return b
}

func standard() []pkg {
	modules := []tar.Header{file("./boot/vmlinux-6.1-riscv64", string(fakeImage())),
		file("./usr/lib/modules/6.1-riscv64/modules.builtin",
			"kernel/drivers/virtio/virtio_mmio.ko\nkernel/fs/ext4/ext4.ko\nkernel/drivers/net/virtio_net.ko\nkernel/drivers/block/virtio_blk.ko\n")}
	return []pkg{
		{name: "base-files", fields: "Essential: yes\n", files: []tar.Header{dir("./"), dir("./etc/"), file("./usr/share/base-files/profile", "profile\n"), dir("./var/run/"), dir("./var/lock/"), file("./usr/share/doc/base-files/README", "long"), file("./usr/share/doc/base-files/copyright", "free")}},
		{name: "base-passwd", files: []tar.Header{
			file("./usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/bash\n"),
			file("./usr/share/base-passwd/group.master", "root:*:0:\nadm:*:4:\nshadow:*:42:\nusers:*:100:\n")}},
		{name: busyboxPackage, files: []tar.Header{file("./usr/bin/busybox", "busybox!")}},
		{name: "coreutils", files: []tar.Header{file("./bin/cat", "cat")}}, // through the merged /bin
		{name: "dash", files: []tar.Header{file("./usr/bin/dash", "dash"), {Name: "./usr/bin/sh", Typeflag: tar.TypeSymlink, Linkname: "dash"}}},
		{name: "dpkg", fields: "Multi-Arch: same\n", files: []tar.Header{file("./etc/dpkg/dpkg.cfg", "cfg"), {Name: "./usr/bin/dpkg2", Typeflag: tar.TypeLink, Linkname: "./etc/dpkg/dpkg.cfg"}},
			control: map[string]string{"conffiles": "/etc/dpkg/dpkg.cfg\n", "postinst": "#!/bin/sh\n"}},
		{name: "libc-bin"},
		{name: "redis-tools", files: []tar.Header{file("./usr/bin/redis-server", "redis")}},
		{name: "redis-server", fields: "Depends: redis-tools (= 1.0)\n"},
		{name: "postgresql-common"},
		{name: "linux-image-riscv64", fields: "Depends: linux-image-6.1-riscv64 (= 1.0)\n"},
		{name: "linux-image-6.1-riscv64", files: modules},
	}
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("test", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newArchive(t *testing.T, packages []pkg) *testArchive {
	t.Helper()
	a := &testArchive{t: t, key: newKey(t), cache: t.TempDir(), cut: map[string][]int{}}
	a.keyring = filepath.Join(t.TempDir(), "keys.gpg")
	var keys bytes.Buffer
	if err := a.key.Serialize(&keys); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.keyring, keys.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	a.publish(packages, "1.0", a.key)
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.mirror = s.URL + "/debian"
	return a
}

// publish makes all files of the archive anew, signed by key.
func (a *testArchive) publish(packages []pkg, version string, key *openpgp.Entity) {
	a.t.Helper()
	files := map[string][]byte{}
	var index strings.Builder
	for _, p := range packages {
		d := p.deb(a.t, version)
		name := "pool/" + p.name + ".deb"
		files[name] = d
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: riscv64\n%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.name, version, p.fields, name, len(d), sha256.Sum256(d))
	}
	plain := []byte(index.String())
	packed := xzOf(a.t, plain)
	const at = "main/binary-riscv64/Packages"
	release := fmt.Sprintf("Suite: stable\nCodename: trixie\nVersion: 13.9\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n %x %d %s\n %x %d %s.xz\n",
		sha256.Sum256(plain), len(plain), at, sha256.Sum256(packed), len(packed), at)
	files["dists/trixie/"+at+".xz"] = packed // no by-hash: the plain name must do
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	w.Write([]byte(release))
	w.Close()
	files["dists/trixie/InRelease"] = signed.Bytes()
	a.mu.Lock()
	a.files = files
	a.mu.Unlock()
}

func (a *testArchive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/debian/")
	a.asked = append(a.asked, strings.TrimSpace(path+" "+r.Header.Get("Range")))
	b, ok := a.files[path]
	if a.tamper != nil {
		if changed := a.tamper(path); changed != nil {
			b, ok = changed, true
		}
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if cut := a.cut[path]; len(cut) > 0 {
		a.cut[path] = cut[1:]
		from := 0
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(b[from:cut[0]])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (a *testArchive) build(packages ...string) (*Image, error) {
	return Build(context.Background(), Options{Dir: filepath.Join(a.t.TempDir(), "image"), Packages: packages, Mirror: a.mirror,
		Keyring: a.keyring, CacheDir: a.cache, Size: 64 << 20})
}

func (a *testArchive) mustBuild(packages ...string) *Image {
	a.t.Helper()
	i, err := a.build(packages...)
	if err != nil {
		a.t.Fatal(err)
	}
	return i
}

// wantError builds and wants an error with all these words, on one line.
func (a *testArchive) wantError(words ...string) {
	a.t.Helper()
	_, err := a.build("redis-server")
	if err == nil {
		a.t.Fatal("the build succeeded")
	}
	for _, w := range append(words, "") {
		if !strings.Contains(err.Error(), w) {
			a.t.Errorf("error lacks %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		a.t.Errorf("error has several lines: %v", err)
	}
}

// A package whose script would make a user and start a service gets both.
func TestServices(t *testing.T) {
	i := newArchive(t, standard()).mustBuild("redis-server", "postgresql-common")
	fsck(t, i.Disk)
	for _, c := range []struct{ command, want string }{
		{"cat /etc/passwd", "redis:x:101:101::/var/lib/redis:/usr/sbin/nologin\npostgres:x:102:102::/var/lib/postgresql:/bin/sh\n"},
		{"stat /var/lib/postgresql", "User:   102   Group:   102"},
		{"cat /etc/tandem/services/postgresql", "initdb"},
		{"stat /etc/tandem/services/postgresql", "Mode:  0755"},
		{"cat /etc/tandem/ready/postgresql", ":1538 "},
	} {
		if out := debugfs(t, i.Disk, c.command); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q is missing from\n%s", c.command, c.want, out)
		}
	}
}

func debugfs(t *testing.T, disk, command string) string {
	t.Helper()
	for _, bin := range []string{"debugfs", "/usr/sbin/debugfs"} {
		if out, err := exec.Command(bin, "-R", command, disk).Output(); err == nil {
			return string(out)
		}
	}
	t.Skip("debugfs is not installed")
	return ""
}

// A build gives an image that opens, whose disk fsck accepts and which holds
// the packages' files, our own, and the truth in dpkg's database.
func TestBuild(t *testing.T) {
	a := newArchive(t, standard())
	i := a.mustBuild("redis-server")
	if stale := (Image{Manifest: Manifest{Scripts: "older"}}); !i.Current() || stale.Current() {
		t.Error("an image's scripts are not told from older ones")
	}
	if i.Append != defaultAppend || i.Manifest.KernelVersion != "6.1-riscv64" || i.Manifest.Release != "13.9" || len(i.Manifest.Packages) != 10 {
		t.Errorf("manifest %+v", i.Manifest)
	}
	fsck(t, i.Disk)
	for _, c := range []struct{ command, want string }{
		{"cat /usr/bin/cat", "cat"},
		{"stat /bin", `Fast link dest: "usr/bin"`},
		{"stat /var/run", `Fast link dest: "/run"`},
		{"stat /var/lock", `Fast link dest: "/run/lock"`},
		{"stat /usr/bin/dpkg2", "Links: 2"},
		{"cat /etc/profile", "profile\n"},
		{"cat /etc/passwd", "root:x:0:0:root:/root:/bin/sh\nredis:x:101:101::/var/lib/redis:/usr/sbin/nologin\n"},
		{"cat /etc/shadow", "root:*:"},
		{"stat /etc/shadow", "Mode:  0640"},
		{"stat /etc/shadow", "Group:    42"},
		{"stat /var/lib/redis", "User:   101   Group:   101"},
		{"stat /var/log/redis", "Group:     4"},
		{"cat /etc/tandem/services/redis", "/usr/bin/redis-server"},
		{"cat /var/lib/dpkg/status", "Package: dpkg\nStatus: install ok unpacked\n"},
		{"cat /var/lib/dpkg/status", "Conffiles:\n /etc/dpkg/dpkg.cfg 011134986548f3458aa3e7e2a7fceb8d\n"},
		{"cat /var/lib/dpkg/info/dpkg:riscv64.list", "/usr/bin/dpkg2\n"},
		{"stat /var/lib/dpkg/info/dpkg:riscv64.postinst", "Mode:  0755"},
		{"cat /usr/share/doc/base-files/copyright", "free"},
		{"stat /usr/sbin/init", `Fast link dest: "tandem-init"`},
		{"stat /tmp", "Mode:  01777"},
	} {
		if out := debugfs(t, i.Disk, c.command); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q is missing from\n%s", c.command, c.want, out)
		}
	}
	if out := debugfs(t, i.Disk, "ls /usr/share/doc/base-files"); strings.Contains(out, "README") {
		t.Error("documentation was not left out")
	}
}

// A host without an image's disk can boot a VM from it whose disk is elsewhere; for all
// else the image is broken.
func TestOpenBoot(t *testing.T) {
	i := newArchive(t, standard()).mustBuild()
	if err := os.Remove(i.Disk); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(i.Dir); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("opened without its disk: %v", err)
	}
	b, err := OpenBoot(i.Dir)
	if err != nil || b.Kernel == "" || b.Initrd == "" || b.Disk != "" {
		t.Errorf("%+v, %v", b, err)
	}
}

// Users have homes, and the keys lie where the ssh server reads them, owned by
// whom they let in; the server runs as a service.
func TestUsers(t *testing.T) {
	a := newArchive(t, append(standard(), pkg{name: sshServer, files: []tar.Header{file("./usr/sbin/dropbear", "dropbear")}}))
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFVgvRZnqu5l8Tn8uWRCTqMnSWQtw6nPvTuBPPbbmHPD ada@home"
	i, err := Build(context.Background(), Options{Dir: filepath.Join(t.TempDir(), "image"), Mirror: a.mirror, Keyring: a.keyring,
		CacheDir: a.cache, Size: 64 << 20, Users: []string{"ada", "bob"}, SSHKeys: []string{"no-pty " + key + "\n"}})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, i.Disk)
	for _, c := range []struct{ command, want string }{
		{"cat /etc/passwd", "ada:x:1000:1000::/home/ada:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"},
		{"cat /etc/group", "bob:x:1001:\n"},
		{"cat /etc/shadow", "ada:*:"},
		{"stat /home/bob", "User:  1001   Group:  1001"},
		{"stat /home/bob/.ssh", "Mode:  0700"},
		{"cat /home/bob/.ssh/authorized_keys", "no-pty " + key + "\n"},
		{"stat /home/ada/.ssh/authorized_keys", "User:  1000   Group:  1000"},
		{"stat /root/.ssh/authorized_keys", "Mode:  0600"},
		{"cat /etc/tandem/services/ssh", "dropbear"},
	} {
		if out := debugfs(t, i.Disk, c.command); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q is missing from\n%s", c.command, c.want, out)
		}
	}
}

// Two builds from the same release are the same, and the second fetches only
// the release.
func TestBuildTwice(t *testing.T) {
	a := newArchive(t, standard())
	one := a.mustBuild("redis-server")
	a.asked = nil
	two := a.mustBuild("redis-server")
	if got := strings.Join(a.asked, ","); got != "dists/trixie/InRelease" {
		t.Errorf("the second build asked for %s", got)
	}
	for _, pair := range [][2]string{{one.Kernel, two.Kernel}, {one.Initrd, two.Initrd}, {one.Disk, two.Disk}, {one.Dir + "/image.json", two.Dir + "/image.json"}} {
		x, err1 := os.ReadFile(pair[0])
		y, err2 := os.ReadFile(pair[1])
		if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs: %v %v", filepath.Base(pair[0]), err1, err2)
		}
	}
}

// A release signed by another key, changed after signing, or of another suite
// is refused before anything else is fetched.
func TestRelease(t *testing.T) {
	a := newArchive(t, standard())
	a.publish(standard(), "1.0", newKey(t))
	a.wantError("signature is not good", "--keyring")
	a.publish(standard(), "1.0", a.key)
	good := a.files["dists/trixie/InRelease"]
	for what, bad := range map[string][]byte{
		"signature is not good":  bytes.Replace(good, []byte("13.9"), []byte("13.8"), 1),
		"not one signed message": append(bytes.Clone(good), "Extra: 1\n"...),
		"not one signed":         []byte("<html>"),
	} {
		a.files["dists/trixie/InRelease"] = bad
		a.wantError(what, "--mirror")
	}
	for _, path := range a.asked {
		if !strings.HasSuffix(path, "InRelease") {
			t.Errorf("fetched %s under a bad release", path)
		}
	}
	now := time.Date(2026, 9, 13, 0, 0, 0, 0, time.UTC)
	if _, err := verifyRelease(good, openpgp.EntityList{a.key}, "forky", now); err == nil || !strings.Contains(err.Error(), `not "forky"`) {
		t.Errorf("another suite: %v", err)
	}
}

// While a mirror has a new release with the old index, or an index and nothing else of
// the new one, the release before serves: out of the cache, or by the suite's other name.
func TestBetweenReleases(t *testing.T) {
	const release, index = "dists/trixie/InRelease", "dists/trixie/main/binary-riscv64/Packages.xz"
	a := newArchive(t, standard())
	old := a.files
	a.mustBuild("redis-server")
	packages := standard()
	packages[0].fields += "Homepage: https://new.example\n"
	a.publish(packages, "1.0", a.key)
	halfway := maps.Clone(old)
	halfway[release] = a.files[release]
	a.files = halfway
	a.mustBuild("redis-server")
	if kept, err := os.ReadFile(filepath.Join(a.cache, "release", "trixie")); err != nil || !bytes.Equal(kept, old[release]) {
		t.Errorf("the release in the cache is not the one used: %v", err)
	}

	a.cache = t.TempDir()
	a.wantError("index of trixie has changed", "--mirror")
	delete(halfway, index)
	a.wantError("404")
	for _, name := range []string{release, index} {
		halfway[strings.Replace(name, "trixie", "stable", 1)] = old[name]
	}
	a.mustBuild("redis-server")
	halfway["dists/stable/InRelease"] = bytes.Replace(old[release], []byte("13.9"), []byte("13.8"), 1)
	a.cache = t.TempDir()
	a.wantError("404")
}

// The keys in the program are Debian's for this release.
func TestDebianKeys(t *testing.T) {
	keys, err := readKeys("")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, fmt.Sprintf("%X", k.PrimaryKey.Fingerprint))
		if k.PrivateKey != nil {
			t.Error("a private key")
		}
	}
	want := "04B54C3CDCA79751B16BC6B5225629DF75B188BD 41587F7DB8C774BCCF131416762F67A0B2C39DE4"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("fingerprints %s, want %s", s, want)
	}
}

// A package that the mirror or the cache changed is named with both hashes and
// what to do.
func TestChangedPackage(t *testing.T) {
	a := newArchive(t, standard())
	name := "pool/redis-tools.deb"
	good := a.files[name]
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	a.tamper = func(path string) []byte {
		if path == name {
			return bad
		}
		return nil
	}
	a.wantError("redis-tools 1.0 has changed", fmt.Sprintf("expected SHA256 %x, found %x", sha256.Sum256(good), sha256.Sum256(bad)), "--mirror")
	a.tamper = func(path string) []byte {
		if path == name {
			return append(bytes.Clone(good), 0)
		}
		return nil
	}
	a.wantError("redis-tools 1.0 has changed", fmt.Sprintf("expected %d bytes", len(good)))
	a.tamper = nil
	a.mustBuild("redis-server")
	cached := filepath.Join(a.cache, "deb", fmt.Sprintf("%x.deb", sha256.Sum256(good)))
	if err := os.WriteFile(cached, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	a.wantError("redis-tools 1.0 has changed", cached, "delete that file")
	if err := os.Remove(cached); err != nil {
		t.Fatal(err)
	}
	a.mustBuild("redis-server")
}

// A download that broke off goes on where it stopped; a part that belongs to
// something else is fetched anew.
func TestResume(t *testing.T) {
	a := newArchive(t, standard())
	name := "pool/redis-tools.deb"
	good := a.files[name]
	part := filepath.Join(a.cache, "deb", fmt.Sprintf("%x.deb.part", sha256.Sum256(good)))
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, good[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	a.mustBuild("redis-server")
	if got := a.requests(name); got != name+" bytes=100-" {
		t.Errorf("asked %s", got)
	}

	a = newArchive(t, standard()) // answers that break off in this very build, and bring it further
	a.cut[name] = []int{200, 210, 220, 230, 240, 250}
	f := fetcher{client: http.DefaultClient, mirror: a.mirror, retry: time.Millisecond}
	out := filepath.Join(t.TempDir(), "x")
	good = a.files[name]
	sum := &counter{}
	if err := f.fetch(context.Background(), "x", name, out, digest{fmt.Sprintf("%x", sha256.Sum256(good)), int64(len(good))}, sum); err != nil {
		t.Fatal(err)
	}
	want := name
	for _, at := range []int{200, 210, 220, 230, 240, 250} {
		want += fmt.Sprintf(",%s bytes=%d-", name, at)
	}
	if got := a.requests(name); got != want {
		t.Errorf("asked %s", got)
	}
	if sum.n != int64(len(good)) {
		t.Errorf("progress says %d of %d bytes", sum.n, len(good))
	}
	a.cut[name] = slices.Repeat([]int{100}, tries+1) // and that stay where they were
	if err := f.fetch(context.Background(), "x", name, out+"3", digest{fmt.Sprintf("%x", sha256.Sum256(good)), int64(len(good))}, &counter{}); !errors.Is(err, errNetwork) {
		t.Errorf("a mirror that brings it no further: %v", err)
	}
	a.cut[name] = nil

	if err := os.WriteFile(out+"2.part", bytes.Repeat([]byte("x"), 300), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.fetch(context.Background(), "x", name, out+"2", digest{fmt.Sprintf("%x", sha256.Sum256(good)), int64(len(good))}, &counter{}); err != nil {
		t.Errorf("a stale part: %v", err)
	}
}

func (a *testArchive) requests(path string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, r := range a.asked {
		if strings.HasPrefix(r, path) {
			out = append(out, r)
		}
	}
	return strings.Join(out, ",")
}

type counter struct{ n int64 }

func (c *counter) Add(n int64) { c.n += n }
func (c *counter) Done()       {}

// A package whose files climb out of it, or which holds no sane tar, is named.
func TestHostilePackage(t *testing.T) {
	for _, h := range []tar.Header{
		file("../../etc/cron.d/x", "x"),
		file("/etc/cron.d/x", "x"),
		{Name: "./x", Typeflag: tar.TypeLink, Linkname: "../../../etc/shadow"},
		{Name: "./x", Typeflag: tar.TypeLink, Linkname: "not/there"},
		dir("./usr/bin/busybox/"), // where a file is
	} {
		list := standard()
		for i := range list {
			if list[i].name == "redis-tools" {
				list[i].files = append(list[i].files, h)
			}
		}
		a := newArchive(t, list)
		a.wantError("package redis-tools 1.0")
	}
}

// A link that points above the root stays in the guest: nothing is written
// outside the image.
func TestLinkStaysInside(t *testing.T) {
	outside := t.TempDir()
	list := standard()
	for i := range list {
		if list[i].name == "redis-tools" {
			list[i].files = append(list[i].files, tar.Header{Name: "./esc", Typeflag: tar.TypeSymlink, Linkname: "../../../.." + outside}, file("./esc/inside", "guest"))
		}
	}
	a := newArchive(t, list)
	_, err := a.build("redis-server")
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Fatalf("the host's %s was written to", outside)
	}
	if err == nil {
		t.Error("a dangling link in the way of a directory went unnoticed")
	}
}

// Without the network the cache serves, after the same checks; what it lacks is
// named.
func TestOffline(t *testing.T) {
	a := newArchive(t, standard())
	a.mustBuild()
	o := Options{Dir: filepath.Join(t.TempDir(), "i"), Mirror: a.mirror, Keyring: a.keyring, CacheDir: a.cache, Size: 64 << 20, Offline: true}
	a.asked = nil
	if _, err := Build(context.Background(), o); err != nil {
		t.Errorf("from the cache: %v", err)
	}
	o.Packages = []string{"redis-server"}
	if _, err := Build(context.Background(), o); err == nil || !strings.Contains(err.Error(), "is not in the cache") {
		t.Errorf("a package that is not there: %v", err)
	}
	if len(a.asked) > 0 {
		t.Errorf("asked the mirror for %v", a.asked)
	}
}

// A folder with other things in it is not touched, and one whose kernel
// changed does not open.
func TestDir(t *testing.T) {
	a := newArchive(t, standard())
	i := a.mustBuild()
	if err := os.WriteFile(i.Kernel, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(i.Dir); err == nil || !strings.Contains(err.Error(), "make the image again") {
		t.Errorf("changed kernel: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not an image") {
		t.Errorf("no image: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(other+"/thesis.tex", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(context.Background(), Options{Dir: other, Mirror: a.mirror}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a folder in use: %v", err)
	}
}

// The mirror comes from the flag, the environment, or apt's files, in both of
// their formats, and is never guessed.
func TestMirror(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"sources.list", "# deb http://commented/debian trixie main\ndeb cdrom:[x]/ trixie main\ndeb [arch=amd64 signed-by=/x] http://one.example/debian/ bookworm main\n", "http://one.example/debian"},
		{"sources.list.d/a.list", "deb-src http://src.example/debian trixie main\ndeb https://two.example/debian trixie contrib main\n", "https://two.example/debian"},
		{"sources.list.d/b.sources", "Types: deb\n# note\nURIs: http://vendor.example/apt\nSuites: nodistro\nComponents: main\n\nTypes: deb deb-src\nURIs: cdrom:x http://three.example/debian\nSuites: trixie trixie-updates\nComponents: main\n", "http://three.example/debian"},
		{"sources.list.d/c.sources", "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n", ""},
		{"sources.list", "deb http://sec.example/debian-security trixie-security main\ndeb http://u.example/ubuntu noble main\n", ""},
		{"sources.list.d/d.list.save", "deb http://old.example/debian trixie main\n", ""},
	} {
		root := t.TempDir()
		name := filepath.Join(root, c.file)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := mirror("", "", root)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v; want %q", c.text, got, err, c.want)
		}
	}
	if got, err := mirror("http://given/debian/", "http://env/debian", t.TempDir()); got != "http://given/debian" || err != nil {
		t.Errorf("given: %q, %v", got, err)
	}
	if got, err := mirror("", "http://env/debian", t.TempDir()); got != "http://env/debian" || err != nil {
		t.Errorf("environment: %q, %v", got, err)
	}
	if _, err := mirror("ftp://x/", "", t.TempDir()); err == nil {
		t.Error("a mirror that is not of the web was taken")
	}
	if _, err := mirror("", "", t.TempDir()); !errors.Is(err, ErrNoMirror) {
		t.Errorf("none: %v", err)
	}
}

// greedyXZ is an empty .xz file up to the end of the header of its first block, which
// asks for a dictionary of 4 GiB.
var greedyXZ = []byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36" + "\x02\x00\x21\x01\x28\x00\x00\x00\xe6\xa0\x11\xb3")

func zbootOf(kind string, payload []byte) []byte {
	b := make([]byte, 64)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], 64)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	copy(b[24:], kind)
	return append(b, payload...)
}

// Kernels come raw, packed with gzip, or in the EFI zboot wrapper.
func TestRawImage(t *testing.T) {
	raw := fakeImage()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	zboot := zbootOf("gzip", b.Bytes())
	for name, k := range map[string][]byte{"raw": raw, "gzip": b.Bytes(), "zboot": zboot} {
		if got, err := rawImage(k); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	liar := bytes.Clone(zboot)
	binary.LittleEndian.PutUint32(liar[12:], 1<<31)
	for name, k := range map[string][]byte{"empty": nil, "elf": []byte("\x7fELF" + strings.Repeat("x", 100)), "zboot that lies": liar, "cut gzip": b.Bytes()[:20]} {
		if _, err := rawImage(k); err == nil {
			t.Errorf("%s was taken for a kernel", name)
		}
	}
	if _, err := rawImage(zbootOf("xzkern", greedyXZ)); err == nil || !strings.Contains(err.Error(), "a dictionary of 4294967295 bytes") {
		t.Errorf("zboot that wants 4 GiB: %v", err)
	}
}

// An initrd has its files in newc format, each aligned, and the order of modules.
func TestInitrd(t *testing.T) {
	var b bytes.Buffer
	if err := writeInitrd(&b, []byte("busybox!"), []module{{"virtio_mmio", []byte("abc")}, {"ext4", []byte("defgh")}}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for rest := b.Bytes(); ; {
		var f [13]uint32
		for i := range f {
			if _, err := fmt.Sscanf(string(rest[6+8*i:14+8*i]), "%X", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		if string(rest[:6]) != "070701" {
			t.Fatalf("magic %q", rest[:6])
		}
		name := string(rest[110 : 110+f[11]-1])
		rest = rest[(110+f[11]+3)&^3:]
		if name == "TRAILER!!!" {
			break
		}
		got[name] = fmt.Sprintf("%o %d,%d %s", f[1], f[9], f[10], rest[:f[6]])
		rest = rest[(f[6]+3)&^3:]
	}
	for name, want := range map[string]string{
		"dev/console":            "20600 5,1 ",
		"bin/busybox":            "100755 0,0 busybox!",
		"modules/ext4.ko":        "100644 0,0 defgh",
		"modules/virtio_mmio.ko": "100644 0,0 abc",
		"modules/order":          "100644 0,0 virtio_mmio\next4\n",
		"init":                   "100755 0,0 " + string(initScript),
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}
