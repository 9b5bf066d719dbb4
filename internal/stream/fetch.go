package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

const (
	// pageLimit is the most that Nex gives for one window; a window that holds as many may hold more.
	pageLimit = 100
	// liveFirst is how long an insight is left to the stream, which gives more of it than REST may: the first that reaches the
	// log stays.
	liveFirst = 2 * time.Second
	// goodPage is how many insights a window should hold that is a part of one that held too many.
	goodPage = 70
	// leastRefused is down to what a window is split that Nex refuses, if it is not for its size, and mostRefused how far up
	// that goes where it refuses one after the other.
	leastRefused, mostRefused = time.Second, time.Hour
)

// fetch takes all insights of some windows, the oldest and last of them first. A window that holds more than Nex gives at once
// is split, and so is one that Nex does not give while it gives others. The checkpoint follows, so that another try, or
// another process, goes on there.
func (s *stream) fetch(ctx context.Context, f *filling, todo []window) error {
	for asked := false; len(todo) > 0; asked = true {
		if f.again && asked && s.gap.newer() {
			f.rest = todo
			break
		}
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if w.crowded && f.fits > 0 && w.size() > 2*f.fits {
			earlier, later := w.splitAt(w.from.Add(f.fits), windowOverlap, windowTries)
			later.crowded = true
			todo = append(todo, later, earlier)
			continue
		}
		payload, release, refused, err := s.ask(ctx, w)
		if err != nil {
			return err
		}
		if refused != nil {
			if future, err := s.future(ctx, w, f, refused); err != nil {
				return err
			} else if future {
				return errFuture
			}
			if whole, err := s.giveUp(ctx, w, f, refused); err != nil {
				return err
			} else if whole {
				s.lose(w, f, refused)
				continue
			}
			earlier, later := w.splitAt(w.middle(), minWindow, partTries) // what is refused should be in one of them
			todo = append(todo, later, earlier)
			continue
		}
		f.least = 0
		full := len(payload.Insights)+len(payload.Malformed) >= pageLimit
		if full && w.splittable(payload.Insights) {
			release()
			overlap := windowOverlap
			if w.belongs(payload.Insights) {
				overlap = minWindow // what is in both parts is asked for twice
			}
			earlier, later := w.splitAt(splitPoint(w, payload.Insights), overlap, windowTries)
			later.crowded = true
			f.fits = min(f.fits, w.size()/2)
			todo = append(todo, later, earlier)
			continue
		}
		if young, err := s.young(ctx, w, payload, f); err != nil {
			release()
			return err
		} else if young {
			release()
			if err := s.leaveToStream(ctx, f); err != nil {
				return err
			}
			todo = append(todo, w)
			continue
		}
		held := len(payload.Insights)
		f.learn(w, held)
		err = s.takePage(payload, f)
		release()
		if err != nil {
			return err
		}
		if full {
			f.lose(gapNews{From: w.from, To: w.to, Found: held, class: "full",
				Reason: fmt.Sprintf("Nex gives at most %d insights for a window, and this one cannot be split any more and may hold more", pageLimit)})
		}
		if err := s.advance(ctx, f, w.to); err != nil {
			return err
		}
	}
	return s.tellLost(ctx, f)
}

// young tells whether a page holds what the log does not, and the stream, which is up, may still bring: it is new by our clock, or,
// should Nex's be behind, the newest that there is.
func (s *stream) young(ctx context.Context, w window, payload nex.Payload, f *filling) (bool, error) {
	if f.leftToStream || w.to.Before(f.to) || !s.gap.isUp() {
		return false, nil
	}
	now := s.cfg.Now()
	var latest time.Time
	for _, in := range payload.Insights {
		if in.Time.After(latest) {
			latest = in.Time
		}
	}
	switch {
	case latest.IsZero():
		return false, nil
	case latest.After(now):
		latest = now
	}
	var list []*event.Event
	for _, in := range payload.Insights {
		if in.Time.After(latest.Add(-s.cfg.liveFirst)) {
			list = append(list, Normalize(s.workspace.Token, in, now))
		}
	}
	if len(list) == 0 {
		return false, nil
	}
	return s.publisher.lacks(ctx, list)
}

