// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"tandem/host/etcd"
)

// Files in the node's state folder.
const (
	settingsFile = "node.json"
	arbiterDir   = "arbiter"                 // what replicas claim with
	etcdFile     = arbiterDir + "/etcd.json" // etcd.Config, for replicas
	guardDir     = "guard"                   // replicas write here too
	guardFile    = guardDir + "/etcd.guard"
	etcdDir      = "etcd"
	etcdLog      = "etcd.log"
	pkiDir       = "pki"
	hostPair     = "node" // the name of our certificate's files
)

// DefaultPort is where a node's ports begin: etcd for clients, etcd for peers, and
// where others join.
const DefaultPort = 7370

// Ports of replicas. A copy takes a free one.
const (
	firstReplicaPort = 7400
	lastReplicaPort  = 7999
)

// settings are what a node knows of its cluster, on its own disk.
type settings struct {
	Name     string   `json:"name"`
	Address  string   `json:"address"` // of this host, for the others
	Port     int      `json:"port"`
	Cluster  string   `json:"cluster"`
	Domain   string   `json:"domain,omitempty"`
	Labels   []string `json:"labels,omitempty"`
	Witness  bool     `json:"witness,omitempty"`
	Embedded bool     `json:"embedded"`            // an etcd member runs in this daemon
	NoMember bool     `json:"no_member,omitempty"` // of an embedded etcd that has enough without us
	Members  string   `json:"members,omitempty"`   // for its first start
	Joins    bool     `json:"joins,omitempty"`
	NoSync   bool     `json:"no_sync,omitempty"` // tests
	URLs     []string `json:"etcd"`              // all of etcd's
	// Files of an external etcd; the embedded one uses the cluster's own.
	CA   string `json:"etcd_ca,omitempty"`
	Cert string `json:"etcd_cert,omitempty"`
	Key  string `json:"etcd_key,omitempty"`
}

func loadSettings(state string) (*settings, error) {
	path := filepath.Join(state, settingsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s := &settings{}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		return nil, fmt.Errorf("%s can't be read (%w): restore it, or remove the folder and join anew", path, err)
	}
	return s, nil
}

func (s *settings) save(state string) error {
	return saveJSON(filepath.Join(state, settingsFile), s)
}

func saveJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return etcd.WriteFile(path, append(b, '\n'), 0o600)
}

func (s *settings) at(offset int) string {
	return net.JoinHostPort(s.Address, strconv.Itoa(s.Port+offset))
}

func (s *settings) clientURL() string { return "https://" + s.at(0) }
func (s *settings) peerURL() string   { return "https://" + s.at(1) }
func (s *settings) joinAddr() string  { return s.at(2) }

// learn takes etcd's present addresses, our own member first.
func (s *settings) learn(urls []string) bool {
	slices.Sort(urls)
	if i := slices.Index(urls, s.clientURL()); i > 0 {
		urls[0], urls[i] = urls[i], urls[0]
	}
	if slices.Equal(urls, s.URLs) {
		return false
	}
	s.URLs = urls
	return true
}

// etcd is how this node reaches etcd.
func (s *settings) etcd(state string) etcd.Config {
	pki := filepath.Join(state, pkiDir)
	cfg := etcd.Config{Endpoints: s.URLs, Cluster: s.Cluster, Node: s.Name, Guard: filepath.Join(state, guardFile),
		CA: s.CA, Cert: s.Cert, Key: s.Key}
	if s.Embedded {
		cfg.CA, cfg.Cert, cfg.Key = filepath.Join(pki, "ca.pem"), filepath.Join(pki, hostPair+".pem"), filepath.Join(pki, hostPair+".key")
	}
	return cfg
}

// share writes down how replicas reach etcd. They have copies of the keys in a folder of
// their own: a confined process can read no other, and finds there what is replaced.
func (s *settings) share(state string) error {
	cfg := s.etcd(state)
	for _, f := range []struct {
		path *string
		name string
	}{{&cfg.CA, "ca.pem"}, {&cfg.Cert, hostPair + ".pem"}, {&cfg.Key, hostPair + ".key"}} {
		if *f.path == "" {
			continue
		}
		b, err := os.ReadFile(*f.path)
		if err != nil {
			return err
		}
		*f.path = filepath.Join(state, arbiterDir, f.name)
		if err := etcd.WriteFile(*f.path, b, sharedMode); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	return etcd.WriteFile(filepath.Join(state, etcdFile), append(b, '\n'), sharedMode)
}

// sharedMode is of files that the group of their folder may read: see account.
const sharedMode = 0o640

// server is the member that runs in this daemon.
func (s *settings) server(state string) etcd.ServerConfig {
	pki := filepath.Join(state, pkiDir)
	return etcd.ServerConfig{Name: s.Name, Dir: filepath.Join(state, etcdDir), Client: s.clientURL(), Peer: s.peerURL(),
		CA: filepath.Join(pki, "ca.pem"), Cert: filepath.Join(pki, hostPair+".pem"), Key: filepath.Join(pki, hostPair+".key"),
		Cluster: s.Cluster, Members: s.Members, Joins: s.Joins, NoSync: s.NoSync, Log: filepath.Join(state, etcdLog)}
}

// record is this node's entry in the registry.
func (s *settings) record() etcd.Node {
	n := etcd.Node{Name: s.Name, Address: s.Address, Domain: s.Domain, Labels: s.Labels, Witness: s.Witness, Joined: time.Now().UTC()}
	if !s.Witness {
		n.Join = s.joinAddr()
	}
	return n
}

// check validates what an operator gave.
func (s *settings) check() error {
	if !etcd.ValidName(s.Name) {
		return fmt.Errorf("%q is no name of a node: use at most 63 letters, digits, '-', '_' and '.'", s.Name)
	}
	if ip := net.ParseIP(s.Address); ip == nil || ip.IsUnspecified() {
		return fmt.Errorf("address %q: give an IP address of this host that the other hosts reach", s.Address)
	}
	if s.Port < 1 || s.Port > 65533 {
		return fmt.Errorf("port %d: choose 1 to 65533", s.Port)
	}
	return nil
}
