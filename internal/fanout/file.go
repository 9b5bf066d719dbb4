package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

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
	f.cfg.Endpoints.SetConfig(list)
	for _, id := range gone {
		_, err := f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
			if s.Position == 0 {
				s.Position, s.PositionLog, s.FailingSince = max(floor, 1), log.Made, nil
				if floor == 0 && !s.InOrder { // there is no place before the first event
					s.Spans = append(s.Spans, endpoint.Span{ID: rand.Text()[:12], From: 1, To: 1, Mode: endpoint.ModeAll})
				}
			}
			return true // written in any case: whoever is giving the place up looks again
		})
		if err != nil {
			return err
		}
		f.log.Info("endpoint is no longer in the file: it keeps its place in the log", "endpoint", id)
	}
	return nil
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
