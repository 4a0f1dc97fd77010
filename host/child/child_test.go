// SPDX-License-Identifier: Apache-2.0

package child

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A child writes to its file, can be stopped and killed, and is known to have ended.
func TestProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := Start("shell", log, "/bin/sh", "-c", "echo here; sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	err = Until(t.Context(), time.Minute, "its word", func() bool {
		b, _ := os.ReadFile(log)
		return string(b) == "here\n"
	})
	if err != nil {
		t.Fatal(err)
	}
	if group, err := syscall.Getpgid(p.PID()); err != nil || group != p.PID() {
		t.Errorf("its group is %d, %v", group, err)
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil || p.Ended() {
		t.Errorf("stopped: %v, ended %v", err, p.Ended())
	}
	p.Kill()
	if !p.Ended() {
		t.Error("killed, and not ended")
	}
	if _, err := Start("ghost", log, "/no/such/program"); err == nil || !strings.Contains(err.Error(), "start the ghost") {
		t.Error(err)
	}
}

// Ports that are found are in a row and not those that somebody listens on.
func TestFreePorts(t *testing.T) {
	first, err := FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		if err := free(first, 2); err != nil {
			t.Fatal(err)
		}
		at := net.IPv4(127, 0, 0, 1)
		switch network {
		case "tcp":
			l, err := net.ListenTCP(network, &net.TCPAddr{IP: at, Port: first + 1})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		case "udp":
			l, err := net.ListenUDP(network, &net.UDPAddr{IP: at, Port: first})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		if free(first, 2) == nil {
			t.Errorf("a port is free on which somebody listens by %s", network)
		}
		first, err = FreePorts(2)
		if err != nil {
			t.Fatal(err)
		}
	}
}
