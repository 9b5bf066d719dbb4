package fanout

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/endpoint"
)

const (
	// maxWait is how long a delivery may wait in a lane for its turn, as far as one can tell. What would wait longer is
	// stored instead, so that a slow endpoint holds little.
	maxWait = time.Second
	// paceWindow is the least time over which a lane's pace is measured; it also takes as many finished attempts as are in
	// flight at most, since those that began together end together.
	paceWindow = 250 * time.Millisecond
	// paceWindows is of how many windows the best counts: in one this machine may have had other things to do, which says nothing of the
	// endpoint. What its lane refuses brings a backlog, and all that comes after goes there until that is empty.
	paceWindows = 4
	// cutEvery is how often the attempts at once of an endpoint that is overloaded are halved at most: those in flight at one
	// time all say the same.
	cutEvery = time.Second
	// slowAttempt is from when on an attempt was slow. One event of an endpoint that is not slow may always be in flight.
	slowAttempt = time.Second
	// burstShare of a second's attempts may be made at once under a rate limit.
	burstShare = 10
)

// lane is the bounded way to one endpoint: attempts in flight up to what the endpoint bears, a queue as long as it empties
// it within maxWait, and the backlog in RELAY_RETRY for the rest. It has no goroutine while it has nothing to do.
type lane struct {
	fanout   *Fanout
	endpoint string
	room     chan struct{} // has a value when whoever brings the backlog back should look again

	mu  sync.Mutex
	url string // that the lane's experience is of

	asleep    bool // the endpoint is not active
	disabling bool // it has answered 410 and is being switched off
	slow      bool // the last attempt was
	tried     bool // there was an attempt
	proven    bool // the last attempt was taken, and was not slow
	behind    bool // there is a backlog: what comes new goes behind it
	draining  bool // and it is being brought back

	maxInFlight int
	bytes       int // of the events in the lane, as far as is known
	lastSize    int // of the event that was seen last
	window      int // attempts at once that the endpoint bears, as far as is known: maxInFlight at most
	running     int
	limiter     *rate.Limiter // nil = no limit
	relimited   chan struct{} // closed when the limit changes; nil = nobody waits for it
	limited     int           // of those running, how many wait for the limiter
	queue       []*delivery
	trouble     *trouble // &well = the endpoint has made none so far

	interval  time.Duration              // the pace: time per finished attempt, in the best of the last windows in which the lane was busy
	paces     [paceWindows]time.Duration // in each of them, the newest first; 0 = none yet
	paceStart time.Time
	paceCount int
	moved     time.Time // last finished attempt, or when the lane became busy

	shelved int // deliveries on their way into the backlog
	stored  int // counts what was stored in it
}

func newLane(f *Fanout, endpoint string) *lane {
	return &lane{fanout: f, endpoint: endpoint, room: make(chan struct{}, 1), trouble: &well}
}

// trouble is what a lane knows of an endpoint that has failed, put off or been switched off.
type trouble struct {
	circuit     circuit
	pausedUntil time.Time // the receiver asked for it (Retry-After)
	putOffSince time.Time // since when it has done nothing but put off
	cutAt       time.Time // when window was last halved
	disabledAt  time.Time // when the endpoint was switched off the last time
	failing     string    // why attempts fail now; empty if they do not
}

// well is shared by the lanes of all that have made no trouble, which are nearly all. It is not written to.
var well trouble

// troubled is the lane's own trouble, to be written to; mu is held.
func (l *lane) troubled() *trouble {
	if l.trouble == &well {
		l.trouble = new(trouble)
	}
	return l.trouble
}

// setLimits takes over what the endpoint's settings say. perSecond is this replica's share of the rate limit, 0 = none. What
// was learnt of another URL is forgotten.
func (l *lane) setLimits(url string, maxInFlight int, perSecond float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.url != url {
		l.url = url
		l.renew()
	}
	if l.maxInFlight != maxInFlight {
		if l.window >= l.maxInFlight || l.window > maxInFlight {
			l.window = maxInFlight
		}
		l.maxInFlight = maxInFlight
	}
	before := rate.Limit(0)
	if l.limiter != nil {
		before = l.limiter.Limit()
	}
	if before == rate.Limit(max(perSecond, 0)) {
		return
	}
	l.limiter = nil
	if perSecond > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(perSecond), burst(perSecond))
	}
	l.lookAgain()
}

// renew forgets what was learnt of the endpoint; mu is held.
func (l *lane) renew() {
	l.tried, l.proven = false, false
	l.window, l.interval, l.paces = l.maxInFlight, 0, [paceWindows]time.Duration{}
	if l.trouble != &well {
		l.trouble.pausedUntil, l.trouble.putOffSince, l.trouble.circuit = time.Time{}, time.Time{}, circuit{}
	}
	signal(l.room)
}

