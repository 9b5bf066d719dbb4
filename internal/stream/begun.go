package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
)

// begunPrefix is where the bucket of the leases keeps since when each workspace is held: begun.<token>.
const begunPrefix = "begun."

// begun is the birth mark of a workspace. It is made before anything is read from Nex and never moves, so that what the
// log has not, or not any more, is told apart from what nobody asked for: without it a relay that died in its first
// backfill, or was down for longer than the log keeps its events, would look like one that starts for the first time.
type begun struct {
	At   time.Time `json:"at"`   // the first start
	From time.Time `json:"from"` // what is older was never asked for: At less nex.backfill
}

// begin reads the workspace's birth mark, and makes it at the first start.
func (s *stream) begin(ctx context.Context) (begun, error) {
	key := begunPrefix + s.workspace.Token
	mark, err := s.readMark(ctx, key)
	if !errors.Is(err, jetstream.ErrKeyNotFound) {
		return mark, err
	}
	at := s.wanted.UTC()
	mark = begun{At: at, From: at.Add(-s.cfg.Backfill)}
	switch first, err := s.cfg.Bus.First(ctx, "nex."+s.workspace.Token+".>"); {
	case err == nil:
		// It is held for longer than there are marks, or the bucket was removed. What its first event says is at least as
		// late as Nex said.
		mark.At = first.Time.UTC()
		mark.From = mark.At.Add(-s.cfg.Backfill - s.cfg.GapOverlap)
	case !errors.Is(err, bus.ErrNotInLog):
		return begun{}, err
	}
	value, err := json.Marshal(mark)
	if err != nil {
		return begun{}, err
	}
	if _, err := s.cfg.Bus.Leases().Create(ctx, key, value); err != nil {
		return begun{}, fmt.Errorf("make %s: %w", key, err) // another replica was faster: the next try reads its own
	}
	if mark, err = s.readMark(ctx, key); err == nil {
		s.log.Info("workspace is held for the first time", "from", mark.From)
	}
	return mark, err
}

// readMark reads it and bounds it by when NATS took it: the clock of the replica that made it may have been ahead, and that
// of NATS.
func (s *stream) readMark(ctx context.Context, key string) (begun, error) {
	entry, err := s.cfg.Bus.Leases().Get(ctx, key)
	if err != nil {
		return begun{}, fmt.Errorf("read %s: %w", key, err)
	}
	var mark begun
	if err := json.Unmarshal(entry.Value(), &mark); err != nil || mark.From.IsZero() {
		return begun{}, fmt.Errorf("%s in the bucket %s cannot be understood: remove it", key, bus.BucketLeases)
	}
	if ahead := mark.At.Sub(entry.Created()); ahead > 0 {
		mark.At, mark.From = mark.At.Add(-ahead).UTC(), mark.From.Add(-ahead).UTC()
	}
	now := s.cfg.Now()
	mark.At, mark.From = setRight(mark.At, entry.Created(), now), setRight(mark.From, entry.Created(), now)
	return mark, nil
}
