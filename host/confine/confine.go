// SPDX-License-Identifier: Apache-2.0

// Package confine takes from a process what it will not need again, for good. A
// replica does so when its files, sockets, taps and memory are open: who breaks out of
// its guest then finds himself in a process that can do little else than be a replica.
//
//	no_new_privs    no program gives it rights that it has not
//	landlock        no file but those that Needs names
//	capabilities    none: neither now nor after an exec
//	seccomp         no system call but those of calls.go
//
// Each stands for itself, and what the kernel lacks is told and left out. What is open
// stays open. All threads are confined, those that Go's runtime will make too.
//
// A call that is not allowed is refused with EPERM and told to the kernel's audit log
// (SECCOMP_FILTER_FLAG_LOG); the process is not killed for it. A call that the table
// forgot would else end the primary, and then the backup, which runs the same code: a
// failure that no second copy protects from. Refused, the call does as little harm, and
// Go's libraries have a way without.
package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Needs are what a process opens once it is confined. Folders stand for all in them.
type Needs struct {
	Read    []string // files and folders; what does not exist is left out
	Write   []string // folders in which files are made, read, written and removed
	Sockets []string // of Unix, that are connected to
	Links   bool     // the kernel's news of network devices, for a tap
	Names   bool     // host names: resolving them reads /etc
	Perf    bool     // translated code where perf looks for it: see codemem.NewAnonymous
}

// Host adds what the dial of a host needs: a name is resolved, and the zone of an IPv6
// address is a network device.
func (n *Needs) Host(host string) {
	addr, err := netip.ParseAddr(host)
	n.Names = n.Names || err != nil && host != ""
	n.Links = n.Links || err == nil && addr.Zone() != ""
}

// Address is Host for HOST:PORT.
func (n *Needs) Address(addr string) {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		n.Host(host)
	}
}

// Also adds other needs.
func (n *Needs) Also(o Needs) {
	n.Read, n.Write, n.Sockets = append(n.Read, o.Read...), append(n.Write, o.Write...), append(n.Sockets, o.Sockets...)
	n.Links, n.Names, n.Perf = n.Links || o.Links, n.Names || o.Names, n.Perf || o.Perf
}

// reads are the files that resolving a name, or watching a tap, reads.
var (
	nameFiles = []string{"/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"}
	linkFiles = []string{"/sys/class/net", "/sys/devices"}
)

func (n Needs) reads() []string {
	list := n.Read[:len(n.Read):len(n.Read)]
	if n.Names {
		list = append(list, nameFiles...)
	}
	if n.Links {
		list = append(list, linkFiles...)
	}
	return list
}

// parts are what a process is confined by.
var parts = []struct {
	name  string
	check func() error        // whether the kernel has it
	apply func(n Needs) error // in this order: each leaves the right to do the next
}{
	{"no_new_privs", checkThreads, func(Needs) error { return allPrctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
	{"landlock", checkLandlock, restrictFiles},
	{"capabilities", checkThreads, dropCapabilities},
	{"seccomp", checkSeccomp, filterCalls},
}

// checkThreads: Go makes a system call on all threads only where C has made none of them.
func checkThreads() error {
	if err := onAllThreads(unix.SYS_GETPID, 0, 0, 0); err != nil {
		return errors.New("this program was built with cgo: build it with CGO_ENABLED=0, as make does")
	}
	return nil
}

// Missing says what this kernel lacks; nothing, if a process can be confined as a whole.
func Missing() error {
	var errs []error
	for _, p := range parts {
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// Process confines this process, for good, as far as the kernel can; the error says
// what it could not. It stops all threads for some milliseconds.
func Process(n Needs) error {
	for _, path := range n.Write { // what is made later would be out of reach
		if err := unix.Access(path, unix.F_OK); err != nil {
			return fmt.Errorf("confine: %w", &fs.PathError{Op: "look for the folder", Path: path, Err: err})
		}
	}
	var errs []error
	for _, p := range parts {
		err := p.check()
		if err == nil {
			err = p.apply(n)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}
