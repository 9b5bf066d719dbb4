package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Read hands over the events of the log from one sequence to another, both inclusive, that stand on one of some subjects,
// oldest first, until do fails. What the log no longer holds is passed over; where a part did not arrive it fails, and what was
// handed over is a beginning without holes.
func (b *Bus) Read(ctx context.Context, subjects []string, from, to uint64, do func(Stored) error) error {
	c, err := b.nex.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects:    subjects,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: tailConsumer("", 0).InactiveThreshold,
	})
	if err != nil {
		return fmt.Errorf("read the log from %d: %w", from, err)
	}
	err = b.deliver(ctx, c, c.CachedInfo().NumPending, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if meta.Sequence.Stream > to {
			return errEnough
		}
		return do(Stored{Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	})
	if err != nil {
		return fmt.Errorf("read the log from %d: %w", from, err)
	}
	return nil
}

// ReadRun hands over the events of the log from one sequence to another, both inclusive, that are not many, oldest first, as far as they take
// no more than so many bytes. It is one request, without a consumer. Any replica of the stream answers: one that is behind gives less.
func (b *Bus) ReadRun(ctx context.Context, from, to uint64, bytes int, do func(Stored)) error {
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	err = b.askDirect(StreamNex, ">", inbox, from, int(to-from+1), bytes)
	if err == nil {
		_, _, err = b.batch(ctx, sub, to, func(m Stored) error { do(m); return nil })
	}
	if err != nil {
		return fmt.Errorf("read the log from %d to %d: %w", from, to, err)
	}
	return nil
}
