package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// keyFile holds the ids that have stood in the config file of any replica at any time: a relay that starts with another file
// must know whom it lacks.
const keyFile = "file"

// maxFileNote bounds the value at keyFile, well below what a message may hold: some 30,000 ids.
const maxFileNote = 900 << 10

// NoteFile remembers the endpoints of a config file that is about to be applied. It answers which of earlier files are not in
// it, were not made over the API, and have no place in the log, or may just be giving it up here.
func (r *Registry) NoteFile(ctx context.Context, list []*Endpoint) (gone []string, err error) {
	for {
		gone, err = r.tryFile(ctx, list)
		if !isConflict(err) {
			break
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remember the endpoints of the file: %w", err)
	}
	return gone, nil
}

func (r *Registry) tryFile(ctx context.Context, list []*Endpoint) (gone []string, err error) {
	var known []string
	var last uint64
	entry, err := r.kv.Get(ctx, keyFile)
	switch {
	case err == nil:
		last = entry.Revision()
		_ = json.Unmarshal(entry.Value(), &known) // what cannot be read is written anew
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, err
	}
	present := make([]string, 0, len(list))
	for _, e := range list {
		present = append(present, e.ID)
	}
	slices.Sort(present)
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(known, present))))
	for _, id := range all {
		if _, found := slices.BinarySearch(present, id); !found && r.mayLackPlace(id) {
			gone = append(gone, id)
		}
	}
	if len(all) == len(known) {
		return gone, nil
	}
	value, err := json.Marshal(all)
	if err == nil && len(value) > maxFileNote {
		value, err = json.Marshal(present)
	}
	switch {
	case err != nil:
		return nil, err
	case len(value) > maxFileNote:
		r.log.Warn("too many endpoints to remember: what is taken out of the file while no relay runs keeps no place", "endpoints", len(present))
	case last == 0:
		_, err = r.kv.Create(ctx, keyFile, value)
	default:
		_, err = r.kv.Update(ctx, keyFile, value, last)
	}
	return gone, err
}

func (r *Registry) mayLackPlace(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[id] == nil && (r.states[id].Position == 0 || r.config[id] != nil)
}
