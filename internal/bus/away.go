package bus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The server's errors that time heals, see its errors.json.
const (
	errNoPeers      = 10005 // no suitable servers for a stream: some of the cluster are away
	errNotAvailable = 10008
	errNotLeader    = 10009
)

// healable tells whether waiting may help: nobody answers, or the cluster is not whole.
func healable(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == errNoPeers || api.ErrorCode == errNotAvailable || api.ErrorCode == errNotLeader
	}
	return isAny(err, context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		nats.ErrConnectionReconnecting, jetstream.ErrNoStreamResponse)
}

// Away tells whether an error of a bus that was open says no more than that NATS does not answer now, is not whole, or has gone away
// in the middle of an answer: the same may succeed later. A deadline of the caller's own looks alike: he must ask his context first.
func Away(err error) bool {
	if err == nil {
		return false
	}
	// A server that has just started says that it has no JetStream, and knows nothing of the consumers that it had in memory.
	return healable(err) || notEnabled(err) || isAny(err, errIncomplete, ErrBehind, nats.ErrConnectionClosed, nats.ErrStaleConnection,
		jetstream.ErrConnectionClosed, jetstream.ErrNoHeartbeat, jetstream.ErrServerShutdown, jetstream.ErrConsumerDeleted, jetstream.ErrConsumerNotFound)
}

func isAny(err error, causes ...error) bool {
	for _, cause := range causes {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}
