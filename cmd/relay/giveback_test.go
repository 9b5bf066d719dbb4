package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// TestRest goes through seconds: what is allocated in each, and what is held.
func TestRest(t *testing.T) {
	const mb = 1 << 20
	var r rest
	var h heapUse
	given := func(seconds int, allocated, held uint64) (at []int) {
		for i := range seconds {
			h.allocated, h.held = h.allocated+allocated, held
			if r.step(h) {
				at = append(at, i)
			}
		}
		return at
	}
	for _, do := range []struct {
		what            string
		seconds         int
		allocated, held uint64
		want            []int
	}{
		{"much is done", 100, 33 * mb, 50 * mb, nil},
		{"less is done", 18, 32 * mb, 50 * mb, []int{0, 5, 10, 15}},
		{"much again", 100, 33 * mb, 50 * mb, nil},
		{"nothing is done", 1000, 0, 50 * mb, []int{0}},
		{"little is done", 50, mb, 50 * mb, []int{15, 31, 47}},
		{"much is held", 200, mb, 400 * mb, []int{97, 197}},
	} {
		if got := given(do.seconds, do.allocated, do.held); !slices.Equal(got, do.want) {
			t.Errorf("%s: given back at %v, not %v", do.what, got, do.want)
		}
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
		var m runtime.MemStats
		if runtime.ReadMemStats(&m); m.HeapSys-m.HeapReleased < 128<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of %d were given back", m.HeapReleased, m.HeapSys)
		}
	}
	cancel()
	<-done
}
