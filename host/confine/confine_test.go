// SPDX-License-Identifier: Apache-2.0

package confine_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/host/codemem"
	"tandem/host/confine"
	"tandem/host/ram"
	"tandem/host/tap"
	"tandem/machine/event"
)

// A child of the test confines itself, which is for good, and does what this variable
// names, in the folder of the other one.
const (
	deedVariable   = "TANDEM_TEST_DEED"
	folderVariable = "TANDEM_TEST_FOLDER"
)

var deeds = map[string]func(folder string) error{
	"allowed": allowed, "refused": refused, "waits": wait, "panics": func(string) error { panic("as asked") },
	"kills itself": func(string) error { return unix.Kill(os.Getpid(), unix.SIGKILL) },
}

func TestMain(m *testing.M) {
	name, folder := os.Getenv(deedVariable), os.Getenv(folderVariable)
	deed := deeds[name]
	threads("") // that are there before
	switch {
	case name == taps:
		exit(plug())
	case name == profiled:
		exit(profile())
	case deed == nil:
		os.Exit(m.Run())
	}
	err := confine.Process(confine.Needs{Write: []string{filepath.Join(folder, "own")}, Read: []string{filepath.Join(folder, "key"), folder + "/none"}})
	if err == nil {
		err = deed(folder)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child runs a deed in a confined process, and returns what it printed.
func child(t *testing.T, deed string) (string, error) {
	t.Helper()
	out, err := prepare(t, deed).CombinedOutput()
	return string(out), err
}

func prepare(t *testing.T, deed string) *exec.Cmd {
	t.Helper()
	if err := confine.Missing(); err != nil {
		t.Skip("this kernel can't confine a process as a whole: ", err)
	}
	folder := t.TempDir()
	for _, name := range []string{"key", "secret"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, "own"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), deedVariable+"="+deed, folderVariable+"="+folder)
	return cmd
}

// TestAllowed shows that a confined process can do all that a replica does once it runs.
func TestAllowed(t *testing.T) {
	if out, err := child(t, "allowed"); err != nil {
		t.Fatal(err, "\n", out)
	}
}

// TestRefused shows that a confined process is refused what an intruder would begin
// with: other files, programs, other processes, and the kernel's less used doors.
func TestRefused(t *testing.T) {
	if out, err := child(t, "refused"); err != nil {
		t.Fatal(err, "\n", out)
	}
}

// TestPanic shows that a confined process that fails still says why, and ends.
func TestPanic(t *testing.T) {
	out, err := child(t, "panics")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(out, "panic: as asked") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestKillItself shows that a confined process can still end by the command
// test-failover.
func TestKillItself(t *testing.T) {
	out, err := child(t, "kills itself")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
		t.Fatalf("%v\n%s", err, out)
	}
}

// taps is what a child does in a network of its own.
const taps = "plugs in a tap"

// TestTap shows that a tap that was opened before can be plugged in, watched and used by
// a confined process: a backup does so as it goes live.
func TestTap(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil || os.Geteuid() != 0 {
		t.Skip("this test makes a tap: run it as root, where there is /dev/net/tun")
	}
	cmd := prepare(t, taps)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// profiled is what a child does that needs memory for perf.
const profiled = "makes code for perf"

// TestPerf shows that translated code can be put where perf finds it by a process that
// said so before it was confined.
func TestPerf(t *testing.T) {
	if out, err := child(t, profiled); err != nil {
		t.Fatal(err, "\n", out)
	}
}

func profile() error {
	if err := confine.Process(confine.Needs{Perf: true}); err != nil {
		return err
	}
	code, err := codemem.NewAnonymous(1 << 20)
	if err != nil {
		return err
	}
	return code.Close()
}

func plug() error {
	d, err := tap.Open(tap.Config{Name: "tandem-test", MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	if err != nil {
		return err
	}
	if err := confine.Process(confine.Needs{Links: true}); err != nil {
		return err
	}
	if err := d.Start(func() {}); err != nil {
		return err
	}
	d.Send(event.Frame{Data: make([]byte, 64)})
	d.Flush()
	if !d.Up() || d.Dropped() > 0 {
		return fmt.Errorf("up: %v, frames dropped: %d", d.Up(), d.Dropped())
	}
	if err := d.Close(); err != nil {
		return err
	}
	if _, err := tap.Open(tap.Config{Name: "another"}); err == nil {
		return errors.New("another tap can be made")
	}
	return nil
}

func allowed(folder string) error {
	var errs []error
	for _, do := range []func(string) error{files, sockets, threads, memory} {
		errs = append(errs, do(folder))
	}
	return errors.Join(errs...)
}

// files claims an epoch, as it were, and reads a key again.
func files(folder string) error {
	own := filepath.Join(folder, "own")
	name := func(s string) string { return filepath.Join(own, s) }
	f, err := os.CreateTemp(own, "")
	if err != nil {
		return err
	}
	_, err = f.WriteString("claim")
	dir, open := os.Open(own)
	_, list := os.ReadDir(own)
	_, key := os.ReadFile(filepath.Join(folder, "key"))
	return errors.Join(err, f.Truncate(2), f.Sync(), f.Chmod(0o600), f.Close(), os.Link(f.Name(), name("epoch")), os.Rename(name("epoch"), name("newer")),
		os.Remove(name("newer")), open, dir.Sync(), dir.Close(), list, key)
}

// sockets serves and dials by TCP, and sends by UDP. The first look of package net at
// what the host's network can do is TCP by its number.
func sockets(string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil && err != unix.EAFNOSUPPORT {
		return fmt.Errorf("TCP by its number: %w", err)
	}
	unix.Close(fd)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(c, c) // splice
			c.Close()
		}
		served <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("frame"))
	err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
	got, read := io.ReadAll(c)
	err = errors.Join(err, read, c.Close(), <-served)
	if string(got) != "frame" {
		err = errors.Join(err, fmt.Errorf("the echo is %q", got))
	}
	u, e := net.Dial("udp", l.Addr().String())
	if e != nil {
		return errors.Join(err, e)
	}
	_, e = u.Write([]byte("beat"))
	return errors.Join(err, e, u.Close())
}

// threads makes Go's runtime start threads, and stop the world.
func threads(string) error {
	var all, ready sync.WaitGroup
	release := make(chan struct{})
	for range 25 {
		ready.Add(1)
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // the thread stays, and waits for work
			ready.Done()
			<-release
		})
	}
	ready.Wait()
	close(release)
	all.Wait()
	for range 3 {
		runtime.GC()
	}
	return nil
}

