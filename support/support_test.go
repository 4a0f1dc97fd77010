// SPDX-License-Identifier: Apache-2.0

package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unpack reads a bundle.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil || h.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", h.Name, h.Mode, err)
		}
		files[h.Name] = string(text)
	}
}

// A planted secret, x1y2z3, in each form that one has in what we read. What is around it
// stays, as far as it says what was there.
func TestRedact(t *testing.T) {
	b := New(io.Discard, "b", time.Now())
	for _, c := range []struct{ in, keeps string }{
		{"-----BEGIN PRIVATE KEY-----\nx1y2z3\nx1y2z3==\n-----END PRIVATE KEY-----\nafter", "after"},
		{"before -----BEGIN OPENSSH PRIVATE KEY-----\nx1y2z3\n", "before"},
		{"x1y2z3\nx1y2z3\n-----END EC PRIVATE KEY-----\nafter", "after"},
		{`{"pem":"-----BEGIN CERTIFICATE-----\nx1y2z3\n-----END CERTIFICATE-----\n","epoch":1}`, `"epoch":1`},
		{`{"ca":"LS0tLS1CRUdJTiBx1y2z3=","n":1}`, `"n":1`},
		{"join with tandem1.eyJx1y2z3 now", "now"},
		{"who is tandem-api.k3vq.X1x1y2z3? nobody", "nobody"},
		{"pushed with ghp_x1y2z3x1y2z3 ok", "ok"},
		{"root:$6$salt$x1y2z3:19000", ":19000"},
		{"Authorization: Bearer x1y2z3", "Authorization"},
		{`curl -H 'authorization: Basic x1y2z3' host`, "host"},
		{"sent bearer x1y2z3x1y2z3", "sent"},
		{"fetch https://ada:x1y2z3@mirror.example/debian/ failed", "mirror.example/debian/ failed"},
		{"nbd://x1y2z3@10.0.0.9/web", "@10.0.0.9/web"},
		{"PGPASSWORD=x1y2z3 psql", "psql"},
		{"OPTIONS=\"--password x1y2z3 --listen 10.0.0.9\"", "--listen 10.0.0.9"},
		{`cmd="tandem witness --token x1y2z3 --name w"`, "--name w"},
		{`["--api-token", "x1y2z3", "--name"]`, `"--name"`},
		{`{"password": "x1y2z3", "epoch": 3}`, `"epoch": 3`},
		{`{"password": "quote \" x1y2z3", "epoch": 3}`, `"epoch": 3`},
		{`{"tokens": ["x1y2z3", "x1y2z3"], "epoch": 3}`, `"epoch": 3`},
		{`{"secret": {"a": "x1y2z3", "b": 1}, "epoch": 3}`, `"epoch": 3`},
		{`{"token": 4711, "epoch": 3}`, `, "epoch": 3}`},
		{`{"text":"{\"token\":\"x1y2z3\",\"epoch\":3}"}`, `\"epoch\":3}"}`},
		{`{"text":"wrong password: x1y2z3 or so","epoch":3}`, `,"epoch":3}`},
		{"password: correct x1y2z3 battery\nnext: 1", "next: 1"},
		{"passphrase = correct x1y2z3\nnext", "next"},
		{"password: it's x1y2z3\nnext", "next"},
		{"password: |\n  x1y2z3\n  x1y2z3\nnext: 1", "next: 1"},
		{"user-data: |\n  #cloud-config\n  chpasswd: {list: 'ada:x1y2z3'}\nnext: 1", "next: 1"},
		{`level=INFO msg=joined secret="a x1y2z3 b" node=a`, "node=a"},
		{"DB_PASSWD='a x1y2z3' next", "next"},
		{"rootpw=x1y2z3 ip=dhcp", "ip=dhcp"},
		{"password=[x1y2z3 next", "next"},
		{"http://h/?a=1&token=x1y2z3 next", "a=1"},
		{"aws_secret_access_key = x1y2z3", "aws_secret"},
		{`{"key":"x1y2z3","n":1}`, `"n":1`},
		{`{"client_key": "x1y2z3"}`, "client_key"},
		{"key: x1y2z3", "key"},
		{`{"append":"console=ttyS0 x=x1y2z3 root=/dev/vda","cpus":1}`, `"console=ttyS0 x=[secret-`},
		{`{"append":"x=\"x1 x1y2z3\" ro","cpus":1}`, `"cpus":1`},
		{`{"text":"{\"append\":\"x=x1y2z3 ro\",\"n\":1}"}`, `\"n\":1}"}`},
		{`Cookie: __Host-tandem=x1y2z3`, "Cookie"},
	} {
		got := string(b.redact([]byte(c.in)))
		if strings.Contains(got, "x1y2z3") || strings.Contains(got, "4711") || !strings.Contains(got, c.keeps) || !strings.Contains(got, "[secret-") {
			t.Errorf("%q\nbecame %q, which should keep %q", c.in, got, c.keeps)
		}
		if json.Valid([]byte(c.in)) && !json.Valid([]byte(got)) {
			t.Errorf("%q became %q, which is no JSON", c.in, got)
		}
		if again := string(b.redact([]byte(got))); again != got {
			t.Errorf("%q became %q, then %q", c.in, got, again)
		}
	}
}

