// SPDX-License-Identifier: Apache-2.0

// Mutants shows that the tests can fail. It plants known bugs, one at a time, and runs
// the test that must find each:
//
//	go run ./mutants [-run REGEXP] [-list]
//
// A mutant is a replacement of text in one source file, which must be there exactly
// once. The tree is not touched: the file with the bug goes to the compiler by
// go test -overlay. A mutant that survives its test, or doesn't compile, is a failure.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mutant is a planted bug, and who must find it.
type mutant struct {
	bug      string
	file     string
	old, new string
	pkg      string
	run      string // regular expression of tests
	args     string // behind -args
}

const timeout = 10 * time.Minute // for one test; a caught mutant is much faster

func main() {
	run := flag.String("run", "", "only mutants whose words match")
	list := flag.Bool("list", false, "print the table")
	flag.Parse()
	only, err := regexp.Compile(*run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	caught, total := 0, 0
	for _, m := range mutants {
		if !only.MatchString(m.bug) {
			continue
		}
		total++
		began := time.Now()
		verdict, ok := "", true
		if !*list {
			verdict, ok = m.hunt()
		}
		if ok {
			caught++
		}
		fmt.Printf("%-8s %5.1f s  %-66s %s %s %s\n", verdict, time.Since(began).Seconds(), m.bug, m.pkg, m.run, m.args)
	}
	fmt.Printf("%d of %d caught\n", caught, total)
	if caught < total || total == 0 {
		os.Exit(1)
	}
}

// hunt runs the test against the mutant.
func (m mutant) hunt() (verdict string, caught bool) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return err.Error(), false
	}
	defer os.RemoveAll(dir)
	overlay, err := m.overlay(dir)
	if err != nil {
		return err.Error(), false
	}
	if out, err := m.test(overlay, "-run", "^$"); err != nil {
		return "BROKEN\n" + string(out), false // it must not be caught by the compiler
	}
	args := []string{"-failfast", "-run", m.run}
	if m.args != "" {
		args = append(append(args, "-args"), strings.Fields(m.args)...)
	}
	out, err := m.test(overlay, args...)
	var exit *exec.ExitError
	switch {
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return "NO TEST", false
	case err == nil:
		return "SURVIVES", false
	case !errors.As(err, &exit):
		return err.Error(), false
	}
	return "caught", true
}

func (m mutant) test(overlay string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	args = append([]string{"test", "-vet=off", "-count=1", "-overlay", overlay, m.pkg}, args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "GOGC=800") // clusters make much garbage
	return cmd.CombinedOutput()
}

// overlay writes the mutant and what tells the go command of it.
func (m mutant) overlay(dir string) (string, error) {
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return "", fmt.Errorf("%s has %d times what is to be replaced: say it anew in mutants/table.go:\n%s", m.file, n, m.old)
	}
	bad, list := filepath.Join(dir, filepath.Base(path)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(bad, []byte(strings.Replace(string(b), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	b, err = json.Marshal(map[string]any{"Replace": map[string]string{path: bad}})
	if err != nil {
		return "", err
	}
	return list, os.WriteFile(list, b, 0o600)
}
