package api_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// signed tells whether a receiver that holds secret takes what e signs at a time.
func signed(e *endpoint.Endpoint, at time.Time, secret webhook.Secret) bool {
	header, body := http.Header{}, []byte(`{"specversion":"1.0"}`)
	webhook.SetHeaders(header, "evt_1", at, body, e.Signing(at)...)
	v := webhook.Verifier{Secrets: []webhook.Secret{secret}, Now: func() time.Time { return at }}
	if key := secret.Public(); !key.IsZero() { // a receiver has no more than that
		v = webhook.Verifier{PublicKeys: []webhook.PublicKey{key}, Now: v.Now}
	}
	return v.Verify(header, body) == nil
}

func parse(t *testing.T, text string) webhook.Secret {
	t.Helper()
	s, err := webhook.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRotateSecret(t *testing.T) {
	t.Parallel()
	var log logBuffer
	h, registry := setup(t, func(c *api.Config) {
		c.Overlap = 24 * time.Hour
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	hmac, key := webhook.GenerateSecret(), webhook.GenerateSigningKey()
	const hour = time.Hour
	for _, tt := range []struct {
		id, signatures, body string
		shown                bool          // an HMAC secret is made and told
		replaced             []string      // schemes
		overlap              time.Duration // until when the old one signs
	}{
		{"nothing", `"v1"`, ``, true, []string{"v1"}, 24 * hour},
		{"empty", `"v1"`, `{}`, true, []string{"v1"}, 24 * hour},
		{"both", `"v1","v1a"`, ``, true, []string{"v1", "v1a"}, 24 * hour},
		{"given", `"v1","v1a"`, `{"secret":"` + hmac.Reveal() + `"}`, false, []string{"v1"}, 24 * hour},
		{"key", `"v1","v1a"`, `{"signing_key":"` + key.Reveal() + `","overlap":"48h"}`, false, []string{"v1a"}, 48 * hour},
		{"one", `"v1","v1a"`, `{"signatures":["v1a"],"overlap":"1h"}`, false, []string{"v1a"}, hour},
		{"more", `"v1"`, `{"signatures":["v1a"]}`, false, nil, 0},
		{"atonce", `"v1"`, `{"overlap":"0s"}`, true, []string{"v1"}, 0},
		{"revoked", `"v1"`, `{"revoke":true}`, true, []string{"v1"}, 0},
		{"often", `"v1"`, `{"signatures":["v1","v1","v1"]}`, true, []string{"v1"}, 24 * hour},
	} {
		answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"`+tt.id+`","url":"https://example.com","signatures":[`+tt.signatures+`]}`), http.StatusCreated)
		before := registry.Snapshot().Get(tt.id).Secrets
		start := time.Now()
		w := authorized(h, "POST", "/api/v1/endpoints/"+tt.id+"/rotate-secret", tt.body)
		got := answer(t, w, 200)
		end := time.Now()
		if (got.Secret != "") != tt.shown || strings.Contains(w.Body.String(), "whsk_") {
			t.Errorf("%s: %s", tt.id, w.Body)
		}
		e := registry.Snapshot().Get(tt.id)
		for _, current := range e.Secrets {
			for _, at := range []time.Time{end, end.Add(1000 * hour)} {
				if !signed(e, at, current) {
					t.Errorf("%s: the new %s does not sign", tt.id, current.Scheme())
				}
			}
		}
		if tt.shown && !signed(e, end, parse(t, got.Secret)) {
			t.Errorf("%s: the secret that is told does not sign", tt.id)
		}
		for _, old := range before {
			if !slices.Contains(tt.replaced, old.Scheme()) {
				if !signed(e, end.Add(1000*hour), old) {
					t.Errorf("%s: the %s that was not replaced does not sign on", tt.id, old.Scheme())
				}
				continue
			}
			if tt.overlap > 0 && !signed(e, start.Add(tt.overlap-time.Second), old) {
				t.Errorf("%s: the old %s does not sign for %v", tt.id, old.Scheme(), tt.overlap)
			}
			if signed(e, end.Add(tt.overlap), old) {
				t.Errorf("%s: the old %s still signs after %v", tt.id, old.Scheme(), tt.overlap)
			}
		}
		if again := authorized(h, "GET", "/api/v1/endpoints/"+tt.id, ""); strings.Contains(again.Body.String(), "whsec_") {
			t.Errorf("%s: shown twice: %s", tt.id, again.Body)
		}
	}
	leaks(t, []string{"whsec_", "whsk_"}, log.String())
}

// Whoever revokes ends what was replaced earlier, too.
func TestRevoke(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.Overlap = 24 * time.Hour })
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	for _, body := range []string{``, ``, `{"revoke":true}`} {
		answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/rotate-secret", body), http.StatusOK)
	}
	if n := len(registry.Snapshot().Get("crm").Signing(time.Now())); n != 1 {
		t.Errorf("%d secrets sign", n)
	}
}

func TestRotateOftenWithinTheOverlap(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.Overlap = time.Hour })
	made := []string{answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated).Secret}
	for range 10 {
		made = append(made, answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/rotate-secret", ""), 200).Secret)
	}
	e := registry.Snapshot().Get("crm")
	for i, text := range made {
		// The present one and the eight before it: each costs every webhook a signature.
		if got, want := signed(e, time.Now(), parse(t, text)), i >= len(made)-9; got != want {
			t.Errorf("secret %d of %d signs: %v", i, len(made), got)
		}
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(made)))); n != len(made) {
		t.Errorf("%d different secrets of %d", n, len(made))
	}
}

func TestRotateIsRefused(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.Overlap = time.Hour })
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	before := registry.Snapshot().Get("crm")
	for _, tt := range []struct {
		id, body string
		code     int
		want     string
	}{
		{"file", ``, 409, "config file"},
		{"none", ``, 404, "no such endpoint"},
		{"crm", `{"overlap":"soon"}`, 400, "overlap: "},
		{"crm", `{"overlap":"-1h"}`, 400, "overlap: "},
		{"crm", `{"overlap":"10000h"}`, 400, "overlap: "},
		{"crm", `{"overlap":""}`, 400, "overlap: "},
		{"crm", `{"overlap":"1h","revoke":true}`, 400, "overlap: "},
		{"crm", `{"secret":"whsec_sentinel"}`, 400, "secret: "},
		{"crm", `{"secret":"` + webhook.GenerateSigningKey().Reveal() + `"}`, 400, "secret: is of another kind"},
		{"crm", `{"signing_key":"sentinel"}`, 400, "signing_key: "},
		{"crm", `{"signatures":["v2"]}`, 400, "signatures: "},
		{"crm", `{"previous":"x"}`, 400, "previous"},
		{"crm", `{`, 400, "body"},
	} {
		w := authorized(h, "POST", "/api/v1/endpoints/"+tt.id+"/rotate-secret", tt.body)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s", tt.id, tt.body, w.Code, w.Body)
		}
		leaks(t, []string{"sentinel", "whsk_A"}, w.Body.String())
	}
	if e := registry.Snapshot().Get("crm"); !e.Secrets[0].Equal(before.Secrets[0]) || len(e.Retired) != 0 {
		t.Error("something was replaced all the same")
	}
	if w := do(h, "POST", "/api/v1/endpoints/crm/rotate-secret", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("without the token: %d", w.Code)
	}
}

func TestWebhookKeys(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.Overlap = time.Hour })
	set := func() (keys webhook.KeySet) {
		t.Helper()
		w := do(h, "GET", "/.well-known/webhook-keys", "", "Host", "relay.example.com") // from anywhere, without a token
		if err := json.Unmarshal(w.Body.Bytes(), &keys); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		leaks(t, []string{"whsk_", "whsec_", "secret-project", "example.com/x", "endpoint"}, w.Body.String())
		return keys
	}
	if w := do(h, "GET", "/.well-known/webhook-keys", ""); strings.TrimSpace(w.Body.String()) != `{"keys":[]}` {
		t.Errorf("without keys: %s", w.Body)
	}
	made := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"secret-project","url":"https://example.com/x","signatures":["v1","v1a"]}`), http.StatusCreated)
	shared := webhook.GenerateSigningKey() // of two endpoints
	registry.SetConfig([]*endpoint.Endpoint{
		{ID: "one", URL: "https://example.com/x", Enabled: true, Secrets: []webhook.Secret{webhook.GenerateSecret(), shared}},
		{ID: "two", URL: "https://example.com/x", Secrets: []webhook.Secret{shared}},
	})
	keys := set().Keys
	if len(keys) != 2 {
		t.Fatalf("%d keys of two: %+v", len(keys), keys)
	}
	for _, k := range keys {
		raw, err := base64.RawURLEncoding.DecodeString(k.X)
		public, perr := webhook.ParsePublicKey(k.PublicKey)
		if err != nil || perr != nil || !slices.Equal(raw, public[:]) || k.ID != public.KeyID() || k.Type != "OKP" || k.Curve != "Ed25519" || k.Algorithm != "EdDSA" || k.Use != "sig" {
			t.Errorf("%+v %v %v", k, err, perr)
		}
	}
	has := func(list []webhook.JWK, id string) bool {
		return slices.ContainsFunc(list, func(k webhook.JWK) bool { return k.ID == id })
	}
	if !has(keys, made.PublicKeys[0].ID) || !has(keys, shared.Public().KeyID()) {
		t.Errorf("%+v", keys)
	}
	rotated := answer(t, authorized(h, "POST", "/api/v1/endpoints/secret-project/rotate-secret", `{"signatures":["v1a"]}`), 200)
	if keys = set().Keys; len(keys) != 3 || len(rotated.PublicKeys) != 2 || !has(keys, made.PublicKeys[0].ID) || !has(keys, rotated.PublicKeys[0].ID) {
		t.Errorf("during a rotation both are there: %+v", keys)
	}
	starting, _ := setup(t, func(c *api.Config) { c.Endpoints = func() *endpoint.Registry { return nil } })
	if w := do(starting, "GET", "/.well-known/webhook-keys", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("while starting: %d", w.Code)
	}
}
