// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"tandem/image/ext4"
)

// sshServer is the package that lets people in by their keys. It is small, makes
// its host keys when the first of them connects, and needs no configured PAM.
const sshServer = "dropbear-bin"

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// validUsers checks names and keys.
func (o *Options) validUsers() error {
	for i, u := range o.Users {
		if !userName.MatchString(u) {
			return fmt.Errorf("user %q: use lower case letters, digits and hyphens, at most 32", u)
		}
		if u == "root" || slices.Contains(o.Users[:i], u) {
			return fmt.Errorf("user %s is there already: leave it out", u)
		}
	}
	for i, k := range o.SSHKeys {
		key, err := sshKey(k)
		if err != nil {
			return err
		}
		o.SSHKeys[i] = key
	}
	return nil
}

// sshKey checks one line of an authorized_keys file (sshd(8)): a type, and base64
// that begins with the same type. Options before it are kept.
func sshKey(line string) (string, error) {
	line = strings.TrimSpace(line)
	words := strings.Fields(line)
	for i := range len(words) - 1 {
		raw, err := base64.StdEncoding.DecodeString(words[i+1])
		if err != nil || len(raw) < 4 {
			continue
		}
		n := uint64(binary.BigEndian.Uint32(raw))
		if 4+n <= uint64(len(raw)) && string(raw[4:4+n]) == words[i] && !strings.ContainsAny(line, "\n\r\x00") {
			return line, nil
		}
	}
	short := line[:min(len(line), 40)]
	if strings.Contains(line, "PRIVATE KEY") {
		return "", fmt.Errorf("this is a private key: give the public one, of the same name with .pub")
	}
	return "", fmt.Errorf("ssh key %q is no line of an authorized_keys file: want for instance ssh-ed25519 AAAA... name", short)
}

// people adds the users that were asked for to the account files, and puts the
// keys where the ssh server looks for them.
func (r *rootfs) people(o *Options, passwd, group string) (string, string) {
	shell := "/bin/sh"
	if r.exists("/usr/bin/bash") {
		shell = "/bin/bash"
	}
	r.keys(o, "/root", 0)
	for i, u := range o.Users {
		id, home := 1000+i, "/home/"+u
		passwd += fmt.Sprintf("%s:*:%d:%d::%s:%s\n", u, id, id, home, shell)
		group += fmt.Sprintf("%s:*:%d:\n", u, id)
		r.ownedDir(home, 0o755, id)
		r.keys(o, home, id)
	}
	return passwd, group
}

func (r *rootfs) keys(o *Options, home string, id int) {
	if len(o.SSHKeys) == 0 {
		return
	}
	r.ownedDir(home+"/.ssh", 0o700, id)
	name := home + "/.ssh/authorized_keys"
	r.file(name, 0o600, strings.Join(o.SSHKeys, "\n")+"\n")
	r.do(r.fs.SetAttr(name, r.owned(0o600, id)))
}

func (r *rootfs) owned(mode uint16, id int) ext4.Attr {
	a := r.attr(mode)
	a.UID, a.GID = uint32(id), uint32(id)
	return a
}

func (r *rootfs) ownedDir(name string, mode uint16, id int) {
	if r.err == nil {
		r.do(r.fs.Mkdir(name, r.owned(mode, id)))
	}
}
