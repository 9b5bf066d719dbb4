package bench

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
)

// What was lost, doubled, or measured at a smaller size does not count as reached.
func TestReached(t *testing.T) {
	t.Parallel()
	bound := 100.0
	share := func(f Figure) Figure {
		f.Bound, f.Reach = &bound, Reach{ShareAtLeast, 0.7}
		return f
	}
	needs := func(measured int) string {
		s := &stage{opts: Options{Scale: Scale{Log: measured}}}
		return s.reachFor(10, "events", func(sc Scale) int { return sc.Log })
	}
	for _, tt := range []struct {
		name string
		f    Figure
		want string
	}{
		{"met", share(Figure{Value: 70}), "yes"},
		{"missed", share(Figure{Value: 69}), "NO"},
		{"records lost", share(Figure{Value: 70, RecordsLost: 1}), "NO"},
		{"doubled", share(Figure{Value: 70, Doubled: 1}), "NO"},
		{"at a smaller size", share(Figure{Value: 70, ReachFor: needs(9)}), "at this size"},
		{"missed at a smaller size", share(Figure{Value: 69, ReachFor: needs(9)}), "NO"},
		{"at its size", share(Figure{Value: 70, ReachFor: needs(10)}), "yes"},
		{"more than the bound", Figure{Value: 102, Bound: &bound, Reach: Reach{MoreAtMost, 1}}, "NO"},
		{"no reach", Figure{Value: 1, Reach: Reach{Kind: NoReach}}, "-"},
		{"no reach, but doubled", Figure{Value: 1, Reach: Reach{Kind: NoReach}, Doubled: 2}, "NO"},
	} {
		s := &stage{scenario: "x", report: &Report{}, opts: Options{Size: UsualSize, Scale: Standard}}
		s.add(tt.f)
		got := s.report.Figures[0]
		var table strings.Builder
		if err := s.report.Table(&table); err != nil || got.reached() != tt.want || !strings.Contains(table.String(), tt.want) {
			t.Errorf("%s: %q, not %q, %v in\n%s", tt.name, got.reached(), tt.want, err, &table)
		}
	}
}

// At the quick scale, or with insights of another size, nothing is reached but at this size; what says so names the smallest scale that is
// enough.
func TestReachedElsewhere(t *testing.T) {
	t.Parallel()
	streams := func(s *stage) string { return s.reachFor(1000, "streams", func(sc Scale) int { return sc.Streams[0] }) }
	log := func(s *stage) string { return s.reachFor(1_000_000, "events", func(sc Scale) int { return sc.Log }) }
	none := func(*stage) string { return "" }
	for _, tt := range []struct {
		name  string
		scale Scale
		size  int
		of    func(*stage) string
		value float64
		want  string
		says  string
	}{
		{"standard", Standard, UsualSize, none, 1, "yes", ""},
		{"quick", Quick, UsualSize, none, 1, "at this size", "--scale standard"},
		{"quick, below", Quick, UsualSize, none, 3, "NO", "--scale standard"},
		{"other size", Standard, 4096, none, 1, "at this size", "--size 1024"},
		{"few streams", Quick, UsualSize, streams, 1, "at this size", "1000 streams (--scale standard)"},
		{"enough streams", Standard, UsualSize, streams, 1, "yes", ""},
		{"short log", Standard, UsualSize, log, 1, "at this size", "1000000 events (--scale full)"},
		{"long log", Full, UsualSize, log, 1, "yes", ""},
		{"long log, other size", Full, 2048, log, 1, "at this size", "insights of 1024 bytes"},
	} {
		s := &stage{report: &Report{}, opts: Options{Size: tt.size, Scale: tt.scale}}
		s.add(Figure{Value: tt.value, Reach: Reach{AtMost, 2}, ReachFor: tt.of(s)})
		f := s.report.Figures[0]
		if f.reached() != tt.want || !strings.Contains(f.Note, tt.says) || (tt.says == "") != (f.Note == "") {
			t.Errorf("%s: %q, not %q; %q", tt.name, f.reached(), tt.want, f.Note)
		}
	}
	s := &stage{report: &Report{}, opts: Options{Size: 2048, Scale: Quick}}
	s.add(Figure{Value: 1, Reach: Reach{Kind: NoReach}})
	if f := s.report.Figures[0]; f.reached() != "-" || f.Note != "" {
		t.Errorf("without a reach: %q, %q", f.reached(), f.Note)
	}
}

// What of the environment has its way with the figures is told.
func TestEnvironment(t *testing.T) {
	t.Setenv("GOGC", "200")
	t.Setenv("GOMEMLIMIT", "1GiB")
	r := &Report{Machine: thisMachine()}
	var table, all strings.Builder
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "GOGC=200, GOMEMLIMIT=1GiB") {
		t.Errorf("%v, %s", err, &table)
	}
	if err := r.JSON(&all); err != nil || !strings.Contains(all.String(), `"gogc": "200"`) || !strings.Contains(all.String(), `"gomemlimit": "1GiB"`) {
		t.Errorf("%v, %s", err, &all)
	}
}

// Each field of the JSON is documented.
func TestFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("### The JSON"))
	for _, of := range []any{Report{}, Machine{}, Figure{}} {
		for field := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !bytes.Contains(text, []byte("`"+name+"`")) && !bytes.Contains(text, []byte("`"+name+".kind`")) {
				t.Errorf("docs/performance.md does not say what %q is", name)
			}
		}
	}
}
