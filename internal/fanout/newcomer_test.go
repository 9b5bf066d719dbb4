package fanout_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// elsewhere is the registry of another replica, which reads no events.
func (b *bundle) elsewhere() *endpoint.Registry {
	b.t.Helper()
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		b.t.Fatal(err)
	}
	there := endpoint.NewRegistry(b.bus.Endpoints(), sealer, silent)
	b.t.Cleanup(run(b.t, there.Run))
	if err := there.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return there
}

// An endpoint that was made at one replica gets what another reads before it has heard of it, and each once.
func TestNewEndpointThatAReplicaHasNotHeardOf(t *testing.T) {
	t.Parallel()
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty=%t", empty), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			if !empty {
				b.publish("before", 3)
				b.read()
			}
			there := b.elsewhere()
			b.deaf()
			e := endpoint.Endpoint{ID: "crm", URL: r.URL, Enabled: true, Secrets: []webhook.Secret{b.secret}, Filter: `event.id != "while-1"`}
			var err error
			if e.Since, e.SinceTime, err = b.relay.EndOfLog(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := there.Create(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			ids := b.publish("while", 5)
			b.read()
			b.hears()
			eventually(t, "it has heard", func() bool { return b.registry.Snapshot().Get("crm") != nil })
			ids = slices.DeleteFunc(append(ids, b.publish("after", 5)...), func(id string) bool { return id == "while-1" })
			r.hasAll(t, ids, 0)
			b.settled()
			if got := r.all(); !slices.Equal(sorted(got), sorted(ids)) {
				t.Errorf("%v", got)
			}
		})
	}
}

// An endpoint that was changed at one replica gets what it asks for now of what another reads before it has heard of that, and
// nothing twice.
func TestChangedEndpointThatAReplicaHasNotHeardOf(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(e *endpoint.Endpoint){
		"events":      func(e *endpoint.Endpoint) { e.Events = []string{"nex.insight.*"} },
		"not ordered": func(e *endpoint.Endpoint) { e.Ordered, e.Events = false, []string{"nex.insight.*"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r := newReceiver(t, nil)
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Events: []string{"nex.insight.risk"}, Ordered: name == "not ordered"})
			ids := b.publish("before", 3)
			b.put("unwanted", "nex.insight.opportunity", `{}`)
			r.await(t, 3)
			b.read()
			there := b.elsewhere()
			b.deaf()
			end, _, err := b.relay.EndOfLog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := there.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
				change(e)
				e.Changed = end
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				for kind, eventType := range map[string]string{"old": "nex.insight.risk", "new": "nex.insight.opportunity"} {
					id := fmt.Sprintf("%s-%d", kind, i)
					b.put(id, eventType, `{}`)
					ids = append(ids, id)
				}
			}
			b.read()
			r.await(t, 5) // the old ones: one in order has its place behind what it did not ask for
			b.hears()
			r.hasAll(t, ids, 0)
			b.settled()
			if got := r.all(); name == "events" && !slices.Equal(sorted(got), sorted(ids)) {
				t.Errorf("%v", got)
			}
		})
	}
}
