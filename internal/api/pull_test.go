package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
)

// A receiver that loses one in twenty of its calls finds out, with its own token, what it has not had, and has everything in the end.
func TestReceiverRecoversWhatItLost(t *testing.T) {
	t.Parallel()
	h, _, log, f := overFanout(t, nil)
	const total = 400
	var mu sync.Mutex
	had := map[string]bool{}
	calls, all := 0, make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls%20 != 0 { // the others are taken and lost
			had[r.Header.Get("webhook-id")] = true
		}
		if calls == total {
			close(all)
		}
	}))
	t.Cleanup(receiver.Close)
	publish(t, log, "acme", "before", "nex.insight.risk")
	made := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`","filter":"event.id != \"unwanted\""}`), http.StatusCreated)
	runFanout(t, f)
	for i := range total {
		publish(t, log, "acme", fmt.Sprintf("e-%d", i), "nex.insight.risk")
	}
	publish(t, log, "acme", "unwanted", "nex.insight.risk")
	select {
	case <-all:
	case <-time.After(2 * time.Minute):
		t.Fatal("not all webhooks came")
	}
	verifier, err := standardwebhooks.NewWebhook(made.Secret)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	lost := total - len(had)
	seen := map[string]bool{}
	for after, pages := uint64(0), 0; ; pages++ {
		w := do(h, "GET", "/api/v1/endpoints/crm/events?limit=70&after="+strconv.FormatUint(after, 10), "", "Authorization", "Bearer "+made.EventsToken)
		var page api.Pulled
		decodeInto(t, w, &page)
		for _, e := range page.Data {
			header := http.Header{}
			for key, value := range e.Headers {
				header.Set(key, value)
			}
			if err := verifier.Verify([]byte(e.Body), header); err != nil {
				t.Fatalf("%d: %v", e.Sequence, err)
			}
			var event struct{ ID string }
			if err := json.Unmarshal([]byte(e.Body), &event); err != nil || event.ID != header.Get("webhook-id") {
				t.Errorf("%s %v", e.Body, err)
			}
			seen[event.ID], had[event.ID] = true, true
		}
		if after = page.Last; !page.More {
			break
		}
		if pages > 20 {
			t.Fatal("it does not end")
		}
	}
	if lost == 0 || len(seen) != total || len(had) != total || seen["before"] || seen["unwanted"] {
		t.Errorf("%d lost, %d of %d are shown, %d are there", lost, len(seen), total, len(had))
	}
}

// An endpoint's token opens that, and nothing else.
func TestEventsToken(t *testing.T) {
	t.Parallel()
	h, _, _ := withFanout(t, nil)
	var tokens []string
	for _, id := range []string{"a", "b"} {
		e := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"`+id+`","url":"https://example.com"}`), http.StatusCreated)
		tokens = append(tokens, e.EventsToken)
		if again := answer(t, authorized(h, "GET", "/api/v1/endpoints/"+id, ""), 200); again.EventsToken != "" || e.EventsToken == "" {
			t.Error("it is shown once")
		}
	}
	code := func(method, path, token string) int {
		return do(h, method, path, "", "Authorization", "Bearer "+token).Code
	}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/api/v1/endpoints/a/events", 200}, {"GET", "/api/v1/endpoints/b/events", 401}, {"GET", "/api/v1/endpoints/none/events", 401},
		{"GET", "/api/v1/endpoints/a", 401}, {"GET", "/api/v1/endpoints", 401}, {"POST", "/api/v1/endpoints/a/rotate-events-token", 401},
		{"GET", "/api/v1/endpoints/file/events", 401},
	} {
		if got := code(tt.method, tt.path, tokens[0]); got != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
	fresh := answer(t, authorized(h, "POST", "/api/v1/endpoints/a/rotate-events-token", ""), 200).EventsToken
	if code("GET", "/api/v1/endpoints/a/events", tokens[0]) != 401 || code("GET", "/api/v1/endpoints/a/events", fresh) != 200 {
		t.Error("the old token holds, or the new one does not")
	}
}

// What is no text is given as it is signed.
func TestPulledBodyThatIsNoText(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	made := answer(t, authorized(h, "POST", "/api/v1/endpoints",
		`{"id":"crm","url":"https://example.com","shape":"template","content_type":"text/plain","template":"{{\"\\xff\"}}x"}`), http.StatusCreated)
	publish(t, log, "acme", "e-1", "nex.insight.risk")
	var page api.Pulled
	decodeInto(t, do(h, "GET", "/api/v1/endpoints/crm/events", "", "Authorization", "Bearer "+made.EventsToken), &page)
	if len(page.Data) != 1 || page.Data[0].Body != "" || string(page.Data[0].Base64) != "\xffx" {
		t.Errorf("%+v", page)
	}
}

// That an endpoint was made after an event, and how far its receiver has come, hold in the log in which that event stood.
func TestReceiverAsksALogMadeAnew(t *testing.T) {
	t.Parallel()
	h, _, log := withFanout(t, nil)
	for i := range 5 {
		publish(t, log, "acme", fmt.Sprintf("before-%d", i), "nex.insight.risk")
	}
	made := answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com"}`), http.StatusCreated)
	pull := func(after int) (page api.Pulled) {
		t.Helper()
		decodeInto(t, do(h, "GET", fmt.Sprintf("/api/v1/endpoints/crm/events?after=%d", after), "", "Authorization", "Bearer "+made.EventsToken), &page)
		return page
	}
	if page := pull(0); len(page.Data) != 0 || page.Last != 5 {
		t.Fatalf("%+v", page)
	}
	js := log.JetStream()
	s, err := js.Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), bus.StreamNex); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), s.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		publish(t, log, "acme", fmt.Sprintf("anew-%d", i), "nex.insight.risk")
	}
	if page := pull(0); len(page.Data) != 3 || page.Last != 3 {
		t.Errorf("all of the new log: %+v", page)
	}
	if page := pull(5); len(page.Data) != 0 || page.Last != 3 {
		t.Errorf("behind a place of the old log: %+v", page)
	}
}
