package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// Erasure says what is to be removed from everything that the relay stores.
type Erasure struct {
	Workspace string // its token
	Subject   string // of the events; empty = all of the workspace
	DryRun    bool   // only count
	Overwrite bool   // see [bus.Bus.Erase]
}

// Erased is what was removed.
type Erased struct {
	Events, Attempts, Retries, DeadLetters uint64
}

// erasing is one run over everything that may hold something of a workspace, or of one of its subjects.
type erasing struct {
	Erasure
	fanout *Fanout
	events []uint64 // of the log, in order
	note   bus.Erasure
	newest time.Time // when the last of them was emitted
	ends   map[string]uint64
	done   Erased
	// counted are hashes of the deliveries that waited.
	seed    maphash.Seed
	counted map[uint64]bool
}

// eraseRest is how long every replica's source may still publish what it had judged before it could know of an erasure.
const eraseRest = 3 * time.Second

var errTooManyAhead = errors.New("too many events are dated ahead: correct Nex's clock, or erase their subjects one by one")

// futureSlack is how far ahead of our clock Nex's may be.
const futureSlack = 10 * time.Minute

// Erase removes what is of a workspace, or of one of its subjects: the events in the log, what waits of them, their attempts and dead
// letters. What Nex repeats of it later is not taken again. It reads all that is stored, and may be called again where it was
// interrupted; what was removed until then is counted.
func (f *Fanout) Erase(ctx context.Context, what Erasure) (Erased, error) {
	r := &erasing{Erasure: what, fanout: f, ends: map[string]uint64{}, seed: maphash.MakeSeed(), counted: map[uint64]bool{}}
	err := r.run(ctx)
	if err != nil {
		err = fmt.Errorf("erase %s: %w", what.Workspace, err)
	}
	return r.done, err
}

