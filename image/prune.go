// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Pruned is what Prune removed or would remove.
type Pruned struct {
	Files []string `json:"files"` // and folders
	Bytes int64    `json:"bytes"` // on this host's disk
}

// Prune removes what no image needs: packages in the cache that belong to no
// image of the store or the cache, indices of older releases, downloads that
// broke off, and leftovers of interrupted commands. With all it removes the whole
// cache: downloads and the images that tandem made for itself.
func Prune(ctx context.Context, s Store, cache string, all, dryRun bool, p Progress) (Pruned, error) {
	if p == nil {
		p = quiet{}
	}
	out := Pruned{Files: []string{}}
	cache, err := cacheDir(cache)
	if err != nil {
		return out, err
	}
	// A build must not lose under its hands what it has just fetched.
	unlock, err := lock(ctx, cache, p)
	if err != nil {
		return out, err
	}
	defer unlock()
	for _, file := range slices.Concat(leftovers(s.Dir), leftovers(filepath.Join(cache, "images")), cached(s, cache, all)) {
		used, _ := folderUse(file)
		if !dryRun {
			if err := os.RemoveAll(file); err != nil {
				return out, fmt.Errorf("%s: %w: do it as the user who made it", file, why(err))
			}
		}
		out.Files, out.Bytes = append(out.Files, file), out.Bytes+used
	}
	return out, nil
}

// leftovers are folders of interrupted commands, beside images and in them.
func leftovers(dir string) []string {
	beside, _ := filepath.Glob(filepath.Join(dir, leftover+"*"))
	inside, _ := filepath.Glob(filepath.Join(dir, "*", ".build-*"))
	return append(beside, inside...)
}

// cached are the files of the cache to remove.
func cached(s Store, cache string, all bool) (files []string) {
	glob := func(pattern ...string) []string {
		found, _ := filepath.Glob(filepath.Join(append([]string{cache}, pattern...)...))
		return found
	}
	if all {
		return slices.Concat(glob("deb"), glob("index"), glob("release"), glob("unpacked"), glob("images", "*"))
	}
	needed := needs(glob("images", "*"))
	for _, n := range s.Names() {
		needed = append(needed, needs([]string{filepath.Join(s.Dir, n)})...)
	}
	releases := ""
	for _, r := range glob("release", "*") {
		text, _ := readLimited(r, 16<<20)
		releases += strings.ToLower(string(text))
	}
	for _, f := range slices.Concat(glob("deb", "*"), glob("unpacked", "*")) {
		hash, rest, _ := strings.Cut(filepath.Base(f), ".")
		if strings.HasSuffix(rest, ".part") || !slices.Contains(needed, hash) {
			files = append(files, f)
		}
	}
	for _, f := range glob("index", "*") {
		if !strings.Contains(releases, strings.ToLower(filepath.Base(f))) {
			files = append(files, f)
		}
	}
	return files
}

// needs are the hashes of the packages that images were made of.
func needs(dirs []string) (hashes []string) {
	for _, d := range dirs {
		m, _ := readManifest(d)
		for _, p := range m.Packages {
			hashes = append(hashes, p.SHA256)
		}
	}
	return hashes
}
