package fanout_test

import (
	"slices"
	"testing"

	"github.com/nex-crm/relay/internal/endpoint"
)

// An endpoint that was made at one replica gets what another reads before it has heard of it, and each once.
func TestNewEndpointThatAReplicaHasNotHeardOf(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r, other := newReceiver(t, nil), newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "other", URL: other.URL})
	before := b.publish("before", 3)
	other.await(t, 3)
	b.read()
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	there := endpoint.NewRegistry(b.bus.Endpoints(), sealer, silent) // the other replica's, which reads no events
	end := run(t, there.Run)
	t.Cleanup(end)
	if err := there.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.deaf()
	var e endpoint.Endpoint
	e.Since, e.SinceTime, err = b.relay.EndOfLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.ID, e.URL, e.Enabled, e.Secrets = "crm", r.URL, true, b.registry.Snapshot().Get("other").Secrets
	e.Filter = `event.id != "while-1"`
	if err := there.Create(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	ids := b.publish("while", 5)
	other.await(t, 5)
	b.read()
	b.hears()
	eventually(t, "it has heard", func() bool { return b.registry.Snapshot().Get("crm") != nil })
	ids = slices.DeleteFunc(append(ids, b.publish("after", 5)...), func(id string) bool { return id == "while-1" })
	r.hasAll(t, ids, 0)
	b.settled()
	if got := r.all(); !slices.Equal(sorted(got), sorted(ids)) || slices.Contains(got, before[0]) {
		t.Errorf("%v", got)
	}
}
