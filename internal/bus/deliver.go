package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// drainTime is how long what should be there is waited for at first before it is looked whether it still is.
const drainTime = 2 * time.Second

const (
	// fetchMost and fetchBytes are how much is asked for at a time: so much may be held of it.
	fetchMost  = 500
	fetchBytes = 8 << 20
)

// errIncomplete says that a part of what the log holds did not arrive: the reading is to be begun anew.
var errIncomplete = errors.New("not all that the log holds has arrived")

// errEnough ends a reading before its end.
var errEnough = errors.New("enough")

// drain hands over count messages of c, or until each answers false, and removes it. Fewer are handed over only where some
// were removed from the log after they were counted.
func (b *Bus) drain(ctx context.Context, c jetstream.Consumer, count uint64, each func(Known) bool) error {
	return b.deliver(ctx, c, count, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if !each(known(m, meta)) {
			return errEnough
		}
		return nil
	})
}

// deliver hands over count messages of c, or until each fails, and removes it. c must be new and acknowledge nothing: it
// delivers each message once, so that one which was under way when the connection broke, or when it was no longer waited
// for, never comes again. The numbers that c gives to its messages tell.
func (b *Bus) deliver(ctx context.Context, c jetstream.Consumer, count uint64, each func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	return b.deliverBy(ctx, c, count, fetchMost, each)
}

// deliverBy is deliver, most messages at a time: they and [fetchBytes] bound what is held of them, but for one that is larger.
// math.MaxUint64 are all that c has, those included that it finds while it delivers.
func (b *Bus) deliverBy(ctx context.Context, c jetstream.Consumer, count, most uint64, each func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	defer b.drop(c)
	alone, left := false, c.CachedInfo().NumPending
	for seen, patience := uint64(0), drainTime; min(count, left) > 0; {
		n, opts := min(count, left, most), []jetstream.FetchOpt{jetstream.FetchMaxBytes(fetchBytes)}
		if alone {
			n, opts = 1, nil
		}
		var got uint64
		var err error
		got, left, err = b.fetch(ctx, c, int(n), seen, patience, each, opts...)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err != nil:
			return err
		case got == 0:
			info, err := c.Info(ctx)
			if err != nil {
				return err
			}
			if info.Delivered.Consumer != seen {
				return fmt.Errorf("%w: %d of %d", errIncomplete, seen, info.Delivered.Consumer)
			}
			left, patience = info.NumPending, min(2*patience, 8*drainTime)
		}
		alone = got == 0 // perhaps because the next is larger than all that is taken at a time
		seen += got
		count -= min(got, count)
	}
	return nil
}

// fetch hands over up to n messages of c, of which seen came before, and tells how many it got and how many c has left. It
// ends when none has come for a time.
func (b *Bus) fetch(ctx context.Context, c jetstream.Consumer, n int, seen uint64, patience time.Duration, each func(jetstream.Msg, *jetstream.MsgMetadata) error, opts ...jetstream.FetchOpt) (got, left uint64, err error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	over := time.AfterFunc(patience, cancel)
	defer over.Stop()
	batch, err := c.Fetch(n, append(opts, jetstream.FetchContext(waiting))...)
	if err != nil {
		return 0, 0, err
	}
	for m := range batch.Messages() {
		over.Stop()
		meta, err := m.Metadata()
		if err != nil {
			return got, 0, err
		}
		if got++; meta.Sequence.Consumer != seen+got {
			return got, 0, fmt.Errorf("%w: %d came after %d", errIncomplete, meta.Sequence.Consumer, seen+got-1)
		}
		left = meta.NumPending
		if err := each(m, meta); err != nil {
			return got, left, err
		}
		over.Reset(patience)
	}
	if err := batch.Error(); err != nil && (ctx.Err() != nil || waiting.Err() == nil) {
		return got, left, err
	}
	return got, left, nil
}
