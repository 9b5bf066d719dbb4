package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// fill writes n events and a dead letter of each at an endpoint.
func fill(t testing.TB, log *bus.Bus, id string, n int) {
	t.Helper()
	var pending []*bus.Pending
	for i := range n {
		e := &event.Event{Workspace: "acme", ID: fmt.Sprintf("e-%d", i+1), Type: "nex.insight.risk", Time: time.Now(), Data: []byte(`{"n":1}`), Traceparent: event.NewTraceparent()}
		p, err := log.PublishAsync(t.Context(), e, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if pending = append(pending, p); len(pending) < 500 && i < n-1 {
			continue
		}
		for _, p := range pending {
			if _, err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	js := log.JetStream()
	for i := range n {
		letter, err := json.Marshal(fanout.DeadLetter{
			EventID: fmt.Sprintf("e-%d", i+1), Sequence: uint64(i + 1), Endpoint: id, Workspace: "acme", Attempts: 10, At: time.Now().UTC(), Reason: fanout.ReasonUsedUp,
			Class: webhook.Class5xx, Outcome: webhook.ServerError, Status: 500, Event: json.RawMessage("null"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishAsync(bus.DeadSubject(id, "5xx"), letter, jetstream.WithStallWait(30*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

// counts is a receiver that counts what comes by its webhook-id.
type counts struct {
	*httptest.Server
	mu  sync.Mutex
	got map[string]int
}

func newCounts(t *testing.T) *counts {
	c := &counts{got: map[string]int{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got[r.Header.Get("webhook-id")]++
	}))
	t.Cleanup(c.Close)
	return c
}

// once waits until n have come, and fails where one came twice.
func (c *counts) once(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.got) >= n
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, times := range c.got {
		if times != 1 {
			t.Errorf("%s came %d times", id, times)
		}
	}
	if len(c.got) != n {
		t.Errorf("%d came, want %d", len(c.got), n)
	}
}

// bulks asks until there is no more, and answers what each request has done. What a busy machine has answered with 503 has done some
// too, nobody knows how much, and is asked for again.
func bulks(t *testing.T, h http.Handler, what, which string) (done []int, skipped int) {
	t.Helper()
	for after := uint64(0); ; {
		var bulk api.Bulk
		w := authorized(h, "POST", "/api/v1/dead-letters/"+what, fmt.Sprintf(`{%s,"after":%d}`, which, after))
		if w.Code == http.StatusServiceUnavailable && len(done) < 10 {
			done = append(done, -1)
			continue
		}
		decodeInto(t, w, &bulk)
		done, skipped = append(done, bulk.Done), skipped+bulk.Skipped
		if after = bulk.Last; !bulk.More {
			return done, skipped
		}
	}
}

// More dead letters than one request takes are all delivered, each once, by asking again.
func TestBulkRetryOfMany(t *testing.T) {
	t.Parallel()
	h, registry, log, f := overFanout(t, func(c *api.Config) { c.BulkTime = time.Hour })
	registry.SetConfig(nil)
	const n = 5100
	receiver := newCounts(t)
	fill(t, log, "crm", n)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`"}`), http.StatusCreated)
	runFanout(t, f)
	if done, skipped := bulks(t, h, "retry", `"endpoint":"crm"`); !slices.Contains(done, -1) && !slices.Equal(done, []int{5000, 100}) || skipped != 0 {
		t.Errorf("%v, %d skipped", done, skipped)
	}
	receiver.once(t, n)
	if w := authorized(h, "GET", "/api/v1/dead-letters", ""); w.Body.String() != `{"data":[]}`+"\n" {
		t.Errorf("left: %s", w.Body)
	}
}

// What cannot be delivered is looked at once, and does not keep what stands behind it.
func TestBulkBehindWhatIsSkipped(t *testing.T) {
	t.Parallel()
	h, registry, log, f := overFanout(t, func(c *api.Config) { c.BulkTime = time.Hour })
	registry.SetConfig(nil)
	fill(t, log, "gone", 30)
	receiver := newCounts(t)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`"}`), http.StatusCreated)
	for range 5 {
		bury(t, log, "crm")
	}
	runFanout(t, f)
	done, skipped := bulks(t, h, "retry", `"all":true,"limit":2`)
	if !slices.Equal(done, []int{2, 2, 1}) || skipped != 30 {
		t.Errorf("%v, %d skipped", done, skipped)
	}
	done, skipped = bulks(t, h, "delete", `"all":true,"limit":29`)
	if !slices.Equal(done, []int{29, 1}) || skipped != 0 {
		t.Errorf("%v, %d skipped", done, skipped)
	}
	for _, limit := range []string{"-1", "5001"} {
		if w := authorized(h, "POST", "/api/v1/dead-letters/delete", `{"all":true,"limit":`+limit+`}`); w.Code != http.StatusBadRequest {
			t.Errorf("limit %s: %d %s", limit, w.Code, w.Body)
		}
	}
}

// Where NATS is slow a request answers in time with what it has done: one letter at least.
func TestBulkAnswersInTime(t *testing.T) {
	t.Parallel()
	h, registry, log, f := overFanout(t, func(c *api.Config) { c.BulkTime = 1 })
	registry.SetConfig(nil)
	fill(t, log, "crm", 4)
	receiver := newCounts(t)
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`"}`), http.StatusCreated)
	runFanout(t, f)
	if done, _ := bulks(t, h, "retry", `"all":true`); !slices.Equal(done, []int{1, 1, 1, 1}) {
		t.Errorf("%v", done)
	}
	receiver.once(t, 4)
}
