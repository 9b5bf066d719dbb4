package fanout

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// forgetful is an iterator that gives nothing to whoever waits already, as that of nats.go may: it has what it gives when the next
// wait begins.
type forgetful struct {
	jetstream.MessagesContext
	waits int
}

func (f *forgetful) Next(...jetstream.NextOpt) (jetstream.Msg, error) {
	f.waits++
	if f.waits == 1 {
		time.Sleep(askAgain + time.Millisecond) // of synctest: by then the wait of the reader is over
		return nil, context.DeadlineExceeded
	}
	return nil, errors.New("the second wait")
}

// A wait for the next message is begun anew, so that an iterator that has forgotten to ask for more asks.
func TestAWaitIsBegunAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f := &forgetful{}
		handle := func(context.Context, jetstream.Msg) { t.Error("there is no message") }
		if err := readFor(t.Context(), f, handle); err != nil || time.Since(began) > 2*askAgain {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		if err := readFor(t.Context(), f, handle); err == nil || f.waits != 2 {
			t.Errorf("%v after %d waits", err, f.waits)
		}
		f.waits = 0
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := readFor(ctx, f, handle); !errors.Is(err, context.Canceled) {
			t.Errorf("%v when the context had ended", err)
		}
	})
}
