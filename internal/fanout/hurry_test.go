package fanout_test

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// mendable is a receiver that fails until it is mended.
func mendable(t *testing.T) (r *receiver, mend func()) {
	var mended atomic.Bool
	r = newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if !mended.Load() {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	return r, func() { mended.Store(true) }
}

// What waits for its next attempt is tried when its owner wants that, and not once more later.
func TestHurry(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour, time.Hour}, RetryAfterMax: time.Hour})
	r, mend := mendable(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	old := b.publish("old", 10)
	r.await(t, 10)
	eventually(t, "they wait", func() bool { return b.undelivered("crm", 10).Waiting == 10 })
	since := time.Now()
	fresh := b.publish("new", 10)
	r.await(t, 10)
	eventually(t, "they wait", func() bool { return b.undelivered("crm", 20).Waiting == 20 })
	mend()
	if n, err := b.relay.Hurry(t.Context(), "crm", since); n != 10 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := sorted(r.await(t, 10)); !slices.Equal(got, sorted(fresh)) {
		t.Errorf("came %v", got)
	}
	b.undelivered("crm", 10)
	if err := b.relay.Again(t.Context(), "crm", 4, old[3]); err != nil { // one of a batch
		t.Fatal(err)
	}
	if got := r.await(t, 1); got[0] != old[3] {
		t.Errorf("came %v", got)
	}
	b.undelivered("crm", 9)
	if n, err := b.relay.Hurry(t.Context(), "crm", time.Time{}); n != 9 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	r.await(t, 9)
	b.settled()
	if got := r.all(); len(got) != 40 {
		t.Errorf("%d attempts, not 40", len(got))
	}
	attempts := map[string]int{}
	for _, a := range b.attempts("crm", 40) {
		attempts[a.EventID] = max(attempts[a.EventID], a.Attempt)
	}
	for id, n := range attempts {
		if n != 2 {
			t.Errorf("%s was delivered by attempt %d", id, n)
		}
	}
	// What waits no more is delivered anew.
	if err := b.relay.Again(t.Context(), "crm", 4, old[3]); err != nil {
		t.Fatal(err)
	}
	r.await(t, 1)
	if n, err := b.relay.Hurry(t.Context(), "crm", time.Time{}); n != 0 || err != nil {
		t.Errorf("%d, %v of nothing", n, err)
	}
}

func TestHurryOrdered(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
	r, mend := mendable(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 3)
	r.await(t, 1)
	eventually(t, "it is held up", func() bool { return b.registry.State("crm").Ordered != nil })
	mend()
	if n, err := b.relay.Hurry(t.Context(), "crm", time.Time{}); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := r.await(t, 3); !slices.Equal(got, ids) {
		t.Errorf("came %v", got)
	}
}
