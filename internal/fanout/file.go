package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// ApplyFile makes list the endpoints of the config file. One that an earlier file named keeps its place in the log, as though
// it were paused, and goes on from there when it is put back. After an error it may be called again.
func (f *Fanout) ApplyFile(ctx context.Context, list []*endpoint.Endpoint) error {
	if err := f.PrepareOrdered(ctx, list...); err != nil {
		return err
	}
	gone, err := f.cfg.Endpoints.NoteFile(ctx, list)
	if err != nil {
		return err
	}
	// Read while the endpoints are still known here: what is not acknowledged by now may be read when they no longer are.
	floor, err := f.ackFloor(ctx)
	if err != nil {
		return err
	}
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	// Noted before they are taken away: from then on events are acknowledged without them.
	leaving, err := f.cfg.Endpoints.NoteLeaving(ctx, gone, endpoint.Place{Sequence: floor, Log: log.Made})
	if err != nil {
		return err
	}
	f.cfg.Endpoints.SetConfig(list)
	for _, id := range slices.Sorted(maps.Keys(leaving)) {
		if err := f.leaveFile(ctx, id, leaving[id]); err != nil {
			return err
		}
		f.log.Info("endpoint is no longer in the file: it keeps its place in the log", "endpoint", id)
	}
	if len(leaving) == 0 {
		return nil
	}
	return f.cfg.Endpoints.Left(ctx, leaving)
}

// leaveFile gives an endpoint its place. It may have been put back since, where this was interrupted: then it goes on from there.
func (f *Fanout) leaveFile(ctx context.Context, id string, at endpoint.Place) error {
	if e := f.cfg.Endpoints.Snapshot().Get(id); e != nil && e.Source == endpoint.SourceAPI {
		return nil // another, made under its id since
	}
	_, err := f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		if s.Position == 0 {
			s.Position, s.PositionLog, s.FailingSince = max(at.Sequence, 1), at.Log, nil
			if at.Sequence == 0 && !s.InOrder { // there is no place before the first event
				s.Spans = append(s.Spans, endpoint.Span{ID: rand.Text()[:12], From: 1, To: 1, Mode: endpoint.ModeAll})
			}
		}
		return true // written in any case: whoever is giving the place up looks again
	})
	return err
}

// ackFloor is the sequence up to which the log has been delivered or stored for later.
func (f *Fanout) ackFloor(ctx context.Context) (uint64, error) {
	c, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, bus.ConsumerFanout)
	switch {
	case err == nil:
		return c.CachedInfo().AckFloor.Stream, nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return 0, nil
	}
	return 0, fmt.Errorf("consumer of the log: %w", err)
}
