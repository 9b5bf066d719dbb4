package relay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/relay"
	"github.com/nex-crm/relay/internal/webhook"
)

// target is a receiver of one endpoint. It takes what its verifier takes and notes the insights' contents.
type target struct {
	t        *testing.T
	verifier webhook.Verifier
	answer   func(content string, attempt int) int // status; nil answers 200
	server   *httptest.Server

	mu       sync.Mutex
	attempts []string // contents, one for each attempt
	taken    []string // contents answered with 2xx
}

func newTarget(t *testing.T, verifier webhook.Verifier, config *tls.Config) *target {
	t.Helper()
	r := &target{t: t, verifier: verifier}
	r.server = httptest.NewUnstartedServer(r)
	if config != nil {
		r.server.TLS = config
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.server.Close)
	return r
}

func (r *target) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Errorf("read a webhook: %v", err)
	}
	if err := r.verifier.Verify(req.Header, body); err != nil {
		r.t.Errorf("webhook not verified: %v", err)
	}
	var e struct{ Data struct{ Content string } }
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Errorf("no event: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, e.Data.Content)
	status := http.StatusOK
	if r.answer != nil {
		status = r.answer(e.Data.Content, count(r.attempts, e.Data.Content))
	}
	if status == http.StatusOK {
		r.taken = append(r.taken, e.Data.Content)
	}
	w.WriteHeader(status)
}

func count(list []string, s string) (n int) {
	for _, one := range list {
		if one == s {
			n++
		}
	}
	return n
}

// contents waits until n webhooks have been taken.
func (r *target) contents(n int) []string {
	r.t.Helper()
	var got []string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("taken: %v", got)
		}
	}()
	eventually(r.t, fmt.Sprintf("%d webhooks are taken", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		got = slices.Clone(r.taken)
		return len(got) >= n
	})
	return got
}

// emit has Nex send insights with these contents, one after the other, each about a target of its own.
func (w *world) emit(slug string, confidence float64, contents ...string) {
	for _, c := range contents {
		w.sim.EmitInsights(slug, nexsim.Insight{Type: "risk", Content: c, Confidence: confidence})
	}
}

func numbered(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%02d", prefix, i))
	}
	return out
}

func TestStrictEndpointOfTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	key := webhook.GenerateSigningKey()
	w.write("strict.key", key.Reveal())
	r := newTarget(t, webhook.Verifier{PublicKeys: []webhook.PublicKey{key.Public()}}, nil)
	r.answer = func(content string, attempt int) int {
		if content == "good-03" && attempt == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}
	w.configure([]string{"acme"}, fmt.Sprintf("  - {id: strict, url: \"%s\", filter: \"event.data.confidence >= 0.8\", rate_limit: 200/s, ordered: true, signing_key_file: strict.key}\n", r.server.URL))
	run := w.start()
	w.connected("acme")
	want := numbered("good", 12)
	for _, c := range want {
		w.emit("acme", 0.9, c)
		w.emit("acme", 0.2, "bad of "+c)
	}
	if got := r.contents(len(want)); !slices.Equal(got, want) {
		t.Errorf("out of order, or not filtered: %v", got)
	}
	w.webhooks(2 * len(want))

	var keys webhook.KeySet // receivers learn the key from the relay
	if code := run.request("GET", "/.well-known/webhook-keys", "", &keys); code != 200 || len(keys.Keys) != 1 || keys.Keys[0].PublicKey != key.Public().String() {
		t.Errorf("%d %+v", code, keys)
	}
	var shown api.Endpoint
	run.request("GET", "/api/v1/endpoints/strict", "", &shown)
	if shown.RateLimit != 200 || !shown.Ordered || shown.Filter == "" || !slices.Equal(shown.Signatures, []string{"v1a"}) {
		t.Errorf("%+v", shown)
	}
	for _, text := range []string{w.log.String(), fmt.Sprintf("%+v", shown)} {
		if _, secret, _ := strings.Cut(key.Reveal(), "_"); strings.Contains(text, secret) {
			t.Errorf("the key stands in:\n%s", text)
		}
	}
}

// authority signs the certificates of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	der, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	return a
}

