package stream

import (
	"sync"
	"time"
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

func (g *gap) isUp() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.up
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
