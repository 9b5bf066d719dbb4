package fanout_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

// slowFilter holds for texts that end with z. On a large one it is left for later, until it is known.
const slowFilter = `event.data.pad matches "(p|pp|ppp)*(p|pp)*z$"`

// publishPad puts an event of 100 KB into the log that ends as given.
func (b *bundle) publishPad(id, end string) {
	b.t.Helper()
	e := &event.Event{
		Workspace: "acme", ID: id, Type: "nex.insight.risk", Subject: "person/x", Time: time.Now(), Traceparent: event.NewTraceparent(),
		Data: json.RawMessage(fmt.Sprintf(`{"type":"risk","content":"c","pad":%q}`, strings.Repeat("p", 100<<10)+end)),
	}
	if _, err := b.bus.Publish(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

func TestSlowFilterHoldsUpNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	slow, other := newReceiver(t, nil), newReceiver(t, nil)
	list := []*endpoint.Endpoint{{ID: "other", URL: other.URL, Filter: `event.data.content == "c"`}}
	for i := range 8 {
		list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("slow-%d", i), URL: slow.URL, Filter: slowFilter + strings.Repeat(" ", i)})
	}
	b.endpoints(list...)
	release := b.relay.HoldFilters() // as if each took for ever
	b.publishPad("no", "")
	b.publishPad("yes", "z")
	behind := b.publish("behind", 3)
	if got, want := sorted(other.await(t, 5)), append(slices.Clone(behind), "no", "yes"); !slices.Equal(got, want) {
		t.Errorf("others got %v", got)
	}
	if got := slow.all(); len(got) > 0 {
		t.Errorf("delivered unasked: %v", got)
	}
	release()
	slow.await(t, 8)
	b.settled()
	if got := slices.Compact(sorted(slow.all())); !slices.Equal(got, []string{"yes"}) {
		t.Errorf("delivered %v", got)
	}
	for _, a := range b.attempts("slow-7", 1) {
		if a.EventID != "yes" {
			t.Errorf("attempt %+v", a)
		}
	}
}

// One attempt is allowed, and the next in 1,000 s.
func TestSlowFilterTakesNoTurnOfTheRateLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Filter: slowFilter, RateLimit: 0.001})
	for i := range 5 {
		b.publishPad(fmt.Sprintf("no-%d", i), "")
	}
	b.settled()
	b.publishPad("yes", "z")
	if got := r.await(t, 1); got[0] != "yes" {
		t.Errorf("delivered %v", got)
	}
	b.settled()
	if a := b.attempts("crm", 1); a[0].EventID != "yes" {
		t.Errorf("attempt %+v", a[0])
	}
}

func TestSlowFilterWhilePaused(t *testing.T) {
	t.Parallel()
	for mode, want := range map[endpoint.Mode][]string{
		endpoint.ModeAll:             {"paused-yes", "soon-yes"},
		endpoint.ModeLatestPerTarget: {"paused-yes"},
		endpoint.ModeSkip:            nil,
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Filter: slowFilter})
			b.enable("crm", false, "")
			b.publishPad("soon-yes", "z")
			b.publishPad("soon-no", "")
			eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
			b.publishPad("paused-yes", "z")
			b.publishPad("paused-no", "")
			b.read()
			b.enable("crm", true, mode)
			eventually(t, "what matches has come", func() bool { return slices.Equal(slices.Compact(sorted(r.all())), want) })
			if mode != endpoint.ModeAll { // it is done when it no longer waits: at once nothing would be seen
				eventually(t, "it goes on", func() bool { s := b.registry.Snapshot().Get("crm").State; return s.Position == 0 && len(s.Spans) == 0 })
			}
			b.settled()
			if got := slices.Compact(sorted(r.all())); !slices.Equal(got, want) {
				t.Errorf("%v", got)
			}
		})
	}
}
