package fanout_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// undelivered is what an endpoint is still to get, as soon as that is so many.
func (b *bundle) undelivered(id string, n int) (u fanout.Undelivered) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%d are undelivered to %s", n, id), func() bool {
		e := b.registry.Snapshot().Get(id)
		if e == nil {
			return false
		}
		var err error
		if u, err = b.relay.Undelivered(b.t.Context(), e); err != nil {
			b.t.Fatal(err)
		}
		return u.Count() == uint64(n) && u.Silent == 0
	})
	return u
}

// oldestIs checks which event is the oldest, and since when it stands in the log.
func (b *bundle) oldestIs(u fanout.Undelivered, sequence uint64) {
	b.t.Helper()
	m, err := b.bus.Get(b.t.Context(), sequence)
	if err != nil {
		b.t.Fatal(err)
	}
	if u.Oldest != sequence || !u.Stored.Equal(m.Time) {
		b.t.Errorf("the oldest is %d of %v, not %d of %v", u.Oldest, u.Stored, sequence, m.Time)
	}
}

func TestUndeliveredWhileNothingMoves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		endpoint endpoint.Endpoint
		count    int // of 100 events, sequences 1 to 100
		oldest   uint64
		where    func(*fanout.Undelivered) uint64
	}{
		{"paused", endpoint.Endpoint{}, 100, 1, nil},
		{"paused, with a filter", endpoint.Endpoint{Filter: `event.id endsWith "5"`}, 10, 6, nil},
		{"paused, for another type", endpoint.Endpoint{Events: []string{"nex.insight.milestone"}}, 0, 0, nil},
		{"paused, overlapping patterns", endpoint.Endpoint{Events: []string{"nex.insight.*", "nex.insight.risk"}}, 100, 1, nil},
		{"paused and ordered", endpoint.Endpoint{Ordered: true}, 100, 1, func(u *fanout.Undelivered) uint64 { return u.InLog }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			e := tt.endpoint
			e.ID, e.URL = "crm", r.URL
			b.create(&e)
			b.enable("crm", false, "")
			eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
			b.publish("x", 100)
			b.read()
			u := b.undelivered("crm", tt.count)
			if tt.count > 0 {
				b.oldestIs(u, tt.oldest)
			} else if u.Oldest != 0 {
				t.Errorf("%+v", u)
			}
			if tt.where != nil && tt.where(&u) != uint64(tt.count) {
				t.Errorf("%+v", u)
			}
			b.enable("crm", true, "")
			r.await(t, tt.count)
			b.undelivered("crm", 0)
		})
	}
}

// What has failed waits for its time, the oldest behind those that came later.
func TestUndeliveredAfterFailures(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusBadRequest) })
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 5)
	r.await(t, 5)
	eventually(t, "all wait", func() bool { return b.undelivered("crm", 5).Waiting == 5 })
	b.oldestIs(b.undelivered("crm", 5), 1)
	if err := b.relay.Redeliver(t.Context(), "crm", 1, "x-0", nil); err != nil {
		t.Fatal(err)
	}
	b.undelivered("crm", 6)
}

// One event hangs at the receiver, whichever replica works on it; those of its batch that are done with count no more.
func TestUndeliveredInFlight(t *testing.T) {
	t.Parallel()
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprintf("at another replica=%t", other), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			hang := make(chan struct{})
			r := newReceiver(t, func(_ int, w http.ResponseWriter, req *http.Request, _ []byte) {
				if id := req.Header.Get("webhook-id"); id == "x-7" || id == "y-0" {
					<-hang
				}
			})
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
			b.enable("crm", false, "")
			eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
			b.publish("x", 20)
			b.read()
			asked := b
			if other {
				b.stop()
				asked = setupOn(t, b.bus, quick)
				asked.stop() // it only asks
				b.replicas, asked.replicas = 2, 2
				b.start()
			}
			b.enable("crm", true, "")
			r.await(t, 19) // out of the backlog, in one message with the one that hangs
			eventually(t, "the backlog is behind it", func() bool { return !b.relay.Behind("crm") })
			b.publish("y", 1)
			asked.undelivered("crm", 2)
			b.publish("z", 3)
			r.await(t, 3)
			u := asked.undelivered("crm", 2)
			b.oldestIs(u, 8)
			if u.Waiting != 1 || u.InFlight != 1 {
				t.Errorf("%+v", u)
			}
			close(hang)
			asked.undelivered("crm", 0)
		})
	}
}

// A replica that does not answer is told of, and waited for no longer than a moment.
func TestUndeliveredWithSilentReplica(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.replicas = 2
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	eventually(t, "the other is missed", func() bool {
		u, err := b.relay.Undelivered(t.Context(), b.registry.Snapshot().Get("crm"))
		if err != nil {
			t.Fatal(err)
		}
		return u.Silent == 1
	})
}

// A crash leaves some deliveries there twice, and what was put there before the endpoint changed what it asks for is dropped when its turn
// comes: each event counts once, and only if it is still to be delivered.
func TestUndeliveredCountsEvents(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusBadRequest) })
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 20)
	r.await(t, 20)
	eventually(t, "all wait", func() bool { return b.undelivered("crm", 20).Waiting == 20 })
	var again [][]byte
	b.eachRetry("crm", func(_ map[string]any, data []byte) { again = append(again, data) })
	for _, data := range again {
		if _, err := b.bus.JetStream().Publish(t.Context(), bus.RetryBacklogSubject("other", 1), data); err != nil {
			t.Fatal(err)
		}
		if _, err := b.bus.JetStream().Publish(t.Context(), "relay.retry.wait.crm.99999", data); err != nil {
			t.Fatal(err)
		}
	}
	b.undelivered("crm", 20)
	err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
		log, err := b.bus.Extent(t.Context())
		e.Filter, e.Changed = `event.id in ["x-7", "x-9"]`, log.Last
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.oldestIs(b.undelivered("crm", 2), 8)
}

// What the log has just taken is undelivered at once, also while its consumer has not heard of it yet.
func TestUndeliveredAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.create(&endpoint.Endpoint{ID: "crm", URL: newReceiver(t, nil).URL})
	b.read()
	b.stop()
	for i := range 300 {
		b.publish(fmt.Sprint("x", i), 1)
		u, err := b.relay.Undelivered(t.Context(), b.registry.Snapshot().Get("crm"))
		if err != nil || u.Count() != uint64(i+1) {
			t.Fatalf("%+v, %v, not %d", u, err, i+1)
		}
	}
}
