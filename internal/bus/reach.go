package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// reach is a query, looked up: the sequences it means, and what is known of the stream.
type reach struct {
	span
	heads  bool    // their headers are enough
	leader string  // the server that leads the stream; empty if it has no other replicas
	newest uint64  // of the subjects, as the leader says: what a replica must have; 0 = none, or no need to know
	end    uint64  // the stream's last sequence
	spread float64 // among how many sequences one message stands, there or thereabouts; 0 = not known
}

func (r *reach) empty() bool { return r.first > r.last }

// reach checks a query and asks the stream's leader what it means now.
func (b *Bus) reach(ctx context.Context, q Query) (reach, error) {
	r := reach{span: span{stream: q.Stream}, heads: q.Heads && q.Oldest}
	if !slices.Contains([]string{StreamNex, StreamAttempts, StreamDead}, q.Stream) {
		return r, fmt.Errorf("%w: stream %q cannot be read by pages", ErrQuery, q.Stream)
	}
	var err error
	if r.filters, err = disjoint(q.Subjects); err != nil {
		return r, err
	}
	none := r
	none.first, none.last = 1, 0
	s, err := b.js.Stream(ctx, q.Stream)
	if missing(q.Stream, err) {
		return none, nil
	}
	if err != nil {
		return r, err
	}
	info := s.CachedInfo()
	state := info.State
	if state.Msgs == 0 || q.After >= state.LastSeq || q.Before == 1 {
		return none, nil
	}
	r.first, r.last, r.end = max(state.FirstSeq, q.After+1), state.LastSeq, state.LastSeq
	if q.Before > 0 {
		r.last = min(r.last, q.Before-1)
	}
	r.average = state.Bytes/state.Msgs + 1
	if info.Config.Replicas > 1 && info.Cluster != nil {
		r.leader = info.Cluster.Leader
	}
	// Only times between the first and the last are looked for: others a server may not be able to say in nanoseconds.
	if !q.From.IsZero() && q.From.After(state.FirstTime) {
		if q.From.After(state.LastTime) {
			return none, nil
		}
		at, err := b.since(ctx, q.Stream, q.From)
		if err != nil {
			return r, err
		}
		r.first = max(r.first, at)
	}
	if !q.To.IsZero() && !q.To.After(state.LastTime) {
		if !q.To.After(state.FirstTime) {
			return none, nil
		}
		at, err := b.since(ctx, q.Stream, q.To)
		if err != nil {
			return r, err
		}
		r.last = min(r.last, at-1)
	}
	return r, b.askNewest(ctx, &r)
}

// since is the sequence of the first message that a stream took at a time or later, above all others if there is none.
func (b *Bus) since(ctx context.Context, stream string, at time.Time) (uint64, error) {
	m, err := b.askLeader(ctx, stream, map[string]any{"start_time": at.UTC(), "next_by_subj": ">", "no_hdr": true})
	if errors.Is(err, ErrNotInLog) {
		return math.MaxUint64, nil
	}
	if err != nil {
		return 0, fmt.Errorf("first since %v: %w", at, err)
	}
	return m.Sequence, nil
}

// askNewest asks the leader of a stream with replicas for what they must have.
func (b *Bus) askNewest(ctx context.Context, r *reach) error {
	if r.leader == "" || r.empty() {
		return nil
	}
	r.newest = 0
	for _, filter := range orAll(r.filters) {
		m, err := b.askLeader(ctx, r.stream, map[string]any{"last_by_subj": filter})
		if errors.Is(err, ErrNotInLog) {
			continue
		}
		if err != nil {
			return fmt.Errorf("newest of %s: %w", filter, err)
		}
		r.newest = max(r.newest, m.Sequence)
	}
	return nil
}

func orAll(filters []string) []string {
	if len(filters) == 0 {
		return []string{">"}
	}
	return filters
}

// disjoint checks subjects and leaves out those that are part of another: the server takes no filters of which one is. Those that
// overlap without one being part of the other it takes, and gives and counts a message on both once.
func disjoint(subjects []string) ([]string, error) {
	var out []string
	if slices.Contains(subjects, ">") {
		return nil, nil
	}
	for i, s := range subjects {
		if !server.IsValidSubject(s) {
			return nil, fmt.Errorf("%w: subject %q", ErrQuery, s)
		}
		part := false
		for j, other := range subjects {
			if s == other {
				part = part || j < i
			} else {
				part = part || server.SubjectMatchesFilter(s, other)
			}
		}
		if !part {
			out = append(out, s)
		}
	}
	return out, nil
}

// learn takes what was found of n messages from start on for what is below.
func (r *reach) learn(start, n uint64, k *kept) {
	found := float64(len(k.list))
	switch {
	case found == 0:
		r.spread = max(16*r.spread, float64(r.last-start+1))
	case uint64(len(k.list)) == n || k.full:
		r.spread = float64(r.last-k.list[0].Sequence+1) / found
	default:
		r.spread = max(2*r.spread, float64(r.last-start+1)/found)
	}
}
