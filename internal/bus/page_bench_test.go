package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// BenchmarkPage reads pages of a million attempt records of 300 bytes over ten thousand endpoints: cold is the first time after a
// start of the server inside.
func BenchmarkPage(b *testing.B) {
	const records, endpoints, every = 1_000_000, 10_000, 100_000
	cfg := bustest.Config(b)
	log := bustest.Open(b, cfg)
	js, err := jetstream.New(log.Conn(), jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	put := func(endpoint, outcome string) {
		record := fmt.Appendf(nil, `{"event_id":"evt_%016x","sequence":%d,"endpoint":%q,"workspace":"acme","type":"nex.insight.risk","attempt":1,`+
			`"at":"2026-02-05T10:30:00.%09dZ","duration_ms":%.3f,"outcome":%q,"status":200,"verdict":"done"}`,
			random.Uint64(), random.IntN(records), endpoint, random.IntN(1e9), random.Float64()*100, outcome)
		record = append(record, bytes.Repeat([]byte(" "), max(0, 300-len(record)))...)
		if _, err := js.PublishAsync(bus.AttemptSubject(endpoint, outcome), record, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range records {
		outcome := "delivered"
		switch n := random.IntN(1000); {
		case n < 20:
			outcome = "timeout"
		case n < 60:
			outcome = "server_error"
		case n < 61:
			outcome = "tls_error"
		}
		put(fmt.Sprint("ep-", random.IntN(endpoints)), outcome)
		if i%every == every/2 {
			put("rare", "delivered")
		}
	}
	<-js.PublishAsyncComplete()
	for _, cold := range []bool{false, true} {
		for _, c := range []struct {
			name   string
			before uint64
			oldest bool
			filter []string
		}{
			{name: "all"},
			{name: "all, middle", before: records / 2},
			{name: "outcome of 4 %", filter: []string{bus.AttemptSubject("*", "server_error")}},
			{name: "outcome of 4 %, middle", filter: []string{bus.AttemptSubject("*", "server_error")}, before: records / 2},
			{name: "outcome of 0.1 %", filter: []string{bus.AttemptSubject("*", "tls_error")}},
			{name: "endpoint", filter: []string{bus.AttemptSubject("ep-1234", "*")}},
			{name: "endpoint, middle", filter: []string{bus.AttemptSubject("ep-1234", "*")}, before: records / 2},
			{name: "endpoint, oldest", filter: []string{bus.AttemptSubject("ep-1234", "*")}, oldest: true},
			{name: "endpoint with 10", filter: []string{bus.AttemptSubject("rare", "*")}},
			{name: "endpoint with none", filter: []string{bus.AttemptSubject("none", "*")}},
		} {
			if cold {
				if err := log.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
				log = bustest.Open(b, cfg)
			}
			state := "warm/"
			if cold {
				state = "cold/"
			}
			b.Run(state+c.name, func(b *testing.B) {
				found := 0
				for b.Loop() {
					p, err := log.Page(b.Context(), bus.Query{Stream: bus.StreamAttempts, Subjects: c.filter, Before: c.before, Oldest: c.oldest, Limit: 50})
					if err != nil {
						b.Fatal(err)
					}
					found = len(p.Messages)
				}
				b.ReportMetric(float64(found), "messages")
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
			})
		}
	}
}
