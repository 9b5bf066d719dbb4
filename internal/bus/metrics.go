package bus

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	publishSeconds prometheus.Histogram
}

// newMetrics registers with reg; nil registers nowhere.
func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{publishSeconds: promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
		Name:    "relay_publish_seconds",
		Help:    "Time from handing an event to NATS to its PubAck.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 13),
	})}
}
