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
		if err := b.bus.NoteErasure(t.Context(), "acme", bus.Erasure{Until: time.Now()}); err != nil {
			t.Fatal(err)
		}
		_, _, sequences := b.contents("acme")
		if n, err := b.bus.Erase(t.Context(), bus.StreamNex, sequences, false); n != 15 || err != nil {
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

// What is erased of one subject stays away, and what is about others is taken as always.
func TestErasedSubjectStaysAway(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.sim.Emit("acme", 15)
	b.exactly("acme")
	b.stop()
	_, subjects, sequences := b.contents("acme")
	var gone []uint64
	for i, s := range subjects {
		if s == subjects[0] {
			gone = append(gone, sequences[i])
		}
	}
	if len(gone) == 15 {
		t.Fatal("all are about one")
	}
	note := bus.Erasure{Until: time.Now()}
	note.For(subjects[0])
	if err := b.bus.NoteErasure(t.Context(), "acme", note); err != nil {
		t.Fatal(err)
	}
	if _, err := b.bus.Erase(t.Context(), bus.StreamNex, gone, false); err != nil {
		t.Fatal(err)
	}
	b.sim.JumpClock(2 * time.Second) // a replay cuts times to seconds
	b.sim.Emit("acme", 3)            // comes with the replay
	b.start(workspace("acme"))
	var after []string
	b.eventually("what is new is in the log", func() bool {
		_, after, _ = b.contents("acme")
		return len(after) >= 18-len(gone)
	})
	b.stop() // everything that came has been judged
	if _, after, _ = b.contents("acme"); len(after) != 18-len(gone) {
		t.Errorf("%d in the log, not %d", len(after), 18-len(gone))
	}
}
