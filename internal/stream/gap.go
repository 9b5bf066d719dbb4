package stream

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

const (
	// tellEvery is how often at least the checkpoint is told, so that it moves on in the log and is not too old for it.
	tellEvery = time.Hour
	// surpriseEvery is how often at most surprises have gaps looked for: where Nex's clock is behind for good, each insight
	// that follows a filling is one.
	surpriseEvery = time.Minute
	// clockSetBack is by how much our clock must have been set back for it to matter.
	clockSetBack = time.Second
	// boundEvery is how often at most it is found out anew where the future begins for Nex.
	boundEvery = time.Minute
	// relearnEvery is how often where Nex's clock was found to be behind ours: it may have been set right.
	relearnEvery = 10 * time.Minute
	// noteEvery is how often a filling that takes long notes in the log how far it has come.
	noteEvery = 10 * time.Second
)

// gap is how far a workspace is complete.
type gap struct {
	overlap   time.Duration
	connected chan struct{} // has a value when there is a new connection
	again     chan struct{} // has a value when a surprise tells of a gap

	mu         sync.Mutex
	completeTo time.Time // everything before is in the log, as far as Nex can give it
	floor      time.Time // what is older was never asked for; zero unless this life is the first, and on its first connection
	filled     bool      // a filling has reached its end
	clock      time.Time // what our clock said when one last began, or this life did
	steady     time.Time // and when that was, which setting the clock does not change
	newest     time.Time // of Nex's times seen: its clock may be ahead of ours
	surprises  int
	bounded    bool          // Nex refuses what it takes for the future
	lead       time.Duration // then: up to how far ahead of our clock it may be asked, or behind it if negative
	learned    time.Time     // when that was found
	lastUp     time.Time     // when the stream was last known to be up; before a life's first connection as the log tells
	away       time.Duration // the longest that it had been down when it came up, until a surprise has made use of it
	givenUp    []givenUp     // in the order of time; changed by the one goroutine that fills
	left       time.Time     // what is older has left the log
	toldSeq    uint64        // where the log has the newest gap_filled; 0 if it has none
	connection int           // how many there were
	asking     int           // the one that was up when the last filling began, 0 if none was
	up, sound  bool          // the stream is up; and since a filling that has reached its end
	guessed    int           // the connection on which an insight without a time last moved the mark

	// Of that goroutine.
	told      []told    // the oldest report first
	toldAt    time.Time // when gap_filled was last published
	toldOf    int       // how many surprises there were then
	owed      bool      // a filling on connect is not told yet, since a surprise came meanwhile
	renewed   bool      // there was a new connection while a filling waited for Nex
	lastError string    // why a filling ended early, as the log was told
	lastOdd   string    // the last failure of a request that was no answer of Nex's, as it was logged
	silent    bool      // Nex does not answer over REST, which was said
}

func newGap(overlap time.Duration) gap {
	return gap{overlap: overlap, connected: make(chan struct{}, 1), again: make(chan struct{}, 1)}
}

// notice learns a time of Nex. One far ahead of our clock is no time of Nex's clock but rubbish, or somebody's plan.
func (g *gap) notice(emitted, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if emitted.After(g.newest) && !emitted.After(now.Add(clockSlack)) {
		g.newest = emitted
	}
}

// cameUp and wentDown hear of the connections.
func (g *gap) cameUp(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.filled {
		g.floor = time.Time{} // the replay on the first connection could bring what nobody asked for
	}
	if g.guessed == g.connection {
		g.away = 0
	}
	g.connection++
	g.up, g.sound = true, false
	g.away = max(g.away, now.Sub(g.lastUp)) // a connection that broke before its replay has not used it
}

func (g *gap) wentDown(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastUp, g.up, g.sound = now, false, false
}

