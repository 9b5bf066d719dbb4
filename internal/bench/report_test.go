package bench

import (
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
	for _, tt := range []struct {
		name string
		f    Figure
		want string
	}{
		{"met", share(Figure{Value: 70}), "yes"},
		{"missed", share(Figure{Value: 69}), "NO"},
		{"records lost", share(Figure{Value: 70, RecordsLost: 1}), "NO"},
		{"doubled", share(Figure{Value: 70, Doubled: 1}), "NO"},
		{"at a smaller size", share(Figure{Value: 70, ReachFor: reachFor(9, 10, "streams")}), "at this size"},
		{"missed at a smaller size", share(Figure{Value: 69, ReachFor: reachFor(9, 10, "streams")}), "NO"},
		{"at its size", share(Figure{Value: 70, ReachFor: reachFor(10, 10, "streams")}), "yes"},
		{"more than the bound", Figure{Value: 102, Bound: &bound, Reach: Reach{MoreAtMost, 1}}, "NO"},
		{"no reach", Figure{Value: 1, Reach: Reach{Kind: NoReach}}, "-"},
		{"no reach, but doubled", Figure{Value: 1, Reach: Reach{Kind: NoReach}, Doubled: 2}, "NO"},
	} {
		s := &stage{scenario: "x", report: &Report{}}
		s.add(tt.f)
		got := s.report.Figures[0]
		var table strings.Builder
		if err := s.report.Table(&table); err != nil || got.reached() != tt.want || !strings.Contains(table.String(), tt.want) {
			t.Errorf("%s: %q, not %q, %v in\n%s", tt.name, got.reached(), tt.want, err, &table)
		}
	}
}
