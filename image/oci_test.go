// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// container makes a container image of layers, each a list of tar headers with
// their content in Uname.
func container(t *testing.T, arch string, config v1.Config, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, l := range layers {
		b := tarOf(t, l)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config, c.Created = "linux", arch, config, v1.Time{Time: time.Unix(1700000000, 0)}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// writeLayout writes images with tags into a new layout folder.
func writeLayout(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range images {
		if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{refName: tag})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (a *testArchive) pull(o PullOptions) (*Image, error) {
	o.Dir = filepath.Join(a.t.TempDir(), "image")
	o.Archive = Options{Mirror: a.mirror, Keyring: a.keyring, CacheDir: a.cache}
	if o.Size == 0 {
		o.Size = 64 << 20
	}
	return Pull(context.Background(), o)
}

var shell = v1.Config{Cmd: []string{"sh", "-c", "it's"}, Env: []string{"PATH=/bin", "A=b c", "x.y=1"}, WorkingDir: "/srv", User: "web",
	ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}}

func shellLayers() [][]tar.Header {
	return [][]tar.Header{
		{dir("bin/"), file("bin/sh", "sh"), dir("etc/"), file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n"),
			file("old", "o"), dir("full/"), file("full/a", "a"), dir("full/sub/"), file("full/sub/b", "b"), file("changes", "1"), file("becomes", "file"),
			{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}, dir("usr/lib/")},
		{file(".wh.old", ""), file("full/new", "n"), file("full/.wh..wh..opq", ""), file("changes", "2"), dir("becomes/"), file("becomes/in", "x"),
			file("lib/through", "t"), {Name: "hard", Typeflag: tar.TypeLink, Linkname: "bin/sh"}},
	}
}

// A container image of a layout becomes a disk: layers one over the other with what
// they take away, and an init that starts the program as its configuration says.
func TestPullLayout(t *testing.T) {
	a := newArchive(t, standard())
	layers := shellLayers()
	from := writeLayout(t, map[string]v1.Image{"latest": container(t, arch, shell, layers...), "x86": container(t, "amd64", shell, layers...)})
	i, err := a.pull(PullOptions{Reference: "oci:" + from + ":latest", Hostname: "box", Env: []string{"C=d"}})
	if err != nil {
		t.Fatal(err)
	}
	if i.Manifest.Kind != KindOCI || strings.Join(i.Manifest.Ports, " ") != "53/udp 80/tcp" || i.Append != containerAppend || !i.Current() {
		t.Errorf("manifest %+v", i.Manifest)
	}
	fsck(t, i.Disk)
	for _, c := range []struct{ command, want string }{
		{"cat /changes", "2"},
		{"cat /becomes/in", "x"},
		{"cat /usr/lib/through", "t"},
		{"cat /hard", "sh"},
		{"stat /bin/sh", "Links: 2"},
		{"ls -p /full", "/new/"},
		{"cat /etc/hostname", "box\n"},
		{"cat /.tandem/busybox", "busybox!"},
		{"cat /.tandem/init", "udhcpc -i eth0"},
		{"cat /.tandem/run", "#!/.tandem/busybox sh\n"},
		{"cat /.tandem/run", "export HOME='/var/www'\n"},
		{"cat /.tandem/run", "export A='b c'\nexport C='d'\ncd '/srv' || exit 125\n"},
		{"cat /.tandem/run", `start-stop-daemon -S -c 33:34 -x '/bin/sh' -- '-c' 'it'\''s'` + "\n"},
		{"stat /srv", "Type: directory"},
	} {
		if out := debugfs(t, i.Disk, c.command); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q is missing from\n%s", c.command, c.want, out)
		}
	}
	for _, gone := range []string{"/old", "/full/a", "/full/sub", "/.wh.old", "/full/.wh..wh..opq"} {
		if out := debugfs(t, i.Disk, "stat "+gone); strings.Contains(out, "Inode:") {
			t.Errorf("%s is still there", gone)
		}
	}
	i, err = a.pull(PullOptions{Reference: "oci:" + from + ":latest", Command: []string{"/bin/sh"}})
	if err != nil {
		t.Fatal(err)
	}
	if out := debugfs(t, i.Disk, "cat /.tandem/run"); !strings.HasSuffix(out, "-x '/bin/sh' --\n") {
		t.Errorf("another command: %s", out)
	}
}

// A registry's index gives the riscv64 variant; what it lacks is said with a remedy.
func TestPullRegistry(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	root := v1.Config{Entrypoint: []string{"/bin/sh"}, User: "0"}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: container(t, "amd64", root, shellLayers()...), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: container(t, arch, root, shellLayers()...), Descriptor: v1.Descriptor{Platform: &platform}})
	tag, err := name.NewTag(host + "/team/web:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	x86, _ := name.NewTag(host + "/team/x86:1")
	if err := remote.Write(x86, container(t, "amd64", root)); err != nil {
		t.Fatal(err)
	}
	a := newArchive(t, standard())
	i, err := a.pull(PullOptions{Reference: "docker://" + host + "/team/web:1"})
	if err != nil {
		t.Fatal(err)
	}
	if out := debugfs(t, i.Disk, "cat /.tandem/run"); !strings.Contains(out, "exec '/bin/sh'\n") || !strings.Contains(out, "HOME='/root'") {
		t.Errorf("run: %s", out)
	}
	if i.Manifest.Digest == "" || !strings.Contains(i.String(), "docker://") {
		t.Errorf("%+v", i.Manifest)
	}
	server2 := httptest.NewServer(nil)
	server2.Close()
	for ref, want := range map[string]string{
		host + "/team/web:2": "has no team/web:2",
		host + "/team/x86:1": "linux/amd64: choose an image for linux/riscv64",
		"docker://" + strings.TrimPrefix(server2.URL, "http://") + "/x": "can be reached",
		"docker://UPPER/x": "want docker://NAME[:TAG] or oci:FOLDER[:TAG]",
		"oci:/none":        "no OCI layout",
		"oci:/none:tag":    "/none is no OCI layout",
	} {
		if _, err := a.pull(PullOptions{Reference: ref}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
}

// A layer that changed, climbs out, or doesn't fit is refused; so is a program that
// isn't there; nothing is left behind.
func TestPullRefusals(t *testing.T) {
	a := newArchive(t, standard())
	changed := writeLayout(t, map[string]v1.Image{"l": container(t, arch, shell, shellLayers()...)})
	blobs, _ := filepath.Glob(changed + "/blobs/sha256/*")
	for _, blob := range blobs {
		good, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[3] ^= 0x40 // in JSON a letter; in gzip's header a flag that nobody needs
		if err := os.WriteFile(blob, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := a.pull(PullOptions{Reference: "oci:" + changed}); err == nil || !strings.Contains(err.Error(), "has changed: expected sha256:") {
			t.Errorf("changed %.20q: %v", good, err)
		}
		if err := os.WriteFile(blob, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	one := func(c v1.Config, headers ...tar.Header) string {
		return "oci:" + writeLayout(t, map[string]v1.Image{"l": container(t, arch, c, append([]tar.Header{file("bin/sh", "s")}, headers...))})
	}
	run := v1.Config{Cmd: []string{"/bin/sh"}}
	for _, c := range []struct {
		what string
		o    PullOptions
		want string
	}{
		{"climbs", PullOptions{Reference: one(run, file("../x", ""))}, `a file "../x"`},
		{"link climbs", PullOptions{Reference: one(run, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"})}, `a link to "../../etc/shadow"`},
		{"link to nothing", PullOptions{Reference: one(run, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "none"})}, "no such file"},
		{"full", PullOptions{Reference: one(run, file("big", strings.Repeat("x", 33<<20))), Size: 32 << 20}, "--size"},
		{"big configuration", PullOptions{Reference: one(v1.Config{Cmd: []string{strings.Repeat("x", maxConfig)}})}, "configuration has"},
		{"no program", PullOptions{Reference: one(v1.Config{})}, "give one after --"},
		{"program missing", PullOptions{Reference: one(v1.Config{Cmd: []string{"none"}})}, "none is not in its PATH"},
		{"path missing", PullOptions{Reference: one(run), Command: nil, Env: []string{"PATH"}}, "want NAME=VALUE"},
		{"user missing", PullOptions{Reference: one(v1.Config{Cmd: []string{"/bin/sh"}, User: "bob"})}, "user bob"},
		{"group missing", PullOptions{Reference: one(v1.Config{Cmd: []string{"/bin/sh"}, User: "5:crew"})}, "group crew"},
		{"two tags", PullOptions{Reference: "oci:" + writeLayout(t, map[string]v1.Image{"a": container(t, arch, run), "b": container(t, arch, shell)})}, "add a tag, one of"},
		{"no such tag", PullOptions{Reference: one(run) + ":zzz"}, "no tag zzz for riscv64: it has l"},
	} {
		_, err := a.pull(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}
