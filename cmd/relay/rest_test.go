package main

import (
	"runtime/debug"
	"testing"
)

// left keeps what is garbage next on the heap.
var left []byte

func TestGiveBackAtRest(t *testing.T) {
	before := debug.SetGCPercent(-1) // nobody else collects
	defer debug.SetGCPercent(before)
	debug.FreeOSMemory()
	seen, _ := allocations()
	if _, given := giveBackAtRest(seen); given {
		t.Error("given back though there is nothing to give")
	}
	left = make([]byte, 2*worthIt)
	left = nil
	seen, given := giveBackAtRest(seen)
	if given {
		t.Error("given back while the relay works")
	}
	if seen, given = giveBackAtRest(seen); !given {
		t.Error("not given back at rest")
	}
	if _, garbage := allocations(); garbage >= worthIt {
		t.Errorf("%d bytes of garbage are left", garbage)
	}
	if _, given = giveBackAtRest(seen); given {
		t.Error("given back twice")
	}
}
