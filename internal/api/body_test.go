package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// What is wrong with a body is said with its key, the fault and the remedy, in the API's own words and without the value.
func TestFaultsOfBodies(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	past(t, log, "acme")
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	const endpoints, crm = "/api/v1/endpoints", "/api/v1/endpoints/crm"
	for _, tt := range []struct{ method, path, body, want string }{
		{"POST", endpoints, `{"URL":"https://example.com"}`, "URL: is not known: write url"},
		{"POST", endpoints, `{"maxInFlight":7,"url":"https://example.com"}`, "maxInFlight: is not known: write max_in_flight"},
		{"POST", endpoints, `{"Url":"https://sentinel","url":"https://example.com"}`, "Url: is not known: write url"},
		{"POST", endpoints, `{"url":"https://example.com","url":"https://example.org"}`, "url: is given twice: leave one out"},
		{"PATCH", crm, `{"Description":"x"}`, "Description: is not known: write description"},
		{"POST", crm + "/enable", `{"Resume":"all"}`, "Resume: is not known: write resume"},
		{"POST", crm + "/enable", `{"resumee":"all"}`, "resumee: is not known: there are resume"},
		{"POST", crm + "/enable", `{"re sume":"all"}`, `"re sume": is not known: there are resume`},
		{"POST", "/api/v1/dead-letters/retry", `{"All":true}`, "All: is not known: write all"},
		{"POST", endpoints, `{"url":7}`, "url: is a number: give a text"},
		{"POST", endpoints, `{"url":["sentinel"],"ordered":"sentinel","events":"sentinel"}`, "url: is a list: give a text; ordered: is a text: give true or false; events: is a text: give a list"},
		{"POST", endpoints, `{"events":["nex.insight.*",7]}`, "events: holds a number where a text is needed"},
		{"POST", endpoints, `{"headers":["sentinel"]}`, "headers: is a list: give an object"},
		{"POST", endpoints, `{"headers":{"X-A":true}}`, "headers: holds true or false where a text is needed"},
		{"POST", endpoints, `{"max_in_flight":1.5}`, "max_in_flight: is no whole number, or out of bounds: give a whole number"},
		{"POST", endpoints, `{"max_in_flight":{}}`, "max_in_flight: is an object: give a whole number"},
		{"POST", endpoints, `{"rate_limit":"7/x"}`, `rate_limit: "7/x" is no rate; write e.g. 10/s`},
		{"PATCH", crm, `{"max_in_flight":"7"}`, "max_in_flight: is a text: give a whole number"},
		{"PATCH", crm, `{"headers":{"X-A":7}}`, "headers: holds a number where a text is needed"},
		{"POST", crm + "/replay", `{"from":"yesterday"}`, "from: is no time: write e.g. 2026-02-05T10:30:00Z"},
		{"POST", crm + "/replay", `{"from":7}`, "from: is no time: write e.g. 2026-02-05T10:30:00Z"},
		{"POST", crm + "/replay", `{"after":-1}`, "after: is no whole number, or out of bounds: give a whole number"},
		{"POST", endpoints, `[{"url":"https://example.com"}]`, "body: a JSON object is needed"},
		{"POST", endpoints, `null`, "body: a JSON object is needed"},
		{"POST", endpoints, `{"url":"https://example.com"`, "body: ends before its JSON does"},
		{"POST", endpoints, `{"url":"https://example.com",}`, "body: is no JSON at byte "},
		{"POST", endpoints, `{"url":sentinel}`, "body: is no JSON at byte "},
		{"POST", endpoints, `url=sentinel`, "body: is no JSON at byte "},
		{"POST", endpoints, `{"url":"https://example.com"} {}`, "body: more than one JSON value"},
		{"POST", crm + "/disable", `{"until":"tomorrow"}`, "body: this operation takes none"},
		{"POST", crm + "/test", `x`, "body: this operation takes none"},
		{"POST", crm + "/attempts/1/retry", `[]`, "body: this operation takes none"},
		{"DELETE", crm, strings.Repeat(" ", 100) + `{"really":false}`, "body: this operation takes none"},
		{"GET", endpoints, `{"limit":1}`, "body: this operation takes none"},
		{"POST", endpoints, `{"url":"https://example.com","headers":{"X-A":"sentinel","X-B":"1","X-A":"1"}}`, "headers: holds X-A twice: leave one out"},
		{"PATCH", crm, `{"headers":{"X-A":"sentinel","X-A":null}}`, "headers: holds X-A twice: leave one out"},
		{"PATCH", crm, `{"headers":{"X-A":"sentinel","x-a":null}}`, `headers: "x-a": is given twice in different case`},
		{"PATCH", crm, `{"headers":{"X-A":null,"x-a":null}}`, `headers: "x-a": is given twice in different case`},
		{"POST", endpoints, `{"template":[{"a":1},{"a":1,"b":{"c":{},"c":[]}}]}`, "template: holds c twice: leave one out"},
		{"POST", crm + "/enable?resume=skip", `{"resume":"all"}`, "resume: is skip in the URL and all in the body: leave one out"},
		{"POST", crm + "/enable?resume=skip&resume=skip", "", "resume: is given twice: leave one out"},
		{"GET", endpoints + "?limit=1&limit=2&state=active&source=api&source=api", "", "limit: is given twice: leave one out; source: is given twice: leave one out"},
		{"GET", "/api/v1/live?kind=event&kind=attempt", "", "kind: is given twice: leave one out"},
		{"GET", endpoints + "?limit=1%", "", "the query of the URL cannot be read"},
		{"GET", endpoints + "?limit=1;state=active", "", "the query of the URL cannot be read"},
	} {
		w := do(h, tt.method, tt.path, tt.body, "Authorization", "Bearer "+token, "If-Match", "*")
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 400 || !strings.HasPrefix(e.Message, tt.want) {
			t.Errorf("%s %s with %s: %d %s, want %q", tt.method, tt.path, tt.body, w.Code, w.Body, tt.want)
		}
		for _, theirs := range []string{"sentinel", "json", "Go ", "cannot unmarshal", "api."} {
			if strings.Contains(e.Message, theirs) {
				t.Errorf("%s: %q stands in %s", tt.body, theirs, e.Message)
			}
		}
	}
	for _, fine := range []struct{ method, path, body string }{
		{"PATCH", crm, `{"headers":{"X-A":"X-A","X-B":"X-A"}}`}, {"POST", crm + "/enable?resume=skip", `{"resume":"skip"}`}, {"GET", endpoints + "?limit=1&state=active", ""},
	} {
		if w := do(h, fine.method, fine.path, fine.body, "Authorization", "Bearer "+token, "If-Match", "*"); w.Code != http.StatusOK {
			t.Errorf("%s %s with %s: %d %s", fine.method, fine.path, fine.body, w.Code, w.Body)
		}
	}
	for _, body := range []string{"", "{}", " {}\n"} {
		if w := authorized(h, "POST", crm+"/disable", body); w.Code != http.StatusOK {
			t.Errorf("with %q: %d %s", body, w.Code, w.Body)
		}
	}
}

