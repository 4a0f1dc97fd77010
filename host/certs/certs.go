// SPDX-License-Identifier: Apache-2.0

// Package certs makes the certificates that the replicas of a VM know each other
// by: a CA for each VM, and a certificate for each replica. In a folder they are
// PEM files:
//
//	ca.pem  ca.key        the CA; its key is needed to issue only
//	NAME.pem  NAME.key    a certificate, and its key
//
// A host needs ca.pem and its own pair. Keys are readable by their owner only.
//
// The store and its clients keep theirs under the names that other NBD software
// looks for (standard.go).
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	validity = 10 * 365 * 24 * time.Hour
	// skew is how far the clocks of two hosts may be apart when a certificate is new.
	skew = 24 * time.Hour

	caName    = "ca"
	certExt   = ".pem"
	keyExt    = ".key"
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY" // PKCS #8

	requestBlock = "CERTIFICATE REQUEST"
)

// CA issues the certificates of one VM, or of a cluster's hosts. ECDSA on P-256.
type CA struct {
	CertPEM []byte
	KeyPEM  []byte
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewCA makes a CA; name is for people.
func NewCA(name string) (*CA, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	t, err := template(name)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the CA %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{CertPEM: encode(certBlock, der), KeyPEM: keyPEM, cert: cert, key: key}, nil
}

// Issue makes a certificate for a replica, valid as long as the CA at most. A host
// that is dialed by address has its addresses in it.
func (ca *CA) Issue(name string, addrs ...net.IP) (certPEM, keyPEM []byte, err error) {
	return ca.issue(name, []string{name}, addrs)
}

// issue makes a certificate that is good for some host names and addresses.
func (ca *CA) issue(name string, hosts []string, addrs []net.IP) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	certPEM, err = ca.sign(name, key.Public(), hosts, addrs)
	return certPEM, keyPEM, err
}

func (ca *CA) sign(name string, key any, hosts []string, addrs []net.IP) ([]byte, error) {
	t, err := template(name)
	if err != nil {
		return nil, err
	}
	if time.Now().After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("the CA %s has expired; make a new one and issue all of its certificates again",
			ca.cert.Subject)
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	t.DNSNames, t.IPAddresses = hosts, addrs
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %q: %w", name, err)
	}
	return encode(certBlock, der), nil
}

// Sign issues a certificate for the key of a request, so that the key never leaves
// its host. Nothing else is taken from the request.
func (ca *CA) Sign(request []byte, name string, addrs ...net.IP) ([]byte, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != requestBlock {
		return nil, errors.New("this is no request for a certificate")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("the request for a certificate is damaged: %w", err)
	}
	return ca.sign(name, csr.PublicKey, []string{name}, addrs)
}

// Request makes a key, and the request for its certificate.
func Request(name string) (request, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, nil, err
	}
	return encode(requestBlock, der), keyPEM, nil
}

