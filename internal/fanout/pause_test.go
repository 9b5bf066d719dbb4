package fanout_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
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

// create makes an endpoint over the API's way.
func (b *bundle) create(e *endpoint.Endpoint) {
	b.t.Helper()
	e.Secrets, e.Enabled = []webhook.Secret{b.secret}, true
	if err := b.registry.Create(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) enable(id string, on bool, mode endpoint.Mode) {
	b.t.Helper()
	log, err := b.bus.Extent(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.registry.SetEnabled(b.t.Context(), id, on, mode, log.Last); err != nil {
		b.t.Fatal(err)
	}
}

// publishAbout puts one insight about a subject into the log.
func (b *bundle) publishAbout(id, subject string) {
	b.t.Helper()
	e := &event.Event{
		Workspace: "acme", ID: id, Type: "nex.insight.risk", Subject: subject, Time: time.Now(),
		Data: json.RawMessage(`{"type":"risk","content":"c"}`), Traceparent: event.NewTraceparent(),
	}
	if _, err := b.bus.Publish(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

// read waits until the log has been read.
func (b *bundle) read() {
	b.t.Helper()
	eventually(b.t, "the log is read", func() bool {
		unread, unacked, err := b.left()
		return err == nil && unread == 0 && unacked == 0
	})
}

// left is how many events of the log the fanout has not fetched yet, and how many of those fetched are not acknowledged.
func (b *bundle) left() (unread uint64, unacked int, err error) {
	log, err := b.bus.Extent(b.t.Context())
	if err != nil {
		return 0, 0, err
	}
	c, err := b.bus.JetStream().Consumer(b.t.Context(), bus.StreamNex, bus.ConsumerFanout)
	if err != nil {
		return 0, 0, err
	}
	// The consumer's NumPending is 0 for a moment also where it has not heard yet of what the log has just taken.
	is := c.CachedInfo()
	return max(is.NumPending, log.Last-min(log.Last, is.Delivered.Stream)), is.NumAckPending, nil
}

func numbered(prefix string, from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

func TestPausedLosesNothing(t *testing.T) {
	t.Parallel()
	for _, mode := range endpoint.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1}) // one at a time shows the order
			b.publish("before", 3)
			r.await(t, 3)
			b.enable("crm", false, "")
			eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
			for i := range 200 {
				b.publishAbout(fmt.Sprintf("while-%d", i), fmt.Sprintf("person/%d", i%7))
			}
			b.read()
			if _, waiting, err := b.bus.RetryPending(t.Context()); err != nil || waiting != 0 {
				t.Errorf("%d deliveries are stored for a paused endpoint (%v): the log has them", waiting, err)
			}
			if n := len(r.all()); n != 3 {
				t.Fatalf("%d webhooks to a paused endpoint", n-3)
			}
			b.stop()
			b.start() // the place outlives a restart
			b.enable("crm", true, mode)
			b.publish("after", 3)

			want := numbered("after", 0, 3)
			switch mode {
			case endpoint.ModeAll, endpoint.ModeNewestFirst:
				want = append(want, numbered("while", 0, 200)...)
			case endpoint.ModeLatestPerTarget:
				want = append(want, numbered("while", 193, 200)...)
			}
			eventually(t, "everything has come", func() bool {
				got := sorted(r.all()[3:])
				return slices.Equal(slices.Compact(got), sorted(want))
			})
			b.settled()
			got := r.all()[3:]
			if len(got) > len(want)+3 { // what came in the moment of going on may come twice, nothing else
				t.Errorf("%d webhooks for %d events: %v", len(got), len(want), got)
			}
			while := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return id[0] != 'w' })
			inOrder := numbered("while", 200-len(while), 200)
			if mode == endpoint.ModeNewestFirst {
				slices.Reverse(inOrder)
			}
			if !slices.Equal(while, inOrder) {
				t.Errorf("order: %v", while)
			}
			eventually(t, "nothing of it is remembered", func() bool {
				s := b.registry.Snapshot().Get("crm").State
				return s.Position == 0 && len(s.Spans) == 0
			})
		})
	}
}

// What has left the log by the time that an endpoint goes on is named.
func TestPausedForTooLong(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("before", 3)
	r.await(t, 3)
	b.enable("crm", false, "")
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position == 3 })
	ids := b.publish("while", 10)
	b.read()
	s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(9)); err != nil {
		t.Fatal(err)
	}
	b.enable("crm", true, "")
	r.hasAll(t, ids[5:], 3)
	var e struct {
		Data struct{ Missed struct{ From, To uint64 } }
	}
	if err := json.Unmarshal(b.reader(bus.StreamNex, "nex._.relay.endpoint.resumed")().Data(), &e); err != nil {
		t.Fatal(err)
	}
	if m := e.Data.Missed; m.From != 4 || m.To != 8 {
		t.Errorf("missed %+v", m)
	}
}

// Events that come in the very moment of pausing and going on are neither lost nor, but for those moments, repeated.
func TestPausingUnderFlow(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	flow := make(chan []string)
	go func() {
		var ids []string
		for i := range 40 {
			ids = append(ids, b.publish(fmt.Sprintf("x%d", i), 25)...)
		}
		flow <- ids
	}()
	var ids []string
	for on := false; ids == nil; on = !on {
		b.enable("crm", on, "")
		select {
		case ids = <-flow:
		case <-time.After(10 * time.Millisecond):
		}
	}
	b.enable("crm", true, "")
	eventually(t, "every event is delivered", func() bool {
		got := sorted(r.all())
		return slices.Equal(slices.Compact(got), sorted(ids))
	})
}

