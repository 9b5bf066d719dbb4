package bus_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

func TestDeadSubjects(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		subject, endpoint, class string
		ok                       bool
	}{
		{bus.DeadSubject("crm", "4xx"), "crm", "4xx", true},
		{"relay.dead.crm", "crm", "", true}, // as earlier builds wrote it
		{"relay.dead.crm.4xx.more", "", "", false},
		{"relay.dead.crm.", "", "", false},
		{"relay.dead.", "", "", false},
		{"relay.dead", "", "", false},
		{"relay.attempts.crm.4xx", "", "", false},
	} {
		if endpoint, class, ok := bus.ParseDeadSubject(tt.subject); endpoint != tt.endpoint || class != tt.class || ok != tt.ok {
			t.Errorf("%s: %q %q %t", tt.subject, endpoint, class, ok)
		}
	}
}

// dead stores dead letters of both forms.
func dead(t *testing.T) *bus.Bus {
	t.Helper()
	b := bustest.New(t)
	putAll(t, b, []string{
		"relay.dead.a", "relay.dead.a.dns", "relay.dead.a.timeout", "relay.dead.b", "relay.dead.b.dns", "relay.dead.b.timeout",
		"relay.dead.ab.dns", "relay.dead.a.dns", "relay.dead.a",
	})
	return b
}

func TestDeadLettersAreFoundAndPurged(t *testing.T) {
	t.Parallel()
	all := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, tt := range []struct {
		endpoint, class string
		before          uint64
		want            []uint64
	}{
		{"", "", 0, all},
		{"", "", 4, []uint64{1, 2, 3}},
		{"a", "", 0, []uint64{1, 2, 3, 8, 9}},
		{"a", "", 8, []uint64{1, 2, 3}},
		{"", "dns", 0, []uint64{2, 5, 7, 8}},
		{"", "dns", 7, []uint64{2, 5}},
		{"a", "dns", 0, []uint64{2, 8}},
		{"a", "dns", 8, []uint64{2}},
		{"a", "dns", 1, nil},
		{"none", "", 0, nil},
		{"b", "4xx", 0, nil},
	} {
		b := dead(t)
		q := bus.Query{Stream: bus.StreamDead, Subjects: bus.DeadSubjects(tt.endpoint, tt.class), Before: tt.before, Limit: 100, Oldest: true}
		if got := pages(t, b, q); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: finds %v", tt, got)
		}
		if n, err := b.PurgeDead(t.Context(), tt.endpoint, tt.class, tt.before); err != nil || n != uint64(len(tt.want)) {
			t.Errorf("%+v: removed %d, %v", tt, n, err)
		}
		left := slices.DeleteFunc(slices.Clone(all), func(n uint64) bool { return slices.Contains(tt.want, n) })
		if got := pages(t, b, bus.Query{Stream: bus.StreamDead, Limit: 100, Oldest: true}); !slices.Equal(got, left) {
			t.Errorf("%+v: %v left, want %v", tt, got, left)
		}
	}
}

func TestDeadLetterBySequence(t *testing.T) {
	t.Parallel()
	b := dead(t)
	msg := &nats.Msg{Subject: bus.DeadSubject("crm", "5xx"), Data: []byte(`{"event":null}`), Header: nats.Header{"Nats-Msg-Id": {"one"}}}
	ack, err := b.JetStream().PublishMsg(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.GetDead(t.Context(), ack.Sequence)
	if err != nil || m.Sequence != ack.Sequence || m.Subject != msg.Subject || string(m.Data) != string(msg.Data) || m.Header.Get("Nats-Msg-Id") != "one" || m.Time.IsZero() {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := b.GetDead(t.Context(), 1); err != nil || m.Subject != "relay.dead.a" {
		t.Errorf("%+v, %v", m, err)
	}
	for _, sequence := range []uint64{1, ack.Sequence, 5} {
		if err := b.DeleteDead(t.Context(), sequence); err != nil {
			t.Error(sequence, err)
		}
	}
	for _, sequence := range []uint64{0, 1, 5, ack.Sequence, 99} {
		if _, err := b.GetDead(t.Context(), sequence); !errors.Is(err, bus.ErrNotInLog) {
			t.Errorf("%d: %v", sequence, err)
		}
		if err := b.DeleteDead(t.Context(), sequence); !errors.Is(err, bus.ErrNotInLog) {
			t.Errorf("delete %d: %v", sequence, err)
		}
	}
	if got := pages(t, b, bus.Query{Stream: bus.StreamDead, Limit: 100, Oldest: true}); !slices.Equal(got, []uint64{2, 3, 4, 6, 7, 8, 9}) {
		t.Error(got)
	}
	if err := b.JetStream().DeleteStream(t.Context(), bus.StreamDead); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetDead(t.Context(), 2); err == nil || errors.Is(err, bus.ErrNotInLog) {
		t.Errorf("without the stream: %v", err)
	}
	if err := b.DeleteDead(t.Context(), 2); err == nil || errors.Is(err, bus.ErrNotInLog) {
		t.Errorf("without the stream: %v", err)
	}
	if _, err := b.PurgeDead(t.Context(), "a", "", 0); err == nil {
		t.Error("without the stream nothing is purged")
	}
}

func TestEndpointOf(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		bus.AttemptSubject("crm", "delivered"): "crm", bus.DeadSubject("crm", "5xx"): "crm", "relay.dead.old": "old", "nex.acme.insight.risk": "", "": "",
	} {
		if got := bus.EndpointOf(subject); got != want {
			t.Errorf("%s: %q, want %q", subject, got, want)
		}
	}
}
