package fanout_test

import (
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
)

// Two replicas whose files disagree about an endpoint cost little, however long they do, and lose nothing.
func TestReplicasThatDisagree(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	mine := b.registry
	theirs := endpoint.NewRegistry(b.bus.Endpoints(), sealer, silent)
	t.Cleanup(run(t, theirs.Run))
	if err := theirs.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	theirs.SetConfig([]*endpoint.Endpoint{{ID: "crm", URL: r.URL, Secrets: mine.Snapshot().Get("crm").Secrets}}) // not enabled
	b.registry = theirs
	f, closeF := b.fanout(nil)
	b.registry = mine
	t.Cleanup(closeF)
	began, before := time.Now(), b.written()
	end := run(t, f.Run)
	ids := b.publish("x", 100)
	r.hasAll(t, ids, 0)
	end()
	writes, took := b.written()-before, time.Since(began)
	// Each turn is two or three writes; each replica has some at once, and then one a second.
	if most := uint64(3*2*(20+took.Seconds()+1)) + 50; writes > most {
		t.Errorf("%d writes in %v, at most %d", writes, took, most)
	}
}

// written is how many writes the bucket of the endpoints has had.
func (b *bundle) written() uint64 {
	b.t.Helper()
	s, err := b.bus.JetStream().Stream(b.t.Context(), "KV_RELAY_ENDPOINTS")
	if err != nil {
		b.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}
