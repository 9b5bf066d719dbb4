package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
)

// What is tried tells what would have come, and changes nothing.
func TestTry(t *testing.T) {
	t.Parallel()
	h, registry, log := withFanout(t, func(c *api.Config) { c.TryTime = time.Hour })
	past(t, log, "acme_corp")
	publish(t, log, "acme_corp", "e-5", "nex.insight.opportunity")
	before := len(registry.Snapshot().All())
	for _, tt := range []struct {
		body           string
		read, matching int
		failed         int
		sample         string
	}{
		{`{}`, 5, 5, 0, `"id":"e-5"`},
		{`{"last":2,"samples":1}`, 2, 2, 0, `"id":"e-5"`},
		{`{"events":["nex.insight.opportunity"]}`, 1, 1, 0, `"id":"e-5"`},
		{`{"workspaces":["Acme Corp"],"filter":"event.id != \"e-1\""}`, 4, 3, 0, `"id":"e-5"`},
		{`{"filter":"event.data.n > 1"}`, 5, 0, 0, ""},
		{`{"shape":"template","template":"{\"id\":{{json .id}}}"}`, 5, 5, 0, `{"id":"e-5"}`},
		{`{"shape":"template","template":"{{.data.nothing}}"}`, 5, 5, 5, ""},
		{`{"shape":"thin"}`, 5, 5, 0, `"sequence"`},
	} {
		w := authorized(h, "POST", "/api/v1/try", tt.body)
		var got api.TrialResult
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", tt.body, w.Code, w.Body)
		}
		if got.Read != tt.read || got.Matching != tt.matching || got.ShapeFailed != tt.failed || len(got.Errors) != tt.failed {
			t.Errorf("%s: %+v", tt.body, got)
		}
		if tt.sample != "" && (len(got.Samples) == 0 || len(got.Samples) > 3 || !strings.Contains(got.Samples[0].Body, tt.sample)) || tt.sample == "" && len(got.Samples) > 0 {
			t.Errorf("%s: %+v", tt.body, got.Samples)
		}
	}
	w := authorized(h, "POST", "/api/v1/try", `{"events":["x"],"filter":"event.typ","shape":"x","workspaces":["nobody"]}`)
	for _, field := range []string{"events[0]: ", "filter: ", "shape: ", "workspaces[0]: "} {
		if w.Code != 400 || !strings.Contains(w.Body.String(), field) {
			t.Errorf("%d %s: no %s", w.Code, w.Body, field)
		}
	}
	if w := authorized(h, "POST", "/api/v1/try", `{"last":100000}`); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if n := len(registry.Snapshot().All()); n != before {
		t.Errorf("%d endpoints were made", n-before)
	}
}

// What is tried shows events, which may be erased: no key keeps the answer, and the document offers none.
func TestTryTakesNoKey(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, func(c *api.Config) { c.TryTime = time.Hour })
	try := func(key string) api.TrialResult {
		t.Helper()
		var got api.TrialResult
		decodeInto(t, do(h, "POST", "/api/v1/try", `{}`, "Authorization", "Bearer "+token, "Idempotency-Key", key), &got)
		return got
	}
	for i := range 2 {
		publish(t, log, "acme_corp", fmt.Sprintf("e-%d", i), "nex.insight.risk")
		if got := try("k"); got.Read != i+1 {
			t.Errorf("with %d events: %+v", i+1, got)
		}
	}
	if keys, err := log.Requests().Keys(t.Context()); !errors.Is(err, jetstream.ErrNoKeysFound) {
		t.Errorf("kept: %v, %v", keys, err)
	}
	paths := document(t, h).Paths
	for path, want := range map[string]bool{"/api/v1/try": false, "/api/v1/endpoints": true} {
		if got := paths.Value(path).Post.Parameters.GetByInAndName("header", "Idempotency-Key") != nil; got != want {
			t.Errorf("%s: the document offers a key: %t", path, got)
		}
	}
}

// Whoever may only read takes no more than some seconds of the processor, and few do so at a time.
func TestTryIsBounded(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 2), make(chan struct{})
	var held atomic.Int32
	h, _, log := withFanout(t, func(c *api.Config) {
		c.TryTime = time.Nanosecond
		log := c.Log
		c.Log = func() *bus.Bus {
			if held.Add(1) <= 2 {
				entered <- struct{}{}
				<-release
			}
			return log()
		}
	})
	past(t, log, "acme_corp")
	first := make(chan *httptest.ResponseRecorder, 2)
	for range 2 {
		go func() { first <- authorized(h, "POST", "/api/v1/try", `{}`) }()
	}
	<-entered
	<-entered
	if w := authorized(h, "POST", "/api/v1/try", `{}`); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "others are trying") {
		t.Errorf("a third at the same time: %d %s", w.Code, w.Body)
	}
	close(release)
	one, two := <-first, <-first
	enough := authorized(h, "POST", "/api/v1/try", `{"last":1}`)
	for _, w := range []*httptest.ResponseRecorder{one, two, enough} {
		var got api.TrialResult
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || got.Read != 1 || got.Matching != 1 || len(got.Samples) != 1 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if got.Cut == (w == enough) {
			t.Errorf("cut: %v in %s", got.Cut, w.Body)
		}
	}
}