// surprise hears of an insight that came over the stream and was new; recalled says that it came in a replay. One that is
// older than what was thought complete says that it was not, as when Nex's clock was set back: the gap begins with it,
// less the overlap, and less the time for which the stream had been away, since it is the oldest that came but not the
// oldest that was missed.
func (g *gap) surprise(emitted time.Time, recalled bool) (moved bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if emitted.IsZero() || recalled && emitted.Before(g.floor) || !emitted.Before(g.completeTo.Add(-g.overlap)) {
		return false
	}
	if !recalled && emitted.Before(g.floor) {
		g.floor = time.Time{} // by Nex's clock it is earlier than when we began by ours
	}
	if g.completeTo = emitted.Add(-g.away); g.completeTo.Before(time.Unix(0, 0)) {
		g.completeTo = time.Unix(0, 0) // nothing is older, and JSON cannot say the year 0
	}
	g.away, g.sound = 0, false
	g.surprises++
	signal(g.again)
	return true
}

// guess hears of an insight that came in a replay, was new, and has no time. It says that some were missed, and not when by
// Nex's clock, which may be behind ours, or was set back meanwhile: up to an hour is made up for, once on each connection. The
// mark is not moved to before oldest, nor, for a guess, to what has left the log.
func (g *gap) guess(oldest time.Time) (moved bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.completeTo.Add(-g.away - clockSlack)
	for _, bound := range []time.Time{oldest, g.left} {
		if to.Before(bound) {
			to = bound
		}
	}
	if g.guessed == g.connection || !g.floor.IsZero() || !to.Before(g.completeTo) {
		return false
	}
	g.completeTo, g.sound, g.guessed = to, false, g.connection
	g.surprises++
	signal(g.again)
	return true
}

// surprised is what is to be told before a new insight is written that moves the checkpoint back, or has the log lose it.
func (s *stream) surprised(emitted time.Time, recalled bool) *event.Event {
	moved := s.gap.surprise(emitted, recalled)
	if !moved && recalled && emitted.IsZero() {
		var oldest time.Time
		if keep := s.cfg.MaxAge; keep > 0 {
			oldest = s.cfg.Now().Add(keep/16 - keep) // until it is asked for, it is not to be too old to be fetched
		}
		moved = s.gap.guess(oldest)
	}
	if moved {
		at, _ := s.gap.stands()
		return s.filledNews(gapNews{From: at, To: at, Open: s.gap.open()})
	}
	if recalled {
		return nil
	}
	return s.fading(emitted)
}

func (s *stream) filledNews(news gapNews) *event.Event {
	e, err := event.News(s.workspace.Token, event.GapFilled, "", news, s.cfg.Now())
	if err != nil { // times always encode
		s.log.Error("news could not be told", "type", event.GapFilled, "error", err)
	}
	return e
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// complete moves the mark on and tells whether it did: not if a surprise has moved it back since the span was asked for.
func (g *gap) complete(to time.Time, surprises int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.surprises != surprises {
		return false
	}
	g.completeTo = to
	return true
}

// reached is complete at the end of a filling.
func (g *gap) reached(to time.Time, surprises int) bool {
	if !g.complete(to, surprises) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.filled = true
	if !g.bounded {
		g.lead = 0 // Nex gave what it would have taken for the future
	}
	g.sound = g.up && g.asking == g.connection
	return true
}

// stands is the mark, and how many surprises there were.
func (g *gap) stands() (time.Time, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.completeTo, g.surprises
}

// span is what is to be asked for: from, and to, which lies ahead of Nex's clock unless Nex refuses that; what is complete
// already, which is later than from by the overlap; and how many surprises there were.
func (g *gap) span(now time.Time) (from, to, complete time.Time, surprises int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	back := g.clock.Add(time.Since(g.steady)).Sub(now.Round(0))
	switch {
	case back > clockSetBack:
		g.moveBack(back) // our clock was ahead when we thought so
		g.newest, g.bounded, g.lead, g.learned = time.Time{}, false, 0, time.Time{}
	case back < -clockSetBack:
		g.learned = time.Time{} // what is the future for Nex is another
	case g.bounded && g.behind(now):
		g.bounded = false
	}
	g.clock, g.steady = now.Round(0), time.Now()
	from, to = g.completeTo.Add(-g.overlap), now
	if from.Before(g.left) && !g.left.After(g.completeTo) {
		from = g.left
	}
	if from.Before(g.floor) {
		from = g.floor
	}
	if g.asking = 0; g.up {
		g.asking = g.connection
	}
	if g.newest.After(now) {
		to = g.newest
	}
	to = to.Add(g.overlap)
	if g.bounded {
		if to = now.Add(g.lead); g.newest.After(to) {
			to = g.newest
		}
	}
	return from, to, g.completeTo, g.surprises
}

// bound notes how far ahead of our clock Nex may be asked, or behind it.
func (g *gap) bound(lead time.Duration, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if by := min(g.lead, 0) - lead; by > 2*clockSetBack { // what was complete by our clock was so earlier by Nex's
		g.moveBack(by)
	}
	g.bounded, g.lead, g.learned = true, lead, time.Now()
	if g.newest.After(at) {
		g.newest = at // somebody's plan
	}
}

// behind tells whether Nex was found to be behind our clock, and may not be any more: it gave a later time, or that was long
// ago. It needs the lock.
func (g *gap) behind(now time.Time) bool {
	if g.lead > -clockSetBack {
		return false
	}
	ago := time.Since(g.learned)
	return ago >= relearnEvery || ago >= boundEvery && g.newest.After(now.Add(g.lead+2*clockSetBack))
}

// moveBack says that our clock is ahead, or was, of what the mark is to be told in. It needs the lock.
func (g *gap) moveBack(by time.Duration) {
	g.completeTo = g.completeTo.Add(-by)
	if !g.floor.IsZero() {
		g.floor = g.floor.Add(-by)
	}
	g.surprises++
}

// boundKnown tells whether that was found out just now.
func (g *gap) boundKnown() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.learned.IsZero() && time.Since(g.learned) < boundEvery
}

