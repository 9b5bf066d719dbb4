package stream

import (
	"sync"
	"time"
)

// State is how a stream is.
type State string

// The states.
const (
	StateStarting     State = "starting"   // reading back what the log holds
	StateConnecting   State = "connecting" // dialling, or waiting for its turn to
	StateConnected    State = "connected"
	StateWaiting      State = "waiting"      // for the next attempt
	StateUnauthorized State = "unauthorized" // the key is refused or lacks the scope
	StateElsewhere    State = "elsewhere"    // another replica holds it, or is about to
)

// Status is one workspace's stream as the API shows it. It never holds the key.
type Status struct {
	Workspace   string     `json:"workspace"`
	Token       string     `json:"token"`
	State       State      `json:"state"`
	Since       time.Time  `json:"since,omitzero"`
	Replica     string     `json:"replica,omitempty"`      // that holds it, if it is not this one
	WorkspaceID string     `json:"workspace_id,omitempty"` // as Nex calls it
	TokenID     string     `json:"token_id,omitempty"`     // the key's id at Nex, not the key
	LastEventAt *time.Time `json:"last_event_at,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
	Warning     string     `json:"warning,omitempty"` // what is wrong with its configuration, though it works
	NextAttempt *time.Time `json:"next_attempt,omitempty"`
	CompleteTo  *time.Time `json:"complete_to,omitempty"` // up to here everything Nex can give is in the log
	Received    uint64     `json:"received"`
	Published   uint64     `json:"published"`
	Duplicates  uint64     `json:"duplicates"`
	Malformed   uint64     `json:"malformed"`
}

// counters is a status and the metrics that grow with it.
type counters struct {
	metrics *metrics

	mu sync.Mutex
	s  Status
}

func (c *counters) update(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.s)
}

func (c *counters) get() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s
}

// enter changes the state and tells what it was.
func (c *counters) enter(state State, now time.Time) (before State) {
	c.update(func(s *Status) {
		if before = s.State; before == state {
			return
		}
		s.State, s.Since, s.NextAttempt = state, now, nil
	})
	if before != state {
		if state == StateConnected {
			c.metrics.connected.Inc()
		}
		if before == StateConnected {
			c.metrics.connected.Dec()
		}
	}
	return before
}

func (c *counters) received(n int, now time.Time) {
	c.metrics.received.Add(float64(n))
	c.update(func(s *Status) { s.Received += uint64(n); s.LastEventAt = &now })
}

func (c *counters) published() {
	c.metrics.published.Inc()
	c.update(func(s *Status) { s.Published++ })
}

func (c *counters) duplicate() {
	c.metrics.duplicate.Inc()
	c.update(func(s *Status) { s.Duplicates++ })
}

func (c *counters) malformed() {
	c.metrics.malformed.Inc()
	c.update(func(s *Status) { s.Malformed++ })
}
