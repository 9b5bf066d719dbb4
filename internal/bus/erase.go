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

// The bucket of the leases keeps what was erased of each workspace at erased.<token>, and which workspaces those are at erased.
const erasedKey, erasedPrefix = "erased", "erased."

// Erasure says that what a workspace had until a time was removed, and is not to come back.
type Erasure struct {
	// Subject is the SHA-256, in hex, of the subject whose events it is about: the name itself is what was to be removed. Empty = all.
	Subject string    `json:"subject_sha256,omitempty"`
	Until   time.Time `json:"until"` // what Nex emitted up to then is not taken again
	// Later are the first 64 bits of the SHA-256 of the fingerprints of those that were removed although they are dated later.
	Later []string `json:"later,omitempty"`
	// Sequence and Stored are the end of the log: what it took up to there is removed.
	Sequence uint64    `json:"sequence"`
	Stored   time.Time `json:"stored"`
	// Ranges are the sequences that it is about, where it is about a subject: from and to, both inclusive. Those of older erasures are
	// forgotten, when nothing waits for them any more.
	Ranges [][2]uint64 `json:"ranges,omitempty"`
}

// takeOver has an erasure hold for what an earlier one holds for, too.
func (e *Erasure) takeOver(before *Erasure) {
	for _, later := range before.Later {
		if !slices.Contains(e.Later, later) && len(e.Later) < maxLater {
			e.Later = append(e.Later, later)
		}
	}
	if before.Until.After(e.Until) && before.Subject == e.Subject {
		e.Until = before.Until
	}
	if before.Subject == e.Subject {
		e.Ranges = slices.Concat(before.Ranges, e.Ranges)
		e.Ranges = e.Ranges[max(0, len(e.Ranges)-maxRanges):]
	}
}

// Remove notes which sequences are removed, in order, as far as there is room.
func (e *Erasure) Remove(sequences []uint64) {
	e.Ranges = nil
	for _, s := range sequences {
		n := len(e.Ranges)
		switch {
		case n > 0 && s == e.Ranges[n-1][1]+1:
			e.Ranges[n-1][1] = s
		case n == maxRanges:
			return
		default:
			e.Ranges = append(e.Ranges, [2]uint64{s, s})
		}
	}
}

// Removed tells whether a sequence is among those that were removed.
func (e *Erasure) Removed(sequence uint64) bool {
	return slices.ContainsFunc(e.Ranges, func(r [2]uint64) bool { return r[0] <= sequence && sequence <= r[1] })
}

// Covers tells whether an insight that comes from Nex again was removed. One without a time was, as far as can be told.
func (e *Erasure) Covers(subject string, emitted time.Time, fingerprint string) bool {
	return e.About(subject) && (!emitted.After(e.Until) || slices.Contains(e.Later, shortHash(fingerprint)))
}

// Took tells whether it removed what the log had taken at a time, under a sequence; a zero time is not looked at.
func (e *Erasure) Took(sequence uint64, stored time.Time) bool {
	return sequence <= e.Sequence && !stored.After(e.Stored)
}

// About tells whether it is about a subject.
func (e *Erasure) About(subject string) bool {
	return e.Subject == "" || e.Subject == hashText(subject)
}

// For has it be about a subject; empty = all.
func (e *Erasure) For(subject string) {
	if e.Subject = ""; subject != "" {
		e.Subject = hashText(subject)
	}
}

// AlsoLater notes an insight that is removed although it is dated later. It answers false if there is no room.
func (e *Erasure) AlsoLater(fingerprint string) bool {
	if len(e.Later) == maxLater {
		return false
	}
	e.Later = append(e.Later, shortHash(fingerprint))
	return true
}

func shortHash(text string) string { return hashText(text)[:16] }

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// maxErasures bounds those remembered of a workspace, maxLater and maxRanges what each names, and newRanges those that name ranges: a
// bucket's entry has to fit into a message.
const maxErasures, maxLater, maxRanges, newRanges = 1024, 4096, 256, 32

// maxNote is how large what is noted of a workspace may become, in bytes.
const maxNote = 800 << 10

// NoteErasure remembers an erasure of a workspace.
func (b *Bus) NoteErasure(ctx context.Context, workspace string, fresh Erasure) error {
	err := changeEntry(ctx, b.leases, erasedPrefix+workspace, func(list []Erasure) ([]Erasure, error) {
		next := fresh // it may have to be done again
		next.Later = slices.Clone(fresh.Later)
		list = slices.DeleteFunc(list, func(e Erasure) bool {
			// One of a subject that goes further than this one of all stays beside it.
			replaced := e.Subject == fresh.Subject || fresh.Subject == "" && !e.Until.After(fresh.Until)
			if replaced {
				next.takeOver(&e)
			}
			return replaced
		})
		if list = append(list, next); len(list) > maxErasures {
			return nil, fmt.Errorf("%d subjects are noted already: erase the workspace", maxErasures)
		}
		for i := range list[:max(0, len(list)-newRanges)] {
			list[i].Ranges = nil
		}
		if value, err := json.Marshal(list); err != nil || len(value) > maxNote {
			return nil, errors.Join(err, errors.New("there is no room for what is noted already: erase the workspace"))
		}
		return list, nil
	})
	if err == nil { // whoever asks for the list sees by its revision that there is something new
		err = changeEntry(ctx, b.leases, erasedKey, func(list []string) ([]string, error) {
			if !slices.Contains(list, workspace) {
				list = append(list, workspace)
			}
			return list, nil
		})
	}
	if err != nil {
		return fmt.Errorf("note what is erased of %s: %w", workspace, err)
	}
	return nil
}

// changeEntry changes the list that an entry of a bucket holds, on what it holds at that moment.
func changeEntry[T any](ctx context.Context, kv jetstream.KeyValue, key string, change func([]T) ([]T, error)) error {
	for {
		list, revision, err := readEntry[T](ctx, kv, key)
		if err != nil {
			return err
		}
		if list, err = change(list); err != nil {
			return err
		}
		value, err := json.Marshal(list)
		if err != nil {
			return err
		}
		if revision == 0 {
			_, err = kv.Create(ctx, key, value)
		} else {
			_, err = kv.Update(ctx, key, value, revision)
		}
		var api *jetstream.APIError
		if errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			continue // somebody else was faster
		}
		return err
	}
}

func readEntry[T any](ctx context.Context, kv jetstream.KeyValue, key string) (list []T, revision uint64, err error) {
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(entry.Value(), &list)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return list, entry.Revision(), nil
}

// Erasures are what was removed of a workspace.
func (b *Bus) Erasures(ctx context.Context, workspace string) ([]Erasure, error) {
	list, _, err := readEntry[Erasure](ctx, b.leases, erasedPrefix+workspace)
	return list, err
}

// Erased are the workspaces of which something was removed. The revision is another after each erasure.
func (b *Bus) Erased(ctx context.Context) (workspaces []string, revision uint64, err error) {
	return readEntry[string](ctx, b.leases, erasedKey)
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

// EachRetry hands over every message of RELAY_RETRY from one sequence to another, both inclusive; those for one endpoint, if it is given.
func (b *Bus) EachRetry(ctx context.Context, endpoint string, from, to uint64, do func(Stored) error) error {
	filter := "relay.retry.>"
	if endpoint != "" {
		filter = anyRetry(endpoint)
	}
	return b.direct(ctx, StreamRetry, filter, from, to, do)
}
