package nexsim

import (
	"maps"
	"sync"
	"time"
)

// State is what a simulator knows about itself.
type State struct {
	Now         time.Time        `json:"now"`
	Rate        float64          `json:"rate"`
	Connections int              `json:"connections"`
	Emitted     int              `json:"emitted"`
	Refusals    int              `json:"refusals"` // in force, redirects included
	Unknown     Requests         `json:"unknown"`  // requests whose key belongs to no workspace
	Workspaces  []WorkspaceState `json:"workspaces"`
}

// WorkspaceState is a workspace's part of [State].
type WorkspaceState struct {
	Slug        string   `json:"slug"`
	WorkspaceID string   `json:"workspace_id"`
	Connections int      `json:"connections"`
	TooSlow     int      `json:"too_slow"` // streams cut off because their reader did not keep up
	Emitted     int      `json:"emitted"`  // insights since the start
	Requests    Requests `json:"requests"`
}

// Requests counts requests by status.
type Requests struct {
	Stream map[int]int `json:"stream"`
	REST   map[int]int `json:"rest"`
}

// State returns the counts of this moment, the workspaces in the order of the options.
func (s *Sim) State() State {
	st := State{
		Now: s.Now(), Rate: s.currentRate(), Refusals: s.refusals.len(), Unknown: s.counts.read(),
		Workspaces: make([]WorkspaceState, 0, len(s.workspaces)),
	}
	for _, w := range s.workspaces {
		ws := w.state()
		st.Connections += ws.Connections
		st.Emitted += ws.Emitted
		st.Workspaces = append(st.Workspaces, ws)
	}
	return st
}

// StateOf returns one workspace's counts.
func (s *Sim) StateOf(slug string) WorkspaceState { return s.must(slug).state() }

// requestCounts counts requests by endpoint and status. The zero value is ready.
type requestCounts struct {
	mu     sync.Mutex
	counts Requests
}

func (c *requestCounts) add(endpoint string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byStatus := &c.counts.Stream
	if endpoint == EndpointREST {
		byStatus = &c.counts.REST
	}
	if *byStatus == nil {
		*byStatus = make(map[int]int, 1)
	}
	(*byStatus)[status]++
}

func (c *requestCounts) read() Requests {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Requests{Stream: maps.Clone(c.counts.Stream), REST: maps.Clone(c.counts.REST)}
}
