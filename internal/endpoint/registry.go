package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors of the registry that a caller tells apart.
var (
	ErrNotFound   = errors.New("no such endpoint")
	ErrExists     = errors.New("an endpoint with this id exists")
	ErrFromConfig = errors.New("the endpoint stands in the config file: change it there")
	ErrConflict   = errors.New("the endpoint was changed meanwhile: read it again")
)

// Registry keeps the endpoints of the config file and of the bucket together. Its methods are safe for concurrent use.
type Registry struct {
	log    *slog.Logger
	kv     jetstream.KeyValue
	sealer Sealer

	snapshot atomic.Pointer[Snapshot]
	changing sync.Mutex // one at a time: many attempts in flight may all be answered 410

	mu       sync.Mutex
	config   map[string]*Endpoint
	records  map[string]*Endpoint
	states   map[string]state
	revision uint64        // newest revision of the bucket that the snapshot holds
	moved    chan struct{} // closed and replaced when revision grows
	loaded   bool          // everything the bucket held at the start has been read
}

// NewRegistry reads from kv. A zero sealer can neither store nor read endpoints of the API; those of the config file work.
func NewRegistry(kv jetstream.KeyValue, sealer Sealer, logger *slog.Logger) *Registry {
	r := &Registry{
		log: logger.With("component", "endpoints"), kv: kv, sealer: sealer,
		config: map[string]*Endpoint{}, records: map[string]*Endpoint{}, states: map[string]state{},
		moved: make(chan struct{}),
	}
	r.snapshot.Store(newSnapshot(nil))
	return r
}

// Snapshot is the endpoints as known now.
func (r *Registry) Snapshot() *Snapshot { return r.snapshot.Load() }

// SetConfig replaces the endpoints of the config file. They are valid (see [Endpoint.Validate]).
func (r *Registry) SetConfig(list []*Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.config)
	for _, e := range list {
		c := e.clone()
		c.Source = SourceConfig
		r.config[c.ID] = c
	}
	r.rebuild()
}

// Load returns when everything the bucket holds now is in the snapshot; Run must be under way.
func (r *Registry) Load(ctx context.Context) error {
	return r.await(ctx, func() bool { return r.loaded })
}

// Run follows the bucket until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	for {
		err := r.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.log.Warn("watching the endpoints failed, starting again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Registry) watch(ctx context.Context) error {
	w, err := r.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch %s: %w", r.kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }()
	// What the bucket held at the start comes first, ended by a nil entry: one snapshot for all of it, not one each.
	var first []jetstream.KeyValueEntry
	starting := true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("watch ended")
			case entry == nil:
				r.apply(first...)
				first, starting = nil, false
			case starting:
				first = append(first, entry)
			default:
				r.apply(entry)
			}
		}
	}
}

func (r *Registry) apply(entries ...jetstream.KeyValueEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, entry := range entries {
		if err := r.applyOne(entry); err != nil {
			r.log.Error("endpoint cannot be read, left out", "endpoint", entry.Key(), "error", err)
		}
		r.revision = max(r.revision, entry.Revision())
	}
	r.loaded = true
	r.rebuild()
	close(r.moved)
	r.moved = make(chan struct{})
}

func (r *Registry) applyOne(entry jetstream.KeyValueEntry) error {
	kind, id := splitKey(entry.Key())
	gone := entry.Operation() != jetstream.KeyValuePut
	switch {
	case kind == keyEndpoint && gone:
		delete(r.records, id)
	case kind == keyState && gone:
		delete(r.states, id)
	case kind == keyEndpoint:
		e, err := r.sealer.decode(id, entry.Value(), entry.Revision())
		if err != nil {
			delete(r.records, id)
			return err
		}
		r.records[id] = e
	case kind == keyState:
		var s state
		if err := json.Unmarshal(entry.Value(), &s); err != nil {
			return err
		}
		r.states[id] = s
	}
	return nil
}

