package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/nex"
)

const (
	// givenUpFirst and givenUpLast are the first and the longest pause before a window that was given up is asked for again,
	// givenUpMost how many of them are remembered: of more than that, two that are near each other become one.
	givenUpFirst, givenUpLast = time.Minute, time.Hour
	givenUpMost               = 64
	// givenUpBack is how far the checkpoint in the log stays back at most for what may still be got.
	givenUpBack = 24 * time.Hour
	// tellAgain is how long what cannot be filled is not told again, and tellMost of how many spans that is known.
	tellAgain = time.Hour
	tellMost  = 64
)

// givenUp is a span of time that Nex did not give although it gave others. Until at it is not asked for again.
type givenUp struct {
	from, to time.Time
	at       time.Time
	pause    time.Duration
	heals    bool // Nex may give it later
}

// told is a span that the log was told cannot be filled.
type told struct {
	from, to, at time.Time
	class        string
}

// class is what an error has in common with others of its kind: its text may hold the number of a request.
func class(err error) string {
	var answer *nex.Error
	switch {
	case errors.As(err, &answer):
		return fmt.Sprint("status ", answer.Status)
	case errors.Is(err, nex.ErrTooLarge):
		return "too large"
	}
	return "no answer"
}

// heals tells whether what failed so may succeed later.
func heals(err error) bool {
	var answer *nex.Error
	return !errors.Is(err, nex.ErrTooLarge) && (!errors.As(err, &answer) || answer.Temporary())
}

// giveUpOn remembers a window.
func (g *gap) giveUpOn(w window, heals bool, pause time.Duration, now time.Time) {
	one := givenUp{from: w.from, to: w.to, at: now.Add(pause), pause: pause, heals: heals}
	if !heals {
		one.at, one.pause = now.Add(givenUpLast), givenUpLast
	}
	g.givenUp = append(g.givenUp, one)
	slices.SortFunc(g.givenUp, func(a, b givenUp) int { return a.from.Compare(b.from) })
	list := g.givenUp[:1]
	for _, next := range g.givenUp[1:] {
		if last := &list[len(list)-1]; last.heals == next.heals && !next.from.After(last.to) {
			last.join(next)
		} else {
			list = append(list, next)
		}
	}
	for len(list) > givenUpMost {
		near := 1
		for i := 2; i < len(list); i++ {
			if list[i].from.Sub(list[i-1].to) < list[near].from.Sub(list[near-1].to) {
				near = i
			}
		}
		list[near-1].join(list[near])
		list = slices.Delete(list, near, near+1)
	}
	g.givenUp = list
}

func (o *givenUp) join(next givenUp) {
	if next.to.After(o.to) {
		o.to = next.to
	}
	if next.at.After(o.at) {
		o.at = next.at
	}
	o.pause, o.heals = max(o.pause, next.pause), o.heals || next.heals
}

// without is a span less what was given up in it, the newest first.
func (g *gap) without(from, to time.Time) (todo []window) {
	for _, one := range g.givenUp {
		if one.to.After(from) && one.from.Before(to) {
			if one.from.After(from) {
				todo = append(todo, window{from: from, to: one.from, tries: windowTries})
			}
			from = one.to
		}
	}
	if from.Before(to) {
		todo = append(todo, window{from: from, to: to, tries: windowTries})
	}
	slices.Reverse(todo)
	return todo
}

// before is the latest time up to which the log may be told to be complete: before what may still be got.
func (g *gap) before(to, now time.Time) time.Time {
	for _, one := range g.givenUp {
		if oldest := now.Add(-givenUpBack).UTC(); one.heals && one.to.After(oldest) && one.from.Before(to) {
			if one.from.Before(oldest) {
				return oldest
			}
			return one.from
		}
	}
	return to
}

// expire forgets what the log would not keep, and what is not to be asked for again unless it is still in the overlap.
func (g *gap) expire(now time.Time, maxAge time.Duration) {
	g.givenUp = slices.DeleteFunc(g.givenUp, func(one givenUp) bool {
		return maxAge > 0 && one.to.Before(now.Add(-maxAge)) || !one.heals && !now.Before(one.at)
	})
}

// tryAgain asks for those whose time has come. Those that Nex still does not give wait twice as long.
func (s *stream) tryAgain(ctx context.Context) error {
	now := s.cfg.Now()
	for _, one := range slices.Clone(s.gap.givenUp) {
		if !one.heals || now.Before(one.at) {
			continue
		}
		f := filling{from: one.from, to: one.to, noted: now, least: leastRefused, again: true, pause: min(2*one.pause, givenUpLast)}
		if err := s.again(ctx, &f, one); err != nil {
			return err
		}
	}
	return nil
}

// again asks for one of them: for all of it if Nex gives its begin or its end.
func (s *stream) again(ctx context.Context, f *filling, one givenUp) error {
	w := window{from: f.from, to: f.to, tries: 1}
	ends := []window{w}
	if w.size() > 2*leastRefused {
		ends = []window{{from: w.from, to: w.from.Add(leastRefused), tries: 1}, {from: w.to.Add(-leastRefused), to: w.to, tries: 1}}
	}
	for _, end := range ends {
		_, release, refused, err := s.ask(ctx, end)
		if err != nil {
			return err
		}
		if refused != nil {
			continue
		}
		release()
		w.tries = partTries
		if err := s.fetch(ctx, f, []window{w}); err != nil {
			return err
		}
		if err := s.publisher.flush(ctx); err != nil {
			return err
		}
		s.gap.forget(one)
		for _, left := range f.left {
			s.gap.giveUpOn(left, true, f.pause, s.cfg.Now())
		}
		if len(f.left) == 0 {
			s.log.Info("gap that could not be filled is filled", "from", f.from, "to", f.to, "published", f.fresh.Load())
			s.tell(ctx, f.news(f.to))
		}
		return nil
	}
	s.gap.giveUpOn(w, true, f.pause, s.cfg.Now())
	return nil
}

func (g *gap) forget(one givenUp) {
	g.givenUp = slices.DeleteFunc(g.givenUp, func(other givenUp) bool { return other == one })
}

// known tells whether the log was told of this within the last hour, and notes that it will be.
func (g *gap) known(news gapNews, now time.Time) bool {
	g.told = slices.DeleteFunc(g.told, func(t told) bool { return now.Sub(t.at) >= tellAgain })
	for _, t := range g.told {
		if t.class == news.class && !news.From.Before(t.from.Add(-windowOverlap)) && !news.To.After(t.to.Add(windowOverlap)) {
			return true
		}
	}
	if len(g.told) == tellMost {
		g.told = g.told[1:]
	}
	g.told = append(g.told, told{from: news.From, to: news.To, at: now, class: news.class})
	return false
}
