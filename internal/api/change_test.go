package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/endpoint"
)

// replaced makes an endpoint of acme anew, the only one of the API, and answers its id.
func replaced(t *testing.T, h http.Handler, registry *endpoint.Registry) string {
	t.Helper()
	for _, e := range registry.Snapshot().All() {
		if e.Source == endpoint.SourceAPI {
			if err := registry.Delete(t.Context(), e.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com/crm","workspaces":["acme"]}`), http.StatusCreated)
	return "crm"
}

func patch(h http.Handler, id, match, body string) (code int, text, etag string) {
	header := []string{"Authorization", "Bearer " + token}
	if match != "" {
		header = append(header, "If-Match", match)
	}
	w := do(h, "PATCH", "/api/v1/endpoints/"+id, body, header...)
	return w.Code, w.Body.String(), w.Header().Get("ETag")
}

func TestChange(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) { c.AllowProxies = []string{"proxy.example:3128"} })
	certPEM, keyPEM := clientCert(t)
	made := authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com/x","events":["nex.insight.risk"],"headers":{"X-A":"1","X-B":"2"},"timeout":"5s"}`)
	answer(t, made, http.StatusCreated)
	etag := made.Header().Get("ETag")
	secret := registry.Snapshot().Get("crm").Secrets[0]
	for _, step := range []struct {
		body string
		ok   func(e *endpoint.Endpoint) bool
	}{
		{`{}`, func(e *endpoint.Endpoint) bool { return e.URL == "https://example.com/x" }},
		{`{"url":"https://example.com/y","description":"d"}`, func(e *endpoint.Endpoint) bool {
			return e.URL == "https://example.com/y" && e.Description == "d" && e.Timeout > 0
		}},
		{`{"headers":{"X-A":null,"X-C":"3"}}`, func(e *endpoint.Endpoint) bool {
			return len(e.Headers) == 2 && e.Headers["X-B"] == "2" && e.Headers["X-C"] == "3"
		}},
		{`{"headers":{"x-c":"4","X-b":null}}`, func(e *endpoint.Endpoint) bool { return len(e.Headers) == 1 && e.Headers["x-c"] == "4" }},
		{`{"timeout":"","events":[],"rate_limit":"60/m"}`, func(e *endpoint.Endpoint) bool { return e.Timeout == 0 && len(e.Events) == 0 && e.RateLimit == 1 }},
		{`{"rate_limit":0,"ordered":true,"filter":"event.type == \"x\"","resume":"skip","handshake":true,"max_in_flight":7}`, func(e *endpoint.Endpoint) bool {
			return e.RateLimit == 0 && e.Ordered && e.Filter != "" && e.Resume == endpoint.ModeSkip && e.Handshake && e.MaxInFlight == 7
		}},
		{`{"proxy":"http://u:p@proxy.example:3128"}`, func(e *endpoint.Endpoint) bool {
			return e.Route.Proxy.Host == "proxy.example:3128" && e.Route.ClientCert == nil
		}},
		{asJSON(t, map[string]string{"client_cert": certPEM, "client_key": keyPEM}), func(e *endpoint.Endpoint) bool { return e.Route.Proxy != nil && e.Route.ClientCert != nil }},
		{`{"proxy":""}`, func(e *endpoint.Endpoint) bool { return e.Route.Proxy == nil && e.Route.ClientCert != nil }},
		{`{"client_cert":"","client_key":""}`, func(e *endpoint.Endpoint) bool { return e.Route == nil }},
		{`{"workspaces":["Acme Corp"]}`, func(e *endpoint.Endpoint) bool { return slices.Equal(e.Workspaces, []string{"acme_corp"}) }},
		{`{"workspaces":[],"description":null}`, func(e *endpoint.Endpoint) bool { return len(e.Workspaces) == 0 && e.Description == "d" }},
		{`{"enabled":false}`, func(e *endpoint.Endpoint) bool { return !e.Active() }},
		{`{"enabled":true}`, func(e *endpoint.Endpoint) bool { return e.Active() }},
	} {
		code, text, next := patch(h, "crm", etag, step.body)
		if code != http.StatusOK || next == "" || next == etag {
			t.Fatalf("%s: %d %s, revision %s after %s", step.body, code, text, next, etag)
		}
		if e := registry.Snapshot().Get("crm"); !step.ok(e) || !e.Secrets[0].Equal(secret) {
			t.Errorf("%s: %+v", step.body, e)
		}
		if code, text, _ := patch(h, "crm", etag, `{"description":"late"}`); code != http.StatusPreconditionFailed {
			t.Errorf("with the revision before: %d %s", code, text)
		}
		etag = next
	}
	for _, tt := range []struct {
		id, match, body string
		code            int
		want            string
	}{
		{"crm", "", `{}`, 428, "If-Match"},
		{"crm", "soon", `{}`, 400, "If-Match"},
		{"crm", `"0"`, `{}`, 400, "If-Match"},
		{"none", "*", `{}`, 404, "no such endpoint"},
		{"file", "*", `{}`, 409, "config file"},
		{"crm", "*", `{"urll":"x"}`, 400, "urll"},
		{"crm", "*", `{"url":"http://example.com","filter":"nonsense(","timeout":"soon","workspaces":["globex"],"proxy":"http://other:1"}`, 400, "url: |filter: |timeout: |workspaces[0]: |proxy: "},
		{"crm", "*", `{"ordered":true,"resume":"newest-first"}`, 400, "resume: "},
		{"crm", "*", `{"client_cert":"x"}`, 400, "client_cert: "},
		{"crm", "*", ``, 400, "body"},
		{"crm", "*", `{"description":"x"}}}garbage`, 400, "body"},
		{"crm", "*", `{"shape":"nonsense"}`, 400, "slack"},
	} {
		before := registry.Snapshot().Get("crm")
		code, text, _ := patch(h, tt.id, tt.match, tt.body)
		for _, want := range strings.Split(tt.want, "|") {
			if code != tt.code || !strings.Contains(text, want) {
				t.Errorf("%s %s %s: %d %s, want %d with %q", tt.id, tt.match, tt.body, code, text, tt.code, want)
			}
		}
		if after := registry.Snapshot().Get("crm"); after.Revision != before.Revision {
			t.Errorf("%s: changed all the same", tt.body)
		}
	}
}

// Of two who change one revision, one is told.
func TestTwoWritersRace(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	etag := authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com/x"}`).Header().Get("ETag")
	for range 20 {
		var mu sync.Mutex
		codes, next := map[int]int{}, ""
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				code, _, fresh := patch(h, "crm", etag, fmt.Sprintf(`{"description":"by %d"}`, i))
				mu.Lock()
				defer mu.Unlock()
				if codes[code]++; code == 200 {
					next = fresh
				}
			})
		}
		all.Wait()
		if codes[200] != 1 || codes[412] != 3 {
			t.Fatalf("%v", codes)
		}
		if next != fmt.Sprintf("%q", fmt.Sprint(registry.Snapshot().Get("crm").Revision)) {
			t.Fatalf("its writer was told revision %s", next)
		}
		etag = next
	}
}

