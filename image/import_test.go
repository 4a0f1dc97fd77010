// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/image/ext4"
	"tandem/image/part"
)

// cloudDisk is a disk with files in an ext4 partition, or on the whole disk.
func cloudDisk(t *testing.T, table string, files map[string]string) string {
	t.Helper()
	const size, start = 40 << 20, 4 << 20
	name := filepath.Join(t.TempDir(), "cloud.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	if table != "" {
		at = start
		cmd := exec.Command("sfdisk", "-q", name)
		if _, err := exec.LookPath("sfdisk"); err != nil {
			cmd = exec.Command("/usr/sbin/sfdisk", "-q", name)
		}
		cmd.Stdin = strings.NewReader(table)
		if b, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			t.Skip("sfdisk is not installed")
		} else if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
	}
	fs, err := ext4.New(shifted{f, at}, ext4.Options{Size: size - at - 1<<20, Time: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := fs.Create(name, ext4.Attr{Mode: 0o644}, int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

type shifted struct {
	f  *os.File
	at int64
}

func (s shifted) ReadAt(b []byte, off int64) (int, error)  { return s.f.ReadAt(b, off+s.at) }
func (s shifted) WriteAt(b []byte, off int64) (int, error) { return s.f.WriteAt(b, off+s.at) }

const (
	gptTable = "label: gpt\n1: start=8192, size=65536, type=linux, uuid=11111111-2222-3333-4444-555555555555\n15: start=2048, size=2048, type=uefi\n"
	dosTable = "label: dos\nlabel-id: 0xcafe0001\n1: start=8192, size=65536, type=83\n"
)

func zipped(b []byte) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.String()
}

// Of several kernels the newest is started, with its own initrd and what the boot
// loader of each distribution would say, made fit for this machine.
func TestInspect(t *testing.T) {
	old, now := string(fakeImage()), zipped(append(fakeImage(), "new"...))
	for _, c := range []struct {
		what, table     string
		files           map[string]string
		version, append string
		initrd          string
	}{
		{"Debian", gptTable, map[string]string{
			"/boot/vmlinux-6.9-riscv64": old, "/boot/vmlinux-6.12-riscv64": now, "/boot/initrd.img-6.12-riscv64": "i", "/etc/os-release": "",
			"/boot/grub/grub.cfg": "menuentry {\n\tlinux /boot/vmlinux-6.9-riscv64 root=bad\n\tlinux\t/boot/vmlinux-6.12-riscv64 root=PARTUUID=aa ro quiet $x\n}\n",
		}, "6.12-riscv64", "root=PARTUUID=aa ro console=ttyS0", "i"},
		{"Fedora", gptTable, map[string]string{
			"/vmlinuz-6.11.fc41.riscv64": now, "/initramfs-6.11.fc41.riscv64.img": "i", "/vmlinuz-0-rescue-99": old,
			"/loader/entries/a.conf": "title F\nlinux /vmlinuz-6.11.fc41.riscv64\noptions root=UUID=u rootflags=subvol=root console=tty0 console=ttyS0,115200n8\n",
		}, "6.11.fc41.riscv64", "root=UUID=u rootflags=subvol=root console=tty0 console=ttyS0,115200n8", "i"},
		{"Alpine", dosTable, map[string]string{
			"/boot/vmlinuz-lts": now, "/boot/initramfs-lts": "i",
			"/boot/extlinux/extlinux.conf": "default l\nlabel l\n  LINUX /boot/vmlinuz-lts\n  APPEND root=LABEL=/ modules=ext4\n",
		}, "lts", "root=LABEL=/ modules=ext4 console=ttyS0", "i"},
		{"no boot loader", gptTable, map[string]string{"/boot/Image": now}, "", "root=PARTUUID=11111111-2222-3333-4444-555555555555 rw console=ttyS0", ""},
		{"no initrd", dosTable, map[string]string{"/boot/vmlinuz-6": now, "/boot/grub/grub.cfg": "linux /vmlinuz-6 root=UUID=u console=ttyS0 console=tty0\n"},
			"6", "console=ttyS0 console=tty0 root=PARTUUID=cafe0001-01 rw console=ttyS0", ""},
		{"whole disk", "", map[string]string{"/boot/vmlinuz-6": now, "/boot/initrd-6": "i"}, "6", "root=/dev/vda rw console=ttyS0", "i"},
	} {
		t.Run(c.what, func(t *testing.T) {
			name := cloudDisk(t, c.table, c.files)
			i, err := Import(context.Background(), ImportOptions{Dir: filepath.Join(t.TempDir(), "i"), File: name, Append: "extra"})
			if err != nil {
				t.Fatal(err)
			}
			kernel, _ := os.ReadFile(i.Kernel)
			initrd, _ := os.ReadFile(i.Initrd)
			if i.Manifest.KernelVersion != c.version || i.Append != c.append+" extra" || string(initrd) != c.initrd || !bytes.HasSuffix(kernel, []byte("new")) {
				t.Errorf("version %q, append %q, initrd %q, kernel of %d bytes", i.Manifest.KernelVersion, i.Append, initrd, len(kernel))
			}
			from, _ := os.ReadFile(name)
			if to, err := os.ReadFile(i.Disk); err != nil || !bytes.Equal(from, to) {
				t.Errorf("the disk differs: %v", err)
			}
			if used, _ := folderUse(i.Dir); used > 20<<20 {
				t.Errorf("it takes %s: its holes were filled", Bytes(used))
			}
		})
	}
}

// What can't be imported is refused with the remedy, and leaves nothing behind.
func TestImportRefusals(t *testing.T) {
	x86 := make([]byte, 1024)
	copy(x86[0x202:], "HdrS")
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	empty := cloudDisk(t, "", nil)
	for _, c := range []struct {
		o     ImportOptions
		words []string
	}{
		{ImportOptions{File: "/none"}, []string{"/none", "no such file", "qcow2"}},
		{ImportOptions{File: t.TempDir()}, []string{"this is a folder"}},
		{ImportOptions{File: file(zipped(nil))}, []string{"packed with gzip", "gunzip"}},
		{ImportOptions{File: file("KDMV....")}, []string{"VMDK", "qemu-img convert"}},
		{ImportOptions{File: file("QFI\xfb" + strings.Repeat("\x00", 200))}, []string{"qcow2 version 0", "qemu-img"}},
		{ImportOptions{File: file("hello")}, []string{"5 bytes", "sectors of 512"}},
		{ImportOptions{File: empty}, []string{"no kernel was found", "the disk: ext4", "--boot uefi"}},
		{ImportOptions{File: cloudDisk(t, "", map[string]string{"/boot/vmlinuz-6": string(x86)})}, []string{"/boot/vmlinuz-6 in the disk", "it is for x86", "riscv64 variant"}},
		{ImportOptions{File: empty, Size: 1 << 20}, []string{"the disk has 40.0 MiB; choose more"}},
		{ImportOptions{File: empty, Boot: "bios"}, []string{`"bios"`, "auto, kernel or uefi"}},
		{ImportOptions{File: empty, Seed: Seed{Hostname: "a b"}}, []string{`host name "a b"`}},
		{ImportOptions{File: empty, Seed: Seed{UserData: []byte("packages: [x]")}}, []string{"#cloud-config"}},
		{ImportOptions{File: empty, Seed: Seed{SSHKeys: []string{"-----BEGIN OPENSSH PRIVATE KEY-----"}}}, []string{"private key"}},
	} {
		c.o.Dir = filepath.Join(t.TempDir(), "i")
		_, err := Import(context.Background(), c.o)
		for _, w := range c.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %v: lacks %q", c.o, err, w)
			}
		}
		if left, _ := os.ReadDir(c.o.Dir); len(left) > 0 {
			t.Errorf("%v left %v", err, left)
		}
	}
}

