package bus_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

func TestErasureCovers(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	all, one := bus.Erasure{Until: until, Sequence: 10, Stored: until}, bus.Erasure{Until: until}
	one.For("person/john")
	all.AlsoLater("far ahead")
	for _, tt := range []struct {
		name, subject, fingerprint string
		erasure                    *bus.Erasure
		emitted                    time.Time
		want                       bool
	}{
		{"before", "x", "f", &all, until, true},
		{"after", "x", "f", &all, until.Add(time.Second), false},
		{"without a time", "x", "f", &all, time.Time{}, true},
		{"far ahead, erased", "x", "far ahead", &all, until.AddDate(70, 0, 0), true},
		{"far ahead, another", "x", "f", &all, until.AddDate(70, 0, 0), false},
		{"the subject", "person/john", "f", &one, until, true},
		{"another subject", "person/jane", "f", &one, until, false},
	} {
		if got := tt.erasure.Covers(tt.subject, tt.emitted, tt.fingerprint); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
	for _, tt := range []struct {
		sequence uint64
		stored   time.Time
		want     bool
	}{{10, until, true}, {11, until, false}, {10, until.Add(1), false}, {10, time.Time{}, true}} {
		if got := all.Took(tt.sequence, tt.stored); got != tt.want {
			t.Errorf("took %d of %v: %t", tt.sequence, tt.stored, got)
		}
	}
}

func TestErasureRanges(t *testing.T) {
	t.Parallel()
	var e bus.Erasure
	e.Remove([]uint64{1, 2, 3, 7, 9, 10})
	if got := fmt.Sprint(e.Ranges); got != "[[1 3] [7 7] [9 10]]" {
		t.Error(got)
	}
	for sequence, want := range map[uint64]bool{1: true, 3: true, 4: false, 7: true, 8: false, 10: true, 11: false} {
		if e.Removed(sequence) != want {
			t.Errorf("%d: %t", sequence, !want)
		}
	}
	var many []uint64
	for i := range uint64(10_000) {
		many = append(many, 3*i+1)
	}
	e.Remove(many) // what does not fit is not noted: never more than was removed
	if len(e.Ranges) != 256 || !e.Removed(1) || e.Removed(2) || e.Removed(many[9999]) {
		t.Errorf("%d ranges", len(e.Ranges))
	}
	if e.Remove(nil); e.Removed(1) {
		t.Error("nothing was removed")
	}
}

// Many erasures of one workspace fit into its entry; one of all of it stands for all of them.
func TestErasuresAreNoted(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, none, err := b.Erased(t.Context())
	if err != nil || none != 0 {
		t.Fatalf("%d, %v", none, err)
	}
	var many []uint64
	for i := range uint64(1000) {
		many = append(many, 1e12+3*i)
	}
	note := bus.Erasure{Until: time.Now(), Sequence: 1e13, Stored: time.Now()}
	note.Remove(many)
	note.AlsoLater("f")
	var list []bus.Erasure // of one at a time it would take long
	for i := range 1021 {
		note.For(fmt.Sprint("person/", i))
		list = append(list, note)
		list[i].Ranges = nil
	}
	value, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Leases().Put(t.Context(), "erased.acme", value); err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for i := 1021; i < 1024; i++ {
		note.For(fmt.Sprint("person/", i))
		if err := b.NoteErasure(t.Context(), "acme", note); err != nil {
			t.Fatalf("the %dth: %v", i+1, err)
		}
		workspaces, revision, err := b.Erased(t.Context())
		if err != nil || len(workspaces) != 1 || revision <= last {
			t.Fatalf("%v at %d after %d, %v", workspaces, revision, last, err)
		}
		last = revision
	}
	note.For("one more")
	if err := b.NoteErasure(t.Context(), "acme", note); err == nil {
		t.Error("there is no end")
	}
	if list, err := b.Erasures(t.Context(), "acme"); err != nil || len(list) != 1024 || list[0].Ranges != nil || list[1023].Ranges == nil {
		t.Errorf("%d, %v", len(list), err)
	}
	// What an erasure holds for, the next one holds for too.
	note = bus.Erasure{Until: note.Until.Add(time.Second), Sequence: 1e13}
	for range 2 {
		if err := b.NoteErasure(t.Context(), "acme", note); err != nil {
			t.Fatal(err)
		}
		list, err := b.Erasures(t.Context(), "acme")
		if err != nil || len(list) != 1 || !list[0].Covers("x", note.Until.AddDate(70, 0, 0), "f") || list[0].Covers("x", note.Until.AddDate(70, 0, 0), "g") {
			t.Errorf("%+v, %v", list, err)
		}
		note.Until = note.Until.Add(-time.Hour)
	}
	if list, err := b.Erasures(t.Context(), "acme"); err != nil || !list[0].Until.Equal(note.Until.Add(2*time.Hour)) {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := b.Erasures(t.Context(), "acme"); err != nil || len(list) != 1 {
		t.Errorf("%d, %v", len(list), err)
	}
	// What one of a subject refuses, one of all that ends before it does not let in again.
	ahead := bus.Erasure{Until: note.Until.Add(3 * time.Hour)}
	ahead.For("person/john")
	for _, e := range []bus.Erasure{ahead, note} {
		if err := b.NoteErasure(t.Context(), "acme", e); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := b.Erasures(t.Context(), "acme"); err != nil || !slices.ContainsFunc(list, func(e bus.Erasure) bool { return e.Covers("person/john", ahead.Until, "h") }) {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := b.Erasures(t.Context(), "globex"); err != nil || len(list) != 0 {
		t.Errorf("%d, %v", len(list), err)
	}
}
