package fanout_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// dead reads dead letters.
func (b *bundle) dead(id string) func() (letter struct {
	EventID string `json:"event_id"`
	Reason  string
	Status  int
}) {
	next := b.reader(bus.StreamDead, bus.DeadSubject(id, "*"))
	return func() (letter struct {
		EventID string `json:"event_id"`
		Reason  string
		Status  int
	}) {
		b.t.Helper()
		if err := json.Unmarshal(next().Data(), &letter); err != nil {
			b.t.Fatal(err)
		}
		return letter
	}
}

func TestReceiverSteers(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	abort := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("webhook-delivery", "abort-message")
		w.WriteHeader(http.StatusUnprocessableEntity)
	})
	disable := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Webhook-Delivery", " Disable ")
	})
	b.endpoints(&endpoint.Endpoint{ID: "abort", URL: abort.URL}, &endpoint.Endpoint{ID: "disable", URL: disable.URL})
	b.publish("x", 1)
	if letter := b.dead("abort")(); letter.EventID != "x-0" || letter.Reason != fanout.ReasonAborted || letter.Status != 422 {
		t.Errorf("%+v", letter)
	}
	b.reader(bus.StreamNex, "nex._.relay.endpoint.disabled")()
	e := b.registry.Snapshot().Get("disable")
	if e.Active() || e.Disabled == nil {
		t.Errorf("still active: %+v", e)
	}
	if !b.registry.Snapshot().Get("abort").Active() {
		t.Error("abort-message is about one message, not the endpoint")
	}
	if n := len(disable.all()); n != 1 {
		t.Errorf("the 2xx that asked to be disabled was not taken for delivered: %d attempts", n)
	}
}

// An endpoint that only fails gets probes, and everything when it has recovered.
func TestCircuitAgainstAReceiver(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Second, time.Second, time.Second, time.Second, time.Second, time.Hour}})
	var healthy atomic.Bool
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	failing, recovered := b.reader(bus.StreamNex, "nex._.relay.endpoint.failing"), b.reader(bus.StreamNex, "nex._.relay.endpoint.recovered")
	ids := b.publish("x", 20)
	failing()
	eventually(t, "it is remembered since when it fails", func() bool { return b.registry.Snapshot().Get("crm").State.FailingSince != nil })
	before := len(r.all())
	ids = append(ids, b.publish("y", 500)...)
	b.read() // all of it is stored, hardly anything tried
	if tried := len(r.all()) - before; tried > 50 {
		t.Errorf("%d attempts at an endpoint that only fails", tried)
	}
	healthy.Store(true)
	recovered()
	eventually(t, "what had waited is delivered", func() bool {
		got := r.all()
		return len(got)-before >= 500 && slices.Contains(got, ids[len(ids)-1])
	})
	eventually(t, "it is forgotten that it failed", func() bool { return b.registry.Snapshot().Get("crm").State.FailingSince == nil })
}

// It is told that an endpoint has recovered, also by a relay that did not see it fail, and once.
func TestRecoveredAfterARestart(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		b := setup(t, stubborn)
		r, heal := failing(t)
		b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: ordered})
		ids := b.publish("x", 20)
		b.reader(bus.StreamNex, "nex._.relay.endpoint.failing")()
		eventually(t, "it is known to fail", func() bool { return b.registry.Snapshot().Get("crm").State.FailingSince != nil })
		since := *b.registry.Snapshot().Get("crm").State.FailingSince
		b.stop()
		heal()
		tried := len(r.all())
		b.start()
		var e struct {
			Data struct {
				Endpoint string
				Since    time.Time `json:"failing_since"`
			}
		}
		if err := json.Unmarshal(b.reader(bus.StreamNex, "nex._.relay.endpoint.recovered")().Data(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Data.Endpoint != "crm" || !e.Data.Since.Equal(since) {
			t.Errorf("%+v, it failed since %v", e.Data, since)
		}
		r.hasAll(t, ids, tried)
		if b.registry.Snapshot().Get("crm").State.FailingSince != nil {
			t.Error("it is still remembered to fail")
		}
		s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("nex._.relay.endpoint.recovered"))
		if err != nil {
			t.Fatal(err)
		}
		if n := info.State.Subjects["nex._.relay.endpoint.recovered"]; n != 1 {
			t.Errorf("told %d times", n)
		}
	}
}

func TestDisabledWhenItOnlyFails(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: slices.Repeat([]time.Duration{time.Second}, 30)})
	b.stop()
	b.disableAfter = 6 * time.Second
	b.start()
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusNotFound) })
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 20)
	var e struct {
		Data struct{ Endpoint, Reason string }
	}
	if err := json.Unmarshal(b.reader(bus.StreamNex, "nex._.relay.endpoint.disabled")().Data(), &e); err != nil {
		t.Fatal(err)
	}
	if e.Data.Endpoint != "crm" || e.Data.Reason != "failing" {
		t.Errorf("%+v", e.Data)
	}
}

