// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"tandem/host/certs"
	"tandem/host/link"
)

// authority makes a folder with the certificates of one VM.
func authority(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	ca, err := certs.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := ca.SavePair(dir, certs.Replica); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A backup whose certificate is another VM's is refused, says so and ends.
func TestWrongCertificate(t *testing.T) {
	cert, pool, err := certs.Load(authority(t, "ours"), certs.Replica)
	if err != nil {
		t.Fatal(err)
	}
	primary, err := link.Listen("127.0.0.1:0", link.Config{Certificate: cert, Peers: pool}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	out, diag, code := tandem(t, "replica", "backup", "--name", "vm", "--dial", primary.Addr().String(),
		"--tls", authority(t, "theirs"), "--arbiter", t.TempDir(), "--events", filepath.Join(t.TempDir(), "events"), "--network", "none", "--image", guest(t))
	if code != 1 || !strings.Contains(diag, "certificate") || strings.Count(strings.TrimSpace(diag), "\n") != 0 {
		t.Errorf("exit code %d: %s%s", code, out, diag)
	}
}
