package fanout

import (
	"context"
	"slices"

	"github.com/nex-crm/relay/internal/endpoint"
)

// audience is who wants an event: the endpoints that are to get it, and those that are not active but keep their place.
type audience struct {
	active, asleep []*endpoint.Endpoint
	// unasked are those among them whose filter is slow: it is asked where the delivery is, in the endpoint's own lane.
	unasked map[string]bool
	view    *endpoint.View
}

// match is the audience of an event. Ordered endpoints have a way of their own, unprepared those that may not have it yet. One
// that was made after the event gets it not.
func (f *Fanout) match(m *message) (to audience, unprepared []*endpoint.Endpoint) {
	place := f.matched.begin(m.sequence)
	snapshot, view := f.cfg.Endpoints.Snapshot(), endpoint.NewView(m.workspace, m.data)
	f.matched.end(place, snapshot.Generation)
	to.view = view
	var late []*endpoint.Endpoint
	later := func(e *endpoint.Endpoint) { late = append(late, e) }
	all := func(now []*endpoint.Endpoint) []*endpoint.Endpoint {
		if len(late) > 0 && to.unasked == nil {
			to.unasked = map[string]bool{}
		}
		for _, e := range late {
			to.unasked[e.ID] = true
		}
		now = append(now, late...)
		late = nil
		return now
	}
	other := func(e *endpoint.Endpoint) bool {
		if e.Ordered && !e.State.InOrder {
			unprepared = append(unprepared, e)
		}
		return e.Ordered || e.MadeAfter(m.sequence, m.stored)
	}
	failed := func(e *endpoint.Endpoint, err error) { f.filterFailed(e, m, err) }
	to.active = slices.DeleteFunc(all(snapshot.MatchQuick(nil, m.workspace, m.eventType, view, failed, later)), other)
	to.asleep = slices.DeleteFunc(all(snapshot.MatchInactive(nil, m.workspace, m.eventType, view, failed, later)), other)
	return to, unprepared
}

// prepare begins the order of endpoints before an event for them is acknowledged: a new consumer begins behind the acknowledged,
// and one that nobody has noted is not looked at again if the order is switched off soon.
func (f *Fanout) prepare(ctx context.Context, list []*endpoint.Endpoint) error {
	for _, e := range list {
		if err := f.beginOrder(ctx, e); err != nil {
			return err
		}
	}
	return nil
}
