package fanout_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// What an ordered endpoint waits for is no longer waited for when its owner gives it another URL, or switches it off and on.
func TestOrderedThatWaitsIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"another URL", "off and on", "off and on, in the file"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
			busy, heal := throttled(t, "3600")
			well := newReceiver(t, nil)
			e := func(url string, enabled bool) *endpoint.Endpoint {
				return &endpoint.Endpoint{ID: "crm", URL: url, Ordered: true, Enabled: enabled}
			}
			set := func(url string, enabled bool) { b.fileAsIs(e(url, enabled)) }
			if how == "off and on" {
				b.create(e(busy.URL, true))
				set = func(_ string, enabled bool) { b.enable("crm", enabled, "") }
			} else {
				set(busy.URL, true)
			}
			ids := b.publish("x", 3)
			eventually(t, "it waits", func() bool { return b.registry.State("crm").Ordered != nil })
			heal()
			if how == "another URL" {
				set(well.URL, true)
			} else {
				set(busy.URL, false)
				eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
				set(busy.URL, true)
			}
			eventually(t, "everything has come", func() bool { return slices.Equal(slices.Compact(append(busy.all(), well.all()...)), ids) })
		})
	}
}

// loseConsumer is what somebody does who tidies up in NATS.
func (b *bundle) loseConsumer(id string) {
	b.t.Helper()
	if err := b.bus.JetStream().DeleteConsumer(b.t.Context(), bus.StreamNex, bus.OrderedPrefix+id); err != nil {
		b.t.Fatal(err)
	}
}

// An ordered endpoint whose consumer is lost goes on where it stood, not where the others stand.
func TestOrderedConsumerIsLost(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			t.Parallel()
			b := setup(t, stubborn)
			r, heal := failing(t)
			other := newReceiver(t, nil)
			list := func() []*endpoint.Endpoint {
				return []*endpoint.Endpoint{{ID: "crm", URL: r.URL, Ordered: true}, {ID: "other", URL: other.URL}}
			}
			b.startWithAll(list)
			ids := b.publish("x", 10)
			other.await(t, 10)
			b.read()
			eventually(t, "it is held up by the first", func() bool { return b.registry.State("crm").Ordered != nil })
			if restart {
				b.stop()
			}
			b.loseConsumer("crm")
			tried := len(r.all())
			heal()
			if restart {
				b.startWithAll(list)
			}
			ids = append(ids, b.publish("y", 3)...)
			r.hasAll(t, ids, tried)
			if got := slices.Compact(r.all()[tried:]); !slices.Equal(got, ids) {
				t.Errorf("not in order: %v", got)
			}
		})
	}
}

// startWithAll begins, or begins anew, with a file.
func (b *bundle) startWithAll(list func() []*endpoint.Endpoint) {
	b.t.Helper()
	b.stop()
	b.startWith(list()...)
}

// What an ordered endpoint has skipped stays skipped, also if its consumer is lost afterwards.
func TestOrderedConsumerIsLostAfterSkip(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	b.publish("old", 5)
	b.read()
	eventually(t, "it is held up", func() bool { return b.registry.State("crm").Ordered != nil })
	b.enable("crm", false, "")
	eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
	tried := len(r.all())
	heal()
	b.enable("crm", true, endpoint.ModeSkip)
	eventually(t, "it goes on", func() bool { return b.registry.State("crm").Position == 0 })
	b.stop()
	b.loseConsumer("crm")
	ids := b.publish("new", 3)
	b.start()
	r.hasAll(t, ids, tried)
}

// The order of an endpoint is ended, but its consumer is no more: where it stood is known all the same.
func TestOrderIsSwitchedOffWithoutItsConsumer(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 5)
	b.read()
	eventually(t, "it is held up", func() bool { return b.registry.State("crm").Ordered != nil })
	b.stop()
	b.loseConsumer("crm")
	tried := len(r.all())
	heal()
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.start()
	r.hasAll(t, append(ids, b.publish("y", 3)...), tried)
	eventually(t, "no mark is left", func() bool {
		_, err := b.bus.Order().Get(t.Context(), "crm")
		return err != nil
	})
}

// What is on its way to ordered endpoints when the relay stops is given again at once, and not when its acknowledgement is
// overdue, which this test is not patient enough for.
func TestOrderedRestartUnderFlow(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.stop()
	b.ackWait = 10 * patience
	b.start()
	r := newReceiver(t, nil)
	for i := range 10 {
		b.create(&endpoint.Endpoint{ID: fmt.Sprintf("crm-%d", i), URL: r.URL, Ordered: true})
	}
	for round := range 4 {
		b.publish(fmt.Sprintf("x%d", round), 100)
		r.await(t, 100)
		b.stop()
		b.start()
		r.await(t, 9*100)
	}
}

// Who is refused what he wants of an ordered endpoint has changed nothing of its consumer.
func TestPrepareNewChangesNoConsumer(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true, Events: []string{"nex.insight.risk"}})
	r.hasAll(t, b.publish("x", 2), 0)
	if err := b.relay.PrepareNew(t.Context(), &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true, Events: []string{"nex.insight.other"}}); err != nil {
		t.Fatal(err)
	}
	r.hasAll(t, b.publish("y", 2), 2)
}

// What was on its way when its owner skipped it does not bring it back when it arrives after all.
func TestMarkDoesNotGoBack(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	came, release := make(chan struct{}, 10), make(chan struct{})
	r := newReceiver(t, func(n int, _ http.ResponseWriter, _ *http.Request, _ []byte) {
		came <- struct{}{}
		if n == 1 {
			<-release
		}
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	b.publish("old", 5)
	<-came
	b.read()
	b.enable("crm", false, "")
	eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
	b.enable("crm", true, endpoint.ModeSkip)
	eventually(t, "it goes on", func() bool { return b.registry.State("crm").Position == 0 })
	close(release)
	r.await(t, 1)
	ids := b.publish("new", 1)
	<-came
	r.hasAll(t, ids, 1)
	b.stop()
	b.loseConsumer("crm")
	b.start()
	r.hasAll(t, append(ids, b.publish("then", 2)...), 1)
	if got := r.all(); slices.Contains(got, "old-3") {
		t.Errorf("%v", got)
	}
}

// An order that was being begun when its endpoint was deleted is none of another endpoint that has its id.
func TestOrderOfOneThatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true, CreatedAt: time.Now().Add(-time.Hour).UTC()})
	gone := b.registry.Snapshot().Get("crm")
	b.stop()
	if err := b.registry.Delete(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	if err := b.relay.Forget(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true, CreatedAt: time.Now().UTC()})
	if err := b.relay.NoteInOrder(t.Context(), gone); err != nil || b.registry.State("crm").InOrder {
		t.Errorf("it has the order of the one before it: %v", err)
	}
	if err := b.relay.NoteInOrder(t.Context(), b.registry.Snapshot().Get("crm")); err != nil || !b.registry.State("crm").InOrder {
		t.Errorf("its own is not noted: %v", err)
	}
}
