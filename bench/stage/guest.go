// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"tandem/host/child"
	"tandem/image"
)

// Recipe says how a guest is made.
type Recipe struct {
	Name     string // of its folder in the user's cache
	Packages []string
	Size     int64  // of the disk in bytes
	Prepare  string // a script for the guest's shell, as root
}

// Guest is an image that was booted once to be prepared.
type Guest struct {
	Image *image.Image
	key   ssh.Signer
}

// Files beside the image's own.
const (
	keyName   = "stage.key"
	stampName = "stage.done" // the recipe's hash: written last
)

// Make makes the guest, or takes it from the cache.
func (r Recipe) Make(ctx context.Context, tandem string, p image.Progress) (*Guest, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no cache folder: %w: set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(cache, "tandem", "images", r.Name)
	if g := r.open(dir); g != nil {
		return g, nil
	}
	os.Remove(filepath.Join(dir, stampName))
	if err := r.build(ctx, dir, tandem, p); err != nil {
		return nil, fmt.Errorf("prepare the guest %s: %w", r.Name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, stampName), r.stamp(), 0o644); err != nil {
		return nil, err
	}
	if g := r.open(dir); g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("the guest in %s is not as it was made: delete the folder", dir)
}

func (r Recipe) stamp() []byte { return fmt.Appendf(nil, "%x\n", sha256.Sum256(fmt.Append(nil, r))) }

// open takes the guest from the cache, if it is there and made by this recipe.
func (r Recipe) open(dir string) *Guest {
	img, err := image.Open(dir)
	if err != nil || !img.Current() {
		return nil
	}
	if b, err := os.ReadFile(filepath.Join(dir, stampName)); err != nil || string(b) != string(r.stamp()) {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, keyName))
	if err != nil {
		return nil
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil
	}
	return &Guest{img, key}
}

func (r Recipe) build(ctx context.Context, dir, tandem string, p image.Progress) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	_, err = image.Build(ctx, image.Options{Dir: dir, Packages: r.Packages, Size: r.Size, Progress: p,
		SSHKeys: []string{string(ssh.MarshalAuthorizedKey(key.PublicKey()))}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, keyName), pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	return r.prepare(ctx, dir, tandem, key)
}

// prepare boots the image without a backup, runs the script and powers off.
func (r Recipe) prepare(ctx context.Context, dir, tandem string, key ssh.Signer) error {
	ports, err := child.FreeAddrs(1)
	if err != nil {
		return err
	}
	log := filepath.Join(dir, "prepare.log")
	vm, err := child.Start("guest", log, tandem, "run", dir, "--memory", "1G", "--network", "user", "--forward", ports[0]+":22")
	if err != nil {
		return err
	}
	defer vm.Kill()
	sh, err := dialShell(ctx, ports[0], key)
	if err != nil {
		return fmt.Errorf("%w: see %s", err, log)
	}
	defer sh.Close()
	if out, err := sh.Run(ctx, r.Prepare); err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	sh.Run(ctx, "sync; poweroff") // may end the connection before its answer
	return child.Until(ctx, time.Minute, "the guest's poweroff", vm.Ended)
}
