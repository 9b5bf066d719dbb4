// Package bustest starts a real log for tests: an embedded nats-server with JetStream on disk.
package bustest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

// Config is a small log in a directory of the test's own, not reachable from outside the process.
func Config(tb testing.TB) bus.Config {
	tb.Helper()
	return bus.Config{
		Embedded: bus.Embedded{StoreDir: tb.TempDir()},
		Stream:   bus.Limits{MaxAge: 24 * time.Hour, MaxBytes: 1 << 30, DuplicateWindow: 2 * time.Hour},
		MaxEvent: 4 << 20,
		Logger:   slog.New(slog.DiscardHandler),
	}
}

// Open opens cfg and closes it when the test ends.
func Open(tb testing.TB, cfg bus.Config) *bus.Bus {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := bus.Open(ctx, cfg)
	if err != nil {
		tb.Fatalf("open the log: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			tb.Errorf("close the log: %v", err)
		}
	})
	return b
}

// New is a fresh log.
func New(tb testing.TB) *bus.Bus {
	tb.Helper()
	return Open(tb, Config(tb))
}
