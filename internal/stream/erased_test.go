package stream

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nexsim"
)

// contents are the insights of a workspace that the log holds, and their subjects, whatever was removed in between.
func (b *bench) contents(workspace string) (contents, subjects []string, sequences []uint64) {
	b.t.Helper()
	q := bus.Query{Stream: bus.StreamNex, Subjects: []string{event.Subject(workspace, event.InsightPrefix+">")}, Oldest: true}
	err := b.bus.Walk(b.t.Context(), q, func(m bus.Stored) (bool, error) {
		var e struct {
			Subject string
			Data    struct{ Content string }
		}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return false, err
		}
		contents, subjects, sequences = append(contents, e.Data.Content), append(subjects, e.Subject), append(sequences, m.Sequence)
		return true, nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return contents, subjects, sequences
}

// What was erased from the log comes no more, although Nex repeats it; what is new does, at once and after a restart.
func TestErasedStaysAway(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		b := setup(t, nexsim.Options{})
		b.start(workspace("acme"))
		b.connected("acme", 1)
		b.sim.Emit("acme", 15)
		b.exactly("acme")
		if restart {
			b.stop()
		}
		if err := b.bus.NoteErasure(t.Context(), "acme", "", time.Now()); err != nil {
			t.Fatal(err)
		}
		_, _, sequences := b.contents("acme")
		if n, err := b.bus.Erase(t.Context(), bus.StreamNex, sequences); n != 15 || err != nil {
			t.Fatalf("%d erased, %v", n, err)
		}
		if restart {
			b.start(workspace("acme"))
		}
		b.connected("acme", 1)
		b.sim.Drop("acme", true)         // it comes up again, with a replay
		b.sim.JumpClock(2 * time.Second) // a replay cuts times to seconds
		b.sim.Emit("acme", 3)
		var got []string
		b.eventually("what is new is in the log", func() bool {
			got, _, _ = b.contents("acme")
			return len(got) >= 3
		})
		b.stop() // everything that came has been judged
		if got, _, _ = b.contents("acme"); len(got) != 3 {
			t.Errorf("restart=%t: %d in the log, 3 are new", restart, len(got))
		}
	}
}

// What is erased of one subject leaves the others alone.
func TestErasedSubjectStaysAway(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill = time.Hour
	b.sim.Emit("acme", 15)
	b.start(workspace("acme"))
	b.exactly("acme")
	b.stop()
	_, subjects, sequences := b.contents("acme")
	var gone []uint64
	kept := 0
	for i, s := range subjects {
		if s == subjects[0] {
			gone = append(gone, sequences[i])
		} else {
			kept++
		}
	}
	if err := b.bus.NoteErasure(t.Context(), "acme", subjects[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.bus.Erase(t.Context(), bus.StreamNex, gone); err != nil {
		t.Fatal(err)
	}
	// The others are lost by accident: they come again.
	for i := range sequences {
		if subjects[i] != subjects[0] {
			if _, err := b.bus.Erase(t.Context(), bus.StreamNex, sequences[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.start(workspace("acme"))
	b.eventually("the others are back", func() bool {
		_, subjects, _ := b.contents("acme")
		return len(subjects) == kept
	})
	b.stop()
	_, after, _ := b.contents("acme")
	for _, s := range after {
		if s == subjects[0] {
			t.Errorf("an event about %s is back", s)
		}
	}
	if len(after) != kept || kept == 0 {
		t.Errorf("%d are back of %d", len(after), kept)
	}
}
