package endpoint

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func compiled(t *testing.T, source string) *Filter {
	t.Helper()
	f, err := CompileFilter(source)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// padded is a decoded event of so many bytes.
func padded(t *testing.T, size int) *View {
	t.Helper()
	v := NewView("acme", fmt.Appendf(nil, `{"type":"x","data":{"n":1,"content":"c","pad":"%s"}}`, strings.Repeat("p", size)))
	if err := v.decode(); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatIsLate(t *testing.T) {
	t.Parallel()
	small, large, larger := padded(t, 1000), padded(t, 100_000), padded(t, 500_000)
	plain := compiled(t, `event.data.n * 2 >= 1`)
	if plain.isLate(larger, time.Hour) {
		t.Error("one that costs next to nothing is left, whatever the others have taken")
	}
	f := compiled(t, `event.data.content matches "(a|b)*c$"`)
	size := len(large.data)
	if !f.isLate(large, 0) {
		t.Error("one of which nothing is known is not left, although it may take long")
	}
	f.known.learn(size, 5*time.Microsecond)
	if f.isLate(large, 0) || f.isLate(small, quickBudget) || !f.isLate(large, 2*maxSurprise) {
		t.Error("one that is known to be quick is left only when others have surprised")
	}
	if !f.isLate(larger, 0) {
		t.Error("an event that is much larger than any before may take much longer")
	}
	f.known.learn(size, 100*time.Microsecond)
	if f.isLate(large, 0) || !f.isLate(large, quickBudget) {
		t.Error("one of 0.1 ms is left only when the others have taken their time")
	}
	f.known.learn(size, 100*time.Millisecond)
	for range 20 { // quick ones in between do not hide it
		f.known.learn(size, time.Microsecond)
	}
	if !f.isLate(large, 0) {
		t.Error("a slow one is not left")
	}
	for range 1000 {
		f.known.learn(size, time.Microsecond)
	}
	if f.isLate(large, 0) {
		t.Error("one that has not been slow for long is still left")
	}
}

func TestMatchQuick(t *testing.T) {
	t.Parallel()
	s := newSnapshot([]*Endpoint{
		{ID: "everything", Enabled: true},
		{ID: "other-type", Enabled: true, Filter: `event.type == "y" && event.data.pad matches "(p|pp)*z$"`},
		{ID: "slow", Enabled: true, Filter: `event.data.pad matches "(p|pp)*z$"`},
		{ID: "slow-and-paused", Filter: `event.data.pad matches "(p|pp)*z$"`},
		{ID: "slow-twice", Enabled: true, Events: []string{"nex.insight.*", "nex.>"}, Filter: `event.data.pad matches "(p|pp)*z$"`},
		{ID: "threshold", Enabled: true, Filter: `event.data.n >= 1`},
		{ID: "too-high", Enabled: true, Filter: `event.data.n >= 2`},
	})
	var late []string
	later := func(e *Endpoint) { late = append(late, e.ID) }
	ids := func(list []*Endpoint) (out []string) {
		for _, e := range list {
			out = append(out, e.ID)
		}
		slices.Sort(out)
		return out
	}
	v := padded(t, 100_000)
	if got, want := ids(s.MatchQuick(nil, "acme", "nex.insight.x", v, nil, later)), []string{"everything", "threshold"}; !slices.Equal(got, want) {
		t.Errorf("matched %v, want %v", got, want)
	}
	slices.Sort(late)
	if want := []string{"slow", "slow-twice"}; !slices.Equal(late, want) {
		t.Errorf("left for later %v, want %v", late, want)
	}
	late = nil
	if got := s.MatchInactive(nil, "acme", "nex.insight.x", v, nil, later); len(got) > 0 || !slices.Equal(late, []string{"slow-and-paused"}) {
		t.Errorf("inactive: matched %v, left for later %v", ids(got), late)
	}
	if got, want := ids(s.Match(nil, "acme", "nex.insight.x", v, nil)), []string{"everything", "threshold"}; !slices.Equal(got, want) {
		t.Errorf("with all filters asked %v, want %v", got, want)
	}
}
