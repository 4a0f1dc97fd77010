// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tandem": func() { os.Exit(Main(os.Args[1:])) }})
}

// Commands as people type them: output, message, remedy and exit code, in
// testdata/*.txt, each of which opens with why.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			for _, dir := range []string{"store", "home", "cache"} {
				if err := os.MkdirAll(e.WorkDir+"/"+dir, 0o755); err != nil {
					return err
				}
			}
			e.Setenv("TANDEM_IMAGES", e.WorkDir+"/store")
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": exitCode, "blob": blob},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
	})
}

// exitCode runs a command that must end with a code: exit 2 tandem run.
func exitCode(s *testscript.TestScript, _ bool, a []string) {
	want, err := strconv.Atoi(a[0])
	s.Check(err)
	err = s.Exec(a[1], a[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); err != nil {
		if got = -1; !asExit(err, &exit) {
			s.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		s.Fatalf("exit code %d, want %d", got, want)
	}
}

func asExit(err error, to **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*to = e
	return ok
}

// blob writes a file of N bytes that a kernel could be.
func blob(s *testscript.TestScript, _ bool, a []string) {
	n, err := strconv.Atoi(a[1])
	s.Check(err)
	b := linuxImage(max(n, 64))
	binary.LittleEndian.PutUint64(b[16:], uint64(len(b)))
	s.Check(os.WriteFile(s.MkAbs(a[0]), b, 0o644))
}
