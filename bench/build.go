// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"tandem/image"
	"tandem/image/cpio"
)

//go:embed programs
var sources embed.FS

// compiler is one of the two that build the programs.
type compiler struct {
	name    string
	output  string
	install string
	fma     []string // flags that let it use the fused instruction
}

var (
	hostCompiler  = compiler{"gcc", "bench-native", "gcc libc6-dev", hostFMA()}
	guestCompiler = compiler{"riscv64-linux-gnu-gcc", "bench-riscv64", "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross", nil}
)

func hostFMA() []string {
	if runtime.GOARCH == "amd64" {
		return []string{"-mfma"}
	}
	return nil
}

// Static, so that the guest needs no libraries; no contraction, so that both
// machines round alike; no errno, so that sqrt is an instruction.
var flags = []string{"-O2", "-std=gnu11", "-static", "-Wall", "-Wextra", "-Wno-missing-field-initializers",
	"-fno-math-errno", "-ffp-contract=off"}

// matmul.c is built twice: plainly with the rest, and with FMA.
const fmaSource = "matmul.c"

// prepare makes what all runs need: the binaries, the initrd, the kernel.
func prepare(ctx context.Context, p *paths, cache string) error {
	dir, err := buildPrograms(ctx, filepath.Join(cache, "bench"))
	if err != nil {
		return err
	}
	p.native, p.initrd = filepath.Join(dir, hostCompiler.output), filepath.Join(dir, "initrd")
	if p.kernel == "" {
		p.kernel, err = stockKernel(ctx, filepath.Join(cache, "images", "bench"))
		return err
	}
	_, err = os.Stat(p.kernel)
	return err
}

// stockKernel is that of a Debian image, which is built once.
func stockKernel(ctx context.Context, dir string) (string, error) {
	img, err := image.Open(dir)
	if err != nil {
		img, err = image.Build(ctx, image.Options{Dir: dir, Progress: image.NewProgress(os.Stderr)})
	}
	if err != nil {
		return "", err
	}
	return img.Kernel, nil
}

// buildPrograms returns a folder of the cache, named for what went into it.
func buildPrograms(ctx context.Context, cache string) (string, error) {
	key, err := key(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, key)
	if _, err := os.Stat(filepath.Join(dir, "initrd")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := compileAll(ctx, tmp); err != nil {
		return "", err
	}
	if err := writeInitrd(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// key is a hash of the sources, the flags and the compilers' versions.
func key(ctx context.Context) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, flags, hostCompiler, guestCompiler)
	for _, c := range []compiler{hostCompiler, guestCompiler} {
		version, err := exec.CommandContext(ctx, c.name, "--version").Output()
		if err != nil {
			return "", fmt.Errorf("%w: apt-get install %s", err, c.install)
		}
		h.Write(version)
	}
	err := fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(name)
		fmt.Fprintln(h, name, len(text))
		h.Write(text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

func compileAll(ctx context.Context, dir string) error {
	if err := os.CopyFS(dir, sources); err != nil {
		return err
	}
	for _, c := range []compiler{hostCompiler, guestCompiler} {
		fmt.Fprintf(os.Stderr, "compiling the programs with %s\n", c.name)
		if err := c.build(ctx, filepath.Join(dir, "programs"), filepath.Join(dir, c.output)); err != nil {
			return err
		}
	}
	return nil
}

func (c compiler) build(ctx context.Context, dir, output string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.c"))
	if err != nil {
		return err
	}
	object := output + "-fma.o"
	if err := c.run(ctx, c.fma, []string{"-DFMA", "-c", filepath.Join(dir, fmaSource), "-o", object}); err != nil {
		return err
	}
	return c.run(ctx, files, []string{object, "-o", output})
}

func (c compiler) run(ctx context.Context, args ...[]string) error {
	all := flags
	for _, a := range args {
		all = append(all[:len(all):len(all)], a...)
	}
	out, err := exec.CommandContext(ctx, c.name, all...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: apt-get install %s\n%s", c.name, err, c.install, out)
	}
	if text := strings.TrimSpace(string(out)); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	return nil
}

// writeInitrd makes the guest's root file system: the programs and a console.
func writeInitrd(dir string) error {
	binary, err := os.ReadFile(filepath.Join(dir, guestCompiler.output))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := cpio.Write(&b, []cpio.File{
		{Name: "dev", Mode: cpio.Dir | 0o755},
		{Name: "proc", Mode: cpio.Dir | 0o755},
		{Name: "dev/console", Mode: cpio.Device | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: cpio.Regular | 0o755, Data: binary},
	}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "initrd"), b.Bytes(), 0o644)
}

// version is the first line that a program says about itself.
func version(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "unknown version"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// cpuModel is the host's processor, or "" where Linux does not say.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 1<<16))
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
