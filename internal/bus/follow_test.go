package bus_test

import (
	"context"
	"testing"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// What is stored behind the sequence comes once and in order, also where the consumer is taken away meanwhile.
func TestFollow(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	put := func(subject string) {
		t.Helper()
		if _, err := b.JetStream().Publish(t.Context(), subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	put("nex.acme.insight.before")
	end, err := b.End(t.Context(), bus.StreamNex)
	if err != nil || end != 1 {
		t.Fatalf("end %d, %v", end, err)
	}
	put("nex.acme.insight.between")

	ctx, stop := context.WithCancel(t.Context())
	got, done := make(chan bus.Stored, 16), make(chan struct{})
	go func() {
		defer close(done)
		b.Follow(ctx, bus.StreamNex, end, 2, func(m bus.Stored) { got <- m })
	}()
	next := func(sequence uint64, subject string) {
		t.Helper()
		if m := <-got; m.Sequence != sequence || m.Subject != subject || m.Time.IsZero() || string(m.Data) != "x" {
			t.Fatalf("%d %s, want %d %s", m.Sequence, m.Subject, sequence, subject)
		}
	}
	next(2, "nex.acme.insight.between")
	for i := range uint64(5) {
		put("nex.acme.insight.live")
		next(3+i, "nex.acme.insight.live")
	}
	s, err := b.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for c := range s.ListConsumers(t.Context()).Info() {
		gone++
		if err := s.DeleteConsumer(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
	}
	if gone != 1 {
		t.Fatalf("%d consumers, want its only one", gone)
	}
	put("nex.acme.insight.after")
	next(8, "nex.acme.insight.after")

	stop()
	<-done
	for c := range s.ListConsumers(t.Context()).Info() {
		t.Errorf("%s is left over", c.Name)
	}
	if len(got) != 0 {
		t.Errorf("%d more than were stored", len(got))
	}
}
