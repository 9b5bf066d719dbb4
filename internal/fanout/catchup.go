package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

const (
	// beatEvery is how often whoever works on a span says so, and how far it has come; after beatLost somebody else goes on.
	beatEvery, beatLost = 3 * time.Second, 15 * time.Second
	// backwardChunk is how many sequences are read at a time where the newest go first.
	backwardChunk = 8192
)

// startCatchUp works on an endpoint's spans, unless somebody does.
func (f *Fanout) startCatchUp(ctx context.Context, e *endpoint.Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.catching[e.ID] || f.stopping.Load() || !f.mayCatchUp(e) {
		return
	}
	f.catching[e.ID] = true
	f.drainers.Go(func() {
		f.catchUpAll(ctx, e.ID)
		f.mu.Lock()
		delete(f.catching, e.ID)
		f.mu.Unlock()
	})
}

// mayCatchUp tells whether an endpoint has a span that nobody else works on.
func (f *Fanout) mayCatchUp(e *endpoint.Endpoint) bool {
	if e == nil || !e.Active() || len(e.State.Spans) == 0 {
		return false
	}
	span := e.State.Spans[0]
	return span.To > 0 && (span.Owner == f.name || time.Since(span.Beat) >= beatLost)
}

// catchUpAll works on one span after the other.
func (f *Fanout) catchUpAll(ctx context.Context, id string) {
	for ctx.Err() == nil {
		e := f.cfg.Endpoints.Snapshot().Get(id)
		if !f.mayCatchUp(e) {
			return
		}
		err := f.catchUp(ctx, e)
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, errInactive), errors.Is(err, errTaken):
			return
		default:
			f.log.Warn("an endpoint cannot be given what it missed yet, trying on", "endpoint", id, "error", err)
			return
		}
	}
}

// errTaken says that another replica works on the span.
var errTaken = errors.New("another replica works on it")

// catchUp turns an endpoint's first span into deliveries of its backlog.
func (f *Fanout) catchUp(ctx context.Context, e *endpoint.Endpoint) error {
	c := &catcher{fanout: f, endpoint: e, span: e.State.Spans[0]}
	if err := c.beat(ctx); err != nil {
		return err
	}
	var err error
	switch c.span.Mode {
	case endpoint.ModeNewestFirst:
		err = c.newestFirst(ctx)
	case endpoint.ModeLatestPerTarget:
		err = c.latestPerTarget(ctx)
	default:
		err = c.all(ctx)
	}
	if err != nil {
		return err
	}
	c.done = true
	if err := c.beat(ctx); err != nil {
		return err
	}
	f.log.Info("endpoint has been given what came while it was not active", "endpoint", e.ID, "events", c.count, "resume", c.span.Mode)
	signal(f.scan)
	return nil
}

// catcher is one run over a span.
type catcher struct {
	fanout   *Fanout
	endpoint *endpoint.Endpoint
	span     endpoint.Span
	done     bool
	batch    []*delivery
	count    int
	beatAt   time.Time
	// workspaces of those that waited.
	workspaces []string
	numbers    map[string]int32
}

// beat stores in the endpoint's state how far the span has come. It fails if somebody else has taken it, or it is done.
func (c *catcher) beat(ctx context.Context) error {
	now := time.Now()
	taken := false
	_, err := c.fanout.cfg.Endpoints.UpdateState(ctx, c.endpoint.ID, func(s *endpoint.State) bool {
		taken = len(s.Spans) == 0 || s.Spans[0].ID != c.span.ID ||
			s.Spans[0].Owner != c.fanout.name && s.Spans[0].Owner != c.span.Owner
		if taken {
			return false
		}
		s.Spans[0] = c.span
		if c.done {
			s.EndSpan(now)
			return true
		}
		s.Spans[0].Owner, s.Spans[0].Beat = c.fanout.name, now
		return true
	})
	if err != nil {
		return err
	}
	if taken {
		return errTaken
	}
	c.span.Owner, c.beatAt = c.fanout.name, now
	return c.fanout.stillActive(c.endpoint.ID)
}

// add puts one event behind the others.
func (c *catcher) add(ctx context.Context, r reference) error {
	d := r.delivery()
	d.endpoint = c.endpoint.ID
	if c.span.Replay != nil {
		d.forced = c.span.Replay.ID
	}
	c.put(d)
	return c.flushFull(ctx)
}

// referenceTo is the first attempt of an event.
func referenceTo(m bus.Stored) reference {
	workspace, _, _ := event.SplitSubject(m.Subject)
	return reference{Sequence: m.Sequence, ID: eventID(m.Header, m.Sequence), Workspace: workspace, Attempt: 1}
}

func (c *catcher) put(d *delivery) {
	c.batch = append(c.batch, d)
	c.count++
}

func (c *catcher) flushFull(ctx context.Context) error {
	if len(c.batch) < batchMax {
		return nil
	}
	return c.flush(ctx)
}

