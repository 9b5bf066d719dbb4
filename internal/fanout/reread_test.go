package fanout

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReread()
		var loads atomic.Int32
		of := func(sequence uint64, size int) func() (*message, error) {
			return func() (*message, error) {
				loads.Add(1)
				time.Sleep(time.Millisecond)
				return &message{sequence: sequence, data: make([]byte, size)}, nil
			}
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if ev, err := r.get(t.Context(), 7, of(7, 100)); err != nil || ev.sequence != 7 {
					t.Errorf("got %v, %v", ev, err)
				}
			})
		}
		all.Wait()
		if n := loads.Load(); n != 1 {
			t.Fatalf("ten who ask for one event read it %d times", n)
		}

		gone := errors.New("gone")
		if _, err := r.get(t.Context(), 8, func() (*message, error) { return nil, gone }); !errors.Is(err, gone) {
			t.Fatalf("error %v", err)
		}
		if _, err := r.get(t.Context(), 8, of(8, 100)); err != nil {
			t.Fatalf("a failure is kept: %v", err)
		}

		for i := range uint64(20) { // ten times as much as is kept
			_, _ = r.get(t.Context(), 100+i, of(100+i, rereadBytes/2))
			if r.bytes > rereadBytes || len(r.order) != len(r.all) {
				t.Fatalf("%d bytes in %d events of %d are kept", r.bytes, len(r.order), len(r.all))
			}
		}
		if _, err := r.get(t.Context(), 200, of(200, 2*rereadBytes)); err != nil || len(r.all) != 1 {
			t.Fatalf("one that is larger than all may be: %v, %d kept", err, len(r.all))
		}
		time.Sleep(rereadTime - time.Second)
		for sequence := range uint64(3) {
			_, _ = r.get(t.Context(), 300+sequence, of(300+sequence, 100))
		}
		time.Sleep(time.Second)
		if r.expire(time.Now()); len(r.all) != 3 {
			t.Fatalf("%d are kept after those that others asked for, not 3", len(r.all))
		}
		time.Sleep(rereadTime - time.Second)
		_, _ = r.get(t.Context(), 301, nil) // which keeps what has come since, too
		time.Sleep(time.Second)
		if r.expire(time.Now()); len(r.all) != 2 || r.all[301] == nil || r.all[302] == nil {
			t.Fatalf("%d are kept, not the one that was asked for and the next", len(r.all))
		}
		time.Sleep(rereadTime)
		r.expire(time.Now())
		if len(r.all) != 0 || r.bytes != 0 {
			t.Fatalf("%d bytes in %d events are kept though nobody asked for them", r.bytes, len(r.all))
		}
	})
}

// What was read ahead is not read again, and counts as what was asked for.
func TestRereadKeeps(t *testing.T) {
	t.Parallel()
	r := newReread()
	for range 2 {
		r.keep(&message{sequence: 7, data: make([]byte, 100)})
	}
	if n := r.has(map[uint64]bool{7: true, 8: true}); n != 1 || len(r.order) != 1 || r.bytes != r.order[0].size() {
		t.Errorf("%d are here, %d counted with %d bytes", n, len(r.order), r.bytes)
	}
	ev, err := r.get(t.Context(), 7, func() (*message, error) { return nil, errors.New("read again") })
	if err != nil || ev.sequence != 7 {
		t.Errorf("%v, %v", ev, err)
	}
	for i := range uint64(20) {
		r.keep(&message{sequence: 100 + i, data: make([]byte, rereadBytes/2)})
	}
	if r.bytes > rereadBytes || len(r.order) != len(r.all) {
		t.Errorf("%d bytes in %d events of %d are kept", r.bytes, len(r.order), len(r.all))
	}
}
