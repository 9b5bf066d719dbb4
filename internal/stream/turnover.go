package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// A log that stream.max_bytes bounds may lose its events within the hour in which the checkpoint is told once, and within the
// overlap that is asked for at each filling. Without more, a restart would take what has left the log for missing, and have it
// published and delivered again. So the checkpoint is told anew before the log loses it, and what was complete and has left the
// log is not asked for. A copy of the newest checkpoint outlives also a log that turned over while nobody told anything.

// checkpointPrefix is where the bucket of the leases keeps that copy: checkpoint.<token>.
const checkpointPrefix = "checkpoint."

// wasTold hears of news that are in the log.
func (s *stream) wasTold(ctx context.Context, e *event.Event, sequence uint64) {
	if e.Type != event.GapFilled {
		return
	}
	s.gap.mu.Lock()
	s.gap.toldSeq = max(s.gap.toldSeq, sequence)
	s.gap.mu.Unlock()
	if _, err := s.cfg.Bus.Leases().Put(ctx, checkpointPrefix+s.workspace.Token, e.JSON()); err != nil && ctx.Err() == nil {
		s.log.Warn("the copy of the checkpoint could not be written", "error", err)
	}
}

// lastTold is the newest gap_filled of the log, or its copy; [bus.ErrNotInLog] if there is neither.
func (s *stream) lastTold(ctx context.Context) (*bus.Stored, error) {
	last, err := s.cfg.Bus.Last(ctx, event.Subject(s.workspace.Token, event.GapFilled))
	if !errors.Is(err, bus.ErrNotInLog) {
		return last, err
	}
	key := checkpointPrefix + s.workspace.Token
	entry, missing := s.cfg.Bus.Leases().Get(ctx, key)
	switch {
	case errors.Is(missing, jetstream.ErrKeyNotFound):
		return nil, err
	case missing != nil:
		return nil, fmt.Errorf("read %s: %w", key, missing)
	}
	return &bus.Stored{Time: entry.Created(), Data: entry.Value()}, nil
}

// fades tells whether the log loses the checkpoint before long: it stands in the older half of what has begun to go.
func (g *gap) fades(d bus.Extent) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return d.First > 1 && g.toldSeq < d.First+d.Size()/2
}

// lookBack learns before a filling what has left the log, and answers whether the checkpoint is about to.
func (s *stream) lookBack(ctx context.Context) (fades bool) {
	d, err := s.cfg.Bus.Extent(ctx)
	if err != nil {
		s.log.Debug("it is not known what has left the log", "error", err)
		return false
	}
	var left time.Time
	if at, _ := s.gap.stands(); d.First > 1 && d.FirstTime.After(at.Add(-s.cfg.GapOverlap-2*clockSlack)) {
		left = s.left(ctx, d.FirstTime)
	}
	s.gap.mu.Lock()
	s.gap.left = left
	s.gap.mu.Unlock()
	return s.gap.fades(d)
}

// left is a time of Nex before which the log holds nothing any more: that of the oldest insight, as far as the log is older.
func (s *stream) left(ctx context.Context, since time.Time) time.Time {
	first, err := s.cfg.Bus.First(ctx, event.Subject(s.workspace.Token, event.InsightPrefix+">"))
	if err != nil {
		return time.Time{} // nothing to go by, and what was published before is at most asked for again
	}
	emitted, err := time.Parse(time.RFC3339Nano, first.Header.Get(bus.HeaderEmitted))
	if at := emitted.Add(time.Second); err == nil && at.Before(since) { // what Nex cut to seconds may be as much later
		return at
	}
	return since
}

// past tells whether an insight of a replay that the log does not hold has been there: it is older than what the log keeps, and
// from before this life, which began where the log was complete. The replay of a quiet workspace brings such for months.
func (s *stream) past(emitted time.Time) bool {
	var kept time.Time
	if s.cfg.MaxAge > 0 {
		kept = s.cfg.Now().Add(-s.cfg.MaxAge)
	}
	return s.gap.past(emitted, kept)
}

func (g *gap) past(emitted, kept time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left.After(kept) {
		kept = g.left
	}
	return !emitted.IsZero() && g.floor.IsZero() && emitted.Before(kept) && emitted.Before(g.completeTo.Add(-g.overlap))
}

// fading is what is to be told before an insight is written that came over the stream: the checkpoint, if the log is about to
// lose it. Since a filling on this connection has reached its end, all that Nex emitted before this insight has come.
func (s *stream) fading(emitted time.Time) *event.Event {
	p := s.publisher
	if p.newest-p.extent.Last < p.extent.Size()/8 {
		return nil
	}
	d, err := s.cfg.Bus.Extent(s.life)
	if err != nil {
		return nil // publishing will fail as well
	}
	p.extent, p.newest = d, max(p.newest, d.Last)
	if !s.gap.fades(d) {
		return nil
	}
	at, to := s.gap.live(emitted, s.cfg.Now())
	return s.filledNews(gapNews{From: at, To: to, Open: s.gap.open()})
}

// live is the mark, and how far beyond it is complete by what came over the stream, the last of it at a time of Nex.
func (g *gap) live(emitted, now time.Time) (at, to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, to = g.completeTo, g.completeTo
	if g.sound && emitted.After(to) {
		if to = emitted; to.After(now) {
			to = now
		}
	}
	return at, to
}
