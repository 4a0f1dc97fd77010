// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"tandem/host/codemem"
	"tandem/host/perfmap"
	"tandem/machine"
)

// command runs a command in this process.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

// linuxImage is the header of a Linux Image and n bytes in all.
func linuxImage(n int) []byte {
	b := make([]byte, n)
	binary.LittleEndian.PutUint64(b[8:], 2<<20)
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	copy(b[56:], "RSC\x05")
	return b
}

// Wrong input gets one line that says what is wrong and what to do; wrong usage is
// told apart from what failed.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().String()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()
	unix := filepath.Join(dir, "nothing.sock")

	kernel := file("kernel", linuxImage(4096))
	cut := linuxImage(4096)
	binary.LittleEndian.PutUint64(cut[16:], 2048)
	disk := file("disk", make([]byte, 4096))
	none, empty := filepath.Join(dir, "none"), file("empty", nil)
	zip, text := file("zip", []byte("\x1f\x8b\x08")), file("text", []byte("hello"))
	elf := file("elf", []byte("\x7fELF\x02\x01\x01"))

	const usage, failure = true, false
	for _, c := range []struct {
		usage bool
		want  []string // in the message
		args  []string
	}{
		{usage, []string{`no command "bogus"`, "--help"}, []string{"bogus"}},
		{usage, []string{"run"}, []string{"ru"}},
		{usage, []string{`no command "bogus"`}, []string{"image", "bogus"}},
		{usage, []string{"unknown flag", "--help"}, []string{"run", "--bogus"}},
		{usage, []string{"--cpus x", "not a number"}, []string{"run", "--cpus", "x"}},
		{usage, []string{"at most one image"}, []string{"run", "a", "b"}},
		{usage, []string{"nothing to boot", "--kernel"}, []string{"run"}},
		{usage, []string{"--cpus 0", "1 to 64"}, []string{"run", "--kernel", kernel, "--cpus", "0"}},
		{usage, []string{"--cpus 65", "1 to 64"}, []string{"run", "--kernel", kernel, "--cpus", "65"}},
		{usage, []string{"--memory much", "512M"}, []string{"run", "--kernel", kernel, "--memory", "much"}},
		{usage, []string{"--memory 4K", "1 MiB"}, []string{"run", "--kernel", kernel, "--memory", "4K"}},
		{usage, []string{"--memory 2T", "1 TiB"}, []string{"run", "--kernel", kernel, "--memory", "2T"}},
		{usage, []string{"--mmu sv32", "sv39"}, []string{"run", "--kernel", kernel, "--mmu", "sv32"}},
		{usage, []string{"--engine quick"}, []string{"run", "--kernel", kernel, "--engine", "quick", "--network", "none"}},
		{usage, []string{"--code-cache 4K", "512 KiB to 128 MiB"}, []string{"run", "--kernel", kernel, "--network", "none", "--code-cache", "4K"}},
		{usage, []string{"--code-cache 1G", "512 KiB to 128 MiB"}, []string{"run", "--kernel", kernel, "--network", "none", "--code-cache", "1G"}},
		{usage, []string{"--code-cache much", "32M"}, []string{"run", "--kernel", kernel, "--network", "none", "--code-cache", "much"}},
		{usage, []string{"--perf", "--engine jit"}, []string{"run", "--kernel", kernel, "--network", "none", "--engine", "interpreter", "--perf"}},
		{usage, []string{"--symbols", "--perf"}, []string{"run", "--kernel", kernel, "--network", "none", "--engine", "jit", "--symbols", text}},
		{usage, []string{"--elf", "--kernel"}, []string{"run", "--kernel", kernel, "--elf", elf}},
		{usage, []string{"--elf"}, []string{"run", "--kernel", kernel, "--signature", "x"}},
		{usage, []string{"--network lan", "switch:ADDRESS"}, []string{"run", "--kernel", kernel, "--network", "lan"}},
		{usage, []string{"switch:ADDRESS"}, []string{"run", "--kernel", kernel, "--network", "switch:"}},
		{usage, []string{"--forward", "user"}, []string{"run", "--kernel", kernel, "--network", "none", "--forward", "127.0.0.1:1:1"}},
		{usage, []string{"HOST:PORT:GUESTPORT"}, []string{"run", "--kernel", kernel, "--forward", "1:2"}},
		{usage, []string{"HOST:PORT:GUESTPORT"}, []string{"run", "--kernel", kernel, "--forward", "127.0.0.1:99999:1"}},
		{usage, []string{"--name"}, []string{"run", "--kernel", kernel, "--name", ""}},
		{usage, []string{"7 disks", "6"}, slices.Concat([]string{"run", "--kernel", kernel}, slices.Repeat([]string{"--disk", disk}, 7))},

		{failure, []string{none, "image build"}, []string{"run", none}},
		{failure, []string{"kernel " + none, "no such file"}, []string{"run", "--kernel", none}},
		{failure, []string{"kernel " + empty, "empty"}, []string{"run", "--kernel", empty}},
		{failure, []string{"kernel " + dir, "folder"}, []string{"run", "--kernel", dir}},
		{failure, []string{"initrd " + none}, []string{"run", "--kernel", kernel, "--initrd", none}},
		{failure, []string{zip, "gunzip"}, []string{"run", "--kernel", zip}},
		{failure, []string{text, "not a Linux Image"}, []string{"run", "--kernel", text}},
		{failure, []string{elf, "--elf"}, []string{"run", "--kernel", elf}},
		{failure, []string{"damaged"}, []string{"run", "--kernel", file("cut", cut)}},
		{failure, []string{kernel, "--kernel"}, []string{"run", "--firmware", kernel}},
		{failure, []string{zip, "gunzip"}, []string{"run", "--firmware", text, "--kernel", zip}},
		{failure, []string{elf, "ELF"}, []string{"run", "--elf", elf}},
		{failure, []string{elf, "ELF"}, []string{"run", "--firmware", elf}},
		{failure, []string{none, "truncate -s"}, []string{"run", "--kernel", kernel, "--disk", none}},
		{failure, []string{"in use", "disk of its own"}, []string{"run", "--kernel", kernel, "--disk", disk, "--disk", disk}},
		{failure, []string{nobody, "tandem store"}, []string{"run", "--kernel", kernel, "--disk", "nbd://" + nobody + "/x"}},
		{failure, []string{unix, "tandem store"}, []string{"run", "--kernel", kernel, "--disk", "nbd+unix:///x?socket=" + unix}},
		{failure, []string{nobody, "tandem switch"}, []string{"run", "--kernel", kernel, "--network", "switch:" + nobody}},
		{failure, []string{taken, "in use", "another port"}, []string{"run", "--kernel", kernel, "--forward", taken + ":80"}},
		{failure, []string{"--record", "can be written"}, []string{"run", "--kernel", kernel, "--record", none + "/x"}},

		{usage, []string{"needs a recording"}, []string{"replay"}},
		{usage, []string{"--engine quick", "jit"}, []string{"replay", none, "--engine", "quick"}},
		{usage, []string{"--code-cache 1", "512 KiB"}, []string{"replay", none, "--code-cache", "1"}},
		{failure, []string{none, "no such file", "--record"}, []string{"replay", none}},
		{failure, []string{dir, "folder"}, []string{"replay", dir}},
		{failure, []string{empty, "truncated"}, []string{"replay", empty}},
		{failure, []string{kernel, "not a tandem recording"}, []string{"replay", kernel}},

		{usage, []string{"--export NAME=FILE"}, []string{"store"}},
		{usage, []string{"want NAME=FILE"}, []string{"store", "--export", "a"}},
		{usage, []string{"want NAME=FILE"}, []string{"store", "--export", "a="}},
		{usage, []string{"want NAME=FILE"}, []string{"store", "--export", "readonly,a=b"}},
		{usage, []string{"--flush never", "asked"}, []string{"store", "--flush", "never", disk}},
		{usage, []string{"--host"}, []string{"store", "certs", none}},
		{failure, []string{none, "tandem store certs"}, []string{"store", "--tls", none, "--listen", "127.0.0.1:0", disk}},
		{failure, []string{"two exports", "rename"}, []string{"store", "--listen", "127.0.0.1:0", disk, "--export", "disk=" + disk}},
		{failure, []string{none, "truncate -s"}, []string{"store", "--listen", "127.0.0.1:0", "--export", "a=" + none}},
		{failure, []string{"--listen " + taken, "in use", "free port"}, []string{"store", "--listen", taken, "--export", "a=" + disk}},
		{failure, []string{"--listen"}, []string{"store", "--listen", none + "/sock", "--export", "a=" + disk}},
		{failure, []string{"--listen " + taken, "in use", "free port"}, []string{"switch", "--listen", taken}},
		{usage, []string{"--subnet x", "10.77.0.0/24"}, []string{"switch", "--subnet", "x"}},
		{usage, []string{"--lease x", "VM=ADDRESS"}, []string{"switch", "--lease", "x"}},
		{usage, []string{"--forward x", "HOST:PORT:ADDRESS:PORT"}, []string{"switch", "--forward", "x"}},

		{usage, []string{"folder for the image"}, []string{"image", "build"}},
		{usage, []string{"--size x"}, []string{"image", "build", none, "--size", "x"}},
		{failure, []string{"1 bytes", "32"}, []string{"image", "build", none, "--size", "1"}},
		{failure, []string{disk, "can be made"}, []string{"image", "build", disk}},
		{failure, []string{dir, "new directory"}, []string{"image", "build", dir}},

		{usage, []string{"--tls is missing"}, []string{"replica", "primary"}},
		{usage, []string{"--on-divergence x", "restart"}, []string{"replica", "backup", "--tls", none, "--arbiter", none, "--dial", "a:1", "--on-divergence", "x"}},
		{usage, []string{"--disk-error x", "stop"}, []string{"replica", "primary", "--tls", none, "--arbiter", none, "--listen", "a:1", "--disk-error", "x"}},
		{usage, []string{"--clone-rate x"}, []string{"replica", "primary", "--tls", none, "--arbiter", none, "--listen", "a:1", "--clone-rate", "x"}},
		{usage, []string{"--kill x", "primary"}, []string{"demo", "--kill", "x"}},
		{usage, []string{"--format x", "json"}, []string{"demo", "--format", "x"}},
		{usage, []string{"--reads x", "backup"}, []string{"demo", "--reads", "x"}},
		{usage, []string{"--disks x", "replicated"}, []string{"demo", "--disks", "x"}},
		{usage, []string{"file of each host"}, []string{"run", "--kernel", kernel, "--disk", "nbd://h/x,mode=replicated"}},
		{usage, []string{"mode=replicated", "pair"}, []string{"run", "--kernel", kernel, "--network", "none", "--disk", disk + ",mode=replicated"}},
		{usage, []string{"reads=x", "choose reads=log or backup"}, []string{"run", "--kernel", kernel, "--disk", disk + ",reads=x"}},
		{usage, []string{"reads=backup", "pair"}, []string{"run", "--kernel", kernel, "--network", "none", "--disk", disk + ",reads=backup"}},
		{usage, []string{"--memory 16M", "128M"}, []string{"demo", "--memory", "16M"}},
		{usage, []string{"--before soon", "duration"}, []string{"demo", "--before", "soon"}},
		{usage, []string{"no arguments"}, []string{"version", "x"}},
	} {
		name := strings.ReplaceAll(strings.Join(c.args, " "), dir+"/", "")
		out, err := command(t, c.args...)
		if err == nil {
			t.Errorf("tandem %s: no error: %s", name, out)
			continue
		}
		got := err.Error()
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("tandem %s: %q is missing in: %s", name, w, got)
			}
		}
		if is := errors.As(err, new(usageError)); is != c.usage {
			t.Errorf("tandem %s: usage is %v, want %v: %s", name, is, c.usage, got)
		}
		if strings.Contains(got, "\n") || strings.Contains(got, "goroutine") || out != "" {
			t.Errorf("tandem %s: not one line: %s%s", name, out, got)
		}
	}
}

