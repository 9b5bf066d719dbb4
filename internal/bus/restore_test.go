package bus_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// Streams beside the log that somebody deletes read as empty ones, and are made again as they were.
func TestRestore(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	names := []string{bus.StreamRetry, bus.StreamDead, bus.StreamAttempts}
	put(t, b, "relay.attempts.crm.delivered", 10)
	put(t, b, bus.DeadSubject("crm", "5xx"), 10)
	ctx, stop := context.WithCancel(t.Context())
	followed, done := make(chan bus.Stored, 16), make(chan struct{})
	go func() {
		defer close(done)
		b.Follow(ctx, bus.StreamAttempts, 1, 2, func(m bus.Stored) {
			select {
			case followed <- m:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { stop(); <-done }()
	put(t, b, "relay.attempts.crm.delivered", 10)
	<-followed
	if made, err := b.Restore(t.Context()); err != nil || len(made) > 0 {
		t.Fatalf("nothing is missing: %v, %v", made, err)
	}
	before := map[string]jetstream.StreamConfig{}
	for _, name := range names {
		before[name] = stream(t, b, name).CachedInfo().Config
		if err := b.JetStream().DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names[1:] {
		q := bus.Query{Stream: name, Limit: 10}
		if p, err := b.Page(t.Context(), q); err != nil || len(p.Messages) > 0 || p.Next != 0 {
			t.Errorf("page of %s: %+v, %v", name, p, err)
		}
		if n, err := b.Count(t.Context(), q); err != nil || n != 0 {
			t.Errorf("count of %s: %d, %v", name, n, err)
		}
		if err := b.Walk(t.Context(), q, func(bus.Stored) (bool, error) { return true, errors.New("it holds something") }); err != nil {
			t.Errorf("walk of %s: %v", name, err)
		}
		if end, err := b.End(t.Context(), name); err != nil || end != 0 {
			t.Errorf("end of %s: %d, %v", name, end, err)
		}
	}
	if end, err := b.RetryEnd(t.Context()); err != nil || end != 0 {
		t.Errorf("end of what waits: %d, %v", end, err)
	}
	made, err := b.Restore(t.Context())
	if err != nil || !slices.Equal(made, names) {
		t.Fatalf("made %v, %v", made, err)
	}
	for _, name := range names {
		if now := stream(t, b, name).CachedInfo().Config; !reflect.DeepEqual(now, before[name]) {
			t.Errorf("%s was made as %+v, it was %+v", name, now, before[name])
		}
	}
	for again := true; again; { // who follows begins at the end that he finds
		put(t, b, "relay.attempts.crm.timeout", 10)
		select {
		case m := <-followed:
			again = false
			if m.Subject != "relay.attempts.crm.timeout" {
				t.Errorf("followed: %+v", m)
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := b.JetStream().DeleteStream(t.Context(), bus.StreamNex); err != nil {
		t.Fatal(err)
	}
	if made, err := b.Restore(t.Context()); err != nil || len(made) > 0 {
		t.Errorf("the log is not made again in passing: %v, %v", made, err)
	}
	if _, err := b.Page(t.Context(), bus.Query{Stream: bus.StreamNex, Limit: 1}); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a log that is not there is no empty one: %v", err)
	}
}
