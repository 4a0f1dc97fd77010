// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Store is the folder of the images that have a name: one folder each.
type Store struct{ Dir string }

// StoreVar names the environment variable that gives a store.
const StoreVar = "TANDEM_IMAGES"

// DefaultStore is $TANDEM_IMAGES, /var/lib/tandem/images for root, and below the
// user's data folder (XDG) for others.
func DefaultStore() (Store, error) {
	if dir := os.Getenv(StoreVar); dir != "" {
		dir, err := filepath.Abs(dir)
		return Store{dir}, err
	}
	if os.Geteuid() == 0 {
		return Store{"/var/lib/tandem/images"}, nil
	}
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) { // the specification: relative ones are ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return Store{}, fmt.Errorf("no folder for images: %w; set %s", err, StoreVar)
		}
		data = filepath.Join(home, ".local", "share")
	}
	return Store{filepath.Join(data, "tandem", "images")}, nil
}

var imageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// Folder is where the image called arg is or would be: a path, known by its
// slash, is itself; anything else is a name in the store.
func (s Store) Folder(arg string) (string, error) {
	if isPath(arg) {
		return arg, nil
	}
	if !imageName.MatchString(arg) {
		return "", fmt.Errorf("image name %q: use letters, digits, dots and hyphens, at most 63, or give a path with a slash", arg)
	}
	return filepath.Join(s.Dir, arg), nil
}

func isPath(arg string) bool {
	return strings.ContainsRune(arg, filepath.Separator) || arg == "." || arg == ".."
}

// Open opens an image by its name or path.
func (s Store) Open(arg string) (*Image, error) { return s.open(arg, Open) }

// OpenBoot is OpenBoot by name or path.
func (s Store) OpenBoot(arg string) (*Image, error) { return s.open(arg, OpenBoot) }

func (s Store) open(arg string, open func(dir string) (*Image, error)) (*Image, error) {
	dir, err := s.Folder(arg)
	if err != nil {
		return nil, err
	}
	if !isPath(arg) {
		if err := s.has(arg); err != nil {
			return nil, err
		}
	}
	return open(dir)
}

// has reports a name that the store lacks, with what was perhaps meant.
func (s Store) has(name string) error {
	_, err := os.Stat(filepath.Join(s.Dir, name))
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(name, manifestName)); err == nil {
		return fmt.Errorf("no image is called %s, but there is a folder: write ./%s", name, name)
	}
	names := s.Names()
	if len(names) == 0 {
		return fmt.Errorf("no image is called %s: make one with tandem image build, pull or import", name)
	}
	if near := Nearest(name, names); near != "" {
		return fmt.Errorf("no image is called %s: did you mean %s? See tandem image list", name, near)
	}
	return fmt.Errorf("no image is called %s: see tandem image list, or make one with tandem image build, pull or import", name)
}

// Names are the names of all images, sorted.
func (s Store) Names() (names []string) {
	entries, _ := os.ReadDir(s.Dir) // none, or not for this user: no names
	for _, e := range entries {
		if e.IsDir() && imageName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// Entry is an image of the store, as a list shows it.
type Entry struct {
	Name    string    `json:"name"`
	Dir     string    `json:"dir"`
	Kind    Kind      `json:"kind,omitempty"`
	Source  string    `json:"source,omitempty"`  // what it was made of
	Disk    int64     `json:"disk_size"`         // bytes that the guest sees
	Used    int64     `json:"used"`              // bytes that the folder takes on this host's disk
	Made    time.Time `json:"made,omitzero"`     // on this host
	Problem string    `json:"problem,omitempty"` // why it can't be used
}

// List looks at all images, without reading their disks.
func (s Store) List() ([]Entry, error) {
	if _, err := os.ReadDir(s.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("image store: %w: set %s to a folder that can be read", err, StoreVar)
	}
	list := []Entry{}
	for _, name := range s.Names() {
		e := Entry{Name: name, Dir: filepath.Join(s.Dir, name)}
		e.Used, _ = folderUse(e.Dir)
		m, err := readManifest(e.Dir)
		if err != nil {
			e.Problem = err.Error()
		} else {
			e.Kind, e.Source, e.Disk = m.Kind, m.describe(), m.DiskSize
		}
		if st, err := os.Stat(filepath.Join(e.Dir, manifestName)); err == nil {
			e.Made = st.ModTime()
		}
		list = append(list, e)
	}
	return list, nil
}

// folderUse is the number of bytes that a folder's files take on the disk, and
// the files.
func folderUse(dir string) (used int64, files int) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile, or not for this user
		}
		if st, err := d.Info(); err == nil {
			used += diskUse(st)
			files++
		}
		return nil
	})
	return used, files
}

// Delete removes an image, of whatever state, and returns the bytes freed. inUse
// tells whether somebody has its disk open.
func (s Store) Delete(arg string, inUse func(disk string) error) (int64, error) {
	dir, err := s.Folder(arg)
	if err != nil {
		return 0, err
	}
	if !isPath(arg) {
		if err := s.has(arg); err != nil {
			return 0, err
		}
	} else if _, err := os.Stat(filepath.Join(dir, manifestName)); err != nil {
		return 0, fmt.Errorf("%s is not an image (it has no %s), so it is left alone: name an image", dir, manifestName)
	}
	if disk := filepath.Join(dir, "disk.raw"); inUse != nil {
		if _, err := os.Stat(disk); err == nil {
			if err := inUse(disk); err != nil {
				return 0, err
			}
		}
	}
	used, _ := folderUse(dir)
	// A folder on its way out has no image's name, also if we are interrupted.
	gone := filepath.Join(filepath.Dir(dir), leftover+"delete-"+filepath.Base(dir))
	if err := os.Rename(dir, gone); err != nil {
		return 0, fmt.Errorf("image %s: %w: do it as the user who made the image", arg, why(err))
	}
	return used, os.RemoveAll(gone)
}

// leftover begins the names of folders that an interrupted command leaves.
const leftover = ".tandem-"

// why is an error without the operation and paths that a caller names better.
func why(err error) error {
	var link *os.LinkError
	var path *fs.PathError
	switch {
	case errors.As(err, &link):
		return link.Err
	case errors.As(err, &path):
		return path.Err
	}
	return err
}

// Nearest is the name that name was perhaps meant to be, or "".
func Nearest(name string, names []string) string {
	type near struct {
		name string
		far  int
	}
	var all []near
	for _, n := range names {
		far := distance(strings.ToLower(name), strings.ToLower(n))
		if strings.HasPrefix(n, name) {
			far = 0
		}
		all = append(all, near{n, far})
	}
	best := slices.MinFunc(all, func(a, b near) int { return cmp.Compare(a.far, b.far) })
	if best.far > max(2, len(name)/3) || best.far >= len(name) {
		return ""
	}
	return best.name
}

// distance is Levenshtein's: insertions, deletions and replacements.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// readManifest reads image.json of a folder.
func readManifest(dir string) (m Manifest, err error) {
	text, err := readLimited(filepath.Join(dir, manifestName), 16<<20)
	if errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("%s is not an image (it has no %s): make one with tandem image build", dir, manifestName)
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("image %s: %s: %w: make it again", dir, manifestName, err)
	}
	if m.Format != manifestFormat {
		return m, fmt.Errorf("image %s has format %d, this program reads %d: make it again", dir, m.Format, manifestFormat)
	}
	m.Kind = cmp.Or(m.Kind, KindDebian)
	return m, nil
}
