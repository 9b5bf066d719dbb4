package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// clientCert is a certificate that a relay shows, and its key, in PEM.
func clientCert(t *testing.T) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay of acme"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// keyText is the part of a PEM key that must not be seen.
func keyText(keyPEM string) string { return strings.Split(keyPEM, "\n")[1] }

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func answer(t *testing.T, w *httptest.ResponseRecorder, code int) (e api.Endpoint) {
	t.Helper()
	if w.Code != code {
		t.Fatalf("%d %s, want %d", w.Code, w.Body, code)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return e
}

// leaks fails where one of the secrets stands in one of the texts.
func leaks(t *testing.T, secrets []string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%q stands in %s", secret, text)
			}
		}
	}
}

func TestCreateWithEveryField(t *testing.T) {
	t.Parallel()
	var log logBuffer
	h, registry := setup(t, func(c *api.Config) {
		c.AllowProxies = []string{"127.0.0.1:3128"}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	hmac, key := webhook.GenerateSecret(), webhook.GenerateSigningKey()
	certPEM, keyPEM := clientCert(t)
	body := map[string]any{
		"id": "crm", "url": "https://example.com/x", "description": "CRM", "events": []string{"nex.insight.risk"}, "workspaces": []string{"Acme Corp"},
		"secret": hmac.Reveal(), "signing_key": key.Reveal(), "signatures": []string{"v1", "v1a"}, "rate_limit": "600/m", "ordered": true,
		"filter": "event.data.confidence >= 0.8", "resume": "skip", "handshake": true, "proxy": "http://user:sentinel-proxy@127.0.0.1:3128",
		"client_cert": certPEM, "client_key": keyPEM, "timeout": "5s", "max_in_flight": 3, "headers": map[string]string{"X-Key": "sentinel-header"},
		"enabled": false,
	}
	w := authorized(h, "POST", "/api/v1/endpoints", asJSON(t, body))
	got := answer(t, w, http.StatusCreated)
	if got.Secret != "" { // it was given, its owner has it
		t.Error("a secret that was given is shown")
	}
	if got.Revision == 0 || got.EventsToken == "" {
		t.Error("it has no revision, or no token")
	}
	got.CreatedAt, got.Revision, got.EventsToken = nil, 0, ""
	want := api.Endpoint{
		ID: "crm", URL: "https://example.com/x", Description: "CRM", Events: []string{"nex.insight.risk"}, Workspaces: []string{"acme_corp"},
		Timeout: "5s", MaxInFlight: 3, RateLimit: 10, Ordered: true, Filter: "event.data.confidence >= 0.8", Resume: "skip",
		Headers: map[string]string{"X-Key": "[redacted]"}, Handshake: true, Proxy: "http://127.0.0.1:3128", ClientCert: "CN=relay of acme",
		Signatures: []string{"v1", "v1a"}, PublicKeys: []api.PublicKey{{ID: key.Public().KeyID(), Key: key.Public().String()}},
		Enabled: false, State: "paused", Source: "api", Warnings: []string{"a warning"},
	}
	if a, b := asJSON(t, got), asJSON(t, want); a != b {
		t.Errorf("\ngot  %s\nwant %s", a, b)
	}
	stands := registry.Snapshot().Get("crm")
	if len(stands.Secrets) != 2 || !stands.Secrets[0].Equal(hmac) || !stands.Secrets[1].Equal(key) || stands.Route.Proxy.User.String() != "user:sentinel-proxy" {
		t.Errorf("stored: %+v", stands)
	}
	secrets := []string{"whsec_", "whsk_", "sentinel", keyText(keyPEM), "PRIVATE KEY"}
	leaks(t, secrets, w.Body.String(), authorized(h, "GET", "/api/v1/endpoints/crm", "").Body.String(),
		authorized(h, "GET", "/api/v1/endpoints", "").Body.String(), do(h, "GET", "/.well-known/webhook-keys", "").Body.String(), log.String())
}

// What the relay makes is told where its owner needs it: an HMAC secret once, of an Ed25519 key the public half.
func TestWhatTheRelayMakes(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	given := webhook.GenerateSigningKey()
	for _, tt := range []struct {
		name, body string
		signatures []string
		shown      bool // an HMAC secret, once
	}{
		{"nothing said", `{"id":"a","url":"https://example.com"}`, []string{"v1"}, true},
		{"v1", `{"id":"b","url":"https://example.com","signatures":["v1"]}`, []string{"v1"}, true},
		{"v1a", `{"id":"c","url":"https://example.com","signatures":["v1a"]}`, []string{"v1a"}, false},
		{"both", `{"id":"d","url":"https://example.com","signatures":["v1","v1a"]}`, []string{"v1", "v1a"}, true},
		{"both, the other way", `{"id":"e","url":"https://example.com","signatures":["v1a","v1"]}`, []string{"v1a", "v1"}, true},
		{"each named often", `{"id":"f","url":"https://example.com","signatures":["v1","v1a","v1","v1"]}`, []string{"v1", "v1a"}, true},
		{"key given", `{"id":"g","url":"https://example.com","signing_key":"` + given.Reveal() + `"}`, []string{"v1a"}, false},
		{"key given, v1 made", `{"id":"h","url":"https://example.com","signing_key":"` + given.Reveal() + `","signatures":["v1a","v1"]}`, []string{"v1a", "v1"}, true},
	} {
		w := authorized(h, "POST", "/api/v1/endpoints", tt.body)
		got := answer(t, w, http.StatusCreated)
		stands := registry.Snapshot().Get(got.ID)
		if len(stands.Secrets) != len(tt.signatures) {
			t.Errorf("%s: %d secrets sign", tt.name, len(stands.Secrets))
		}
		if !slices.Equal(got.Signatures, tt.signatures) || (got.Secret != "") != tt.shown || strings.Contains(w.Body.String(), "whsk_") {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
		if tt.shown && !slices.ContainsFunc(stands.Secrets, func(s webhook.Secret) bool { return s.Reveal() == got.Secret }) {
			t.Errorf("%s: the secret that is shown is not the one that signs", tt.name)
		}
		if again := answer(t, authorized(h, "GET", "/api/v1/endpoints/"+got.ID, ""), 200); again.Secret != "" {
			t.Errorf("%s: shown twice", tt.name)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	for rate, want := range map[string]float64{`10`: 10, `0.5`: 0.5, `"10"`: 10, `"10/s"`: 10, `"600/m"`: 10, `"1800/h"`: 0.5, `""`: 0, `0`: 0, `null`: 0} {
		got := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"url":"https://example.com","rate_limit":`+rate+`}`), http.StatusCreated)
		if got.RateLimit != want {
			t.Errorf("%s: %v a second", rate, got.RateLimit)
		}
	}
}

func TestFaultsAreNamedByField(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.AllowProxies = []string{"proxy.example.com:3128"} })
	hmac, key := webhook.GenerateSecret().Reveal(), webhook.GenerateSigningKey().Reveal()
	certPEM, keyPEM := clientCert(t)
	_, otherKey := clientCert(t)
	before := len(registry.Snapshot().All())
	for _, tt := range []struct {
		name  string
		field string
		value any
		want  string // how the message goes on behind the field, or a part of it
	}{
		{"filter with a typo", "filter", "event.typ == 'x'", "line 1, column 7"},
		{"filter that is no bool", "filter", "event.type", "filter: "},
		{"filter cut off", "filter", "event.data.confidence >=", "line 1, column "},
		{"rate of no kind", "rate_limit", "fast", "is no rate"},
		{"negative rate", "rate_limit", -1, "is no rate"},
		{"rate as a list", "rate_limit", []int{1}, "is no rate"},
		{"rate too small", "rate_limit", "0.1/h", "is outside"},
		{"rate too large", "rate_limit", 1e9, "is outside"},
		{"unknown mode", "resume", "backwards", "all newest-first latest-per-target skip"},
		{"unknown scheme", "signatures", []string{"v2"}, "must be v1 or v1a"},
		{"secret of the other kind", "secret", key, "is of another kind"},
		{"key of the other kind", "signing_key", hmac, "is of another kind"},
		{"key of no kind", "signing_key", "whsk_sentinel", "signing_key: "},
		{"proxy of another scheme", "proxy", "socks5://user:sentinel@127.0.0.1:1", "neither http:"},
		{"proxy that the operator does not permit", "proxy", "http://user:sentinel@127.0.0.1:3128", "127.0.0.1:3128 is not among webhooks.allow_proxies"},
		{"proxy on another port", "proxy", "http://proxy.example.com", "proxy.example.com:80 is not among"},
		{"certificate without key", "client_cert", certPEM, "client_key are needed together"},
		{"key without certificate", "client_key", keyPEM, "client_cert: and client_key are needed together"},
	} {
		body := map[string]any{"url": "https://example.com/x", tt.field: tt.value}
		w := authorized(h, "POST", "/api/v1/endpoints", asJSON(t, body))
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 400 || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if field := strings.Replace(tt.field, "client_key", "client_cert", 1); !strings.Contains("; "+strings.TrimPrefix(e.Message, "body: "), "; "+field+": ") {
			t.Errorf("%s: %s is not named: %s", tt.name, field, e.Message)
		}
		leaks(t, []string{"sentinel", hmac, key, keyText(keyPEM)}, w.Body.String())
	}
	for name, body := range map[string]map[string]any{
		"another's key":                 {"client_cert": certPEM, "client_key": otherKey},
		"no PEM":                        {"client_cert": "sentinel", "client_key": "sentinel"},
		"order and newest first":        {"ordered": true, "resume": "newest-first"},
		"order and the last per target": {"ordered": true, "resume": "latest-per-target"},
	} {
		body["url"] = "https://example.com/x"
		w := authorized(h, "POST", "/api/v1/endpoints", asJSON(t, body))
		field := "client_cert: "
		if body["ordered"] != nil {
			field = "resume: "
		}
		if w.Code != 400 || !strings.Contains(w.Body.String(), field) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		leaks(t, []string{"sentinel", keyText(keyPEM), keyText(otherKey)}, w.Body.String())
	}
	w := authorized(h, "POST", "/api/v1/endpoints",
		`{"url":"https://example.com/x","filter":"event.typ == 1","resume":"x","signatures":["v9"],"proxy":"ftp://sentinel","client_cert":"sentinel"}`)
	for _, field := range []string{"filter: ", "resume: ", "signatures: ", "proxy: ", "client_cert: "} {
		if !strings.Contains(w.Body.String(), field) {
			t.Errorf("%s is not among all faults at once: %s", field, w.Body)
		}
	}
	leaks(t, []string{"sentinel"}, w.Body.String())
	if n := len(registry.Snapshot().All()); n != before {
		t.Errorf("%d endpoints were made all the same", n-before)
	}
}

// withFanout is the handler with a fanout behind it, which does not run.
func withFanout(t *testing.T, change func(*api.Config)) (http.Handler, *endpoint.Registry, *bus.Bus) {
	t.Helper()
	h, registry, log, _ := overFanout(t, change)
	return h, registry, log
}

// overFanout is withFanout, and the fanout too.
func overFanout(t *testing.T, change func(*api.Config)) (http.Handler, *endpoint.Registry, *bus.Bus, *fanout.Fanout) {
	t.Helper()
	return fanoutOver(t, bustest.New(t), change)
}

// fanoutOver is overFanout over a log that is open.
func fanoutOver(t *testing.T, log *bus.Bus, change func(*api.Config)) (http.Handler, *endpoint.Registry, *bus.Bus, *fanout.Fanout) {
	t.Helper()
	var f *fanout.Fanout
	h, registry := open(t, log, func(c *api.Config) {
		c.Fanout, c.Limits.AllowHTTP = func() *fanout.Fanout { return f }, true
		if change != nil {
			change(c)
		}
	})
	sender := webhook.NewSender(webhook.SenderConfig{Guard: webhook.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), AllowHTTP: true})
	t.Cleanup(sender.CloseIdle)
	var err error
	f, err = fanout.New(fanout.Config{
		Bus: log, Endpoints: registry, Sender: sender, Policy: fanout.Policy{Schedule: fanout.DefaultSchedule()}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, registry, log, f
}

// An ordered endpoint has its consumer before it is known, and what is refused changes nothing at one that exists.
func TestOrderedHasItsConsumer(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	filters := func() []string {
		c, err := log.JetStream().Consumer(t.Context(), bus.StreamNex, "relay-ordered-crm")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().Config.FilterSubjects
	}
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com","ordered":true,"events":["nex.insight.*"]}`), http.StatusCreated)
	want := filters()
	w := authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com","ordered":true,"events":["nex.insight.risk"]}`)
	if w.Code != http.StatusConflict {
		t.Errorf("a second of the same id: %d %s", w.Code, w.Body)
	}
	if got := filters(); !slices.Equal(got, want) {
		t.Errorf("the consumer of the endpoint that exists reads %v now, before %v", got, want)
	}
}

func decodeInto(t *testing.T, w *httptest.ResponseRecorder, into any) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
}

func runFanout(t *testing.T, f *fanout.Fanout) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