// resumed hears that the endpoint has become active again: it is tried as if it were new.
func (l *lane) resumed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renew()
}

// firstGone tells whether the 410 of an attempt that began at a time is the first since the endpoint became active. When it did,
// only the attempts know: its owner may have been faster than whoever looks at the lanes.
func (l *lane) firstGone(began time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disabling || !began.After(l.trouble.disabledAt) {
		return false
	}
	l.disabling = true
	return true
}

// disabled hears that the endpoint has been switched off: an attempt that finds it active from here on was made because its
// owner wants it.
func (l *lane) disabled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disabling, l.troubled().disabledAt = false, time.Now()
	signal(l.room)
}

func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running == 0 && len(l.queue) == 0 && !l.draining && l.shelved == 0
}

// open tells whether attempts may begin at all; mu is held.
func (l *lane) open(now time.Time) bool {
	return !l.disabling && !now.Before(l.trouble.pausedUntil) && l.trouble.circuit.admits(now, l.running)
}

// free tells whether one more attempt may begin; mu is held.
func (l *lane) free() bool {
	if l.limiter != nil && l.limited >= max(1, int(float64(l.limiter.Limit())*maxWait.Seconds())) {
		return false // those that wait for the limiter already are as many as it lets through within maxWait
	}
	if l.running == 0 {
		return !l.slow || l.share() > 0
	}
	return l.running < min(l.window, l.maxInFlight) && l.bytes < l.share()
}

// stalled tells whether a busy lane stands still: no attempt finished for much longer than usual; mu is held.
func (l *lane) stalled(now time.Time) bool {
	return !l.free() && l.limited == 0 && now.Sub(l.moved) > max(maxWait, 4*l.interval)
}

// wait is how long the queue takes, as far as one can tell; mu is held.
func (l *lane) wait() time.Duration {
	interval := l.interval
	if l.limiter != nil {
		interval = max(interval, time.Duration(float64(time.Second)/float64(l.limiter.Limit())))
	}
	return time.Duration(len(l.queue)+l.limited) * interval
}

// longest is how long a delivery may wait; mu is held.
func (l *lane) longest() time.Duration {
	if l.proven && l.limiter == nil {
		return provenShare * maxWait
	}
	return maxWait
}

// offer takes a delivery, unless it would have to wait for more than a moment: then it belongs into the backlog. fresh says
// that it comes from the log, and so has its place behind what waits. offer does not wait for the endpoint; while all lanes
// have enough to do it may wait a moment for room among them, and for room among the attempts that have just begun.
func (l *lane) offer(ctx context.Context, d *delivery, fresh bool) bool {
	var n *newborn
	for again := true; again; {
		switch l.answer(d, fresh, n) {
		case taken:
			return true
		case refused:
			n.end()
			return false
		case crowded:
			if n = l.fanout.young.enter(ctx); n == nil {
				return false
			}
		case untried:
			n.end()
			if n = nil; !l.fanout.crowd.awaitFirst(ctx, l) {
				return false
			}
		case full:
			n.end()
			again = false
		}
	}

	if !l.fanout.crowd.enter(ctx, l.fanout.queued) {
		return false
	}
	l.mu.Lock()
	if now := time.Now(); l.open(now) && l.free() { // meanwhile: a queue without a worker would stand still
		l.start(now, d)
		l.mu.Unlock()
		l.fanout.queued.Release(1)
		l.fanout.attempts.Go(func() { l.work(d, nil) })
		return true
	}
	l.enqueue(d)
	l.mu.Unlock()
	return true
}

// What a lane answers to an offer: an attempt has begun; it belongs into the backlog; it may begin when there is room among the young
// ones; it belongs into the backlog, unless the first attempt of all tells soon that more may be taken; it may wait in the queue.
const (
	taken = iota
	refused
	crowded
	untried
	full
)

// answer begins an attempt if it may begin now; n is its room among the young ones, nil if it has none.
func (l *lane) answer(d *delivery, fresh bool, n *newborn) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case fresh && l.behind, !l.open(now):
		return refused
	case l.free() && n == nil:
		return crowded
	case l.free():
		l.start(now, d)
		l.fanout.attempts.Go(func() { l.work(d, n) })
		return taken
	case l.trouble.circuit.open, l.stalled(now), l.wait() > l.longest(), l.running == 0:
		return refused
	case l.bytes >= l.share() && !l.tried && !l.draining:
		return untried
	case l.bytes >= l.share():
		return refused
	}
	return full
}

