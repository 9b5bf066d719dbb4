package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/porttest"
)

// startCluster is three servers that keep their streams together.
func startCluster(t *testing.T) string {
	t.Helper()
	var urls []string
	var routes []*url.URL
	var ports []int
	for range 3 {
		port, err := porttest.Free()
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	for i, port := range ports {
		urls = append(urls, guarded(t, &server.Options{
			ServerName: fmt.Sprintf("node-%d", i), Routes: routes,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
		}))
	}
	return strings.Join(urls, ",")
}

// patiently does what servers that stood still may have answered with an error, until they do not: they may have to agree on leaders anew.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !bus.Away(err) && !errors.Is(err, jetstream.ErrConsumerLeadershipChanged) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// Every consumer can be made, and gives what its stream holds, where the streams have three replicas: a work queue is
// particular about it.
func TestConsumersInACluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := bus.Open(ctx, bus.Config{URL: startCluster(t), Replicas: 3, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	for _, tt := range []struct {
		stream, subject string
		cfg             jetstream.ConsumerConfig
	}{
		{bus.StreamNex, "nex.acme.insight.risk", bus.FanoutConsumer(30*time.Second, 10)},
		{bus.StreamNex, "nex.acme.insight.risk", b.OrderedConsumer("crm", []string{"nex.*.insight.risk"}, 1, 30*time.Second)},
		{bus.StreamRetry, bus.RetryDueSubject("crm", 1), bus.RetryConsumer(30*time.Second, 10)},
		{bus.StreamRetry, bus.RetryBacklogSubject("crm", 1), bus.BacklogConsumer("crm", 30*time.Second)},
	} {
		if err := patiently(ctx, func() error {
			_, err := b.JetStream().Publish(ctx, tt.subject, []byte("{}"))
			return err
		}); err != nil {
			t.Fatalf("%s: %v", tt.subject, err)
		}
		var c jetstream.Consumer
		if err := patiently(ctx, func() (err error) {
			c, err = b.JetStream().CreateOrUpdateConsumer(ctx, tt.stream, tt.cfg)
			return err
		}); err != nil {
			t.Errorf("%s: %v", tt.cfg.Durable, err)
			continue
		}
		var m jetstream.Msg
		if err := patiently(ctx, func() (err error) { // its replicas may not have agreed on a leader yet
			m, err = c.Next(jetstream.FetchContext(ctx))
			return err
		}); err != nil {
			t.Errorf("%s: %v", tt.cfg.Durable, err)
			continue
		}
		if m.Subject() != tt.subject {
			t.Errorf("%s gave %s", tt.cfg.Durable, m.Subject())
		}
	}
}
