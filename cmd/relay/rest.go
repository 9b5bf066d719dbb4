package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restLook is how often the relay is looked at.
	restLook = time.Second
	// atRest is how many bytes it allocates from one look to the next at most when it has nothing to do: a thousand quiet streams
	// take 20 KB. Then worthIt of garbage is collected, which gathers in a minute.
	atRest, worthIt = 128 << 10, 8 << 20
	// calm is the same for one that has little to do. More garbage than leastGarbage is for a relay whose collections cost others.
	calm = leastGarbage / 4
	// calmLooks is after how many calm looks what was busy is over: the server inside lets go of a block ten seconds
	// after it was read, the fanout of an event that it read again too.
	calmLooks = 12
)

// giveBack has the garbage collected, and the memory given back to the system, when there is something to give and the relay has
// little to do, until ctx ends. By itself Go does it with the next need of memory, which at rest is hours away: what a start, a
// storm of reconnects or a backlog had left stayed.
func giveBack(ctx context.Context) {
	ticker := time.NewTicker(restLook)
	defer ticker.Stop()
	for r := (rest{}); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		r.look()
	}
}

// rest is what the looks have seen: bytes allocated up to the last one, how many in a row have found the relay calm, and whether what
// was busy before has been tidied up after.
type rest struct {
	seen  uint64
	looks int
	tidy  bool
}

func (r *rest) look() (given bool) {
	now, garbage, held := allocations()
	grown := now - r.seen
	r.seen = now
	if r.looks++; grown >= calm {
		r.looks, r.tidy = 0, false
	}
	switch {
	case r.looks >= calmLooks && !r.tidy:
		r.tidy = true
		runtime.GC() // what is pooled outlives one collection
	case grown < atRest && garbage >= worthIt, grown < calm && garbage >= max(leastGarbage, held*gcPercent/100):
	default:
		return false
	}
	debug.FreeOSMemory()
	r.seen, _, _ = allocations()
	return true
}

// allocations is how many bytes were allocated ever, how many of them are garbage at most, since the last collection, and how many
// that one has found in use.
func allocations() (allocated, garbage, held uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	objects, live := s[1].Value.Uint64(), s[2].Value.Uint64()
	if objects > live {
		garbage = objects - live
	}
	return s[0].Value.Uint64(), garbage, live
}
