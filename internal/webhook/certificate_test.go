package webhook_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestParseClientCert(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	own, other := ca.issue(nil, "client"), ca.issue(nil, "other")
	cert, key := certPEM(own.Certificate[0]), keyPEM(t, own)
	sec1, err := x509.MarshalECPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}})
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, []byte("words between\n")) }
	tests := []struct {
		name      string
		cert, key []byte
		want      string // part of the error; empty: accepted
	}{
		{"as it should be", cert, key, ""},
		{"with its authority", cat(cert, ca.pem()), key, ""},
		{"key among others", cert, cat(block("EC PARAMETERS", []byte{6, 0}), key), ""},
		{"nothing", nil, nil, "holds no certificate"},
		{"no certificate", key, key, "holds no certificate"},
		{"no key", cert, cert, "holds no private key"},
		{"key missing", cert, nil, "holds no private key"},
		{"swapped", key, cert, "holds no certificate"},
		{"another's key", cert, keyPEM(t, other), "another certificate"},
		{"authority first", cat(ca.pem(), cert), key, "another certificate"},
		{"certificate is noise", block("CERTIFICATE", []byte("secret")), key, "certificate 1 cannot be read"},
		{"second certificate is noise", cat(cert, block("CERTIFICATE", []byte("secret"))), key, "certificate 2 cannot be read"},
		{"certificate cut off", cert[:len(cert)-40], key, "only 0 can be read"},
		{"second certificate cut off", cat(cert, cert[:len(cert)-40]), key, "only 1 can be read"},
		{"key is noise", cert, block("PRIVATE KEY", []byte("secret")), "cannot be read"},
		{"key of an unknown kind", cert, block("SSH PRIVATE KEY", sec1), "belongs to another"},
		{"key cut off", cert, key[:len(key)-40], "holds no private key"},
		{"key encrypted", cert, block("ENCRYPTED PRIVATE KEY", []byte("secret")), "is encrypted"},
		{"key encrypted the old way", cert, encrypted, "is encrypted"},
		{"too big a certificate", bytes.Repeat(cert, 200), key, "65536 bytes"},
		{"too big a key", cert, bytes.Repeat([]byte{'\n'}, 65537), "65536 bytes"},
	}
	for _, tt := range tests {
		got, err := webhook.ParseClientCert(tt.cert, tt.key)
		if tt.want == "" {
			if err != nil || got == nil || got.Leaf == nil || !got.Leaf.Equal(mustCertificate(t, own)) {
				t.Errorf("%s: got %v", tt.name, err)
			}
			continue
		}
		if err == nil || got != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "MIG")) {
			t.Errorf("%s: error %q quotes the input", tt.name, err)
		}
	}
}

func mustCertificate(t *testing.T, c tls.Certificate) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func FuzzParseClientCert(f *testing.F) {
	ca := newAuthority(f)
	own := ca.issue(nil, "client")
	f.Add(certPEM(own.Certificate[0]), keyPEM(f, own))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		got, err := webhook.ParseClientCert(cert, key)
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v beside %v", got, err)
		}
		if err != nil && len(err.Error()) > 128 { // all texts are fixed but for two numbers
			t.Fatalf("error %q", err)
		}
		if err == nil && (len(got.Certificate) == 0 || got.PrivateKey == nil) {
			t.Fatal("half a certificate")
		}
	})
}

func TestLoadCABundle(t *testing.T) {
	t.Parallel()
	ca, second := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pool, err := webhook.LoadCABundle(file("two.pem", append(append([]byte("# ours\n"), ca.pem()...), second.pem()...)))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*authority{ca, second} {
		leaf := mustCertificate(t, a.issue(nil, "h"))
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "h"}); err != nil {
			t.Error(err)
		}
	}
	system, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	system.AddCert(ca.cert)
	system.AddCert(second.cert)
	if !pool.Equal(system) {
		t.Error("the system's authorities are missing")
	}
	tests := []struct{ name, path, want string }{
		{"no file", filepath.Join(dir, "missing.pem"), "missing.pem"},
		{"empty", file("empty.pem", nil), "empty.pem: holds no certificate"},
		{"a key", file("key.pem", keyPEM(t, ca.issue(nil))), "holds no certificate"},
		{"one of two", file("cut.pem", append(ca.pem(), second.pem()[:100]...)), "only 1 can be read"},
		{"noise", file("noise.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")), "certificate 1 cannot be read"},
	}
	for _, tt := range tests {
		if pool, err := webhook.LoadCABundle(tt.path); err == nil || pool != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}
