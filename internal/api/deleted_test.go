package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/bus"
)

// deleteStreams removes the streams beside the log, as somebody with the NATS CLI may.
func deleteStreams(t *testing.T, log *bus.Bus) {
	t.Helper()
	for _, name := range []string{bus.StreamAttempts, bus.StreamDead, bus.StreamRetry} {
		if err := log.JetStream().DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// Until streams that were deleted have been made again they read as empty ones.
func TestDeletedStreamsReadAsEmpty(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	past(t, log, "acme_corp")
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	deleteStreams(t, log)
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/api/v1/attempts", "", 200, `"data":[]`},
		{"GET", "/api/v1/attempts?event=e-1&from=2020-01-01T00:00:00Z", "", 200, `"data":[]`},
		{"GET", "/api/v1/attempts/7", "", 404, "no such attempt"},
		{"GET", "/api/v1/endpoints/crm/attempts", "", 200, `"data":[]`},
		{"GET", "/api/v1/dead-letters", "", 200, `"data":[]`},
		{"POST", "/api/v1/erase", `{"workspace":"acme_corp","dry_run":true}`, 200, `"events":3,"attempts":0,"retries":0,"dead_letters":0,"done":true`},
		{"POST", "/api/v1/erase", `{"workspace":"acme_corp"}`, 200, `"events":3,"attempts":0,"retries":0,"dead_letters":0,"done":true`},
	} {
		w := authorized(h, tt.method, tt.path, tt.body)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
	}
}

// Who watches sees what is there, and the attempts again once their stream has been made again.
func TestWatchWithoutAttempts(t *testing.T) {
	t.Parallel()
	s := serveLive(t, nil)
	deleteStreams(t, s.log)
	w := s.watch(t, "", token, "")
	publish(t, s.log, "acme", "e-1", "nex.insight.risk")
	if got := show(t, w.next()); got.ID != "e-1" {
		t.Errorf("%+v", got)
	}
	if _, err := s.log.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	record(t, s.log, "crm", 1, "e-1", "delivered")
	if got := show(t, w.next()); got.Outcome != "delivered" || got.Endpoint != "crm" {
		t.Errorf("%+v", got)
	}
}
