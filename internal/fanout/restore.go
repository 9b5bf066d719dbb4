package fanout

import (
	"context"
	"time"
)

// restoreEvery is how often it is looked whether a stream that deliveries need has been deleted.
const restoreEvery = 5 * time.Second

// keepStreams makes the streams again that somebody deletes, until ctx ends.
func (f *Fanout) keepStreams(ctx context.Context) {
	said := ""
	f.every(ctx, f.cfg.restoreEvery, func() {
		ctx, cancel := context.WithTimeout(ctx, 2*storeTimeout)
		defer cancel()
		made, err := f.cfg.Bus.Restore(ctx)
		for _, name := range made {
			f.log.Warn("a stream was deleted: it was made again, and what it held is lost", "stream", name)
		}
		switch {
		case err == nil:
			said = ""
		case f.cfg.Bus.Connected() && ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			f.log.Warn("it cannot be seen to that all streams are there, trying on", "error", err)
		}
	})
}