// The time while no relay ran is no time of failing.
func TestNotDisabledForTheTimeWithoutARelay(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	b.stop()
	const days = 24 * time.Hour
	b.disableAfter = 5 * days
	since, stopped := time.Now().Add(-10*days), time.Now().Add(-9*days)
	r, _ := failing(t)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	if _, err := b.registry.UpdateState(t.Context(), "crm", func(s *endpoint.State) bool {
		s.FailingSince, s.FailedAt = &since, stopped
		return true
	}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.publish("x", 3)
	r.await(t, 9)
	eventually(t, "it is noted that it still fails", func() bool { return b.registry.State("crm").FailedAt.After(stopped) })
	e := b.registry.Snapshot().Get("crm")
	if e.Disabled != nil {
		t.Fatalf("disabled: %+v", e.Disabled)
	}
	if failed := time.Since(*e.State.FailingSince).Round(time.Hour); failed != 1*days {
		t.Errorf("it has been tried for %v, was before the stop for a day", failed)
	}
}

// A receiver that says each time when to come again, and never takes anything, only fails all the same, whether its answer is a
// failure or that it has too much to do. No attempt is spent meanwhile.
func TestDisabledWhenItOnlyPutsOff(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			b.stop()
			b.disableAfter = 6 * time.Second
			b.start()
			r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(status)
			})
			b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
			b.publish("x", 20)
			b.reader(bus.StreamNex, "nex._.relay.endpoint.failing")()
			b.reader(bus.StreamNex, "nex._.relay.endpoint.disabled")()
			for _, a := range b.attempts("crm", len(r.all())) {
				if a.Attempt != 1 {
					t.Fatalf("an attempt was spent: %+v", a)
				}
			}
		})
	}
}

// A receiver that wants to be asked for its consent later is.
func TestHandshakePutOff(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusInternalServerError} {
		b := setup(t, fanout.Policy{Schedule: []time.Duration{0}, RetryAfterMax: time.Hour})
		r := newReceiver(t, nil)
		inner := r.Config.Handler
		var asked atomic.Int64
		r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.Method != http.MethodOptions:
				inner.ServeHTTP(w, req)
			case asked.Add(1) == 1:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(status)
			default:
				w.Header().Set("WebHook-Allowed-Origin", "*")
			}
		})
		b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Handshake: true, MaxInFlight: 1})
		ids := b.publish("x", 3)
		r.hasAll(t, ids, 0) // with the only attempt that each has
		b.settled()
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn) // more attempts than are made before it consents
	var consents atomic.Bool
	var asked atomic.Int64
	r := newReceiver(t, nil)
	inner := r.Config.Handler
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodOptions {
			if req.Header.Get("WebHook-Request-Origin") != "relay.example.com" {
				t.Errorf("a delivery does not name its origin: %v", req.Header)
			}
			inner.ServeHTTP(w, req)
			return
		}
		asked.Add(1)
		if consents.Load() {
			w.Header().Set("WebHook-Allowed-Origin", req.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", "600")
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Handshake: true})
	ids := b.publish("x", 5)
	for _, a := range b.attempts("crm", len(ids)) {
		if a.Outcome != webhook.NotGranted {
			t.Errorf("%+v", a)
		}
	}
	if n := len(r.all()); n != 0 {
		t.Fatalf("%d webhooks to a receiver that has not consented", n)
	}
	consents.Store(true)
	eventually(t, "all is delivered", func() bool { return slices.Equal(sorted(r.all()), sorted(ids)) })
	b.settled()
	before := asked.Load()
	b.stop()
	b.start()
	b.publish("y", 3)
	b.settled()
	if asked.Load() != before {
		t.Error("asked again, although the consent is known")
	}
	if g := b.registry.Snapshot().Get("crm").GrantedNow("relay.example.com"); g == nil || g.Rate != 600 {
		t.Errorf("consent %+v", g)
	}
}

// agreeing is a receiver that is asked for its consent and gives it, with a rate where one is named, when answer is closed or if it is
// nil; asked has a value for each time. It fails the test if a webhook comes before.
func agreeing(t *testing.T, rate string, answer <-chan struct{}) (r *receiver, asked chan struct{}) {
	r, asked = newReceiver(t, nil), make(chan struct{}, 16)
	var agreed atomic.Bool
	inner := r.Config.Handler
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodOptions {
			if !agreed.Load() {
				t.Error("a webhook to a receiver that has not agreed")
			}
			inner.ServeHTTP(w, req)
			return
		}
		asked <- struct{}{}
		if answer != nil {
			<-answer
		}
		agreed.Store(true)
		w.Header().Set("WebHook-Allowed-Origin", "*")
		if rate != "" {
			w.Header().Set("WebHook-Allowed-Rate", rate)
		}
	})
	return r, asked
}

