package stream

import (
	"context"
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

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/nexsim"
)

// before puts a handler before the simulator's.
func (b *bench) before(h func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	b.t.Helper()
	next := b.sim.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r, next) }))
	b.t.Cleanup(func() {
		b.stop()
		b.sim.Close()
		server.Close()
	})
	client, err := nex.NewClient(nex.ClientConfig{BaseURL: server.URL, MaxEventSize: 16 << 20, MaxAnswer: 1 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.CloseIdle)
	b.cfg.Client = client
}

// isREST tells whether a request asks for insights over REST, and for which time.
func isREST(r *http.Request) (w window, ok bool) {
	if !strings.HasSuffix(r.URL.Path, "/v1/insights") {
		return window{}, false
	}
	w.from, _ = time.Parse(time.RFC3339Nano, r.URL.Query().Get("from"))
	w.to, _ = time.Parse(time.RFC3339Nano, r.URL.Query().Get("to"))
	return w, true
}

// history emits n insights, the last of them now.
func (b *bench) history(n int, every time.Duration) {
	now := b.sim.Now()
	list := make([]nexsim.Insight, n)
	for i := range list {
		list[i] = nexsim.Insight{Type: "risk", Content: fmt.Sprint("insight ", i), CreatedAt: now.Add(-time.Duration(n-1-i) * every)}
	}
	b.sim.EmitInsights("acme", list...)
}

func (b *bench) mark(token string) (m begun, err error) {
	entry, err := b.bus.Leases().Get(b.t.Context(), begunPrefix+token)
	if err != nil {
		return begun{}, err
	}
	return m, json.Unmarshal(entry.Value(), &m)
}

// forget removes all that the log holds, as its limits do in time, and the copy of the checkpoint where that is as old.
func (b *bench) forget(withCopy bool) {
	b.t.Helper()
	if withCopy {
		if err := b.bus.Leases().Purge(b.t.Context(), checkpointPrefix+"acme"); err != nil {
			b.t.Fatal(err)
		}
	}
	s, err := b.bus.JetStream().Stream(b.t.Context(), bus.StreamNex)
	if err == nil {
		err = s.Purge(b.t.Context())
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// A relay dies in its first backfill, before it noted in the log how far it has come.
func TestBackfillIsResumed(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	var asked atomic.Int64
	full := make(chan struct{})
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); ok && asked.Add(1) == 4 {
			close(full)
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	b.history(400, 3*time.Minute)
	b.cfg.Backfill, b.cfg.requests = 24*time.Hour, 100
	b.start(workspace("acme"))
	<-full
	b.eventually("a part of it is in the log", func() bool { return len(b.insights("acme")) > 20 })
	b.stop()
	if n := len(b.of("acme", event.GapFilled)); n != 0 {
		t.Fatalf("%d gaps filled: this is no test", n)
	}
	b.start(workspace("acme"))
	b.exactly("acme")
}

// A relay was down for longer than the log keeps its events, so that its checkpoint is gone too.
func TestDownForLongerThanTheLogKeepsEvents(t *testing.T) {
	t.Parallel()
	for name, withCopy := range map[string]bool{"its copy is left": false, "and no copy is left": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			downForLongerThanTheLogKeepsEvents(t, withCopy)
		})
	}
}

func downForLongerThanTheLogKeepsEvents(t *testing.T, withCopy bool) {
	b := setup(t, nexsim.Options{})
	b.cfg.MaxAge, b.cfg.GapOverlap = time.Hour, time.Second
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	first, err := b.mark("acme")
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	since := first.From
	if !withCopy {
		since = b.toldTo("acme")
	}
	b.forget(withCopy)
	b.cfg.Now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	b.sim.JumpClock(3 * time.Hour)
	b.history(60, 30*time.Second)
	b.start(workspace("acme"))
	b.exactly("acme")
	lost := b.news("acme", event.GapNotFillable, 1)
	if lost["from"] != since.Format(time.RFC3339Nano) || !strings.Contains(fmt.Sprint(lost["reason"]), "max_age") {
		t.Errorf("%v, it was complete to %v", lost, since)
	}
	if again, err := b.mark("acme"); err != nil || again != first {
		t.Errorf("the mark moved: %v, %v, %v", first, again, err)
	}
}

// The first start falls into an outage of Nex.
func TestFirstStartWhileNexIsAway(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"one life": false, "two lives": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			if err := b.sim.Refuse(nexsim.Refusal{Status: http.StatusServiceUnavailable}); err != nil {
				t.Fatal(err)
			}
			b.start(workspace("acme"))
			b.eventually("tried", func() bool { return b.metric("relay_stream_reconnects_total") > 0 })
			for range 20 {
				b.sim.Emit("acme", 3)
			}
			if restart {
				b.start(workspace("acme"))
			}
			b.sim.Clear("")
			b.exactly("acme")
		})
	}
}

// The bucket knows nothing of a workspace that the log knows: another version held it, or the bucket was removed.
func TestMarkIsMadeFromTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill = time.Hour
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	b.stop()
	if err := b.bus.Leases().Purge(b.t.Context(), begunPrefix+"acme"); err != nil {
		t.Fatal(err)
	}
	first, err := b.bus.First(t.Context(), "nex.acme.>")
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Hour) }
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 2)
	want := begun{At: first.Time, From: first.Time.Add(-b.cfg.Backfill - b.cfg.GapOverlap)}
	if got, err := b.mark("acme"); err != nil || !got.At.Equal(want.At) || !got.From.Equal(want.From) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// The checkpoint is told again before the log loses it by its age, also while Nex gives nothing.
func TestCheckpointIsToldAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		every time.Duration
		away  bool
	}{"all is well": {every: 20 * time.Millisecond}, "REST is away": {every: 20 * time.Millisecond, away: true}, "no gaps are looked for": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.cfg.GapCheckInterval, b.cfg.MaxAge, b.cfg.requests = c.every, 2*time.Second, 100
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			if c.away {
				if err := b.sim.Refuse(nexsim.Refusal{Status: http.StatusServiceUnavailable, Endpoint: nexsim.EndpointREST, RetryAfter: "0"}); err != nil {
					t.Fatal(err)
				}
			}
			b.news("acme", event.GapFilled, 3)
		})
	}
}

func TestMarkThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	if _, err := b.bus.Leases().PutString(t.Context(), begunPrefix+"acme", "rubbish"); err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	b.eventually("it is said", func() bool { return strings.Contains(b.log.String(), "begun.acme") })
	if err := b.bus.Leases().Purge(context.WithoutCancel(t.Context()), begunPrefix+"acme"); err != nil {
		t.Fatal(err)
	}
	b.connected("acme", 1)
	if _, err := b.mark("acme"); errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Error("no mark was made")
	}
}
