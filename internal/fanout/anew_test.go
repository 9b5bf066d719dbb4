package fanout_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// makeAnew loses the log: its sequences begin again.
func (b *bundle) makeAnew() {
	b.t.Helper()
	js := b.bus.JetStream()
	s, err := js.Stream(b.t.Context(), bus.StreamNex)
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	if err := js.DeleteStream(b.t.Context(), bus.StreamNex); err != nil {
		b.t.Fatal(err)
	}
	if _, err := js.CreateStream(b.t.Context(), cfg); err != nil {
		b.t.Fatal(err)
	}
}

// That an endpoint was made after an event holds in the log in which that event stood.
func TestMadeBeforeTheLogWasMadeAnew(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%t", ordered), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			b.publish("before", 20)
			b.read()
			e := &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: ordered}
			var err error
			if e.Since, e.SinceTime, err = b.relay.EndOfLog(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.create(e)
			r.hasAll(t, b.publish("a", 3), 0)
			b.read()
			b.stop()
			b.makeAnew()
			ids := b.publish("b", 5)
			b.start()
			r.hasAll(t, append(ids, b.publish("c", 5)...), 3)
			if got := r.all(); slices.Contains(got, "before-0") {
				t.Errorf("older than the endpoint: %v", got)
			}
		})
	}
}

// A place in a log that is no more is none in the one that came after it.
func TestPlaceInALogThatIsNoMore(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 30} { // fewer events than the place, and more
		b := setup(t, quick)
		r := newReceiver(t, nil)
		e := func() *endpoint.Endpoint { return &endpoint.Endpoint{ID: "crm", URL: r.URL} }
		b.file(e())
		b.publish("a", 20)
		r.await(t, 20)
		b.read()
		b.file()
		b.stop()
		b.makeAnew()
		b.start()
		ids := b.publish("b", n)
		b.read()
		b.file(e())
		r.hasAll(t, ids, 20)
	}
}
