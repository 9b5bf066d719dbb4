package nexsim

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func newSim(t testing.TB, o Options) *Sim {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stripped is what the seed decides: all but the times.
func stripped(b Batch) string {
	for i := range b.Insights {
		b.Insights[i].CreatedAt = endOfTime
	}
	b.EmittedAt = endOfTime
	return string(mustJSON(b))
}

func TestSeedDecidesContents(t *testing.T) {
	t.Parallel()
	two := []Workspace{{Slug: "acme"}, {Slug: "globex"}}
	a, b, c := newSim(t, Options{Seed: 7, Workspaces: two}), newSim(t, Options{Seed: 7, Workspaces: two}), newSim(t, Options{Seed: 8, Workspaces: two})
	b.Emit("globex", 11) // another workspace does not matter
	for range 50 {
		want := stripped(a.Emit("acme", 0))
		if got := stripped(b.Emit("acme", 0)); got != want {
			t.Fatalf("same seed:\n%.300s\n%.300s", want, got)
		}
		if got := stripped(c.Emit("acme", 0)); got == want {
			t.Fatalf("another seed, yet: %.300s", got)
		}
	}
	if a.Emit("globex", 1).Insights[0].Content == newSim(t, Options{Seed: 7}).Emit("acme", 1).Insights[0].Content {
		t.Error("two workspaces have the same contents")
	}
}

func TestBelievable(t *testing.T) {
	t.Parallel()
	s := newSim(t, Options{Seed: 3})
	const n = 4_000
	types, entities := map[string]int{}, map[string]int{}
	signals, artifacts, levels := map[string]int{}, map[string]int{}, map[string]int{}
	var all strings.Builder
	small, beyond := 0, 0
	for range n / 10 {
		for _, in := range s.Emit("acme", 10).Insights {
			types[in.Type]++
			entities[in.Target.EntityType]++
			levels[in.ConfidenceLevel]++
			for _, sig := range in.Target.Signals {
				signals[sig.Type]++
			}
			for _, e := range in.Evidence {
				artifacts[e.Artifact.Type]++
				if e.Artifact.ID > 1<<53 {
					beyond++
				}
				if e.Excerpt == "" || !utf8.ValidString(e.Excerpt) {
					t.Fatalf("excerpt %q", e.Excerpt)
				}
			}
			all.WriteString(in.Content + "\n")
			if size := liveSize(in); size < 1<<10 || size > 200<<10 {
				t.Fatalf("%d bytes: %s", size, in.Content)
			} else if size <= 3<<10 {
				small++
			}
			if in.TypeDescription == "" || in.Confidence < 0.35 || in.Confidence > 1 || in.Target.Hint == "" {
				t.Fatalf("%+v", in)
			}
		}
	}
	for what, m := range map[string]struct {
		got  map[string]int
		want int
	}{"types": {types, 8}, "entities": {entities, 2}, "levels": {levels, 3}, "signals": {signals, 3}, "artifacts": {artifacts, 4}} {
		if len(m.got) != m.want {
			t.Errorf("%s: %v, want %d", what, m.got, m.want)
		}
	}
	if share := float64(small) / n; share < 0.6 || share > 0.9 {
		t.Errorf("%.2f of the insights have up to 3 KiB", share)
	}
	if beyond == 0 {
		t.Error("no artifact id beyond 2^53")
	}
	for _, must := range []string{`"`, "é", "🎉", "田中", "<", "&", ">", "\\"} {
		if !strings.Contains(all.String(), must) {
			t.Errorf("no content with %s", must)
		}
	}
	if !regexp.MustCompile(`\d{17,}`).MatchString(all.String()) {
		t.Error("no long number in a content")
	}
}

func TestNothingRepeats(t *testing.T) {
	t.Parallel()
	s := newSim(t, Options{Seed: 4, SizeMax: minSize})
	const n = 20_000
	texts, ids := map[string]bool{}, map[string]bool{}
	for _, in := range s.Emit("acme", n).Insights {
		texts[in.Content], ids[in.ID] = true, true
	}
	if len(texts) != n || len(ids) != n {
		t.Errorf("%d texts and %d ids of %d are unique", len(texts), len(ids), n)
	}
}

// liveSize is the bytes of an insight as it is sent live.
func liveSize(in Insight) int {
	in.ID, in.CreatedAt = "", Insight{}.CreatedAt
	return len(mustJSON(in))
}

func TestSizeIsExact(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1 << 10, 1<<10 + 1, 3000, 70_001, 200 << 10} {
		s := newSim(t, Options{SizeMin: size, SizeMax: size})
		for _, in := range s.Emit("acme", 30).Insights {
			if got := liveSize(in); got != size {
				t.Fatalf("%d bytes, want %d: %.1000s", got, size, mustJSON(in))
			}
		}
	}
}

func TestBatchSizes(t *testing.T) {
	t.Parallel()
	s := newSim(t, Options{BatchMin: 2, BatchMax: 4})
	seen := map[int]bool{}
	for range 100 {
		b := s.Emit("acme", 0)
		if b.InsightCount != len(b.Insights) {
			t.Fatalf("count %d of %d", b.InsightCount, len(b.Insights))
		}
		seen[b.InsightCount] = true
	}
	if len(seen) != 3 || !seen[2] || !seen[4] {
		t.Errorf("batch sizes %v", seen)
	}
}

func TestEveryTemplate(t *testing.T) {
	t.Parallel()
	s := newSim(t, Options{})
	r := rand.New(rand.NewPCG(1, 1))
	texts := slices.Concat(asides, sentences)
	for _, k := range kinds {
		texts = append(texts, k.templates...)
	}
	for _, template := range texts {
		if got := s.gen.facts(r).fill(template); strings.ContainsAny(got, "{}") || got == "" { // an unknown slot panics
			t.Errorf("%q became %q", template, got)
		}
	}
	for _, name := range slices.Concat(firstNames, lastNames, companyNames, companyForms) {
		for _, char := range s.gen.address(name) {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz-", char) {
				t.Errorf("%s has the address %q", name, s.gen.address(name))
				break
			}
		}
	}
}

func FuzzJSONBytes(f *testing.F) {
	f.Add("plain")
	f.Add("\"\\\n\r\t\b\f\x00\x1f\x7f<>&\u2028\u2029é🎉")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := jsonBytes(s); got != len(b)-2 {
			t.Errorf("%q: %d, encoded %s", s, got, b)
		}
	})
}

func FuzzExcerpt(f *testing.F) {
	f.Add(uint64(1), 0)
	f.Add(uint64(2), corpusPart)
	s, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, seed uint64, size int) {
		if size < 0 || size > corpusPart {
			return
		}
		text := s.gen.corpus.excerpt(rand.New(rand.NewPCG(seed, 0)), size)
		if got := jsonBytes(text); got != size || !utf8.ValidString(text) {
			t.Errorf("%d bytes, want %d: %.200q", got, size, text)
		}
	})
}
