package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// keyLeaving holds the endpoints that are being taken out of the file, and the place of each: whoever goes on after an
// interruption finds the log acknowledged further.
const keyLeaving = "leaving"

// Place is a place in the log.
type Place struct {
	Sequence uint64 `json:"sequence"`
	// Log is when the log was made of which it is.
	Log time.Time `json:"log"`
}

// NoteLeaving remembers, in one write, that endpoints are about to be taken out of the file at a place in the log. It answers all
// whose place is still to be noted in their state, also those of an attempt that was interrupted, with the places of then.
func (r *Registry) NoteLeaving(ctx context.Context, ids []string, at Place) (all map[string]Place, err error) {
	err = r.changeLeaving(ctx, func(leaving map[string]Place) bool {
		all = leaving
		changed := false
		for _, id := range ids {
			if earlier, found := leaving[id]; !found || !earlier.Log.Equal(at.Log) {
				leaving[id], changed = at, true
			}
		}
		return changed
	})
	return all, err
}

// Left forgets those of [Registry.NoteLeaving] whose place is noted in their state.
func (r *Registry) Left(ctx context.Context, done map[string]Place) error {
	return r.changeLeaving(ctx, func(leaving map[string]Place) bool {
		before := len(leaving)
		maps.DeleteFunc(leaving, func(id string, at Place) bool { return done[id].Sequence == at.Sequence && done[id].Log.Equal(at.Log) })
		return len(leaving) != before
	})
}

func (r *Registry) changeLeaving(ctx context.Context, change func(map[string]Place) bool) error {
	for {
		err := r.tryLeaving(ctx, change)
		switch {
		case err == nil:
			return nil
		case !isConflict(err):
			return fmt.Errorf("remember who leaves the file: %w", err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func (r *Registry) tryLeaving(ctx context.Context, change func(map[string]Place) bool) error {
	leaving := map[string]Place{}
	var last uint64
	entry, err := r.kv.Get(ctx, keyLeaving)
	switch {
	case err == nil:
		last = entry.Revision()
		if json.Unmarshal(entry.Value(), &leaving) != nil || leaving == nil {
			leaving = map[string]Place{} // written by something else: what it says cannot be used
		}
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return err
	}
	if !change(leaving) {
		return nil
	}
	value, err := json.Marshal(leaving)
	switch {
	case err != nil:
		return err
	case len(value) > maxFileNote:
		r.log.Warn("too many endpoints leave the file at one time: should the relay be killed now, they may miss events", "endpoints", len(leaving))
		return nil
	case last == 0:
		_, err = r.kv.Create(ctx, keyLeaving, value)
	default:
		_, err = r.kv.Update(ctx, keyLeaving, value, last)
	}
	return err
}
