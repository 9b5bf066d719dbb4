package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// spareFloor is from how many bytes on that are not needed memory is given back though not much was done; more where much is held: a
	// quarter.
	spareFloor = 16 << 20
	// restBytes are allocated in a second at most by a relay that has not much to do: about 1,000 webhooks.
	restBytes = garbageFloor
	// collections, so many seconds apart, let go of what is not needed. One does not do: nats-server keeps a block of 4 or 8 MB for 10 s
	// after it was read, then in a [sync.Pool], where it outlives one more. There is not another before spareFloor has been allocated: until
	// then no block was read. The next round begins a minute later at the earliest.
	collections, collectEvery, roundEvery = 4, 3, 60
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
	objects   uint64 // held, and what has been allocated since
	free      uint64 // not used, and not given back
}

func readHeap() heapUse {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return heapUse{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64()}
}

// spare is what is not needed, as far as is known.
func (h heapUse) spare() uint64 { return h.free + h.objects - min(h.objects, h.held) }

// rest knows what is to be done while the relay has not much to do.
type rest struct {
	allocated uint64
	worked    bool   // much was done since the last round: what was held then may not be needed now
	round     int    // seconds until the next round
	left      int    // collections of this one
	next      int    // seconds until the next of them
	collected uint64 // what was allocated by the last of them
}

// step is a second that has passed. It tells whether memory is to be given back now.
func (r *rest) step(h heapUse) bool {
	busy := h.allocated-r.allocated > restBytes
	r.allocated = h.allocated
	r.round, r.next = max(0, r.round-1), max(0, r.next-1)
	if busy {
		r.worked = true
		return false
	}
	if r.left == 0 && r.round == 0 && (r.worked || h.spare() >= max(spareFloor, h.held/4)) {
		r.worked, r.round, r.left, r.next = false, roundEvery, collections, 0
	}
	if r.left == 0 || r.next > 0 || h.allocated-r.collected < spareFloor {
		return false
	}
	r.left, r.next, r.collected = r.left-1, collectEvery, h.allocated
	return true
}