// Symbols that cannot be read, or are none, are named with what would do, and
// leave no map behind.
func TestBadSymbols(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("this host has no translator")
	}
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"none":   {"", "no such file"},
		"text":   {"hello\n", "line 1"},
		"secret": {"0000000000000000 T _start\n0000000000000000 T main\n", "System.map"},
		"data":   {"ffffffff80000000 D jiffies\n", "names no functions"},
		"elf":    {"\x7fELF\x02\x01\x01", "EOF"},
	} {
		path := filepath.Join(dir, name)
		if c.text != "" {
			if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := command(t, "replay", path, "--engine", "jit", "--perf", "--symbols", path)
		if err == nil || !strings.HasPrefix(err.Error(), "--symbols "+path+": ") || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: want %q: %v%s", name, c.want, err, out)
		}
	}
	if _, err := os.Stat(perfmap.Path(os.Getpid())); err == nil {
		t.Error("there is a map")
	}
}

// A group of commands alone prints its help, and help has every flag of run.
func TestHelp(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{nil, []string{"run ", "replay ", "demo ", "store ", "switch ", "image "}},
		{[]string{"image"}, []string{"build "}},
		{[]string{"run", "--help"}, []string{"Ctrl-A x", "--cpus", "--memory", "--disk", "--network", "--kernel",
			"--initrd", "--append", "--firmware", "--elf", "--record", "--engine", "--code-cache", "--stats", "--perf", "--symbols"}},
		{[]string{"replay", "--help"}, []string{"--console", "--engine", "--code-cache", "--stats", "--perf", "--symbols"}},
	} {
		out, err := command(t, c.args...)
		for _, w := range c.want {
			if err != nil || !strings.Contains(out, w) {
				t.Errorf("tandem %v: %v, %q is missing in:\n%s", c.args, err, w, out)
			}
		}
	}
}

