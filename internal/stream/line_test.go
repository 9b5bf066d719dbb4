package stream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nex-crm/relay/internal/event"
)

// What is put in comes in order, the goroutine ends when nothing has come for a while, and another one begins with what comes then.
func TestLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []string
		l := newLine(func(group []item) {
			for _, it := range group {
				got = append(got, it.event.ID)
			}
		})
		put := func(id string) {
			t.Helper()
			if err := l.put(t.Context(), item{event: &event.Event{ID: id}}); err != nil {
				t.Fatal(err)
			}
		}
		working := func() bool {
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.working
		}
		if working() {
			t.Error("something is done before there is anything to do")
		}
		put("a")
		put("b")
		time.Sleep(lineLinger - time.Millisecond)
		if !working() {
			t.Error("does not linger")
		}
		put("c")
		time.Sleep(lineLinger - time.Millisecond)
		if !working() {
			t.Error("does not linger after the last")
		}
		time.Sleep(2 * time.Millisecond)
		if working() {
			t.Error("lives on")
		}
		put("d")
		time.Sleep(time.Hour)
		put("e")
		l.end()
		if !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) || working() {
			t.Errorf("%v", got)
		}
	})
}

// Who finds no room waits for it, or for the end of his context.
func TestLineIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		goOn, n := make(chan struct{}), 0
		l := newLine(func(group []item) { <-goOn; n += len(group) })
		in := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			for {
				if err := l.put(ctx, item{}); err != nil {
					done <- err
					return
				}
				in++
				synctest.Wait() // for the line to be full, but for what it works on
			}
		}()
		time.Sleep(time.Millisecond)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || in < pipelineDepth || in > 2*pipelineDepth {
			t.Errorf("%v after %d", err, in)
		}
		close(goOn)
		l.end()
		if n != in {
			t.Errorf("%d of %d are done", n, in)
		}
	})
}
