package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// missing tells whether an error says that a stream is not there, and it is one beside the log. To who reads a part of it, such a
// one is empty until [Bus.Restore] has made it again; without the log nothing goes on.
func missing(stream string, err error) bool {
	return stream != StreamNex && errors.Is(err, jetstream.ErrStreamNotFound)
}

// Restore makes the streams beside the log again that somebody has deleted, empty, and answers their names. It leaves those that are
// there as they are.
func (b *Bus) Restore(ctx context.Context) (made []string, err error) {
	for _, want := range b.streams() {
		if want.Name == StreamNex {
			continue
		}
		_, err := b.js.Stream(ctx, want.Name)
		if err == nil {
			continue
		}
		if missing(want.Name, err) {
			_, err = b.js.CreateStream(ctx, want)
		}
		switch {
		case err == nil:
			made = append(made, want.Name)
		case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another replica was faster
			return made, fmt.Errorf("restore stream %s: %w", want.Name, err)
		}
	}
	return made, nil
}
