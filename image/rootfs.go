// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/image/deb"
	"tandem/image/ext4"
)

var (
	//go:embed files/tandem-init
	guestInit []byte
	//go:embed files/udhcpc
	udhcpcScript []byte
	//go:embed files/network
	networkScript string
	//go:embed files/button
	buttonScript string
	//go:embed files/redis
	redisService string
	//go:embed files/redis-ready
	redisReady string
	//go:embed files/postgresql
	postgresService string
	//go:embed files/postgresql-ready
	postgresReady string
	//go:embed files/ssh
	sshService string
)

// excluded are the files that a small guest does without; dpkg in the guest is
// told the same (path-exclude), later filters overriding earlier ones.
var excluded = []struct {
	keep   bool
	prefix string
	suffix string
}{
	{false, "usr/share/doc/", ""},
	{true, "usr/share/doc/", "/copyright"},
	{false, "usr/share/man/", ""},
	{false, "usr/share/info/", ""},
	{false, "usr/share/lintian/", ""},
	{false, "usr/share/locale/", ""},
	{true, "usr/share/locale/locale.alias", ""},
}

// merged are the directories that Debian 13 keeps in /usr only.
var merged = []string{"bin", "sbin", "lib"}

// moved are directories that base-files ships, and its script replaces by links.
var moved = []struct{ from, to string }{{"var/run", "/run"}, {"var/lock", "/run/lock"}}

// copies are files that a package's script would put in place from a master.
var copies = []struct{ from, to string }{
	{"/usr/share/base-files/profile", "/etc/profile"},
	{"/usr/share/base-files/dot.profile", "/root/.profile"},
	{"/usr/share/base-files/dot.bashrc", "/root/.bashrc"},
	{"/usr/share/base-files/motd", "/etc/motd"},
	{"/usr/share/libc-bin/nsswitch.conf", "/etc/nsswitch.conf"},
}

// links are symbolic links that scripts would make: the target must be there.
var links = []struct{ needs, name, target string }{
	{"/usr/bin/mawk", "/etc/alternatives/awk", "/usr/bin/mawk"},
	{"/usr/bin/mawk", "/usr/bin/awk", "/etc/alternatives/awk"},
	{"/etc/dpkg/origins/debian", "/etc/dpkg/origins/default", "debian"},
}

// accounts are users that a package's script would make, with their directories, of
// which the first is their home.
var accounts = []struct {
	pkg, user, shell string
	dirs             []ownedDir
}{
	{"redis-tools", "redis", noLogin, []ownedDir{{"/var/lib/redis", 0o750, "redis"}, {"/var/log/redis", 0o2750, "adm"}, {"/etc/redis", 0o2770, "redis"}}},
	{"valkey-tools", "valkey", noLogin, []ownedDir{{"/var/lib/valkey", 0o750, "valkey"}, {"/var/log/valkey", 0o2750, "adm"}, {"/etc/valkey", 0o2770, "valkey"}}},
	{"postgresql-common", "postgres", "/bin/sh", []ownedDir{{"/var/lib/postgresql", 0o755, "postgres"}, {"/var/log/postgresql", 0o2775, "postgres"}}},
}

const noLogin = "/usr/sbin/nologin"

type ownedDir struct {
	name  string
	mode  uint16
	group string
}

// services are what the guest's init keeps running if the package is there, and
// how it asks whether they answer.
var services = []struct {
	pkg, name  string
	run, ready *string
}{
	{"redis-server", "redis", &redisService, &redisReady},
	{"valkey-server", "valkey", &redisService, &redisReady},
	{"postgresql-common", "postgresql", &postgresService, &postgresReady},
	{sshServer, "ssh", &sshService, nil},
}

// applets are commands that busybox stands in for, last in the shell's PATH.
var applets = []string{
	"awk", "clear", "cmp", "diff", "find", "free", "grep", "gunzip", "gzip", "halt", "hexdump", "hostname",
	"ifconfig", "ip", "kill", "killall", "less", "lsmod", "more", "mount", "nc", "netstat", "nslookup", "pidof",
	"ping", "poweroff", "ps", "reboot", "route", "sed", "telnet", "top", "traceroute", "udhcpc", "umount",
	"uptime", "vi", "watch", "wget", "which", "xargs",
}

