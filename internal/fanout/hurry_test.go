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
	const each = 4 // both together fewer in a row than open the circuit, however slow the machine is
	old := b.publish("old", each)
	r.await(t, each)
	eventually(t, "they wait", func() bool { return b.undelivered("crm", each).Waiting == each })
	since := time.Now()
	fresh := b.publish("new", each)
	r.await(t, each)
	eventually(t, "they wait", func() bool { return b.undelivered("crm", 2*each).Waiting == 2*each })
	mend()
	if n, err := b.relay.Hurry(t.Context(), "crm", since); n != each || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := sorted(r.await(t, each)); !slices.Equal(got, sorted(fresh)) {
		t.Errorf("came %v", got)
	}
	b.undelivered("crm", each)
	if err := b.relay.Again(t.Context(), "crm", 4, old[3]); err != nil { // one of a batch
		t.Fatal(err)
	}
	if got := r.await(t, 1); got[0] != old[3] {
		t.Errorf("came %v", got)
	}
	b.undelivered("crm", each-1)
	if n, err := b.relay.Hurry(t.Context(), "crm", time.Time{}); n != each-1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	r.await(t, each-1)
	b.settled()
	if got := r.all(); len(got) != 4*each {
		t.Errorf("%d attempts, not %d", len(got), 4*each)
	}
	attempts := map[string]int{}
	for _, a := range b.attempts("crm", 4*each) {
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
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("by its attempt=%t", again), func(t *testing.T) {
			t.Parallel()
			hurryOrdered(t, again)
		})
	}
}

func hurryOrdered(t *testing.T, again bool) {
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
	r, mend := mendable(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 3)
	r.await(t, 1)
	eventually(t, "it is held up", func() bool { return b.registry.State("crm").Ordered != nil })
	mend()
	if n, err := b.relay.Hurry(t.Context(), "crm", time.Now().Add(time.Minute)); n != 0 || err != nil {
		t.Fatalf("%d have failed later, %v", n, err)
	}
	if again {
		if err := b.relay.Again(t.Context(), "crm", 1, ids[0]); err != nil {
			t.Fatal(err)
		}
	} else if n, err := b.relay.Hurry(t.Context(), "crm", time.Time{}); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := r.await(t, 3); !slices.Equal(got, ids) {
		t.Errorf("came %v", got)
	}
	b.undelivered("crm", 0)
	if n := len(r.all()); n != 4 {
		t.Errorf("%d attempts, not 4", n)
	}
}

// Of several who ask at one time one has it done: nothing comes twice, and each is counted once.
func TestHurryAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
	r, mend := mendable(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	const events = 9 // fewer in a row than open the circuit, however slow the machine is
	for i := range events {
		b.publish(fmt.Sprint("x", i), 1) // each waits alone
		r.await(t, 1)
		eventually(t, "it waits", func() bool { return b.undelivered("crm", i+1).Waiting == uint64(i+1) })
	}
	mend()
	var all sync.WaitGroup
	var tried atomic.Uint64
	for range 6 {
		all.Go(func() {
			n, err := b.relay.Hurry(t.Context(), "crm", time.Time{})
			tried.Add(n)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r.await(t, events)
	b.settled()
	if n := len(r.all()); n != 2*events {
		t.Errorf("%d attempts, not %d", n, 2*events)
	}
	if n := tried.Load(); n != events {
		t.Errorf("%d were counted of %d", n, events)
	}
}
