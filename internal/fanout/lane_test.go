package fanout

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/webhook"
)

// busyLane is a lane with n attempts in flight and a queue.
func busyLane(now time.Time, n, queued int, interval time.Duration) *lane {
	f := &Fanout{cfg: Config{maxHeld: maxHeldBytes}, queued: semaphore.NewWeighted(maxQueued), young: newYoung(maxYoung)}
	_ = f.queued.TryAcquire(int64(queued))
	l := newLane(f, "crm")
	l.setLimits("https://crm.example.com", n, 0)
	l.running, l.moved, l.paceStart, l.interval, l.queue = n, now, now, interval, make([]*delivery, queued)
	return l
}

func TestLaneRefusesWhatWouldWaitTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		if busyLane(now, 4, 101, 10*time.Millisecond).offer(t.Context(), &delivery{}, true) { // 1.01 s of queue
			t.Error("taken behind a second of queue")
		}
		if !busyLane(now, 4, 50, 10*time.Millisecond).offer(t.Context(), &delivery{}, true) {
			t.Error("half a second of queue is refused")
		}
		behind := busyLane(now, 4, 0, 0)
		behind.running, behind.behind = 0, true
		if behind.offer(t.Context(), &delivery{}, true) {
			t.Error("what comes new has overtaken the backlog")
		}
	})
}

func TestLaneThatStandsStill(t *testing.T) {
	t.Parallel()
	now := time.Now()
	if busyLane(now.Add(-10*time.Second), 4, 3, 10*time.Millisecond).offer(t.Context(), &delivery{}, true) {
		t.Error("taken by an endpoint that has finished nothing for ten seconds")
	}
	slow := busyLane(now.Add(-10*time.Second), 1, 0, 5*time.Second) // an endpoint that takes 5 s is slow, not stuck
	if slow.stalled(now) {
		t.Error("a slow endpoint counts as standing still")
	}
}

func TestLanePauses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busyLane(now, 4, 3, 0)
	throttled := webhook.Result{Outcome: webhook.Throttled, StatusCode: 429}
	c := l.learn(throttled, Decision{Verdict: Retry, At: now.Add(time.Hour), Pause: true}, now, now, circuitRun)
	l.learn(throttled, Decision{Verdict: Retry, At: now.Add(time.Minute), Pause: true}, now, now, circuitRun) // the longer one holds
	if len(c.evicted) != 3 || len(l.queue) != 0 {
		t.Errorf("%d leave the lane, %d stay", len(c.evicted), len(l.queue))
	}
	if l.open(now.Add(59*time.Minute)) || !l.open(now.Add(61*time.Minute)) {
		t.Error("not left alone for as long as it asked")
	}
	if l.window != 2 {
		t.Errorf("%d attempts at once after one overload, 4 before", l.window)
	}
}

// A failure with a Retry-After pauses the endpoint, and is a failure: one that answers so for ever only fails.
func TestLaneIsPausedByAFailure(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busyLane(now, 4, 3, 0)
	failed := webhook.Result{Outcome: webhook.ServerError, StatusCode: 500, RetryAfter: time.Hour, HasRetryAfter: true}
	opened := false
	for i := range circuitRun {
		at := now.Add(time.Duration(i) * time.Hour)
		c := l.learn(failed, Decision{Verdict: Retry, At: at.Add(time.Hour), Pause: true}, at, at, circuitRun)
		opened = opened || c.opened
		if l.open(at.Add(59 * time.Minute)) {
			t.Fatalf("open %d times an hour before it is over", i)
		}
	}
	if !opened || !l.trouble.circuit.since.Equal(now) {
		t.Errorf("only fails: %v, since %v, began at %v", opened, l.trouble.circuit.since, now)
	}
	if len(l.queue) != 0 || l.window != 1 {
		t.Errorf("%d wait in the lane, %d at once", len(l.queue), l.window)
	}
}

func TestQueueWithoutAWorkerIsTakenAway(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busyLane(now, 1, 2, 10*time.Millisecond)
	l.troubled().pausedUntil = now.Add(time.Hour)
	if l.next(0, false) != nil || l.running != 0 || len(l.queue) != 2 {
		t.Fatalf("%d running, %d queued", l.running, len(l.queue))
	}
	l.troubled().pausedUntil = now.Add(-time.Millisecond)
	if left := l.stuck(now); len(left) != 2 || len(l.queue) != 0 {
		t.Errorf("%d taken, %d left", len(left), len(l.queue))
	}
}

func TestLaneMeasuresItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		l := busyLane(now.Add(-2*time.Second), 2, 0, 0)
		l.paceCount = 39 // in two seconds
		l.next(0, false)
		if l.interval != 50*time.Millisecond {
			t.Errorf("pace %v, 40 in 2 s were finished", l.interval)
		}
	})
}

// One window in which this machine had other things to do says nothing of the endpoint; four do.
func TestLanePaceIsTheBestOfSome(t *testing.T) {
	t.Parallel()
	l := busyLane(time.Now(), 2, 0, 0)
	l.pace(time.Millisecond)
	for range paceWindows - 1 {
		if l.pace(time.Second); l.interval != time.Millisecond {
			t.Fatalf("pace %v after a window in which nothing moved", l.interval)
		}
	}
	if l.pace(time.Second); l.interval != time.Second {
		t.Errorf("pace %v, and all windows that count were slower", l.interval)
	}
}

