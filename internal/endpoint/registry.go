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
	ErrRevision   = errors.New("the endpoint has another revision by now: look at it again, and give that with If-Match")
)

// Registry keeps the endpoints of the config file and of the bucket together. Its methods are safe for concurrent use.
type Registry struct {
	log    *slog.Logger
	kv     jetstream.KeyValue
	sealer Sealer

	snapshot atomic.Pointer[Snapshot]

	mu       sync.Mutex
	config   map[string]*Endpoint
	records  map[string]*Endpoint
	states   map[string]State
	revision uint64        // newest revision of the bucket that the snapshot holds
	moved    chan struct{} // closed and replaced when revision grows
	// generation counts the snapshots.
	generation uint64
	known      map[string]uint64 // revision of each key that was applied
	made       time.Time         // when the bucket was
	behind     chan struct{}     // has a value when a write is not seen
	loaded     bool              // everything the bucket held at the start has been read
}

// NewRegistry reads from kv. A zero sealer can neither store nor read endpoints of the API; those of the config file work.
func NewRegistry(kv jetstream.KeyValue, sealer Sealer, logger *slog.Logger) *Registry {
	r := &Registry{
		log: logger.With("component", "endpoints"), kv: kv, sealer: sealer,
		config: map[string]*Endpoint{}, records: map[string]*Endpoint{}, states: map[string]State{},
		moved: make(chan struct{}), known: map[string]uint64{}, behind: make(chan struct{}, 1),
	}
	r.snapshot.Store(newSnapshot(nil))
	return r
}

// Snapshot is the endpoints as known now.
func (r *Registry) Snapshot() *Snapshot { return r.snapshot.Load() }

// SetConfig replaces the endpoints of the config file. They are valid (see [Endpoint.Validate]), and nobody changes them any more.
func (r *Registry) SetConfig(list []*Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.config)
	for _, e := range list {
		if e.Source != SourceConfig {
			e = e.clone()
			e.Source = SourceConfig
		}
		r.config[e.ID] = e
	}
	r.rebuild()
	r.move()
}

// move tells that the snapshot has changed; mu is held.
func (r *Registry) move() {
	close(r.moved)
	r.moved = make(chan struct{})
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
		pause := time.Second
		if errors.Is(err, errBehind) {
			pause = 0
		} else {
			r.log.Warn("watching the endpoints failed, starting again", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Registry) watch(ctx context.Context) error {
	if err := r.sameBucket(ctx); err != nil {
		return err
	}
	w, err := r.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch %s: %w", r.kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }()
	// What the bucket held at the start comes first, ended by a nil entry: one snapshot for all of it, not one each.
	var first []jetstream.KeyValueEntry
	starting, began := true, time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.behind:
			if !starting && time.Since(began) >= watchAgain {
				return errBehind
			}
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

// sameBucket forgets the revisions of a bucket that is no more: in one made anew they begin again.
func (r *Registry) sameBucket(ctx context.Context) error {
	info, err := r.bucketInfo(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.made.Equal(info.Created) {
		r.made, r.revision = info.Created, 0
		clear(r.known)
	}
	return nil
}

func (r *Registry) bucketInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	status, err := r.kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", r.kv.Bucket(), err)
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return nil, fmt.Errorf("look at %s: the bucket has no stream", r.kv.Bucket())
	}
	return bucket.StreamInfo(), nil
}

func (r *Registry) apply(entries ...jetstream.KeyValueEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, entry := range entries {
		if entry.Revision() < r.known[entry.Key()] { // a watch that was begun anew may be told of what was before
			continue
		}
		r.known[entry.Key()] = entry.Revision()
		if err := r.applyOne(entry); err != nil {
			r.log.Error("endpoint cannot be read, left out", "endpoint", entry.Key(), "error", err)
		}
		r.revision = max(r.revision, entry.Revision())
	}
	r.loaded = true
	r.rebuild()
	r.move()
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
		e.Heard = r.generation + 1
		if before := r.records[id]; before != nil && before.CreatedAt.Equal(e.CreatedAt) {
			if e.AsksLike(before) {
				e.Heard, e.Before = before.Heard, before.Before
			} else {
				was := *before
				was.Before = nil
				e.Before = &was
			}
		}
		r.records[id] = e
	case kind == keyState:
		var s State
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
	for _, e := range r.config {
		list = append(list, r.withState(e))
	}
	for id, e := range r.records {
		if _, shadowed := r.config[id]; shadowed {
			r.log.Warn("endpoint stands in the config file and was also made over the API; the config file wins", "endpoint", id)
			continue
		}
		list = append(list, r.withState(e))
	}
	s := newSnapshot(list)
	r.generation++
	s.Generation = r.generation
	r.snapshot.Store(s)
}

// State is what is remembered of an endpoint, also of one that is not known here.
func (r *Registry) State(id string) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states[id]
}

// withState is e with what is remembered of it; mu is held.
func (r *Registry) withState(e *Endpoint) *Endpoint {
	s, ok := r.states[e.ID]
	if !ok {
		return e
	}
	e = e.clone()
	e.State = s
	e.State.forOther(urlHash(e.URL))
	if s.URLHash == urlHash(e.URL) {
		e.Disabled = s.Disabled
	}
	return e
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
	return r.hear(ctx, func() bool { return r.revision >= revision })
}

// hear is await for something that the bucket has: if it does not come the watch may be dead.
func (r *Registry) hear(ctx context.Context, ready func() bool) error {
	for {
		soon, cancel := context.WithTimeout(ctx, seenTime)
		err := r.await(soon, ready)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case r.behind <- struct{}{}:
		default:
		}
	}
}

const (
	// seenTime is how long a write may take to be seen before the watch is thought dead: after an outage of NATS the client notices
	// that only when heartbeats have been missed, a quarter of a minute later. It is begun anew at most every watchAgain.
	seenTime, watchAgain = time.Second, 3 * time.Second
)

var errBehind = errors.New("the watch is behind")

// Seal encrypts what shows a secret, bound to a name. Its error may be [ErrNoKey].
func (r *Registry) Seal(name string, plain []byte) (string, error) {
	return r.sealer.seal("request:"+name, plain)
}

// Open is what Seal has encrypted under a name.
func (r *Registry) Open(name, sealed string) ([]byte, error) {
	return r.sealer.open("request:"+name, sealed)
}

// Reseal seals anew with the present key what an earlier one has sealed, and answers how many endpoints that were.
func (r *Registry) Reseal(ctx context.Context) (int, error) {
	n := 0
	for _, e := range r.Snapshot().All() {
		if e.Source != SourceAPI {
			continue
		}
		entry, err := r.kv.Get(ctx, keyEndpoint+e.ID)
		var stands record
		if err != nil || json.Unmarshal(entry.Value(), &stands) != nil || r.sealer.current(stands.Sealed) {
			continue // deleted meanwhile, or nothing to do
		}
		if err := r.Change(ctx, e.ID, func(*Endpoint) (bool, error) { return true, nil }); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
