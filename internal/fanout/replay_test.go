package fanout_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// over waits until a replay is, and answers what is noted of it.
func (b *bundle) over(id, replay string) (r endpoint.Replay) {
	b.t.Helper()
	eventually(b.t, "the replay is over", func() bool {
		list := b.registry.State(id).Replayed
		i := slices.IndexFunc(list, func(r endpoint.Replay) bool { return r.ID == replay })
		if i >= 0 {
			r = list[i]
		}
		return i >= 0
	})
	return r
}

// An endpoint gets what came before it was made, as far as it is asked for.
func TestReplayToANewEndpoint(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	ids := b.publish("old", 30)
	b.read()
	log, err := b.bus.Extent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Since: log.Last, SinceTime: log.LastTime, Events: []string{"nex.insight.opportunity"}})
	e := b.registry.Snapshot().Get("crm")
	for _, step := range []struct {
		replay endpoint.Replay
		want   []string
	}{
		{endpoint.Replay{From: 1, To: log.Last}, nil}, // nothing that the endpoint asks for
		{endpoint.Replay{From: 6, To: 8, Events: []string{"nex.insight.*"}}, ids[5:8]},
		{endpoint.Replay{From: 1, To: log.Last, Events: []string{"nex.insight.*"}, Filter: `event.id endsWith "7"`}, []string{"old-7", "old-17", "old-27"}},
		{endpoint.Replay{From: 1, To: log.Last, Events: []string{"nex.insight.risk"}}, ids},
	} {
		step.replay.ID = fmt.Sprintf("r%d", len(step.want))
		tried := len(r.all())
		n, err := b.relay.CountReplay(t.Context(), e, step.replay)
		if err != nil || n != uint64(len(step.want)) {
			t.Errorf("%d of %d are counted: %v", n, len(step.want), err)
		}
		if err := b.relay.Replay(t.Context(), "crm", step.replay); err != nil {
			t.Fatal(err)
		}
		done := b.over("crm", step.replay.ID)
		if done.Queued != uint64(len(step.want)) || done.Canceled || done.Ended.IsZero() {
			t.Errorf("%+v, want %d", done, len(step.want))
		}
		r.await(t, len(step.want))
		if got := sorted(r.all()[tried:]); !slices.Equal(got, sorted(step.want)) {
			t.Errorf("%v, want %v", got, step.want)
		}
	}
}

// A replay goes on where it was when the relay stops in the middle, and says truly how far it is.
func TestReplayOverRestarts(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	ids := b.publish("old", 3000)
	b.read()
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Since: uint64(len(ids)), MaxInFlight: 2})
	if err := b.relay.Replay(t.Context(), "crm", endpoint.Replay{ID: "all", From: 1, To: uint64(len(ids))}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.await(t, 50)
		b.stop()
		b.start()
	}
	b.over("crm", "all")
	r.hasAll(t, ids, 0)
}

