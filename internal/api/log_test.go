package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// past gives a log three events of a workspace and one of another, and what became of them at endpoint crm.
func past(t *testing.T, log *bus.Bus, workspace string) {
	t.Helper()
	for i, w := range []string{workspace, workspace, workspace, "elsewhere"} {
		publish(t, log, w, fmt.Sprintf("e-%d", i+1), "nex.insight.risk")
	}
	for i := range 3 {
		record(t, log, "crm", uint64(i+1), fmt.Sprintf("e-%d", i+1), webhook.ServerError)
		bury(t, log, "crm")
	}
	record(t, log, "other", 4, "e-4", webhook.Delivered)
	bury(t, log, "other")
}

func publish(t *testing.T, log *bus.Bus, workspace, id, eventType string) {
	t.Helper()
	e := &event.Event{Workspace: workspace, ID: id, Type: eventType, Time: time.Now(), Data: []byte(`{"n":1}`), Traceparent: event.NewTraceparent()}
	if _, err := log.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func record(t *testing.T, log *bus.Bus, id string, sequence uint64, eventID string, outcome webhook.Outcome) {
	t.Helper()
	workspace := event.NoWorkspace
	if m, err := log.Get(t.Context(), sequence); err == nil {
		workspace, _, _ = event.SplitSubject(m.Subject)
	}
	text := asJSON(t, fanout.Attempt{EventID: eventID, Sequence: sequence, Endpoint: id, Workspace: workspace, Attempt: 1, At: time.Now().Add(-time.Minute).UTC(), Outcome: outcome, Status: 500, Verdict: fanout.Retry})
	if _, err := log.JetStream().Publish(t.Context(), bus.AttemptSubject(id, string(outcome)), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// bury writes a dead letter of event 1, and answers its id.
func bury(t *testing.T, log *bus.Bus, id string) uint64 {
	t.Helper()
	workspace := ""
	if m, err := log.Get(t.Context(), 1); err == nil {
		workspace, _, _ = event.SplitSubject(m.Subject)
	}
	text := asJSON(t, fanout.DeadLetter{EventID: "e-1", Sequence: 1, Endpoint: id, Workspace: workspace, Attempts: 3, At: time.Now().UTC(), Class: webhook.Class5xx, Event: json.RawMessage("null")})
	ack, err := log.JetStream().Publish(t.Context(), bus.DeadSubject(id, "5xx"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func TestEvents(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	past(t, log, "acme")
	publish(t, log, "acme", "e-5", "nex.insight.opportunity")
	begin := time.Now().UTC()
	publish(t, log, "acme", "e.6", "nex.insight.risk")
	for query, want := range map[string][]uint64{
		"":                              {6, 5, 4, 3, 2, 1},
		"?workspace=acme":               {6, 5, 3, 2, 1},
		"?type=nex.insight.opportunity": {5},
		"?type=nex.insight.*&limit=2":   {6, 5},
		"?workspace=elsewhere":          {4},
		"?workspace=nobody":             nil,
		"?id=e-2":                       {2},
		"?id=none":                      nil,
		"?id=e.6":                       {6},
		"?id=e_6":                       {6}, // as its receivers see it
		"?cursor=3":                     {2, 1},
		"?from=" + begin.Format(time.RFC3339Nano):              {6},
		"?workspace=acme&to=" + begin.Format(time.RFC3339Nano): {5, 3, 2, 1},
	} {
		var page struct{ Data []api.StoredEvent }
		decodeInto(t, authorized(h, "GET", "/api/v1/events"+query, ""), &page)
		var got []uint64
		for _, e := range page.Data {
			got = append(got, e.Sequence)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	var one api.StoredEvent
	decodeInto(t, authorized(h, "GET", "/api/v1/events/5", ""), &one)
	if one.Subject != "nex.acme.insight.opportunity" || !strings.Contains(string(one.Event), `"id":"e-5"`) || one.Stored.IsZero() {
		t.Errorf("%+v", one)
	}
}

// Pages of attempts hold each once, also where a filter keeps few of them.
func TestPagesOfAttempts(t *testing.T) {
	t.Parallel()
	h, registry, log := withFanout(t, nil)
	registry.SetConfig([]*endpoint.Endpoint{{ID: "crm", URL: "https://example.com", Enabled: true, Secrets: []webhook.Secret{webhook.GenerateSecret()}}})
	for i := range 60 {
		outcome := webhook.Delivered
		if i%3 == 0 {
			outcome = webhook.Timeout
		}
		record(t, log, []string{"crm", "other"}[i%2], uint64(i+1), fmt.Sprintf("e-%d", i%5), outcome)
	}
	for query, want := range map[string]int{
		"/api/v1/attempts?":                                     60,
		"/api/v1/attempts?endpoint=other&":                      30,
		"/api/v1/endpoints/crm/attempts?":                       30,
		"/api/v1/attempts?failed=true&":                         20,
		"/api/v1/attempts?outcome=delivered&":                   40,
		"/api/v1/attempts?event=e-3&":                           12,
		"/api/v1/endpoints/crm/attempts?event=e-3&failed=true&": 2,
	} {
		for _, limit := range []int{1, 7, 60, 1000} {
			var ids []uint64
			cursor := ""
			for range 100 {
				var page struct {
					Data []api.Attempt
					Next string
				}
				decodeInto(t, authorized(h, "GET", fmt.Sprintf("%slimit=%d&cursor=%s", query, limit, cursor), ""), &page)
				for _, a := range page.Data {
					ids = append(ids, a.ID)
				}
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			if len(ids) != want || !slices.IsSortedFunc(ids, func(a, b uint64) int { return int(b) - int(a) }) || len(slices.Compact(ids)) != want {
				t.Errorf("%s by %d: %v, want %d", query, limit, ids, want)
			}
		}
	}
}

// What is retried, or replayed, reaches its receiver; the letters that were are gone.
func TestFromTheDead(t *testing.T) {
	t.Parallel()
	h, _, log, f := overFanout(t, func(c *api.Config) { c.BulkTime = time.Hour })
	got := make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- r.Header.Get("webhook-id")
	}))
	t.Cleanup(receiver.Close)
	past(t, log, "acme")
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`"}`), http.StatusCreated)
	runFanout(t, f)
	await := func(want ...string) {
		t.Helper()
		for range want {
			select {
			case id := <-got:
				if i := slices.Index(want, id); i < 0 {
					t.Errorf("%s came, want one of %v", id, want)
				}
			case <-time.After(2 * time.Minute):
				t.Fatalf("of %v not all came", want)
			}
		}
	}
	letters := func(query string) (ids []uint64) {
		t.Helper()
		var page struct{ Data []api.DeadLetter }
		decodeInto(t, authorized(h, "GET", "/api/v1/dead-letters"+query, ""), &page)
		for _, d := range page.Data {
			ids = append(ids, d.ID)
		}
		return ids
	}
	if all, crm := letters(""), letters("?endpoint=crm&class=5xx"); !slices.Equal(all, []uint64{4, 3, 2, 1}) || !slices.Equal(crm, []uint64{3, 2, 1}) || letters("?class=dns") != nil {
		t.Errorf("%v %v", all, crm)
	}
	accepted := func(path, body string) *httptest.ResponseRecorder {
		t.Helper()
		w := authorized(h, "POST", path, body)
		if w.Code >= 300 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w
	}
	accepted("/api/v1/dead-letters/2/retry", "")
	await("e-1")
	accepted("/api/v1/endpoints/crm/attempts/3/retry", "")
	await("e-3")
	w := accepted("/api/v1/dead-letters/retry", `{"all":true}`) // the endpoint of one is unknown
	await("e-1", "e-1")
	if want := `{"done":2,"skipped":1,"reasons":["4: other: no such endpoint"],"more":false,"last":4}`; strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("%s, want %s", w.Body, want)
	}
	if left := letters(""); !slices.Equal(left, []uint64{4}) {
		t.Errorf("%v are left", left)
	}
	accepted("/api/v1/endpoints/crm/replay", `{"after":1,"before":4}`)
	await("e-2", "e-3")
	w = accepted("/api/v1/endpoints/crm/test", "")
	var tested api.TestResult
	if err := json.Unmarshal(w.Body.Bytes(), &tested); err != nil || !tested.Delivered || tested.Status != 200 {
		t.Errorf("%s", w.Body)
	}
	await(tested.EventID)
	if w := accepted("/api/v1/dead-letters/delete", `{"endpoint":"other"}`); letters("") != nil {
		t.Errorf("%s, and %v are left", w.Body, letters(""))
	}
}

// An id may have been another's before: who is bound to workspaces sees and gets nothing of that.
func TestFormerOwnersEvents(t *testing.T) {
	t.Parallel()
	const bound = "token-of-globex-00"
	h, registry, log := withFanout(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "globex", Secret: bound, Write: true, Workspaces: []string{"globex"}})
		c.Workspaces = func() []stream.Status { return []stream.Status{{Token: "acme"}, {Token: "globex"}} }
	})
	past(t, log, "acme") // of an endpoint crm that is no more
	as := []string{"Authorization", "Bearer " + bound}
	answer(t, do(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`, as...), http.StatusCreated)
	for _, path := range []string{"/api/v1/endpoints/crm/attempts", "/api/v1/attempts", "/api/v1/dead-letters", "/api/v1/dead-letters?endpoint=crm", "/api/v1/events"} {
		if w := do(h, "GET", path, "", as...); strings.TrimSpace(w.Body.String()) != `{"data":[]}` {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	for _, path := range []string{"/api/v1/endpoints/crm/attempts/1/retry", "/api/v1/dead-letters/1/retry"} {
		if w := do(h, "POST", path, "", as...); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := do(h, "POST", "/api/v1/dead-letters/retry", `{"all":true}`, as...); !strings.Contains(w.Body.String(), `"done":0`) {
		t.Errorf("%s", w.Body)
	}
	record(t, log, "crm", 0, "news_1", webhook.ServerError) // a test that its former owner has sent
	if w := do(h, "GET", "/api/v1/endpoints/crm/attempts", "", as...); !strings.Contains(w.Body.String(), `"data":[]`) {
		t.Errorf("%s", w.Body)
	}
	// Nor does who may everything have it delivered to the new one by mistake.
	for _, path := range []string{"/api/v1/endpoints/crm/attempts/1/retry", "/api/v1/dead-letters/1/retry"} {
		if w := authorized(h, "POST", path, ""); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "workspace") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := authorized(h, "POST", "/api/v1/dead-letters/retry", `{"endpoint":"crm"}`); !strings.Contains(w.Body.String(), `"done":0,"skipped":3`) {
		t.Errorf("%s", w.Body)
	}
	if registry.Snapshot().Get("crm") == nil {
		t.Error("no endpoint")
	}
}

// Of many endpoints too a token sees what is its business, and changes nothing else: then the log is not asked for each of them.
func TestManyEndpointsOfAWorkspace(t *testing.T) {
	t.Parallel()
	const bound = "token-of-acme-000"
	h, registry, log := withFanout(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "acme", Secret: bound, Write: true, Workspaces: []string{"acme"}})
	})
	list := []*endpoint.Endpoint{{ID: "theirs", URL: "https://example.com", Workspaces: []string{"globex"}}}
	for i := range 20 {
		list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("ours-%02d", i), URL: "https://example.com", Workspaces: []string{"acme"}})
	}
	registry.SetConfig(list)
	publish(t, log, "acme", "e-1", "nex.insight.risk")
	for _, id := range []string{"ours-03", "theirs", "gone", "ours-17"} {
		for _, outcome := range []webhook.Outcome{webhook.Delivered, webhook.Timeout} {
			record(t, log, id, 1, "e-1", outcome)
		}
		bury(t, log, id)
	}
	as := []string{"Authorization", "Bearer " + bound}
	for path, want := range map[string][]uint64{
		"/api/v1/attempts": {8, 7, 2, 1}, "/api/v1/attempts?failed=true": {8, 2}, "/api/v1/attempts?outcome=delivered": {7, 1},
		"/api/v1/attempts?limit=1": {8}, "/api/v1/attempts?endpoint=ours-03&failed=true": {2},
		"/api/v1/dead-letters": {4, 1}, "/api/v1/dead-letters?class=5xx": {4, 1}, "/api/v1/dead-letters?class=dns": nil,
	} {
		var page struct{ Data []struct{ ID uint64 } }
		decodeInto(t, do(h, "GET", path, "", as...), &page)
		var got []uint64
		for _, one := range page.Data {
			got = append(got, one.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if w := do(h, "POST", "/api/v1/dead-letters/delete", `{"all":true}`, as...); !strings.Contains(w.Body.String(), `"done":2,"more":false`) {
		t.Errorf("%s", w.Body)
	}
	if w := authorized(h, "GET", "/api/v1/dead-letters", ""); strings.Count(w.Body.String(), `"id":`) < 2 || strings.Contains(w.Body.String(), "ours") {
		t.Errorf("left: %s", w.Body)
	}
}