// In the lane of an endpoint that has just answered well and fast deliveries may wait twice as long, if it has no rate limit.
func TestLaneOfOneThatAnswersWellHoldsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for queued, taken := range map[int]bool{150: true, 201: false} {
			l := busyLane(now, 4, queued, 10*time.Millisecond)
			l.proven = true
			if got := l.offer(t.Context(), &delivery{}, true); got != taken {
				t.Errorf("behind %d that take 10 ms each: taken %v", queued, got)
			}
		}
		limited := busyLane(now, 4, 150, time.Millisecond)
		limited.proven, limited.limiter = true, rate.NewLimiter(100, 1)
		if limited.offer(t.Context(), &delivery{}, true) {
			t.Error("taken behind 1.5 s of a rate limit")
		}
	})
}

// What fills a lane before its endpoint has answered at all waits a moment for that, and for one endpoint at a time.
func TestLaneWaitsForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := func() *lane {
			l := busyLane(time.Now(), 4, 10, 0)
			l.bytes = laneBytes
			return l
		}
		answering := full()
		go func() {
			answering.learn(webhook.Result{Outcome: webhook.Delivered, StatusCode: 200}, Decision{}, time.Now(), time.Now(), circuitRun)
			signal(answering.room) // as next does
		}()
		if !answering.offer(t.Context(), &delivery{}, true) {
			t.Error("refused, though the first answer came")
		}
		silent := full()
		if silent.offer(t.Context(), &delivery{}, true) {
			t.Error("taken without an answer")
		}
		began := time.Now()
		if other := full(); other.fanout != silent.fanout {
			other.fanout = silent.fanout
			if other.offer(t.Context(), &delivery{}, true) || time.Since(began) >= firstWait {
				t.Errorf("waited for a second endpoint: %v", time.Since(began))
			}
		}
	})
}

func TestLaneSlowStart(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busyLane(now, 8, 0, 0)
	failed := webhook.Result{Outcome: webhook.ServerError, StatusCode: 500}
	ok := webhook.Result{Outcome: webhook.Delivered, StatusCode: 200}
	for i := range circuitRun {
		c := l.learn(failed, Decision{}, now, now.Add(circuitSpan), circuitRun)
		if c.opened != (i == circuitRun-1) {
			t.Fatalf("failure %d: opened %v", i+1, c.opened)
		}
	}
	later := now.Add(circuitSpan + probeMin)
	l.running = 0
	if l.open(later.Add(-time.Millisecond)) || !l.open(later) {
		t.Error("the first probe does not come after probeMin")
	}
	l.running = 1
	if l.open(later) {
		t.Error("two probes at once")
	}
	if c := l.learn(ok, Decision{}, later, later, circuitRun); !c.closed || l.window != 1 {
		t.Errorf("closed %v, then %d at once", c.closed, l.window)
	}
	for range 20 {
		l.learn(ok, Decision{}, later, later, circuitRun)
	}
	if l.window != 8 {
		t.Errorf("%d at once after 20 successes, 8 are allowed", l.window)
	}
}

func TestCircuit(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var c circuit
	for range 3 * circuitRun { // many at once, as when a receiver is restarted
		if c.failed(now, now.Add(circuitSpan/2), circuitRun) {
			t.Fatal("opened before its span")
		}
	}
	c.succeeded()
	if c.failed(now, now.Add(time.Hour), circuitRun) {
		t.Error("opened at the first failure after a success")
	}
	for range circuitRun {
		c.failed(now, now.Add(time.Hour), circuitRun)
	}
	if !c.open {
		t.Fatal("not open")
	}
	before := c.nextProbe
	if c.failed(now, before.Add(-time.Millisecond), circuitRun); c.nextProbe != before {
		t.Error("one that was in flight counts as a probe")
	}
	for range 30 {
		c.failed(now, c.nextProbe, circuitRun)
	}
	if c.pause != probeMax {
		t.Errorf("pause %v", c.pause)
	}
}

func TestLaneRateLimit(t *testing.T) {
	t.Parallel()
	l := busyLane(time.Now(), 8, 0, 0)
	l.running = 0
	l.setLimits("https://crm.example.com", 8, 3)
	if l.limiter.Burst() != 1 || l.limiter.Limit() != rate.Limit(3) {
		t.Errorf("%v at once, %v a second", l.limiter.Burst(), l.limiter.Limit())
	}
	if l.limited = 3; l.free() {
		t.Error("more wait for the limiter than it lets through in a second")
	}
	l.setLimits("https://crm.example.com", 8, 0)
	if !l.free() {
		t.Error("the limit was taken away and still holds")
	}
}

// Events that turn out larger than those before do not pile up in a lane: what comes when the others fill it goes back.
func TestLaneWeighsWhatIsRead(t *testing.T) {
	t.Parallel()
	l := busyLane(time.Now(), 64, 0, 0)
	l.running, l.lastSize = 0, 1<<10
	var list []*delivery
	for range 32 {
		d := &delivery{}
		l.start(time.Now(), d)
		list = append(list, d)
	}
	stay := 0
	for _, d := range list {
		if l.read(d, 1<<20) {
			stay++
		}
		if l.bytes > laneBytes+1<<20 {
			t.Fatalf("%d bytes in the lane", l.bytes)
		}
	}
	if stay < 4 || stay > 5 {
		t.Errorf("%d events of a MiB stay", stay)
	}
	for _, d := range list {
		l.next(d.weight, false)
	}
	if l.bytes != 0 || l.running != 0 {
		t.Errorf("%d bytes, %d in flight when all are done", l.bytes, l.running)
	}
}
