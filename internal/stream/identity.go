package stream

import (
	"hash/maphash"
	"math"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

const (
	// leastKnown is how many of a workspace's newest insights are read back at least: more than a replay brings again. For
	// a workspace that seldom writes they lie far apart in the log, and reading them costs the server all that lies between.
	leastKnown = 24
	// maxKnown bounds those remembered: 15 minutes of an overlap and a window at 18 insights a second, about 1.5 MB. What is
	// older is looked up in the log.
	maxKnown = 1 << 14
	// clockSlack is how far Nex's clock may be ahead of NATS' for an insight to be found where its time says.
	clockSlack = time.Hour
	// noTime stands for a time that Nex did not give.
	noTime = math.MinInt64
)

// identities is what the log holds of one workspace's newest insights. It answers whether an insight is one of them,
// whichever way it comes. Only the publisher uses it, so that it says at each moment what the log holds.
type identities struct {
	window time.Duration
	seed   maphash.Seed

	// since says that every insight that the log took at or after this time is here; zero for all that it holds.
	since  time.Time
	ring   []identity // number n stands at n % maxKnown
	total  int64
	byID   map[uint64]struct{}
	byText map[uint64]int64 // by fingerprint: the number of the newest
}

// identity is 64-bit hashes in place of texts: among 16,384 entries two collide once in a hundred billion workspaces.
type identity struct {
	id, text uint64
	emitted  int64 // Unix nanoseconds or noTime
	added    int64 // when the log took it, or, for our own, about when
	before   int64 // number of the one before with the same text; -1 = none
}

func newIdentities(window time.Duration, recent bus.Recent) *identities {
	x := &identities{window: window, seed: maphash.MakeSeed(), byID: map[uint64]struct{}{}, byText: map[uint64]int64{}}
	if !recent.Complete && len(recent.Insights) > 0 {
		x.since = recent.Insights[0].Stored
	}
	for _, k := range recent.Insights {
		x.add(ownID(k), k.Fingerprint, k.Emitted, k.Stored)
	}
	return x
}

func (x *identities) hash(s string) uint64 { return maphash.String(x.seed, s) }

func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return noTime
	case t.Year() < 1700: // UnixNano ends in 1677 and 2262
		return math.MinInt64 + 1
	case t.Year() > 2200:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// ownID is the id that an event of the log has in its workspace. Its message id is another where a second workspace has
// used the same, see publisher.collision.
func ownID(k bus.Known) string {
	workspace, _, _ := event.SplitSubject(k.Subject)
	return plainID(workspace, k.ID)
}

func plainID(workspace, id string) string { return strings.TrimPrefix(id, workspace+"/") }

func (x *identities) holdsID(id string) bool {
	_, known := x.byID[x.hash(id)]
	return known
}

// holds tells whether an insight is one of those known: the same id, or the same workspace, type and content at the same
// time, see [identities.sameTime].
func (x *identities) holds(e *event.Event) bool {
	if x.holdsID(e.ID) || x.holdsID(plainID(e.Workspace, e.ID)) {
		return true
	}
	text, emitted := x.hash(e.Fingerprint), nanos(e.Emitted)
	n, known := x.byText[text]
	for known && n >= 0 && n >= x.total-int64(len(x.ring)) {
		one := &x.ring[n%maxKnown]
		if x.sameTime(one.emitted, one.added, emitted) {
			return true
		}
		n = one.before
	}
	return false
}

// sameTime tells whether two insights of one text are the same by their times: at most the window apart, or no time on one
// side. But one that the log took without a time is none that was emitted later.
func (x *identities) sameTime(known, stored, emitted int64) bool {
	switch {
	case emitted == noTime:
		return true
	case known == noTime:
		return emitted <= stored+int64(x.window+clockSlack)
	}
	apart := uint64(max(known, emitted)) - uint64(min(known, emitted)) // no int64 if they lie far apart
	return apart <= uint64(x.window)
}

// covers tells whether what it does not hold of this time is not in the log either.
func (x *identities) covers(emitted time.Time) bool {
	return x.since.IsZero() || !emitted.IsZero() && !x.lookFrom(emitted).Before(x.since)
}

// coversLive is covers of an insight that came over the stream: only one that comes late may be in the log without being here,
// and to look for each there would cost more than all the rest.
func (x *identities) coversLive(emitted, now time.Time) bool {
	late := emitted.Before(now.Add(-x.window - readBackSlack))
	return !late || x.since.IsZero() || emitted.IsZero() || !emitted.Add(-x.window).Before(x.since)
}

// lookFrom is the earliest time at which the log may have taken what is the same as an insight of this time. No log is older
// than Unix time, and JetStream cannot be asked from before the year 1.
func (x *identities) lookFrom(emitted time.Time) time.Time {
	if from := emitted.Add(-x.window - clockSlack); from.After(time.Unix(0, 0)) {
		return from
	}
	return time.Unix(0, 0)
}

// add remembers one and forgets the oldest when there are too many.
func (x *identities) add(id, fingerprint string, emitted, now time.Time) {
	one := identity{id: x.hash(id), text: x.hash(fingerprint), emitted: nanos(emitted), added: now.UnixNano(), before: -1}
	if n, known := x.byText[one.text]; known {
		one.before = n
	}
	if len(x.ring) < maxKnown {
		x.ring = append(x.ring, one)
	} else {
		x.forget(x.total - maxKnown)
		x.ring[x.total%maxKnown] = one
	}
	x.byID[one.id] = struct{}{}
	x.byText[one.text] = x.total
	x.total++
}

// forget makes room where number n stands. What was added after it is known on.
func (x *identities) forget(n int64) {
	old := &x.ring[n%maxKnown]
	delete(x.byID, old.id)
	if x.byText[old.text] == n {
		delete(x.byText, old.text)
	}
	if since := time.Unix(0, x.ring[(n+1)%maxKnown].added); since.After(x.since) {
		x.since = since
	}
}
