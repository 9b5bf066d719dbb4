package fanout_test

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

var isolation = flag.Int("fanout.isolation", 0, "rounds of the isolation measurement; 0 skips it")

// healthyOnes stand among thirty sick ones: ten that hang, ten that answer 500, ten that get ten times as many events as
// they can take.
const (
	healthyOnes = 70
	sickOfAKind = 10
)

// round is one measurement: what the healthy endpoints get of a log that is full, and how long an event takes to them when
// they come at a steady rate.
type round struct {
	throughput float64 // deliveries/s to the healthy ones
	p50, p99   time.Duration
}

// TestIsolation prints the table of docs/reliability.md: rounds with and without the sick endpoints, in turn.
func TestIsolation(t *testing.T) {
	if *isolation == 0 {
		t.Skip("asked for with -fanout.isolation")
	}
	var with, without []round
	for i := range *isolation {
		for _, sick := range []bool{i%2 == 0, i%2 != 0} {
			r := measureIsolation(t, sick)
			t.Logf("sick %v: %.0f deliveries/s, p50 %v, p99 %v", sick, r.throughput, r.p50.Round(10*time.Microsecond), r.p99.Round(10*time.Microsecond))
			if sick {
				with = append(with, r)
			} else {
				without = append(without, r)
			}
		}
	}
	throughput := func(r round) float64 { return r.throughput }
	p50 := func(r round) float64 { return float64(r.p50) / 1e6 }
	p99 := func(r round) float64 { return float64(r.p99) / 1e6 }
	fmt.Printf("\n| healthy endpoints | without sick ones | with 30 of 100 sick | ratio |\n| --- | ---: | ---: | ---: |\n")
	for _, row := range []struct {
		name string
		of   func(round) float64
	}{{"deliveries/s", throughput}, {"p50, ms", p50}, {"p99, ms", p99}} {
		a, b := median(without, row.of), median(with, row.of)
		fmt.Printf("| %s | %.1f | %.1f | %.2f |\n", row.name, a, b, b/a)
	}
}

func median(list []round, of func(round) float64) float64 {
	var values []float64
	for _, r := range list {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// measureIsolation is one round in a world of its own. The receivers are another process: what they cost is theirs.
func measureIsolation(t *testing.T, sick bool) round {
	t.Helper()
	const warm, events, paced, perSecond = 300, 3000, 600, 40
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, 5 * time.Second, 5 * time.Minute}, RetryAfterMax: time.Hour})
	b.stop()
	r := startReceivers(t)
	var list []*endpoint.Endpoint
	add := func(kind string, n int, workspaces ...string) {
		for i := range n {
			list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("%s-%d", kind, i), URL: r.url + "/" + kind, Workspaces: workspaces})
		}
	}
	add("healthy", healthyOnes, "acme")
	if sick {
		add("hanging", sickOfAKind, "acme")
		add("failing", sickOfAKind, "acme")
		add("flooded", sickOfAKind, "acme", "flood")
	}
	b.endpoints(list...)

	body := fmt.Sprintf(`{"type":"risk","content":%q}`, strings.Repeat("x", 700))
	var pending []*bus.Pending
	settle := func() {
		for _, p := range pending {
			if _, err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	publish := func(workspace, id string) {
		e := &event.Event{Workspace: workspace, ID: id, Type: "nex.insight.risk", Time: time.Now(), Data: []byte(body), Traceparent: event.NewTraceparent()}
		p, err := b.bus.PublishAsync(t.Context(), e, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if pending = append(pending, p); len(pending) == 500 {
			settle()
		}
	}
	fill := func(prefix string, n int) {
		for i := range n {
			publish("acme", fmt.Sprintf("%s-%d", prefix, i))
			for j := range 3 {
				publish("flood", fmt.Sprintf("%s-f-%d-%d", prefix, i, j))
			}
		}
		settle()
	}
	fill("warm", warm)
	b.start()
	eventuallyIn(t, time.Minute, "the healthy ones are warm", func() bool { return r.tally().Got >= warm*healthyOnes })
	if sick { // it takes circuitSpan and some failures until it is known who only fails
		eventuallyIn(t, time.Minute, "the failing ones are known", func() bool { return b.gauge("relay_circuits_open") >= sickOfAKind })
	}
	began := time.Now()
	fill("x", events)
	eventuallyIn(t, 5*time.Minute, "the healthy ones have everything", func() bool { return r.tally().Got >= (warm+events)*healthyOnes })
	result := round{throughput: events * healthyOnes / time.Since(began).Seconds()}

	ticker := time.NewTicker(time.Second / perSecond)
	for i := range paced {
		<-ticker.C
		publish("acme", pacedPrefix+strconv.FormatInt(time.Now().UnixNano(), 10))
		for j := range 10 {
			publish("flood", fmt.Sprintf("pf-%d-%d", i, j))
		}
		settle()
	}
	ticker.Stop()
	eventuallyIn(t, time.Minute, "the paced ones have come", func() bool { return r.tally().Got >= (warm+events+paced)*healthyOnes })
	last := r.tally()
	result.p50, result.p99 = last.P50, last.P99
	r.stop()
	b.stop()
	return result
}