// admit waits until the lane takes a delivery of the backlog. It answers false if ctx ends or the endpoint is to get nothing
// any more.
func (l *lane) admit(ctx context.Context, d *delivery) bool {
	for {
		taken, again := l.tryAdmit(d)
		if taken {
			return true
		}
		timer := time.NewTimer(again)
		select {
		case <-l.room:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil || !l.fanout.active(l.endpoint) {
			return false
		}
	}
}

// tryAdmit takes a delivery if there is room, for a worker that comes free soon too, or answers when to look again.
func (l *lane) tryAdmit(d *delivery) (taken bool, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case l.open(now) && l.free():
		n := l.fanout.young.try()
		if n == nil {
			return false, youngFor / 10
		}
		l.start(now, d)
		l.fanout.attempts.Go(func() { l.work(d, n) })
		return true, 0
	case l.open(now) && !l.trouble.circuit.open && l.limiter == nil && len(l.queue) < l.running && l.bytes < l.share() && l.fanout.queued.TryAcquire(1):
		l.enqueue(d)
		return true, 0
	}
	again = time.Second // to see whether the endpoint is still there
	for _, at := range []time.Time{l.trouble.pausedUntil, l.trouble.circuit.nextProbe} {
		if left := at.Sub(now); left > 0 {
			again = min(again, left)
		}
	}
	return false, again
}

// start counts an attempt; mu is held.
func (l *lane) start(now time.Time, d *delivery) {
	l.running++
	l.weigh(d)
	if l.running == min(l.window, l.maxInFlight) {
		l.moved, l.paceStart, l.paceCount = now, now, 0 // busy from here on
	}
}

// work makes one attempt after the other until there is nothing to do. The first counts as young.
func (l *lane) work(d *delivery, n *newborn) {
	for d != nil {
		weight, reread := d.weight, d.reread // before it is another's
		goes := true
		// What is not for the endpoint takes no turn, and there is no rate to keep before the receiver has named it.
		if l.fanout.filtered(d) || l.fanout.unconsented(l.fanout.cfg.Endpoints.Snapshot().Get(d.endpoint)) {
			var e *endpoint.Endpoint
			e, weight = l.fanout.ready(l, d)
			goes = e != nil && l.fanout.consent(l, e, d)
		}
		switch {
		case !goes:
		case l.takeTurn(d):
			weight = l.fanout.attemptDelivery(l, d)
		default:
			l.fanout.backlog(d) // stopping
		}
		n.end()
		d = l.next(weight, reread)
	}
}

func (l *lane) isDisabling() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.disabling
}

// next counts a finished attempt of a delivery of some weight and answers the next delivery, nil if there is none.
func (l *lane) next(weight int, reread bool) *delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer signal(l.room)
	l.count(-weight, reread)
	now := time.Now()
	most := min(l.window, l.maxInFlight)
	if l.running >= most {
		l.paceCount++
		if took := now.Sub(l.paceStart); took >= paceWindow && l.paceCount >= most {
			l.pace(took / time.Duration(l.paceCount))
			l.paceStart, l.paceCount = now, 0
		}
	}
	l.moved = now
	if len(l.queue) == 0 || l.running > most || l.running > 1 && l.bytes > l.share() || now.Before(l.trouble.pausedUntil) || l.trouble.circuit.open || l.disabling {
		if l.running--; l.running == 0 && !l.behind {
			l.fanout.crowd.hungry(now)
		}
		return nil
	}
	d := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.left(1)
	return d
}

// pace takes the pace of a window; mu is held.
func (l *lane) pace(interval time.Duration) {
	copy(l.paces[1:], l.paces[:])
	l.paces[0], l.interval = interval, interval
	for _, other := range l.paces {
		if other != 0 {
			l.interval = min(l.interval, other)
		}
	}
}

// stuck takes the queue away if the lane is paused, stands still, or has nobody left to empty it.
func (l *lane) stuck(now time.Time) []*delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.running > 0 && l.open(now) && !l.trouble.circuit.open && !l.stalled(now) {
		return nil
	}
	return l.take()
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
	for _, d := range list {
		if d != nil {
			l.count(-d.weight, d.reread)
		}
	}
	l.left(len(list))
	return list
}

// enqueue puts a delivery, for which there is room in the queues, to the end of the lane's; mu is held.
func (l *lane) enqueue(d *delivery) {
	l.fanout.inQueues.Add(1)
	l.queue = append(l.queue, d)
	l.weigh(d)
}

// left hears of deliveries that have left the lane's queue; mu is held.
func (l *lane) left(n int) {
	l.fanout.inQueues.Add(int64(-n))
	l.fanout.queued.Release(int64(n))
}

// note remembers why attempts fail and tells whether that is news.
func (l *lane) note(reason string) (changed bool, before string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before = l.trouble.failing; before == reason {
		return false, before
	}
	l.troubled().failing = reason
	return true, before
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