// What is no secret stays as it is, or nobody could find a fault by it.
func TestKeeps(t *testing.T) {
	b := New(io.Discard, "b", time.Now())
	for _, text := range []string{
		`{"etcd_key": "/etc/tandem/client.key", "etcd_ca": "/etc/tandem/ca.pem"}`,
		`{"append": "console=ttyS0 root=/dev/vda ro quiet"}`,
		`{"disks": ["nbd://10.0.0.9:10809/web"], "network": "switch:10.0.0.9:7077"}`,
		`time=2026-01-02T03:04:05Z level=INFO msg="the copy on b is the VM now, from step 12" vm=web kind=live epoch=2`,
		`tandem_log_sent_bytes_total{vm="web"} 1.5e+06`,
		"MemTotal:       16303424 kB\nPageTables: 1 kB",
		`{"text": "Protected → Solo: the channel was reset", "from": "Protected"}`,
		`ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ada`,
		`"key":"/tandem/vms/web"`,
	} {
		if got := string(b.redact([]byte(text))); got != text {
			t.Errorf("%q\nbecame %q", text, got)
		}
	}
}

// Equal secrets of one bundle look equal, others don't, and another bundle tells nothing
// of them.
func TestStand(t *testing.T) {
	b := New(io.Discard, "b", time.Now())
	one, two := b.stand([]byte("one")), b.stand([]byte("two"))
	if one == two || one != b.stand([]byte("one")) || one == New(io.Discard, "b", time.Now()).stand([]byte("one")) {
		t.Error(one, two)
	}
}

// Of a long file the end is kept, from the beginning of a line; a key that begins before
// that is still known for one; links are not followed; what does not fit is named.
func TestBounds(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	line := strings.Repeat("a", 99) + "\n"
	long := write("long", strings.Repeat(line, 3*MaxFile/100)+"the end\n")
	pem := write("pem", strings.Repeat(line, 10000)+"-----BEGIN RSA PRIVATE KEY-----\n"+strings.Repeat("x1y2z3\n", 1000)+"-----END RSA PRIVATE KEY-----\n"+
		strings.Repeat(line, (MaxFile-3000)/100))
	cut := write("cut", "password=x1y2z3\n"+strings.Repeat("b", 2*MaxFile)+"\nend\n")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(long, link); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := New(&out, "b", time.Now())
	b.AddFile("long", long)
	b.AddFile("pem", pem)
	b.AddFile("cut", cut)
	b.AddFile("link", link)
	b.AddFile("none", filepath.Join(dir, "none"))
	b.AddFile("version", "/proc/version")
	b.Lack("asked", errors.New("refused token=x1y2z3"))
	for i := range MaxTotal/MaxFile + 1 {
		b.Add(fmt.Sprint("filler/", i), bytes.Repeat([]byte(line), MaxFile/100))
	}
	index, err := b.Close()
	if err != nil {
		t.Fatal(err)
	}
	files, total := unpack(t, out.Bytes()), 0
	for name, text := range files {
		if total += len(text); strings.Contains(text, "x1y2z3") {
			t.Errorf("%s holds the secret", name)
		}
		if name != "b/index.json" && len(text) > MaxFile {
			t.Errorf("%s has %d bytes", name, len(text))
		}
	}
	if total > MaxTotal+1<<20 {
		t.Errorf("%d bytes in all", total)
	}
	if s := files["b/long"]; !strings.HasPrefix(s, line) || !strings.HasSuffix(s, line+"the end\n") || len(s) < MaxFile-100 {
		t.Errorf("long: %d bytes", len(s))
	}
	if s := files["b/pem"]; !strings.Contains(s, "[secret-") || !strings.HasSuffix(s, line) {
		t.Errorf("pem: %.200q", s)
	}
	if files["b/cut"] != "end\n" || !strings.Contains(files["b/version"], "Linux") {
		t.Errorf("cut: %.100q, version %q", files["b/cut"], files["b/version"])
	}
	var told Index
	if err := json.Unmarshal([]byte(files["b/index.json"]), &told); err != nil || len(told.Files) != len(files)-1 {
		t.Errorf("%d files in the index, %d there; %v", len(told.Files), len(files)-1, err)
	}
	lacks := map[string]string{}
	for _, m := range index.Missing {
		lacks[m.Name] = m.Why
	}
	for name, want := range map[string]string{"link": "symbolic links", "none": "no such file", "asked": "refused", "filler/16": "full"} {
		if !strings.Contains(lacks[name], want) {
			t.Errorf("%s: %q, want %q", name, lacks[name], want)
		}
	}
	if st, _ := os.Stat(long); index.Files[0].Cut+int64(index.Files[0].Bytes) != st.Size() {
		t.Errorf("of %d bytes: %+v", st.Size(), index.Files[0])
	}
}

// Whatever a text is, redaction ends, takes a planted password out, and changes nothing
// the second time.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{"", `"a\"`, "-----BEGIN X-----", "password=", `{"key": `, "token: |\n  a", "\xff", `\\\"token\\\": \\\"`, "[secret-00000000]"} {
		f.Add([]byte(s))
	}
	b := New(io.Discard, "b", time.Now())
	f.Fuzz(func(t *testing.T, text []byte) {
		text = append(bytes.ToValidUTF8(text, []byte("?")), "\npassword=x1y2z3x1y2z3\n"...)
		if got := b.redact(text); bytes.Contains(got, []byte("x1y2z3x1y2z3")) {
			t.Errorf("%q became %q", text, got)
		}
	})
}
