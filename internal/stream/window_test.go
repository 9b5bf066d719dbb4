package stream

import (
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/nex"
)

func TestSplitPoint(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 2, 5, 10, 0, 0, 0, time.UTC)
	page := func(from, every time.Duration) []nex.Insight {
		list := make([]nex.Insight, pageLimit)
		for i := range list {
			list[i].Time = base.Add(from + time.Duration(i)*every)
		}
		return list
	}
	hour := window{from: base, to: base.Add(time.Hour)}
	for name, c := range map[string]struct {
		w    window
		page []nex.Insight
		want time.Duration
	}{
		"the newest of many":       {hour, page(50*time.Minute, 6*time.Second), 30 * time.Minute},
		"the oldest of many":       {hour, page(0, 6*time.Second), 9 * time.Minute},
		"all at the end":           {hour, page(time.Hour-time.Second, 0), 30 * time.Minute},
		"all at the begin":         {hour, page(0, 0), time.Second},
		"no times":                 {hour, make([]nex.Insight, pageLimit), 30 * time.Minute},
		"times outside the window": {hour, page(-time.Hour, time.Second), 30 * time.Minute},
		"all at one moment":        {window{from: base, to: base.Add(time.Second)}, page(300*time.Millisecond, 0), 300 * time.Millisecond},
		"and it is the first":      {window{from: base, to: base.Add(time.Second)}, page(0, 0), time.Millisecond},
		"two seconds":              {window{from: base, to: base.Add(2 * time.Second)}, page(0, 10*time.Millisecond), 900 * time.Millisecond},
	} {
		if got := splitPoint(c.w, c.page); !got.Equal(base.Add(c.want)) {
			t.Errorf("%s: %v, want %v", name, got.Sub(base), c.want)
		}
	}
}