// rootfs fills the root file system of a guest. The first error stays and makes
// later calls do nothing, so that a list of files reads as a list.
type rootfs struct {
	fs     *ext4.FS
	docs   bool
	time   time.Time
	status bytes.Buffer // dpkg's
	have   map[string]bool
	err    error
}

func newRootfs(fs *ext4.FS, docs bool, now time.Time) *rootfs {
	r := &rootfs{fs: fs, docs: docs, time: now, have: map[string]bool{}}
	for _, d := range merged {
		r.dir("/usr/"+d, 0o755)
		r.link("/"+d, "usr/"+d)
	}
	for _, d := range moved {
		r.dir(d.to, 0o755)
		r.link("/"+d.from, d.to)
	}
	return r
}

func (r *rootfs) attr(mode uint16) ext4.Attr { return ext4.Attr{Mode: mode, Time: r.time} }

func (r *rootfs) do(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *rootfs) dir(name string, mode uint16) {
	if r.err == nil {
		r.do(r.fs.Mkdir(name, r.attr(mode)))
	}
}

func (r *rootfs) link(name, target string) {
	if r.err == nil {
		r.do(r.fs.Symlink(name, target, r.attr(0o777)))
	}
}

func (r *rootfs) file(name string, mode uint16, content string) {
	if r.err == nil {
		r.do(r.fs.Create(name, r.attr(mode), int64(len(content)), strings.NewReader(content)))
	}
}

func (r *rootfs) exists(name string) bool {
	_, _, err := r.fs.Stat(name)
	return err == nil
}

// install unpacks one package: its files and its entry in dpkg's database.
func (r *rootfs) install(p *deb.Package, control map[string][]byte, data io.Reader) error {
	var list strings.Builder
	sums := conffileSums(control)
	err := deb.Entries(data, func(e deb.Entry, body io.Reader) error {
		if e.Name == "" {
			list.WriteString("/.\n")
			return nil
		}
		fmt.Fprintln(&list, "/"+e.Name)
		if !r.docs && isExcluded(e.Name) {
			return nil
		}
		return r.entry(e, sums.watch(e.Name, body))
	})
	if err != nil {
		return err
	}
	r.have[p.Name] = true
	r.database(p, control, list.String(), sums)
	return r.err
}

func isExcluded(name string) bool {
	out := false
	for _, x := range excluded {
		if strings.HasPrefix(name, x.prefix) && strings.HasSuffix(name, x.suffix) {
			out = !x.keep
		}
	}
	return out
}

func (r *rootfs) entry(e deb.Entry, body io.Reader) error {
	if e.Typeflag == tar.TypeSymlink && slices.Contains(merged, e.Name) && e.Linkname == "usr/"+e.Name {
		return nil // is there
	}
	for _, d := range moved {
		if e.Typeflag == tar.TypeDir && e.Name == d.from {
			return nil
		}
	}
	return r.plain(e, body)
}

// plain makes what an entry says.
func (r *rootfs) plain(e deb.Entry, body io.Reader) error {
	name := "/" + e.Name
	a := ext4.Attr{Mode: uint16(e.Mode & 0o7777), UID: uint32(e.Uid), GID: uint32(e.Gid), Time: e.ModTime}
	switch e.Typeflag {
	case tar.TypeDir:
		return r.fs.Mkdir(name, a)
	case tar.TypeSymlink:
		return r.fs.Symlink(name, e.Linkname, a)
	case tar.TypeLink:
		return r.fs.Link(name, "/"+e.Linkname)
	case tar.TypeChar:
		return r.fs.Mknod(name, ext4.Char, uint32(e.Devmajor), uint32(e.Devminor), a)
	case tar.TypeBlock:
		return r.fs.Mknod(name, ext4.Block, uint32(e.Devmajor), uint32(e.Devminor), a)
	case tar.TypeFifo:
		return r.fs.Mknod(name, ext4.FIFO, 0, 0, a)
	}
	return r.fs.Create(name, a, e.Size, body)
}

