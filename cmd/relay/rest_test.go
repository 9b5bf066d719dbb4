package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// left keeps what is garbage next on the heap.
var left []byte

func waste(n int) {
	left = make([]byte, n)
	left = nil
}

func TestGiveBack(t *testing.T) {
	before := debug.SetGCPercent(-1) // nobody else collects
	defer debug.SetGCPercent(before)
	debug.FreeOSMemory()
	var r rest
	looks := func(what string, want bool) {
		t.Helper()
		if r.look() != want {
			t.Errorf("%s: given back %t", what, !want)
		}
	}
	r.look()
	looks("nothing to give", false)
	waste(calm + worthIt)
	looks("while the relay works", false)
	looks("at rest", true)
	if _, garbage, _ := allocations(); garbage >= worthIt {
		t.Errorf("%d bytes of garbage are left", garbage)
	}
	looks("twice", false)
	for range leastGarbage/(calm/2) - 1 {
		waste(calm / 2)
		looks("with little to do and little to give", false)
	}
	waste(calm * 3 / 4)
	looks("with little to do", true)
	waste(leastGarbage)
	looks("while the relay works", false)
}

// TestGiveBackOfMuch: who holds much lets more gather, since to collect it costs more.
func TestGiveBackOfMuch(t *testing.T) {
	before := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(before)
	much := make([]byte, 4*leastGarbage)
	debug.FreeOSMemory()
	r := rest{tidy: true}
	r.look()
	r.tidy = true
	wasted := 0
	for given := false; !given && wasted < 3*leastGarbage; given = r.look() {
		waste(calm / 2)
		wasted += calm / 2
	}
	if wasted < 3*leastGarbage/2 || wasted >= 3*leastGarbage {
		t.Errorf("given back at %d bytes of garbage", wasted)
	}
	runtime.KeepAlive(much)
}

// TestGiveBackLater: what was let go of without a word, after the last collection, is collected when the relay has been calm for a
// while, once.
func TestGiveBackLater(t *testing.T) {
	before := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(before)
	debug.FreeOSMemory()
	var r rest
	waste(2 * worthIt)
	r.look()
	given := 0
	for range 3 * calmLooks {
		waste(atRest)
		if r.look() {
			given++
		}
	}
	if given != 1 {
		t.Errorf("given back %d times", given)
	}
	r.look()
	waste(2 * calm)
	r.look()
	for i := range calmLooks - 1 {
		waste(atRest)
		if r.look() {
			t.Fatalf("given back after %d calm looks", i+1)
		}
	}
	waste(atRest)
	if !r.look() {
		t.Error("not given back after the relay had been busy again")
	}
}
