package main

import (
	"math"
	"os"
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
		case <-time.After(patience):
			t.Fatal("a collection has not been found")
		}
	}
}

func TestPercentFor(t *testing.T) {
	for _, tt := range []struct {
		floor int64
		held  uint64
		want  int
	}{
		{32 << 20, 0, 800}, {32 << 20, 4 << 20, 800}, {32 << 20, 32 << 20, 100}, {32 << 20, 64 << 20, 50}, {32 << 20, 640 << 20, 50},
		{128 << 20, 4 << 20, 3200}, {128 << 20, 64 << 20, 200}, {128 << 20, 256 << 20, 50}, {128 << 20, 1 << 30, 50},
	} {
		if got := percentFor(tt.held, tt.floor); got != tt.want {
			t.Errorf("%d bytes held, garbage of %d: GOGC %d, not %d", tt.held, tt.floor, got, tt.want)
		}
	}
}

// TestNextCollection: much garbage may gather only while many webhooks are delivered, and no more comes to stay.
func TestNextCollection(t *testing.T) {
	var made uint64
	c := &collection{floor: mostGarbage, attempts: func() uint64 { return made }}
	for i, tt := range []struct {
		attempts uint64 // since the one before
		held     uint64 // MB
		want     int64  // MB of garbage
	}{
		{0, 40, 32}, {0, 40, 32}, {199, 40, 32}, {200, 40, 128}, {5000, 43, 128}, // busy
		{5000, 50, 32}, {5000, 60, 32}, {5000, 62, 128}, // it grew
		{5000, 50, 128}, {5000, 61, 128}, {5000, 50, 128}, {5000, 62, 128}, // blocks come and go
		{0, 62, 32},
	} {
		made += tt.attempts
		c = c.next(tt.held << 20)
		if want := percentFor(tt.held<<20, tt.want<<20); c.percent != want {
			t.Errorf("%d: GOGC %d, not %d, for %d MB of garbage", i, c.percent, want, tt.want)
		}
	}
}

// none is for a relay that has nobody to deliver to.
func none() uint64 { return 0 }

func TestGarbageFloor(t *testing.T) {
	for limit, want := range map[int64]int64{0: 32 << 20, 128 << 20: 32 << 20, 512 << 20: 64 << 20, 1 << 30: 128 << 20, 1 << 40: 128 << 20, math.MaxInt64: 128 << 20} {
		if got := garbageFloor(limit); got != want {
			t.Errorf("a limit of %d: garbage of %d, not %d", limit, got, want)
		}
	}
}

func TestContainerLimit(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no control groups": {nil, math.MaxInt64},
		"not of memory":     {map[string]string{"/proc/self/cgroup": "9:cpu:/x\n", "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1"}, math.MaxInt64},
		"version 1":         {map[string]string{"/proc/self/cgroup": "9:hugetlb,memory:/x\n0::/\n", "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "209715200\n"}, 200 << 20},
		"the host's path":   {map[string]string{"/proc/self/cgroup": "0::/kubepods/pod1/c1\n", "/sys/fs/cgroup/memory.max": "209715200\n"}, 200 << 20},
		"a parent's":        {map[string]string{"/proc/self/cgroup": "0::/a.slice/b\n", "/sys/fs/cgroup/a.slice/b/memory.max": "max\n", "/sys/fs/cgroup/a.slice/memory.max": "209715200\n"}, 200 << 20},
		"no limit":          {map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "max\n"}, math.MaxInt64},
		"no file":           {map[string]string{"/proc/self/cgroup": "0::/\n"}, math.MaxInt64},
		"a container":       {map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30},
		"a service": {map[string]string{
			"/proc/self/cgroup": "9:memory:/x\n0::/system.slice/relay.service\n",
			"/sys/fs/cgroup/system.slice/relay.service/memory.max": "268435456\n",
		}, 256 << 20},
	} {
		got := containerLimit(func(name string) ([]byte, error) {
			if text, ok := tt.files[name]; ok {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		})
		if got != tt.want {
			t.Errorf("%s: %d, not %d", name, got, tt.want)
		}
	}
}

// TestCollectGarbage holds little, then much: the next collection comes after the floor, then after half of what is held.
func TestCollectGarbage(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	if _, ok := collectGarbage([]string{"GOGC=100"}, none); ok {
		t.Fatal("GOGC is overruled")
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Fatalf("GOGC is %d though the environment says 100", got)
	}
	limit := debug.SetMemoryLimit(256 << 20) // as GOMEMLIMIT
	defer debug.SetMemoryLimit(limit)
	left = make([]byte, 100<<20) // what was read at the start, and is garbage by now
	runtime.GC()
	left = nil
	stop, ok := collectGarbage([]string{"GOMEMLIMIT=256MiB"}, none)
	defer stop()
	if !ok {
		t.Fatal("GOMEMLIMIT alone turns it off")
	}
	debug.SetMemoryLimit(limit) // what follows would come near it
	goal := func() (held, garbage int) {
		s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
		metrics.Read(s)
		held = int(s[0].Value.Uint64())
		return held, int(s[1].Value.Uint64()) - held
	}
	becomes := func(what string, ok func(held, garbage int) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
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
	if held, garbage := goal(); held+garbage > leastGarbage*3/2 {
		t.Errorf("the first collection is at %d bytes", held+garbage)
	}
	near := func(got, want int) bool { return got > want*8/10 && got < want*12/10 }
	becomes("little", func(held, garbage int) bool { return held < leastHeld && near(held+garbage, leastGarbage) })
	much := make([]byte, 200<<20)
	becomes("much", func(held, garbage int) bool { return held > len(much) && near(garbage, held*gcPercent/100) })
	runtime.KeepAlive(much)
	becomes("little again", func(held, garbage int) bool { return held < leastHeld && near(held+garbage, leastGarbage) })
}