// A change by one who is bound to workspaces cannot take an endpoint out of them.
func TestBoundToWorkspaces(t *testing.T) {
	t.Parallel()
	const bound = "token-of-acme-0000"
	h, registry := setup(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "acme", Secret: bound, Write: true, Workspaces: []string{"acme_corp"}})
	})
	as := []string{"Authorization", "Bearer " + bound, "If-Match", "*"}
	e := answer(t, do(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com/x"}`, as...), http.StatusCreated)
	if !slices.Equal(e.Workspaces, []string{"acme_corp"}) {
		t.Errorf("made for %v", e.Workspaces)
	}
	answer(t, do(h, "PATCH", "/api/v1/endpoints/crm", `{"workspaces":[]}`, as...), http.StatusOK)
	if got := registry.Snapshot().Get("crm").Workspaces; !slices.Equal(got, []string{"acme_corp"}) {
		t.Errorf("changed to %v", got)
	}
	for _, path := range []string{"/api/v1/endpoints/file", "/api/v1/endpoints/none"} { // of all workspaces, and none
		if w := do(h, "GET", path, "", as...); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// Pages hold every endpoint once, whatever their size.
func TestPagesOfEndpoints(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	var list []*endpoint.Endpoint
	var want []string
	for i := range 57 {
		e := *registry.Snapshot().Get("file")
		e.ID = fmt.Sprintf("e-%03d", i*7%57)
		list, want = append(list, &e), append(want, e.ID)
	}
	registry.SetConfig(list)
	slices.Sort(want)
	for _, limit := range []int{1, 7, 57, 1000} {
		var got []string
		cursor := ""
		for pages := 0; ; pages++ {
			var page struct {
				Data []api.Endpoint
				Next string
			}
			decodeInto(t, authorized(h, "GET", fmt.Sprintf("/api/v1/endpoints?limit=%d&cursor=%s", limit, cursor), ""), &page)
			for _, e := range page.Data {
				got = append(got, e.ID)
			}
			if cursor = page.Next; cursor == "" || pages > 100 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %d: %v", limit, got)
		}
	}
}

// What needs no If-Match keeps to one that is given: no secret, and no endpoint, goes because of what somebody has seen before.
func TestOnlyThisRevision(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	for _, one := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/rotate-secret", http.StatusOK}, {"POST", "/rotate-events-token", http.StatusOK}, {"DELETE", "", http.StatusNoContent},
	} {
		for _, match := range []string{"", "*", "now"} {
			made := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
			stale := fmt.Sprintf("%q", fmt.Sprint(made.Revision))
			_, _, now := patch(h, "crm", "*", `{"description":"changed"}`)
			ask := func(match string) int {
				header := []string{"Authorization", "Bearer " + token}
				if match != "" {
					header = append(header, "If-Match", match)
				}
				return do(h, one.method, "/api/v1/endpoints/crm"+one.path, "", header...).Code
			}
			before := registry.Snapshot().Get("crm")
			if code := ask(stale); code != http.StatusPreconditionFailed {
				t.Errorf("%s %s with the revision before: %d", one.method, one.path, code)
			}
			if code := ask("nonsense"); code != http.StatusBadRequest {
				t.Errorf("%s %s with no revision: %d", one.method, one.path, code)
			}
			if after := registry.Snapshot().Get("crm"); after == nil || after.Revision != before.Revision {
				t.Fatalf("%s %s was refused, and done", one.method, one.path)
			}
			if match == "now" {
				match = now
			}
			if code := ask(match); code != one.status {
				t.Errorf("%s %s with %q: %d", one.method, one.path, match, code)
			}
			if one.method != "DELETE" {
				authorized(h, "DELETE", "/api/v1/endpoints/crm", "")
			}
		}
	}
}