// A receiver that names a rate when it consents gets no more than that from the first webhook on, however many wait.
func TestHandshakeNamesTheRate(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	answer := make(chan struct{})
	r, asked := agreeing(t, "1", answer)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Handshake: true})
	b.publish("x", 20)
	<-asked
	eventually(t, "all are fetched", func() bool {
		unread, _, err := b.left()
		return err == nil && unread == 0
	})
	close(answer)
	r.await(t, 1)
	b.stop() // what was on its way arrives
	if n := len(r.all()); n != 1 {
		t.Errorf("%d webhooks at a rate of one a minute", n)
	}
}

// One that is paused while its receiver is asked for its consent gets nothing when it gives it.
func TestPausedWhileItsConsentIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%t", ordered), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			answer := make(chan struct{})
			r, asked := agreeing(t, "", answer)
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Handshake: true, Ordered: ordered})
			ids := b.publish("x", 10)
			<-asked
			b.enable("crm", false, "")
			close(answer)
			eventually(t, "the consent is known", func() bool { return b.registry.Snapshot().Get("crm").State.Granted != nil })
			b.stop()
			if got := r.all(); len(got) != 0 {
				t.Errorf("%v came while it was paused", got)
			}
			b.start()
			b.enable("crm", true, "")
			r.hasAll(t, ids, 0)
		})
	}
}

// The consent of one URL is none of another, to which the endpoint changes meanwhile.
func TestURLChangesWhileConsentIsAskedFor(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	answer := make(chan struct{})
	first, asked := agreeing(t, "", answer)
	second, _ := agreeing(t, "", nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: first.URL, Handshake: true})
	ids := b.publish("x", 10)
	<-asked
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: second.URL, Handshake: true})
	close(answer)
	second.hasAll(t, ids, 0)
}

func TestFilterLiveAndWhilePaused(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Filter: `event.data.confidence >= 0.8`})
	put := func(id string, confidence float64) {
		e := &event.Event{
			Workspace: "acme", ID: id, Type: "nex.insight.risk", Time: time.Now(), Traceparent: event.NewTraceparent(),
			Data: json.RawMessage(fmt.Sprintf(`{"type":"risk","content":"c","confidence":%v}`, confidence)),
		}
		if _, err := b.bus.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	put("live-low", 0.5)
	put("live-high", 0.9)
	b.publish("without", 1) // the filter fails on it: no match
	b.settled()
	b.enable("crm", false, "")
	put("soon-low", 0.1)
	put("soon-high", 0.8)
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
	put("paused-low", 0.2)
	put("paused-high", 1)
	b.read()
	b.enable("crm", true, "")
	want := []string{"live-high", "paused-high", "soon-high"}
	eventually(t, "what matches has come", func() bool {
		got := sorted(r.all())
		return slices.Equal(slices.Compact(got), want)
	})
	b.settled()
	if got := sorted(r.all()); !slices.Equal(slices.Compact(got), want) {
		t.Errorf("%v", got)
	}
}

func TestOrderedPausedAndSkipped(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	eventually(t, "its consumer is there", func() bool {
		_, err := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, "relay-ordered-crm")
		return err == nil
	})
	first := b.publish("a", 5)
	r.await(t, 5)
	for _, mode := range []endpoint.Mode{endpoint.ModeAll, endpoint.ModeSkip} {
		before := len(r.all())
		b.enable("crm", false, "")
		eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
		while := b.publish("while-"+string(mode), 5)
		b.read()
		if n := len(r.all()); n != before {
			t.Fatalf("%d webhooks while paused", n-before)
		}
		b.enable("crm", true, mode)
		eventually(t, "it goes on", func() bool { return b.registry.Snapshot().Get("crm").State.Position == 0 })
		after := b.publish("after-"+string(mode), 5)
		want := append(while, after...)
		if mode == endpoint.ModeSkip {
			want = after
		}
		eventually(t, "everything has come", func() bool { return len(r.all()) >= before+len(want) })
		if got := r.all()[before:]; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", mode, got, want)
		}
	}
	_ = first
}

// What an endpoint did not take waits for it over a restart, and two replicas bring it back together, each delivery once.
func TestBacklogIsSharedAndOutlivesARestart(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	release := make(chan struct{})
	r := newReceiver(t, func(int, http.ResponseWriter, *http.Request, []byte) { <-release })
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 2})
	ids := b.publish("x", 1000)
	eventually(t, "the rest waits in the backlog", func() bool {
		backlog, _, err := b.bus.RetryPending(t.Context())
		return err == nil && backlog["crm"] > 900
	})
	b.stop() // cuts the two in flight
	other, closeOther := b.fanout(nil)
	t.Cleanup(closeOther)
	b.start()
	end := run(t, other.Run)
	t.Cleanup(end)
	close(release)
	eventually(t, "all is delivered", func() bool {
		got := sorted(r.all())
		return slices.Equal(slices.Compact(got), sorted(ids))
	})
	b.settled()
	if n := len(r.all()); n > len(ids)+4 { // the two that were cut, and two that the drain began anew
		t.Errorf("%d attempts for %d events", n, len(ids))
	}
}
