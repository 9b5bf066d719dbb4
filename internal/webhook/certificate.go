package webhook

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxPEM bounds each input of [ParseClientCert] in bytes: a chain of ten RSA certificates has some 20 KB.
const maxPEM = 64 << 10

// ParseClientCert reads a client certificate and its private key in PEM: the certificate of its owner first, then those that
// lead to its authority, if any; the key as PKCS #8, PKCS #1 or SEC 1, not encrypted. It does not ask whether the certificate
// is valid today: that is for the target to say. No error contains any part of the inputs.
func ParseClientCert(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	if len(certPEM) > maxPEM || len(keyPEM) > maxPEM {
		return nil, fmt.Errorf("client certificate: certificate and key may have %d bytes each", maxPEM)
	}
	if _, err := parseCertificates(certPEM); err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	if err := checkKeyPEM(keyPEM); err != nil {
		return nil, fmt.Errorf("client certificate: key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err != nil && strings.Contains(err.Error(), "does not match"): // crypto/tls's errors have no types
		return nil, errors.New("client certificate: key: belongs to another certificate")
	case err != nil:
		return nil, errors.New("client certificate: key: cannot be read: want PKCS #8, PKCS #1 or SEC 1")
	}
	return &cert, nil
}

// checkKeyPEM finds what crypto/tls would call no key at all, or would not read.
func checkKeyPEM(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return errors.New("is encrypted: decrypt it first, e.g. with `openssl pkey`")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil
		}
	}
	return errors.New("holds no private key: want PEM, with a line that ends in PRIVATE KEY-----")
}

// parseCertificates reads every certificate in text, and ignores other blocks and what stands between them.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: copy it again, whole", len(certs)+1)
		}
		certs = append(certs, cert)
	}
	// A block that is cut off does not count as one: pem.Decode skips it.
	begun := bytes.Count(text, []byte("-----BEGIN CERTIFICATE-----"))
	switch {
	case len(certs) == 0 && begun == 0:
		return nil, errors.New("holds no certificate: want PEM, with the line -----BEGIN CERTIFICATE-----")
	case len(certs) < begun:
		return nil, fmt.Errorf("holds %d certificates, but only %d can be read: copy them again, whole", begun, len(certs))
	}
	return certs, nil
}

// LoadCABundle is the system's certificate authorities and those in file, in PEM: a bundle for receivers whose certificates
// are signed by an authority of the operator's own. Every certificate in it must be readable, and there must be one.
func LoadCABundle(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("ca bundle: the system's authorities: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca bundle: %w", err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("ca bundle: %s: %w", file, err)
	}
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}
