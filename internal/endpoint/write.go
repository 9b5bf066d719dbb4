package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Create stores a new endpoint of the API. e is valid.
func (r *Registry) Create(ctx context.Context, e *Endpoint) error {
	if r.Snapshot().Get(e.ID) != nil {
		return fmt.Errorf("%s: %w", e.ID, ErrExists)
	}
	value, err := r.sealer.encode(e)
	if err != nil {
		return fmt.Errorf("store endpoint %s: %w", e.ID, err)
	}
	if err := r.forget(ctx, e.ID); err != nil { // an earlier one with this id
		return err
	}
	revision, err := r.kv.Create(ctx, keyEndpoint+e.ID, value)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("%s: %w", e.ID, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("store endpoint %s: %w", e.ID, err)
	}
	return r.seen(ctx, revision)
}

// Delete removes an endpoint of the API. What waits for it is dropped when it is due.
func (r *Registry) Delete(ctx context.Context, id string) error { return r.DeleteIf(ctx, id, 0) }

// DeleteIf is Delete if the endpoint has a revision still, else [ErrRevision]; 0 is any.
func (r *Registry) DeleteIf(ctx context.Context, id string, revision uint64) error {
	e := r.Snapshot().Get(id)
	switch {
	case e == nil:
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	case e.Source == SourceConfig:
		return fmt.Errorf("%s: %w", id, ErrFromConfig)
	}
	var opts []jetstream.KVDeleteOpt
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	if err := r.kv.Delete(ctx, keyEndpoint+id, opts...); isConflict(err) {
		return fmt.Errorf("%s: %w", id, ErrRevision)
	} else if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	if err := r.forget(ctx, id); err != nil {
		return err
	}
	return r.hear(ctx, func() bool { return r.records[id] == nil || r.records[id].Revision > e.Revision })
}

// forget removes what is remembered of an endpoint.
func (r *Registry) forget(ctx context.Context, id string) error {
	r.mu.Lock()
	_, known := r.states[id]
	r.mu.Unlock()
	if !known {
		return nil
	}
	if err := r.kv.Delete(ctx, keyState+id); err != nil {
		return fmt.Errorf("forget state of endpoint %s: %w", id, err)
	}
	return nil
}

// Disable switches an endpoint off on the relay's own account, wherever it comes from. It tells whether this call did
// it: false where it was off already (another replica, or another attempt, may have been faster).
func (r *Registry) Disable(ctx context.Context, id, reason string, now time.Time) (bool, error) {
	e := r.Snapshot().Get(id)
	if e == nil {
		return false, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return r.DisableIf(ctx, e, reason, now)
}

// DisableIf is [Registry.Disable] for what was learnt of an endpoint as it was: if it has another URL by now, or is another with its
// id, nothing is done.
func (r *Registry) DisableIf(ctx context.Context, e *Endpoint, reason string, now time.Time) (bool, error) {
	hash := urlHash(e.URL)
	return r.UpdateState(ctx, e.ID, func(s *State) bool {
		if s.Disabled != nil && s.URLHash == hash || r.Replaced(e) {
			return false
		}
		s.Disabled, s.URLHash = &Disabled{Reason: reason, At: now}, hash
		return true
	})
}

// Replaced tells whether an endpoint has another URL by now, is another with its id, or is no more.
func (r *Registry) Replaced(e *Endpoint) bool {
	now := r.Snapshot().Get(e.ID)
	return now == nil || now.URL != e.URL || !now.CreatedAt.Equal(e.CreatedAt)
}

// Enable takes back [Registry.Disable]. It does not switch on what its owner switched off (enabled: false). resume says
// what to do with the events that came meanwhile, empty what the endpoint says; at is the end of the log now, 0 if it is not
// known.
func (r *Registry) Enable(ctx context.Context, id string, resume Mode, at uint64) error {
	if r.Snapshot().Get(id) == nil {
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	_, err := r.UpdateState(ctx, id, func(s *State) bool {
		if s.Disabled == nil {
			return false
		}
		s.Disabled, s.URLHash, s.FailingSince, s.Resume, s.ResumeAt = nil, "", nil, resume, at
		return true
	})
	return err
}

// SetEnabled is its owner's switch: an endpoint that is not enabled is paused. resume and at are as with [Registry.Enable].
func (r *Registry) SetEnabled(ctx context.Context, id string, enabled bool, resume Mode, at uint64) error {
	if enabled {
		if _, err := r.UpdateState(ctx, id, func(s *State) bool {
			changed := s.Resume != resume || s.ResumeAt != at
			s.Resume, s.ResumeAt = resume, at
			return changed
		}); err != nil {
			return err
		}
	}
	return r.Change(ctx, id, func(e *Endpoint) (bool, error) {
		changed := e.Enabled != enabled
		e.Enabled = enabled
		return changed, nil
	})
}

// Change changes an endpoint of the API: change gets a copy to change and tells whether it did. It may be called several
// times, on what the bucket holds then.
func (r *Registry) Change(ctx context.Context, id string, change func(*Endpoint) (bool, error)) error {
	switch e := r.Snapshot().Get(id); {
	case e == nil:
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	case e.Source == SourceConfig:
		return fmt.Errorf("%s: %w", id, ErrFromConfig)
	}
	for {
		entry, err := r.kv.Get(ctx, keyEndpoint+id)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return fmt.Errorf("%s: %w", id, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("change endpoint %s: %w", id, err)
		}
		e, err := r.sealer.decode(id, entry.Value(), entry.Revision())
		if err != nil {
			return fmt.Errorf("change endpoint %s: %w", id, err)
		}
		changed, err := change(e)
		if err != nil || !changed {
			return err
		}
		value, err := r.sealer.encode(e)
		if err != nil {
			return fmt.Errorf("change endpoint %s: %w", id, err)
		}
		revision, err := r.kv.Update(ctx, keyEndpoint+id, value, entry.Revision())
		if isConflict(err) {
			if err := pause(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("change endpoint %s: %w", id, err)
		}
		return r.seen(ctx, revision)
	}
}
