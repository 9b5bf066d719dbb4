package fanout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

// put publishes one event of a type.
func (b *bundle) put(id, eventType, data string) {
	b.t.Helper()
	e := &event.Event{Workspace: "acme", ID: id, Type: eventType, Time: time.Now(), Data: []byte(data), Traceparent: event.NewTraceparent()}
	if _, err := b.bus.Publish(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

// What a receiver answers late, when the endpoint has another URL by then or is another with its id, is not held against that.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	answers := map[string]func(w http.ResponseWriter){
		"410": func(w http.ResponseWriter) { w.WriteHeader(http.StatusGone) },
		"429": func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"disable": func(w http.ResponseWriter) {
			w.Header().Set("webhook-delivery", "disable")
			w.WriteHeader(http.StatusBadRequest)
		},
		"the last failure": func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
	}
	for name, say := range answers {
		for _, ordered := range []bool{false, true} {
			for _, anew := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s,ordered=%t,anew=%t", name, ordered, anew), func(t *testing.T) {
					t.Parallel()
					b := setup(t, fanout.Policy{Schedule: []time.Duration{0}, RetryAfterMax: time.Hour})
					came, release := make(chan struct{}, 10), make(chan struct{})
					old := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
						came <- struct{}{}
						<-release
						say(w)
					})
					fresh := newReceiver(t, nil)
					b.create(&endpoint.Endpoint{ID: "crm", URL: old.URL, Ordered: ordered, CreatedAt: time.Now().Add(-time.Hour).UTC()})
					ids := b.publish("x", 1)
					<-came
					if anew {
						if err := b.registry.Delete(t.Context(), "crm"); err != nil {
							t.Fatal(err)
						}
						if err := b.relay.Forget(t.Context(), "crm"); err != nil {
							t.Fatal(err)
						}
						b.create(&endpoint.Endpoint{ID: "crm", URL: fresh.URL, Ordered: ordered, CreatedAt: time.Now().UTC()})
					} else if err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
						e.URL = fresh.URL
						return true, nil
					}); err != nil {
						t.Fatal(err)
					}
					close(release)
					ids = append(ids, b.publish("z", 3)...)
					fresh.await(t, 3)
					eventually(t, "everything has come", func() bool {
						got := slices.Compact(sorted(fresh.all()))
						return slices.Equal(got, sorted(ids)) || anew && slices.Equal(got, sorted(ids[1:]))
					})
					if e := b.registry.Snapshot().Get("crm"); !e.Active() {
						t.Errorf("%+v", e.Disabled)
					}
				})
			}
		}
	}
}

// Since when an endpoint fails holds for its URL.
func TestFailingSinceIsOfAURL(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	old, _ := failing(t)
	fresh, heal := failing(t)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: old.URL})
	b.publish("x", 20)
	since := func() *time.Time { return b.registry.Snapshot().Get("crm").State.FailingSince }
	eventually(t, "it is known to fail", func() bool { return since() != nil })
	before, changed := *since(), time.Now()
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: fresh.URL})
	if s := since(); s != nil && !s.After(changed) { // by then it may have been tried for long
		t.Errorf("failing since %v at a URL that was never tried", s)
	}
	b.publish("y", 20)
	eventually(t, "the new one is known to fail", func() bool { return since() != nil })
	if !since().After(before) {
		t.Errorf("since %v, as the old one", before)
	}
	heal()
	eventually(t, "it has recovered", func() bool { return since() == nil })
}

