// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tandem/image/iso"
)

// seedName is the file with the disk on which cloud-init looks for its data.
const seedName = "seed.iso"

// Seed is what cloud-init in the guest shall do (its NoCloud source): a disk with
// the label cidata holds meta-data and user-data.
type Seed struct {
	Hostname string
	SSHKeys  []string // for the image's default user
	UserData []byte   // #cloud-config, a script, or whatever cloud-init knows
}

// userDataForms begin what cloud-init takes as user-data.
var userDataForms = []string{"#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template:", "Content-Type:", "MIME-Version:", "\x1f\x8b"}

const maxUserData = 1 << 20

// disk makes the seed's disk, or nil if there is nothing to say.
func (s *Seed) disk() ([]byte, error) {
	if s.Hostname == "" && len(s.SSHKeys) == 0 && len(s.UserData) == 0 {
		return nil, nil
	}
	if s.Hostname != "" && !hostName.MatchString(s.Hostname) {
		return nil, fmt.Errorf("host name %q: use letters, digits and hyphens, at most 64", s.Hostname)
	}
	meta := map[string]any{}
	if s.Hostname != "" {
		meta["local-hostname"] = s.Hostname
	}
	if len(s.SSHKeys) > 0 {
		keys := []string{}
		for _, k := range s.SSHKeys {
			key, err := sshKey(k)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
		meta["public-keys"] = keys
	}
	user := s.UserData
	switch {
	case len(user) == 0:
		user = []byte("#cloud-config\n{}\n")
	case len(user) > maxUserData:
		return nil, fmt.Errorf("user data of %s: give at most %s", Bytes(int64(len(user))), Bytes(maxUserData))
	case !startsWith(user, userDataForms):
		return nil, errors.New("user data begins with nothing that cloud-init knows: its first line must be for instance #cloud-config or #!/bin/sh")
	}
	// cloud-init acts once for each instance: other data is another instance.
	h := sha256.New()
	text, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	h.Write(text)
	h.Write(user)
	meta["instance-id"] = "tandem-" + hex.EncodeToString(h.Sum(nil)[:8])
	if text, err = json.MarshalIndent(meta, "", "  "); err != nil { // JSON is YAML too
		return nil, err
	}
	var b bytes.Buffer
	err = iso.Write(&b, "cidata", time.Unix(0, 0), []iso.File{{Name: "meta-data", Data: append(text, '\n')}, {Name: "user-data", Data: user}})
	return b.Bytes(), err
}

func startsWith(b []byte, forms []string) bool {
	for _, f := range forms {
		if strings.HasPrefix(string(b[:min(len(b), 64)]), f) {
			return true
		}
	}
	return false
}

// sectionAt is a part of a disk.
func sectionAt(d io.ReaderAt, start, size int64) io.ReaderAt {
	return io.NewSectionReader(d, start, size)
}
