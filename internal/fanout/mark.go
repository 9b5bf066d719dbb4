package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// orderMark is the last event with which an ordered endpoint is done. The acknowledgement alone does not say it: nats-server
// writes those of a consumer to disk a tenth of a second later (consumerFileStore.flushLoop), so that one which is killed
// gives events again that were delivered, behind the one that was delivered last.
type orderMark struct {
	Sequence uint64 `json:"sequence"`
	// Stored is when the log took it. In a log that was made anew the sequences mean other events, which came later.
	Stored time.Time `json:"stored"`
}

func (m orderMark) passed(msg *message) bool {
	return msg.sequence <= m.Sequence && !msg.stored.After(m.Stored)
}

// orderMark is how far an endpoint has come, whichever replica brought it there.
func (f *Fanout) orderMark(ctx context.Context, id string) (orderMark, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var mark orderMark
	entry, err := f.cfg.Bus.Order().Get(ctx, id)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return mark, fmt.Errorf("how far endpoint %s has come: %w", id, err)
	default:
		_ = json.Unmarshal(entry.Value(), &mark) // what cannot be read says nothing
	}
	// The bucket may answer from a replica that is behind.
	if own, ok := f.marks.Load(id); ok && own.(orderMark).Stored.After(mark.Stored) {
		return own.(orderMark), nil
	}
	return mark, nil
}

// noteOrder notes that an endpoint is done with an event, before it is acknowledged. When the relay has to stop first, the
// acknowledgement must do.
func (f *Fanout) noteOrder(id string, msg *message) {
	mark := orderMark{msg.sequence, msg.stored}
	f.marks.Store(id, mark)
	value, err := json.Marshal(mark)
	if err != nil {
		return
	}
	_ = f.untilDone("note how far an ordered endpoint has come", func() error {
		ctx, cancel := context.WithTimeout(f.storeCtx, storeTimeout)
		defer cancel()
		_, err := f.cfg.Bus.Order().Put(ctx, id, value)
		return err
	})
}
