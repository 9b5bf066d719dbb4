package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// erasedPrefix is where the bucket of the leases keeps what was erased of a workspace: erased.<token>.
const erasedPrefix = "erased."

// Erasure says that what a workspace had until a time was removed, and is not to come back.
type Erasure struct {
	// Subject is the SHA-256, in hex, of the subject whose events it is about: the name itself is what was to be removed. Empty = all.
	Subject string    `json:"subject_sha256,omitempty"`
	Until   time.Time `json:"until"`
}

// Covers tells whether an insight about a subject, emitted at a time, was removed. One without a time was, as far as can be told.
func (e *Erasure) Covers(subject string, emitted time.Time) bool {
	return (e.Subject == "" || e.Subject == hashSubject(subject)) && !emitted.After(e.Until)
}

func hashSubject(subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return hex.EncodeToString(sum[:])
}

// maxErasures bounds those remembered of a workspace: a bucket's entry has to fit into a message.
const maxErasures = 8192

// NoteErasure remembers that a workspace's events until now were removed; subject empty = all of them.
func (b *Bus) NoteErasure(ctx context.Context, workspace, subject string, until time.Time) error {
	fresh := Erasure{Until: until.UTC()}
	if subject != "" {
		fresh.Subject = hashSubject(subject)
	}
	for {
		list, revision, err := b.erasures(ctx, workspace)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(e Erasure) bool { return fresh.Subject == "" || e.Subject == fresh.Subject })
		if list = append(list, fresh); len(list) > maxErasures {
			return fmt.Errorf("note what is erased of %s: %d subjects are noted already: erase the workspace", workspace, maxErasures)
		}
		value, err := json.Marshal(list)
		if err != nil {
			return err
		}
		key := erasedPrefix + workspace
		if revision == 0 {
			_, err = b.leases.Create(ctx, key, value)
		} else {
			_, err = b.leases.Update(ctx, key, value, revision)
		}
		var api *jetstream.APIError
		if errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("note what is erased of %s: %w", workspace, err)
		}
		return nil
	}
}

// Erasures are what was removed of a workspace.
func (b *Bus) Erasures(ctx context.Context, workspace string) ([]Erasure, error) {
	list, _, err := b.erasures(ctx, workspace)
	return list, err
}

func (b *Bus) erasures(ctx context.Context, workspace string) (list []Erasure, revision uint64, err error) {
	entry, err := b.leases.Get(ctx, erasedPrefix+workspace)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(entry.Value(), &list)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("what was erased of %s: %w", workspace, err)
	}
	return list, entry.Revision(), nil
}

// eraseAtOnce is how many messages are removed at one time.
const eraseAtOnce = 64

// Erase removes messages of a stream by their sequences. It answers how many it removed: those that are gone already do not count. After
// an error some are removed, and counted. overwrite has their bytes overwritten on disk, which costs the server some 5 ms for each;
// else they stay there until it compacts the block, which it does once more than half of it is gone.
func (b *Bus) Erase(ctx context.Context, stream string, sequences []uint64, overwrite bool) (removed uint64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range min(eraseAtOnce, len(sequences)) {
		group.Go(func() {
			for {
				mu.Lock()
				if next == len(sequences) || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				sequence := sequences[next]
				next++
				mu.Unlock()
				gone, err := b.erase(ctx, stream, sequence, overwrite)
				if err != nil {
					cancel(fmt.Errorf("erase %d of %s: %w", sequence, stream, err))
					return
				}
				if gone {
					mu.Lock()
					removed++
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return removed, context.Cause(ctx)
	}
	return removed, nil
}

// erase removes one message, and tells whether it was there.
func (b *Bus) erase(ctx context.Context, stream string, sequence uint64, overwrite bool) (bool, error) {
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := b.call(ctx, "STREAM.MSG.DELETE."+stream, map[string]any{"seq": sequence, "no_erase": !overwrite}, &answer); err != nil {
		return false, err
	}
	if answer.Error == nil {
		return true, nil
	}
	// The server has one code for all that can be wrong here.
	if _, err := b.askLeader(ctx, stream, map[string]any{"seq": sequence}); errors.Is(err, ErrNotInLog) {
		return false, nil
	}
	return false, answer.Error
}

// EachRetry hands over every message of RELAY_RETRY from one sequence to another, both inclusive.
func (b *Bus) EachRetry(ctx context.Context, from, to uint64, do func(Stored) error) error {
	return b.direct(ctx, StreamRetry, "relay.retry.>", from, to, do)
}