// leaveToStream gives the stream time to bring what is young, once in a filling: under a steady flow something always is.
func (s *stream) leaveToStream(ctx context.Context, f *filling) error {
	f.leftToStream = true
	s.log.Debug("what is young is left to the stream for now", "for", s.cfg.liveFirst)
	select {
	case <-time.After(s.cfg.liveFirst):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errFuture ends a filling whose end Nex takes for the future; the next asks for less.
var errFuture = errors.New("not to be asked for the future")

// future finds out whether Nex refuses a window because it takes its end for the future, and then up to when it may be
// asked: our clock may be ahead of its own.
func (s *stream) future(ctx context.Context, w window, f *filling, refused error) (bool, error) {
	if !w.to.Equal(f.end) || !forGood(refused) || s.gap.boundKnown() {
		return false, nil
	}
	var lead time.Duration
	gives := func(at time.Time) (bool, error) {
		_, release, refused, err := s.ask(ctx, window{from: at.Add(-time.Second), to: at, tries: partTries})
		if err != nil || refused != nil {
			return false, err
		}
		release()
		lead = at.Sub(s.cfg.Now())
		return true, nil
	}
	if given, err := gives(w.to); given || err != nil {
		return false, err
	}
	_, good := s.gap.moments(s.cfg.Now())
	if given, err := gives(good); !given {
		return false, err
	}
	for bad := w.to; bad.Sub(good) > time.Second; {
		middle := good.Add(bad.Sub(good) / 2)
		given, err := gives(middle)
		switch {
		case err != nil:
			return false, err
		case given:
			good = middle
		default:
			bad = middle
		}
	}
	s.log.Info("Nex refuses to be asked for the future", "asked_up_to", lead.Round(time.Second), "error", refused)
	s.gap.bound(lead, good)
	return true, nil
}

// forGood tells whether Nex answers the same request the same way as long as nothing changes.
func forGood(err error) bool {
	var answer *nex.Error
	return errors.As(err, &answer) && !answer.Temporary()
}

// lose gives a window up, as far as its time is over: the next filling asks for the rest.
func (s *stream) lose(w window, f *filling, refused error) {
	if w.to.After(f.to) {
		w.to = f.to
	}
	if !w.from.Before(w.to) {
		return
	}
	news := gapNews{From: w.from, To: w.to, Reason: refused.Error(), class: class(refused)}
	if heals(refused) {
		news.Reason += "; it is tried on"
	}
	f.lose(news)
	if f.again && heals(refused) {
		f.left = append(f.left, w)
	} else {
		s.gap.giveUpOn(w, heals(refused), givenUpFirst, s.cfg.Now())
	}
}

// giveUp tells whether a window that Nex refuses is lost as a whole. Where one after the other is refused they are given up
// in larger and larger pieces, so that a year of them ends too; but only if Nex refuses a piece's end as well, so that
// what comes behind them is not lost with them.
func (s *stream) giveUp(ctx context.Context, w window, f *filling, refused error) (bool, error) {
	least := leastRefused
	if errors.Is(refused, nex.ErrTooLarge) {
		least = minWindow
	}
	least = max(least, f.least)
	if w.size() >= 2*least {
		return false, nil
	}
	if w.size() >= 2*leastRefused {
		_, release, refused, err := s.ask(ctx, window{from: w.to.Add(-leastRefused), to: w.to, tries: 1})
		if err != nil {
			return false, err
		}
		if refused == nil {
			release()
			f.least = 0
			return false, nil
		}
	}
	f.least = min(2*least, mostRefused)
	return true, nil
}

// learn notes how large a window would hold a good page, as far as the last one tells.
func (f *filling) learn(w window, held int) {
	f.fits = min(w.size()*goodPage/time.Duration(max(held, 1)), 4*w.size())
	f.fits = max(f.fits, time.Second)
}

// advance notes how far a filling has come, and from time to time in the log. What was lost on the way is told before.
func (s *stream) advance(ctx context.Context, f *filling, to time.Time) error {
	if err := s.tellLost(ctx, f); err != nil {
		return err
	}
	if f.again || !to.Before(f.to) {
		return nil
	}
	if !s.gap.complete(to, f.surprises) { // what was handed over is published, whatever becomes of the rest
		s.retract(ctx)
		return nil
	}
	if s.cfg.Now().Sub(f.noted) < noteEvery {
		return nil
	}
	if err := s.publisher.flush(ctx); err != nil {
		return err
	}
	f.noted = s.cfg.Now()
	if at, _ := s.gap.stands(); !at.Before(to) {
		s.tell(ctx, f.news(to))
	}
	return nil
}

func (s *stream) tellLost(ctx context.Context, f *filling) error {
	for len(f.untold) > 0 {
		if !s.gap.known(f.untold[0], s.cfg.Now()) {
			if err := s.notFillable(ctx, f.untold[0]); err != nil {
				return err
			}
		}
		f.untold = f.untold[1:]
	}
	return nil
}

// takePage hands over a page, oldest first.
func (s *stream) takePage(payload nex.Payload, f *filling) error {
	slices.SortStableFunc(payload.Insights, func(a, b nex.Insight) int { return a.Time.Compare(b.Time) })
	f.found += len(payload.Insights)
	return s.take(sourceREST, payload, true, &f.fresh)
}
