package fanout

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
)

// TestCrowd: for room is waited only while no lane has nothing to do.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		room := semaphore.NewWeighted(1)
		enter := func() <-chan bool {
			got := make(chan bool, 1)
			go func() { got <- c.enter(t.Context(), room) }()
			synctest.Wait()
			return got
		}
		waits := func(got <-chan bool) bool { return len(got) == 0 }

		if !c.enter(t.Context(), room) {
			t.Fatal("there was room")
		}
		c.hungry(time.Now()) // while nobody waits it says nothing
		first := enter()
		if !waits(first) {
			t.Fatal("did not wait although every lane has enough to do")
		}
		room.Release(1)
		if !<-first {
			t.Fatal("did not get the room that came free")
		}

		second, third := enter(), enter()
		if !waits(second) || !waits(third) {
			t.Fatal("did not wait although every lane has enough to do")
		}
		c.hungry(time.Now())
		if <-second || <-third {
			t.Fatal("got room that there was not")
		}
		if got := enter(); waits(got) || <-got {
			t.Fatal("waited although a lane had nothing to do a moment ago")
		}
		time.Sleep(hungryTime)
		fourth := enter()
		if !waits(fourth) {
			t.Fatal("does not wait any more although every lane has had enough to do since")
		}
		room.Release(1)
		if !<-fourth {
			t.Fatal("did not get the room that came free")
		}
	})
}

// TestCrowdEnds: who waits leaves when its context ends, and those after it wait again.
func TestCrowdEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		room := semaphore.NewWeighted(1)
		c.enter(t.Context(), room)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan bool, 1)
		go func() { got <- c.enter(ctx, room) }()
		synctest.Wait()
		cancel()
		if <-got {
			t.Fatal("got room that there was not")
		}
		go func() { got <- c.enter(t.Context(), room) }()
		synctest.Wait()
		room.Release(1)
		if !<-got {
			t.Fatal("did not get the room that came free")
		}
	})
}
