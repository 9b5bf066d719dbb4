package stream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Minute
	at := func(id, text string, minutes ...int) *event.Event {
		e := &event.Event{ID: id, Fingerprint: text}
		for _, m := range minutes {
			e.Emitted = emittedAt.Add(time.Duration(m) * time.Minute)
		}
		return e
	}
	for name, c := range map[string]struct {
		before, e *event.Event
		fresh     bool
	}{
		"same id":                       {at("1", "a", 0), at("1", "b", 999), false},
		"same text at once":             {at("1", "a", 0), at("2", "a", 0), false},
		"same text at the window's end": {at("1", "a", 0), at("2", "a", 10), false},
		"same text earlier":             {at("1", "a", 0), at("2", "a", -10), false},
		"same text beyond the window":   {at("1", "a", 0), at("2", "a", 11), true},
		"same text before the window":   {at("1", "a", 0), at("2", "a", -11), true},
		"no time now":                   {at("1", "a", 0), at("2", "a"), false},
		"no time before":                {at("1", "a"), at("2", "a", 70), false},
		"no time before, much later":    {at("1", "a"), at("2", "a", 71), true},
		"no time before, much earlier":  {at("1", "a"), at("2", "a", -9999), false},
		"in the year 9999":              {at("1", "a", 0), &event.Event{ID: "2", Fingerprint: "a", Emitted: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, true},
		"and in the year 1":             {at("1", "a", 0), &event.Event{ID: "2", Fingerprint: "a", Emitted: time.Time{}.Add(1)}, true},
		"an id under its workspace":     {&event.Event{ID: "acme/1", Fingerprint: "a"}, &event.Event{ID: "acme/1", Fingerprint: "b", Workspace: "acme"}, false},
		"no time at all":                {at("1", "a"), at("2", "a"), false},
		"another text":                  {at("1", "a", 0), at("2", "b", 0), true},
	} {
		x := newIdentities(window, bus.Recent{Complete: true})
		if !x.take(c.before) || x.take(c.before) {
			t.Fatalf("%s: the first is not new once", name)
		}
		if got := x.take(c.e); got != c.fresh {
			t.Errorf("%s: live: new %v, want %v", name, got, c.fresh)
		}
		y := newIdentities(window, bus.Recent{Insights: []bus.Known{{ID: c.before.ID, Fingerprint: c.before.Fingerprint, Emitted: c.before.Emitted, Stored: emittedAt, Subject: "nex.acme.insight.risk"}}})
		if got := y.take(c.e); got != c.fresh {
			t.Errorf("%s: read back: new %v, want %v", name, got, c.fresh)
		}
	}
}

// take is what the publisher does with an insight, without the log.
func (x *identities) take(e *event.Event) (fresh bool) {
	if x.holds(e) {
		return false
	}
	stored := e.Emitted
	if stored.IsZero() {
		stored = emittedAt
	}
	x.add(e.ID, e.Fingerprint, e.Emitted, stored)
	return true
}

// An id that another workspace has used before stands in the log under the name of its own, see publisher.collision.
func TestIDsReadBackCompareEqual(t *testing.T) {
	t.Parallel()
	x := newIdentities(time.Minute, bus.Recent{Insights: []bus.Known{{ID: "acme/ins_1", Subject: "nex.acme.insight.risk"}, {ID: "beta/ins_2", Subject: "nex.acme.insight.risk"}}})
	for id, want := range map[string]bool{"ins_1": true, "acme/ins_1": true, "ins_2": false, "beta/ins_2": true} {
		if got := x.holds(&event.Event{Workspace: "acme", ID: id, Fingerprint: id}); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}

func TestIdentitiesAreBounded(t *testing.T) {
	t.Parallel()
	x := newIdentities(time.Minute, bus.Recent{Complete: true})
	take := func(i int) bool {
		// Each text comes three times, far enough apart to be three insights.
		return x.take(&event.Event{ID: fmt.Sprint(i), Fingerprint: fmt.Sprint(i / 3), Emitted: emittedAt.Add(time.Duration(i) * time.Hour)})
	}
	const n = 3*maxKnown + 5
	for i := range n {
		if !take(i) {
			t.Fatalf("%d is taken for known", i)
		}
	}
	if len(x.ring) != maxKnown || len(x.byID) != maxKnown || len(x.byText) > maxKnown/3+2 {
		t.Errorf("%d in order, %d by id, %d by text: want %d at most", len(x.ring), len(x.byID), len(x.byText), maxKnown)
	}
	oldest := n - maxKnown
	if at := emittedAt.Add(time.Duration(oldest) * time.Hour); !x.since.Equal(at) {
		t.Errorf("known since %v, want %v", x.since, at)
	}
	for i := oldest; i < n; i++ {
		if take(i) {
			t.Fatalf("%d of the newest is forgotten", i)
		}
	}
	if !take(0) {
		t.Error("the oldest is still known")
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Minute
	part := newIdentities(window, bus.Recent{Insights: []bus.Known{{ID: "1", Stored: emittedAt}}})
	all := newIdentities(window, bus.Recent{Insights: []bus.Known{{ID: "1", Stored: emittedAt}}, Complete: true})
	for _, c := range []struct {
		at   time.Time
		want bool
	}{
		{emittedAt.Add(window + clockSlack), true},
		{emittedAt.Add(window + clockSlack - 1), false},
		{time.Time{}, false},
	} {
		if got := part.covers(c.at); got != c.want {
			t.Errorf("a part covers %v: %v", c.at, got)
		}
		if !all.covers(c.at) {
			t.Errorf("all of the log does not cover %v", c.at)
		}
	}
}
