// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"tandem/image/deb"
)

const (
	maxKernel  = 256 << 20
	maxModule  = 64 << 20
	maxModules = 1 << 30 // all of them, as the package has them
)

// wanted are the modules that the machine's devices and the root file system
// need, in the order to load them. What the kernel has built in is left out;
// what a module depends on is put before it.
var wanted = []struct {
	name     string
	required bool
}{
	{"virtio_mmio", true},
	{"virtio_blk", true},
	{"virtio_net", true},
	{"virtio_console", false},
	{"virtio_rng", false},
	{"virtio_input", false},   // the power button
	{"evdev", false},          // and who reads it
	{"virtio_balloon", false}, // memory that the guest is to do without
	{"crc32c_generic", false}, // ext4 and jbd2 ask for it by its alias
	{"ext4", true},
}

// bootFiles is what a guest needs of a kernel package.
type bootFiles struct {
	version string
	kernel  []byte   // raw Image
	modules []module // in the order to load them
}

type module struct {
	name string
	elf  []byte
}

// kernelPackage follows the name without a version to the package that holds
// the kernel.
func kernelPackage(x *deb.Index) (*deb.Package, error) {
	const meta = "linux-image-" + arch
	p := x.Package(meta)
	if p == nil {
		return nil, fmt.Errorf("package %s is not in the archive: name another mirror with --mirror", meta)
	}
	groups, err := deb.ParseRelations(p.Depends)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", meta, err)
	}
	for _, g := range groups {
		if k := x.Package(g[0].Name); k != nil && strings.HasPrefix(k.Name, "linux-image-") {
			return k, nil
		}
	}
	return nil, fmt.Errorf("package %s names no kernel package that is in the archive", meta)
}