// finish does what the packages' scripts would have done and adds our own files.
func (r *rootfs) finish(o *Options) error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/mnt", "/media", "/srv", "/opt", "/home", "/boot",
		"/etc/opt", "/var/opt", "/var/lib", "/var/log/tandem", "/var/cache", "/var/spool", "/var/backups",
		"/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/share", "/etc/tandem/services", "/etc/tandem/ready"} {
		if !r.exists(d) {
			r.dir(d, 0o755)
		}
	}
	r.dir("/tmp", 0o1777)
	r.dir("/var/tmp", 0o1777)
	r.dir("/root", 0o700)
	for _, c := range copies {
		if r.exists(c.from) && !r.exists(c.to) {
			b, err := r.fs.ReadFile(c.from)
			r.do(err)
			r.file(c.to, 0o644, string(b))
		}
	}
	for _, l := range links {
		if r.exists(l.needs) && !r.exists(l.name) {
			r.link(l.name, l.target)
		}
	}
	r.identity(o.Hostname)
	r.users(o)
	r.init()
	r.dpkg()
	return r.err
}

func (r *rootfs) identity(hostname string) {
	r.file("/etc/hostname", 0o644, hostname+"\n")
	r.file("/etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 "+hostname+"\n::1 localhost ip6-localhost ip6-loopback\n")
	r.file("/etc/resolv.conf", 0o644, "")
	r.file("/etc/fstab", 0o644, "/dev/vda / ext4 defaults 0 1\n")
	if !r.exists("/etc/nsswitch.conf") {
		r.file("/etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
	}
}

func (r *rootfs) init() {
	r.file("/usr/sbin/tandem-init", 0o755, withShared(string(guestInit)))
	r.file("/usr/lib/tandem/udhcpc", 0o755, string(udhcpcScript))
	if !r.exists("/usr/sbin/init") {
		r.link("/usr/sbin/init", "tandem-init")
	}
	// Last, so that a package's own program comes first.
	r.file("/etc/profile.d/tandem.sh", 0o644, "PATH=$PATH:/usr/lib/tandem/bin\n")
	for _, a := range applets {
		r.link("/usr/lib/tandem/bin/"+a, "/usr/bin/busybox")
		if !r.exists("/usr/bin/"+a) && !r.exists("/usr/sbin/"+a) { // a command by ssh reads no profile
			r.link("/usr/bin/"+a, "busybox")
		}
	}
	for _, s := range services {
		if r.have[s.pkg] {
			r.file("/etc/tandem/services/"+s.name, 0o755, strings.ReplaceAll(*s.run, "@NAME@", s.name))
			if s.ready != nil {
				r.file("/etc/tandem/ready/"+s.name, 0o755, *s.ready)
			}
		}
	}
}

// withShared puts the functions that all inits share into one.
func withShared(script string) string {
	return strings.NewReplacer("@NETWORK@\n", networkScript, "@BUTTON@\n", buttonScript).Replace(script)
}

// users makes the account files from base-passwd's masters, as update-passwd
// does, and the system users that packages need.
func (r *rootfs) users(o *Options) {
	passwd := r.master("passwd", "root:*:0:0:root:/root:/bin/sh\n")
	group := r.master("group", "root:*:0:\nadm:*:4:\ntty:*:5:\n")
	if !r.exists("/usr/bin/bash") {
		passwd = strings.ReplaceAll(passwd, ":/bin/bash\n", ":/bin/sh\n")
	}
	for _, a := range accounts {
		if !r.have[a.pkg] {
			continue
		}
		uid := freeID(passwd, group)
		passwd += fmt.Sprintf("%s:*:%d:%d::%s:%s\n", a.user, uid, uid, a.dirs[0].name, a.shell)
		group += fmt.Sprintf("%s:*:%d:\n", a.user, uid)
		for _, d := range a.dirs {
			at := r.attr(d.mode)
			at.UID, at.GID = uint32(uid), groupID(group, d.group)
			r.do(r.fs.Mkdir(d.name, at))
		}
	}
	passwd, group = r.people(o, passwd, group)
	day := r.time.Unix() / 86400
	r.file("/etc/passwd", 0o644, strings.ReplaceAll(passwd, ":*:", ":x:"))
	r.file("/etc/group", 0o644, strings.ReplaceAll(group, ":*:", ":x:"))
	r.secret("/etc/shadow", passwd, fmt.Sprintf(":*:%d:0:99999:7:::\n", day), groupID(group, "shadow"))
	r.secret("/etc/gshadow", group, ":*::\n", groupID(group, "shadow"))
}

func (r *rootfs) master(name, fallback string) string {
	b, err := r.fs.ReadFile("/usr/share/base-passwd/" + name + ".master")
	if err != nil {
		if !errors.Is(err, ext4.ErrNotExist) {
			r.do(err)
		}
		return fallback
	}
	return string(b)
}

func (r *rootfs) secret(file, names, rest string, gid uint32) {
	var out strings.Builder
	for line := range strings.Lines(names) {
		name, _, _ := strings.Cut(line, ":")
		out.WriteString(name + rest)
	}
	r.file(file, 0o640, out.String())
	at := r.attr(0o640)
	at.GID = gid
	r.do(r.fs.SetAttr(file, at))
}

func groupID(group, name string) uint32 {
	for line := range strings.Lines(group) {
		if f := strings.Split(line, ":"); len(f) >= 3 && f[0] == name {
			n, _ := strconv.ParseUint(f[2], 10, 32)
			return uint32(n)
		}
	}
	return 0
}

// freeID is the first number for a system user and group (adduser.conf(5)).
func freeID(passwd, group string) int {
	taken := map[string]bool{}
	for line := range strings.Lines(passwd + group) {
		if f := strings.Split(line, ":"); len(f) >= 3 {
			taken[f[2]] = true
		}
	}
	id := 100
	for taken[strconv.Itoa(id)] {
		id++
	}
	return id
}

// dpkg writes the database's other files and tells dpkg what was left out.
func (r *rootfs) dpkg() {
	r.file("/var/lib/dpkg/status", 0o644, r.status.String())
	r.file("/var/lib/dpkg/available", 0o644, "")
	r.file("/var/lib/dpkg/diversions", 0o644, "")
	r.file("/var/lib/dpkg/statoverride", 0o644, "")
	r.file("/var/lib/dpkg/info/format", 0o644, "1\n")
	for _, d := range []string{"updates", "triggers", "alternatives", "parts"} {
		r.dir("/var/lib/dpkg/"+d, 0o755)
	}
	if r.docs {
		return
	}
	var cfg strings.Builder
	for _, x := range excluded {
		verb := "path-exclude"
		if x.keep {
			verb = "path-include"
		}
		pattern := "/" + x.prefix + "*" + x.suffix
		if !strings.HasSuffix(x.prefix, "/") {
			pattern = "/" + x.prefix
		}
		fmt.Fprintf(&cfg, "%s=%s\n", verb, pattern)
	}
	r.file("/etc/dpkg/dpkg.cfg.d/tandem", 0o644, cfg.String())
}

// database records a package as unpacked, which is the truth: its scripts did
// not run. `dpkg --configure -a` in the guest finishes it.
func (r *rootfs) database(p *deb.Package, control map[string][]byte, list string, sums *sums) {
	name := p.Name
	if p.MultiArch == "same" {
		name += ":" + p.Architecture
	}
	base := path.Join("/var/lib/dpkg/info", name)
	r.file(base+".list", 0o644, list)
	for _, file := range slices.Sorted(maps.Keys(control)) {
		mode := uint16(0o644)
		if slices.Contains([]string{"preinst", "postinst", "prerm", "postrm", "config"}, file) {
			mode = 0o755
		}
		if file != "control" && file != "md5sums.sig" {
			r.file(base+"."+file, mode, string(control[file]))
		}
	}
	stanza := strings.Trim(string(control["control"]), "\n")
	first, rest, _ := strings.Cut(stanza, "\n")
	fmt.Fprintf(&r.status, "%s\nStatus: install ok unpacked\n%s\n%s\n", first, rest, sums.field())
}