// memory makes what a backup needs as it receives a clone.
func memory(string) error {
	code, err := codemem.New(1 << 20)
	if err != nil {
		return err
	}
	guest, err := ram.New(64 << 20)
	if err != nil {
		return err
	}
	guest.Bytes()[1<<20] = 1
	return errors.Join(guest.Release(0, 32<<20), guest.Close(), code.Close())
}

// attempts are what must be refused, and how: landlock says EACCES.
var attempts = []struct {
	name string
	want error
	try  func(folder string) error
}{
	{"another file of its user", unix.EACCES, func(folder string) error { _, err := os.ReadFile(filepath.Join(folder, "secret")); return err }},
	{"a file where it only reads", unix.EACCES, func(folder string) error { return os.WriteFile(filepath.Join(folder, "key"), nil, 0o600) }},
	{"a new file there", unix.EACCES, func(folder string) error { return os.WriteFile(filepath.Join(folder, "new"), nil, 0o600) }},
	{"the passwords", unix.EACCES, func(string) error { _, err := os.ReadFile("/etc/shadow"); return err }},
	{"the memory of init", unix.EACCES, func(string) error { _, err := os.Open("/proc/1/mem"); return err }},
	{"a program", unix.EPERM, func(string) error {
		_, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
		return err
	}},
	{"execve", unix.EPERM, call(unix.SYS_EXECVE)},
	{"execveat", unix.EPERM, call(unix.SYS_EXECVEAT)},
	{"a process", unix.EPERM, call(unix.SYS_CLONE, unix.CLONE_SIGHAND)}, // which else is EINVAL, and makes none
	{"clone3", unix.EPERM, call(unix.SYS_CLONE3)},
	{"a user namespace", unix.EPERM, call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
	{"another namespace", unix.EPERM, call(unix.SYS_SETNS)},
	{"ptrace", unix.EPERM, call(unix.SYS_PTRACE, unix.PTRACE_ATTACH)}, // which else is ESRCH
	{"the memory of its parent", unix.EPERM, call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()))},
	{"a signal to its parent", unix.EPERM, call(unix.SYS_KILL, uintptr(os.Getppid()), 0)},
	{"mount", unix.EPERM, call(unix.SYS_MOUNT)},
	{"pivot_root", unix.EPERM, call(unix.SYS_PIVOT_ROOT)},
	{"a packet socket", unix.EPERM, socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"a raw socket", unix.EPERM, socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{"a netlink socket", unix.EPERM, socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
	{"a vsock", unix.EPERM, socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{"an SCTP socket", unix.EPERM, socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)},
	{"bpf", unix.EPERM, call(unix.SYS_BPF)},
	{"perf_event_open", unix.EPERM, call(unix.SYS_PERF_EVENT_OPEN)},
	{"io_uring", unix.EPERM, call(unix.SYS_IO_URING_SETUP)},
	{"userfaultfd", unix.EPERM, call(unix.SYS_USERFAULTFD)},
	{"a kernel module", unix.EPERM, call(unix.SYS_INIT_MODULE)},
	{"kexec", unix.EPERM, call(unix.SYS_KEXEC_LOAD)},
	{"keys", unix.EPERM, call(unix.SYS_KEYCTL)},
	{"another user", unix.EPERM, call(unix.SYS_SETUID, 0)},
	{"a terminal's input", unix.EPERM, call(unix.SYS_IOCTL, 0, unix.TIOCSTI)},
	{"memory to write and execute", unix.EPERM, func(string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		return err
	}},
	{"to execute what it wrote", unix.EPERM, func(string) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("memory: %v", err)
		}
		return unix.Mprotect(b, unix.PROT_EXEC)
	}},
}

