package webhook_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

// wantsClient is a TLS configuration that asks for a certificate of ca's.
func wantsClient(ca *authority, auth tls.ClientAuthType) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{ca.issue(nil)}, ClientAuth: auth, ClientCAs: ca.pool()}
}

// TestClientCert: each route shows its own certificate, over connections that no other uses, and the others show none.
func TestClientCert(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	srv := serveTLS(t, wantsClient(ca, tls.RequireAndVerifyClientCert), func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].DNSNames[0], " ", r.RemoteAddr)
	})
	cert := func(a *authority, name string) *tls.Certificate {
		issued := a.issue(nil, name)
		parsed, err := webhook.ParseClientCert(certPEM(issued.Certificate[0]), keyPEM(t, issued))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	// A session cache of the operator's must not let one route resume what another began.
	s := newSender(t, func(c *webhook.SenderConfig) {
		c.TLSConfig = ca.trusted()
		c.TLSConfig.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	})
	one, two := cert(ca, "one"), cert(ca, "two")
	chained := *one // the same leaf, which another may be unable to prove without what follows
	chained.Certificate = append(slices.Clone(one.Certificate), ca.cert.Raw)
	peers := map[string]string{}
	for i := range 3 {
		for name, c := range map[string]*tls.Certificate{"one": one, "two": two} {
			r := request(t, srv.URL)
			copied := *c // what counts is the certificate, not the pointer
			r.Route = &webhook.Route{ClientCert: &copied}
			got := s.Send(t.Context(), r)
			shown, peer, _ := bytes.Cut(got.Body, []byte(" "))
			if got.Outcome != webhook.Delivered || string(shown) != name {
				t.Fatalf("%s: got %+v", name, got)
			}
			if i > 0 && peers[name] != string(peer) {
				t.Errorf("%s: a new connection for message %d", name, i)
			}
			peers[name] = string(peer)
		}
	}
	if peers["one"] == peers["two"] {
		t.Error("two routes share a connection")
	}
	r := request(t, srv.URL)
	r.Route = &webhook.Route{ClientCert: &chained}
	if got := s.Send(t.Context(), r); string(got.Body) == "one "+peers["one"] {
		t.Error("two chains share a connection")
	}
	for name, route := range map[string]*webhook.Route{"none": nil, "an unknown authority's": {ClientCert: cert(stranger, "one")}} {
		r := request(t, srv.URL)
		r.Route = route
		if got := s.Send(t.Context(), r); got.Outcome != webhook.TLSError && got.Outcome != webhook.ConnectionError { // the alert comes after our Finished
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// TestClientCertNotForProxy: a proxy that asks for a certificate does not get the endpoint's.
func TestClientCertNotForProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := serveTLS(t, wantsClient(ca, tls.RequireAndVerifyClientCert), func(http.ResponseWriter, *http.Request) {})
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	var asked atomic.Int32
	config := wantsClient(ca, tls.RequestClientCert)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		asked.Add(1)
		if len(state.PeerCertificates) != 0 {
			t.Error("the proxy saw a certificate")
		}
		return nil
	}
	client := ca.issue(nil, "client")
	for url, addr := range map[string]net.Addr{"https://127.0.0.1/": srv.Listener.Addr(), "http://127.0.0.1/": plain.Listener.Addr()} {
		proxy := newTestProxy(t, config, addr.String())
		s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = ca.trusted() })
		r := request(t, url)
		r.Route = &webhook.Route{Proxy: proxy.url, ClientCert: &client}
		if got := s.Send(t.Context(), r); got.Outcome != webhook.Delivered {
			t.Errorf("%s: got %+v", url, got)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("the proxy asked %d times", asked.Load())
	}
}

// TestRoutesBounded: the connections of the route that was used longest ago are closed for a new one, and CloseIdle closes all.
func TestRoutesBounded(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	closed := make(chan struct{}, 16)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	ca := newAuthority(t)
	s := newSender(t, func(c *webhook.SenderConfig) { c.MaxRoutes = 2 })
	var routes []*webhook.Route
	for range 3 {
		cert := ca.issue(nil, "client")
		routes = append(routes, &webhook.Route{ClientCert: &cert})
	}
	send := func(route *webhook.Route, wantOpened int32) {
		t.Helper()
		r := request(t, srv.URL)
		r.Route = route
		if got := s.Send(t.Context(), r); got.Outcome != webhook.Delivered || opened.Load() != wantOpened {
			t.Fatalf("got %+v over %d connections, want %d", got, opened.Load(), wantOpened)
		}
	}
	send(nil, 1)
	send(routes[0], 2)
	send(routes[1], 3)
	send(routes[0], 3) // now 1 is the one used longest ago
	send(routes[2], 4)
	<-closed
	send(routes[0], 4)
	send(routes[2], 4)
	send(routes[1], 5)
	<-closed
	send(nil, 5) // no route counts among them
	s.CloseIdle()
	for range 3 {
		<-closed
	}
	send(routes[1], 6) // and is of use again
	s.CloseIdle()
	<-closed
}

// TestRoutesInUse: a route in use is never closed, however many there are, and does not stay when it is done.
func TestRoutesInUse(t *testing.T) {
	t.Parallel()
	const n = 8
	arrived, answer := make(chan struct{}), make(chan struct{})
	srv := serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-answer
	})
	ca := newAuthority(t)
	s := newSender(t, func(c *webhook.SenderConfig) { c.MaxRoutes = 1 })
	results := make(chan webhook.Result, n)
	for range n {
		cert := ca.issue(nil, "client")
		r := request(t, srv.URL)
		r.Route = &webhook.Route{ClientCert: &cert}
		go func() { results <- s.Send(t.Context(), r) }()
	}
	for range n {
		<-arrived
	}
	s.CloseIdle()
	close(answer)
	for range n {
		if got := <-results; got.Outcome != webhook.Delivered {
			t.Errorf("got %+v", got)
		}
	}
}

// TestRoutesMemory: as many routes as are kept by default cost a bounded amount of memory, without a connection.
func TestRoutesMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 4096 transports")
	}
	ca := newAuthority(t)
	cert := ca.issue(nil, "client")
	s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = ca.trusted() })
	hookDials(s) // nothing is ever sent
	u := mustURL(t, "http://127.0.0.1/")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range webhook.DefaultMaxRoutes + 100 {
		other := cert
		other.Certificate = [][]byte{fmt.Append(nil, i)}
		got := s.Send(t.Context(), &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}, Route: &webhook.Route{ClientCert: &other}})
		if got.Outcome != webhook.DialError {
			t.Fatalf("got %+v", got)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / webhook.DefaultMaxRoutes
	t.Logf("%d bytes a route", each)
	if each > 16<<10 {
		t.Errorf("%d bytes a route", each)
	}
	s.CloseIdle()
}

// BenchmarkRoute is what a route costs an attempt, beside BenchmarkSend: the way to its own connections.
func BenchmarkRoute(b *testing.B) {
	srv := serve(b, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	ca := newAuthority(b)
	cert := ca.issue(nil, "client")
	s := newSender(b, func(c *webhook.SenderConfig) { c.MaxIdlePerHost = 1024 })
	for name, route := range map[string]*webhook.Route{"direct": nil, "certificate": {ClientCert: &cert}} {
		b.Run(name, func(b *testing.B) {
			r := request(b, srv.URL)
			r.Route = route
			b.ReportAllocs()
			for b.Loop() {
				if got := s.Send(b.Context(), r); got.Outcome != webhook.Delivered {
					b.Fatalf("got %+v", got)
				}
			}
		})
	}
}