// A method that a resource does not have is not a resource that there is not.
func TestMethodsThatAResourceHasNot(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	for _, tt := range []struct{ method, path, allow string }{
		{"PUT", "/api/v1/endpoints", "GET, HEAD, POST"},
		{"PUT", "/api/v1/endpoints/crm", "DELETE, GET, HEAD, PATCH"},
		{"GET", "/api/v1/endpoints/crm/test", "POST"},
		{"DELETE", "/api/v1/workspaces", "GET, HEAD"},
		{"OPTIONS", "/api/v1/workspaces", "GET, HEAD"},
		{"POST", "/api/openapi.json", "GET, HEAD"},
		{"GET", "/api/v1/nothing", ""},
		{"POST", "/api/v1/endpoints/crm/nothing", ""},
	} {
		w := authorized(h, tt.method, tt.path, "")
		want := http.StatusMethodNotAllowed
		if tt.allow == "" {
			want = http.StatusNotFound
		}
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != want || e.Code != want || w.Header().Get("Allow") != tt.allow || !strings.Contains(e.Message, tt.allow) {
			t.Errorf("%s %s: %d %s, Allow %q, want %d %q", tt.method, tt.path, w.Code, w.Body, w.Header().Get("Allow"), want, tt.allow)
		}
		if w := do(h, tt.method, tt.path, ""); w.Code != http.StatusUnauthorized || w.Header().Get("Allow") != "" {
			t.Errorf("%s %s without a token: %d, Allow %q", tt.method, tt.path, w.Code, w.Header().Get("Allow"))
		}
	}
}