func (c *catcher) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	// Its owner may not want it any more. A run that only sorts what waits has no span.
	if spans := c.fanout.cfg.Endpoints.State(c.endpoint.ID).Spans; c.span.ID != "" && (len(spans) == 0 || spans[0].ID != c.span.ID) {
		return errTaken
	}
	msg, opts, err := parcel(place{endpoint: c.endpoint.ID}, c.batch)
	if err != nil {
		return err
	}
	c.batch = c.batch[:0]
	return c.fanout.untilDoneIn(ctx, "store deliveries for later", func() error {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		_, err := c.fanout.cfg.Bus.JetStream().PublishMsg(ctx, msg, opts...)
		return err
	})
}

// progress stores from time to time what has been reached; move says how.
func (c *catcher) progress(ctx context.Context, move func()) error {
	if time.Since(c.beatAt) < beatEvery {
		return nil
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	move()
	return c.beat(ctx)
}

// each reads the events for the endpoint of a part of the log, oldest first.
func (c *catcher) each(ctx context.Context, from, to uint64, do func(bus.Stored) error) error {
	if from > to {
		return nil
	}
	as := c.endpoint
	if c.span.Replay != nil {
		as = c.span.Replay.Selects(as)
	}
	return c.fanout.wanted(ctx, as, from, to, do)
}

// wanted reads the events of a part of the log that an endpoint wants, oldest first.
func (f *Fanout) wanted(ctx context.Context, e *endpoint.Endpoint, from, to uint64, do func(bus.Stored) error) error {
	return f.cfg.Bus.Read(ctx, filterSubjects(e), from, to, func(m bus.Stored) error {
		msg := newMessage(m.Subject, m.Header, m.Sequence, m.Time, m.Data)
		wanted, err := f.wants(ctx, e, msg)
		if err != nil || !wanted {
			return err
		}
		return do(m)
	})
}

func (c *catcher) all(ctx context.Context) error {
	err := c.each(ctx, c.span.From, c.span.To, func(m bus.Stored) error {
		if err := c.add(ctx, referenceTo(m)); err != nil {
			return err
		}
		return c.progress(ctx, func() {
			c.span.From = m.Sequence + 1
			c.queued()
		})
	})
	if err == nil {
		err = c.flush(ctx)
	}
	if err == nil {
		c.queued()
	}
	return err
}

// queued notes in a replay what has been put into the backlog. Whoever has the old one may be reading it.
func (c *catcher) queued() {
	if c.span.Replay == nil {
		return
	}
	r := *c.span.Replay
	r.Queued += uint64(c.count)
	c.span.Replay, c.count = &r, 0
}

// newestFirst goes through the span from its end, and puts what waited before behind it, the newest first too.
func (c *catcher) newestFirst(ctx context.Context) error {
	waited, asked, last, err := c.waiting(ctx) // what an earlier run has put there is among it
	if err != nil {
		return err
	}
	for c.span.To >= c.span.From {
		from := c.span.From
		if c.span.To-from >= backwardChunk {
			from = c.span.To - backwardChunk + 1
		}
		var chunk []reference
		err := c.each(ctx, from, c.span.To, func(m bus.Stored) error {
			chunk = append(chunk, referenceTo(m))
			return nil
		})
		if err != nil {
			return err
		}
		for _, r := range slices.Backward(chunk) {
			if err := c.add(ctx, r); err != nil {
				return err
			}
		}
		if err := c.progress(ctx, func() { c.span.To = from - 1 }); err != nil {
			return err
		}
		c.span.To = from - 1
	}
	slices.SortFunc(waited, func(a, b waitingOne) int { return cmp.Compare(b.sequence, a.sequence) })
	return c.replace(ctx, slices.Values(waited), asked, last)
}

// target is the subject that an event is about, within its workspace, and the last event of it.
type target struct{ workspace, subject, sequence uint64 }

func compareTargets(a, b target) int {
	return cmp.Or(cmp.Compare(a.workspace, b.workspace), cmp.Compare(a.subject, b.subject), cmp.Compare(b.sequence, a.sequence))
}

// lastOfEach keeps of each target the last event. It sorts when it has doubled: a map of a million takes four times as much.
type lastOfEach struct {
	list []target
	full int // when to sort next
}

func (l *lastOfEach) add(t target) {
	if len(l.list) >= max(l.full, 1<<14) {
		l.compact()
		l.full = 2 * len(l.list)
	}
	l.list = append(l.list, t)
}

func (l *lastOfEach) compact() {
	slices.SortFunc(l.list, compareTargets)
	l.list = slices.CompactFunc(l.list, func(a, b target) bool { return a.workspace == b.workspace && a.subject == b.subject })
}

// targetsAtOnce is about how many events the last of each target is looked for at once: there is one more run over the span for
// each as many, and what is remembered stays small.
const targetsAtOnce = 1 << 18

// latestPerTarget keeps of the span, and of what waited before, the last event of each target. Events about nothing are
// each one of a kind.
func (c *catcher) latestPerTarget(ctx context.Context) error {
	waited, asked, last, err := c.waiting(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(waited, func(a, b waitingOne) int { return cmp.Compare(a.sequence, b.sequence) })
	behind, _ := slices.BinarySearchFunc(waited, c.span.To+1, bySequence)
	waited, later := waited[:behind], waited[behind:] // those came after the endpoint was active again
	from := c.span.From
	if len(waited) > 0 {
		from = min(from, waited[0].sequence)
	}
	attempt := func(sequence uint64) int32 {
		if i, found := slices.BinarySearchFunc(waited, sequence, bySequence); found {
			return waited[i].attempt
		}
		return 0
	}
	seed := maphash.MakeSeed()
	var keep []uint64
	log, err := c.fanout.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	size := c.span.To + 1 - min(max(c.span.From, log.First), c.span.To+1)
	parts := (uint64(len(waited))+size)/targetsAtOnce + 1
	for part := range parts {
		var newest lastOfEach
		note := func(m bus.Stored) error {
			workspace, subject := eventTarget(m)
			switch t := (target{maphash.String(seed, workspace), maphash.String(seed, subject), m.Sequence}); {
			case subject != "" && t.subject%parts == part:
				newest.add(t)
			case subject == "" && part == 0:
				keep = append(keep, m.Sequence)
			}
			return c.progress(ctx, func() {})
		}
		err := c.each(ctx, from, c.span.From-1, func(m bus.Stored) error {
			if attempt(m.Sequence) == 0 {
				return nil // it was delivered
			}
			return note(m)
		})
		if err == nil {
			err = c.each(ctx, c.span.From, c.span.To, note)
		}
		if err != nil {
			return err
		}
		newest.compact()
		for _, t := range newest.list {
			keep = append(keep, t.sequence)
		}
	}
	slices.Sort(keep)
	return c.replace(ctx, func(yield func(waitingOne) bool) {
		for _, sequence := range keep {
			if !yield(waitingOne{sequence, max(1, attempt(sequence)), 0}) {
				return
			}
		}
		for _, w := range later {
			if !yield(w) {
				return
			}
		}
	}, asked, last)
}

func bySequence(w waitingOne, sequence uint64) int { return cmp.Compare(w.sequence, sequence) }

// skipTo drops what waits of events up to a sequence, and keeps the rest.
func (c *catcher) skipTo(ctx context.Context, sequence uint64) error {
	waited, asked, last, err := c.waiting(ctx)
	if err != nil {
		return err
	}
	waited = slices.DeleteFunc(waited, func(w waitingOne) bool { return w.sequence <= sequence })
	return c.replace(ctx, slices.Values(waited), asked, last)
}

// waitingOne is what is kept of a reference: there may be a million.
type waitingOne struct {
	sequence  uint64
	attempt   int32
	workspace int32 // see catcher.named
}

// numbered is the number that stands for a workspace here; 0 = not known.
func (c *catcher) numbered(workspace string) int32 {
	if workspace == "" {
		return 0
	}
	n, known := c.numbers[workspace]
	if !known {
		if c.numbers == nil {
			c.numbers = map[string]int32{}
		}
		c.workspaces = append(c.workspaces, workspace)
		n = int32(len(c.workspaces))
		c.numbers[workspace] = n
	}
	return n
}

func (c *catcher) named(number int32) string {
	if number == 0 {
		return ""
	}
	return c.workspaces[number-1]
}

// waiting is what waits for the endpoint, that which its owner asked for apart, and the last message of RELAY_RETRY among it.
func (c *catcher) waiting(ctx context.Context) (list []waitingOne, asked []reference, last uint64, err error) {
	last, err = c.fanout.cfg.Bus.ReadRetry(ctx, c.endpoint.ID, func(data []byte) error {
		refs, err := parseReferences(data)
		if err != nil {
			return nil // handled where it is due
		}
		for _, r := range refs {
			if r.Forced != "" {
				asked = append(asked, r)
			} else {
				list = append(list, waitingOne{r.Sequence, int32(r.Attempt), c.numbered(r.Workspace)})
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read what waits for %s: %w", c.endpoint.ID, err)
	}
	return list, asked, last, nil
}

// replace stores list in the backlog, and what was asked for behind it, then removes what waited up to a message of RELAY_RETRY.
// Stopped in between, some wait twice, none not at all.
func (c *catcher) replace(ctx context.Context, list iter.Seq[waitingOne], asked []reference, upTo uint64) error {
	for w := range list {
		c.put(&delivery{endpoint: c.endpoint.ID, workspace: c.named(w.workspace), sequence: w.sequence, attempt: int(w.attempt)})
		if err := c.flushFull(ctx); err != nil {
			return err
		}
	}
	for _, r := range asked { // each alone: with its event it may be as large as one
		if err := c.flush(ctx); err != nil {
			return err
		}
		c.put(r.delivery())
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	if upTo == 0 {
		return nil
	}
	return c.fanout.cfg.Bus.PurgeRetry(ctx, c.endpoint.ID, upTo+1)
}