// moments are a time that Nex may take for now, and one that it takes for past also where our clock is ahead.
func (g *gap) moments(now time.Time) (present, past time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	present, past = now, now.Add(-clockSlack)
	if g.bounded && g.lead < 0 {
		present = now.Add(g.lead)
	}
	if !g.newest.IsZero() && g.newest.Before(past) {
		past = g.newest
	}
	return present, past
}

// begin sets where a life begins: at the checkpoint, or, if there is none, at the mark of the first start. lastUp is when
// the log was last written to.
func (g *gap) begin(checkpoint time.Time, mark begun, lastUp, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clock, g.steady = now.Round(0), time.Now()
	if g.lastUp = lastUp; lastUp.Before(mark.At) {
		g.lastUp = mark.At
	}
	g.completeTo, g.floor = checkpoint, time.Time{}
	if checkpoint.IsZero() {
		g.completeTo, g.floor = mark.From, mark.From
	}
}

// gapNews is the data of gap_filled and gap_not_fillable. The newest gap_filled is the checkpoint.
type gapNews struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Found     int       `json:"found"`
	Published int       `json:"published"`
	Reason    string    `json:"reason,omitempty"`
	// CompleteTo is the checkpoint where it is not To.
	CompleteTo time.Time `json:"complete_to,omitzero"`
	// Open is what Nex did not give before it, and may still give.
	Open  []openSpan `json:"open,omitempty"`
	class string     // of the reason: what is one and the same
}

// checkpoint is what the log tells of how far it is complete; zero if it tells nothing.
type checkpoint struct {
	to     time.Time // everything before is there, as far as Nex could give it
	stored time.Time // when the log took the event that says so
	seq    uint64    // and where; 0 if it holds it no more
	open   []openSpan
}

// checkpoint reads it. A clock that was ahead when it was told is not believed: what is complete cannot lie beyond when NATS
// stored it, and where NATS stored it at a time that has not come yet, its clock was wrong too.
func (s *stream) checkpoint(ctx context.Context) (c checkpoint, err error) {
	last, err := s.lastTold(ctx)
	if errors.Is(err, bus.ErrNotInLog) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var e struct {
		Data gapNews `json:"data"`
	}
	if err := json.Unmarshal(last.Data, &e); err != nil {
		s.log.Warn("the last gap_filled cannot be read, as if there were none", "error", err)
		return c, nil
	}
	to, now := e.Data.To, s.cfg.Now()
	if !e.Data.CompleteTo.IsZero() {
		to = e.Data.CompleteTo
	}
	if last.Time.Before(to) {
		to = last.Time
	}
	if to = setRight(to, last.Time, now); now.Before(to) {
		to = now
	}
	return checkpoint{to: to.UTC(), stored: last.Time, seq: last.Sequence, open: e.Data.Open}, nil
}

