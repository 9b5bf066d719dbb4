package bus_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// BenchmarkRecent reads back from a log of a million events: a workspace that has written most of them, one that writes now
// and then, one that wrote long ago, and one that never did. KB is what the process allocated for one reading back, the
// server inside included: more than it holds at any time.
func BenchmarkRecent(b *testing.B) {
	log := bustest.New(b)
	at := time.Now()
	var pending []*bus.Pending
	put := func(workspace string, i int) {
		id := fmt.Sprintf("%s-%d", workspace, i)
		p, err := log.PublishAsync(b.Context(), insight(workspace, id, at), id)
		if err != nil {
			b.Fatal(err)
		}
		if pending = append(pending, p); len(pending) == 512 {
			for _, p := range pending {
				if _, err := p.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			pending = pending[:0]
		}
	}
	for i := range 500 {
		put("old", i)
	}
	for i := range 1_000_000 {
		put("busy", i)
		if i%5000 == 0 {
			put("quiet", i)
		}
	}
	for _, p := range pending {
		if _, err := p.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, workspace string
		since           time.Time
	}{
		{"busy", "busy", time.Time{}}, {"busy, all of the last minutes", "busy", at.Add(-time.Minute)}, {"quiet", "quiet", time.Time{}},
		{"old", "old", time.Time{}}, {"none", "none", time.Time{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			found := 0
			for b.Loop() {
				r, err := log.Recent(b.Context(), c.workspace, 24, c.since, 1<<14)
				if err != nil {
					b.Fatal(err)
				}
				found = len(r.Insights)
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(found), "insights")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/1024, "KB/op")
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/op")
		})
	}
}
