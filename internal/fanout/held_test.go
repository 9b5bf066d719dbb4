package fanout

import (
	"testing"
	"time"
	"unique"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
)

// What JetStream brings again, because an acknowledgement was late or got lost, is not delivered again. Here it brings a message again when
// it is told to, so that it does not depend on how fast the test is what comes when.
func TestMessageThatComesAgain(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for range 2 {
		e, err := event.News("acme", event.GapFilled, "", nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	cfg := bus.FanoutConsumer(time.Hour, 10)
	c, err := b.JetStream().CreateOrUpdateConsumer(t.Context(), bus.StreamNex, cfg)
	if err != nil {
		t.Fatal(err)
	}
	next := func() jetstream.Msg {
		t.Helper()
		m, err := c.Next(jetstream.FetchMaxWait(2 * time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	again := func(m jetstream.Msg) jetstream.Msg {
		t.Helper()
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
		return next()
	}
	f := &Fanout{cfg: Config{maxHeld: maxHeldBytes}, heldBytes: semaphore.NewWeighted(maxHeldBytes)}
	one, two := next(), next()
	h := f.hold(t.Context(), one, 1, make([]share, 2))
	other := f.hold(t.Context(), two, 1, make([]share, 1))
	if h == nil || other == nil {
		t.Fatal("a message that comes for the first time is not taken")
	}
	one, two = again(one), again(two)
	for _, m := range []jetstream.Msg{one, two} { // they are being worked on
		if f.hold(t.Context(), m, 1, make([]share, 1)) != nil {
			t.Error("taken twice")
		}
	}
	unacked := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; {
			info, err := c.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if info.NumAckPending == n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d are not acknowledged, not %d", info.NumAckPending, n)
			}
		}
	}
	unacked(2)
	h.settle()
	h.settle()
	unacked(1)
	for range 2 { // the other comes again and again until it is settled
		if len(f.held.all) != 1 {
			t.Fatalf("%d are held", len(f.held.all))
		}
		two = again(two)
		meta, err := two.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if meta.Sequence.Stream != other.key.sequence {
			t.Fatalf("sequence %d comes again although it was acknowledged", meta.Sequence.Stream)
		}
		if f.hold(t.Context(), two, 1, make([]share, 1)) != nil {
			t.Error("taken again")
		}
	}
	// Its acknowledgement gets lost: what comes after it is settled is acknowledged anew.
	f.held.remove(other)
	if f.hold(t.Context(), again(two), 1, make([]share, 1)) != nil {
		t.Error("delivered although it was settled")
	}
	unacked(0)
}

func TestSettledIsBounded(t *testing.T) {
	t.Parallel()
	var s heldSet
	from := unique.Make(consumerName{"NEX", "c"})
	for i := range 3 * maxSettled {
		h := &held{key: heldKey{from, uint64(i), 1}}
		s.add(h)
		s.remove(h)
	}
	if len(s.settled) != maxSettled || len(s.order) != maxSettled || len(s.all) != 0 {
		t.Errorf("%d settled, %d in order, %d held", len(s.settled), len(s.order), len(s.all))
	}
	if _, known := s.settled[heldKey{from, 3*maxSettled - 1, 1}]; !known {
		t.Error("the newest is forgotten")
	}
}
