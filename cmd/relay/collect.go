package main

import (
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	// gcPercent is Go's GOGC for the daemon, where the environment does not set it. Most of its memory is streams that sit
	// still; with Go's own 100 a storm of reconnects raised it by 22 %, with 50 by 16 %.
	gcPercent = 50
	// leastGarbage and mostGarbage are the bounds of how much may gather however little is held, in bytes. With GOGC alone a relay
	// that holds 20 MB collected at every 10 MB, twenty times a second under load. Each collection has the server inside forget
	// the blocks that it has decompressed, and read them again: garbage of 8 to 16 MB a block, which brings the next collection
	// nearer. A webhook took 83 µs of processor time with 32 MB, 66 with 128, 64 with 256.
	leastGarbage, mostGarbage = 32 << 20, 128 << 20
	// worthAttempts is how many attempts are to be made from one collection to the next, and steady by how many bytes more than those
	// before it may find in use, for more than leastGarbage to gather. Where much comes to stay, as when streams connect, it stands
	// scattered among what goes, and keeps its pages: a thousand streams took 57 MB instead of 32. What those before found counts
	// forgetful less with each: blocks of the log come and go.
	worthAttempts, steady, forgetful = 200, 3 << 20, 1 << 20
	// garbageShare of the memory that the process may have is garbage at most, 1 in so many.
	garbageShare = 8
	// leastHeld is what Go takes as held where less is: its first collection is at this much by GOGC, and none is sooner.
	leastHeld = 4 << 20
)

// collectGarbage has Go collect when garbage is gcPercent of what is held, or leastGarbage where that is more; or what [garbageFloor] says
// while webhooks are delivered, of which attempts answers how many were made so far.
// GOMEMLIMIT has it collect sooner, as ever. GOGC in the environment has its way instead: then it answers false. stop leaves things
// as they are then.
func collectGarbage(vars []string, attempts func() uint64) (stop func(), ok bool) {
	for _, kv := range vars {
		if strings.HasPrefix(kv, "GOGC=") {
			return func() {}, false
		}
	}
	stopped := new(atomic.Bool)
	c := &collection{floor: garbageFloor(min(debug.SetMemoryLimit(-1), containerLimit(os.ReadFile))), attempts: attempts, stopped: stopped}
	runtime.GC() // GOGC counts from what the last one found, and the configuration has been read since
	c = c.next(inUse())
	debug.SetGCPercent(c.percent)
	c.after()
	return func() { stopped.Store(true) }, true // not of c, which must not be reachable
}

// garbageFloor is how many bytes of garbage may gather in a process that may have so many bytes of memory.
func garbageFloor(limit int64) int64 {
	return min(max(limit/garbageShare, leastGarbage), mostGarbage)
}

// containerLimit is how many bytes the control group of the process may have, and those that it is in: memory.max of cgroup v2,
// memory.limit_in_bytes of v1; math.MaxInt64 where nothing says so. In a container the path that the process knows may be the host's,
// whose end stands at the root there.
func containerLimit(read func(string) ([]byte, error)) int64 {
	limit := int64(math.MaxInt64)
	groups, err := read("/proc/self/cgroup")
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy, controllers, path
		if len(fields) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		if fields[1] != "" {
			if !slices.Contains(strings.Split(fields[1], ","), "memory") {
				continue
			}
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			if text, err := read(path.Join(root, group, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // not "max"
					limit = min(limit, n)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return limit
}

// collection is not reachable, so that each collection finds it: its finalizer runs after each.
type collection struct {
	floor    int64 // bytes
	attempts func() uint64
	made     uint64 // of them, by the collection before
	held     uint64 // bytes in use, the most by the collections before
	percent  int
	// What has no pointer and is as small shares its memory with other objects, and has no finalizer run while one of them lives:
	// then GOGC stayed at what a small heap had, and 100 MB that are held had 800 MB of garbage.
	stopped *atomic.Bool
}

// percentFor is the GOGC at which as much garbage gathers as may, where so many bytes are held.
func percentFor(held uint64, floor int64) int {
	return max(gcPercent, int(uint64(floor)*100/max(held, leastHeld)))
}

// after sets GOGC by what each collection has left.
func (c *collection) after() {
	runtime.SetFinalizer(c, func(c *collection) {
		if c.stopped.Load() {
			return
		}
		next := c.next(inUse())
		if next.percent != c.percent {
			debug.SetGCPercent(next.percent)
		}
		next.after()
	})
}

// inUse is how many bytes the last collection has found in use, as Go reckons GOGC of them.
func inUse() uint64 {
	held := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(held)
	return held[0].Value.Uint64() + held[1].Value.Uint64() + held[2].Value.Uint64()
}

// next is what is to be after a collection that has found so many bytes in use.
func (c *collection) next(held uint64) *collection {
	next := &collection{floor: c.floor, attempts: c.attempts, made: c.attempts(), held: max(held, c.held-min(c.held, forgetful)), stopped: c.stopped}
	floor := c.floor
	if held > c.held+steady || next.made < c.made+worthAttempts {
		floor = leastGarbage
	}
	next.percent = percentFor(held, floor)
	return next
}
