package fanout

import "time"

const (
	// circuitRun failures in a row, over circuitSpan at least, open an endpoint's circuit. The span leaves a receiver that is
	// being restarted, and one event that fails again and again, to the schedule alone.
	circuitRun        = 10
	circuitRunOrdered = 3 // of an ordered endpoint, whose attempts are one at a time and by the schedule
	circuitSpan       = 5 * time.Second
	// While it is open one attempt at a time is made, the pause between two growing from probeMin to probeMax.
	probeMin, probeMax = time.Second, 30 * time.Second
	probeGrowth        = 1.5
)

// circuit keeps what waits for an endpoint from being spent on it while it only fails: then there are probes, until one
// succeeds. The zero value is closed. Whoever owns it guards it.
type circuit struct {
	failures  int
	since     time.Time // when the first attempt of the run began
	open      bool
	pause     time.Duration
	nextProbe time.Time
}

// failed notes a failed attempt and tells whether it opened the circuit, which takes a run of so many.
func (c *circuit) failed(start, now time.Time, run int) (opened bool) {
	if c.failures == 0 {
		c.since = start
	}
	c.failures++
	switch {
	case c.open && now.Before(c.nextProbe): // one of those in flight when it opened
		return false
	case c.open:
		c.pause = min(time.Duration(probeGrowth*float64(c.pause)), probeMax)
	case c.failures < run || now.Sub(c.since) < circuitSpan:
		return false
	default:
		c.open, c.pause, opened = true, probeMin, true
	}
	c.nextProbe = now.Add(c.pause)
	return opened
}

// succeeded ends a run of failures and tells whether that closed the circuit.
func (c *circuit) succeeded() (closed bool) {
	closed = c.open
	*c = circuit{}
	return closed
}

// admits tells whether an attempt may begin now, with so many in flight.
func (c *circuit) admits(now time.Time, running int) bool {
	return !c.open || running == 0 && !now.Before(c.nextProbe)
}
