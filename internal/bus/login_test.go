package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// guarded runs a nats-server with JetStream and these options and answers its URL.
func guarded(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog, o.JetStream, o.StoreDir = "127.0.0.1", -1, true, true, true, t.TempDir()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(2 * time.Minute) {
		t.Fatal("the server is not up")
	}
	return "nats://" + s.Addr().String()
}

// logsIn opens the log as cfg says.
func logsIn(t *testing.T, cfg bus.Config) {
	t.Helper()
	b := bustest.Open(t, cfg)
	if _, err := b.Publish(t.Context(), insight("acme", "ins_1", time.Now())); err != nil {
		t.Error(err)
	}
}

// refused tries to and must fail, with a reason and without the password.
func refused(t *testing.T, cfg bus.Config, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		b, err := bus.Open(ctx, cfg)
		cancel()
		if err == nil {
			_ = b.Close(t.Context())
			t.Fatal("a wrong login opens the log")
		}
		if strings.Contains(err.Error(), "wr0ng") {
			t.Fatal(err)
		}
		if strings.Contains(err.Error(), want) {
			return
		}
		if time.Now().After(deadline) { // a machine that stands still has another reason before
			t.Fatalf("%v: want %q", err, want)
		}
	}
}

func TestPasswordAndToken(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	cfg.URL = guarded(t, &server.Options{Username: "relay", Password: "s3cret"})
	cfg.User, cfg.Password = "relay", "wr0ng"
	refused(t, cfg, "Authorization")
	cfg.Password = "s3cret"
	logsIn(t, cfg)

	cfg = bustest.Config(t)
	cfg.URL = guarded(t, &server.Options{Authorization: "t0ken"})
	cfg.Token = "wr0ng"
	refused(t, cfg, "Authorization")
	cfg.Token = "t0ken"
	logsIn(t, cfg)
}

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", true)
	return a
}

// issue writes name.pem and name.key.
func (a *authority) issue(name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if !isCA {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.issue("server", false)
	a.issue("relay", false)
	pair, err := tls.LoadX509KeyPair(a.file("server.pem"), a.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	cfg := bustest.Config(t)
	cfg.URL = guarded(t, &server.Options{TLS: true, TLSVerify: true, TLSTimeout: 5, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}})
	refused(t, cfg, "unknown authority")
	cfg.CAFile = a.file("ca.pem")
	refused(t, cfg, "tls") // what else it says depends on who hangs up first
	cfg.CertFile, cfg.KeyFile = a.file("relay.pem"), a.file("absent.key")
	refused(t, cfg, "absent.key")
	cfg.KeyFile = a.file("relay.key")
	logsIn(t, cfg)
}

func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	operator, operatorKey := newKey(t, nkeys.CreateOperator)
	system, _ := newKey(t, nkeys.CreateAccount)
	account, accountKey := newKey(t, nkeys.CreateAccount)
	user, userKey := newKey(t, nkeys.CreateUser)

	resolver := &server.MemAccResolver{}
	for _, id := range []string{system, account} {
		claims := jwt.NewAccountClaims(id)
		if id == account {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := claims.Encode(operatorKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := resolver.Store(id, token); err != nil {
			t.Fatal(err)
		}
	}
	token, err := jwt.NewUserClaims(user).Encode(accountKey)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := userKey.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "relay.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewOperatorClaims(operator)
	claims.SystemAccount = system
	cfg := bustest.Config(t)
	cfg.URL = guarded(t, &server.Options{TrustedOperators: []*jwt.OperatorClaims{claims}, SystemAccount: system, AccountResolver: resolver})
	refused(t, cfg, "Authorization")
	cfg.CredentialsFile = file + ".absent"
	refused(t, cfg, "no such file")
	cfg.CredentialsFile = file
	logsIn(t, cfg)
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (id string, key nkeys.KeyPair) {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if id, err = key.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return id, key
}
