package fanout

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/nex-crm/relay/internal/webhook"
)

type metrics struct {
	attempts        *prometheus.CounterVec // by outcome
	deliverySeconds prometheus.Histogram
	endToEnd        prometheus.Histogram
	deadLetters     *prometheus.CounterVec // by class
	recordsLost     prometheus.Counter
	filterErrors    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, f *Fanout) metrics {
	auto := promauto.With(reg)
	attempts := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "relay_delivery_attempts_total", Help: "Webhook attempts by outcome.",
	}, []string{"outcome"})
	m := metrics{
		attempts: attempts,
		deliverySeconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "relay_delivery_seconds", Help: "Duration of a webhook attempt, from dial to the end of the answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 13),
		}),
		endToEnd: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "relay_end_to_end_seconds", Help: "Time from an event's arrival in the log to a 2xx, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 15),
		}),
		deadLetters: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_dead_letters_total", Help: "Deliveries given up, by class: refused and relay are faults of our side, the others of the receiver's.",
		}, []string{"class"}),
		recordsLost: auto.NewCounter(prometheus.CounterOpts{
			Name: "relay_attempt_records_lost_total", Help: "Attempt records that could not be written. The deliveries were made.",
		}),
	}
	m.filterErrors = auto.NewCounter(prometheus.CounterOpts{
		Name: "relay_filter_errors_total", Help: "Filters that failed on an event, which counts as no match.",
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_circuits_open", Help: "Endpoints that get probes only, because they only failed."}, f.circuitsOpen)
	for _, o := range webhook.Outcomes() {
		attempts.WithLabelValues(string(o)) // so that a zero shows
	}
	for _, c := range webhook.Classes() {
		m.deadLetters.WithLabelValues(string(c))
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_lane_in_flight", Help: "Webhook attempts in flight."}, f.inFlight)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_retries_pending", Help: "Deliveries stored for a later attempt, over all replicas, as of the last five seconds; -1 if not counted yet."}, f.pending)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_loss_horizon_seconds",
		Help: "In how long the log loses an event that an endpoint is still to get, as all come on now: the least over the endpoints; +Inf if never.",
	}, f.lossIn)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_undelivered_oldest_seconds", Help: "Age of the oldest event that an endpoint is still to get, over all endpoints.",
	}, f.oldestUndelivered)
	for _, state := range []string{"active", "paused", "disabled"} {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "relay_endpoints", Help: "Endpoints by state: paused by their owner, disabled by the relay.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return f.endpoints(state) })
	}
	return m
}

func (m *metrics) observe(result webhook.Result, stored, now time.Time) {
	m.attempts.WithLabelValues(string(result.Outcome)).Inc()
	m.deliverySeconds.Observe(result.Duration.Seconds())
	if result.Outcome == webhook.Delivered {
		m.endToEnd.Observe(now.Sub(stored).Seconds())
	}
}

func (f *Fanout) inFlight() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := int(f.inTurn.Load())
	for _, l := range f.lanes {
		l.mu.Lock()
		n += l.running
		l.mu.Unlock()
	}
	return float64(n)
}

func (f *Fanout) circuitsOpen() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, l := range f.lanes {
		l.mu.Lock()
		if l.trouble.circuit.open {
			n++
		}
		l.mu.Unlock()
	}
	return float64(n)
}

// pending is what the last scan counted, over all replicas; -1 before the first.
func (f *Fanout) pending() float64 { return float64(f.waiting.Load()) }

func (f *Fanout) endpoints(state string) float64 {
	n := 0
	for _, e := range f.cfg.Endpoints.Snapshot().All() {
		is := "active"
		switch {
		case e.Disabled != nil:
			is = "disabled"
		case !e.Enabled:
			is = "paused"
		}
		if is == state {
			n++
		}
	}
	return float64(n)
}
