// SPDX-License-Identifier: Apache-2.0

// Package child starts other programs of this host, tandem's own above all, for the demo,
// for benchmarks and for tests that kill them. A child ends with the process that started
// it, even if that is killed; it has a process group of its own, so that Ctrl-C reaches
// the parent only.
package child

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a program that was started. It is safe for concurrent use.
type Process struct {
	Name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start runs a program. What it prints goes to the file log, which begins anew.
func Start(name, log, program string, args ...string) (*Process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	p := &Process{name, cmd, make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill is kill -9. It returns when the process is gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// CPUTime is what the process has used, by proc(5).
func (p *Process) CPUTime() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system time.Duration // in clock ticks of 10 ms
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return (user + system) * 10 * time.Millisecond
}

// Until waits for a condition; the error of one that doesn't come begins with what.
func Until(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v", what, limit)
		}
	}
	return nil
}

// Where FreePorts looks: below the ports that Linux gives to connections that go out
// (net.ipv4.ip_local_port_range), which would take a free one the next moment.
const firstPort, lastPort = 10000, 32000

// FreePorts finds n ports in a row of the loopback address on which nobody listens, neither
// by TCP nor by UDP, and returns the first.
func FreePorts(n int) (first int, err error) {
	for range 1000 {
		first = firstPort + rand.IntN(lastPort-firstPort-n)
		if err = free(first, n); err == nil {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports: %w", n, err)
}

func free(first, n int) (err error) {
	for port := first; port < first+n && err == nil; port++ {
		at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
		tcp, errTCP := net.ListenTCP("tcp", &at)
		udp, errUDP := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: port})
		err = errors.Join(errTCP, errUDP)
		if errTCP == nil {
			tcp.Close()
		}
		if errUDP == nil {
			udp.Close()
		}
	}
	return err
}

// FreeAddrs finds n addresses as FreePorts does.
func FreeAddrs(n int) (addrs []string, err error) {
	first, err := FreePorts(n)
	for port := first; port < first+n && err == nil; port++ {
		addrs = append(addrs, (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String())
	}
	return addrs, err
}
