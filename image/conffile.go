// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// sums are the MD5 sums that dpkg's status keeps for a package's configuration
// files, taken while they are unpacked (deb-conffiles(5)).
type sums struct {
	names []string
	hash  map[string]hash.Hash
}

func conffileSums(control map[string][]byte) *sums {
	s := &sums{hash: map[string]hash.Hash{}}
	for line := range strings.Lines(string(control["conffiles"])) {
		// A word before the name is a flag, such as "remove-on-upgrade".
		if name := strings.TrimSpace(line); strings.HasPrefix(name, "/") {
			s.names = append(s.names, name)
		}
	}
	for _, n := range s.names {
		s.hash[n] = md5.New()
	}
	return s
}

// watch returns body, hashed on the way if name is a configuration file.
func (s *sums) watch(name string, body io.Reader) io.Reader {
	if h := s.hash["/"+name]; h != nil {
		h.Reset()
		return io.TeeReader(body, h)
	}
	return body
}

// field is the Conffiles field of the status entry, or nothing.
func (s *sums) field() string {
	if len(s.names) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Conffiles:\n")
	for _, n := range s.names {
		fmt.Fprintf(&b, " %s %s\n", n, hex.EncodeToString(s.hash[n].Sum(nil)))
	}
	return b.String()
}
