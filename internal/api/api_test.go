package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "sentinel-admin-token"

// setup is the handler over a real registry.
func setup(t *testing.T, change func(*api.Config)) (http.Handler, *endpoint.Registry) {
	t.Helper()
	return open(t, bustest.New(t), change)
}

func open(t *testing.T, log *bus.Bus, change func(*api.Config)) (http.Handler, *endpoint.Registry) {
	t.Helper()
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	registry := endpoint.NewRegistry(log.Endpoints(), sealer, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- registry.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := registry.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	registry.SetConfig([]*endpoint.Endpoint{{
		ID: "file", URL: "https://example.com/file", Enabled: true, Secrets: []webhook.Secret{webhook.GenerateSecret()},
		Headers: map[string]string{"Authorization": "Bearer sentinel-credential"},
	}})
	cfg := api.Config{
		Tokens: []api.Token{{Name: "admin", Secret: token, Write: true}}, Ready: func() map[string]bool { return map[string]bool{"nats": true} },
		Workspaces: func() []stream.Status {
			return []stream.Status{{Workspace: "Acme Corp", Token: "acme_corp", State: stream.StateConnected}}
		},
		Log:       func() *bus.Bus { return log },
		Requests:  log.Requests,
		Endpoints: func() *endpoint.Registry { return registry }, Gatherer: prometheus.NewRegistry(),
		Warn:   func(*endpoint.Endpoint) []string { return []string{"a warning"} },
		Logger: slog.New(slog.DiscardHandler), Version: "test",
	}
	if change != nil {
		change(&cfg)
	}
	return api.Handler(cfg), registry
}

func do(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	ctx, gone := context.WithCancel(r.Context())
	defer gone()
	w := &impatient{httptest.NewRecorder(), gone}
	h.ServeHTTP(w, r.WithContext(ctx))
	return w.ResponseRecorder
}

// impatient goes away as soon as a part of the answer has come: an answer that has parts does not end by itself.
type impatient struct {
	*httptest.ResponseRecorder
	gone func()
}

func (i *impatient) Flush() {
	i.ResponseRecorder.Flush()
	i.gone()
}

func authorized(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	return do(h, method, target, body, "Authorization", "Bearer "+token)
}

func TestWhoGetsIn(t *testing.T) {
	t.Parallel()
	withToken, _ := setup(t, nil)
	open, _ := setup(t, func(c *api.Config) { c.Tokens = nil })
	for _, route := range []struct{ method, path string }{
		{"GET", "/api/v1/workspaces"}, {"GET", "/api/v1/endpoints"}, {"POST", "/api/v1/endpoints"}, {"GET", "/api/v1/endpoints/file"},
		{"DELETE", "/api/v1/endpoints/file"}, {"POST", "/api/v1/endpoints/file/enable"}, {"POST", "/api/v1/endpoints/file/disable"},
		{"POST", "/api/v1/endpoints/file/rotate-secret"}, {"GET", "/api/v1/nothing"}, {"PUT", "/api/v1/endpoints"},
	} {
		for _, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"Authorization", "Basic " + token}, {"Authorization", token}} {
			w := do(withToken, route.method, route.path, "{}", header...)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" || strings.Contains(w.Body.String(), token) {
				t.Errorf("%s %s with %v: %d %s", route.method, route.path, header, w.Code, w.Body)
			}
		}
		if w := authorized(withToken, route.method, route.path, "{}"); w.Code == http.StatusUnauthorized {
			t.Errorf("%s %s with the token: %d", route.method, route.path, w.Code)
		}
		for _, header := range [][]string{{"Host", "evil.example:8080"}, {"Origin", "https://evil.example"}, {"Origin", "null"}, {"Host", "127.0.0.1.evil.example"}} {
			if w := do(open, route.method, route.path, "{}", header...); w.Code != http.StatusForbidden {
				t.Errorf("%s %s without a token, %v: %d", route.method, route.path, header, w.Code)
			}
		}
	}
	for _, header := range [][]string{nil, {"Host", "localhost:8080"}, {"Host", "[::1]:8080"}, {"Origin", "http://127.0.0.1:8080"}} {
		if w := do(open, "GET", "/api/v1/endpoints", "", header...); w.Code != http.StatusOK {
			t.Errorf("without a token, %v: %d %s", header, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/", "/.well-known/webhook-keys"} {
		if w := do(withToken, "GET", path, ""); w.Code != http.StatusOK {
			t.Errorf("%s needs no token, but: %d", path, w.Code)
		}
	}
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, func(c *api.Config) {
		c.Ready = func() map[string]bool { return map[string]bool{"nats": true, "streams": false} }
	})
	if w := do(h, "GET", "/readyz", ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"streams":false`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWorkspaces(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	if w := authorized(h, "GET", "/api/v1/workspaces", ""); !strings.Contains(w.Body.String(), `"data":[{"workspace":"Acme Corp","token":"acme_corp","state":"connected"`) {
		t.Errorf("%s", w.Body)
	}
	none, _ := setup(t, func(c *api.Config) { c.Workspaces = func() []stream.Status { return nil } })
	if w := authorized(none, "GET", "/api/v1/workspaces", ""); strings.TrimSpace(w.Body.String()) != `{"data":[]}` {
		t.Errorf("none: %s", w.Body)
	}
}

func TestEndpointLife(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	w := authorized(h, "POST", "/api/v1/endpoints", `{"url":"https://example.com/x","workspaces":["Acme Corp"],"timeout":"5s","headers":{"X-Key":"sentinel-credential"}}`)
	var made api.Endpoint
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusCreated {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	if _, err := webhook.ParseSecret(made.Secret); err != nil || made.ID == "" || made.State != "active" || made.Source != "api" ||
		made.Workspaces[0] != "acme_corp" || made.Timeout != "5s" || made.Events[0] != "nex.insight.*" || made.Headers["X-Key"] != "[redacted]" || len(made.Warnings) != 1 {
		t.Errorf("made %+v", made)
	}
	w = authorized(h, "GET", "/api/v1/endpoints/"+made.ID, "")
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "whsec_") {
		t.Errorf("its secret is shown once only: %s", w.Body)
	}
	w = authorized(h, "GET", "/api/v1/endpoints", "")
	if !strings.Contains(w.Body.String(), made.ID) || !strings.Contains(w.Body.String(), `"id":"file"`) || strings.Contains(w.Body.String(), "sentinel") {
		t.Errorf("list %s", w.Body)
	}
	if _, err := registry.Disable(t.Context(), made.ID, "the receiver answered 410 Gone", time.Now()); err != nil {
		t.Fatal(err)
	}
	if w = authorized(h, "GET", "/api/v1/endpoints/"+made.ID, ""); !strings.Contains(w.Body.String(), `"state":"disabled"`) || !strings.Contains(w.Body.String(), "410") {
		t.Errorf("disabled: %s", w.Body)
	}
	if w = authorized(h, "POST", "/api/v1/endpoints/"+made.ID+"/enable", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"state":"active"`) {
		t.Errorf("enable: %d %s", w.Code, w.Body)
	}
	if w = authorized(h, "DELETE", "/api/v1/endpoints/"+made.ID, ""); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	if w = authorized(h, "GET", "/api/v1/endpoints/"+made.ID, ""); w.Code != http.StatusNotFound {
		t.Errorf("after delete: %d", w.Code)
	}
}

func TestErrorsHaveNexForm(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	starting, _ := setup(t, func(c *api.Config) { c.Endpoints = func() *endpoint.Registry { return nil } })
	for _, tt := range []struct {
		name, method, path, body string
		code                     int
		want                     string
		handler                  http.Handler
	}{
		{"bad json", "POST", "/api/v1/endpoints", `{`, 400, "body", h},
		{"empty", "POST", "/api/v1/endpoints", ``, 400, "body is required", h},
		{"two values", "POST", "/api/v1/endpoints", `{"url":"https://example.com"}{}`, 400, "more than one", h},
		{"unknown field", "POST", "/api/v1/endpoints", `{"urll":"x"}`, 400, "urll", h},
		{"wrong kind", "POST", "/api/v1/endpoints", `{"url":7}`, 400, "url", h},
		{"several faults", "POST", "/api/v1/endpoints", `{"url":"http://example.com","id":"a b","events":["x"],"timeout":"soon","workspaces":["nobody"],"secret":"sentinel"}`,
			400, "url: ", h},
		{"too large", "POST", "/api/v1/endpoints", `{"description":"` + strings.Repeat("x", 300<<10) + `"}`, 413, "too large", h},
		{"id of the file", "POST", "/api/v1/endpoints", `{"id":"file","url":"https://example.com"}`, 409, "exists", h},
		{"delete of the file", "DELETE", "/api/v1/endpoints/file", ``, 409, "config file", h},
		{"delete of none", "DELETE", "/api/v1/endpoints/none", ``, 404, "no such endpoint", h},
		{"enable of none", "POST", "/api/v1/endpoints/none/enable", ``, 404, "no such endpoint", h},
		{"unknown path", "GET", "/api/v2/x", ``, 404, "no such resource", h},
		{"while starting", "GET", "/api/v1/endpoints", ``, 503, "starting", starting},
	} {
		w := authorized(tt.handler, tt.method, tt.path, tt.body)
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != tt.code || e.Code != tt.code || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %d %s (%v)", tt.name, w.Code, w.Body, err)
		}
		if strings.Contains(w.Body.String(), "sentinel") {
			t.Errorf("%s: a secret is echoed", tt.name)
		}
	}
	w := authorized(h, "POST", "/api/v1/endpoints", `{"url":"http://example.com","id":"a b","events":["x"],"timeout":"soon","workspaces":["nobody"],"secret":"sentinel"}`)
	for _, field := range []string{"url: ", "id: ", "events[0]: ", "timeout: ", "workspaces[0]: ", "secret: "} {
		if !strings.Contains(w.Body.String(), field) {
			t.Errorf("%q is not named in %s", field, w.Body)
		}
	}
}

func FuzzCreateEndpoint(f *testing.F) {
	f.Add(`{"url":"https://example.com/x"}`)
	f.Add(`{"url":"https://[::1","events":[">"],"headers":{"a":"b"}}`)
	cfg := api.Config{
		Ready: func() map[string]bool { return nil }, Workspaces: func() []stream.Status { return nil }, Gatherer: prometheus.NewRegistry(),
		Endpoints: func() *endpoint.Registry {
			return endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	h := api.Handler(cfg)
	f.Fuzz(func(t *testing.T, body string) {
		w := do(h, "POST", "/api/v1/endpoints", body)
		// Without an encryption key nothing can be stored: the best possible answer is 503.
		if w.Code != 400 && w.Code != 413 && w.Code != 503 && w.Code != 409 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("no JSON: %s", w.Body)
		}
	})
}

func TestServerStopsSlowClients(t *testing.T) {
	t.Parallel()
	s := api.NewServer(api.Config{Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 {
		t.Errorf("a timeout is missing: %+v", s)
	}
}
