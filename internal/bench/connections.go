package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// connections is what a webhook costs that needs a connection of its own, as nearly each does where endpoints are on more hosts than
// there are idle connections: the receiver closes each after its answer.
func connections(ctx context.Context, s *stage) error {
	for _, over := range []struct {
		name  string
		share int // of the webhooks of the other deliveries, 1 in so many: each is as costly as a few of those
	}{{"http", 5}, {"https", 10}} {
		f, err := s.connectionsOver(ctx, over.name, s.opts.Deliver/over.share/connectionHosts)
		if err != nil {
			return err
		}
		s.add(f)
	}
	return nil
}

// connectionHosts are so many that no port of ours is needed twice within a minute; each has an endpoint that gets each event.
const connectionHosts = 100

func (s *stage) connectionsOver(ctx context.Context, scheme string, events int) (f Figure, err error) {
	events = max(events, 2)
	total := events * connectionHosts
	open := openArgs{Ports: connectionHosts}
	if scheme == "https" {
		open.CA = s.path("ca.pem")
	}
	receiver, hosts, err := s.receive(ctx, open)
	if err != nil {
		return f, err
	}
	before, err := s.postBound(ctx, boundURLs(hosts, "close"), total/2, open.CA)
	if err != nil {
		return f, err
	}
	w := setting{store: scheme, ca: open.CA}
	for i, host := range hosts {
		w.endpoints = append(w.endpoints, target{id: fmt.Sprintf("e-%d", i), url: host + "/ok/close"})
	}
	file, err := s.configure(w)
	if err != nil {
		return f, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return f, err
	}
	log, err := s.connect(ctx, r)
	if err != nil {
		return f, err
	}
	if err := do(ctx, receiver, "watch", watchArgs{Name: "ok", Marks: []int64{int64(total / 10), int64(total)}}); err != nil {
		return f, err
	}
	var at []int64
	// From here on, and not from the start of the process: of so few webhooks that would be half.
	f.CPU, err = s.spent(ctx, r.part, "-"+scheme, total, func() error {
		if _, err := ask[published](ctx, log, "publish", publishArgs{N: events}); err != nil {
			return err
		}
		at, err = ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "ok", Seconds: waitTime})
		return err
	})
	if err != nil {
		return f, err
	}
	account, err := s.settle(ctx, receiver, r)
	if err != nil {
		return f, err
	}
	if err := s.finish(ctx, r, log); err != nil {
		return f, err
	}
	after, err := s.postBound(ctx, boundURLs(hosts, "close"), total/2, open.CA)
	if err != nil {
		return f, err
	}
	bound := between(before, after)
	f.Name, f.Unit, f.Size = fmt.Sprintf("delivered over %s, a new connection each", scheme), "webhooks/s", fmt.Sprintf("%d webhooks", total)
	f.Value, f.Reach = float64(total-total/10)/(float64(at[1]-at[0])/1e9), Reach{Kind: NoReach}
	f.Bound, f.BoundCPU = &bound.PerSecond, bound.CPU
	f.BoundOf = fmt.Sprintf("a bare net/http loop to %d hosts, a new connection each, half before and half after", len(hosts))
	if open.CA != "" {
		f.Note = "HTTP/1.1 over TLS 1.3, a full handshake each, certificate of ECDSA P-256"
	}
	return account.apply(f), s.end(receiver)
}

// selfSigned makes a certificate for 127.0.0.1 that lasts for a day, and writes it to a file for who is to trust it.
func selfSigned(file string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}}
	return config, os.WriteFile(filepath.Clean(file), text, 0o600)
}

// trusting has a client trust an authority; nil is the system's.
func trusting(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New(file + " has no certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, nil
}
