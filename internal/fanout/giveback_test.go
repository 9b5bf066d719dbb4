package fanout_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/fanout"
)

// What was fetched and not looked at comes again at once also after a restart of the server inside, long before its
// acknowledgement is overdue. The server writes down what it was given back beside its work: on a busy machine it may be stopped before.
func TestWhatIsGivenBackOutlivesTheServer(t *testing.T) {
	t.Parallel()
	const tries = 3
	for i := range tries {
		if again, of := givenBack(t); again == of {
			return
		} else if i == tries-1 {
			t.Errorf("%d of %d came again, and not all in the tries before either", again, of)
		}
	}
}

// givenBack is how many of the events that were given back came again after a restart.
func givenBack(t *testing.T) (again, of int) {
	t.Helper()
	const events, overdue = 20, time.Hour
	cfg := bustest.Config(t)
	b := &bundle{t: t, bus: bustest.Open(t, cfg)}
	b.publish("x", events)
	c, err := b.bus.JetStream().CreateOrUpdateConsumer(t.Context(), bus.StreamNex, bus.FanoutConsumer(overdue, 1000))
	if err != nil {
		t.Fatal(err)
	}
	pull, err := b.bus.Pull(bus.StreamNex, bus.ConsumerFanout, 2*events)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pull.Next(t.Context()) // which fetches the others too
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are fetched", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == events && info.NumPending == 0
	})
	fanout.GiveBack(pull)
	if err := m.DoubleAck(t.Context()); err != nil { // the server has seen what was sent before
		t.Fatal(err)
	}
	if err := b.bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	b.bus = bustest.Open(t, cfg)
	if c, err = b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, bus.ConsumerFanout); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for ; again < events-1; again++ {
		m, err := c.Next(jetstream.FetchContext(ctx))
		if err != nil {
			break
		}
		_ = m.Ack()
	}
	return again, events - 1
}

// A start, and an endpoint that has caught up, have the backlogs looked at without waiting for the time to do so.
func TestBacklogsAreLookedAtWhenAsked(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	f, end := b.fanout(nil)
	defer end()
	if !f.AskForScan() {
		t.Error("nobody hears of it")
	}
}
