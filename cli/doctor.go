// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/host/codemem"
	"tandem/host/confine"
	"tandem/image"
	"tandem/node"
)

// Grades of a finding. A warning is what some uses of tandem can do without.
const (
	gradeOK      = "ok"
	gradeWarning = "warning"
	gradeFailure = "failure"
)

// finding is what one check found, and how to mend it.
type finding struct {
	Check  string `json:"check"`
	Grade  string `json:"grade"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// doctor looks at a host.
type doctor struct {
	state, run string
	port       int
	mirror     string
	offline    bool
	now        time.Time
}

// checks in the order in which they are told.
var checks = []struct {
	name string
	look func(*doctor, context.Context) (grade, found, remedy string)
}{
	{"cores", (*doctor).cores},
	{"memory", (*doctor).memory},
	{"translated code", (*doctor).code},
	{"confinement", (*doctor).confinement},
	{"open files", (*doctor).files},
	{"clock", (*doctor).clock},
	{"tun device", (*doctor).tun},
	{"disk space", (*doctor).space},
	{"folders", (*doctor).folders},
	{"daemon", (*doctor).daemon},
	{"ports", (*doctor).ports},
	{"certificates", (*doctor).certificates},
	{"Debian mirror", (*doctor).archive},
}

func doctorCommand() *cobra.Command {
	d := doctor{}
	var o output
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host, and say how to mend what is found",
		Long: "Looks at what tandem needs of a host. A warning is what some uses can do without; with a failure\n" +
			"the exit code is 1.",
		Example: "  tandem doctor\n  tandem doctor --offline --format json",
		Args:    args(0, 0, "no arguments"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			d.now = time.Now()
			list := d.examine(c.Context())
			if err := o.print(c.OutOrStdout(), list, func(w io.Writer) { tellFindings(w, list) }); err != nil {
				return err
			}
			for _, f := range list {
				if f.Grade == gradeFailure {
					return exitError(1)
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&d.state, "state", stateFolder, "state folder of the daemon")
	f.StringVar(&d.run, "run", runFolder, "run folder of the daemon")
	f.IntVar(&d.port, "port", node.DefaultPort, "first of the daemon's three TCP ports")
	f.StringVar(&d.mirror, "mirror", "", "Debian mirror; default $TANDEM_MIRROR, then the host's apt configuration")
	f.BoolVar(&d.offline, "offline", false, "leave the mirror alone")
	o.add(c)
	return c
}

func (d *doctor) examine(ctx context.Context) []finding {
	list := []finding{}
	for _, c := range checks {
		f := finding{Check: c.name}
		f.Grade, f.Found, f.Remedy = c.look(d, ctx)
		list = append(list, f)
	}
	return list
}

func tellFindings(w io.Writer, list []finding) {
	for _, f := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Grade, f.Check, f.Found)
		if f.Remedy != "" {
			fmt.Fprintf(w, "\t\t→ %s\n", f.Remedy)
		}
	}
}

func (d *doctor) cores(context.Context) (grade, found, remedy string) {
	n := runtime.NumCPU()
	found = fmt.Sprintf("%d, %s", n, runtime.GOARCH)
	if n < 2 {
		return gradeWarning, found, "give the host two: a VM's copy keeps one busy, and the rest of the host needs some of it"
	}
	return gradeOK, found, ""
}

// memInfo is a line of /proc/meminfo in bytes.
func memInfo(name string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if w := strings.Fields(in.Text()); len(w) > 1 && w[0] == name+":" {
			kb, err := strconv.ParseInt(w[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", name)
}

func (d *doctor) memory(context.Context) (grade, found, remedy string) {
	const least, little = 256 << 20, 1 << 30
	free, err := memInfo("MemAvailable")
	if err != nil {
		return gradeWarning, err.Error(), "mount /proc"
	}
	found = image.Bytes(free) + " available"
	switch {
	case free < least:
		return gradeFailure, found, "free some: a guest with Debian needs 128M, and each copy has its own"
	case free < little:
		return gradeWarning, found, "free some, or give guests less (--memory): the demo's pair takes 1G"
	}
	return gradeOK, found, ""
}

func (d *doctor) code(context.Context) (grade, found, remedy string) {
	if !codemem.Supported() {
		return gradeWarning, "there is no translator for " + runtime.GOARCH + ": guests are interpreted, some ten times slower", "use an amd64 or arm64 host for speed"
	}
	m, err := codemem.New(1 << 20)
	if err != nil {
		return gradeFailure, "no memory may be executed: " + err.Error(), "sysctl vm.memfd_noexec=0; in a systemd unit remove MemoryDenyWriteExecute; in a container allow memfd_create"
	}
	m.Close()
	found = "the host lets us execute what we translate"
	if b, err := os.ReadFile("/proc/sys/vm/memfd_noexec"); err == nil {
		found += ", vm.memfd_noexec=" + strings.TrimSpace(string(b))
	}
	return gradeOK, found, ""
}

func (d *doctor) confinement(context.Context) (grade, found, remedy string) {
	if err := confine.Missing(); err != nil {
		return gradeWarning, "replicas can't be confined as a whole: " + strings.ReplaceAll(err.Error(), "\n", "; "), "as said; see docs/SECURITY.md for what defends without"
	}
	return gradeOK, "the kernel can take from replicas what they don't need", ""
}

func (d *doctor) files(context.Context) (grade, found, remedy string) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return gradeWarning, err.Error(), ""
	}
	found = fmt.Sprintf("at most %d at once", l.Max)
	if l.Max < 4096 {
		return gradeWarning, found, "raise it (ulimit -n, LimitNOFILE): a switch needs one for each connection"
	}
	return gradeOK, found, ""
}

func (d *doctor) clock(context.Context) (grade, found, remedy string) {
	const unsynchronised = 0x40 // STA_UNSYNC
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return gradeWarning, err.Error(), ""
	}
	found = d.now.UTC().Format(time.RFC3339)
	switch {
	case d.now.Year() < 2025:
		return gradeFailure, found, "set the clock: certificates are not valid yet at that date"
	case t.Status&unsynchronised != 0:
		return gradeWarning, found + ", not synchronised", "run chrony or systemd-timesyncd: join tokens and certificates are good for a time only"
	}
	return gradeOK, found + ", synchronised", ""
}

func (d *doctor) tun(context.Context) (grade, found, remedy string) {
	const device = "/dev/net/tun"
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return gradeOK, device + " opens", ""
	case errors.Is(err, os.ErrNotExist):
		return gradeWarning, device + " is missing", "modprobe tun; only networks of kind tap need it"
	}
	return gradeWarning, why(err).Error() + ": " + device, "run as root, or let this user open it; only networks of kind tap need it"
}

func (d *doctor) space(context.Context) (grade, found, remedy string) {
	const little = 2 << 30
	s, err := image.DefaultStore()
	if err != nil {
		return gradeWarning, err.Error(), ""
	}
	dir := s.Dir
	for { // the nearest that is there
		var st unix.Statfs_t
		if err = unix.Statfs(dir, &st); err == nil {
			free := int64(st.Bavail) * int64(st.Bsize)
			found = fmt.Sprintf("%s free for images in %s", image.Bytes(free), s.Dir)
			if free < little {
				return gradeWarning, found, "see tandem image list and tandem image prune, or set " + image.StoreVar + " to a larger disk"
			}
			return gradeOK, found, ""
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		return gradeWarning, err.Error(), ""
	}
}

func (d *doctor) folders(context.Context) (grade, found, remedy string) {
	for _, dir := range []string{d.state, d.run} {
		st, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return gradeOK, dir + " is not there: no daemon has run here", ""
		case err != nil:
			return gradeWarning, err.Error(), "run tandem doctor as root to see more"
		case !st.IsDir():
			return gradeFailure, dir + " is not a folder", "remove it: the daemon makes a folder of that name"
		case st.Mode().Perm()&0o022 != 0:
			return gradeFailure, fmt.Sprintf("%s may be written by others (%v)", dir, st.Mode().Perm()), "chmod go-w " + dir
		}
	}
	return gradeOK, d.state + ", " + d.run, ""
}

// patience is how long a daemon or a mirror may take to answer.
const doctorPatience = 5 * time.Second

// info asks the daemon, if one runs.
func (d *doctor) info(ctx context.Context) (i node.Info, running bool, err error) {
	if _, err := os.Stat(filepath.Join(d.run, "node.sock")); err != nil {
		return i, false, nil
	}
	ctx, stop := context.WithTimeout(ctx, doctorPatience)
	defer stop()
	i, err = node.NewClient(d.run).Info(ctx)
	return i, err == nil, err
}

func (d *doctor) daemon(ctx context.Context) (grade, found, remedy string) {
	i, running, err := d.info(ctx)
	switch {
	case err != nil:
		return gradeFailure, err.Error(), "start tandem node (systemctl start tandem-node), and see its diagnostics (journalctl -u tandem-node)"
	case !running:
		return gradeOK, "none runs here; only clusters need one", ""
	case i.Name == "":
		return gradeWarning, "it runs and is in no cluster", "tandem cluster init --address ADDRESS on the first host, tandem cluster join TOKEN on others"
	case i.Trouble != "":
		return gradeFailure, i.Trouble, "see that the other hosts of the cluster are up and reached (tandem nodes)"
	}
	return gradeOK, fmt.Sprintf("%s of cluster %s, etcd reached", i.Name, i.Cluster), ""
}

func (d *doctor) ports(ctx context.Context) (grade, found, remedy string) {
	found = fmt.Sprintf("%d to %d", d.port, d.port+2)
	if _, running, err := d.info(ctx); running || err != nil {
		return gradeOK, found + " are the daemon's", ""
	}
	for p := d.port; p < d.port+3; p++ {
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(p))
		if err != nil {
			return gradeWarning, fmt.Sprintf("port %d: %v", p, cause(err)), "stop what uses it (ss -ltnp), or give the daemon others with --port"
		}
		ln.Close()
	}
	return gradeOK, found + " are free for a daemon", ""
}

// cause is the system's part of a network error.
func cause(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

func (d *doctor) certificates(context.Context) (grade, found, remedy string) {
	const soon = 30 * 24 * time.Hour
	files, _ := filepath.Glob(filepath.Join(d.state, "pki", "*"))
	if len(files) == 0 {
		return gradeOK, "none: this host is in no cluster, or its folder is for root only", ""
	}
	first := time.Time{}
	for _, f := range files {
		switch filepath.Ext(f) {
		case ".key":
			if st, err := os.Stat(f); err == nil && st.Mode().Perm()&0o077 != 0 {
				return gradeFailure, fmt.Sprintf("%s may be read by others (%v)", f, st.Mode().Perm()), "chmod 600 " + f
			}
		case ".pem":
			until, err := validUntil(f)
			switch {
			case err != nil:
				return gradeFailure, fmt.Sprintf("%s: %v", f, err), "restore it from another host of the cluster or a backup, or remove this host and join anew"
			case d.now.After(until):
				return gradeFailure, fmt.Sprintf("%s expired on %s", f, until.Format(time.DateOnly)), "see that the clock is right; else remove this host from the cluster and join anew"
			case until.Sub(d.now) < soon:
				return gradeWarning, fmt.Sprintf("%s expires on %s", f, until.Format(time.DateOnly)), "remove this host from the cluster and join anew before that"
			case first.IsZero() || until.Before(first):
				first = until
			}
		}
	}
	return gradeOK, "good until " + first.Format(time.DateOnly), ""
}

func validUntil(file string) (time.Time, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, why(err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return time.Time{}, errors.New("it holds no certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return c.NotAfter, nil
}

func (d *doctor) archive(ctx context.Context) (grade, found, remedy string) {
	if d.offline {
		return gradeOK, "not asked (--offline)", ""
	}
	ctx, stop := context.WithTimeout(ctx, doctorPatience)
	defer stop()
	uri, err := image.Reach(ctx, d.mirror, "trixie")
	if err != nil {
		return gradeWarning, err.Error(), "only tandem demo and tandem image need it: what they have cached serves without"
	}
	return gradeOK, uri, ""
}
