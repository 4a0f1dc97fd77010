// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"tandem/api"
)

// FuzzToken shows that a text is refused, or a token that stays itself when it is
// printed again.
func FuzzToken(f *testing.F) {
	f.Add(Token{Join: []string{"10.0.0.1:7372"}, Fingerprint: strings.Repeat("0a", 32), Secret: "s"}.String())
	f.Add("tandem1.e30")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if again, err := ParseToken(token.String()); err != nil || again.String() != token.String() {
			t.Errorf("%v becomes %v, %v", token, again, err)
		}
	})
}

// FuzzCreate shows that a body is refused, or describes a VM whose name can be that of a
// folder and whose flags are one argument each of the right kind.
func FuzzCreate(f *testing.F) {
	f.Add(`{"name": "web", "ft": true, "start": true, "spec": {"cpus": 2, "memory": 1073741824, "image": "/srv/web", "disks": ["nbd://10.0.0.9/web"], "network": "switch:10.0.0.9:7077"}}`)
	f.Add(`{"name": "..", "spec": {"cpus": -1}}`)
	n := &Node{opt: Options{Run: "/run/tandem", State: "/var/lib/tandem"}}
	f.Fuzz(func(t *testing.T, body string) {
		q, err := api.Read[CreateRequest](httptest.NewRequest(http.MethodPost, "/v1/vms", strings.NewReader(body)))
		if err != nil || check(q) != nil {
			return
		}
		if dir := n.folder(q.Name); filepath.Dir(dir) != "/run/tandem/vms" || filepath.Base(dir) != q.Name {
			t.Errorf("%q has the folder %s", q.Name, dir)
		}
		p := &process{VM: q.Name, Role: rolePrimary, dir: n.folder(q.Name)}
		for i, arg := range p.arguments(n, q.Spec)[2:] {
			if i%2 == 0 && !strings.HasPrefix(arg, "--") {
				t.Errorf("argument %d is %q in place of a flag", i, arg)
			}
		}
	})
}
