// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"tandem/image/deb"
	"tandem/image/part"
	"tandem/image/qcow2"
)

// Boot says how an imported disk starts.
type Boot string

const (
	BootAuto   Boot = "auto"   // by its kernel if one is found, else by firmware
	BootKernel Boot = "kernel" // by the kernel and initrd found in it
	BootUEFI   Boot = "uefi"   // by OpenSBI and U-Boot, which find an EFI program or extlinux.conf in it
)

// ImportOptions say what to import. Dir and File are required.
type ImportOptions struct {
	Dir    string // of the image
	File   string // a raw disk or qcow2
	Boot   Boot   // BootAuto
	Size   int64  // of the disk, if it shall grow
	Append string // more words for the kernel
	Seed   Seed   // for cloud-init; empty for none

	Archive Options // where firmware comes from, and Progress
}

// disk is a disk to import.
type disk interface {
	io.ReaderAt
	Size() int64
}

// Import makes an image of a disk that others made, for instance a cloud image.
func Import(ctx context.Context, o ImportOptions) (*Image, error) {
	o.Archive.Dir = o.Dir
	if err := o.Archive.defaults(); err != nil {
		return nil, err
	}
	if err := usableDir(o.Dir); err != nil {
		return nil, err
	}
	seed, err := o.Seed.disk()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(o.File)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w: give a raw disk or qcow2 file", o.File, why(err))
	}
	defer f.Close()
	d, err := openDisk(f)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", o.File, err)
	}
	if o.Size != 0 && (o.Size < d.Size() || o.Size%512 != 0) || o.Size > qcow2.MaxSize {
		return nil, fmt.Errorf("disk size %s: the disk has %s; choose more, in whole sectors of 512 bytes", Bytes(o.Size), Bytes(d.Size()))
	}
	m := &Manifest{Kind: KindImport, Source: filepath.Base(o.File), DiskSize: max(o.Size, d.Size())}
	return replace(o.Dir, m, func(tmp string) error {
		if err := o.chooseBoot(ctx, tmp, d, m); err != nil {
			return fmt.Errorf("disk %s: %w", o.File, err)
		}
		if seed != nil {
			if err := writeFile(filepath.Join(tmp, seedName), seed); err != nil {
				return err
			}
		}
		return copyDisk(ctx, filepath.Join(tmp, diskName), d, m.DiskSize, o.Archive.Progress)
	})
}

// packedDisks are what people have before they unpack it.
var packedDisks = []struct{ magic, kind, command string }{
	{"\x1f\x8b", "packed with gzip", "gunzip"},
	{"\xfd7zXZ\x00", "packed with xz", "unxz"},
	{"(\xb5/\xfd", "packed with zstd", "unzstd"},
	{"BZh", "packed with bzip2", "bunzip2"},
	{"PK\x03\x04", "a zip archive", "unzip"},
	{"KDMV", "a VMDK disk", "qemu-img convert -O qcow2"},
	{"vhdxfile", "a VHDX disk", "qemu-img convert -O qcow2"},
}

// openDisk tells qcow2 from raw.
func openDisk(f *os.File) (disk, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, errors.New("this is a folder: give a raw disk or qcow2 file")
	}
	size, err := f.Seek(0, io.SeekEnd) // also of block devices
	if err != nil {
		return nil, fmt.Errorf("%w: give a raw disk or qcow2 file", why(err))
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, why(err)
	}
	head = head[:n]
	for _, p := range packedDisks {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return nil, fmt.Errorf("it is %s: unpack it first, with %s", p.kind, p.command)
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte(qcow2.Magic)):
		return qcow2.Open(f, size)
	case size == 0 || size%512 != 0 || size > qcow2.MaxSize:
		return nil, fmt.Errorf("it has %d bytes, which is no disk (whole sectors of 512, at most %s): give a raw disk or qcow2 file", size, Bytes(qcow2.MaxSize))
	}
	return io.NewSectionReader(f, 0, size), nil
}