// rebuild makes the snapshot anew; mu is held.
func (r *Registry) rebuild() {
	list := make([]*Endpoint, 0, len(r.config)+len(r.records))
	for id, e := range r.config {
		if s, ok := r.states[id]; ok && s.URLHash == urlHash(e.URL) {
			e = e.clone()
			e.Disabled = s.Disabled
		}
		list = append(list, e)
	}
	for id, e := range r.records {
		if _, shadowed := r.config[id]; shadowed {
			r.log.Warn("endpoint stands in the config file and was also made over the API; the config file wins", "endpoint", id)
			continue
		}
		list = append(list, e)
	}
	r.snapshot.Store(newSnapshot(list))
}

// await returns when ready (called with mu held) says so, or ctx ends.
func (r *Registry) await(ctx context.Context, ready func() bool) error {
	for {
		r.mu.Lock()
		ok, moved := ready(), r.moved
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for the endpoints: %w", ctx.Err())
		}
	}
}

// seen waits until the snapshot holds a revision, so that whoever changed an endpoint reads what he wrote.
func (r *Registry) seen(ctx context.Context, revision uint64) error {
	return r.await(ctx, func() bool { return r.revision >= revision })
}

// Create stores a new endpoint of the API. e is valid.
func (r *Registry) Create(ctx context.Context, e *Endpoint) error {
	if r.Snapshot().Get(e.ID) != nil {
		return fmt.Errorf("%s: %w", e.ID, ErrExists)
	}
	value, err := r.sealer.encode(e)
	if err != nil {
		return fmt.Errorf("store endpoint %s: %w", e.ID, err)
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
func (r *Registry) Delete(ctx context.Context, id string) error {
	e := r.Snapshot().Get(id)
	switch {
	case e == nil:
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	case e.Source == SourceConfig:
		return fmt.Errorf("%s: %w", id, ErrFromConfig)
	}
	if err := r.kv.Delete(ctx, keyEndpoint+id); err != nil {
		return fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	return r.await(ctx, func() bool { return r.records[id] == nil || r.records[id].Revision > e.Revision })
}

// Disable switches an endpoint off on the relay's own account, wherever it comes from. It tells whether this call did
// it: false where it was off already (another replica may have been faster).
func (r *Registry) Disable(ctx context.Context, id, reason string, now time.Time) (bool, error) {
	return r.setDisabled(ctx, id, &Disabled{Reason: reason, At: now})
}

// Enable takes back [Registry.Disable]. It does not switch on what its owner switched off (enabled: false).
func (r *Registry) Enable(ctx context.Context, id string) error {
	_, err := r.setDisabled(ctx, id, nil)
	return err
}

func (r *Registry) setDisabled(ctx context.Context, id string, d *Disabled) (changed bool, err error) {
	r.changing.Lock()
	defer r.changing.Unlock()
	e := r.Snapshot().Get(id)
	if e == nil {
		return false, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if (e.Disabled == nil) == (d == nil) {
		return false, nil
	}
	var revision uint64
	if e.Source == SourceConfig {
		revision, err = r.putState(ctx, e, d)
	} else {
		revision, err = r.putRecord(ctx, e, d)
	}
	if err != nil {
		return false, fmt.Errorf("change endpoint %s: %w", id, err)
	}
	return true, r.seen(ctx, revision)
}

func (r *Registry) putState(ctx context.Context, e *Endpoint, d *Disabled) (uint64, error) {
	value, err := json.Marshal(state{URLHash: urlHash(e.URL), Disabled: d})
	if err != nil {
		return 0, err
	}
	return r.kv.Put(ctx, keyState+e.ID, value)
}

func (r *Registry) putRecord(ctx context.Context, e *Endpoint, d *Disabled) (uint64, error) {
	c := e.clone()
	c.Disabled = d
	value, err := r.sealer.encode(c)
	if err != nil {
		return 0, err
	}
	revision, err := r.kv.Update(ctx, keyEndpoint+e.ID, value, e.Revision)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return 0, ErrConflict
	}
	return revision, err
}
