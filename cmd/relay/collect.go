package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
)

const (
	// gcPercent is Go's GOGC for the daemon, where the environment does not set it. Most of its memory is streams that sit
	// still; with Go's own 100 a storm of reconnects raised it by 22 %, with 50 by 16 %.
	gcPercent = 50
	// garbageFloor is how many bytes of garbage may gather however little is held. With GOGC alone a relay that holds 20 MB
	// collected at every 10 MB, twenty times a second under load: a quarter of its processor time.
	garbageFloor = 32 << 20
	// leastHeld is what Go takes as held where less is: its first collection is at this much by GOGC, and none is sooner.
	leastHeld = 4 << 20
)

// collectGarbage has Go collect when garbage is gcPercent of what is held, or garbageFloor where that is more. GOGC or
// GOMEMLIMIT in the environment have their way instead: then it answers false.
func collectGarbage(vars []string) bool {
	for _, kv := range vars {
		if strings.HasPrefix(kv, "GOGC=") || strings.HasPrefix(kv, "GOMEMLIMIT=") {
			return false
		}
	}
	percent := gcPercentFor(0)
	debug.SetGCPercent(percent)
	afterCollection(&collection{percent: percent})
	return true
}

// gcPercentFor is the GOGC at which as much garbage gathers as may, where so many bytes are held.
func gcPercentFor(held uint64) int {
	return max(gcPercent, int(garbageFloor*100/max(held, leastHeld)))
}

// collection is not reachable, so that each collection finds it: its finalizer runs after each.
type collection struct {
	percent int
	// What has no pointer and is as small shares its memory with other objects, and has no finalizer run while one of them lives:
	// then GOGC stayed at what a small heap had, and 100 MB that are held had 800 MB of garbage.
	_ *byte
}

// afterCollection sets GOGC by what each collection has left.
func afterCollection(c *collection) {
	runtime.SetFinalizer(c, func(c *collection) {
		// The same that Go reckons GOGC of.
		held := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
		metrics.Read(held)
		percent := gcPercentFor(held[0].Value.Uint64() + held[1].Value.Uint64() + held[2].Value.Uint64())
		if percent != c.percent {
			debug.SetGCPercent(percent)
		}
		afterCollection(&collection{percent: percent})
	})
}