// The seed is a disk with cloud-init's label, whose instance changes with its content.
func TestSeed(t *testing.T) {
	make := func(s Seed) []byte {
		b, err := s.disk()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if make(Seed{}) != nil {
		t.Error("a disk without content")
	}
	a, b := make(Seed{Hostname: "web"}), make(Seed{Hostname: "db"})
	if !bytes.Equal(a, make(Seed{Hostname: "web"})) || bytes.Equal(a, b) {
		t.Error("the disk is not a function of its content")
	}
	if !bytes.Contains(a, []byte(`"local-hostname": "web"`)) || !bytes.Contains(a, []byte(`"instance-id": "tandem-`)) || !bytes.Contains(a, []byte("#cloud-config\n{}\n")) {
		t.Error("the seed lacks its data")
	}
	if !bytes.Equal(a[16*2048+40:][:6], []byte("cidata")) {
		t.Error("the label is not cidata")
	}
}

// A disk for firmware gets OpenSBI and U-Boot out of the archive's packages.
func TestImportFirmware(t *testing.T) {
	var packages []pkg
	for _, f := range firmwareFiles {
		packages = append(packages, pkg{name: f.pkg, files: nil})
		packages[len(packages)-1].files = append(packages[len(packages)-1].files, file("./"+f.file, "the "+f.name))
	}
	a := newArchive(t, packages)
	o := ImportOptions{Dir: filepath.Join(t.TempDir(), "i"), File: cloudDisk(t, gptTable, nil),
		Archive: Options{Mirror: a.mirror, Keyring: a.keyring, CacheDir: a.cache}}
	i, err := Import(context.Background(), o) // nothing but the partition says how it boots
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{i.Firmware: "the firmware", i.Kernel: "the kernel"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if i.Initrd != "" || !strings.Contains(fmt.Sprint(i), "U-Boot") {
		t.Errorf("%v", i)
	}
}

// Whatever a disk says: no panic.
func FuzzInspect(f *testing.F) {
	f.Add([]byte(gptTable))
	f.Fuzz(func(t *testing.T, b []byte) {
		entryArgs(string(b), "vmlinuz")
		commandLine(strings.Fields(string(b)), volume{p: part.Partition{}}, len(b)%2 == 0)
		bootable(sized{bytes.NewReader(b)})
	})
}

type sized struct{ *bytes.Reader }

func (s sized) Size() int64 { return int64(s.Len()) }