func call(trap uintptr, args ...uintptr) func(string) error {
	return func(string) error {
		var a [3]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall(trap, a[0], a[1], a[2]); errno != 0 {
			return errno
		}
		return nil
	}
}

func socket(family, kind, protocol uintptr) func(string) error {
	return call(unix.SYS_SOCKET, family, kind, protocol)
}

func refused(folder string) error {
	var errs []error
	for _, a := range attempts {
		// On many threads: one that was left out would be found.
		found := make([]error, 8)
		var all sync.WaitGroup
		for i := range found {
			all.Go(func() { found[i] = a.try(folder) })
		}
		all.Wait()
		for _, err := range found {
			if !errors.Is(err, a.want) {
				errs = append(errs, fmt.Errorf("%s: %v, want %v", a.name, err, a.want))
				break
			}
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err == nil || !errors.Is(err, unix.EACCES) {
		errs = append(errs, fmt.Errorf("the status of the process: %v\n%s", err, bytes.TrimSpace(status)))
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err == nil {
		errs = append(errs, errors.New("capabilities can be asked for"))
	}
	return errors.Join(errs...)
}

// TestThreads shows that every thread of a confined process has the filter, and is
// without capabilities and a way to new ones.
func TestThreads(t *testing.T) {
	cmd := prepare(t, "waits")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if len(list) < 4 {
		t.Fatal("few threads:", list, err)
	}
	want := []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2"}
	if os.Geteuid() == 0 {
		want = append(want, "CapBnd:\t0000000000000000")
	}
	for _, path := range list {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, w := range want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s has no %q:\n%s", path, w, b)
			}
		}
	}
}

// wait shows threads that were there before, and some of later, to its parent.
func wait(string) error {
	err := threads("")
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return err
}
