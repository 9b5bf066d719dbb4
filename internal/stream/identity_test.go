package stream

import (
	"fmt"
	"sync"
	"sync/atomic"
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
		"no time before":                {at("1", "a"), at("2", "a", 9999), false},
		"no time at all":                {at("1", "a"), at("2", "a"), false},
		"another text":                  {at("1", "a", 0), at("2", "b", 0), true},
	} {
		x := newIdentities(window, nil)
		if !x.claim(c.before) || x.claim(c.before) {
			t.Fatalf("%s: the first is not claimed once", name)
		}
		if got := x.claim(c.e); got != c.fresh {
			t.Errorf("%s: live: new %v, want %v", name, got, c.fresh)
		}
		y := newIdentities(window, []bus.Known{{ID: c.before.ID, Fingerprint: c.before.Fingerprint, Emitted: c.before.Emitted}})
		if got := y.claim(c.e); got != c.fresh {
			t.Errorf("%s: read back: new %v, want %v", name, got, c.fresh)
		}
	}
}

func TestIdentitiesAreBounded(t *testing.T) {
	t.Parallel()
	x := newIdentities(time.Minute, nil)
	claim := func(i int) bool {
		// Each text comes three times, far enough apart to be three insights.
		return x.claim(&event.Event{ID: fmt.Sprint(i), Fingerprint: fmt.Sprint(i / 3), Emitted: emittedAt.Add(time.Duration(i) * time.Hour)})
	}
	const n = 5 * maxKnown
	for i := range n {
		if !claim(i) {
			t.Fatalf("%d is taken for known", i)
		}
	}
	if len(x.ring) != maxKnown || len(x.byID) != maxKnown || len(x.byText) > maxKnown/3+2 {
		t.Errorf("%d in order, %d by id, %d by text: want %d at most", len(x.ring), len(x.byID), len(x.byText), maxKnown)
	}
	for i := n - maxKnown; i < n; i++ {
		if claim(i) {
			t.Fatalf("%d of the newest is forgotten", i)
		}
	}
	if !claim(0) {
		t.Error("the oldest is still known")
	}
}

func TestClaimHasOneWinner(t *testing.T) {
	t.Parallel()
	x := newIdentities(time.Minute, nil)
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				if x.claim(&event.Event{ID: fmt.Sprint(i), Fingerprint: fmt.Sprint(i), Emitted: emittedAt}) {
					won.Add(1)
				}
			}
		})
	}
	all.Wait()
	if won.Load() != 500 {
		t.Errorf("%d claims of 500 insights succeeded", won.Load())
	}
}
