package fanout_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// Records of attempts that cannot be written are counted; no delivery is late, missing or made twice because of them.
func TestAttemptsLogIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, b *bundle){
		"removed": func(t *testing.T, b *bundle) {
			if err := b.bus.JetStream().DeleteStream(t.Context(), bus.StreamAttempts); err != nil {
				t.Fatal(err)
			}
		},
		"full": func(t *testing.T, b *bundle) {
			s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamAttempts)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			cfg.MaxMsgs, cfg.Discard = 1, jetstream.DiscardNew
			if _, err := b.bus.JetStream().UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Second}, RetryAfterMax: time.Hour})
			well := newReceiver(t, nil)
			var refused sync.Map
			once := newReceiver(t, func(_ int, w http.ResponseWriter, req *http.Request, _ []byte) {
				if _, again := refused.LoadOrStore(req.Header.Get("webhook-id"), true); !again { // each is tried again
					w.WriteHeader(http.StatusBadRequest)
				}
			})
			b.create(&endpoint.Endpoint{ID: "well", URL: well.URL})
			b.create(&endpoint.Endpoint{ID: "once", URL: once.URL})
			lose(t, b)
			ids := b.publish("x", 20)
			well.await(t, 20)
			once.await(t, 40)
			b.settled()
			if got := sorted(well.all()); !slices.Equal(got, sorted(ids)) {
				t.Errorf("%d came, %v", len(got), got)
			}
			if got := sorted(once.all()); !slices.Equal(slices.Compact(got), sorted(ids)) || len(once.all()) != 40 {
				t.Errorf("%d came of 40", len(once.all()))
			}
			eventually(t, "the lost ones are counted", func() bool { return b.counter("relay_attempt_records_lost_total") >= 59 })
		})
	}
}

// counter is the value of a counter without labels.
func (b *bundle) counter(name string) float64 {
	b.t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	b.t.Fatalf("no metric %s", name)
	return 0
}
