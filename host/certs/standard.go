// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
)

// The roles of a certificate in a standard folder.
const (
	Server = "server"
	Client = "client"
)

const standardCA = "ca"

// standard names files as QEMU, libnbd and nbdkit do, so that one folder serves
// all of them: ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, …
func standard(dir, role string) files {
	return files{filepath.Join(dir, role+"-cert.pem"), filepath.Join(dir, role+"-key.pem")}
}

// SaveStandard makes a folder with the CA, a server's certificate for some host
// names or addresses, and one for its clients. It replaces no file that is there.
func (ca *CA) SaveStandard(dir string, hosts []string) error {
	if err := save(standard(dir, standardCA), ca.CertPEM, ca.KeyPEM); err != nil {
		return err
	}
	for _, c := range []struct {
		role  string
		hosts []string
	}{{Server, hosts}, {Client, []string{Client}}} {
		var names []string
		var addrs []net.IP
		for _, h := range c.hosts {
			if ip := net.ParseIP(h); ip != nil {
				addrs = append(addrs, ip)
			} else {
				names = append(names, h)
			}
		}
		cert, key, err := ca.issue(c.role, names, addrs)
		if err != nil {
			return err
		}
		if err := save(standard(dir, c.role), cert, key); err != nil {
			return err
		}
	}
	return nil
}

// LoadStandard reads the certificate of a role, and the pool of its peers.
func LoadStandard(dir, role string) (tls.Certificate, *x509.CertPool, error) {
	return load(standard(dir, standardCA).cert, standard(dir, role),
		remedies{"copy it from where 'tandem store certs' made it", "issue one with the store's CA"})
}
