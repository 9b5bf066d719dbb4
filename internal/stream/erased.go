package stream

import (
	"context"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// erasedFor is for how long what was read of the erasures is believed. Whoever erases waits for longer before he removes anything.
const erasedFor = time.Second

// erasures is what was removed from the log of a workspace for good; of its publisher alone.
type erasures struct {
	list []bus.Erasure
	read time.Time
}

// erased tells whether an insight that came again over REST or in a replay was removed from the log for good.
func (s *stream) erased(ctx context.Context, e *event.Event) (bool, error) {
	if time.Since(s.erasures.read) > erasedFor {
		now := time.Now()
		list, err := s.cfg.Bus.Erasures(ctx, s.workspace.Token)
		if err != nil {
			return false, err
		}
		s.erasures = erasures{list, now}
	}
	return slices.ContainsFunc(s.erasures.list, func(one bus.Erasure) bool { return one.Covers(e.Subject, e.Emitted, e.Fingerprint) }), nil
}
