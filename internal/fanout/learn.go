package fanout

import (
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// known tells whether there was an attempt, and whether the last one went well.
func (l *lane) known() (tried, proven bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tried, l.proven
}

// change is what an attempt told about its endpoint.
type change struct {
	opened, closed bool        // the circuit
	since          time.Time   // when it began to fail
	putOff         time.Time   // since when it has done nothing but put off
	evicted        []*delivery // what waited in the lane and must wait elsewhere now
}

// learn takes what an attempt tells about the endpoint.
func (l *lane) learn(result webhook.Result, decision Decision, start, now time.Time, run int) (c change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if decision.Pause && decision.At.After(l.trouble.pausedUntil) {
		l.troubled().pausedUntil = decision.At
	}
	l.slow = now.Sub(start) >= slowAttempt
	l.tried = true
	l.proven = result.Outcome == webhook.Delivered && !l.slow
	switch {
	case result.Outcome == webhook.Canceled:
	case result.Outcome == webhook.Delivered:
		if l.trouble != &well {
			l.trouble.putOffSince = time.Time{}
			c.closed = l.trouble.circuit.succeeded()
		}
		if c.closed {
			l.window = 1 // and from there on twice as many with each round
		} else if l.window < l.maxInFlight {
			l.window++
		}
	case result.Outcome == webhook.Throttled: // it works, and says that it is too much
		t := l.troubled()
		if t.putOffSince.IsZero() {
			t.putOffSince = start
		}
		c.putOff = t.putOffSince
		l.slowDown(now)
	default:
		if overloaded(result) || decision.Pause {
			l.slowDown(now)
		}
		t := l.troubled()
		c.opened = t.circuit.failed(start, now, run)
		c.since = t.circuit.since
	}
	if l.trouble.circuit.open || now.Before(l.trouble.pausedUntil) {
		c.evicted = l.take()
	}
	return c
}

// overloaded tells whether a failure says that there are too many attempts at once.
func overloaded(result webhook.Result) bool {
	return result.Overloaded || result.Outcome == webhook.Timeout
}

// slowDown halves the attempts at once; mu is held.
func (l *lane) slowDown(now time.Time) {
	if now.Sub(l.trouble.cutAt) >= cutEvery {
		l.window, l.troubled().cutAt = max(1, l.window/2), now
	}
}
