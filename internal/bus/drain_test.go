package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/event"
)

// What was counted is removed from the log before it is fetched, all of it or a part.
func TestDrainOfWhatIsGone(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]uint64{"all": 0, "a part": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := Open(t.Context(), Config{
				Embedded: Embedded{StoreDir: t.TempDir()}, Stream: Limits{MaxAge: time.Hour, DuplicateWindow: time.Minute},
				Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
			for i := range 10 {
				id := fmt.Sprint("ins_", i)
				if _, err := b.Publish(t.Context(), &event.Event{Workspace: "acme", ID: id, Type: "nex.insight.risk", Data: json.RawMessage(`{}`)}); err != nil {
					t.Fatal(err)
				}
			}
			c, pending, err := b.follow(t.Context(), tailConsumer("nex.acme.insight.>", 1))
			if err != nil || pending != 10 {
				t.Fatal(pending, err)
			}
			if err := b.nex.Purge(t.Context(), jetstream.WithPurgeSequence(11-keep)); err != nil {
				t.Fatal(err)
			}
			got := uint64(0)
			done := make(chan error, 1)
			go func() { done <- b.drain(t.Context(), c, pending, func(Known) bool { got++; return true }) }()
			select {
			case err := <-done:
				if err != nil || got != keep {
					t.Errorf("%d handed over, %v, want %d", got, err, keep)
				}
			case <-time.After(time.Minute): // for ever, then
				t.Error("it waits for what is gone")
			}
		})
	}
}

func TestLastOf(t *testing.T) {
	t.Parallel()
	for _, total := range []int{0, 1, 4, 5, 6, 12} {
		last := newLastOf(5)
		for i := range total {
			last.add(Known{Sequence: uint64(i)})
		}
		list := last.list()
		if len(list) != min(total, 5) {
			t.Errorf("%d of %d kept", len(list), total)
		}
		for i, k := range list {
			if want := uint64(total - len(list) + i); k.Sequence != want {
				t.Errorf("of %d the %d. is %d, want %d", total, i, k.Sequence, want)
			}
		}
	}
}