// Fingerprint is the SHA-256 of a certificate, by which people and tokens name a CA.
func Fingerprint(certPEM []byte) (string, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != certBlock {
		return "", errors.New("this is no certificate")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}

// Pool is what peers are checked against.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Pair issues a certificate for use in this process.
func (ca *CA) Pair(name string) (tls.Certificate, error) {
	cert, key, err := ca.Issue(name)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// Save writes the CA to a folder, which it makes if need be. It replaces no CA
// that is there.
func (ca *CA) Save(dir string) error { return save(ours(dir, caName), ca.CertPEM, ca.KeyPEM) }

// SavePair issues a certificate into a folder. It replaces none that is there.
func (ca *CA) SavePair(dir, name string) error { return ca.SaveHost(dir, name) }

// SaveHost is SavePair for a host that is dialed by its addresses.
func (ca *CA) SaveHost(dir, name string, addrs ...net.IP) error {
	if name == caName || name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("a certificate can't be named %q: it must be a file name, other than %q", name, caName)
	}
	cert, key, err := ca.Issue(name, addrs...)
	if err != nil {
		return err
	}
	return save(ours(dir, name), cert, key)
}

// LoadCA reads a CA, to issue certificates.
func LoadCA(dir string) (*CA, error) {
	p, err := loadPair(ours(dir, caName), "copy it from where the VM was created")
	if err != nil {
		return nil, err
	}
	key, ok := p.tls.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !p.leaf.IsCA {
		return nil, fmt.Errorf("%s is no CA of ours; name the folder that the VM's CA was saved to", ours(dir, caName).cert)
	}
	return &CA{CertPEM: p.cert, KeyPEM: p.key, cert: p.leaf, key: key}, nil
}

// Load reads what a replica needs: its certificate and the pool of its peers. It
// makes sure that the one is of the other.
func Load(dir, name string) (tls.Certificate, *x509.CertPool, error) {
	return load(ours(dir, caName).cert, ours(dir, name), remedies{"copy it from where the VM was created", "issue one with the VM's CA"})
}

// remedies say what to do about a CA's and a pair's files.
type remedies struct{ ca, pair string }

func load(caFile string, f files, r remedies) (tls.Certificate, *x509.CertPool, error) {
	fail := func(err error) (tls.Certificate, *x509.CertPool, error) { return tls.Certificate{}, nil, err }
	caPEM, err := read(caFile, r.ca)
	if err != nil {
		return fail(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return fail(fmt.Errorf("%s holds no certificate; %s", caFile, r.ca))
	}
	p, err := loadPair(f, r.pair)
	if err != nil {
		return fail(err)
	}
	if _, err := p.leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fail(fmt.Errorf("%s is not issued by the CA in %s; issue it again with that CA (%w)", f.cert, caFile, err))
	}
	return p.tls, pool, nil
}

// pair is a certificate with its key, as read.
type pair struct {
	cert, key []byte
	tls       tls.Certificate
	leaf      *x509.Certificate
}

func loadPair(f files, remedy string) (p pair, err error) {
	if p.cert, err = read(f.cert, remedy); err != nil {
		return p, err
	}
	if p.key, err = read(f.key, remedy); err != nil {
		return p, err
	}
	if p.tls, err = tls.X509KeyPair(p.cert, p.key); err != nil {
		return p, fmt.Errorf("%s and %s don't belong together, or are damaged; %s (%w)", f.cert, f.key, remedy, err)
	}
	if p.leaf, err = x509.ParseCertificate(p.tls.Certificate[0]); err != nil {
		return p, fmt.Errorf("%s is damaged; %s (%w)", f.cert, remedy, err)
	}
	switch now := time.Now(); {
	case now.After(p.leaf.NotAfter):
		return p, fmt.Errorf("%s expired on %s; %s, on each of the VM's hosts",
			f.cert, p.leaf.NotAfter.Format(time.DateOnly), remedy)
	case now.Before(p.leaf.NotBefore):
		return p, fmt.Errorf("%s is not valid before %s; set this host's clock, which says %s",
			f.cert, p.leaf.NotBefore.Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	return p, nil
}

func read(path, remedy string) ([]byte, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is missing; %s", path, remedy)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s can't be read by this user; run as its owner (%w)", path, err)
	}
	return b, err
}

// save writes a pair, the key first: a certificate without a key misleads.
func save(at files, cert, key []byte) error {
	if err := os.MkdirAll(filepath.Dir(at.cert), 0o700); err != nil {
		return fmt.Errorf("make the folder for certificates: %w", err)
	}
	for _, f := range []struct {
		path string
		mode fs.FileMode
		data []byte
	}{
		{at.key, 0o600, key},
		{at.cert, 0o644, cert},
	} {
		if err := create(f.path, f.mode, f.data); err != nil {
			return err
		}
	}
	return nil
}

func create(path string, mode fs.FileMode, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; it is kept: remove it first if it is to be replaced", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// files are the paths of a certificate and its key.
type files struct{ cert, key string }

func ours(dir, name string) files {
	return files{filepath.Join(dir, name+certExt), filepath.Join(dir, name+keyExt)}
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, encode(keyBlock, der), nil
}

func template(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), // not 0 (RFC 5280 §4.1.2.2)
		Subject:      pkix.Name{CommonName: name, Organization: []string{"tandem"}},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(validity),
	}, nil
}

func encode(block string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der})
}
