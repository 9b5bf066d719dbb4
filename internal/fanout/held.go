package fanout

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// message is one event of the log, read once and shared by its deliveries. It does not change.
type message struct {
	sequence    uint64
	stored      time.Time // when the log took it
	workspace   string
	eventType   string
	id          string
	traceparent string
	data        []byte
}

// newMessage is an event as it stands in the log.
func newMessage(subject string, header nats.Header, sequence uint64, stored time.Time, data []byte) *message {
	workspace, eventType, _ := event.SplitSubject(subject)
	return &message{
		sequence: sequence, stored: stored, workspace: workspace, eventType: eventType, id: eventID(header, sequence),
		traceparent: header.Get(bus.HeaderTraceparent), data: data,
	}
}

// eventTarget is what an event is about: its workspace and its subject.
func eventTarget(m bus.Stored) (workspace, subject string) {
	workspace, _, _ = event.SplitSubject(m.Subject)
	var e struct {
		Subject string `json:"subject"`
	}
	_ = json.Unmarshal(m.Data, &e) // what is no event is about nothing
	return workspace, e.Subject
}

// delivery is one event on its way to one endpoint. It has one owner at a time: a lane, an attempt, or a write.
type delivery struct {
	endpoint  string
	workspace string // of the event; empty where it is not known
	sequence  uint64
	id        string // the event's
	attempt   int    // number of the next attempt, from 1
	since     int64  // Unix seconds when its receiver first put it off (429, Retry-After); 0 = it did not
	event     *message
	unasked   bool   // the endpoint's filter was left for later
	forced    string // the wish of its owner because of which the endpoint gets it, whatever it asks for by now; empty = none
	inline    []byte // the event, where the log holds it no more
	weight    int    // bytes that its lane counts for it
	reread    bool   // its event came from the log for it alone, or is to
	shelved   bool   // its lane counts it as on its way into the backlog
	held      *held
	share     *share // of held; nil where it carries this one alone
}

// settle says that a delivery needs its message no longer: it was answered, or stored elsewhere.
func (d *delivery) settle() {
	if d.share != nil {
		d.share.settled.Store(true)
	}
	d.held.settle()
}

// share is an endpoint's part in a message that is being worked on.
type share struct {
	endpoint string
	sequence uint64 // of the event
	settled  atomic.Bool
}

// held is a message of a consumer that is acknowledged when all its deliveries are settled: answered, or stored.
type held struct {
	key    heldKey
	weight int64
	since  time.Time
	open   atomic.Int32
	set    *heldSet
	free   func(int64)
	before func() // what comes before the acknowledgement; may be nil
	shares []share

	msg jetstream.Msg // the newest delivery of it; guarded by set.mu
}

// heldKey is a message's place: JetStream brings it again there. The time tells it from one of a stream that was made anew.
type heldKey struct {
	from     unique.Handle[consumerName] // 8 bytes: very many keys are remembered
	sequence uint64
	stored   int64 // Unix nanoseconds
}

type consumerName struct{ stream, consumer string }

// maxSettled bounds the messages that are remembered after they were settled: about 5 MB, and all that can come again after
// an outage of NATS, where maxAckPending may be on their way.
const maxSettled = maxAckPending

// hold takes responsibility for m. It waits while too many bytes are held, and answers nil if ctx ends meanwhile or if the
// message came again although it is being worked on, or was: acknowledgements get lost with connections and servers.
func (f *Fanout) hold(ctx context.Context, m jetstream.Msg, size int, shares []share) *held {
	return f.holdIn(ctx, f.heldBytes, m, size, shares, 0)
}

// holdIn is hold with a bound of its own. again is when the message is to come again where it found no room.
func (f *Fanout) holdIn(ctx context.Context, room *semaphore.Weighted, m jetstream.Msg, size int, shares []share, again time.Duration) *held {
	meta, err := m.Metadata()
	if err != nil {
		_ = m.Term() // nothing of JetStream's
		return nil
	}
	key := heldKey{unique.Make(consumerName{meta.Stream, meta.Consumer}), meta.Sequence.Stream, meta.Timestamp.UnixNano()}
	// A consumer that was made anew counts from the beginning.
	if (meta.NumDelivered > 1 || meta.Stream == bus.StreamRetry) && f.held.cameAgain(key, m) {
		return nil
	}
	weight := min(int64(max(size, heldWeight)), orderedBytes, f.cfg.maxHeld)
	if !room.TryAcquire(weight) && room.Acquire(ctx, weight) != nil {
		comeAgain(m, again)
		return nil
	}
	f.bodies.Add(weight)
	h := &held{key: key, msg: m, weight: weight, since: time.Now(), set: &f.held, shares: shares, free: func(n int64) {
		f.bodies.Add(-n)
		room.Release(n)
	}}
	h.open.Store(int32(len(shares)))
	f.held.add(h)
	return h
}

// settle says that one delivery needs the message no longer. The last one acknowledges it.
func (h *held) settle() {
	if h.open.Add(-1) > 0 {
		return
	}
	if h.before != nil {
		h.before()
	}
	m := h.set.remove(h)
	h.free(h.weight)
	_ = m.Ack() // should it get lost, the message comes again and is known
}

// giveBack ends the work on a message that is to come again after a while.
func (h *held) giveBack(after time.Duration) {
	h.set.mu.Lock()
	delete(h.set.all, h.key)
	m := h.msg
	h.set.mu.Unlock()
	h.free(h.weight)
	comeAgain(m, after)
}

// heldSet is every message being worked on, and those that were, the newest of them.
type heldSet struct {
	mu      sync.Mutex
	all     map[heldKey]*held
	settled map[heldKey]struct{}
	order   []heldKey // of settled, oldest at next once it is full
	next    int
}

func (s *heldSet) add(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all, s.settled = map[heldKey]*held{}, map[heldKey]struct{}{}
	}
	s.all[h.key] = h
}

// remove notes that h is settled, and answers what to acknowledge.
func (s *heldSet) remove(h *held) jetstream.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, h.key)
	if len(s.order) < maxSettled {
		s.order = append(s.order, h.key)
	} else {
		delete(s.settled, s.order[s.next])
		s.order[s.next] = h.key
		s.next = (s.next + 1) % maxSettled
	}
	s.settled[h.key] = struct{}{}
	return h.msg
}

// cameAgain tells whether a message is known. One that is settled is acknowledged once more.
func (s *heldSet) cameAgain(key heldKey, m jetstream.Msg) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.all[key]; h != nil {
		h.msg = m
		return true
	}
	_, settled := s.settled[key]
	if settled {
		_ = m.Ack()
	}
	return settled
}

// inProgress tells JetStream of every message that takes long that it is still being worked on.
func (s *heldSet) inProgress() {
	s.mu.Lock()
	var old []jetstream.Msg
	for _, h := range s.all {
		if time.Since(h.since) >= working/2 {
			old = append(old, h.msg)
		}
	}
	s.mu.Unlock()
	for _, m := range old {
		_ = m.InProgress() // one that was settled meanwhile says so, and that is fine
	}
}
