package bus

import (
	"context"
	"errors"
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

// ReadRetry hands over everything that waits for an endpoint in RELAY_RETRY, in the order in which it was stored, and answers
// the sequence of the last message that was there.
func (b *Bus) ReadRetry(ctx context.Context, endpoint string, do func(data []byte) error) (last uint64, err error) {
	s, err := b.js.Stream(ctx, StreamRetry)
	if err != nil {
		return 0, err
	}
	end := s.CachedInfo().State.LastSeq
	for _, subject := range RetrySubjects(endpoint) {
		// Message by message: a work queue has no two consumers for one subject.
		for from := uint64(1); from <= end; {
			m, err := s.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return 0, err
			}
			if m.Sequence > end {
				break
			}
			if err := do(m.Data); err != nil {
				return 0, err
			}
			from, last = m.Sequence+1, max(last, m.Sequence)
		}
	}
	return last, nil
}

// PurgeRetry removes everything that waits for an endpoint in RELAY_RETRY, as far as it was stored before a sequence of that
// stream; 0 = all of it.
func (b *Bus) PurgeRetry(ctx context.Context, endpoint string, before uint64) error {
	s, err := b.js.Stream(ctx, StreamRetry)
	if err != nil {
		return fmt.Errorf("remove what waits for %s: %w", endpoint, err)
	}
	for _, subject := range RetrySubjects(endpoint) {
		opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(subject)}
		if before > 0 {
			opts = append(opts, jetstream.WithPurgeSequence(before))
		}
		if err := s.Purge(ctx, opts...); err != nil {
			return fmt.Errorf("remove what waits for %s: %w", endpoint, err)
		}
	}
	return nil
}
