package stream

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	connected                                                           prometheus.Gauge
	reconnects, received, published, duplicate, malformed, gapPublished prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		connected:    auto.NewGauge(prometheus.GaugeOpts{Name: "relay_streams_connected", Help: "Nex streams that are up."}),
		reconnects:   counter("relay_stream_reconnects_total", "Connection attempts after the first, over all streams."),
		received:     counter("relay_events_received_total", "Insights received: live, in replays and over REST."),
		published:    counter("relay_events_published_total", "Insights that are new in the log."),
		duplicate:    counter("relay_events_duplicate_total", "Insights received that the log held already."),
		malformed:    counter("relay_events_malformed_total", "Events or insights that could not be read; they are kept at nex.<workspace>.relay.malformed."),
		gapPublished: counter("relay_gap_filled_total", "Insights that were new in the log and came over REST."),
	}
}
