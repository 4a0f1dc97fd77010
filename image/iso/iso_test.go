// SPDX-License-Identifier: Apache-2.0

package iso

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var files = []File{{"meta-data", []byte("instance-id: x\n")}, {"user-data", []byte("#cloud-config\n{}\n")}, {"empty", nil}}

func write(t *testing.T, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, "cidata", time.Unix(1700000000, 0), files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Another program finds label, names and content.
func TestOthersRead(t *testing.T) {
	name := t.TempDir() + "/seed.iso"
	if err := os.WriteFile(name, write(t, files), 0o644); err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, c := range []struct{ command, want string }{
		{"blkid -p -o export " + name, "LABEL=cidata"},
		{"blkid -p -o export " + name, "TYPE=iso9660"},
		{"bsdtar -tf " + name, "user-data"},
		{"bsdtar -xOf " + name + " meta-data", "instance-id: x\n"},
		{"isoinfo -R -l -i " + name, "user-data"},
		{"isoinfo -R -x /user-data -i " + name, string(files[1].Data)},
	} {
		args := strings.Fields(c.command)
		bin, err := exec.LookPath(args[0])
		if err != nil {
			if bin, err = exec.LookPath("/usr/sbin/" + args[0]); err != nil {
				continue
			}
		}
		read++
		if out, err := exec.Command(bin, args[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v: %q is missing from\n%s", c.command, err, c.want, out)
		}
	}
	if read == 0 {
		t.Skip("neither blkid, bsdtar nor isoinfo is installed")
	}
}

// The file system is whole sectors, the same each time; names that can't be are refused.
func TestWrite(t *testing.T) {
	a := write(t, files)
	if len(a)%sector != 0 || !bytes.Equal(a, write(t, files)) {
		t.Errorf("%d bytes, or they differ", len(a))
	}
	if !bytes.Equal(a[(firstFile)*sector:][:15], files[0].Data) {
		t.Error("the first file is not where its record says")
	}
	for _, bad := range []string{"", "a/b", "a\x00", strings.Repeat("x", 101)} {
		if err := Write(&bytes.Buffer{}, "cidata", time.Unix(0, 0), []File{{bad, nil}}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