func TestWaitingWhenPausedIsReordered(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Second, time.Second}})
	var fail atomic.Bool
	fail.Store(true)
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if fail.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1})
	b.publishAbout("old", "person/1")
	r.await(t, 1)
	b.enable("crm", false, "")
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
	b.publishAbout("new", "person/1")
	b.read()
	fail.Store(false)
	b.enable("crm", true, endpoint.ModeLatestPerTarget)
	b.settled()
	if got := r.all(); got[len(got)-1] != "new" || slices.Contains(got[1:], "old") {
		t.Errorf("%v: the retry of the older event was to be left out", got)
	}
}

// A pause that is over before its place is noted has its wish carried out on what waits, and leaves nothing to the next one.
func TestPausedForAMoment(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		for _, mode := range []endpoint.Mode{endpoint.ModeSkip, endpoint.ModeLatestPerTarget} {
			if ordered && mode != endpoint.ModeSkip {
				continue
			}
			t.Run(fmt.Sprintf("ordered=%t,%s", ordered, mode), func(t *testing.T) {
				t.Parallel()
				b := setup(t, stubborn)
				r, heal := failing(t)
				b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: ordered, MaxInFlight: 1})
				b.publishAbout("old", "person/1")
				b.publishAbout("new", "person/1")
				r.await(t, 1)
				b.read()
				b.stop()
				r.Server.CloseClientConnections() // an attempt that was cut may only now be seen by the receiver
				tried := len(r.all())
				heal()
				b.enable("crm", false, "")
				b.enable("crm", true, mode)
				b.start()
				eventually(t, "the wish is carried out", func() bool {
					s := b.registry.Snapshot().Get("crm").State
					return s.Resume == "" && s.ResumeAt == 0 && len(s.Spans) == 0
				})
				b.publish("first", 1)
				eventually(t, "what comes new has come", func() bool { return slices.Contains(r.all(), "first-0") })
				if mode == endpoint.ModeLatestPerTarget {
					eventually(t, "what is to be delivered has come", func() bool { return slices.Contains(r.all()[tried:], "new") })
				}
				if got := r.all()[tried:]; slices.Contains(got, "old") || slices.Contains(got, "new") == (mode == endpoint.ModeSkip) {
					t.Errorf("%s: %v", mode, got)
				}

				b.enable("crm", false, "")
				eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
				ids := b.publish("while", 3)
				b.read()
				tried = len(r.all())
				err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) { // as the file does: without a wish
					e.Enabled = true
					return true, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				r.hasAll(t, ids, tried)
			})
		}
	}
}

func TestOrdered(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, 50 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond}})
	var mu sync.Mutex
	tries := map[string]int{}
	r := newReceiver(t, func(_ int, w http.ResponseWriter, req *http.Request, _ []byte) {
		mu.Lock()
		defer mu.Unlock()
		if tries[req.Header.Get("webhook-id")]++; tries[req.Header.Get("webhook-id")] < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	e := &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true}
	other, closeOther := b.fanout(nil) // a second replica on the same log
	t.Cleanup(closeOther)
	if err := other.PrepareOrdered(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	b.create(e)
	end := run(t, other.Run)
	defer end()
	ids := b.publish("x", 10)
	r.await(t, 3*len(ids)/2)
	b.stop()
	b.start()
	eventually(t, "each has been tried three times", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return tries[ids[len(ids)-1]] >= 3
	})
	if got := r.all(); !slices.Equal(slices.Compact(got), ids) {
		t.Errorf("not in order: %v", got)
	}
	eventually(t, "the order stands at the end", func() bool {
		c, err := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, "relay-ordered-crm")
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
}

// A server that is killed has lost its last acknowledgements: what an ordered endpoint has taken does not come again behind
// what it took after it.
func TestOrderedWithoutTheLastAcknowledgements(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("a", 5)
	r.await(t, len(ids))
	js := b.bus.JetStream()
	var consumer jetstream.ConsumerConfig
	eventually(t, "all is acknowledged", func() bool {
		c, err := js.Consumer(t.Context(), bus.StreamNex, "relay-ordered-crm")
		if err != nil {
			return false
		}
		consumer = c.CachedInfo().Config
		return c.CachedInfo().AckFloor.Stream == 5
	})
	b.stop()
	if err := js.DeleteConsumer(t.Context(), bus.StreamNex, "relay-ordered-crm"); err != nil {
		t.Fatal(err)
	}
	consumer.OptStartSeq = 3
	if _, err := js.CreateConsumer(t.Context(), bus.StreamNex, consumer); err != nil {
		t.Fatal(err)
	}
	b.start()
	ids = append(ids, b.publish("b", 2)...)
	eventually(t, "what comes new has come", func() bool { return slices.Contains(r.all(), "b-1") })
	if got := r.all(); !slices.Equal(got, ids) {
		t.Errorf("%v", got)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	var at []time.Time
	r := newReceiver(t, nil)
	r.each = func() { at = append(at, time.Now()) }
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, RateLimit: 40})
	ids := b.publish("x", 100)
	got := r.await(t, len(ids))
	if !slices.Equal(sorted(got), sorted(ids)) {
		t.Error("not each event once")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// A slow machine only makes it longer.
	if took, least := at[len(at)-1].Sub(at[0]), time.Duration(len(ids)-40/10-1)*time.Second/50; took < least { // the first may have come late
		t.Errorf("%d attempts in %v, 40 a second are allowed: %v at the least", len(at), took, least)
	}
}
