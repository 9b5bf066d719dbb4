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

// TestIsolation prints the table of docs/reliability.md. Two relays, each with a log and receivers of its own, one of them with the
// sick endpoints, take turns every few seconds: on a shared machine what a minute can do is not what the next can.
func TestIsolation(t *testing.T) {
	if *isolation == 0 {
		t.Skip("asked for with -fanout.isolation")
	}
	without, with := newRing(t, false), newRing(t, true)
	var plain, sick []float64 // deliveries/s of each round
	for i := range *isolation {
		if i%2 == 0 {
			plain, sick = append(plain, without.burst()), append(sick, with.burst())
		} else {
			sick, plain = append(sick, with.burst()), append(plain, without.burst())
		}
		without.paced()
		with.paced()
		t.Logf("round %d: %.0f deliveries/s without sick ones, %.0f with", i, plain[i], sick[i])
	}
	var ratios []float64
	for i := range plain {
		ratios = append(ratios, sick[i]/plain[i])
	}
	a, b := without.receivers.tally(), with.receivers.tally()
	fmt.Printf("\n| healthy endpoints | without sick ones | with 30 of 100 sick | ratio |\n| --- | ---: | ---: | ---: |\n")
	fmt.Printf("| deliveries/s, median | %.0f | %.0f | %.2f (of each round, median) |\n", median(plain), median(sick), median(ratios))
	for _, row := range []struct {
		name string
		a, b time.Duration
	}{{"p50", a.P50, b.P50}, {"p99", a.P99, b.P99}} {
		fmt.Printf("| %s, ms | %.2f | %.2f | %.2f |\n", row.name, row.a.Seconds()*1e3, row.b.Seconds()*1e3, row.b.Seconds()/row.a.Seconds())
	}
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// ring is a relay with its endpoints. The receivers are another process: what they cost is theirs.
type ring struct {
	*bundle
	receivers *receivers
	pending   []*bus.Pending
	sent      int // events for the healthy ones
}

func newRing(t *testing.T, sick bool) *ring {
	t.Helper()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, 5 * time.Second, 5 * time.Minute}, RetryAfterMax: time.Hour})
	b.stop()
	r := &ring{bundle: b, receivers: startReceivers(t)}
	var list []*endpoint.Endpoint
	add := func(kind string, n int, workspaces ...string) {
		for i := range n {
			list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("%s-%d", kind, i), URL: r.receivers.url + "/" + kind, Workspaces: workspaces})
		}
	}
	add("healthy", healthyOnes, "acme")
	if sick {
		add("hanging", sickOfAKind, "acme")
		add("failing", sickOfAKind, "acme")
		add("flooded", sickOfAKind, "acme", "flood")
	}
	b.endpoints(list...)
	b.start()
	r.burst()
	if sick { // it takes circuitSpan and some failures until it is known who only fails
		eventuallyIn(t, time.Minute, "the failing ones are known", func() bool { return b.gauge("relay_circuits_open") >= sickOfAKind })
	}
	return r
}

// burst is what the healthy endpoints get in a second of a log that is full. Each event for them comes with three that flood.
func (r *ring) burst() float64 {
	const events = 600
	began := time.Now()
	for i := range events {
		r.publish("acme", fmt.Sprintf("x-%d-%d", r.sent, i))
		r.flood(3)
	}
	r.settle()
	r.delivered(events)
	return events * healthyOnes / time.Since(began).Seconds()
}

// paced has the receivers time events that come at a steady rate.
func (r *ring) paced() {
	const events, perSecond = 120, 40
	ticker := time.NewTicker(time.Second / perSecond)
	defer ticker.Stop()
	for range events {
		<-ticker.C
		r.publish("acme", pacedPrefix+strconv.FormatInt(time.Now().UnixNano(), 10))
		r.flood(10)
		r.settle()
	}
	r.delivered(events)
}

func (r *ring) delivered(events int) {
	r.sent += events
	eventuallyIn(r.t, time.Minute, "the healthy ones have everything", func() bool { return r.receivers.tally().Got >= r.sent*healthyOnes })
}

var oneKB = []byte(fmt.Sprintf(`{"type":"risk","content":%q}`, strings.Repeat("x", 700)))

func (r *ring) publish(workspace, id string) {
	e := &event.Event{Workspace: workspace, ID: id, Type: "nex.insight.risk", Time: time.Now(), Data: oneKB, Traceparent: event.NewTraceparent()}
	p, err := r.bus.PublishAsync(r.t.Context(), e, e.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.pending = append(r.pending, p); len(r.pending) == 500 {
		r.settle()
	}
}

func (r *ring) flood(n int) {
	for range n {
		r.publish("flood", "f-"+strconv.FormatInt(time.Now().UnixNano(), 10))
	}
}

func (r *ring) settle() {
	for _, p := range r.pending {
		if _, err := p.Wait(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
	r.pending = r.pending[:0]
}
