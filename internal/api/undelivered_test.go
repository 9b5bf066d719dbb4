package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/event"
)

// What is undelivered is counted, for whoever sees the endpoint, its receiver too; what is erased counts no more.
func TestUndeliveredAndErased(t *testing.T) {
	t.Parallel()
	h, registry, log, f := overFanout(t, nil)
	made := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"http://127.0.0.1:1/"}`), http.StatusCreated)
	runFanout(t, f)
	answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/disable", ""), http.StatusOK)
	eventually(t, func() bool { return registry.State("crm").Position > 0 }) // its place is noted
	for i, subject := range []string{"person/john", "person/jane", "person/john"} {
		e := &event.Event{
			Workspace: "acme", ID: fmt.Sprint("e-", i), Type: "nex.insight.risk", Subject: subject, Time: time.Now(), Data: []byte(`{}`), Traceparent: event.NewTraceparent(),
		}
		if _, err := log.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	undelivered := func(want uint64) (u api.Undelivered) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("%+v, not %d", u, want)
			}
		}()
		eventually(t, func() bool {
			w := do(h, "GET", "/api/v1/endpoints/crm/undelivered", "", "Authorization", "Bearer "+made.EventsToken)
			u = api.Undelivered{}
			if err := json.Unmarshal(w.Body.Bytes(), &u); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return u.Count == want && u.InFlight == 0
		})
		return u
	}
	u := undelivered(3)
	if m, err := log.Get(t.Context(), u.Oldest.Sequence); err != nil || u.InLog+u.Waiting != 3 || !u.Exact || !u.Oldest.StoredAt.Equal(m.Time) || u.Oldest.AgeSeconds <= 0 {
		t.Errorf("%+v %+v, %v", u, u.Oldest, err)
	}
	for _, tt := range []struct {
		body        string
		code        int
		events      uint64
		undelivered uint64
	}{
		{`{"workspace":"Acme","subject":"person/john","dry_run":true}`, 200, 2, 3},
		{`{"workspace":"Acme","subject":"person/john"}`, 200, 2, 1},
		{`{"workspace":"acme","subject":"person/john"}`, 200, 0, 1},
		{`{"workspace":"_"}`, 400, 0, 1},
		{`{"subject":"person/jane"}`, 400, 0, 1},
		{`{"workspace":"acme"}`, 200, 1, 0},
	} {
		w := authorized(h, "POST", "/api/v1/erase", tt.body)
		var got api.Erased
		_ = json.Unmarshal(w.Body.Bytes(), &got)
		if w.Code != tt.code || got.Events != tt.events || tt.code == 200 && (!got.Done || got.Workspace != "acme") {
			t.Errorf("%s: %d %s", tt.body, w.Code, w.Body)
		}
		if u := undelivered(tt.undelivered); (u.Oldest == nil) != (tt.undelivered == 0) {
			t.Errorf("after %s: %+v", tt.body, u)
		}
	}
}