// Every command that people see has examples, and each of them is a command with
// flags that exist.
func TestExamples(t *testing.T) {
	for _, c := range visible(newRoot()) {
		if c.HasParent() && c.Parent().Name() == "completion" {
			continue // cobra's own, which say it in their description
		}
		if c.Example == "" {
			t.Errorf("%s has no example: give it one, or add it to the table in help.go", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			for part := range strings.SplitSeq(line, "&&") {
				part, _, _ = strings.Cut(part, "|")
				part, _, _ = strings.Cut(part, " > ")
				part, _, _ = strings.Cut(part, " < ")
				words := strings.Fields(part)
				if len(words) == 0 || words[0] != "tandem" {
					continue
				}
				found, rest, err := newRoot().Find(words[1:])
				if err == nil {
					err = found.ParseFlags(rest)
				}
				if err != nil || !found.HasParent() {
					t.Errorf("%s: %q: %v", c.CommandPath(), strings.TrimSpace(line), err)
				}
			}
		}
	}
}

// A recording that unpacks to more than a machine can be, or asks its decoder for a lot
// of memory, is refused.
func TestDescription(t *testing.T) {
	vm := machine.Config{RAM: 64 << 20, Harts: 1, Boot: machine.Boot{Segments: []machine.Segment{{Data: make([]byte, 3<<20)}}}}
	b, err := describe(vm)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := undescribe(b, 4<<20); err != nil || len(got.Boot.Segments) != 1 || len(got.Boot.Segments[0].Data) != 3<<20 {
		t.Errorf("%d segments, %v", len(got.Boot.Segments), err)
	}
	if _, err := undescribe(b, 2<<20); err == nil {
		t.Error("more than the limit was unpacked")
	}
	window := []byte("\x28\xb5\x2f\xfd\x00\x90\x21\x00\x00text") // 256 MiB
	if _, err := undescribe(window, maxDescribed); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("the window: %v", err)
	}
}

// Sizes are in bytes or powers of 1024, and nothing overflows.
func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint64 // 0: an error
	}{
		{"1", 1}, {"4096", 4096}, {"64K", 64 << 10}, {"512M", 512 << 20}, {"512m", 512 << 20}, {"512MiB", 512 << 20},
		{"2G", 2 << 30}, {"2gb", 2 << 30}, {"1T", 1 << 40}, {"8388607T", 8388607 << 40},
		{"", 0}, {"M", 0}, {"-1", 0}, {"1.5G", 0}, {"8388608T", 0}, {"99999999999999999999", 0}, {"0x10", 0}, {"1 G", 0},
	} {
		got, err := parseSize(c.in)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%q is %d, %v; want %d", c.in, got, err, c.want)
		}
	}
}
