package fanout

import (
	"time"
)

func burst(perSecond float64) int { return max(1, int(perSecond/burstShare)) }

// nextTurn is how long it is until the rate limit allows an attempt.
func (l *lane) nextTurn() time.Duration {
	l.mu.Lock()
	limiter := l.limiter
	l.mu.Unlock()
	if limiter == nil {
		return 0
	}
	now := time.Now()
	turn := limiter.ReserveN(now, 1)
	defer turn.CancelAt(now)
	return turn.DelayFrom(now)
}

// takeTurn waits until the rate limit allows an attempt, or there is none to be made because the event was erased. It answers false if the
// relay stops meanwhile, or the endpoint is to get nothing any more.
func (l *lane) takeTurn(d *delivery) bool {
	for {
		l.mu.Lock()
		limiter := l.limiter
		if limiter == nil {
			l.mu.Unlock()
			return true
		}
		if l.relimited == nil {
			l.relimited = make(chan struct{})
		}
		changed := l.relimited
		l.limited++
		l.mu.Unlock()
		turn := limiter.Reserve()
		waited := l.await(turn.Delay(), changed)
		if !waited {
			turn.Cancel()
		}
		l.mu.Lock()
		l.limited--
		l.mu.Unlock()
		signal(l.room)
		if l.fanout.runCtx.Err() != nil || !l.fanout.active(l.endpoint) {
			return false
		}
		if waited || l.fanout.erased(d) {
			return true
		}
	}
}

// lookUp has those that wait for their turn look whether they still have to.
func (l *lane) lookUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lookAgain()
}

// lookAgain is lookUp where mu is held.
func (l *lane) lookAgain() {
	if l.relimited != nil {
		close(l.relimited)
		l.relimited = nil
	}
}

// await waits for a turn. It answers false if the limit changes meanwhile, the relay stops, or the endpoint is to get nothing
// any more.
func (l *lane) await(delay time.Duration, changed <-chan struct{}) bool {
	if delay == 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		endpoints := l.fanout.cfg.Endpoints.Changes()
		e := l.fanout.cfg.Endpoints.Snapshot().Get(l.endpoint)
		if e == nil || !e.Active() {
			return false
		}
		l.fanout.lane(e) // takes its limits over
		select {
		case <-timer.C:
			return true
		case <-changed:
			return false
		case <-endpoints:
		case <-l.fanout.runCtx.Done():
			return false
		}
	}
}
