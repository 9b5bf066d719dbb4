package fanout

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// Hurry has an endpoint's deliveries tried now that have failed since a time and wait for their next attempt; a zero time is all of them.
// It is that attempt: none is spent, and nothing is delivered twice because of it. It answers how many they are; after an error some may be
// on their way already, and are counted.
func (f *Fanout) Hurry(ctx context.Context, id string, since time.Time) (n uint64, err error) {
	n, _, err = f.hurry(ctx, id, func(m bus.Stored, _ reference) bool { return !m.Time.Before(since) })
	if err != nil {
		return n, fmt.Errorf("try deliveries to %s now: %w", id, err)
	}
	held := false
	_, err = f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		held = s.Ordered != nil && s.Ordered.NextAt.After(time.Now()) && !s.Ordered.FailedAt.Before(since)
		if held {
			at := *s.Ordered
			at.NextAt = time.Time{}
			s.Ordered = &at
		}
		return held
	})
	if held && err == nil {
		n++ // the one that holds up the others, and looks every half minute whether it still has to wait
	}
	return n, err
}

// hurry has those tried now that pick names, and tells whether one of them is on its way anyway.
func (f *Fanout) hurry(ctx context.Context, id string, pick func(bus.Stored, reference) bool) (n uint64, coming bool, err error) {
	b := f.cfg.Bus
	end, err := b.RetryEnd(ctx)
	if err != nil {
		return 0, false, err
	}
	seen := map[uint64]bool{} // a crash leaves some there twice
	err = b.EachRetry(ctx, id, 1, end, func(m bus.Stored) error {
		refs, err := parseReferences(m.Data)
		if err != nil {
			return nil // handled where it is due
		}
		var now []*delivery
		var stay []reference
		for _, r := range refs {
			switch {
			case !pick(m, r):
				stay = append(stay, r)
			case r.Forced == "" && seen[r.Sequence] && bus.RetryHasTime(m.Subject): // it is on its way: this one is let go
			default:
				seen[r.Sequence] = seen[r.Sequence] || r.Forced == ""
				now = append(now, r.delivery())
			}
		}
		coming = coming || len(stay) < len(refs)
		if !bus.RetryHasTime(m.Subject) || len(stay) == len(refs) {
			return nil
		}
		ours, err := f.advance(ctx, m, now, stay)
		if ours {
			n += uint64(len(now))
		}
		return err
	})
	return n, coming, err
}

// advance stores some deliveries of a message that waits for its time as due, and the others as they were, and tells whether it was this one
// who took it away. Of several who do so at one time each stores the same under one message id, which the server takes once; where its time
// comes at this moment, some are made twice.
func (f *Fanout) advance(ctx context.Context, m bus.Stored, now []*delivery, stay []reference) (ours bool, err error) {
	if len(now) > 0 {
		msg, opts, err := parcel(place{endpoint: now[0].endpoint, at: time.Now().Unix()}, now)
		if err != nil {
			return false, err
		}
		if _, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, append(opts, jetstream.WithMsgID(partOf(m, "due", msg.Data)))...); err != nil {
			return false, err
		}
	}
	if len(stay) > 0 {
		if err := f.restock(ctx, m, stay); err != nil {
			return false, err
		}
	}
	n, err := f.cfg.Bus.Erase(ctx, bus.StreamRetry, []uint64{m.Sequence}, false)
	return n > 0, err
}

// partOf is the message id of what is stored in the place of a message, or of a part of it.
func partOf(m bus.Stored, what string, data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%s-%d-%x", what, m.Sequence, sum[:8])
}
