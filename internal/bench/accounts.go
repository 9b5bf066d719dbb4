package bench

import (
	"context"
	"time"
)

// accounts is what figures of deliveries are worth: how many attempts left no record, and how many webhooks came more than once.
type accounts struct{ lost, doubled int }

// apply has a figure carry them. One that lost a record, or was made of doubles, has not reached anything.
func (a accounts) apply(f Figure) Figure {
	f.RecordsLost, f.Doubled = a.lost, a.doubled
	return f
}

// settle waits until every attempt that some relays made has its record in RELAY_ATTEMPTS, and counts what is wrong. The receiver is
// theirs alone: only it knows what came twice.
func (s *stage) settle(ctx context.Context, receiver *part, relays ...*relay) (a accounts, err error) {
	if err := awaitAnswers(ctx, receiver, relays); err != nil {
		return a, err
	}
	byLog := map[string][]*relay{}
	for _, r := range relays {
		byLog[r.NATS] = append(byLog[r.NATS], r)
	}
	for _, sharing := range byLog {
		lost, err := s.recordsLost(ctx, sharing)
		if err != nil {
			return a, err
		}
		a.lost += lost
	}
	now, err := ask[answered](ctx, receiver, "answered", nothing{})
	a.doubled = now.Doubled
	return a, err
}

// awaitAnswers waits until relays have counted what a receiver has answered them, or for recordsTime: an answer that a relay did not wait
// for it counts otherwise.
func awaitAnswers(ctx context.Context, receiver *part, relays []*relay) error {
	all, err := ask[answered](ctx, receiver, "answered", nothing{})
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(recordsTime); ; {
		seen := 0
		for _, r := range relays {
			n, err := metric(ctx, r, `relay_delivery_attempts_total{outcome="delivered"}`)
			if err != nil {
				return err
			}
			seen += int(n)
		}
		if seen >= all.N-all.Doubled || time.Now().After(deadline) {
			return nil
		}
		if err := pause(ctx, recordsLag); err != nil {
			return err
		}
	}
}

const (
	// recordsTime is how long answers may take to be counted, and records to be stored.
	recordsTime = 20 * time.Second
	// recordsLag is how much later than the attempts they are counted, where attempts go on: that long one is on its way at most.
	recordsLag = 20 * time.Millisecond
)

// recordsLost looks at the relays on one server until each attempt that they have made has its record, or for recordsTime.
func (s *stage) recordsLost(ctx context.Context, relays []*relay) (lost int, err error) {
	log, err := s.connect(ctx, relays[0])
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(recordsTime); ; {
		made, given, err := attempts(ctx, relays)
		if err != nil {
			return 0, err
		}
		if err := pause(ctx, recordsLag); err != nil {
			return 0, err
		}
		records, err := ask[int](ctx, log, "records", nothing{})
		if err != nil {
			return 0, err
		}
		// What came in meanwhile hides none that a relay knows itself to have lost.
		lost = max(made-records, given, 0)
		if made <= records || time.Now().After(deadline) {
			return lost, s.end(log)
		}
	}
}

// attempts is how many some relays have made, and of how many they know that they left no record.
func attempts(ctx context.Context, relays []*relay) (made, lost int, err error) {
	for _, r := range relays {
		m, err := metric(ctx, r, "relay_delivery_attempts_total{")
		if err != nil {
			return 0, 0, err
		}
		l, err := metric(ctx, r, "relay_attempt_records_lost_total")
		if err != nil {
			return 0, 0, err
		}
		made, lost = made+int(m), lost+int(l)
	}
	return made, lost, nil
}
