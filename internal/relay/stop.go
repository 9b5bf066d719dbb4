package relay

import (
	"errors"
	"log/slog"
	"slices"
	"time"
)

// cleanups stop what was started, last first.
type cleanups []cleanup

type cleanup struct {
	name string
	stop func() error
}

func (c *cleanups) add(name string, stop func() error) {
	*c = append(*c, cleanup{name, stop})
}

// run stops everything, whatever fails, and joins the errors.
func (c *cleanups) run(log *slog.Logger) error {
	var errs []error
	for _, item := range slices.Backward(*c) {
		start := time.Now()
		if err := item.stop(); err != nil {
			errs = append(errs, err)
		}
		log.Debug("stopped", "part", item.name, "took", time.Since(start).Round(time.Millisecond))
	}
	return errors.Join(errs...)
}
