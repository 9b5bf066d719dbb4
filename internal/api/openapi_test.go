package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/stream"
)

// document is the API's document, read by somebody else's library.
func document(t *testing.T, h http.Handler) *openapi3.T {
	t.Helper()
	w := do(h, "GET", "/api/openapi.json", "")
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheDocumentIsValid(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	doc := document(t, h)
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Version != "test" {
		t.Errorf("%s of %s", doc.OpenAPI, doc.Info.Version)
	}
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == "" || op.Summary == "" || ids[op.OperationID] || len(op.Tags) != 1 || op.Tags[0] == "" {
				t.Errorf("%s %s: id %q, summary %q", method, path, op.OperationID, op.Summary)
			}
			ids[op.OperationID] = true
		}
	}
}

// What operations may answer by what they take, and nothing else of these.
func TestTheDocumentTellsWhatMayBeAnswered(t *testing.T) {
	t.Parallel()
	h, _ := setup(t, nil)
	for path, item := range document(t, h).Paths.Map() {
		for method, op := range item.Operations() {
			body, key := op.RequestBody != nil, op.Parameters.GetByInAndName("header", "Idempotency-Key") != nil
			for status, want := range map[int]bool{400: true, 500: true, 503: true, 413: body || key, 408: body, 422: key} {
				if got := op.Responses.Status(status) != nil; got != want {
					t.Errorf("%s %s: %d is documented: %v, want %v", method, path, status, got, want)
				}
			}
			for status, answer := range op.Responses.Map() {
				if got, want := answer.Value.Headers["Idempotency-Replayed"] != nil, key && status[0] == '2'; got != want {
					t.Errorf("%s %s: Idempotency-Replayed with %s is documented: %v, want %v", method, path, status, got, want)
				}
			}
		}
	}
}

// held answers as the handler does, and fails where the document does not say so.
type held struct {
	t      *testing.T
	h      http.Handler
	router routers.Router
	seen   map[string]bool // operation ids that have succeeded
}

func init() { openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.FileBodyDecoder) }

func hold(t *testing.T, h http.Handler) *held {
	t.Helper()
	router, err := gorillamux.NewRouter(document(t, h))
	if err != nil {
		t.Fatal(err)
	}
	return &held{t, h, router, map[string]bool{}}
}

func (c *held) call(method, target, body string, header ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	w := do(c.h, method, target, body, append([]string{"Authorization", "Bearer " + token, "Content-Type", "application/json"}, header...)...)
	r := httptest.NewRequest(method, target, bytes.NewReader([]byte(body)))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, target, err)
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	if err := openapi3filter.ValidateRequest(c.t.Context(), in); err != nil && w.Code < 300 {
		c.t.Errorf("%s %s succeeds although the document refuses it: %v", method, target, err)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())), Options: options}
	if err := openapi3filter.ValidateResponse(c.t.Context(), out); err != nil {
		c.t.Errorf("%s %s answers what the document does not know: %v", method, target, err)
	}
	if w.Code < 300 {
		c.seen[route.Operation.OperationID] = true
	}
	return w
}

