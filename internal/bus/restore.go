package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// missing tells whether an error says that a stream is not there, and it is one beside the log. To who reads a part of it, such a
// one is empty until [Bus.Restore] has made it again; without the log nothing goes on.
func missing(stream string, err error) bool {
	return stream != StreamNex && errors.Is(err, jetstream.ErrStreamNotFound)
}

// deletionTakes is how long nats-server may go on removing a stream's files when it has stopped showing it. A stream that is made
// under the same name meanwhile loses its own to that.
const deletionTakes = 2 * time.Second

// Restore makes the streams beside the log again that somebody has deleted, empty, and answers their names. It leaves those that are
// there as they are. Where one is missing it takes two seconds more, so that its deletion is over.
func (b *Bus) Restore(ctx context.Context) (made []string, err error) {
	gone, err := b.gone(ctx, slices.DeleteFunc(b.streams(), func(s jetstream.StreamConfig) bool { return s.Name == StreamNex }))
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	select {
	case <-time.After(deletionTakes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if gone, err = b.gone(ctx, gone); err != nil { // without what another replica has made
		return nil, err
	}
	for _, want := range gone {
		_, err := b.js.CreateStream(ctx, want)
		switch {
		case err == nil:
			made = append(made, want.Name)
		case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another replica was faster
			return made, fmt.Errorf("restore stream %s: %w", want.Name, err)
		}
	}
	return made, nil
}

// gone is those of some streams beside the log that are not there.
func (b *Bus) gone(ctx context.Context, streams []jetstream.StreamConfig) (gone []jetstream.StreamConfig, err error) {
	for _, want := range streams {
		switch _, err := b.js.Stream(ctx, want.Name); {
		case err == nil:
		case missing(want.Name, err):
			gone = append(gone, want)
		default:
			return nil, fmt.Errorf("restore stream %s: %w", want.Name, err)
		}
	}
	return gone, nil
}