func (a *authority) sign(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	var err error
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer); err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue is a certificate for 127.0.0.1.
func (a *authority) issue(name string) (cert tls.Certificate, certPEM, keyPEM string) {
	a.t.Helper()
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestClientCertificateAndAuthorityOfTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	ca := newAuthority(t)
	server, _, _ := ca.issue("receiver")
	_, certPEM, keyPEM := ca.issue("relay of acme")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	w.write("ca.pem", block("CERTIFICATE", ca.cert.Raw))
	w.write("client.pem", certPEM)
	w.write("client.key", keyPEM)
	w.settings = ", ca_file: ca.pem"
	w.configure([]string{"acme"}, fmt.Sprintf("  - {id: mutual, url: \"%s\", secret_file: webhook.secret, client_cert_file: client.pem, client_key_file: client.key}\n", r.server.URL))
	run := w.start()
	w.connected("acme")
	want := numbered("x", 3)
	w.emit("acme", 0.5, want...)
	got := r.contents(3)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	var shown api.Endpoint
	run.request("GET", "/api/v1/endpoints/mutual", "", &shown)
	if shown.ClientCert != "CN=relay of acme" {
		t.Errorf("%+v", shown)
	}
	if secret := strings.Split(keyPEM, "\n")[1]; strings.Contains(w.log.String(), secret) {
		t.Error("the client key stands in the log")
	}
}

// proxy is a forward proxy on this machine, for http targets.
func proxy(t *testing.T, authorization string) (p *httptest.Server, seen func() []string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	var mu sync.Mutex
	var list []string
	p = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != authorization {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		mu.Lock()
		list = append(list, r.URL.String())
		mu.Unlock()
		r.RequestURI = ""
		r.Header.Del("Proxy-Authorization")
		resp, err := transport.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}))
	t.Cleanup(p.Close)
	return p, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

func TestProxyOfTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	p, seen := proxy(t, "Basic dXNlcjpzZW50aW5lbC1wcm94eQ==") // user:sentinel-proxy
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, nil)
	w.write("proxy.url", "http://user:sentinel-proxy@"+p.Listener.Addr().String())
	w.configure([]string{"acme"}, fmt.Sprintf("  - {id: behind, url: \"%s/in\", secret_file: webhook.secret, proxy_file: proxy.url}\n", r.server.URL))
	run := w.start()
	w.connected("acme")
	w.emit("acme", 0.5, numbered("x", 3)...)
	r.contents(3)
	w.webhooks(3) // the others go as they went
	if got := seen(); len(got) != 3 || got[0] != r.server.URL+"/in" {
		t.Errorf("through the proxy went %v", got)
	}
	var shown json.RawMessage
	run.request("GET", "/api/v1/endpoints/behind", "", &shown)
	if !strings.Contains(string(shown), `"proxy":"http://`+p.Listener.Addr().String()+`"`) {
		t.Errorf("%s", shown)
	}
	for _, text := range []string{w.log.String(), string(shown)} {
		if strings.Contains(text, "sentinel-proxy") || strings.Contains(text, "dXNlcjpz") {
			t.Errorf("the proxy's credentials stand in:\n%s", text)
		}
	}
}

func TestHandshakeOfTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, nil)
	var mu sync.Mutex
	asked := 0
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if req.Method == http.MethodOptions {
			asked++
			if origin := req.Header.Get("WebHook-Request-Origin"); origin != "relay.example.com" {
				t.Errorf("asked by %q", origin)
			}
			rw.Header().Set("WebHook-Allowed-Origin", "relay.example.com")
			rw.Header().Set("WebHook-Allowed-Rate", "60000")
			return
		}
		if asked == 0 {
			t.Error("sent before the receiver agreed")
		}
		if origin := req.Header.Get("WebHook-Request-Origin"); origin != "relay.example.com" {
			t.Errorf("a webhook of %q", origin)
		}
		r.ServeHTTP(rw, req)
	}))
	t.Cleanup(front.Close)
	w.settings = ", origin: relay.example.com"
	w.configure([]string{"acme"}, fmt.Sprintf("  - {id: polite, url: \"%s\", secret_file: webhook.secret, handshake: true}\n", front.URL))
	run := w.start()
	w.connected("acme")
	w.emit("acme", 0.5, numbered("x", 5)...)
	r.contents(5)
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	w.start()
	w.connected("acme")
	w.emit("acme", 0.5, "later")
	r.contents(6)
	mu.Lock()
	defer mu.Unlock()
	if asked != 1 {
		t.Errorf("asked %d times: consent outlives a restart", asked)
	}
}

func TestPauseInTheFileOverARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, nil)
	endpoint := func(more string) string {
		return fmt.Sprintf("  - {id: crm, url: \"%s\", secret_file: webhook.secret, max_in_flight: 1%s}\n", r.server.URL, more)
	}
	w.configure([]string{"acme"}, endpoint(""))
	run := w.start()
	w.connected("acme")
	w.emit("acme", 0.5, "before")
	r.contents(1)
	w.webhooks(1)

	w.configure([]string{"acme"}, endpoint(", enabled: false"))
	run.hup <- struct{}{}
	paused := func(run *running) bool {
		var e api.Endpoint
		return run.request("GET", "/api/v1/endpoints/crm", "", &e) == 200 && e.State == "paused" && e.Position > 0
	}
	eventually(t, "it is paused and has its place", func() bool { return paused(run) })
	w.emit("acme", 0.5, numbered("while", 4)...)
	w.webhooks(4) // the others get them
	run.read()    // what is still to be left when the relay stops would come twice
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	run = w.start()
	w.connected("acme")
	w.emit("acme", 0.5, "while-04")
	w.webhooks(1)
	run.read()
	if !paused(run) {
		t.Error("not paused any more after the restart")
	}
	if code := run.request("POST", "/api/v1/endpoints/crm/enable", "", nil); code != http.StatusConflict {
		t.Errorf("what the file switches off was switched on over the API: %d", code)
	}
	if got := r.contents(1); !slices.Equal(got, []string{"before"}) {
		t.Errorf("while it was paused it got %v", got[1:])
	}

	w.configure([]string{"acme"}, endpoint(", resume: newest-first"))
	run.hup <- struct{}{}
	want := append([]string{"before"}, numbered("while", 5)...)
	slices.Reverse(want[1:])
	if got := r.contents(6); !slices.Equal(got, want) {
		t.Errorf("went on with %v, want %v", got, want)
	}
	eventually(t, "nothing is left to be caught up with", func() bool {
		var e api.Endpoint
		run.request("GET", "/api/v1/endpoints/crm", "", &e)
		return e.State == "active" && e.Position == 0
	})
	w.emit("acme", 0.5, "after")
	if got := r.contents(7); got[6] != "after" {
		t.Errorf("%v", got)
	}
}

func TestPauseOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, nil)
	run := w.start()
	w.connected("acme")
	body := fmt.Sprintf(`{"id":"mine","url":%q,"secret":%q,"max_in_flight":1}`, r.server.URL, w.secret.Reveal())
	if code := run.request("POST", "/api/v1/endpoints", body, nil); code != 201 {
		t.Fatalf("create: %d", code)
	}
	for _, id := range []string{"mine", "all"} { // one of the API, one of the file
		if code := run.request("POST", "/api/v1/endpoints/"+id+"/disable", "", nil); code != 200 {
			t.Fatalf("disable %s: %d", id, code)
		}
		eventually(t, "its place is noted", func() bool {
			var e api.Endpoint
			run.request("GET", "/api/v1/endpoints/"+id, "", &e)
			return e.Position > 0 && e.State != "active"
		})
	}
	w.emit("acme", 0.5, numbered("while", 3)...)
	eventually(t, "the log has them", func() bool { return strings.Contains(run.metrics(), "relay_events_published_total 3") })
	run.read()
	run.request("POST", "/api/v1/endpoints/mine/enable?resume=skip", "", nil)
	run.request("POST", "/api/v1/endpoints/all/enable", "", nil)
	w.webhooks(3) // all
	eventually(t, "it has gone on", func() bool {
		var e api.Endpoint
		run.request("GET", "/api/v1/endpoints/mine", "", &e)
		return e.Position == 0
	})
	w.emit("acme", 0.5, "after")
	w.webhooks(1)
	if got := r.contents(1); !slices.Equal(got, []string{"after"}) {
		t.Errorf("skip delivered %v", got)
	}
}

// read waits until the relay has read its log and is done with what it read.
func (r *running) read() {
	r.t.Helper()
	nc, err := nats.Connect(r.NATSURL())
	if err != nil {
		r.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the log is read", func() bool {
		log, err := js.Stream(r.t.Context(), bus.StreamNex)
		if err != nil {
			return false
		}
		c, err := js.Consumer(r.t.Context(), bus.StreamNex, bus.ConsumerFanout)
		if err != nil {
			return false
		}
		// Its NumPending is 0 for a moment also where it has not heard yet of what the log has just taken.
		is := c.CachedInfo()
		return is.NumPending == 0 && is.NumAckPending == 0 && is.Delivered.Stream >= log.CachedInfo().State.LastSeq
	})
}

func (r *running) metrics() string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.Addr() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func TestRotationUnderFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	first := webhook.GenerateSecret()
	r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{first}}, nil)
	run := w.start()
	w.connected("acme")
	body := fmt.Sprintf(`{"id":"mine","url":%q,"secret":%q}`, r.server.URL, first.Reveal())
	if code := run.request("POST", "/api/v1/endpoints", body, nil); code != 201 {
		t.Fatalf("create: %d", code)
	}
	w.emit("acme", 0.5, "one")
	r.contents(1)
	var shown api.Endpoint
	if code := run.request("POST", "/api/v1/endpoints/mine/rotate-secret", "", &shown); code != 200 {
		t.Fatalf("rotate: %d", code)
	}
	w.emit("acme", 0.5, "two") // the receiver has the old secret alone
	r.contents(2)
	second, err := webhook.ParseSecret(shown.Secret)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.verifier = webhook.Verifier{Secrets: []webhook.Secret{second}}
	r.mu.Unlock()
	w.emit("acme", 0.5, "three") // and now the new one alone
	r.contents(3)
	if code := run.request("POST", "/api/v1/endpoints/all/rotate-secret", "", nil); code != http.StatusConflict {
		t.Errorf("one of the file: %d", code)
	}
	for _, s := range []webhook.Secret{first, second} {
		if _, text, _ := strings.Cut(s.Reveal(), "_"); strings.Contains(w.log.String(), text) {
			t.Error("a secret stands in the log")
		}
	}
}

func TestFaultsOfEndpointsAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	ca := newAuthority(t)
	_, certPEM, keyPEM := ca.issue("relay")
	_, _, otherKey := ca.issue("other")
	for name, content := range map[string]string{
		"cert.pem": certPEM, "key.pem": keyPEM, "other.pem": otherKey, "noise.pem": "sentinel", "short.key": "sentinel",
		"sign.key": webhook.GenerateSigningKey().Reveal(),
	} {
		w.write(name, content)
	}
	for _, tt := range []struct{ name, settings, endpoint, want string }{
		{"rate", "", "rate_limit: fast", "endpoints[1].rate_limit: \"fast\" is no rate"},
		{"rate too small", "", "rate_limit: 0.5/h", "endpoints[1].rate_limit: "},
		{"mode", "", "resume: backwards", "endpoints[1].resume: \"backwards\" is no way to resume"},
		{"mode against the order", "", "ordered: true, resume: newest-first", "endpoints[1].resume: newest-first would break the order"},
		{"filter", "", "filter: \"event.typ == 1\"", "endpoints[1].filter: line 1, column 7: "},
		{"filter cut off", "", "filter: \"event.data.confidence >\"", "endpoints[1].filter: line 1, column "},
		{"signing key of the other kind", "", "signing_key_file: webhook.secret", "endpoints[1].signing_key: is no Ed25519 key"},
		{"signing key of no kind", "", "signing_key: sentinel", "endpoints[1].signing_key: "},
		{"previous secret", "", "previous_secret: sentinel", "endpoints[1].previous_secret: "},
		{"proxy", "", "proxy: \"socks5://sentinel@x\"", "endpoints[1].proxy: "},
		{"proxy twice", "", "proxy: \"http://sentinel@x\", proxy_file: short.key", "endpoints[1].proxy: is given more than once"},
		{"no PEM", "", "client_cert_file: noise.pem, client_key_file: key.pem", "endpoints[1].client_cert_file: "},
		{"another's key", "", "client_cert_file: cert.pem, client_key_file: other.pem", "endpoints[1].client_cert_file: "},
		{"no such file", "", "client_cert_file: none.pem, client_key_file: key.pem", "endpoints[1].client_cert_file: "},
		{"no key", "", "client_cert_file: cert.pem", "endpoints[1].client_cert_file: and client_key_file are needed together"},
		{"authorities", ", ca_file: noise.pem", "", "webhooks.ca_file: "},
		{"no such authorities", ", ca_file: none.pem", "", "webhooks.ca_file: "},
		{"key", ", encryption_key_file: short.key", "", "webhooks.encryption_key: must be 32 bytes"},
		{"previous key", ", previous_encryption_key_file: short.key", "", "webhooks.previous_encryption_key: must be 32 bytes"},
		{"permitted proxy", ", allow_proxies: [proxy.internal]", "", "webhooks.allow_proxies[0]: \"proxy.internal\" is no host:port"},
		{"origin", ", origin: \"a b\"", "", "webhooks.origin: "},
		{"overlap", ", secret_overlap: 10000d", "", "webhooks.secret_overlap: "},
		{"disable", ", disable_after: never", "", "webhooks.disable_after: "},
	} {
		w.settings = tt.settings
		more := ""
		if tt.endpoint != "" {
			more = fmt.Sprintf("  - {id: x, url: \"%s\", secret_file: webhook.secret, %s}\n", w.receiver.URL, tt.endpoint)
		}
		w.configure([]string{"acme"}, more)
		cfg, err := w.load()
		err = relay.Judge(cfg, err)
		var problems config.Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(problems[0].String(), tt.want) {
			t.Errorf("%s: want one problem that begins with %q, got %v", tt.name, tt.want, err)
		}
		if err != nil && (strings.Contains(err.Error(), "sentinel") || strings.Contains(err.Error(), strings.Split(keyPEM, "\n")[1])) {
			t.Errorf("%s: a secret is shown: %v", tt.name, err)
		}
	}
	w.settings = ""
	w.configure([]string{"acme"}, fmt.Sprintf("  - {id: x, url: \"%s\", signing_key_file: sign.key, rate_limit: 600/m, resume: skip, client_cert_file: cert.pem, client_key_file: key.pem}\n", w.receiver.URL))
	cfg, err := w.load()
	if err := relay.Judge(cfg, err); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
