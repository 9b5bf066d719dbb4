package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
)

// What is asked twice with one key is done once, by whichever replica, and answered alike, the secret included.
func TestAskedTwice(t *testing.T) {
	t.Parallel()
	log := bustest.New(t)
	change := func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "other", Secret: "another-token-000", Write: true})
	}
	h, registry := open(t, log, change)
	second, _ := open(t, log, change)
	post := func(h http.Handler, key, body string, header ...string) (int, string, string) {
		w := do(h, "POST", "/api/v1/endpoints", body, append([]string{"Authorization", "Bearer " + token, "Idempotency-Key", key}, header...)...)
		return w.Code, w.Body.String(), w.Header().Get("Idempotency-Replayed") + w.Header().Get("ETag")
	}
	const body = `{"url":"https://example.com/x"}`
	code, first, seen := post(h, "one", body)
	if code != http.StatusCreated || !strings.Contains(first, "whsec_") || strings.Contains(seen, "true") {
		t.Fatalf("%d %s %s", code, first, seen)
	}
	for _, replica := range []http.Handler{h, second} {
		if code, again, now := post(replica, "one", body); code != http.StatusCreated || again != first || now != "true"+seen {
			t.Errorf("%d %s %s, want %s", code, again, now, first)
		}
	}
	if code, text, _ := post(second, "one", `{"url":"https://example.com/y"}`); code != http.StatusUnprocessableEntity {
		t.Errorf("another request: %d %s", code, text)
	}
	if code, text, _ := post(h, "one", body, "Authorization", "Bearer another-token-000"); code != http.StatusCreated || text == first {
		t.Errorf("another caller: %d %s", code, text)
	}
	if code, _, _ := post(h, "one", body, "Authorization", "Bearer wrong"); code != http.StatusUnauthorized {
		t.Errorf("nobody: %d", code)
	}
	if code, _, _ := post(h, strings.Repeat("k", 256), body); code != http.StatusBadRequest {
		t.Errorf("a long key: %d", code)
	}
	// A failure may be mended under the same key.
	if code, _, _ := post(h, "two", `{"url":"ftp://example.com"}`); code != http.StatusBadRequest {
		t.Errorf("%d", code)
	}
	if code, text, _ := post(h, "two", body); code != http.StatusCreated {
		t.Errorf("mended: %d %s", code, text)
	}
	if n := made(registry); n != 3 {
		t.Errorf("%d endpoints were made", n)
	}
	entry, err := log.Requests().Keys(t.Context())
	if err != nil || len(entry) != 3 {
		t.Errorf("%v %v", entry, err)
	}
	for _, key := range entry {
		value, err := log.Requests().Get(t.Context(), key)
		if err != nil || strings.Contains(string(value.Value()), "whsec_") {
			t.Errorf("%s %v", value.Value(), err)
		}
	}
}

func made(registry *endpoint.Registry) (n int) {
	for _, e := range registry.Snapshot().All() {
		if e.Source == endpoint.SourceAPI {
			n++
		}
	}
	return n
}

// Of those who ask at the same time one is served, the others are told to come again.
func TestAskedAtOneTime(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			w := do(h, "POST", "/api/v1/endpoints", `{"url":"https://example.com/x"}`, "Authorization", "Bearer "+token, "Idempotency-Key", "k")
			if w.Code != http.StatusCreated && w.Code != http.StatusConflict {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	all.Wait()
	if n := made(registry); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}

// Whose relay died before it had answered, and asks again, has not made a second endpoint.
func TestAskedAgainAfterACrash(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"url":"https://example.com/x"}`, `{"id":"crm","url":"https://example.com/x"}`} {
		askedAgainAfterACrash(t, body)
	}
}

func askedAgainAfterACrash(t *testing.T, body string) {
	t.Helper()
	log := bustest.New(t)
	h, registry := open(t, log, nil)
	post := func() (int, string) {
		w := do(h, "POST", "/api/v1/endpoints", body, "Authorization", "Bearer "+token, "Idempotency-Key", "k")
		return w.Code, w.Body.String()
	}
	if code, text := post(); code != http.StatusCreated {
		t.Fatalf("%d %s", code, text)
	}
	if strings.Contains(body, "crm") {
		w := do(h, "POST", "/api/v1/endpoints", body, "Authorization", "Bearer "+token, "Idempotency-Key", "another")
		if w.Code != http.StatusConflict || strings.Contains(w.Body.String(), "rotate its secret") {
			t.Errorf("one that another request has made: %d %s", w.Code, w.Body)
		}
	}
	keys, err := log.Requests().Keys(t.Context())
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	entry, err := log.Requests().Get(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var claim map[string]any
	if err := json.Unmarshal(entry.Value(), &claim); err != nil {
		t.Fatal(err)
	}
	delete(claim, "status") // as it was before there was an answer, long ago
	claim["at"] = time.Now().Add(-time.Hour)
	if _, err := log.Requests().Put(t.Context(), keys[0], []byte(asJSON(t, claim))); err != nil {
		t.Fatal(err)
	}
	if code, text := post(); code != http.StatusConflict || !strings.Contains(text, "rotate its secret") {
		t.Errorf("%d %s", code, text)
	}
	if n := made(registry); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}

// A key is its token's, whatever that is called, and repeats nothing to a token that may not ask for it.
func TestKeysAreOfTheirToken(t *testing.T) {
	t.Parallel()
	h, registry := setup(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "admin", Secret: "named-like-another", Write: true, Workspaces: []string{"acme_corp"}}, api.Token{Name: "admin", Secret: "only-reads-000000"})
	})
	var answers []string
	for _, secret := range []string{token, "named-like-another", "only-reads-000000"} {
		w := do(h, "POST", "/api/v1/endpoints", `{"url":"https://example.com/x"}`, "Authorization", "Bearer "+secret, "Idempotency-Key", "k")
		answers = append(answers, w.Header().Get("Idempotency-Replayed")+http.StatusText(w.Code))
	}
	if !slices.Equal(answers, []string{"Created", "Created", "Forbidden"}) || made(registry) != 2 {
		t.Errorf("%v, %d endpoints", answers, made(registry))
	}
}
