package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestAway(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		nil: false, errors.New("other"): false, ErrQuery: false, ErrNotInLog: false, context.Canceled: false, jetstream.ErrKeyExists: false,
		jetstream.ErrStreamNotFound: false, nats.ErrMaxPayload: false,
		context.DeadlineExceeded: true, nats.ErrTimeout: true, nats.ErrReconnectBufExceeded: true, nats.ErrConnectionClosed: true, errIncomplete: true,
		jetstream.ErrConsumerNotFound: true, jetstream.ErrJetStreamNotEnabled: true, jetstream.ErrNoStreamResponse: true, ErrBehind: true,
	} {
		if err != nil {
			err = fmt.Errorf("read a page: %w", err)
		}
		if got := Away(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	for code, want := range map[jetstream.ErrorCode]bool{errNotAvailable: true, errNotLeader: true, errNoPeers: true, 10023: false} {
		if got := Away(&jetstream.APIError{ErrorCode: code}); got != want {
			t.Errorf("%d: %v, want %v", code, got, want)
		}
	}
}
