// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const ram = 4 << 20

// assemble links testdata/name at the start of RAM.
func assemble(t *testing.T, name string) []byte {
	t.Helper()
	gcc, err := exec.LookPath("riscv64-linux-gnu-gcc")
	if err != nil {
		t.Fatal("riscv64-linux-gnu-gcc is not installed: apt install gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu")
	}
	source, path := filepath.Join("testdata", name), filepath.Join(t.TempDir(), "program")
	if _, err := os.ReadFile(source); err != nil { // so that go test sees what the result depends on
		t.Fatal(err)
	}
	out, err := exec.Command(gcc, "-nostdlib", "-static", "-fno-pic", "-no-pie", "-mcmodel=medany",
		"-Wl,--build-id=none,--no-relax,--no-warn-rwx-segments,-N,-Ttext=0x80000000", "-o", path, source).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// A bare-metal program talks to the host by tohost: it prints, calls, leaves a
// signature and ends with the number of the failed test.
func TestRunELF(t *testing.T) {
	r, err := RunELF(ram, assemble(t, "host.S"), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != 7 || string(r.Console) != "ok\nok\n" {
		t.Errorf("code %d, console %q", r.Code, r.Console)
	}
	if sig := hex.EncodeToString(r.Signature); sig != "03000000000000008877665544332211" {
		t.Errorf("signature %s", sig)
	}
}

// A program that does not end in its steps is reported as such.
func TestRunELFUnfinished(t *testing.T) {
	if _, err := RunELF(ram, assemble(t, "host.S"), 50); !errors.Is(err, ErrUnfinished) {
		t.Errorf("error %v, want %v", err, ErrUnfinished)
	}
}