// A misspelt endpoint is no endpoint without attempts; one that was deleted shows what is kept of it.
func TestListsOfUnknownEndpoints(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"fresh","url":"https://example.com"}`), http.StatusCreated)
	past(t, log, "acme") // of endpoints that are no more
	for path, want := range map[string]int{
		"/api/v1/attempts?endpoint=crm": 3, "/api/v1/dead-letters?endpoint=crm": 3,
		"/api/v1/attempts?endpoint=crm&outcome=timeout": 0, "/api/v1/dead-letters?endpoint=crm&class=dns": 0,
		"/api/v1/attempts?endpoint=fresh": 0, "/api/v1/dead-letters?endpoint=fresh": 0,
	} {
		var list struct{ Data []json.RawMessage }
		decodeInto(t, authorized(h, "GET", path, ""), &list)
		if len(list.Data) != want {
			t.Errorf("%s: %d, want %d", path, len(list.Data), want)
		}
	}
	for path, want := range map[string]string{
		"/api/v1/attempts?endpoint=crn":     "crn: no such endpoint, and no attempts of a former one are kept",
		"/api/v1/dead-letters?endpoint=crn": "crn: no such endpoint, and no dead letters of a former one are kept",
	} {
		if w := authorized(h, "GET", path, ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, what := range []string{"retry", "delete"} {
		if w := authorized(h, "POST", "/api/v1/dead-letters/"+what, `{"endpoint":"crn"}`); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "crn: no such endpoint") {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	// Its class is none of the letter's, in the form of earlier builds: it is known all the same.
	letter := asJSON(t, fanout.DeadLetter{EventID: "e-1", Sequence: 1, Endpoint: "old", At: time.Now().UTC(), Class: webhook.Class5xx, Event: json.RawMessage("null")})
	if _, err := log.JetStream().Publish(t.Context(), strings.TrimSuffix(bus.DeadSubject("old", "5xx"), ".5xx"), []byte(letter)); err != nil {
		t.Fatal(err)
	}
	if w := authorized(h, "GET", "/api/v1/dead-letters?endpoint=old", ""); !strings.Contains(w.Body.String(), `"endpoint":"old"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// FuzzBody: whatever a body is, the answer is JSON that says what is wrong, and never the relay's own fault.
func FuzzBody(f *testing.F) {
	for _, body := range []string{`{"resume":"all"}`, `{"Resume":"all"}`, `{"resume":[1]}`, `{"a":1,"a":2}`, `{`, `[]`, `null`, "{}{}", "\xff", `{"":1}`, `{"resume":null}`} {
		f.Add(body)
	}
	registry := endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
	h := api.Handler(api.Config{
		Endpoints: func() *endpoint.Registry { return registry }, Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/api/v1/dead-letters/retry", "/api/v1/endpoints/crm/replay", "/api/v1/endpoints/crm/test"} {
			w := do(h, "POST", path, body)
			if !json.Valid(w.Body.Bytes()) || w.Code == http.StatusInternalServerError || w.Code < 400 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}
