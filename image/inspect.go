// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"tandem/image/deb"
	"tandem/image/ext4"
	"tandem/image/part"
)

// found is what starts an imported disk.
type found struct {
	version        string
	kernel, initrd []byte
	append         string
}

// volume is a file system on a disk, with its partition if it has one.
type volume struct {
	fs *ext4.Reader
	p  part.Partition
}

// device is how the kernel finds it without an initrd's help.
func (v volume) device() string {
	if v.p.Number == 0 {
		return "/dev/vda"
	}
	return "PARTUUID=" + v.p.ID
}

func (v volume) String() string {
	if v.p.Number == 0 {
		return "the disk"
	}
	return fmt.Sprintf("partition %d", v.p.Number)
}

// inspect finds the newest kernel on a disk, its initrd and its command line.
func inspect(d disk) (*found, error) {
	volumes, seen, err := volumes(d)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, v := range volumes {
		for _, dir := range []string{"/boot", "/"} {
			for _, k := range kernels(v.fs, dir) {
				f, err := load(v, dir, k)
				if err != nil {
					problems = append(problems, fmt.Errorf("%s in %s: %w", path.Join(dir, k.name), v, err))
					continue
				}
				f.append = commandLine(bootArgs(v.fs, k.name), root(volumes), f.initrd != nil)
				return f, nil
			}
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("no kernel in it can be started (%w): import the riscv64 variant of the image, or boot it by --boot uefi", problems[0])
	}
	return nil, fmt.Errorf("no kernel was found in it (%s): boot it by --boot uefi, or run it with a kernel of your own (tandem run --kernel)", seen)
}

// volumes opens the ext4 file systems of a disk, and says what else is there.
func volumes(d disk) (list []volume, seen string, err error) {
	parts, err := part.Read(d, d.Size())
	if errors.Is(err, part.ErrNone) {
		parts, err = []part.Partition{{Size: d.Size()}}, nil
	}
	if err != nil {
		return nil, "", err
	}
	var names []string
	for _, p := range parts {
		fs, err := ext4.OpenReader(sectionAt(d, p.Start, p.Size), p.Size)
		if err == nil {
			list = append(list, volume{fs, p})
			names = append(names, fmt.Sprintf("%s: ext4 %s", volume{fs, p}, fs.Label))
		} else {
			names = append(names, fmt.Sprintf("%s: no ext4", volume{nil, p}))
		}
	}
	return list, strings.Join(names, "; "), nil
}

// root is the volume with the system, or the largest hope.
func root(list []volume) volume {
	for _, file := range []string{"/etc/os-release", "/usr/lib/os-release", "/etc/fstab", "/sbin/init"} {
		for _, v := range list {
			if v.fs.Exists(file) {
				return v
			}
		}
	}
	return list[0]
}

// kernel is a file whose name is that of a kernel.
type kernel struct{ name, version string }

var kernelNames = []string{"vmlinuz", "vmlinux", "Image"}

// kernels lists a folder's, the newest first, names without a version last.
func kernels(fs *ext4.Reader, dir string) (list []kernel) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		stem, version, _ := strings.Cut(e.Name, "-")
		if slices.Contains(kernelNames, stem) && !strings.Contains(version, "rescue") && e.Kind != ext4.Dir {
			list = append(list, kernel{e.Name, version})
		}
	}
	slices.SortStableFunc(list, func(a, b kernel) int {
		if (a.version == "") != (b.version == "") {
			return strings.Compare(b.version, a.version)
		}
		return deb.Compare(b.version, a.version)
	})
	return list
}

// initrdNames are how distributions call it, for a kernel's version or without.
var initrdNames = []string{"initrd.img-%s", "initramfs-%s.img", "initramfs-%s", "initrd-%s", "initrd-%s.img"}

func load(v volume, dir string, k kernel) (*found, error) {
	b, err := v.fs.ReadFile(path.Join(dir, k.name), maxKernel)
	if err != nil {
		return nil, err
	}
	f := &found{version: k.version}
	if f.kernel, err = rawImage(b); err != nil {
		if len(b) > 0x206 && string(b[0x202:0x206]) == "HdrS" {
			err = errors.New("it is for x86")
		}
		return nil, err
	}
	names := []string{"initrd.img", "initrd", "initramfs"}
	if k.version != "" {
		names = nil
		for _, n := range initrdNames {
			names = append(names, fmt.Sprintf(n, k.version))
		}
	}
	for _, n := range names {
		b, err := v.fs.ReadFile(path.Join(dir, n), maxKernel)
		if err == nil && len(b) > 0 {
			f.initrd = b
			return f, nil
		}
		if err != nil && !errors.Is(err, ext4.ErrNotExist) {
			return nil, err
		}
	}
	return f, nil
}

// bootFilesOf are where boot loaders keep their entries; a folder holds one in each file.
var bootFilesOf = []string{
	"/boot/loader/entries", "/loader/entries", "/boot/extlinux/extlinux.conf", "/extlinux/extlinux.conf",
	"/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg", "/extlinux.conf",
}

const maxBootFile = 1 << 20

// bootArgs is the command line that a boot loader would give a kernel, or nothing.
func bootArgs(fs *ext4.Reader, kernel string) []string {
	for _, name := range bootFilesOf {
		files := []string{name}
		if list, err := fs.ReadDir(name); err == nil {
			files = nil
			for _, e := range list[:min(len(list), 100)] {
				files = append(files, path.Join(name, e.Name))
			}
		}
		for _, f := range files {
			b, err := fs.ReadFile(f, maxBootFile)
			if err != nil {
				continue
			}
			if args := entryArgs(string(b), kernel); len(args) > 0 {
				return args
			}
		}
	}
	return nil
}

// entryArgs reads a boot loader's file for the entry of a kernel: GRUB has the
// arguments on the kernel's line, extlinux (append) and the Boot Loader
// Specification (options) on one of their own.
func entryArgs(text, kernel string) []string {
	current := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "linux", "linuxefi", "kernel":
			if current = path.Base(words[1]); current == kernel && len(words) > 2 {
				return words[2:]
			}
		case "append", "options":
			if current == kernel {
				return words[1:]
			}
		}
	}
	return nil
}

// commandLine makes the boot loader's words ours: no variables of its own, a root
// that the kernel can find, and the console that we have.
func commandLine(args []string, root volume, initrd bool) string {
	var out []string
	console, hasRoot := "", false
	for _, w := range args {
		key, value, _ := strings.Cut(w, "=")
		switch {
		case strings.ContainsAny(w, "$`\"'"), w == "quiet", w == "splash", w == "---", key == "BOOT_IMAGE", key == "initrd":
			continue
		case key == "root" && !initrd && !strings.HasPrefix(value, "/dev/") && !strings.HasPrefix(value, "PARTUUID="):
			continue // only an initrd knows labels and the like
		case key == "root":
			hasRoot = true
		case key == "console":
			console = value
		}
		out = append(out, w)
	}
	if !hasRoot {
		out = append(out, "root="+root.device(), "rw")
	}
	if !strings.HasPrefix(console, "ttyS0") { // the last one is /dev/console
		out = append(out, "console=ttyS0")
	}
	return strings.Join(out, " ")
}
