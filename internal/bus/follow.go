package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followIdle is how long nothing may come before it is looked whether something was lost on its way.
	followIdle = 10 * time.Second
	// followPause is between two tries while NATS does not answer.
	followPause = time.Second
)

// End is the last sequence that a stream has given: what it takes later has a greater one. It is 0 for a stream beside the log
// that somebody has deleted.
func (b *Bus) End(ctx context.Context, stream string) (uint64, error) {
	s, err := b.js.Stream(ctx, stream)
	if missing(stream, err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Follow hands over what a stream takes behind a sequence, oldest first and each once, until ctx ends; an outage of NATS it sits
// out. It holds up to most messages, whatever their size. What has left the stream before it was read is passed over.
func (b *Bus) Follow(ctx context.Context, stream string, after uint64, most int, do func(Stored)) {
	said := false
	for ctx.Err() == nil {
		err := b.followOn(ctx, stream, &after, most, func(m Stored) {
			said = false
			do(m)
		})
		if ctx.Err() == nil && !said {
			said = true
			b.log.Warn("a stream cannot be followed, trying on", "stream", stream, "error", err)
		}
		select {
		case <-time.After(followPause):
		case <-ctx.Done():
		}
	}
}

// followOn is [Bus.Follow] by one consumer, and moves after on.
func (b *Bus) followOn(ctx context.Context, stream string, after *uint64, most int, do func(Stored)) error {
	end, err := b.End(ctx, stream)
	if err != nil {
		return err
	}
	*after = min(*after, end) // a stream that was made anew begins anew
	c, err := b.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       *after + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 2 * followIdle,
	})
	if err != nil {
		return err
	}
	defer b.drop(c)
	for seen := uint64(0); ; {
		got, _, err := b.fetch(ctx, c, most, seen, followIdle, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			*after = meta.Sequence.Stream
			do(Stored{Sequence: *after, Time: meta.Timestamp, Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
			return nil
		})
		if err != nil {
			return err
		}
		if seen += got; got > 0 {
			continue
		}
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if info.Delivered.Consumer != seen {
			return errIncomplete // what was lost on its way comes with the next consumer
		}
	}
}