// A replay of an endpoint that is paused waits until it is not.
func TestReplayWaitsForAPause(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("x", 5)
	r.await(t, 5)
	b.read()
	b.enable("crm", false, "")
	eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
	for _, id := range []string{"one", "two"} {
		if err := b.relay.Replay(t.Context(), "crm", endpoint.Replay{ID: id, From: 1, To: 5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.relay.CancelReplay(t.Context(), "crm", "two"); err != nil {
		t.Fatal(err)
	}
	if err := b.relay.CancelReplay(t.Context(), "crm", "two"); !errors.Is(err, fanout.ErrNoReplay) {
		t.Errorf("canceled twice: %v", err)
	}
	if r := b.over("crm", "two"); !r.Canceled {
		t.Errorf("%+v", r)
	}
	b.enable("crm", true, "")
	b.over("crm", "one")
	r.await(t, 5)
	b.settled()
	if got := r.all(); !slices.Equal(sorted(got), sorted(append(ids, ids...))) {
		t.Errorf("%v", got)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.create(&endpoint.Endpoint{ID: "crm", URL: "http://127.0.0.1:1"})
	b.enable("crm", false, "")
	for i := range 17 {
		err := b.relay.Replay(t.Context(), "crm", endpoint.Replay{ID: fmt.Sprint(i), From: 1, To: 1})
		if (err != nil) != (i == 16) || err != nil && !errors.Is(err, fanout.ErrTooManyReplays) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// An event is delivered again though the log has lost it, if it is given along, and fails and waits like any other.
func TestRedeliver(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r := newReceiver(t, nil)
	ids := b.publish("x", 2)
	b.read()
	stored, err := b.bus.Get(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	nex, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if err := nex.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	fails, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Since: 2, Events: []string{"nex.insight.opportunity"}})
	b.create(&endpoint.Endpoint{ID: "sick", URL: fails.URL, Since: 2})
	b.create(&endpoint.Endpoint{ID: "paused", URL: r.URL, Since: 2})
	b.enable("paused", false, "")
	for _, id := range []string{"crm", "sick", "paused"} {
		for i, kept := range [][]byte{stored.Data, nil} {
			if err := b.relay.Redeliver(t.Context(), id, uint64(i+1), ids[i], kept); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.relay.Redeliver(t.Context(), id, 1, ids[0], []byte("null")); !errors.Is(err, bus.ErrNotInLog) {
			t.Errorf("without its event: %v", err)
		}
	}
	r.await(t, 2)
	if got := sorted(r.all()); !slices.Equal(got, ids) {
		t.Errorf("%v", got)
	}
	fails.await(t, 2)
	heal()
	fails.hasAll(t, ids, 2)
	eventually(t, "its place is noted", func() bool { return b.registry.State("paused").Position > 0 })
	b.enable("paused", true, endpoint.ModeNewestFirst)
	eventually(t, "both have come to the one that was paused, too", func() bool { // what is put into another order may come twice
		n := map[string]int{}
		for _, id := range r.all() {
			n[id]++
		}
		return n[ids[0]] >= 2 && n[ids[1]] >= 2
	})
	letters, err := b.bus.JetStream().Stream(t.Context(), bus.StreamDead)
	if err != nil || letters.CachedInfo().State.Msgs != 0 {
		t.Errorf("%d dead letters, %v", letters.CachedInfo().State.Msgs, err)
	}
}

// What is sent again is signed and told as it was the first time.
func TestRedeliveredIsTheSame(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	type seen struct{ id, sequence, body string }
	calls := make(chan seen, 10)
	r := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, body []byte) {
		calls <- seen{req.Header.Get("webhook-id"), req.Header.Get("relay-sequence"), string(body)}
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("x", 1)
	first := <-calls
	b.read()
	nex, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []bool{false, true} {
		if gone {
			if err := nex.DeleteMsg(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.relay.Redeliver(t.Context(), "crm", 1, ids[0], []byte(first.body)); err != nil {
			t.Fatal(err)
		}
		select {
		case again := <-calls:
			if again != first {
				t.Errorf("%+v, first %+v", again, first)
			}
		case <-time.After(patience):
			t.Fatal("it did not come")
		}
	}
}

// A dead letter that is delivered again and dies again is a dead letter again.
func TestDiesAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0}})
	r, _ := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("x", 1)
	letters := func(n uint64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d letters", n), func() bool {
			count, err := b.bus.Count(t.Context(), bus.Query{Stream: bus.StreamDead, Subjects: bus.DeadSubjects("crm", "5xx")})
			return err == nil && count == n
		})
	}
	letters(1)
	for n := uint64(2); n < 4; n++ {
		if err := b.relay.Redeliver(t.Context(), "crm", 1, ids[0], nil); err != nil {
			t.Fatal(err)
		}
		letters(n)
	}
}

// A test is sent like any other webhook, also to an endpoint that is paused, and nothing becomes of it.
func TestTest(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Events: []string{"nex.insight.risk"}})
	b.enable("crm", false, "")
	for _, want := range []webhook.Outcome{webhook.ServerError, webhook.Delivered} {
		a, err := b.relay.Test(t.Context(), b.registry.Snapshot().Get("crm"))
		if err != nil || a.Outcome != want || a.Verdict != fanout.Tested {
			t.Errorf("%+v %v, want %s", a, err, want)
		}
		heal()
	}
	b.settled()
	if n := len(r.all()); n != 2 {
		t.Errorf("%d webhooks", n)
	}
	if s := b.registry.State("crm"); s.FailingSince != nil {
		t.Errorf("%+v", s)
	}
}

// What its owner wants again waits beside what waits anyway, though they have one sequence.
func TestRedeliveredWaitsForItself(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("now", 1)
	r.await(t, 1)
	b.read()
	kept := []byte(`{"specversion":"1.0","id":"old-1","source":"/nex/workspaces/acme","type":"nex.insight.risk","data":{}}`)
	if err := b.relay.Redeliver(t.Context(), "crm", 1, "old-1", kept); err != nil { // of a log that is no more
		t.Fatal(err)
	}
	r.await(t, 2)
	heal()
	eventually(t, "both have come", func() bool {
		got := r.all()[3:]
		return slices.Contains(got, ids[0]) && slices.Contains(got, "old-1")
	})
}
