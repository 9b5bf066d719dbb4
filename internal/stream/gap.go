package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

const (
	// pageLimit is the most that Nex gives for one window; a window that holds as many may hold more.
	pageLimit = 100
	// minWindow is where splitting ends: Nex's times are whole seconds.
	minWindow = time.Second
	// requestsPerSecond and requestBurst bound what gap filling asks of Nex for one key.
	requestsPerSecond = 2
	requestBurst      = 4
	// tellEvery is how often at least the checkpoint is told, so that it moves on in the log and is not too old for it.
	tellEvery = time.Hour
	// noteEvery is how often a filling that takes long notes in the log how far it has come.
	noteEvery = 30 * time.Second
)

// gap is how far a workspace is complete.
type gap struct {
	overlap   time.Duration
	connected chan struct{} // has a value when there is a new connection
	again     chan struct{} // has a value when a gap was noticed before its time

	mu         sync.Mutex
	completeTo time.Time // everything before is in the log, as far as Nex can give it
	floor      time.Time // what is older was never asked for; zero unless this is the first filling ever
	newest     time.Time // of Nex's times seen: its clock may be ahead of ours
	surprises  int

	// Of the one goroutine that fills.
	toldAt    time.Time // when gap_filled was last published
	lastError string
}

func newGap(overlap time.Duration) gap {
	return gap{overlap: overlap, connected: make(chan struct{}, 1), again: make(chan struct{}, 1)}
}

// notice learns a time of Nex.
func (g *gap) notice(emitted time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if emitted.After(g.newest) {
		g.newest = emitted
	}
}

// surprise hears of an insight that came over the stream and was new. One that is older than what was thought complete
// says that it was not, as when Nex's clock was set back: the gap begins with it, less the overlap.
func (g *gap) surprise(emitted time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if emitted.IsZero() || emitted.Before(g.floor) || !emitted.Before(g.completeTo.Add(-g.overlap)) {
		return
	}
	g.completeTo = emitted
	g.surprises++
	signal(g.again)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// complete moves the mark on, unless a surprise has moved it back since the span was asked for.
func (g *gap) complete(to time.Time, surprises int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.surprises == surprises {
		g.completeTo = to
	}
}

// span is what is to be asked for: from, and to, which lies ahead of Nex's clock; what is complete already, which is later
// than from by the overlap; and how many surprises there were.
func (g *gap) span(now time.Time) (from, to, complete time.Time, surprises int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from, to = g.completeTo.Add(-g.overlap), now
	if from.Before(g.floor) {
		from = g.floor
	}
	if g.newest.After(now) {
		to = g.newest
	}
	return from, to.Add(g.overlap), g.completeTo, g.surprises
}

// begin sets where a life begins: at the checkpoint, or, if there is none, at the mark of the first start.
func (g *gap) begin(checkpoint time.Time, mark begun) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.completeTo, g.floor = checkpoint, time.Time{}
	if checkpoint.IsZero() {
		g.completeTo, g.floor = mark.From, mark.From
	}
}

func (g *gap) completed() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.completeTo
}

// gapNews is the data of gap_filled and gap_not_fillable. The newest gap_filled is the checkpoint.
type gapNews struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Found     int       `json:"found"`
	Published int       `json:"published"`
	Reason    string    `json:"reason,omitempty"`
}

// checkpoint is the time before which the log is complete, zero if it holds none.
func (s *stream) checkpoint(ctx context.Context) (time.Time, error) {
	last, err := s.cfg.Bus.Last(ctx, event.Subject(s.workspace.Token, event.GapFilled))
	if errors.Is(err, bus.ErrNotInLog) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var e struct {
		Data gapNews `json:"data"`
	}
	if err := json.Unmarshal(last.Data, &e); err != nil {
		s.log.Warn("the last gap_filled cannot be read, as if there were none", "error", err)
		return time.Time{}, nil
	}
	return e.Data.To, nil
}

