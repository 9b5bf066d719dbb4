package fanout

import (
	"runtime"
	"sync"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// An endpoint that is made over the API, or changed in what it asks for, gets what is stored from then on, but a replica hears of
// it a little later than the one that did it, or much later, when its watch is dead. What it has read in between, it has matched
// without the endpoint, or with what that asked for before. So it remembers what it read lately and by which snapshot, and when
// it hears of an endpoint looks whether some of that was for it. A replica that ends before it has heard of it cannot.

// matchedMost bounds what is remembered: a quarter of a minute, which is how long a watch may be dead, at 4,000 events a second.
const matchedMost = 1 << 16

// matched is what this replica has read lately.
type matched struct {
	mu   sync.Mutex
	ring []matchedOne
	next int
}

type matchedOne struct{ sequence, generation uint64 } // generation is 0 until the snapshot is known

// begin remembers an event before a snapshot is chosen for it.
func (r *matched) begin(sequence uint64) (place int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := matchedOne{sequence: sequence}
	if len(r.ring) < matchedMost {
		r.ring = append(r.ring, one)
		return len(r.ring) - 1
	}
	place = r.next
	r.ring[place] = one
	r.next = (place + 1) % matchedMost
	return place
}

// end remembers which snapshot it was.
func (r *matched) end(place int, generation uint64) {
	r.mu.Lock()
	r.ring[place].generation = max(generation, 1)
	r.mu.Unlock()
}

// without is what was read behind a sequence by snapshots before a generation, and how far back all is remembered.
func (r *matched) without(since, generation uint64) (missed map[uint64]bool, from uint64) {
	for {
		r.mu.Lock()
		missed, from = map[uint64]bool{}, 0
		pending := false
		if len(r.ring) == matchedMost {
			from = r.ring[r.next].sequence
		}
		for _, one := range r.ring {
			pending = pending || one.generation == 0
			if one.sequence > since && one.generation < generation {
				missed[one.sequence] = true
			}
		}
		r.mu.Unlock()
		if !pending {
			return missed, from
		}
		runtime.Gosched() // its snapshot is being chosen at this moment
	}
}

// welcome looks whether an endpoint that this replica has just heard of has missed something here.
func (f *Fanout) welcome(e *endpoint.Endpoint) {
	since := e.Since
	if e.Before != nil {
		since = max(since, e.Changed)
	}
	missed, from := f.matched.without(since, e.Heard)
	if len(missed) == 0 {
		return
	}
	f.drainers.Go(func() {
		c := &catcher{fanout: f, endpoint: e}
		var last uint64
		first := from
		for sequence := range missed {
			last = max(last, sequence)
			if first == 0 || sequence < first {
				first = sequence
			}
		}
		first = max(first, since+1)
		// Also while the relay stops: nobody else knows of it.
		err := f.untilDoneIn(f.storeCtx, "give an endpoint what it missed", func() error {
			c.count, c.batch = 0, c.batch[:0]
			err := f.wanted(f.storeCtx, e, first, last, func(m bus.Stored) error {
				if !missed[m.Sequence] || e.MadeAfter(m.Sequence, m.Time) {
					return nil
				}
				had, err := f.hadBefore(e.Before, m)
				if err != nil || had {
					return err
				}
				return c.add(f.storeCtx, referenceTo(m))
			})
			if err == nil {
				err = c.flush(f.storeCtx)
			}
			return err
		})
		if err == nil && c.count > 0 {
			f.log.Info("an endpoint gets what was read here before it was heard of", "endpoint", e.ID, "events", c.count)
			signal(f.scan)
		}
	})
}

// hadBefore tells whether an endpoint as it was has been given an event here. An ordered one had a way of its own.
func (f *Fanout) hadBefore(was *endpoint.Endpoint, m bus.Stored) (bool, error) {
	if was == nil || was.Ordered {
		return false, nil
	}
	return f.wants(f.storeCtx, was, newMessage(m.Subject, m.Header, m.Sequence, m.Time, m.Data))
}
