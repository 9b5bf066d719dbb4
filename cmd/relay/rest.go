package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restLook is how often the relay is looked at, and atRest how many bytes it allocates from one look to the next at most when it
	// has nothing to do: a thousand quiet streams take 20 KB.
	restLook = time.Second
	atRest   = 128 << 10
	// worthIt is how much garbage makes it worth to collect it then. At the rate of atRest it takes a minute to gather.
	worthIt = 8 << 20
)

// giveBack has the garbage collected, and the memory given back to the system, when there is something to give and the relay has come to
// rest, until ctx ends. By itself Go does it with the next need of memory, which at rest is hours away: what a start, or a
// storm of reconnects, had left stayed.
func giveBack(ctx context.Context) {
	ticker := time.NewTicker(restLook)
	defer ticker.Stop()
	for seen := uint64(0); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		seen, _ = giveBackAtRest(seen)
	}
}

// giveBackAtRest is one look; seen is how many bytes were allocated at the one before, and now at this.
func giveBackAtRest(seen uint64) (now uint64, given bool) {
	now, garbage := allocations()
	if now-seen >= atRest || garbage < worthIt {
		return now, false
	}
	debug.FreeOSMemory()
	now, _ = allocations()
	return now, true
}

// allocations is how many bytes were allocated ever, and how many of them are garbage at most: since the last collection.
func allocations() (allocated, garbage uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if objects, live := s[1].Value.Uint64(), s[2].Value.Uint64(); objects > live {
		garbage = objects - live
	}
	return s[0].Value.Uint64(), garbage
}
