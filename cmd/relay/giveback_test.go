package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestRest goes through seconds: what is allocated in each, and what is spare.
func TestRest(t *testing.T) {
	const mb = 1 << 20
	var r rest
	var h heapUse
	second := func(allocated, held, spare uint64) bool {
		h.allocated += allocated
		h.held, h.objects, h.free = held, held+spare/2, spare-spare/2
		return r.step(h)
	}
	given := func(seconds int, allocated, held, spare uint64) (n int) {
		for range seconds {
			if second(allocated, held, spare) {
				n++
			}
		}
		return n
	}
	if n := given(100, 5*mb, 50*mb, 15*mb); n != 0 {
		t.Errorf("given back %d times though little is spare", n)
	}
	if n := given(100, 5*mb, 400*mb, 99*mb); n != 0 {
		t.Errorf("given back %d times though it is little beside what is held", n)
	}
	if !second(0, 50*mb, 16*mb) {
		t.Error("not given back at once")
	}
	if n := given(9, 32*mb, 50*mb, 0); n != 3 {
		t.Errorf("given back %d times in the 9 seconds after the first", n)
	}
	if n := given(50, 5*mb, 50*mb, 100*mb); n != 0 {
		t.Errorf("given back %d times within a minute of the first", n)
	}
	if n := given(59, 1*mb, 50*mb, 100*mb); n != 4 {
		t.Errorf("given back %d times in the minute after", n)
	}
	if n := given(100, 33*mb, 50*mb, 100*mb); n != 0 {
		t.Errorf("given back %d times while much is done", n)
	}
	if n := given(100, 0, 50*mb, 0); n != 1 {
		t.Errorf("given back %d times when nothing is done after much", n)
	}
}

// TestGiveBack holds much for a moment.
func TestGiveBack(t *testing.T) {
	before := debug.SetGCPercent(400) // nothing is collected by itself
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		giveBack(ctx)
	}()
	much := make([]byte, 256<<20)
	runtime.GC()
	if h := readHeap(); h.held < uint64(len(much)) {
		t.Fatalf("%+v while %d bytes are held", h, len(much))
	}
	runtime.KeepAlive(much)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h := readHeap()
		if h.objects+h.free < 128<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v: not given back", h)
		}
	}
	cancel()
	<-done
}
