// SPDX-License-Identifier: Apache-2.0

package part

import (
	"bytes"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const diskSize = 8 << 20

// sfdisk writes a table into an empty disk, or skips the test.
func sfdisk(t testing.TB, script string) []byte {
	t.Helper()
	name := t.TempDir() + "/disk"
	if err := os.WriteFile(name, make([]byte, diskSize), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := "sfdisk"
	if _, err := exec.LookPath(bin); err != nil {
		bin = "/usr/sbin/sfdisk"
	}
	cmd := exec.Command(bin, "-q", name)
	cmd.Stdin = strings.NewReader(script)
	if b, err := cmd.CombinedOutput(); errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		t.Skip("sfdisk is not installed")
	} else if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const gptScript = `label: gpt
15: start=2048, size=1024, type=uefi, name=ESP
1: start=4096, size=2048, type=linux, uuid=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="röot"
`

// What sfdisk wrote is read back: numbers, places, identifiers, names, types.
func TestReadsGPT(t *testing.T) {
	list, err := Read(bytes.NewReader(sfdisk(t, gptScript)), diskSize)
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	root := Partition{Number: 1, Start: 4096 * 512, Size: 2048 * 512, ID: "0fc63daf-8483-4772-8e79-3d69d8477de4", Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", Name: "röot"}
	if list[0] != root {
		t.Errorf("%+v", list[0])
	}
	if e := list[1]; e.Number != 15 || e.Type != ESP || e.Name != "ESP" {
		t.Errorf("%+v", e)
	}
}

// Where the first copy is damaged the one at the disk's end serves; with both
// damaged the error says so.
func TestBackupTable(t *testing.T) {
	b := sfdisk(t, gptScript)
	b[512+60] ^= 1
	list, err := Read(bytes.NewReader(b), diskSize)
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	b[diskSize-512+60] ^= 1
	if _, err := Read(bytes.NewReader(b), diskSize); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("both damaged: %v", err)
	}
}

// An MBR's partitions have Linux's names for them; a disk without a table, or with
// a file system's boot sector, has none.
func TestReadsMBR(t *testing.T) {
	list, err := Read(bytes.NewReader(sfdisk(t, "label: dos\nlabel-id: 0x12345678\n1: start=2048, size=1024, type=83, bootable\n")), diskSize)
	want := Partition{Number: 1, Start: 2048 * 512, Size: 1024 * 512, ID: "12345678-01", Type: "83", BIOSBootable: true}
	if err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("%+v, %v", list, err)
	}
	boot := make([]byte, diskSize)
	boot[510], boot[511] = 0x55, 0xaa
	for _, b := range [][]byte{nil, make([]byte, diskSize), boot} {
		if list, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrNone) {
			t.Errorf("%d bytes: %+v, %v", len(b), list, err)
		}
	}
}

// Whatever a disk says: no panic, and partitions inside the disk.
func FuzzRead(f *testing.F) {
	b := make([]byte, 64<<10)
	b[510], b[511], b[450], b[454], b[458] = 0x55, 0xaa, 0xee, 1, 1
	copy(b[512:], "EFI PART")
	b[512+12], b[512+72], b[512+80], b[512+84] = 92, 2, 4, 128
	copy(b[1024:], bytes.Repeat([]byte{1}, 128))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 1024+512 { // checksums would hide all that comes after them
			le.PutUint32(b[512+88:], crc32.ChecksumIEEE(b[1024:1024+512]))
			clear(b[512+16 : 512+20])
			le.PutUint32(b[512+16:], crc32.ChecksumIEEE(b[512:512+92]))
		}
		list, _ := Read(bytes.NewReader(b), int64(len(b)))
		for _, p := range list {
			if p.Start < 0 || p.Size <= 0 || p.Type != "ee" && p.Start+p.Size > int64(len(b)) {
				t.Errorf("%+v of %d", p, len(b))
			}
		}
	})
}
