package stream

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/nex"
)

const (
	// givenUpFirst and givenUpLast are the first and the longest pause before a window that was given up is asked for again,
	// givenUpMost how many of them are remembered: of more than that, two that are near each other become one.
	givenUpFirst, givenUpLast = time.Minute, time.Hour
	givenUpMost               = 64
	// againMost is at how many moments within them they are asked for again at once, beside their ends; each at one at least.
	againMost = 32
	// againTime is how long they are asked for at once, as long as Nex gives none of them: what is left comes with the next look
	// for gaps.
	againTime = time.Minute
	// tellAgain is how long what cannot be filled is not told again, and tellMost of how many spans that is known.
	tellAgain = time.Hour
	tellMost  = 64
)

// givenUp is a span of time that Nex did not give although it gave others. Until at it is not asked for again.
type givenUp struct {
	from, to time.Time
	at       time.Time
	pause    time.Duration
	heals    bool   // Nex may give it later
	asked    uint32 // at how many moments within it
	done     int    // how many of the moments of this time were asked for when a newer gap came
}

// openSpan is one of them as the log is told.
type openSpan struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
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

// heals tells whether what failed so may succeed later: also what Nex answers 4xx to, which may be a fault of its own.
func heals(err error) bool { return !errors.Is(err, nex.ErrTooLarge) }

// giveUpOn remembers a window.
func (g *gap) giveUpOn(w window, heals bool, pause time.Duration, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
	o.pause, o.heals, o.asked, o.done = max(o.pause, next.pause), o.heals || next.heals, max(o.asked, next.asked), 0
}

// without is a span less what was given up in it, the newest first.
func (g *gap) without(from, to time.Time) (todo []window) {
	g.mu.Lock()
	defer g.mu.Unlock()
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

// open are those that Nex may still give: another life, or another replica, goes on asking.
func (g *gap) open() (list []openSpan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range g.givenUp {
		if one.heals {
			list = append(list, openSpan{From: one.from.UTC(), To: one.to.UTC()})
		}
	}
	return list
}

// reopen takes them over from another life.
func (g *gap) reopen(list []openSpan, now time.Time) {
	for _, one := range list {
		g.giveUpOn(window{from: one.From, to: one.To}, true, 0, now)
	}
}

// expire forgets what the log would not keep, what is not to be asked for again unless it is still in the overlap, and what
// has not come yet, by a clock that was ahead.
func (g *gap) expire(now time.Time, maxAge time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.givenUp {
		if g.givenUp[i].to.After(now) {
			g.givenUp[i].to = now
		}
	}
	g.givenUp = slices.DeleteFunc(g.givenUp, func(one givenUp) bool {
		return maxAge > 0 && one.to.Before(now.Add(-maxAge)) || !one.heals && !now.Before(one.at) || !one.from.Before(one.to)
	})
}

// due are those whose time has come.
func (g *gap) due(now time.Time) (list []givenUp) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range g.givenUp {
		if one.heals && !now.Before(one.at) {
			list = append(list, one)
		}
	}
	return list
}

// newer tells whether a newer gap waits to be filled.
func (g *gap) newer() bool { return g.renewed || len(g.connected) > 0 || len(g.again) > 0 }

// errLater ends the asking for what was given up before its end; the next look for gaps goes on there.
var errLater = errors.New("newer gaps come first")

// tryAgain asks for those whose time has come. Those that Nex still does not give wait twice as long.
func (s *stream) tryAgain(ctx context.Context) error {
	now, until := s.cfg.Now(), time.Now().Add(againTime)
	due := s.gap.due(now)
	for _, one := range due {
		f := filling{from: one.from, to: one.to, noted: now, again: true}
		f.pause = min(max(2*one.pause, givenUpFirst), givenUpLast)
		err := s.again(ctx, &f, one, max(againMost/len(due), 1), until)
		switch {
		case errors.Is(err, errLater):
			return nil
		case err != nil:
			return err
		case s.gap.newer() || time.Now().After(until):
			return nil
		}
	}
	return nil
}

// again asks for one of them at its ends and at n moments within: for all of it if Nex gives one of those.
func (s *stream) again(ctx context.Context, f *filling, one givenUp, n int, until time.Time) error {
	list := one.moments(n)
	first := min(one.done, len(list)-1)
	for i := first; i < len(list); i++ {
		if i > first && (s.gap.newer() || time.Now().After(until)) {
			s.gap.breakOff(one, i)
			return errLater
		}
		given, err := s.gives(ctx, window{from: list[i], to: list[i].Add(min(leastRefused, one.size())), tries: 1}, i == first)
		if err != nil {
			return err
		}
		if given {
			return s.regain(ctx, f, one, list[i])
		}
	}
	s.gap.postpone(one, n, f.pause, s.cfg.Now())
	return nil
}

func (o givenUp) size() time.Duration { return o.to.Sub(o.from) }

// moments are the begin of a span, its end, and n within it, each time others, which halve the largest spaces between those
// before: what Nex gives of it is found by then if it is 2/m of it, with m of them.
func (o givenUp) moments(n int) []time.Time {
	list := []time.Time{o.from}
	size := o.size() - leastRefused
	if size <= 0 {
		return list
	}
	list = append(list, o.from.Add(size))
	for i := range min(n, int(size/leastRefused)) {
		share := float64(bits.Reverse32(o.asked+uint32(i)+1)) / (1 << 32)
		list = append(list, o.from.Add(time.Duration(share*float64(size))))
	}
	return list
}

// gives tells whether Nex gives a window; sure says to wait while it gives none at all.
func (s *stream) gives(ctx context.Context, w window, sure bool) (bool, error) {
	var release func()
	var refused, err error
	if sure {
		_, release, refused, err = s.ask(ctx, w)
	} else if _, release, refused = s.page(ctx, w); ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil || refused != nil {
		return false, err
	}
	release()
	return true, nil
}

// regain fetches what Nex gives of one of them, which it does at this moment.
func (s *stream) regain(ctx context.Context, f *filling, one givenUp, at time.Time) error {
	todo := []window{{from: at, to: one.to, tries: partTries}}
	if at.After(one.from) { // what ends with the moment and what begins with it: where one is refused, the moment is not
		todo = append(todo, window{from: one.from, to: at.Add(leastRefused), tries: partTries})
	}
	if err := s.fetch(ctx, f, todo); err != nil {
		return err
	}
	if err := s.publisher.flush(ctx); err != nil {
		return err
	}
	s.gap.forget(one)
	for _, left := range f.left {
		s.gap.giveUpOn(left, true, f.pause, s.cfg.Now())
	}
	for _, rest := range f.rest {
		s.gap.giveUpOn(rest, true, 0, s.cfg.Now())
	}
	if len(f.left)+len(f.rest) == 0 {
		s.log.Info("gap that could not be filled is filled", "from", f.from, "to", f.to, "published", f.fresh.Load())
		s.tell(ctx, f.news(f.to))
	}
	return nil
}

// postpone notes that one of them was asked for in vain.
func (g *gap) postpone(one givenUp, n int, pause time.Duration, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.givenUp, one); i >= 0 {
		g.givenUp[i].at, g.givenUp[i].pause = now.Add(pause), pause
		g.givenUp[i].asked += uint32(n)
		g.givenUp[i].done = 0
	}
}

// breakOff notes how far the asking for one of them came.
func (g *gap) breakOff(one givenUp, done int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.givenUp, one); i >= 0 {
		g.givenUp[i].done = done
	}
}

func (g *gap) forget(one givenUp) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
