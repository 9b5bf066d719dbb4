package fanout_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// throttled answers 429 with a Retry-After until it is told to stop.
func throttled(t testing.TB, seconds string) (r *receiver, heal func()) {
	var healthy atomic.Bool
	r = newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if !healthy.Load() {
			w.Header().Set("Retry-After", seconds)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	return r, func() { healthy.Store(true) }
}

// What was learnt of an endpoint is not held against its next URL.
func TestChangedURLIsTried(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	old, _ := throttled(t, "3600")
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: old.URL, MaxInFlight: 1})
	ids := b.publish("x", 5)
	old.await(t, 1)
	b.read()
	fresh := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: fresh.URL, MaxInFlight: 1})
	eventually(t, "what waited without a time comes to the new URL", func() bool {
		return len(slices.Compact(sorted(fresh.all()))) >= len(ids)-1 // the one that was put off keeps its time
	})
}

// What waits is held against what its owner asks for by now.
func TestBacklogOfANarrowedEndpoint(t *testing.T) {
	t.Parallel()
	for !backlogOfANarrowedEndpoint(t) {
		t.Log("the pause was over before the endpoint was narrowed: once more")
	}
}

// backlogOfANarrowedEndpoint is the test; it answers false if the machine was too slow for it to tell anything.
func backlogOfANarrowedEndpoint(t *testing.T) (told bool) {
	b := setup(t, quick)
	defer b.stop()
	r, heal := throttled(t, "2")
	e := endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1}
	first := e
	b.endpoints(&first)
	began := time.Now()
	b.publish("x", 10)
	r.await(t, 1)
	b.read()
	tried := len(r.all())
	e.Workspaces = []string{"beta"}
	b.endpoints(&e)
	if time.Since(began) >= 2*time.Second { // it may have been asked again meanwhile
		return false
	}
	heal()
	b.settled()
	if n := len(r.all()); n != tried {
		t.Errorf("%d webhooks of a workspace that it no longer asks for", n-tried)
	}
	return true
}

// An endpoint gets nothing that was for another with its id.
func TestSameIDAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r, _ := throttled(t, "2")
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1})
	b.publish("x", 50)
	r.await(t, 1)
	if err := b.registry.Delete(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	b.read()
	log, err := b.bus.Extent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: other.URL, Since: log.Last})
	want := b.publish("y", 3)
	b.settled()
	if got := other.all(); !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("%v", got)
	}
}

// Nothing stays of an endpoint that is gone, also where it had something to do when it went.
func TestLaneOfOneThatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	came, answer := make(chan struct{}, 3), make(chan struct{})
	r := newReceiver(t, func(_ int, _ http.ResponseWriter, r *http.Request, _ []byte) {
		came <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1})
	b.create(&endpoint.Endpoint{ID: "stays", URL: newReceiver(t, nil).URL})
	b.publish("x", 3)
	<-came
	lanes := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " lanes"), func() bool { got, _ := b.relay.Lanes(); return got == n })
	}
	lanes(2)
	if err := b.registry.Delete(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the endpoint is gone", func() bool { return b.registry.Snapshot().Get("crm") == nil })
	b.relay.Sweep()
	lanes(2)
	close(answer)
	lanes(1)
	b.relay.Sweep()
	b.relay.MakeLane(&endpoint.Endpoint{ID: "crm", URL: r.URL}) // by a reader that had an older snapshot
	lanes(1)
}

func TestLiftedRateLimitHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		b := setup(t, quick)
		r := newReceiver(t, nil)
		b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, RateLimit: 1.0 / 3600, Ordered: ordered})
		ids := b.publish("x", 10)
		r.await(t, 1)
		err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
			e.RateLimit = 0
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.hasAll(t, ids, 0)
	}
}

// One that waits for its turn under a rate limit is not delivered to an endpoint that is paused meanwhile. Its turn is so far
// off that the pause is heard of before, however slow the machine is.
func TestPausedUnderARateLimit(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		b := setup(t, quick)
		r := newReceiver(t, nil)
		b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, RateLimit: 1.0 / 60, Ordered: ordered})
		ids := b.publish("x", 5)
		r.await(t, 1)
		b.enable("crm", false, "")
		tried := len(r.all())
		b.read()
		eventually(t, "nothing waits for its turn", func() bool { return b.gauge("relay_lane_in_flight") == 0 })
		if n := len(r.all()); n != tried {
			t.Errorf("ordered %v: %d webhooks while paused", ordered, n-tried)
		}
		b.enable("crm", true, "")
		if err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
			e.RateLimit = 0
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		r.hasAll(t, ids, 0)
	}
}

// Of those that are answered 410 only the first is done with: the others wait for what the owner decides.
func TestGoneWithManyInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	var here atomic.Bool
	var took sync.Map // ids that were answered 200: what came before the receiver was there may be answered later
	r := newReceiver(t, func(_ int, w http.ResponseWriter, req *http.Request, _ []byte) {
		if !here.Load() {
			w.WriteHeader(http.StatusGone)
			return
		}
		took.Store(req.Header.Get("webhook-id"), true)
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("x", 300)
	eventually(t, "it is disabled", func() bool { return b.registry.Snapshot().Get("crm").Disabled != nil })
	b.read()
	here.Store(true)
	if err := b.registry.Enable(t.Context(), "crm", "", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all but one have come", func() bool {
		n := 0
		took.Range(func(any, any) bool { n++; return true })
		return n >= len(ids)-1
	})
}

// Each 410 counts that is answered after the owner has enabled the endpoint, however soon that is.
func TestGoneAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusGone) })
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	for round := range 5 {
		var busy []*endpoint.Endpoint // their places are noted before anybody looks at the one that is gone
		for i := range 100 {
			busy = append(busy, &endpoint.Endpoint{ID: fmt.Sprintf("a-%d-%d", round, i), URL: r.URL, Secrets: []webhook.Secret{b.secret}})
		}
		b.registry.SetConfig(busy)
		b.publish(fmt.Sprint(round), 1)
		eventually(t, "it is disabled", func() bool { return b.registry.Snapshot().Get("crm").Disabled != nil })
		if err := b.registry.Enable(t.Context(), "crm", "", 0); err != nil {
			t.Fatal(err)
		}
	}
}

// The time while an endpoint is paused is no time of failing.
func TestPauseIsNoFailing(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	b.stop()
	b.disableAfter = 8 * time.Second
	b.start()
	r, _ := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 20)
	eventually(t, "it is known to fail", func() bool { return b.registry.Snapshot().Get("crm").State.FailingSince != nil })
	b.enable("crm", false, "")
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
	if since := b.registry.Snapshot().Get("crm").State.FailingSince; since != nil {
		t.Errorf("failing since %v while paused", since)
	}
}

// A relay whose NATS has gone away ends all the same.
func TestStopsWithoutNATS(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}})
	release := make(chan struct{})
	r := newReceiver(t, func(int, http.ResponseWriter, *http.Request, []byte) { <-release })
	defer close(release)
	var list []*endpoint.Endpoint
	for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		list = append(list, &endpoint.Endpoint{ID: id, URL: r.URL, MaxInFlight: 1})
	}
	b.endpoints(list...)
	b.publish("x", 200)
	r.await(t, 0)
	b.bus.Conn().Close()
	ended := make(chan struct{})
	go func() {
		b.stop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("still running")
	}
}
