package stream

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// maxKnown bounds the insights of a workspace that are remembered: far more than a replay and an overlap bring again.
const maxKnown = 2048

// readBack is how many of them are read from the log at the start.
const readBack = 1024

// identities is what the log holds of one workspace's newest insights. It answers whether an insight is one of them,
// whichever way it comes. It is used by the live reader and the gap filler at once.
type identities struct {
	window time.Duration
	seed   maphash.Seed

	mu     sync.Mutex
	ring   []identity // oldest at next, once it is full
	next   int
	byID   map[uint64]struct{}
	byText map[uint64][]time.Time // by fingerprint: times of emission, zero for none
}

// identity is 64-bit hashes in place of texts: with 2,048 entries two of them collide once in 10^13 workspaces.
type identity struct {
	id, text uint64
	emitted  time.Time
}

func newIdentities(window time.Duration, known []bus.Known) *identities {
	x := &identities{window: window, seed: maphash.MakeSeed(), byID: map[uint64]struct{}{}, byText: map[uint64][]time.Time{}}
	for _, k := range known {
		x.add(identity{id: x.hash(k.ID), text: x.hash(k.Fingerprint), emitted: k.Emitted})
	}
	return x
}

func (x *identities) hash(s string) uint64 { return maphash.String(x.seed, s) }

// claim tells whether an insight is new, and remembers it if so: the same id, or the same workspace, type and content
// with times at most the window apart (or no time on either side), is the same insight.
func (x *identities) claim(e *event.Event) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	one := identity{id: x.hash(e.ID), text: x.hash(e.Fingerprint), emitted: e.Emitted}
	if _, known := x.byID[one.id]; known {
		return false
	}
	for _, at := range x.byText[one.text] {
		if at.IsZero() || one.emitted.IsZero() || at.Sub(one.emitted).Abs() <= x.window {
			return false
		}
	}
	x.add(one)
	return true
}

// add remembers one and forgets the oldest when there are too many; mu is held.
func (x *identities) add(one identity) {
	if len(x.ring) < maxKnown {
		x.ring = append(x.ring, one)
	} else {
		x.forget(x.ring[x.next])
		x.ring[x.next] = one
		x.next = (x.next + 1) % maxKnown
	}
	x.byID[one.id] = struct{}{}
	x.byText[one.text] = append(x.byText[one.text], one.emitted)
}

func (x *identities) forget(one identity) {
	delete(x.byID, one.id)
	times := x.byText[one.text][1:] // the oldest of its text is the oldest of all
	if len(times) == 0 {
		delete(x.byText, one.text)
		return
	}
	x.byText[one.text] = times
}
