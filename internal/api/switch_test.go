package api_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	mode := func() endpoint.Mode { return registry.Snapshot().Get("crm").State.Resume }
	for _, tt := range []struct {
		query, body string
		want        endpoint.Mode
	}{
		{"", "", ""},
		{"", "{}", ""},
		{"", `{"resume":"all"}`, endpoint.ModeAll},
		{"", `{"resume":"newest-first"}`, endpoint.ModeNewestFirst},
		{"?resume=latest-per-target", "", endpoint.ModeLatestPerTarget},
		{"?resume=skip", "{}", endpoint.ModeSkip},
		{"?resume=skip", `{"resume":"skip"}`, endpoint.ModeSkip},
	} {
		for range 2 { // twice is once
			if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/disable", ""), 200); e.State != "paused" || e.Enabled {
				t.Errorf("%+v: paused: %+v", tt, e)
			}
		}
		for range 2 {
			if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/enable"+tt.query, tt.body), 200); e.State != "active" || !e.Enabled || e.Disabled != nil {
				t.Errorf("%+v: on again: %+v", tt, e)
			}
			if mode() != tt.want {
				t.Errorf("%+v: it goes on by %q", tt, mode())
			}
		}
	}
}

// One call switches on what both its owner and the relay have switched off.
func TestEnableAfterBoth(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	if _, err := registry.Disable(t.Context(), "crm", "the receiver answered 410 Gone", time.Now()); err != nil {
		t.Fatal(err)
	}
	if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/disable", ""), 200); e.State != "disabled" || e.Enabled || e.Disabled.Reason == "" {
		t.Errorf("%+v", e)
	}
	if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/crm/enable?resume=skip", ""), 200); e.State != "active" {
		t.Errorf("%+v", e)
	}
	if got := registry.Snapshot().Get("crm").State.Resume; got != endpoint.ModeSkip {
		t.Errorf("goes on by %q", got)
	}
}

func TestPauseOneOfTheFile(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/file/disable", ""), 200); e.State == "active" || e.Disabled == nil || !strings.Contains(e.Disabled.Reason, "API") {
		t.Errorf("%+v", e)
	}
	if registry.Snapshot().Get("file").Active() {
		t.Error("it gets webhooks on")
	}
	if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/file/enable?resume=newest-first", ""), 200); e.State != "active" {
		t.Errorf("%+v", e)
	}
	if e := registry.Snapshot().Get("file"); !e.Active() || e.State.Resume != endpoint.ModeNewestFirst {
		t.Errorf("%+v", e)
	}
	// What the file switches off, the file alone switches on.
	registry.SetConfig([]*endpoint.Endpoint{{ID: "file", URL: "https://example.com/file", Secrets: []webhook.Secret{webhook.GenerateSecret()}}})
	if w := authorized(h, "POST", "/api/v1/endpoints/file/enable", ""); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "enabled: false") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestResumeIsRefused(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	for _, body := range []string{`{"id":"crm","url":"https://example.com"}`, `{"id":"strict","url":"https://example.com","ordered":true}`} {
		answer(t, authorized(h, "POST", "/api/v1/endpoints", body), http.StatusCreated)
	}
	for _, id := range []string{"crm", "strict"} {
		answer(t, authorized(h, "POST", "/api/v1/endpoints/"+id+"/disable", ""), 200)
	}
	for _, tt := range []struct {
		path, body string
		code       int
		want       string
	}{
		{"crm/enable?resume=backwards", "", 400, "resume: "},
		{"crm/enable", `{"resume":"backwards"}`, 400, "resume: "},
		{"crm/enable", `{"mode":"all"}`, 400, "mode"},
		{"crm/enable", `[]`, 400, "body"},
		{"strict/enable", `{"resume":"newest-first"}`, 400, "resume: newest-first would break the order"},
		{"strict/enable?resume=latest-per-target", "", 400, "would break the order"},
		{"strict/enable?resume=backwards", "", 400, "resume: "},
		{"none/enable", "", 404, "no such endpoint"},
		{"none/disable", "", 404, "no such endpoint"},
	} {
		if w := authorized(h, "POST", "/api/v1/endpoints/"+tt.path, tt.body); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s", tt.path, tt.body, w.Code, w.Body)
		}
	}
	for _, id := range []string{"crm", "strict"} {
		if registry.Snapshot().Get(id).Active() {
			t.Errorf("%s was switched on all the same", id)
		}
	}
	if e := answer(t, authorized(h, "POST", "/api/v1/endpoints/strict/enable?resume=skip", ""), 200); e.State != "active" {
		t.Errorf("skip keeps the order: %+v", e)
	}
}

// An order that stands still is seen.
func TestHeldUpIsShown(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"strict","url":"https://example.com","ordered":true}`), http.StatusCreated)
	for next, shown := range map[time.Duration]bool{time.Hour: true, -time.Hour: false} {
		at := endpoint.OrderedState{Sequence: 7, Attempt: 3, NextAt: time.Now().Add(next)}
		if err := registry.HoldUp(t.Context(), registry.Snapshot().Get("strict"), at); err != nil {
			t.Fatal(err)
		}
		e := answer(t, authorized(h, "GET", "/api/v1/endpoints/strict", ""), 200)
		if (e.HeldUp != nil) != shown || shown && (e.HeldUp.Sequence != 7 || e.HeldUp.Attempt != 3) {
			t.Errorf("next attempt in %v: %+v", next, e.HeldUp)
		}
	}
}
