package relay

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestPatiently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Relay{log: slog.New(slog.DiscardHandler)}
		away := errors.New("no answer")

		tries := 0
		if err := r.patiently(t.Context(), "a step", func() error {
			if tries++; tries < 4 {
				return away
			}
			return nil
		}); err != nil || tries != 4 {
			t.Errorf("%v after %d tries", err, tries)
		}

		began := time.Now()
		if err := r.patiently(t.Context(), "a step", func() error { return away }); !errors.Is(err, away) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began); took < startTime/2 || took > startTime+10*time.Second {
			t.Errorf("gave up after %v", took)
		}

		ctx, cancel := context.WithCancel(t.Context())
		if err := r.patiently(ctx, "a step", func() error { cancel(); return away }); err == nil {
			t.Error("a stop is taken for success")
		}
	})
}
