// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPlain shows that what a replica might leave for its daemon to stumble over is
// refused at once: links, pipes, folders.
func TestPlain(t *testing.T) {
	dir := t.TempDir()
	at := func(s string) string { return filepath.Join(dir, s) }
	for _, err := range []error{os.WriteFile(at("file"), []byte("word"), 0o600), os.Symlink(at("file"), at("link")),
		unix.Mkfifo(at("pipe"), 0o600), os.Mkdir(at("folder"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b, err := ReadPlain(at("file"), 3); err != nil || string(b) != "wor" {
		t.Errorf("%q %v", b, err)
	}
	for _, name := range []string{"link", "pipe", "folder", "none"} {
		if b, err := ReadPlain(at(name), 3); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
}