func (r *erasing) run(ctx context.Context) error {
	b := r.fanout.cfg.Bus
	log, err := b.Extent(ctx)
	if err != nil {
		return err
	}
	r.note = bus.Erasure{Until: time.Now().Add(futureSlack), Sequence: log.Last, Stored: log.LastTime}
	r.note.For(r.Subject)
	if err := r.findEvents(ctx, log.Last); err != nil {
		return err
	}
	if !r.DryRun {
		if r.newest.Before(r.note.Until) { // Nex's clock is not ahead of ours by more
			r.note.Until = time.Now()
			if r.newest.After(r.note.Until) {
				r.note.Until = r.newest
			}
		}
		if r.Subject != "" {
			r.note.Remove(r.events)
		}
		if err := b.NoteErasure(ctx, r.Workspace, r.note); err != nil {
			return err
		}
		select {
		case <-time.After(eraseRest):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// What stands on an event goes before it: interrupted, the next run finds it by the event.
	for _, step := range []func(context.Context) error{r.retries, r.deadLetters, r.attempts} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if r.DryRun {
		r.done.Events = uint64(len(r.events))
		return nil
	}
	n, err := b.Erase(ctx, bus.StreamNex, r.events, r.Overwrite)
	r.done.Events += n
	if err != nil {
		return err
	}
	// What came of those on their way meanwhile.
	for _, step := range []func(context.Context) error{r.retries, r.deadLetters, r.attempts} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.fanout.forgetFilterErrors(r.Workspace) // they may quote what is gone
	return nil
}

// findEvents finds the events in the log. What could not be read as an insight is among those of a workspace.
func (r *erasing) findEvents(ctx context.Context, last uint64) error {
	subjects := []string{event.Subject(r.Workspace, event.InsightPrefix+">")}
	if r.Subject == "" {
		subjects = append(subjects, event.Subject(r.Workspace, event.Malformed))
	}
	q := bus.Query{Stream: bus.StreamNex, Subjects: subjects, Before: last + 1, Oldest: true, Heads: r.Subject == ""}
	return r.fanout.cfg.Bus.Walk(ctx, q, func(m bus.Stored) (bool, error) {
		if r.Subject != "" {
			if _, subject := eventTarget(m); subject != r.Subject {
				return true, nil
			}
		}
		r.events = append(r.events, m.Sequence)
		at, err := time.Parse(time.RFC3339Nano, m.Header.Get(bus.HeaderEmitted))
		switch {
		case err != nil:
		case at.After(r.note.Until): // what is dated far ahead must not have all the others in between refused
			if !r.note.AlsoLater(m.Header.Get(bus.HeaderFingerprint)) {
				return false, errTooManyAhead
			}
		case at.After(r.newest):
			r.newest = at
		}
		return true, nil
	})
}

func (r *erasing) isOne(sequence uint64) bool {
	_, found := slices.BinarySearch(r.events, sequence)
	return found
}

// holds tells whether an event is one to be erased by what it says itself.
func (r *erasing) holds(data []byte) bool {
	var e struct{ Source, Subject string }
	return json.Unmarshal(data, &e) == nil && event.SourceWorkspace(e.Source) == r.Workspace && (r.Subject == "" || e.Subject == r.Subject)
}

// walk hands over what a stream took since it was walked last, and removes those that do names, in batches.
func (r *erasing) walk(ctx context.Context, stream, subject string, count *uint64, do func(bus.Stored) bool) error {
	b := r.fanout.cfg.Bus
	var list []uint64
	flush := func() error {
		n := uint64(len(list))
		var err error
		if !r.DryRun {
			n, err = b.Erase(ctx, stream, list, r.Overwrite)
		}
		*count += n
		list = list[:0]
		return err
	}
	err := b.Walk(ctx, bus.Query{Stream: stream, Subjects: []string{subject}, After: r.ends[stream], Oldest: true}, func(m bus.Stored) (bool, error) {
		r.ends[stream] = m.Sequence
		if !do(m) {
			return true, nil
		}
		if list = append(list, m.Sequence); len(list) < bus.MaxPage {
			return true, nil
		}
		return true, flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

func (r *erasing) attempts(ctx context.Context) error {
	return r.walk(ctx, bus.StreamAttempts, "relay.attempts.>", &r.done.Attempts, func(m bus.Stored) bool {
		var a struct {
			Sequence  uint64
			Workspace string
		}
		if json.Unmarshal(m.Data, &a) != nil {
			return false // nothing of ours
		}
		return a.Workspace == r.Workspace && (r.Subject == "" || r.isOne(a.Sequence))
	})
}

func (r *erasing) deadLetters(ctx context.Context) error {
	return r.walk(ctx, bus.StreamDead, "relay.dead.>", &r.done.DeadLetters, func(m bus.Stored) bool {
		var d DeadLetter
		if json.Unmarshal(m.Data, &d) != nil {
			return false
		}
		return r.isOne(d.Sequence) && (d.Workspace == "" || d.Workspace == r.Workspace) || r.holds(d.Event) ||
			r.Subject == "" && d.Workspace == r.Workspace
	})
}

// retries removes what waits.
func (r *erasing) retries(ctx context.Context) error {
	end, err := r.fanout.cfg.Bus.RetryEnd(ctx)
	if err != nil {
		return err
	}
	before := r.ends[bus.StreamRetry]
	r.ends[bus.StreamRetry] = end
	return r.fanout.cfg.Bus.EachRetry(ctx, "", before+1, end, func(m bus.Stored) error { return r.retry(ctx, m) })
}

// retry removes one message that waits, or puts those of its deliveries that stay into another in its place.
func (r *erasing) retry(ctx context.Context, m bus.Stored) error {
	refs, err := parseReferences(m.Data)
	if err != nil {
		return nil // handled where it is due
	}
	stay := slices.DeleteFunc(slices.Clone(refs), func(ref reference) bool {
		if len(ref.Event) > 0 {
			return r.holds(ref.Event)
		}
		return r.isOne(ref.Sequence) || r.Subject == "" && ref.Workspace == r.Workspace && r.note.Took(ref.Sequence, time.Time{})
	})
	if len(stay) == len(refs) {
		return nil
	}
	if r.DryRun {
		r.count(refs, stay)
		return nil
	}
	if len(stay) > 0 {
		if err := r.fanout.restock(ctx, m, stay); err != nil {
			return err
		}
	}
	n, err := r.fanout.cfg.Bus.Erase(ctx, bus.StreamRetry, []uint64{m.Sequence}, r.Overwrite)
	if n > 0 {
		r.count(refs, stay)
	}
	return err
}

// count counts the deliveries of refs that do not stay, each once: what is being worked on may stand in two messages.
func (r *erasing) count(refs, stay []reference) {
	if len(refs) == len(stay) {
		return
	}
	kept := map[uint64]bool{}
	for _, ref := range stay {
		kept[ref.Sequence] = true
	}
	for _, ref := range refs {
		if kept[ref.Sequence] {
			continue
		}
		key := maphash.String(r.seed, fmt.Sprint(ref.Endpoint, " ", ref.Sequence, " ", ref.Forced))
		if !r.counted[key] {
			r.counted[key] = true
			r.done.Retries++
		}
	}
}

// restock stores deliveries as the message did of which they are a part. Should that be on its way, they are made twice.
func (f *Fanout) restock(ctx context.Context, m bus.Stored, stay []reference) error {
	data, err := plainJSON(stay)
	if err != nil {
		return err
	}
	at := strings.LastIndexByte(m.Subject, '.') // what follows is how many there are, but for one that waits alone
	msg := &nats.Msg{Subject: m.Subject[:at+1] + strconv.Itoa(len(stay)), Data: data, Header: nats.Header{}}
	if schedule := m.Header.Get(jetstream.ScheduleHeader); schedule != "" {
		msg.Header.Set(jetstream.ScheduleHeader, schedule)
		msg.Header.Set(jetstream.ScheduleTargetHeader, bus.RetryDueSubject(stay[0].Endpoint, len(stay)))
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, jetstream.WithMsgID(partOf(m, "stay", data))); err != nil {
		return fmt.Errorf("store what stays of deliveries to %s: %w", stay[0].Endpoint, err)
	}
	return nil
}
