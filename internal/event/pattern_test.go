package event_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server/gsl"

	"github.com/nex-crm/relay/internal/event"
)

// A pattern means what NATS takes it to mean.
func TestMatchPattern(t *testing.T) {
	t.Parallel()
	patterns := []string{"nex.insight.*", "nex.insight.risk", "nex.>", ">", "*", "*.*", "*.insight.>", "nex.*.risk", "nex.insight", "nex.insight.risk.>"}
	types := []string{"nex", "nex.insight", "nex.insight.risk", "nex.insight.role_detail", "nex.relay.endpoint.disabled", "nex.insight.risk.more"}
	for _, p := range patterns {
		list := gsl.NewSublist[int]()
		if err := list.Insert(p, 1); err != nil {
			t.Fatal(err)
		}
		for _, typ := range types {
			want := false
			list.Match(typ, func(int) { want = true })
			if got := event.MatchPattern(p, typ); got != want {
				t.Errorf("%s on %s: %v, NATS says %v", p, typ, got, want)
			}
		}
	}
}
