// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The rows are the programs of main.c, in its order, and docs/PERFORMANCE.md
// says of each what it measures.
func TestPrograms(t *testing.T) {
	source, err := sources.ReadFile("programs/main.c")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\t\{"(\w+)", `).FindAllSubmatch(source, -1) {
		names = append(names, string(m[1]))
	}
	if !slices.Equal(names, programs) {
		t.Errorf("main.c has %v", names)
	}
	doc, err := os.ReadFile("../docs/PERFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{bootRow}, programs...) {
		if !strings.Contains(string(doc), "| `"+name+"` |") {
			t.Errorf("docs/PERFORMANCE.md does not explain %s", name)
		}
	}
}

// gzip.c and Go's gzip read each other's files: all block types, codes of all
// lengths, matches at the edges of window and length.
func TestGzip(t *testing.T) {
	if _, err := exec.LookPath(hostCompiler.name); err != nil {
		t.Skip(err)
	}
	filter := filepath.Join(t.TempDir(), "filter")
	out, err := exec.Command(hostCompiler.name, "-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error",
		"-Iprograms", "testdata/filter.c", "programs/gzip.c", "-o", filter).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(filter, args...)
		var diag bytes.Buffer
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &diag
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, &diag)
		}
		return out
	}
	for name, text := range texts() {
		t.Run(name, func(t *testing.T) {
			for _, searches := range []string{"0", "32"} { // without matches, and with
				packed := run(text, searches)
				r, err := gzip.NewReader(bytes.NewReader(packed))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
					t.Errorf("Go reads %d bytes of %d from our file: %v", len(got), len(text), err)
				}
				if got := run(packed, "expand"); !bytes.Equal(got, text) {
					t.Errorf("we read %d bytes of %d from our file", len(got), len(text))
				}
			}
			for _, level := range []int{gzip.NoCompression, gzip.HuffmanOnly, gzip.BestSpeed, gzip.BestCompression} {
				var b bytes.Buffer
				w, _ := gzip.NewWriterLevel(&b, level)
				w.Write(text)
				w.Close()
				if got := run(b.Bytes(), "expand"); !bytes.Equal(got, text) {
					t.Errorf("level %d: we read %d bytes of %d from Go's file", level, len(got), len(text))
				}
			}
		})
	}
}

func texts() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var words, skewed, deep bytes.Buffer
	for range 30_000 {
		fmt.Fprintf(&words, "word%d ", r.IntN(1+r.IntN(5000)))
	}
	// Fibonacci's frequencies, with the end's 1, make a tree of more than 15 levels.
	for a, b, i := 1, 2, byte(0); i < 20; a, b, i = b, a+b, i+1 {
		skewed.Write(bytes.Repeat([]byte{i}, a))
	}
	// So many codes of each length that the tree of the lengths has more than 7.
	symbol := byte(0)
	for i, n := range []int{1, 6, 4, 34, 56, 89, 21, 14, 7} {
		for range n {
			deep.Write(bytes.Repeat([]byte{symbol}, 1<<(8-i)))
			symbol++
		}
	}
	return map[string][]byte{
		"empty": nil, "byte": []byte("x"), "three": []byte("xyz"), "run": bytes.Repeat([]byte("a"), 100_000),
		"noise": noise, "noise twice": slices.Concat(noise[:32768], noise[:32768], noise[:40000], noise[:40000]),
		"words": words.Bytes(), "skewed": skewed.Bytes(), "deep": deep.Bytes(), "alphabet": bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 1000),
	}
}