// Ordered endpoints that hang, or wait for their turn, take no room from those that answer.
func TestOrderedAreNotStarved(t *testing.T) {
	t.Parallel()
	for name, sick := range map[string]endpoint.Endpoint{
		"hanging": {Timeout: 5 * time.Minute}, "waiting for their turn": {RateLimit: 1.0 / 3600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			release := make(chan struct{})
			var at atomic.Int32
			hang := newReceiver(t, func(_ int, _ http.ResponseWriter, r *http.Request, _ []byte) {
				at.Add(1)
				if sick.Timeout > 0 {
					select {
					case <-release:
					case <-r.Context().Done():
					}
				}
			})
			defer close(release)
			healthy := newReceiver(t, nil)
			list := []*endpoint.Endpoint{{ID: "healthy", URL: healthy.URL, Ordered: true}}
			for i := range 70 {
				e := sick
				e.ID, e.URL, e.Ordered, e.Events = fmt.Sprintf("sick-%d", i), hang.URL, true, []string{"nex.insight.large"}
				list = append(list, &e)
			}
			b.endpoints(list...)
			b.publish("first", 1)
			healthy.await(t, 1)
			for i := range 3 {
				b.put(fmt.Sprintf("large-%d", i), "nex.insight.large", `{"content":"`+strings.Repeat("c", 500<<10)+`"}`)
			}
			healthy.await(t, 3)
			eventually(t, "as many are at work as find room", func() bool { return at.Load() >= 60 })
			if n := b.gauge("relay_lane_in_flight"); sick.Timeout > 0 && n < 60 {
				t.Errorf("%v attempts are said to be in flight, 60 hang", n)
			}
			b.publish("then", 30)
			healthy.await(t, 30)
			b.stop()
		})
	}
}

// Who wants to skip what came gets nothing of it, also while it is being put into his backlog because he wanted it before.
func TestSkipDuringCatchUp(t *testing.T) {
	t.Parallel()
	for _, mode := range []endpoint.Mode{endpoint.ModeAll, endpoint.ModeNewestFirst, endpoint.ModeLatestPerTarget} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1, RateLimit: 10})
			off := func() {
				t.Helper()
				b.enable("crm", false, "")
				eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
			}
			off()
			b.publish("old", 3000)
			b.read()
			b.enable("crm", true, mode)
			r.await(t, 1)
			off()
			tried := len(r.all())
			b.enable("crm", true, endpoint.ModeSkip)
			eventually(t, "it goes on", func() bool { s := b.registry.State("crm"); return s.Position == 0 && s.Resume == "" })
			b.publish("new", 3)
			eventually(t, "what is new has come, and nothing waits", func() bool {
				_, waits, err := b.bus.RetryPending(t.Context())
				got := r.all()[tried:]
				return err == nil && waits == 0 && slices.Contains(got, "new-0") && slices.Contains(got, "new-1") && slices.Contains(got, "new-2")
			})
			if n := len(r.all()) - tried; n > 3+2 { // one may have been in flight, or had its turn
				t.Errorf("%d old events came", n-3)
			}
		})
	}
}

// A dead letter is stored whatever its event is like; without it where the server would not take it.
func TestDeadLettersOfLargeEvents(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	cfg := bustest.Config(t)
	cfg.URL = s.ClientURL()
	b := setupOn(t, bustest.Open(t, cfg), fanout.Policy{Schedule: []time.Duration{0}})
	bad, _ := failing(t)
	b.endpoints(&endpoint.Endpoint{ID: "bad", URL: bad.URL})
	for i, text := range []string{strings.Repeat("<", 300<<10), strings.Repeat("c", 1<<20-500)} {
		b.put(fmt.Sprintf("large-%d", i), "nex.insight.risk", `{"content":"`+text+`"}`)
	}
	var with map[string]bool
	eventually(t, "both are buried", func() bool {
		with = map[string]bool{}
		err := b.bus.Walk(t.Context(), bus.Query{Stream: bus.StreamDead, Oldest: true}, func(m bus.Stored) (bool, error) {
			var letter fanout.DeadLetter
			err := json.Unmarshal(m.Data, &letter)
			with[letter.EventID] = len(m.Data) > 300<<10
			return true, err
		})
		return err == nil && len(with) == 2
	})
	if !maps.Equal(with, map[string]bool{"large-0": true, "large-1": false}) {
		t.Errorf("with its event: %v", with)
	}
}
