// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// run runs a program of the host and returns its output.
func run(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

// webImage is a container image for riscv64: busybox, with a page to serve.
func webImage(t *testing.T) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, link, data string }{
		{"bin/busybox", "", string(run(t, "debugfs", "-R", "cat /usr/bin/busybox", guest(t)+"/disk.raw"))},
		{"bin/sh", "busybox", ""}, {"bin/httpd", "busybox", ""}, {"bin/id", "busybox", ""},
		{"etc/passwd", "", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/www:/bin/sh\n"},
		{"www/index.html", "", "hello from a container\n"},
	} {
		h := tar.Header{Name: f.name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(f.data))}
		if f.link != "" {
			h = tar.Header{Name: f.name, Mode: 0o777, Typeflag: tar.TypeSymlink, Linkname: f.link}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(f.data))
	}
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "riscv64", RootFS: must(img.ConfigFile()).RootFS, Config: v1.Config{
		Entrypoint: []string{"sh", "-c"}, Cmd: []string{"exec httpd -f -p 8080"}, User: "web", WorkingDir: "/www"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A container image from a registry boots: its program serves a port, ends at Ctrl-C,
// and its exit code is the command's.
func TestContainer(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	tag := must(name.NewTag(strings.TrimPrefix(server.URL, "http://") + "/web:1"))
	if err := remote.Write(tag, webImage(t)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, args := range [][]string{{dir + "/web"}, {dir + "/seven", "--", "id; exit 7"}} {
		if out, diag, code := tandem(t, append([]string{"image", "pull", "docker://" + tag.Name()}, args...)...); code != 0 {
			t.Fatalf("pull: exit code %d: %s%s", code, out, diag)
		}
	}
	seven := start(t, "run", dir+"/seven")
	seven.expect("uid=33(web) gid=33")
	if code := seven.wait(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	addr := ln.Addr().String()
	ln.Close()
	web := start(t, "run", dir+"/web", "--forward", addr+":8080")
	get := func() string {
		r, err := http.Get("http://" + addr + "/")
		if err != nil {
			return ""
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	for end := time.Now().Add(patience); get() != "hello from a container\n"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it serves nothing:\n%s", web.tail())
		}
	}
	fmt.Fprint(web.in, "\x03")
	if code := web.wait(); code != 130 {
		t.Errorf("exit code %d after Ctrl-C, want 130 (128 and SIGINT)", code)
	}
}

// A qcow2 disk with a partition table boots by the kernel found in it, grows, and has
// cloud-init's disk beside it; and by U-Boot, by what extlinux.conf says.
func TestImportedDisk(t *testing.T) {
	img, dir := guest(t), t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	conf := "default d\nlabel d\n  kernel /boot/vmlinux-6\n  initrd /boot/initrd.img-6\n  append root=/dev/vda1 rw console=ttyS0\n"
	files := "mkdir /boot/extlinux\nwrite " + dir + "/conf /boot/extlinux/extlinux.conf\nwrite " + img + "/kernel /boot/vmlinux-6\nwrite " + img + "/initrd /boot/initrd.img-6\n"
	for name, text := range map[string]string{"conf": conf, "files": files} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "debugfs", "-w", "-f", dir+"/files", img+"/disk.raw")
	run(t, "truncate", "-s", "1026M", disk)
	table := exec.Command("sfdisk", "-q", disk)
	table.Stdin = strings.NewReader("label: gpt\n1: start=2048, size=2097152, type=linux, attrs=LegacyBIOSBootable\n")
	if out, err := table.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	run(t, "dd", "if="+img+"/disk.raw", "of="+disk, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
	run(t, "qemu-img", "convert", "-c", "-O", "qcow2", disk, dir+"/cloud.qcow2")
	for _, c := range []struct {
		args   []string
		expect string
	}{
		{[]string{"--size", "2G", "--hostname", "web"}, "vda: vda1"},
		{[]string{"--boot", "uefi", "--hostname", "web"}, "Found /boot/extlinux/extlinux.conf"},
	} {
		out, diag, code := tandem(t, append([]string{"image", "import", dir + "/cloud.qcow2", dir + "/vm"}, c.args...)...)
		if code != 0 {
			t.Fatalf("import %v: exit code %d: %s%s", c.args, code, out, diag)
		}
		vm := start(t, "run", dir+"/vm")
		vm.expect(c.expect)
		vm.expect(ready)
		vm.ask("od -A n -c -j 32808 -N 6 /dev/vdb | tr -d ' \\n'; echo .", "cidata.")
		if code := vm.powerOff(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
