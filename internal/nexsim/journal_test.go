package nexsim_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/nexsim"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "journal")
	open := func() *nexsim.Sim {
		s, err := nexsim.New(nexsim.Options{Journal: name, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	s.Emit("acme", 3)
	s.Emit("acme", 4)
	want := s.Emitted("acme")
	s.Close()

	// Killed while it wrote.
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(content, content[:40]...), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open()
	s.Emit("acme", 5)
	got := s.Emitted("acme")
	s.Close()
	if len(got) != 12 {
		t.Fatalf("%d insights after the second start, want 12", len(got))
	}
	seen := map[string]bool{}
	for i, in := range got {
		if i < len(want) && (in.ID != want[i].ID || in.Content != want[i].Content || !in.CreatedAt.Equal(want[i].CreatedAt)) {
			t.Errorf("insight %d is %s, was %s", i, in.ID, want[i].ID)
		}
		if seen[in.ID] || seen[in.Content] {
			t.Errorf("insight %d repeats an earlier one", i)
		}
		seen[in.ID], seen[in.Content] = true, true
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	if _, err := nexsim.ReadJournal(f, func(nexsim.Record) { lines++ }); err != nil || lines != 12 {
		t.Errorf("%d lines, %v", lines, err)
	}
	if _, err := nexsim.ReadJournal(strings.NewReader("{}\nrubbish\n"), func(nexsim.Record) {}); err == nil {
		t.Error("rubbish is no error")
	}
	if _, err := nexsim.New(nexsim.Options{Journal: t.TempDir()}); err == nil {
		t.Error("a directory is no error")
	}
}
