// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"tandem/host/child"
)

// Shell is a root's shell in a guest, over one TCP connection that is never made anew.
type Shell struct{ c *ssh.Client }

// Shell connects to a guest when its ssh server answers.
func (s *Stage) Shell(ctx context.Context, vm string) (*Shell, error) {
	return dialShell(ctx, s.Addr(vm, sshPort), s.Guest.key)
}

const bootTime = 3 * time.Minute

func dialShell(ctx context.Context, addr string, key ssh.Signer) (sh *Shell, err error) {
	cfg := &ssh.ClientConfig{User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
	var why error
	err = child.Until(ctx, bootTime, "the guest's ssh server answers", func() bool {
		sh, why = connectShell(addr, cfg)
		return why == nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, why)
	}
	return sh, nil
}

func connectShell(addr string, cfg *ssh.ClientConfig) (*Shell, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(20 * time.Second)) // a guest that is slow to boot; then the next try
	conn, chans, reqs, err := ssh.NewClientConn(c, addr, cfg)
	if err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return &Shell{ssh.NewClient(conn, chans, reqs)}, nil
}

// Close ends the connection.
func (s *Shell) Close() { s.c.Close() }

// Run runs a shell script and returns what it printed on both outputs.
func (s *Shell) Run(ctx context.Context, script string) (string, error) {
	var out strings.Builder
	err := s.Lines(ctx, script, func(line string) { out.WriteString(line + "\n") })
	return out.String(), err
}

// Lines runs a shell script and gives each line that it prints to fn, as it comes. When ctx
// ends so does the connection.
func (s *Shell) Lines(ctx context.Context, script string, fn func(line string)) error {
	session, err := s.c.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Close)()
	session.Stdin = strings.NewReader(script) // which may be longer than the server's limit
	if err := session.Start("cat >/run/stage.$$ && exec sh /run/stage.$$ </dev/null 2>&1"); err != nil {
		return err
	}
	last := ""
	for in := bufio.NewScanner(out); in.Scan(); {
		last = in.Text()
		fn(last)
	}
	if err := session.Wait(); err != nil {
		return fmt.Errorf("in the guest: %w: %s", err, last)
	}
	return nil
}