// setRight corrects a time that a clock made which stored shows to have been ahead. That it is ahead of now by some time
// says that it was wrong by at least as much, and by as much more as has passed since: that is taken to be as much again,
// and an hour.
func setRight(at, stored, now time.Time) time.Time {
	if ahead := stored.Sub(now); ahead > clockSetBack {
		return at.Add(-2*ahead - clockSlack)
	}
	return at
}

// trust bounds a checkpoint that NATS stored at a time which has not come yet by the newest insight in the log that has a time:
// what was missed since then was emitted later, by however much the clocks were wrong.
func (c *checkpoint) trust(recent []bus.Known, now time.Time) {
	if c.stored.Sub(now) <= clockSetBack {
		return
	}
	for _, k := range slices.Backward(recent) {
		if !k.Emitted.IsZero() {
			if k.Emitted.Before(c.to) {
				c.to = k.Emitted
			}
			return
		}
	}
}

// keepFilled looks for gaps on every connection and from time to time, until ctx ends. It does not depend on the
// connection: one that breaks again and again would never let it finish.
func (s *stream) keepFilled(ctx context.Context) {
	var tick, later <-chan time.Time
	var last time.Time // when a surprise last had gaps looked for
	for {
		onConnect := false
		select {
		case <-s.gap.connected:
			onConnect = true
		case <-tick:
		case <-s.gap.again:
			if wait := surpriseEvery - time.Since(last); wait > 0 {
				if later == nil {
					later = time.After(wait)
				}
				continue
			}
			last = time.Now()
		case <-later:
			later, last = nil, time.Now()
		case <-ctx.Done():
			s.gap.span(s.cfg.Now().UTC()) // a clock that was set right since the last filling is told in time
			s.retract(context.WithoutCancel(ctx))
			return
		}
		if tick == nil {
			ticker := time.NewTicker(orDefault(s.cfg.GapCheckInterval, s.tellInterval()))
			defer ticker.Stop()
			tick = ticker.C
		}
		for s.fill(ctx, onConnect); s.gap.renewed && ctx.Err() == nil; s.fill(ctx, true) {
			s.gap.renewed = false
		}
	}
}

// fill fetches everything from the checkpoint to now.
func (s *stream) fill(ctx context.Context, onConnect bool) {
	s.gap.owed = s.gap.owed || onConnect
	now := s.cfg.Now().UTC()
	fades := s.lookBack(ctx)
	from, to, complete, surprises := s.gap.span(now)
	s.retract(ctx)
	if !from.Before(to) {
		return
	}
	f := filling{from: from, to: now, end: to, noted: now, surprises: surprises}
	if to.Before(now) {
		f.to = to
	}
	if oldest := now.Add(-s.cfg.MaxAge); s.cfg.MaxAge > 0 && from.Before(oldest) {
		f.from = oldest
		if complete.Before(oldest) {
			f.lose(gapNews{From: complete, To: oldest, Reason: "older than the log keeps events (stream.max_age)", class: "max_age"})
		}
	}
	s.gap.expire(now, s.cfg.MaxAge)
	err := s.fetch(ctx, &f, s.gap.without(f.from, to))
	if untold := s.tellLost(ctx, &f); err == nil { // also of what was given up before it failed
		err = untold
	}
	if err == nil {
		err = s.publisher.flush(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errFuture):
		s.fill(ctx, false)
	case err != nil:
		s.unfilled(ctx, &f, err)
	default:
		s.gap.lastError, s.gap.lastOdd = "", ""
		news := f.news(f.to)
		if news.Published > 0 {
			s.log.Info("gap filled", "from", news.From, "to", news.To, "published", news.Published)
		}
		if !s.gap.reached(f.to, surprises) {
			s.retract(ctx) // and it is filled again
			return
		}
		s.showComplete()
		if s.gap.owed || news.Published > 0 || fades || s.tellDue() {
			s.gap.owed = !s.tell(ctx, news)
		}
		if err := s.tryAgain(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("what was given up could not be asked for again, trying on", "error", err)
		}
		s.showComplete()
	}
}

// showComplete shows what nothing is missing before.
func (s *stream) showComplete() {
	to, _ := s.gap.stands()
	if open := s.gap.open(); len(open) > 0 && open[0].From.Before(to) {
		to = open[0].From
	}
	s.count.update(func(st *Status) { st.CompleteTo = &to })
}

