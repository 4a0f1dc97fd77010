// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func folder(t *testing.T) (string, *CA) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	ca, err := NewCA("vm web")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := ca.SavePair(dir, "a"); err != nil {
		t.Fatal(err)
	}
	return dir, ca
}

// What was saved loads again, and certificates of the loaded CA are of the saved one.
func TestSaveLoad(t *testing.T) {
	dir, ca := folder(t)
	again, err := LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := again.Pair("b")
	if err != nil {
		t.Fatal(err)
	}
	_, pool, err := Load(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []*x509.CertPool{pool, ca.Pool()} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: p, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("pool %d: %v", i, err)
			}
		}
	}
	for _, name := range []string{"ca.key", "a.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

// A leaf can't issue certificates: the CA's word is the only one.
func TestLeafIsNoCA(t *testing.T) {
	_, ca := folder(t)
	cert, key, err := ca.Issue("mallory")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "ca.pem"), cert, 0o600)
	os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600)
	if _, err := LoadCA(dir); err == nil || !strings.Contains(err.Error(), "no CA") {
		t.Error(err)
	}
}

// Each way in which files can be wrong has an error that names file and remedy.
func TestErrors(t *testing.T) {
	stranger, err := NewCA("vm mail")
	if err != nil {
		t.Fatal(err)
	}
	foreign, foreignKey, err := stranger.Issue("a")
	if err != nil {
		t.Fatal(err)
	}
	put := func(dir, name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(dir string, ca *CA)
		want  []string
	}{
		{"no CA", func(dir string, _ *CA) { os.Remove(filepath.Join(dir, "ca.pem")) }, []string{"ca.pem is missing", "copy it"}},
		{"no certificate", func(dir string, _ *CA) { os.Remove(filepath.Join(dir, "a.pem")) }, []string{"a.pem is missing", "issue one"}},
		{"no key", func(dir string, _ *CA) { os.Remove(filepath.Join(dir, "a.key")) }, []string{"a.key is missing", "issue one"}},
		{"key of another", func(dir string, _ *CA) { put(dir, "a.key", foreignKey) }, []string{"don't belong together", "issue one"}},
		{"CA damaged", func(dir string, _ *CA) { put(dir, "ca.pem", []byte("hello")) }, []string{"ca.pem holds no certificate", "copy it"}},
		{"of another CA", func(dir string, _ *CA) { put(dir, "a.pem", foreign); put(dir, "a.key", foreignKey) },
			[]string{"a.pem is not issued by the CA", "issue it again"}},
		{"expired", func(dir string, ca *CA) {
			ca.cert.NotAfter = time.Now().Add(time.Millisecond)
			cert, key, err := ca.Issue("a")
			if err != nil {
				t.Fatal(err)
			}
			put(dir, "a.pem", cert)
			put(dir, "a.key", key)
			time.Sleep(1100 * time.Millisecond) // certificates count seconds
		}, []string{"a.pem expired on", "issue one"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, ca := folder(t)
			c.spoil(dir, ca)
			_, _, err := Load(dir, "a")
			if err == nil {
				t.Fatal("it loads")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoesn't say %q", err, w)
				}
			}
		})
	}
}

// Nothing that exists is replaced, and names can't lead out of the folder.
func TestSaveKeeps(t *testing.T) {
	dir, ca := folder(t)
	before, _ := os.ReadFile(filepath.Join(dir, "ca.key"))
	other, _ := NewCA("other")
	if err := other.Save(dir); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Error(err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "ca.key")); string(after) != string(before) {
		t.Error("the key was replaced")
	}
	for _, name := range []string{"ca", "", "..", "../x", ".x", "a/b"} {
		if err := ca.SavePair(dir, name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}
