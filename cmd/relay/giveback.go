package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// stirred is how much must have been allocated since memory was last given back; more where much is held: a quarter.
	stirred = 16 << 20
	// restBytes are allocated in a second at most by a relay that has not much to do: about 1,000 webhooks.
	restBytes = garbageFloor
	// givePause, in seconds, is between giving back twice. Once does not do: nats-server keeps a block of 4 or 8 MB for 10 s after it was
	// read, then in a [sync.Pool], where it outlives one more collection.
	givePause = 5
)

// giveBack gives memory back to the system when the relay has come to rest, until ctx ends. Go itself keeps what it had at the peak: it
// collects by what is allocated, which at rest is nothing, and gives the system only what is above the heap at which it would collect.
func giveBack(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var r rest
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if r.step(readHeap()) {
			debug.FreeOSMemory() // collects, too
		}
	}
}

// heapUse is what is known of the heap, in bytes.
type heapUse struct {
	allocated uint64 // ever
	held      uint64 // found to be needed by the last collection
}

func readHeap() heapUse {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return heapUse{s[0].Value.Uint64(), s[1].Value.Uint64()}
}

// rest knows what is to be done while the relay has not much to do.
type rest struct {
	allocated uint64
	given     uint64 // allocated when memory was last given back
	left      int    // seconds until it may be again
}

// step is a second that has passed. It tells whether memory is to be given back now.
func (r *rest) step(h heapUse) bool {
	busy := h.allocated-r.allocated > restBytes
	r.allocated = h.allocated
	r.left = max(0, r.left-1)
	if busy || r.left > 0 || h.allocated-r.given < max(stirred, h.held/4) {
		return false
	}
	r.given, r.left = h.allocated, givePause
	return true
}