// readKernel takes the kernel and the modules we want out of the data archive
// of a kernel package.
func readKernel(data io.Reader) (*bootFiles, error) {
	var b bootFiles
	packed := map[string]packedModule{}
	builtin := map[string]bool{}
	room := int64(maxModules)
	err := deb.Entries(data, func(e deb.Entry, r io.Reader) error {
		dir, base := path.Split(e.Name)
		_, inModules, _ := strings.Cut(dir, "lib/modules/")
		switch {
		case e.Typeflag != tar.TypeReg:
			return nil
		case dir == "boot/" && strings.HasPrefix(base, "vmlinu"):
			_, b.version, _ = strings.Cut(base, "-")
			raw, err := readAll(r, maxKernel)
			if err == nil {
				b.kernel, err = rawImage(raw)
			}
			return wrap(e.Name, err)
		case base == "modules.builtin":
			text, err := readAll(r, 1<<20)
			for line := range strings.Lines(string(text)) {
				builtin[moduleName(strings.TrimSpace(line))] = true
			}
			return wrap(e.Name, err)
		case inModules != "" && strings.Contains(base, ".ko"):
			p, err := readAll(r, min(maxModule, room))
			room -= int64(len(p))
			packed[moduleName(base)] = packedModule{base, p}
			return wrap(e.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if b.kernel == nil {
		return nil, errors.New("the package holds no kernel in /boot")
	}
	return &b, b.loadModules(packed, builtin)
}

type packedModule struct {
	file string
	data []byte
}

// moduleName is what the kernel calls the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// loadModules unpacks what is wanted and what that depends on, depth first.
func (b *bootFiles) loadModules(packed map[string]packedModule, builtin map[string]bool) error {
	seen := map[string]bool{}
	var load func(name string, required bool) error
	load = func(name string, required bool) error {
		if seen[name] || builtin[name] {
			return nil
		}
		seen[name] = true
		p, ok := packed[name]
		if !ok {
			if required {
				return fmt.Errorf("kernel %s has no module %s", b.version, name)
			}
			return nil
		}
		m, err := p.unpack()
		if err != nil {
			return wrap("module "+name, err)
		}
		needs, before := m.dependencies()
		for _, n := range before {
			if err := load(n, false); err != nil {
				return err
			}
		}
		for _, n := range needs {
			if err := load(n, true); err != nil {
				return err
			}
		}
		b.modules = append(b.modules, m)
		return nil
	}
	for _, w := range wanted {
		if err := load(w.name, w.required); err != nil {
			return err
		}
	}
	return nil
}

func (p packedModule) unpack() (module, error) {
	r, err := deb.Decompress(p.file, bytes.NewReader(p.data))
	if err != nil {
		return module{}, err
	}
	defer r.Close()
	b, err := readAll(r, maxModule)
	if err == nil {
		b, err = strip(b)
	}
	return module{moduleName(p.file), b}, err
}

// dependencies reads a module's .modinfo: what must be loaded before it, and
// what should be (softdep).
func (m module) dependencies() (needs, before []string) {
	f, err := elf.NewFile(bytes.NewReader(m.elf))
	if err != nil {
		return nil, nil
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	info, err := s.Data()
	if err != nil {
		return nil, nil
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			needs = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "softdep":
			pre, _, _ := strings.Cut(value, "post:")
			before = append(before, strings.Fields(strings.TrimPrefix(pre, "pre:"))...)
		}
	}
	for _, list := range [][]string{needs, before} {
		for i := range list {
			list[i] = strings.ReplaceAll(list[i], "-", "_")
		}
	}
	return needs, before
}

// Offsets and magics of a kernel's header (Documentation/arch/riscv/boot-image-header.rst)
// and of the EFI zboot wrapper (drivers/firmware/efi/libstub/zboot-header.S).
const (
	imageMagicAt = 56
	imageMagic   = "RSC\x05"
	zbootMagic   = "zimg" // at 4; then u32 offset at 8, u32 size, name of the compression at 24
)

// rawImage returns the Image that a boot loader would have unpacked.
func rawImage(b []byte) ([]byte, error) {
	for range 3 { // gzip inside zboot is the deepest there is
		switch {
		case isImage(b):
			return b, nil
		case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
			var err error
			if b, err = unpackKernel(".gz", b); err != nil {
				return nil, err
			}
		case len(b) > 64 && string(b[4:8]) == zbootMagic:
			at, n := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
			if uint64(at)+uint64(n) > uint64(len(b)) {
				return nil, errors.New("EFI zboot payload lies outside the file")
			}
			kind, _, _ := strings.Cut(string(b[24:56]), "\x00")
			suffix := map[string]string{"gzip": ".gz", "zstd": ".zst", "zstd22": ".zst", "xzkern": ".xz", "xz": ".xz"}[kind]
			if suffix == "" {
				return nil, fmt.Errorf("EFI zboot compression %q is not supported", kind)
			}
			var err error
			if b, err = unpackKernel(suffix, b[at:at+n]); err != nil {
				return nil, err
			}
		default:
			return nil, errors.New("not a RISC-V Linux Image, gzip or EFI zboot")
		}
	}
	return nil, errors.New("packed too many times")
}

func isImage(b []byte) bool {
	return len(b) >= 64 && string(b[imageMagicAt:imageMagicAt+4]) == imageMagic
}

func unpackKernel(suffix string, b []byte) ([]byte, error) {
	r, err := deb.Decompress(suffix, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readAll(r, maxKernel)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return b, err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// write keeps what was taken as a tar of its own, so that the next build need
// not unpack the package; readBoot reads it.
func (b *bootFiles) write(w io.Writer) error {
	t := tar.NewWriter(w)
	files := []module{{"version", []byte(b.version)}, {"kernel", b.kernel}}
	for _, f := range slices.Concat(files, b.modules) {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.elf))}); err != nil {
			return err
		}
		if _, err := t.Write(f.elf); err != nil {
			return err
		}
	}
	return t.Close()
}

func readBoot(r io.Reader) (*bootFiles, error) {
	var b bootFiles
	err := deb.Entries(r, func(e deb.Entry, r io.Reader) error {
		data, err := readAll(r, maxKernel)
		switch e.Name {
		case "version":
			b.version = string(data)
		case "kernel":
			b.kernel = data
		default:
			b.modules = append(b.modules, module{e.Name, data})
		}
		return err
	})
	if err == nil && !isImage(b.kernel) {
		err = errors.New("no kernel")
	}
	return &b, err
}
