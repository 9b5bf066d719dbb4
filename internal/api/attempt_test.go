package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// An attempt is shown with what was sent and what was answered, and with no secret of either.
func TestAttemptShowsRequestAndAnswer(t *testing.T) {
	t.Parallel()
	h, _, log, f := overFanout(t, nil)
	type arrival struct {
		header http.Header
		body   string
	}
	got := make(chan arrival, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Request-Id", "r-1")
		w.Header().Set("Set-Cookie", "session=sentinel")
		if strings.Contains(string(body), "refuse") {
			w.Header().Set("Www-Authenticate", `Bearer realm="crm"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "not with "+r.Header.Get("Authorization"))
		}
		got <- arrival{r.Header, string(body)}
	}))
	t.Cleanup(receiver.Close)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", asJSON(t, map[string]any{
		"id": "crm", "url": receiver.URL + "/hook?key=sentinel", "headers": map[string]string{"Authorization": "Bearer sentinel-credential"}, "shape": "binary",
	})), http.StatusCreated)
	runFanout(t, f)
	publish(t, log, "acme", "e-1", "nex.insight.risk")
	came := <-got
	code, text, _ := patch(h, "crm", "*", `{"shape":"template","template":"refuse {{.id}} {{.relay.attempt}}","content_type":"text/plain"}`)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	publish(t, log, "acme", "e-2", "nex.insight.risk")
	refused := <-got
	var list struct{ Data []api.Attempt }
	eventually(t, func() bool {
		w := authorized(h, "GET", "/api/v1/attempts?endpoint=crm", "")
		if list.Data = nil; strings.Contains(w.Body.String(), "sentinel") {
			t.Fatalf("a secret is shown: %s", w.Body)
		}
		decodeInto(t, w, &list)
		return len(list.Data) >= 2 // the second is tried again after some seconds
	})
	second, first := list.Data[len(list.Data)-2], list.Data[len(list.Data)-1]
	if first.Request == nil || first.Request.Method != "POST" || first.Request.URL != receiver.URL+"/hook" || first.Request.Headers["traceparent"] != came.header.Get("Traceparent") ||
		first.Request.Headers["authorization"] != webhook.Redacted || first.ResponseHeaders["x-request-id"] != "r-1" || first.ResponseHeaders["date"] != "" {
		t.Errorf("first: %s", asJSON(t, first))
	}
	if second.Response != "not with [redacted]" || second.ResponseHeaders["www-authenticate"] != `Bearer realm="crm"` || second.ResponseHeaders["set-cookie"] != webhook.Redacted ||
		second.ResponseHeaders["date"] == "" || second.Request.Headers["content-type"] != "text/plain" {
		t.Errorf("second: %s", asJSON(t, second))
	}
	var one api.OneAttempt
	decodeInto(t, authorized(h, "GET", fmt.Sprint("/api/v1/attempts/", second.ID), ""), &one)
	if one.ID != second.ID || one.RequestBody.Text != refused.body || !one.RequestBody.Exact || one.RequestBody.Missing != "" {
		t.Errorf("the body %q is shown as %+v", refused.body, one.RequestBody)
	}
	decodeInto(t, authorized(h, "GET", fmt.Sprint("/api/v1/attempts/", first.ID), ""), &one)
	if one.RequestBody.Exact || one.RequestBody.Text != "refuse e-1 1" {
		t.Errorf("in another shape by now: %+v", one.RequestBody)
	}
	if code, text, _ = patch(h, "crm", "*", `{"shape":"binary"}`); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	one = api.OneAttempt{}
	decodeInto(t, authorized(h, "GET", fmt.Sprint("/api/v1/attempts/", first.ID), ""), &one)
	if !one.RequestBody.Exact || one.RequestBody.Text != came.body || one.Request.Headers["ce-id"] != "e-1" {
		t.Errorf("in its shape again: %+v %+v", one.RequestBody, one.Request)
	}
	var tested api.TestResult
	decodeInto(t, authorized(h, "POST", "/api/v1/endpoints/crm/test", ""), &tested)
	if tested.Request == nil || tested.Request.Headers["webhook-id"] != tested.EventID || tested.ResponseHeaders["x-request-id"] != "r-1" {
		t.Errorf("%+v", tested)
	}
}

// What cannot be shown of an attempt says why.
func TestAttemptWithoutBody(t *testing.T) {
	t.Parallel()
	const bound = "token-of-globex-00"
	h, _, log := withFanout(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "globex", Secret: bound, Write: true, Workspaces: []string{"globex"}})
		c.Workspaces = func() []stream.Status { return []stream.Status{{Token: "acme"}, {Token: "globex"}} }
	})
	past(t, log, "acme") // in the form of relays that kept no request
	if _, err := log.JetStream().Publish(t.Context(), bus.AttemptSubject("crm", "timeout"), []byte("no record")); err != nil {
		t.Fatal(err)
	}
	record(t, log, "crm", 2, "e-1", webhook.Timeout) // of a log that was made anew since
	record(t, log, "crm", 0, "news_1", webhook.Timeout)
	show := func(id int) (one api.OneAttempt) {
		t.Helper()
		decodeInto(t, authorized(h, "GET", fmt.Sprint("/api/v1/attempts/", id), ""), &one)
		return one
	}
	if one := show(1); !strings.Contains(one.RequestBody.Missing, "endpoint is no more") {
		t.Errorf("%+v", one.RequestBody)
	}
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com","workspaces":["globex"]}`), http.StatusCreated)
	if one := show(1); one.Request != nil || one.RequestBody.Exact || !json.Valid([]byte(one.RequestBody.Text)) {
		t.Errorf("of an older relay: %+v", one)
	}
	if one := show(6); !strings.Contains(one.RequestBody.Missing, "any more") {
		t.Errorf("%+v", one.RequestBody)
	}
	if one := show(7); !strings.Contains(one.RequestBody.Missing, "no log") {
		t.Errorf("%+v", one.RequestBody)
	}
	for _, id := range []string{"5", "77"} {
		answer(t, authorized(h, "GET", "/api/v1/attempts/"+id, ""), http.StatusNotFound)
	}
	// An endpoint of this name was another's.
	answer(t, do(h, "GET", "/api/v1/attempts/1", "", "Authorization", "Bearer "+bound), http.StatusNotFound)
}

// eventually asks again and again: what the API shows has no other sign.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	const patience = 2 * time.Minute
	for deadline := time.Now().Add(patience); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v", patience)
		}
	}
}
