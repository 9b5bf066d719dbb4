package fanout_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// news is what the relay tells of an endpoint.
type news struct {
	Type string `json:"type"`
	Data struct {
		Endpoint       string    `json:"endpoint"`
		LostInSeconds  int64     `json:"lost_in_seconds"`
		LostAt         time.Time `json:"lost_at"`
		Limit          string    `json:"limit"`
		OldestSequence uint64    `json:"oldest_sequence"`
		Undelivered    uint64    `json:"undelivered"`
	} `json:"data"`
}

// The log keeps events for a day (bustest): what is undelivered for 18 hours is told of, once, and when it is over.
func TestLossIsToldBeforeItHappens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		endpoint endpoint.Endpoint
		paused   bool
		oldest   uint64 // of the events 1 to 20
		count    uint64
	}{
		{"paused", endpoint.Endpoint{}, true, 1, 20},
		{"paused, with a filter", endpoint.Endpoint{Filter: `event.id in ["x-7", "x-9"]`}, true, 8, 2},
		{"paused and ordered", endpoint.Endpoint{Ordered: true}, true, 1, 20},
		{"failing", endpoint.Endpoint{}, false, 1, 20},
		{"failing and ordered", endpoint.Endpoint{Ordered: true}, false, 1, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
			b.stop()
			b.lossWarning = 20 * time.Hour // a quarter of a day counts
			b.start()
			r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
				if !tt.paused {
					w.WriteHeader(http.StatusBadRequest)
				}
			})
			e := tt.endpoint
			e.ID, e.URL = "crm", r.URL
			b.create(&e)
			if tt.paused {
				b.enable("crm", false, "")
				eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
			}
			b.publish("x", 20)
			b.read()
			u := b.undelivered("crm", int(tt.count))
			if u.Oldest != tt.oldest {
				t.Fatalf("%+v", u)
			}
			if !tt.paused && !e.Ordered {
				eventually(t, "all wait", func() bool { return b.undelivered("crm", 20).Waiting == 20 })
			}
			tell := b.reader("NEX", "nex._.relay.endpoint.*")
			told := func() (n news) { // beside that it goes on, and, on a machine so slow that its circuit opened, that it only fails
				t.Helper()
				for n.Type == "" || n.Type == "nex.relay.endpoint.resumed" || n.Type == "nex.relay.endpoint.failing" {
					n = news{}
					if err := json.Unmarshal(tell().Data(), &n); err != nil {
						t.Fatal(err)
					}
				}
				return n
			}
			// Two looks are needed, to see how fast it comes on.
			look := func(age time.Duration) {
				for i := range 2 {
					b.relay.LookAhead(t.Context(), u.Stored.Add(age+time.Duration(i)*time.Minute))
				}
			}
			look(17 * time.Hour)
			if b.registry.State("crm").LossAhead != nil {
				t.Fatal("told too early")
			}
			if got := time.Duration(b.gauge("relay_loss_horizon_seconds") * float64(time.Second)); got.Round(time.Second) != 7*time.Hour-time.Minute {
				t.Errorf("%v are left, not 7 hours less a minute", got)
			}
			look(19 * time.Hour)
			look(20 * time.Hour)
			if b.registry.State("crm").LossAhead == nil {
				t.Fatal("not told")
			}
			n := told()
			lost := u.Stored.Add(24 * time.Hour)
			if n.Type != "nex.relay.endpoint.loss_ahead" || n.Data.Endpoint != "crm" || n.Data.OldestSequence != tt.oldest ||
				n.Data.Undelivered != tt.count || n.Data.Limit != "stream.max_age" || lost.Sub(n.Data.LostAt).Abs() > time.Second {
				t.Errorf("%+v, lost at %v", n, lost)
			}
			if got := b.gauge("relay_undelivered_oldest_seconds"); math.Round(got/60) != 20*60+1 {
				t.Errorf("the oldest is %v s old", got)
			}
			if err := b.registry.SetEnabled(t.Context(), "crm", false, "", 0); err != nil {
				t.Fatal(err)
			}
			b.enable("crm", true, endpoint.ModeSkip)
			eventually(t, "nothing is left", func() bool { return b.undelivered("crm", 0).Oldest == 0 })
			eventually(t, "that is over", func() bool {
				b.relay.LookAhead(t.Context(), u.Stored.Add(21*time.Hour))
				return b.registry.State("crm").LossAhead == nil
			})
			if n = told(); n.Type != "nex.relay.endpoint.loss_averted" {
				t.Errorf("%+v, told once more", n)
			}
			if got := b.gauge("relay_loss_horizon_seconds"); !math.IsInf(got, 1) {
				t.Errorf("%v are left of nothing", got)
			}
		})
	}
}

// Endpoints that get nothing of what came have nothing to lose.
func TestNoLossAheadOfWhatIsForOthers(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.stop()
	b.lossWarning = time.Hour
	b.start()
	for i, e := range []endpoint.Endpoint{{Events: []string{"nex.insight.milestone"}}, {Filter: `event.id == "y"`}, {Ordered: true, Filter: `event.id == "y"`}} {
		e.ID, e.URL = fmt.Sprint("e", i), "http://127.0.0.1:1/"
		b.create(&e)
		b.enable(e.ID, false, "")
		eventually(t, "its place is noted", func() bool { return b.registry.State(e.ID).Position > 0 })
	}
	b.publish("x", 20)
	b.read()
	for i := range 3 {
		b.relay.LookAhead(t.Context(), time.Now().Add(24*time.Hour+time.Duration(i)*time.Minute))
	}
	if got := b.gauge("relay_loss_horizon_seconds"); !math.IsInf(got, 1) {
		t.Errorf("%v s are left", got)
	}
}
