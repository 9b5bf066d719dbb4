package fanout

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxWait is how long a delivery may wait in a lane for its turn, as far as one can tell. What would wait longer is
	// stored instead, so that a slow endpoint holds little.
	maxWait = time.Second
	// parkAhead bounds how far into the future a lane spreads what it does not take.
	parkAhead = 2 * time.Minute
	// paceWindow is the least time over which a lane's pace is measured; it also takes maxInFlight finished attempts, since
	// those that began together end together.
	paceWindow = 250 * time.Millisecond
)

// lane is the bounded way to one endpoint: attempts in flight up to a cap, a queue as long as the endpoint empties it
// within maxWait, and for the rest a time at which to come again. It has no goroutine while it has nothing to do.
type lane struct {
	fanout   *Fanout
	endpoint string

	mu          sync.Mutex
	maxInFlight int
	running     int
	queue       []*delivery
	interval    time.Duration // the pace: time per finished attempt in the last window in which the lane was busy
	windowStart time.Time
	windowCount int
	moved       time.Time // last finished attempt, or when the lane became busy
	pausedUntil time.Time // the receiver asked for it (Retry-After)
	parkedUntil time.Time // the place in time of the last delivery that was sent away
	failing     string    // why attempts fail now; empty if they do not
}

func (l *lane) setMaxInFlight(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.maxInFlight = n
}

func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running == 0 && len(l.queue) == 0
}

// offer takes a delivery, or answers when it should come again. It does not wait for the endpoint; it may wait a moment
// for room among all lanes, which the other lanes make.
func (l *lane) offer(ctx context.Context, d *delivery) (at time.Time, parked bool) {
	l.mu.Lock()
	now := time.Now()
	switch {
	case now.Before(l.pausedUntil):
		defer l.mu.Unlock()
		return l.place(l.pausedUntil, now), true
	case l.running < l.maxInFlight:
		l.start(now)
		l.mu.Unlock()
		l.fanout.attempts.Go(func() { l.work(d) })
		return time.Time{}, false
	case l.stalled(now) || time.Duration(len(l.queue))*l.interval > maxWait:
		defer l.mu.Unlock()
		return l.place(now.Add(time.Second), now), true
	}
	l.mu.Unlock()

	if l.fanout.queued.Acquire(ctx, 1) != nil {
		return now, true // stopping
	}
	l.mu.Lock()
	if l.running < l.maxInFlight { // the lane got free meanwhile: a queue without a worker would stand still
		l.start(time.Now())
		l.mu.Unlock()
		l.fanout.queued.Release(1)
		l.fanout.attempts.Go(func() { l.work(d) })
		return time.Time{}, false
	}
	l.queue = append(l.queue, d)
	l.mu.Unlock()
	return time.Time{}, false
}

// start counts an attempt; mu is held.
func (l *lane) start(now time.Time) {
	l.running++
	if l.running == l.maxInFlight {
		l.moved, l.windowStart, l.windowCount = now, now, 0 // busy from here on
	}
}

// stalled tells whether a busy lane stands still: no attempt finished for much longer than usual; mu is held.
func (l *lane) stalled(now time.Time) bool {
	return l.running >= l.maxInFlight && now.Sub(l.moved) > max(maxWait, 4*l.interval)
}

// place finds a time for a delivery that the lane does not take, not before earliest, so that they do not all come back
// at once: one after the other at the pace of the endpoint, or, where it has no pace, spread over as long as it has been
// standing still; mu is held.
func (l *lane) place(earliest, now time.Time) time.Time {
	if l.stalled(now) {
		return earliest.Add(rand.N(min(now.Sub(l.moved), parkAhead)))
	}
	at := l.parkedUntil
	if at.Before(earliest) {
		at = earliest
	}
	if limit := earliest.Add(parkAhead); at.After(limit) {
		at = limit
	}
	l.parkedUntil = at.Add(max(l.interval, time.Millisecond))
	return at
}

// work makes attempts until the queue is empty.
func (l *lane) work(d *delivery) {
	for d != nil {
		l.fanout.attemptDelivery(l, d)
		d = l.next()
	}
}

// next counts a finished attempt and answers the next delivery, nil if there is none.
func (l *lane) next() *delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.running >= l.maxInFlight {
		l.windowCount++
		if took := now.Sub(l.windowStart); took >= paceWindow && l.windowCount >= l.maxInFlight {
			l.interval = took / time.Duration(l.windowCount)
			l.windowStart, l.windowCount = now, 0
		}
	}
	l.moved = now
	if len(l.queue) == 0 || l.running > l.maxInFlight || now.Before(l.pausedUntil) {
		l.running--
		return nil
	}
	d := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.fanout.queued.Release(1)
	return d
}

// pause stops the lane until a time; what waits in it is for the sweeper.
func (l *lane) pause(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.After(l.pausedUntil) {
		l.pausedUntil = until
	}
}

// parked is a delivery that a lane sends away, and when it should come again.
type parked struct {
	delivery *delivery
	at       time.Time
}

// stuck takes the queue away if the lane is paused, stands still, or has nobody left to empty it.
func (l *lane) stuck(now time.Time) []parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	earliest := now.Add(time.Second)
	switch {
	case len(l.queue) == 0:
		return nil
	case now.Before(l.pausedUntil):
		earliest = l.pausedUntil
	case l.running == 0: // its last worker left during a pause that is over now
		earliest = now
	case !l.stalled(now):
		return nil
	}
	var out []parked
	for _, d := range l.take() {
		out = append(out, parked{d, l.place(earliest, now)})
	}
	return out
}

func (l *lane) takeQueue() []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take()
}

// take empties the queue; mu is held.
func (l *lane) take() []*delivery {
	list := l.queue
	l.queue = nil
	l.fanout.queued.Release(int64(len(list)))
	return list
}

// note remembers why attempts fail and tells whether that is news.
func (l *lane) note(reason string) (changed bool, before string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, l.failing = l.failing, reason
	return before != reason, before
}