// Every operation is used as the document says, and answers as it says.
func TestEveryOperationAsDocumented(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, func(c *api.Config) {
		c.Workspaces = func() []stream.Status { return []stream.Status{{Workspace: "Acme Corp", Token: "acme_corp"}} }
	})
	past(t, log, "acme_corp")
	c := hold(t, h)
	c.call("GET", "/api/v1/workspaces", "")
	for _, body := range []string{
		`{"url":"https://example.com/x"}`,
		`{"id":"crm","url":"https://example.com/x","events":["nex.insight.risk"],"workspaces":["Acme Corp"],"signatures":["v1","v1a"],"rate_limit":"600/m","headers":{"X-A":"b"},"timeout":"5s"}`,
	} {
		if w := c.call("POST", "/api/v1/endpoints", body); w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	c.call("POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com/x"}`) // 409
	c.call("POST", "/api/v1/endpoints", `{"id":"no good","url":"ftp://example.com/x"}`)
	c.call("GET", "/api/v1/endpoints?limit=1", "")
	c.call("GET", "/api/v1/endpoints?limit=0", "")
	c.call("GET", "/api/v1/endpoints?nonsense=1", "")
	c.call("GET", "/api/v1/endpoints?state=active&source=api&workspace=acme_corp", "")
	c.call("GET", "/api/v1/endpoints/crm", "")
	c.call("GET", "/api/v1/endpoints/none", "")
	c.call("POST", "/api/v1/endpoints/crm/disable", "")
	c.call("POST", "/api/v1/endpoints/crm/enable", `{"resume":"skip"}`)
	c.call("POST", "/api/v1/endpoints/crm/rotate-secret", `{"overlap":"1h"}`)
	c.call("PATCH", "/api/v1/endpoints/crm", `{"description":"CRM"}`, "If-Match", "*")
	c.call("PATCH", "/api/v1/endpoints/crm", `{"description":"CRM"}`)                      // 428
	c.call("PATCH", "/api/v1/endpoints/crm", `{"description":"CRM"}`, "If-Match", `"999"`) // 412
	for _, one := range [][2]string{{"DELETE", ""}, {"POST", "/rotate-secret"}, {"POST", "/rotate-events-token"}} {
		c.call(one[0], "/api/v1/endpoints/crm"+one[1], "", "If-Match", `"999"`) // 412
	}
	c.call("PATCH", "/api/v1/endpoints/file", `{"description":"x"}`, "If-Match", "*") // 409
	nulls := map[string]any{"headers": map[string]any{"X-A": nil}}
	for name := range document(t, h).Components.Schemas["ChangeEndpoint"].Value.Properties {
		if name != "headers" {
			nulls[name] = nil
		}
	}
	for _, body := range []string{asJSON(t, nulls), `{"headers":null}`} {
		if w := c.call("PATCH", "/api/v1/endpoints/crm", body, "If-Match", "*"); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	c.call("POST", "/api/v1/endpoints", `{"description":"`+strings.Repeat("x", 300<<10)+`"}`) // 413
	c.call("POST", "/api/v1/endpoints/crm/rotate-secret", "{}", "Content-Type", "text/plain")
	for _, body := range []string{`{"overlap":"1h"}`, `{"overlap":"1h"}`, `{"overlap":"2h"}`} { // the last is 422
		c.call("POST", "/api/v1/endpoints/crm/rotate-secret", body, "Idempotency-Key", "k")
	}
	c.call("GET", "/api/v1/events?workspace=Acme+Corp&type=nex.insight.*&limit=1", "")
	c.call("GET", "/api/v1/events?type=ftp", "")
	c.call("GET", "/api/v1/events/1", "")
	c.call("GET", "/api/v1/events/77", "")
	c.call("GET", "/api/v1/attempts?failed=true&event=e-1", "")
	c.call("GET", "/api/v1/attempts?outcome=nonsense", "")
	c.call("GET", "/api/v1/attempts/1", "")
	c.call("GET", "/api/v1/attempts/77", "")
	c.call("GET", "/api/v1/endpoints/crm/attempts?outcome=server_error&from=2026-01-01T00:00:00Z", "")
	c.call("POST", "/api/v1/endpoints/crm/attempts/1/retry", "")
	c.call("POST", "/api/v1/endpoints/crm/attempts/77/retry", "")
	c.call("POST", "/api/v1/endpoints/crm/test", "")
	c.call("GET", "/api/v1/dead-letters?endpoint=crm&class=5xx", "")
	c.call("GET", "/api/v1/dead-letters?class=nonsense", "")
	c.call("GET", "/api/v1/dead-letters/1", "")
	c.call("POST", "/api/v1/dead-letters/1/retry", "")
	c.call("POST", "/api/v1/dead-letters/1/retry", "") // 404
	c.call("DELETE", "/api/v1/dead-letters/2", "")
	c.call("POST", "/api/v1/dead-letters/retry", `{"endpoint":"crm","class":"5xx"}`)
	c.call("POST", "/api/v1/dead-letters/retry", `{}`)
	c.call("POST", "/api/v1/dead-letters/delete", `{"all":true}`)
	c.call("POST", "/api/v1/endpoints/crm/replay", `{"after":0,"before":3,"dry_run":true}`)
	c.call("POST", "/api/v1/endpoints/crm/replay", `{}`)
	w := c.call("POST", "/api/v1/endpoints/crm/replay", `{"from":"2020-01-01T00:00:00Z","events":["nex.insight.risk"],"filter":"event.data.n == 1"}`)
	c.call("GET", "/api/v1/endpoints/crm/replays", "")
	var r api.Replay
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || r.ID == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	c.call("DELETE", "/api/v1/endpoints/crm/replays/"+r.ID, "")
	c.call("DELETE", "/api/v1/endpoints/crm/replays/"+r.ID, "") // 404
	c.call("GET", "/api/v1/endpoints/crm/events?after=0&limit=2", "")
	c.call("GET", "/api/v1/endpoints/none/events", "")
	c.call("POST", "/api/v1/endpoints/crm/rotate-events-token", "")
	c.call("POST", "/api/v1/try", `{"filter":"event.data.n == 1","shape":"binary","last":10}`)
	c.call("POST", "/api/v1/try", `{"shape":"nonsense"}`)
	c.call("GET", "/api/v1/endpoints/crm/undelivered", "")
	c.call("GET", "/api/v1/endpoints/none/undelivered", "")
	c.call("POST", "/api/v1/endpoints/crm/retry", "")
	c.call("POST", "/api/v1/endpoints/crm/retry", `{"since":"2026-01-01T00:00:00Z"}`)
	c.call("POST", "/api/v1/endpoints/none/retry", "")
	c.call("POST", "/api/v1/erase", `{"workspace":"Acme Corp","subject":"person/John","dry_run":true}`)
	c.call("POST", "/api/v1/erase", `{"workspace":""}`)
	c.call("DELETE", "/api/v1/endpoints/crm", "")
	c.call("GET", "/.well-known/webhook-keys", "")
	c.call("GET", "/api/v1/token", "")
	c.call("GET", "/api/v1/live?kind=event,attempt&endpoint=crm", "", "Last-Event-ID", "1")
	c.call("GET", "/api/v1/live?kind=nonsense", "")
	c.call("GET", "/api/v1/live?workspace=acme_corp", "", "Last-Event-ID", "nonsense")
	for path, item := range document(t, h).Paths.Map() {
		for method, op := range item.Operations() {
			if !c.seen[op.OperationID] {
				t.Errorf("%s %s has not been used", method, path)
			}
		}
	}
}

// Every operation is tried with every kind of token.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	const read, write, other, reader = "token-read-only-00", "token-of-acme-000", "token-of-globex-0", "token-acme-reads0"
	h, registry, log := withFanout(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "read", Secret: read}, api.Token{Name: "acme", Secret: write, Write: true, Workspaces: []string{"acme"}},
			api.Token{Name: "globex", Secret: other, Write: true, Workspaces: []string{"globex"}}, api.Token{Name: "reader", Secret: reader, Workspaces: []string{"acme"}})
		c.Workspaces = func() []stream.Status {
			return []stream.Status{{Workspace: "acme", Token: "acme"}, {Workspace: "globex", Token: "globex"}}
		}
	})
	past(t, log, "acme")
	const none = ""
	callers := []string{none, "wrong", token, read, write, other, reader}
	// What each answers to a request about an endpoint of acme: by the columns of callers.
	table := map[string]struct {
		method, path, body string
		want               []int
	}{
		"listWorkspaces":       {"GET", "/api/v1/workspaces", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"listEndpoints":        {"GET", "/api/v1/endpoints", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"createEndpoint":       {"POST", "/api/v1/endpoints", `{"url":"https://example.com","workspaces":["acme"]}`, []int{401, 401, 201, 403, 201, 400, 403}},
		"getEndpoint":          {"GET", "/api/v1/endpoints/{id}", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"changeEndpoint":       {"PATCH", "/api/v1/endpoints/{id}", `{"description":"x"}`, []int{401, 401, 200, 403, 200, 404, 403}},
		"deleteEndpoint":       {"DELETE", "/api/v1/endpoints/{id}", "", []int{401, 401, 204, 403, 204, 404, 403}},
		"enableEndpoint":       {"POST", "/api/v1/endpoints/{id}/enable", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"disableEndpoint":      {"POST", "/api/v1/endpoints/{id}/disable", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"rotateSecret":         {"POST", "/api/v1/endpoints/{id}/rotate-secret", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"listEvents":           {"GET", "/api/v1/events", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"getEvent":             {"GET", "/api/v1/events/1", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"listAttempts":         {"GET", "/api/v1/attempts", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"listEndpointAttempts": {"GET", "/api/v1/endpoints/{id}/attempts", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"getAttempt":           {"GET", "/api/v1/attempts/1", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"retryAttempt":         {"POST", "/api/v1/endpoints/{id}/attempts/1/retry", "", []int{401, 401, 202, 403, 202, 404, 403}},
		"testEndpoint":         {"POST", "/api/v1/endpoints/{id}/test", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"listDeadLetters":      {"GET", "/api/v1/dead-letters", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"getDeadLetter":        {"GET", "/api/v1/dead-letters/{letter}", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"retryDeadLetter":      {"POST", "/api/v1/dead-letters/{letter}/retry", "", []int{401, 401, 202, 403, 202, 404, 403}},
		"deleteDeadLetter":     {"DELETE", "/api/v1/dead-letters/{letter}", "", []int{401, 401, 204, 403, 204, 404, 403}},
		"retryDeadLetters":     {"POST", "/api/v1/dead-letters/retry", `{"endpoint":"crm"}`, []int{401, 401, 200, 403, 200, 404, 403}},
		"deleteDeadLetters":    {"POST", "/api/v1/dead-letters/delete", `{"endpoint":"crm"}`, []int{401, 401, 200, 403, 200, 404, 403}},
		"replay":               {"POST", "/api/v1/endpoints/{id}/replay", `{"before":99,"dry_run":true}`, []int{401, 401, 202, 403, 202, 404, 403}},
		"listReplays":          {"GET", "/api/v1/endpoints/{id}/replays", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"cancelReplay":         {"DELETE", "/api/v1/endpoints/{id}/replays/{replay}", "", []int{401, 401, 204, 403, 204, 404, 403}},
		"try":                  {"POST", "/api/v1/try", `{"workspaces":["acme"]}`, []int{401, 401, 200, 200, 200, 400, 200}},
		"erase":                {"POST", "/api/v1/erase", `{"workspace":"acme","dry_run":true}`, []int{401, 401, 200, 403, 403, 403, 403}},
		"retryEndpoint":        {"POST", "/api/v1/endpoints/{id}/retry", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"undelivered":          {"GET", "/api/v1/endpoints/{id}/undelivered", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"pullEvents":           {"GET", "/api/v1/endpoints/{id}/events", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"rotateEventsToken":    {"POST", "/api/v1/endpoints/{id}/rotate-events-token", "", []int{401, 401, 200, 403, 200, 404, 403}},
		"getToken":             {"GET", "/api/v1/token", "", []int{401, 401, 200, 200, 200, 200, 200}},
		"live":                 {"GET", "/api/v1/live?endpoint={id}", "", []int{401, 401, 200, 200, 200, 404, 200}},
		"webhookKeys":          {"GET", "/.well-known/webhook-keys", "", []int{200, 200, 200, 200, 200, 200, 200}},
	}
	for path, item := range document(t, h).Paths.Map() {
		for method, op := range item.Operations() {
			row, ok := table[op.OperationID]
			if !ok {
				t.Errorf("%s %s is not in the table", method, path)
				continue
			}
			for i, secret := range callers {
				id := replaced(t, h, registry)
				header := []string{"If-Match", "*"}
				if secret != none {
					header = append(header, "Authorization", "Bearer "+secret)
				}
				target := strings.ReplaceAll(row.path, "{id}", id)
				if strings.Contains(target, "{letter}") {
					target = strings.ReplaceAll(target, "{letter}", fmt.Sprint(bury(t, log, "crm")))
				}
				if strings.Contains(target, "{replay}") {
					var r api.Replay
					if err := json.Unmarshal(authorized(h, "POST", "/api/v1/endpoints/"+id+"/replay", `{"before":99}`).Body.Bytes(), &r); err != nil {
						t.Fatal(err)
					}
					target = strings.ReplaceAll(target, "{replay}", r.ID)
				}
				if w := do(h, row.method, target, row.body, header...); w.Code != row.want[i] {
					t.Errorf("%s with %q: %d %s, want %d", op.OperationID, secret, w.Code, w.Body, row.want[i])
				}
			}
		}
	}
	// Lists hold what is the caller's business, and nothing else.
	replaced(t, h, registry)
	for secret, want := range map[string][]string{token: {"crm", "file"}, read: {"crm", "file"}, write: {"crm"}, reader: {"crm"}, other: nil} {
		for _, path := range []string{"/api/v1/endpoints", "/api/v1/workspaces"} {
			var list struct{ Data []struct{ ID, Token string } }
			w := do(h, "GET", path, "", "Authorization", "Bearer "+secret)
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, one := range list.Data {
				got = append(got, one.ID+one.Token)
			}
			expect := want
			if path == "/api/v1/workspaces" {
				expect = map[string][]string{token: {"acme", "globex"}, read: {"acme", "globex"}, write: {"acme"}, reader: {"acme"}, other: {"globex"}}[secret]
			}
			if !slices.Equal(got, expect) {
				t.Errorf("%s with %q: %v, want %v", path, secret, got, expect)
			}
		}
	}
}
