package endpoint

import (
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server/gsl"
)

func byID(a, b *Endpoint) int { return strings.Compare(a.ID, b.ID) }

// Snapshot is all endpoints at one moment. It does not change.
type Snapshot struct {
	byID  map[string]*Endpoint
	order []*Endpoint
	// inactive are those that get nothing now.
	inactive []*Endpoint
	// match holds <workspace or *>.<pattern> of each active endpoint, so that one look-up answers both questions.
	match *gsl.GenericSublist[*Endpoint]
}

func newSnapshot(list []*Endpoint) *Snapshot {
	s := &Snapshot{byID: make(map[string]*Endpoint, len(list)), order: list, match: gsl.NewSublist[*Endpoint]()}
	slices.SortFunc(s.order, byID)
	for _, e := range list {
		s.byID[e.ID] = e
		if !e.Active() {
			s.inactive = append(s.inactive, e)
			continue
		}
		patterns, workspaces := e.Events, e.Workspaces
		if len(patterns) == 0 {
			patterns = []string{DefaultEvents}
		}
		if len(workspaces) == 0 {
			workspaces = []string{"*"}
		}
		for _, w := range workspaces {
			for _, p := range patterns {
				// A pattern was validated, so it is a subject; one given twice is one.
				_ = s.match.Insert(w+"."+p, e)
			}
		}
	}
	return s
}

// Get is the endpoint with an id, nil if there is none.
func (s *Snapshot) Get(id string) *Endpoint { return s.byID[id] }

// Inactive is every endpoint that gets nothing now. The caller does not change it.
func (s *Snapshot) Inactive() []*Endpoint { return s.inactive }

// All is every endpoint, by id. The caller does not change it.
func (s *Snapshot) All() []*Endpoint { return s.order }

// Match appends to dst the active endpoints that want an event of this type from this workspace, each once.
func (s *Snapshot) Match(dst []*Endpoint, workspace, eventType string) []*Endpoint {
	start := len(dst)
	s.match.Match(workspace+"."+eventType, func(e *Endpoint) { dst = append(dst, e) })
	found := dst[start:]
	if len(found) < 2 {
		return dst
	}
	// Two patterns of one endpoint may both match.
	slices.SortFunc(found, byID)
	return dst[:start+len(slices.Compact(found))]
}
