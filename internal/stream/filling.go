package stream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// filler has gaps looked for: on every connection, after surprises, and from time to time. It does not depend on the connection: one
// that breaks again and again would never let it finish. Its goroutine lives no longer than there is something to look for:
// thousands of streams have nothing missing, for hours.
type filler struct {
	mu      sync.Mutex
	running bool // the goroutine will ask for a reason once more
	stopped bool
	due     bool        // one of the timers has come to its end
	tick    *time.Timer // nil before the first look
	later   *time.Timer // after a surprise that came too soon after another; nil if none did
	last    time.Time   // when a surprise last had gaps looked for
	looks   sync.WaitGroup
}

// lookForGaps hears that there may be a reason to.
func (s *stream) lookForGaps() {
	f := &s.filler
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running || f.stopped {
		return
	}
	f.running = true
	f.looks.Go(func() { s.keepFilled(s.life) })
}

// keepFilled looks for gaps for as long as there is a reason.
func (s *stream) keepFilled(ctx context.Context) {
	for {
		onConnect, found := s.reason()
		if !found || ctx.Err() != nil {
			return
		}
		for s.fill(ctx, onConnect); s.gap.renewed && ctx.Err() == nil; s.fill(ctx, true) {
			s.gap.renewed = false
		}
	}
}

// reason takes one to look for gaps. Where there is none the goroutine that asks has to end.
func (s *stream) reason() (onConnect, found bool) {
	f := &s.filler
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-s.gap.connected:
		onConnect, found = true, true
	default:
		found, f.due = f.due, false
	}
	if !found {
		select {
		case <-s.gap.again:
			found = s.soonEnough()
		default:
		}
	}
	if found && f.tick == nil && !f.stopped {
		f.tick = s.awake(orDefault(s.cfg.GapCheckInterval, s.tellInterval()), true)
	}
	f.running = found
	return onConnect, found
}

// soonEnough tells whether a surprise may have gaps looked for now, and sees to it that they are later if not; it needs the lock.
func (s *stream) soonEnough() bool {
	f := &s.filler
	wait := surpriseEvery - time.Since(f.last)
	if wait <= 0 {
		f.last = time.Now()
		return true
	}
	if f.later == nil && !f.stopped {
		f.later = s.awake(wait, false)
	}
	return false
}

// awake has gaps looked for after a time, or each time that so much has passed; it needs the lock.
func (s *stream) awake(after time.Duration, again bool) (timer *time.Timer) {
	f := &s.filler
	timer = time.AfterFunc(after, func() {
		f.mu.Lock()
		f.due = true
		switch {
		case f.stopped:
		case again:
			timer.Reset(after)
		default:
			f.later, f.last = nil, time.Now()
		}
		f.mu.Unlock()
		s.lookForGaps()
	})
	return timer
}

// endFilling returns when nothing is looked for any more; the context of the stream has ended.
func (s *stream) endFilling(ctx context.Context) {
	f := &s.filler
	f.mu.Lock()
	f.stopped = true
	for _, timer := range []*time.Timer{f.tick, f.later} {
		if timer != nil {
			timer.Stop()
		}
	}
	f.mu.Unlock()
	f.looks.Wait()
	s.gap.span(s.cfg.Now().UTC()) // a clock that was set right since the last filling is told in time
	s.retract(context.WithoutCancel(ctx))
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

// filling is one run over a gap.
type filling struct {
	from, to     time.Time
	end          time.Time // up to when is asked; zero for what was given up before
	noted        time.Time // when the log last heard of it
	surprises    int
	again        bool          // of a window that was given up before
	leftToStream bool          // what is young was
	pause        time.Duration // how long what is given up then waits
	left         []window      // and what of it is given up again
	rest         []window      // and what of it was not asked for, since a newer gap came
	found        int
	fresh        atomic.Int64
	untold       []gapNews     // what Nex does not give, in the order of time
	fits         time.Duration // a window as large should hold a good page; zero = not known
	least        time.Duration // a window that Nex refuses is split down to this, if that is more than it would be; zero at first
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
