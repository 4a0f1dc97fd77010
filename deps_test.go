// SPDX-License-Identifier: Apache-2.0

// The tests of the tree as a whole.
package tandem_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pkg is a package's own files, tests left out.
type pkg struct {
	files   []*ast.File
	names   []string
	imports map[string]bool
}

// load parses every package of the module.
func load(t *testing.T) map[string]*pkg {
	t.Helper()
	pkgs := map[string]*pkg{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		p := pkgs[dir]
		if p == nil {
			p = &pkg{imports: map[string]bool{}}
			pkgs[dir] = p
		}
		p.files, p.names = append(p.files, f), append(p.names, path)
		for _, i := range f.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			p.imports[name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// policy reads deps.txt: package, colon, the packages of ours that it imports.
func policy(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	for in := bufio.NewScanner(bytes.NewReader(b)); in.Scan(); {
		line, _, _ := strings.Cut(in.Text(), "#")
		name, list, ok := strings.Cut(line, ":")
		if ok {
			rules[strings.TrimSpace(name)] = strings.Fields(list)
		}
	}
	return rules
}

// deps.txt is equal to the imports, both ways.
func TestDeps(t *testing.T) {
	pkgs, rules := load(t), policy(t)
	for name, p := range pkgs {
		var got []string
		for i := range p.imports {
			if ours, ok := strings.CutPrefix(i, "tandem/"); ok {
				got = append(got, ours)
			}
		}
		want, ok := rules[name]
		slices.Sort(got)
		slices.Sort(want)
		if !ok || !slices.Equal(got, want) {
			t.Errorf("deps.txt should say\n\t%s: %s\nit says\n\t%s: %s", name, strings.Join(got, " "), name, strings.Join(want, " "))
		}
	}
	for name := range rules {
		if pkgs[name] == nil {
			t.Errorf("deps.txt names %s, which is no package", name)
		}
	}
}

// ARCHITECTURE.md names each package in its table, and no other.
func TestArchitecture(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	pkgs, named := load(t), map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		for _, name := range strings.Split(cells[1], ",") {
			name = strings.Trim(name, " `")
			named[name] = true
			if pkgs[name] == nil {
				t.Errorf("%s is no package", name)
			} else if says := strings.TrimSpace(cells[3]) == "pure"; says != pure(name) {
				t.Errorf("%s: is it pure? the table says %v, TestPurity %v", name, says, pure(name))
			}
		}
	}
	for name := range pkgs {
		if !named[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// pure says whether a package must depend on nothing but its arguments.
func pure(name string) bool {
	for _, root := range []string{"machine", "replay", "ft", "migrate", "vswitch", "cluster", "world", "sim"} {
		if name == root || strings.HasPrefix(name, root+"/") {
			return !strings.HasSuffix(name, "test")
		}
	}
	return false
}

var impure = []string{"time", "net", "os", "sync", "syscall", "runtime", "math/rand", "math/rand/v2", "crypto/rand", "golang.org/x/sys"}

// Pure packages import nothing of the real world, start no goroutine and range
// over no map.
func TestPurity(t *testing.T) {
	for name, p := range load(t) {
		if !pure(name) {
			continue
		}
		for i := range p.imports {
			for _, bad := range impure {
				if i == bad || strings.HasPrefix(i, bad+"/") {
					t.Errorf("%s is pure and imports %s", name, i)
				}
			}
		}
		maps := mapNames(p)
		for n, f := range p.files {
			ast.Inspect(f, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.GoStmt:
					t.Errorf("%s is pure and starts a goroutine", p.names[n])
				case *ast.RangeStmt:
					if maps[lastName(node.X)] {
						t.Errorf("%s is pure and ranges over the map %s", p.names[n], lastName(node.X))
					}
				}
				return true
			})
		}
	}
}

// mapNames are the variables and fields of a package that are declared as maps.
func mapNames(p *pkg) map[string]bool {
	names := map[string]bool{}
	for _, f := range p.files {
		ast.Inspect(f, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.Field:
				if _, ok := node.Type.(*ast.MapType); ok {
					for _, n := range node.Names {
						names[n.Name] = true
					}
				}
			case *ast.ValueSpec:
				if _, ok := node.Type.(*ast.MapType); ok {
					for _, n := range node.Names {
						names[n.Name] = true
					}
				}
				for i, v := range node.Values {
					if isMap(v) && i < len(node.Names) {
						names[node.Names[i].Name] = true
					}
				}
			case *ast.AssignStmt:
				for i, v := range node.Rhs {
					if isMap(v) && i < len(node.Lhs) {
						names[lastName(node.Lhs[i])] = true
					}
				}
			}
			return true
		})
	}
	return names
}

// isMap recognises map[K]V{…} and make(map[K]V).
func isMap(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CompositeLit:
		_, ok := e.Type.(*ast.MapType)
		return ok
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.Ident); ok && f.Name == "make" && len(e.Args) > 0 {
			_, ok := e.Args[0].(*ast.MapType)
			return ok
		}
	}
	return false
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// unsafe is imported by *_unsafe.go files only, and every file begins with its licence.
func TestFiles(t *testing.T) {
	for _, p := range load(t) {
		for n, f := range p.files {
			for _, i := range f.Imports {
				if i.Path.Value == `"unsafe"` && !strings.HasSuffix(p.names[n], "_unsafe.go") {
					t.Errorf("%s imports unsafe", p.names[n])
				}
			}
			b, err := os.ReadFile(p.names[n])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(b, []byte("// SPDX-License-Identifier: Apache-2.0\n")) {
				t.Errorf("%s has no SPDX line", p.names[n])
			}
		}
	}
}