// tellDue tells whether the checkpoint was last told so long ago that it should be told again. Otherwise the log would
// lose it by its age while the relay runs.
func (s *stream) tellDue() bool {
	ago := s.cfg.Now().Sub(s.gap.toldAt)
	return ago >= s.tellInterval() || ago < -clockSetBack // by a clock that was ahead
}

func (s *stream) tellInterval() time.Duration {
	if s.cfg.MaxAge > 0 {
		return min(tellEvery, s.cfg.MaxAge/4)
	}
	return tellEvery
}

// remind tells the checkpoint as it stands, if it is due: a filling waits for Nex.
func (s *stream) remind(ctx context.Context) {
	s.retract(ctx)
	if at, _ := s.gap.stands(); s.tellDue() {
		s.tell(ctx, gapNews{From: at, To: at})
	}
}

// retract tells the checkpoint as it stands, if a surprise has moved it back since it was told: another life would go on
// where the log says.
func (s *stream) retract(ctx context.Context) {
	at, surprises := s.gap.stands()
	if surprises == s.gap.toldOf {
		return
	}
	s.showComplete()
	if s.tell(ctx, gapNews{From: at, To: at}) {
		s.gap.toldOf = surprises
	}
}

// unfilled tells once that Nex refuses what is missing. It is tried again with the next look for gaps.
func (s *stream) unfilled(ctx context.Context, f *filling, err error) {
	if class(err) == s.gap.lastError {
		return
	}
	news := f.news(f.to)
	news.Reason = err.Error()
	if !news.From.Before(news.To) {
		return
	}
	if s.notFillable(ctx, news) == nil {
		s.gap.lastError = class(err)
	}
}

// filling is one run over a gap.
type filling struct {
	from, to  time.Time
	end       time.Time // up to when is asked; zero for what was given up before
	noted     time.Time // when the log last heard of it
	surprises int
	again     bool          // of a window that was given up before
	pause     time.Duration // how long what is given up then waits
	left      []window      // and what of it is given up again
	rest      []window      // and what of it was not asked for, since a newer gap came
	found     int
	fresh     atomic.Int64
	untold    []gapNews     // what Nex does not give, in the order of time
	fits      time.Duration // a window as large should hold a good page; zero = not known
	least     time.Duration // a window that Nex refuses is split down to this, if that is more than it would be; zero at first
}

// lose notes what cannot be filled, together with what is known to be lost before it where both are one.
func (f *filling) lose(news gapNews) {
	if n := len(f.untold); n > 0 && f.untold[n-1].class == news.class && !news.From.After(f.untold[n-1].To) {
		f.untold[n-1].To = news.To
		f.untold[n-1].Found += news.Found
		return
	}
	f.untold = append(f.untold, news)
}

func (f *filling) news(to time.Time) gapNews {
	return gapNews{From: f.from, To: to, Found: f.found, Published: int(f.fresh.Load())}
}

// tell writes the checkpoint into the log, and answers false if there was no room.
func (s *stream) tell(ctx context.Context, news gapNews) bool {
	now := s.cfg.Now()
	if at, _ := s.gap.stands(); !at.Equal(news.To) {
		news.CompleteTo = at
	}
	news.Open = s.gap.open()
	if !s.news(ctx, event.GapFilled, news) {
		return false
	}
	s.gap.toldAt = now
	return true
}

// notFillable tells that a span of time cannot be filled, and returns when the log has it, however long that takes: a
// checkpoint must not pass over what nobody was told. Its only error is ctx's.
func (s *stream) notFillable(ctx context.Context, news gapNews) error {
	s.log.Warn("gap cannot be filled", "from", news.From, "to", news.To, "reason", news.Reason)
	e, err := event.News(s.workspace.Token, event.GapNotFillable, "", news, s.cfg.Now())
	if err != nil { // times, numbers and a text always encode
		s.log.Error("news could not be told", "type", event.GapNotFillable, "error", err)
		return nil
	}
	if err := s.publisher.submit(ctx, item{event: e}); err != nil {
		return err
	}
	return s.publisher.flush(ctx)
}
