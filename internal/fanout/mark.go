package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
)

// orderMark is an ordered endpoint's place: the last event with which it is done. The acknowledgement alone does not say it:
// nats-server writes those of a consumer to disk a tenth of a second later (consumerFileStore.flushLoop), so that one which is
// killed gives events again that were delivered, behind the one that was delivered last. And a consumer can be lost.
type orderMark struct {
	// Sequence is 0 where the endpoint has the whole log before it.
	Sequence uint64 `json:"sequence"`
	// Stored is when the log took it. In a log that was made anew the sequences mean other events, which came later.
	Stored time.Time `json:"stored"`
}

func (m orderMark) passed(msg *message) bool {
	return msg.sequence <= m.Sequence && !msg.stored.After(m.Stored)
}

// markAt is the mark of an endpoint that is done with everything up to a sequence of the log as it is now.
func markAt(sequence uint64, log bus.Extent) orderMark {
	stored := log.LastTime
	if stored.Before(log.Made) { // it never held anything
		stored = log.Made
	}
	return orderMark{sequence, stored}
}

// next is the sequence of the first event that is still to come. In a log that was made anew it is all of them.
func (m orderMark) next(log bus.Extent) uint64 {
	if m.Stored.Before(log.Made) {
		return 1
	}
	return m.Sequence + 1
}

// storedMark is how far an endpoint has come as the bucket has it; ok is false where that holds none.
func (f *Fanout) storedMark(ctx context.Context, id string) (mark orderMark, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	entry, err := f.cfg.Bus.Order().Get(ctx, id)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return orderMark{}, false, nil
	case err != nil:
		return orderMark{}, false, fmt.Errorf("how far endpoint %s has come: %w", id, err)
	}
	_ = json.Unmarshal(entry.Value(), &mark) // what cannot be read is of no log that there is: everything is still to come
	return mark, true, nil
}

// orderMark is how far an endpoint has come, whichever replica brought it there.
func (f *Fanout) orderMark(ctx context.Context, id string) (orderMark, error) {
	mark, _, err := f.storedMark(ctx, id)
	if err != nil {
		return mark, err
	}
	// The bucket may answer from a replica that is behind.
	if own, ok := f.marks.Load(id); ok && own.(orderMark).Stored.After(mark.Stored) {
		return own.(orderMark), nil
	}
	return mark, nil
}

// firstMark notes where an endpoint begins that has no mark, before it has a consumer: so all replicas begin at one place.
func (f *Fanout) firstMark(ctx context.Context, id string, mark orderMark) error {
	value, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err = f.cfg.Bus.Order().Create(ctx, id, value); err != nil {
		return fmt.Errorf("note where endpoint %s begins: %w", id, err)
	}
	return nil
}

// setMark has an endpoint be done with everything before a sequence, or again not be with what comes from there on.
func (f *Fanout) setMark(ctx context.Context, id string, mark orderMark) error {
	value, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err = f.cfg.Bus.Order().Put(ctx, id, value); err != nil {
		return fmt.Errorf("note how far endpoint %s has come: %w", id, err)
	}
	f.marks.Store(id, mark)
	return nil
}

// noteOrder notes that an endpoint is done with an event, before it is acknowledged. When the relay has to stop first, the
// acknowledgement must do.
func (f *Fanout) noteOrder(id string, msg *message) {
	if !f.cfg.Endpoints.State(id).InOrder { // its order was ended, and its mark removed, while this one was on its way
		return
	}
	mark := orderMark{msg.sequence, msg.stored}
	if own, ok := f.marks.Load(id); !ok || !own.(orderMark).Stored.After(mark.Stored) {
		f.marks.Store(id, mark) // here it holds at once
	}
	_ = f.untilDone("note how far an ordered endpoint has come", func() error {
		stands, _, err := f.storedMark(f.storeCtx, id)
		if err != nil || stands.Stored.After(mark.Stored) { // its owner has skipped this one while it was on its way
			return err
		}
		return f.setMark(f.storeCtx, id, mark)
	})
}