// keepFilled looks for gaps on every connection and from time to time, until ctx ends. It does not depend on the
// connection: one that breaks again and again would never let it finish.
func (s *stream) keepFilled(ctx context.Context) {
	var tick <-chan time.Time
	for {
		onConnect := false
		select {
		case <-s.gap.connected:
			onConnect = true
		case <-tick:
		case <-s.gap.again:
		case <-ctx.Done():
			return
		}
		if tick == nil && s.cfg.GapCheckInterval > 0 {
			ticker := time.NewTicker(s.cfg.GapCheckInterval)
			defer ticker.Stop()
			tick = ticker.C
		}
		s.fill(ctx, onConnect)
	}
}

// fill fetches everything from the checkpoint to now.
func (s *stream) fill(ctx context.Context, onConnect bool) {
	now := s.cfg.Now().UTC()
	from, to, complete, surprises := s.gap.span(now)
	if oldest := now.Add(-s.cfg.MaxAge); s.cfg.MaxAge > 0 && from.Before(oldest) {
		if complete.Before(oldest) {
			s.notFillable(ctx, gapNews{From: complete, To: oldest, Reason: "older than the log keeps events (stream.max_age)"})
		}
		from = oldest
	}
	f := filling{from: from, to: now, noted: now, surprises: surprises}
	err := s.fetch(ctx, &f, to)
	if err == nil {
		err = s.publisher.flush(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.unfilled(ctx, &f, err)
	default:
		s.gap.lastError = ""
		news := f.news(now)
		if news.Published > 0 {
			s.log.Info("gap filled", "from", news.From, "to", news.To, "published", news.Published)
		}
		s.gap.complete(now, surprises)
		s.count.update(func(st *Status) { st.CompleteTo = &now })
		if onConnect || news.Published > 0 || s.tellDue() {
			s.tell(ctx, news)
		}
	}
}

// tellDue tells whether the checkpoint was last told so long ago that it should be told again. Otherwise the log would
// lose it by its age while the relay runs.
func (s *stream) tellDue() bool {
	every := tellEvery
	if s.cfg.MaxAge > 0 {
		every = min(every, s.cfg.MaxAge/4)
	}
	return s.cfg.Now().Sub(s.gap.toldAt) >= every
}

// remind tells the checkpoint as it stands, if it is due: a filling waits for Nex.
func (s *stream) remind(ctx context.Context) {
	if at := s.gap.completed(); s.tellDue() {
		s.tell(ctx, gapNews{From: at, To: at})
	}
}

// unfilled tells once that Nex refuses what is missing. It is tried again with the next look for gaps.
func (s *stream) unfilled(ctx context.Context, f *filling, err error) {
	if err.Error() == s.gap.lastError {
		return
	}
	s.gap.lastError = err.Error()
	s.log.Warn("gap cannot be filled, trying again later", "from", f.from, "to", f.to, "error", err)
	news := f.news(f.to)
	news.Reason = err.Error()
	s.notFillable(ctx, news)
}

// filling is one run over a gap.
type filling struct {
	from, to  time.Time
	noted     time.Time // when the log last heard of it
	surprises int
	found     int
	fresh     atomic.Int64
}

func (f *filling) news(to time.Time) gapNews {
	return gapNews{From: f.from, To: to, Found: f.found, Published: int(f.fresh.Load())}
}

// tell writes the checkpoint into the log.
func (s *stream) tell(ctx context.Context, news gapNews) {
	s.gap.toldAt = s.cfg.Now()
	s.news(ctx, event.GapFilled, news)
}

func (s *stream) notFillable(ctx context.Context, news gapNews) {
	s.news(ctx, event.GapNotFillable, news)
}

// window is a span of time, from inclusive.
type window struct{ from, to time.Time }

// fetch takes all insights from f.from up to a time, oldest window first. A window that holds more than Nex gives at once
// is split. The checkpoint follows, so that another try, or another process, goes on there.
func (s *stream) fetch(ctx context.Context, f *filling, upTo time.Time) error {
	todo := []window{{f.from, upTo}}
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		payload, err := s.page(ctx, w)
		if delay, again := s.retryPage(err, wait); again {
			s.remind(ctx)
			select {
			case <-time.After(delay):
				continue
			case <-s.gap.connected: // Nex is back; what this connection asks for begins after this
				signal(s.gap.again)
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		wait.Reset()
		full := len(payload.Insights)+len(payload.Malformed) >= pageLimit
		if full && w.to.Sub(w.from) > minWindow {
			at := splitAt(w, payload.Insights)
			todo = append(todo[:len(todo)-1], window{at, w.to}, window{w.from, at})
			continue
		}
		todo = todo[:len(todo)-1]
		if err := s.takePage(payload, f); err != nil {
			return err
		}
		if full {
			s.notFillable(ctx, gapNews{From: w.from, To: w.to, Found: len(payload.Insights),
				Reason: fmt.Sprintf("Nex gives at most %d insights for a window, and this one cannot be split any more", pageLimit)})
		}
		if err := s.advance(ctx, f, w.to); err != nil {
			return err
		}
	}
	return nil
}

// splitAt chooses where to split a window of which a full page is known, so that most of what the page holds fits into one
// part: the later one where Nex gave the newest, the earlier one where it gave the oldest.
func splitAt(w window, page []nex.Insight) time.Time {
	times := make([]time.Time, 0, len(page))
	for _, in := range page {
		if !in.Time.Before(w.from) && in.Time.Before(w.to) {
			times = append(times, in.Time)
		}
	}
	if len(times) > 0 {
		slices.SortFunc(times, time.Time.Compare)
		at := times[len(times)*9/10]
		if first, last := times[0], times[len(times)-1]; first.Sub(w.from) >= w.to.Sub(last) {
			at = times[len(times)/10]
		}
		at = at.Truncate(time.Second)
		if at.Sub(w.from) >= minWindow && w.to.Sub(at) >= minWindow {
			return at
		}
	}
	return w.from.Add(w.to.Sub(w.from) / 2)
}

// advance notes how far a filling has come, and from time to time in the log.
func (s *stream) advance(ctx context.Context, f *filling, to time.Time) error {
	if !to.Before(f.to) {
		return nil
	}
	s.gap.complete(to, f.surprises) // what was handed over is published, whatever becomes of the rest
	if s.cfg.Now().Sub(f.noted) < noteEvery {
		return nil
	}
	if err := s.publisher.flush(ctx); err != nil {
		return err
	}
	f.noted = s.cfg.Now()
	s.tell(ctx, f.news(to))
	return nil
}

// page makes one request. Those of one key are limited in rate, those of all in number.
func (s *stream) page(ctx context.Context, w window) (nex.Payload, error) {
	if err := s.limiter.Wait(ctx); err != nil {
		return nex.Payload{}, err
	}
	select {
	case s.shared.fetches <- struct{}{}:
	case <-ctx.Done():
		return nex.Payload{}, ctx.Err()
	}
	defer func() { <-s.shared.fetches }()
	// In a goroutine of its own, whose stack goes with it: what decoding needs would stay with each stream.
	var payload nex.Payload
	var err error
	var one sync.WaitGroup
	one.Go(func() {
		payload, err = s.cfg.Client.Insights(ctx, s.workspace.Key, nex.Query{From: w.from, To: w.to, Limit: pageLimit})
	})
	one.Wait()
	return payload, err
}

// retryPage tells whether a request that failed is to be made again, and when.
func (s *stream) retryPage(err error, wait backoff.BackOff) (time.Duration, bool) {
	var answer *nex.Error
	switch {
	case err == nil:
		return 0, false
	case !errors.As(err, &answer):
		return wait.NextBackOff(), true // the network, or rubbish in place of an answer
	case answer.Temporary() && answer.HasRetryAfter:
		return max(min(answer.RetryAfter, s.cfg.RetryAfterMax), 100*time.Millisecond), true
	case answer.Temporary():
		return wait.NextBackOff(), true
	}
	return 0, false
}

// takePage hands over a page, oldest first.
func (s *stream) takePage(payload nex.Payload, f *filling) error {
	slices.SortStableFunc(payload.Insights, func(a, b nex.Insight) int { return a.Time.Compare(b.Time) })
	f.found += len(payload.Insights)
	return s.take("rest", payload, true, &f.fresh)
}