// copyDisk writes what is not zero, and so leaves the holes.
func copyDisk(ctx context.Context, name string, d disk, size int64, p Progress) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := p.Start("disk", d.Size())
	defer t.Done()
	const page = 64 << 10
	b, zeros := make([]byte, 1<<20), make([]byte, page)
	for at := int64(0); at < d.Size(); at += int64(len(b)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := b[:min(int64(len(b)), d.Size()-at)]
		if _, err := d.ReadAt(part, at); err != nil && err != io.EOF {
			return err
		}
		for i := 0; i < len(part); i += page {
			piece := part[i:min(len(part), i+page)]
			if bytes.Equal(piece, zeros[:len(piece)]) {
				continue
			}
			if _, err := f.WriteAt(piece, at+int64(i)); err != nil {
				return fmt.Errorf("%w: free some space, or name another folder", err)
			}
		}
		t.Add(int64(len(part)))
	}
	return f.Truncate(size)
}

// chooseBoot puts what starts the disk beside it.
func (o *ImportOptions) chooseBoot(ctx context.Context, tmp string, d disk, m *Manifest) error {
	found, err := inspect(d)
	switch boot := cmp.Or(o.Boot, BootAuto); {
	case boot == BootUEFI, boot == BootAuto && found == nil && bootable(d):
		m.Source += ", by U-Boot"
		return o.firmware(ctx, tmp)
	case boot != BootAuto && boot != BootKernel:
		return fmt.Errorf("no way to boot is called %q: choose %s, %s or %s", boot, BootAuto, BootKernel, BootUEFI)
	case err != nil:
		return err
	}
	m.KernelVersion = found.version
	m.Append = strings.TrimSpace(found.append + " " + o.Append)
	m.Source = strings.TrimSpace(fmt.Sprintf("%s, Linux %s", m.Source, found.version))
	if err := writeFile(filepath.Join(tmp, "kernel"), found.kernel); err != nil || found.initrd == nil {
		return err
	}
	return writeFile(filepath.Join(tmp, "initrd"), found.initrd)
}

// bootable tells a disk with a partition for firmware.
func bootable(d disk) bool {
	list, _ := part.Read(d, d.Size())
	for _, p := range list {
		if p.Type == part.ESP || p.Type == "ef" || p.BIOSBootable {
			return true
		}
	}
	return false
}

// firmwareFiles are what starts a disk as a board would: files of packages.
var firmwareFiles = []struct{ name, pkg, file string }{
	{"firmware", "opensbi", "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"},
	{"kernel", "u-boot-qemu", "usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"},
}

// firmware fetches OpenSBI and U-Boot from the archive.
func (o *ImportOptions) firmware(ctx context.Context, tmp string) error {
	a, unlock, err := o.Archive.openArchive(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, f := range firmwareFiles {
		p := a.index.Package(f.pkg)
		if p == nil {
			return fmt.Errorf("package %s is not in the archive: name another mirror with --mirror", f.pkg)
		}
		t := o.Archive.Progress.Start(f.pkg, p.Size)
		file, err := a.deb(ctx, p, t)
		t.Done()
		if err != nil {
			return err
		}
		b, err := fileOf(file, p, f.file)
		if err != nil {
			return fmt.Errorf("package %s: %w", f.pkg, err)
		}
		if err := writeFile(filepath.Join(tmp, f.name), b); err != nil {
			return err
		}
	}
	return nil
}

// fileOf reads one file of a package.
func fileOf(debFile string, p *deb.Package, name string) (found []byte, err error) {
	f, err := os.Open(debFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := deb.Data(f, p.Size)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	err = deb.Entries(data, func(e deb.Entry, r io.Reader) error {
		if path.Clean(e.Name) != name || found != nil {
			return nil
		}
		found, err = readAll(r, maxKernel)
		return err
	})
	if err == nil && found == nil {
		err = fmt.Errorf("it has no file %s", name)
	}
	return found, err
}
