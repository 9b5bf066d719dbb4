package bus_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// retries stores n messages for one endpoint among those of others, numbered from 1, a part of them on another of its subjects.
func retries(t *testing.T, n int) *bus.Bus {
	t.Helper()
	b := bustest.New(t)
	for i := 1; i <= n; i++ {
		subject := bus.RetryBacklogSubject("crm", 1)
		if i%10 == 0 {
			subject = bus.RetryDueSubject("crm", 2)
		}
		for _, m := range []*nats.Msg{
			{Subject: subject, Data: []byte(strconv.Itoa(i))},
			{Subject: bus.RetryBacklogSubject("crm2", 1), Data: []byte("another's")},
		} {
			if _, err := b.JetStream().PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if i%500 == 0 { // fewer than may be without an answer: more would have to wait, and not for long
			<-b.JetStream().PublishAsyncComplete()
		}
	}
	<-b.JetStream().PublishAsyncComplete()
	return b
}

func TestReadRetry(t *testing.T) {
	t.Parallel()
	const n = 3000 // more than are asked for at a time
	b := retries(t, n)
	var backlog, due []int
	last, err := b.ReadRetry(t.Context(), "crm", func(data []byte) error {
		i, err := strconv.Atoi(string(data))
		if i%10 == 0 {
			due = append(due, i)
		} else {
			backlog = append(backlog, i)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(backlog)+len(due) != n || !slices.IsSorted(backlog) || !slices.IsSorted(due) || last != 2*n-1 {
		t.Errorf("%d and %d of %d, the last at %d", len(backlog), len(due), n, last)
	}
	followed := 0
	if err := b.FollowRetry(t.Context(), "crm", func(data []byte) error {
		followed++
		if followed == 1 { // it moves on
			if _, err := b.JetStream().Publish(t.Context(), bus.RetryDueSubject("crm", 1), data); err != nil {
				return err
			}
		}
		return nil
	}); followed != n+1 || err != nil {
		t.Errorf("%d of %d, %v", followed, n+1, err)
	}
	stop := errors.New("stop")
	if _, err := b.ReadRetry(t.Context(), "crm", func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if last, err := b.ReadRetry(t.Context(), "nobody", func([]byte) error { return stop }); last != 0 || err != nil {
		t.Errorf("%d, %v of an endpoint for which nothing waits", last, err)
	}
}

func TestReadSomeRetry(t *testing.T) {
	t.Parallel()
	b := retries(t, 100)
	end, err := b.RetryEnd(t.Context())
	if err != nil || end != 200 {
		t.Fatalf("%d, %v", end, err)
	}
	for _, tt := range []struct {
		endpoint string
		end      uint64
		places   int
		want     string
	}{
		{"crm", end, 1, "[1]"},
		{"crm", end, 4, "[1 26 51 76]"},
		{"crm", 99, 4, "[1 13 25 37 49]"},
		{"crm", 0, 4, "[]"},
		{"nobody", end, 4, "[]"},
	} {
		got := []string{}
		err := b.ReadSomeRetry(t.Context(), tt.endpoint, tt.end, tt.places, func(data []byte) error {
			got = append(got, string(data))
			return nil
		})
		if err != nil || fmt.Sprint(got) != tt.want {
			t.Errorf("%s up to %d at %d places: %v, %v", tt.endpoint, tt.end, tt.places, got, err)
		}
	}
	if end, err := bustest.New(t).RetryEnd(t.Context()); end != 0 || err != nil {
		t.Errorf("%d, %v where nothing waits", end, err)
	}
}
