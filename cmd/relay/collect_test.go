package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// neighbours are small objects that live on.
var neighbours []*int32

// TestCollectionsAreFound has small objects beside what is to be found by each collection.
func TestCollectionsAreFound(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	defer func() { neighbours = nil }()
	for range 50 {
		neighbours = append(neighbours, new(int32))
		c := &collection{}
		neighbours = append(neighbours, new(int32))
		found := make(chan struct{})
		runtime.SetFinalizer(c, func(*collection) { close(found) })
		runtime.GC()
		select {
		case <-found:
		case <-time.After(10 * time.Second):
			t.Fatal("a collection has not been found")
		}
	}
}

func TestGCPercentFor(t *testing.T) {
	for held, want := range map[uint64]int{0: 800, 4 << 20: 800, 32 << 20: 100, 64 << 20: 50, 640 << 20: 50} {
		if got := gcPercentFor(held); got != want {
			t.Errorf("%d bytes held: GOGC %d, not %d", held, got, want)
		}
	}
}

// TestCollectGarbage holds little, then much: the next collection comes after the floor, then after half of what is held.
func TestCollectGarbage(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	collectGarbage([]string{"GOGC=100"})
	if got := debug.SetGCPercent(100); got != 100 {
		t.Fatalf("GOGC is %d though the environment says 100", got)
	}
	collectGarbage(nil)
	goal := func() (held, garbage int) {
		s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
		metrics.Read(s)
		held = int(s[0].Value.Uint64())
		return held, int(s[1].Value.Uint64()) - held
	}
	becomes := func(what string, ok func(held, garbage int) bool) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			runtime.GC()
			held, garbage := goal()
			if ok(held, garbage) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d bytes are held, garbage may be %d", what, held, garbage)
			}
			runtime.Gosched()
		}
	}
	near := func(got, want int) bool { return got > want*8/10 && got < want*12/10 }
	becomes("little", func(held, garbage int) bool { return held < leastHeld && near(held+garbage, garbageFloor) })
	much := make([]byte, 200<<20)
	becomes("much", func(held, garbage int) bool { return held > len(much) && near(garbage, held*gcPercent/100) })
	runtime.KeepAlive(much)
	becomes("little again", func(held, garbage int) bool { return held < leastHeld && near(held+garbage, garbageFloor) })
}
