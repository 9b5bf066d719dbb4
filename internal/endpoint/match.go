package endpoint

import (
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server/gsl"
)

func byID(a, b *Endpoint) int { return strings.Compare(a.ID, b.ID) }

// Snapshot is all endpoints at one moment. It does not change.
type Snapshot struct {
	// Generation counts the snapshots of a registry, from 1.
	Generation uint64

	byID  map[string]*Endpoint
	order []*Endpoint
	// match holds <workspace or *>.<pattern> of the active endpoints, so that one look-up answers both questions. An event
	// meets few of these subjects, however many endpoints stand at each.
	match *gsl.GenericSublist[*audience]
	paths []path // that the conditions of filters ask for, each once
	// inactive holds in the same way those that get nothing now; nil where there is none.
	inactive *Snapshot
	pool     sync.Pool
}

func newSnapshot(list []*Endpoint) *Snapshot {
	s := snapshotOf(list, (*Endpoint).Active)
	if inactive := slices.DeleteFunc(slices.Clone(list), (*Endpoint).Active); len(inactive) > 0 {
		s.inactive = snapshotOf(inactive, func(*Endpoint) bool { return true })
	}
	return s
}

func snapshotOf(list []*Endpoint, matched func(*Endpoint) bool) *Snapshot {
	s := &Snapshot{byID: make(map[string]*Endpoint, len(list)), order: list, match: gsl.NewSublist[*audience]()}
	slices.SortFunc(s.order, byID)
	b := builder{audiences: map[string]*audience{}, filters: map[string]*group{}, groups: map[groupKey]*group{}, paths: map[string]int32{}}
	for i, e := range s.order {
		s.byID[e.ID] = e
		if matched(e) {
			b.add(s, int32(i), e)
		}
	}
	for subject, a := range b.audiences {
		a.index()
		// A pattern was validated, so it is a subject.
		_ = s.match.Insert(subject, a)
	}
	s.pool.New = func() any { return newMatching(s) }
	return s
}

// builder is what the making of a snapshot needs and the snapshot does not.
type builder struct {
	audiences map[string]*audience
	filters   map[string]*group // a group without members per source, bound to the snapshot's paths
	groups    map[groupKey]*group
	paths     map[string]int32
}

type groupKey struct {
	audience *audience
	bound    *group
}

func (b *builder) add(s *Snapshot, member int32, e *Endpoint) {
	patterns, workspaces := e.Events, e.Workspaces
	if len(patterns) == 0 {
		patterns = []string{DefaultEvents}
	}
	if len(workspaces) == 0 {
		workspaces = []string{"*"}
	}
	for _, w := range workspaces {
		for _, p := range patterns {
			subject := w + "." + p
			a := b.audiences[subject]
			if a == nil {
				a = &audience{}
				b.audiences[subject] = a
			}
			members := &a.everything
			if e.Filter != "" {
				members = &b.group(s, a, e.Filter).members
			}
			// A subject given twice is one.
			if n := len(*members); n == 0 || (*members)[n-1] != member {
				*members = append(*members, member)
			}
		}
	}
}

func (b *builder) group(s *Snapshot, a *audience, source string) *group {
	bound := b.filters[source]
	if bound == nil {
		bound = &group{}
		// One that does not compile any more (a newer version stored it) stays: it matches nothing and is told.
		if bound.filter, bound.err = filters.get(source); bound.err == nil {
			for _, c := range bound.filter.conditions {
				bound.paths = append(bound.paths, b.path(s, c.path))
			}
		}
		b.filters[source] = bound
	}
	key := groupKey{a, bound}
	g := b.groups[key]
	if g == nil {
		g = &group{filter: bound.filter, err: bound.err, paths: bound.paths}
		b.groups[key] = g
		a.groups = append(a.groups, g)
	}
	return g
}

func (b *builder) path(s *Snapshot, p path) int32 {
	id, ok := b.paths[p.key]
	if !ok {
		id = int32(len(s.paths))
		s.paths = append(s.paths, p)
		b.paths[p.key] = id
	}
	return id
}

// Get is the endpoint with an id, nil if there is none.
func (s *Snapshot) Get(id string) *Endpoint { return s.byID[id] }

// All is every endpoint, by id. The caller does not change it.
func (s *Snapshot) All() []*Endpoint { return s.order }

// MatchInactive is [Snapshot.MatchQuick] among the endpoints that get nothing now.
func (s *Snapshot) MatchInactive(dst []*Endpoint, workspace, eventType string, view *View, failed func(e *Endpoint, err error), later func(*Endpoint)) []*Endpoint {
	if s.inactive == nil {
		return dst
	}
	return s.inactive.MatchQuick(dst, workspace, eventType, view, failed, later)
}

// Match appends to dst the active endpoints that want an event of this type from this workspace, each once, in an order
// that depends on the endpoints and the event alone. Filters look at view, which is not decoded unless the event meets an
// endpoint with a filter; nil leaves filters out.
//
// failed hears of the endpoints whose filter could not tell, which counts as no match; it may be nil. It does not hear
// of a filter that one of its conditions already rules out (event.data.confidence >= 0.8 where there is no confidence):
// those are what the index skips without looking. [Filter.Match] tells.
func (s *Snapshot) Match(dst []*Endpoint, workspace, eventType string, view *View, failed func(e *Endpoint, err error)) []*Endpoint {
	return s.MatchQuick(dst, workspace, eventType, view, failed, nil)
}

// MatchQuick is [Snapshot.Match] as far as it costs little, so that no filter holds up the events of the others: later
// hears of each endpoint whose filter would take long, or has its turn when the filters of this event have taken long
// already. Whether it wants the event, [Endpoint.WantsContent] tells. A filter that may take long and of which nothing is
// known yet is left for later too. If later is nil nothing is.
func (s *Snapshot) MatchQuick(dst []*Endpoint, workspace, eventType string, view *View, failed func(e *Endpoint, err error), later func(*Endpoint)) []*Endpoint {
	m := s.pool.Get().(*matching)
	defer s.pool.Put(m)
	s.match.Match(workspace+"."+eventType, m.meet)
	m.dst, m.view, m.failed, m.later, m.spent = dst, view, failed, later, 0
	m.run()
	dst = m.dst
	m.reset()
	return dst
}
