package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// put stores a message and answers its sequence.
func put(t *testing.T, b *bus.Bus, subject string, size int) uint64 {
	t.Helper()
	ack, err := b.JetStream().Publish(t.Context(), subject, bytes.Repeat([]byte("x"), size))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// putAll stores small messages.
func putAll(t *testing.T, b *bus.Bus, subjects []string) {
	t.Helper()
	var futures []jetstream.PubAckFuture
	for i, subject := range subjects {
		f, err := b.JetStream().PublishAsync(subject, []byte("x"), jetstream.WithStallWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if futures = append(futures, f); len(futures) < 500 && i < len(subjects)-1 {
			continue
		}
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				t.Fatal(err)
			}
		}
		futures = futures[:0]
	}
}

func stream(t *testing.T, b *bus.Bus, name string) jetstream.Stream {
	t.Helper()
	s, err := b.JetStream().Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pages reads all pages of a query by their cursors.
func pages(t *testing.T, b *bus.Bus, q bus.Query) (out []uint64) {
	t.Helper()
	for {
		p, err := b.Page(t.Context(), q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if len(p.Messages) > q.Limit {
			t.Fatalf("%+v: %d messages", q, len(p.Messages))
		}
		for _, m := range p.Messages {
			out = append(out, m.Sequence)
		}
		switch {
		case p.Next == 0:
			return out
		case len(p.Messages) == 0 || p.Next != p.Messages[len(p.Messages)-1].Sequence:
			t.Fatalf("%+v: next is %d after %v", q, p.Next, out)
		case q.Oldest && p.Next <= q.After || !q.Oldest && q.Before > 0 && p.Next >= q.Before:
			t.Fatalf("%+v: next is %d, no step on", q, p.Next)
		case q.Oldest:
			q.After = p.Next
		default:
			q.Before = p.Next
		}
	}
}

func walk(t *testing.T, b *bus.Bus, q bus.Query) (out []uint64) {
	t.Helper()
	err := b.Walk(t.Context(), q, func(m bus.Stored) (bool, error) { out = append(out, m.Sequence); return true, nil })
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return out
}

// noConsumers sees that nothing was left on a stream.
func noConsumers(t *testing.T, b *bus.Bus, name string) {
	t.Helper()
	if n := stream(t, b, name).CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers on %s", n, name)
	}
}

// Whatever is asked for of a stream in which some messages stand close and others far apart, in which some were removed, and whose
// first are gone: the pages, the walk and the count say what was stored.
func TestPagesAgainstWhatWasStored(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	random := rand.New(rand.NewPCG(7, 11))
	subject := func(i int) string {
		switch {
		case i < 60:
			return "relay.attempts.old.delivered"
		case i%701 == 0:
			return "relay.attempts.rare.timeout"
		case i > 3000 && i < 3400:
			return "relay.attempts.burst.delivered"
		case i%5 == 0:
			return "relay.attempts.busy.timeout"
		}
		return "relay.attempts.busy.delivered"
	}
	var subjects []string
	for i := range 7000 {
		subjects = append(subjects, subject(i))
	}
	putAll(t, b, subjects)
	s := stream(t, b, bus.StreamAttempts)
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(21)); err != nil {
		t.Fatal(err)
	}
	type stored struct {
		sequence uint64
		subject  string
		at       time.Time
	}
	var all []stored
	for i, subject := range subjects {
		sequence := uint64(i + 1)
		if sequence <= 20 {
			continue
		}
		if sequence > 5000 && sequence < 5800 && sequence%3 > 0 || sequence == 7000 {
			if err := s.DeleteMsg(t.Context(), sequence); err != nil {
				t.Fatal(err)
			}
			continue
		}
		m, err := s.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stored{sequence, subject, m.Time})
	}
	filters := [][]string{
		nil, {">"}, {"relay.attempts.>"}, {"relay.attempts.busy.*"}, {"relay.attempts.rare.*"}, {"relay.attempts.old.delivered"},
		{"relay.attempts.*.timeout"}, {"relay.attempts.burst.*"}, {"relay.attempts.none.*"}, {"nex.>"},
		{"relay.attempts.rare.*", "relay.attempts.old.*"},
		{"relay.attempts.rare.*", "relay.attempts.rare.timeout", "relay.attempts.rare.timeout"}, // one is a part of the other
		{"relay.attempts.busy.*", "relay.attempts.*.timeout"},                                   // neither is
	}
	for i := range 4 * len(filters) {
		q := bus.Query{Stream: bus.StreamAttempts, Subjects: filters[i%len(filters)], Limit: 1 + random.IntN(60), Oldest: random.IntN(2) == 0}
		if random.IntN(3) == 0 {
			q.Limit = bus.MaxPage - random.IntN(100)
		}
		if random.IntN(3) == 0 {
			q.Before = uint64(1 + random.IntN(7100))
		}
		if random.IntN(3) == 0 {
			q.After = uint64(random.IntN(7100))
		}
		at := func() time.Time {
			return all[random.IntN(len(all))].at.Add(time.Duration(random.IntN(3)-1) * time.Nanosecond)
		}
		if random.IntN(3) == 0 {
			q.From = at()
		}
		if random.IntN(3) == 0 {
			q.To = at()
		}
		var want []uint64
		for _, m := range all {
			matches := len(q.Subjects) == 0 || slices.ContainsFunc(q.Subjects, func(f string) bool { return server.SubjectMatchesFilter(m.subject, f) })
			if matches && m.sequence > q.After && (q.Before == 0 || m.sequence < q.Before) && !m.at.Before(q.From) && (q.To.IsZero() || m.at.Before(q.To)) {
				want = append(want, m.sequence)
			}
		}
		if n, err := b.Count(t.Context(), q); err != nil || n != uint64(len(want)) {
			t.Errorf("%+v: counts %d, want %d (%v)", q, n, len(want), err)
		}
		if !q.Oldest {
			slices.Reverse(want)
		}
		if got := walk(t, b, q); !slices.Equal(got, want) {
			t.Errorf("%+v: the walk gives %d, want %d: %v", q, len(got), len(want), differ(got, want))
		}
		if q.Limit < 20 && len(want) > 500 { // a few hundred pages prove no more
			q.Limit += 100
		}
		if got := pages(t, b, q); !slices.Equal(got, want) {
			t.Errorf("%+v: the pages give %d, want %d: %v", q, len(got), len(want), differ(got, want))
		}
	}
	noConsumers(t, b, bus.StreamAttempts)
}

// differ is where two lists part.
func differ(got, want []uint64) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("from the %d. on: %v, want %v", i, got[i:min(i+3, len(got))], want[i:min(i+3, len(want))])
		}
	}
	return ""
}

func TestPageIsWholeAndSaysWhetherThereIsMore(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	at := time.Now()
	for i := range 4 {
		if _, err := b.Publish(t.Context(), insight("acme", fmt.Sprint("ins-", i), at)); err != nil {
			t.Fatal(err)
		}
	}
	for limit, next := range map[int]uint64{3: 2, 4: 0, 5: 0} {
		p, err := b.Page(t.Context(), bus.Query{Stream: bus.StreamNex, Limit: limit})
		if err != nil || len(p.Messages) != min(limit, 4) || p.Next != next {
			t.Errorf("%d: %d messages, next %d, %v", limit, len(p.Messages), p.Next, err)
			continue
		}
		want, err := b.Get(t.Context(), 4)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Messages[0]; got.Sequence != 4 || got.Subject != want.Subject || !got.Time.Equal(want.Time) ||
			got.Header.Get("Nats-Msg-Id") != "ins-3" || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%d: %+v, want %+v", limit, got, want)
		}
	}
}

func TestPageOfNothing(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	none := func(what string) {
		t.Helper()
		for _, q := range []bus.Query{
			{Limit: 10}, {Limit: 10, Oldest: true}, {Limit: 10, Before: 1}, {Limit: 10, Before: 3}, {Limit: 10, After: 1 << 63}, {Limit: 10, After: 1<<64 - 1},
			{Limit: 10, From: time.Now().Add(-time.Hour)}, {Limit: 10, To: time.Now().Add(time.Hour)}, {Limit: 10, Subjects: []string{"relay.dead.a"}},
		} {
			q.Stream = bus.StreamDead
			if p, err := b.Page(t.Context(), q); err != nil || len(p.Messages) != 0 || p.Next != 0 {
				t.Errorf("%s: %+v: %+v, %v", what, q, p, err)
			}
			if n, err := b.Count(t.Context(), q); err != nil || n != 0 {
				t.Errorf("%s: %+v: counts %d, %v", what, q, n, err)
			}
			if got := walk(t, b, q); len(got) != 0 {
				t.Errorf("%s: %+v: walks over %v", what, q, got)
			}
		}
	}
	none("never held any")
	putAll(t, b, []string{"relay.dead.a.dns", "relay.dead.a.dns", "relay.dead.b"})
	if err := stream(t, b, bus.StreamDead).Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	none("purged")
	if sequence := put(t, b, "relay.dead.c.dns", 1); sequence != 4 {
		t.Fatal(sequence)
	}
	if got := pages(t, b, bus.Query{Stream: bus.StreamDead, Limit: 1}); !slices.Equal(got, []uint64{4}) {
		t.Error(got)
	}
	for _, at := range []time.Time{time.Unix(-1<<40, 0), time.Unix(1<<40, 0), time.Now().Add(time.Hour)} { // also such as a server cannot say
		from, err := b.Page(t.Context(), bus.Query{Stream: bus.StreamDead, Limit: 1, From: at})
		if want := at.Before(time.Now()); err != nil || len(from.Messages) == 1 != want {
			t.Errorf("from %v: %d, %v", at, len(from.Messages), err)
		}
		to, err := b.Page(t.Context(), bus.Query{Stream: bus.StreamDead, Limit: 1, To: at})
		if want := at.After(time.Now()); err != nil || len(to.Messages) == 1 != want {
			t.Errorf("to %v: %d, %v", at, len(to.Messages), err)
		}
	}
}

func TestPageRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, q := range []bus.Query{
		{Limit: 1}, {Stream: "OTHER", Limit: 1}, {Stream: bus.StreamRetry, Limit: 1}, {Stream: bus.StreamNex}, {Stream: bus.StreamNex, Limit: -1},
		{Stream: bus.StreamNex, Limit: bus.MaxPage + 1}, {Stream: bus.StreamNex, Limit: 1, Subjects: []string{""}},
		{Stream: bus.StreamNex, Limit: 1, Subjects: []string{"nex.>.a"}}, {Stream: bus.StreamNex, Limit: 1, Subjects: []string{"nex.*", "nex. a"}},
	} {
		if _, err := b.Page(t.Context(), q); !errors.Is(err, bus.ErrQuery) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	put(t, b, "nex.acme.insight.risk", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Page(ctx, bus.Query{Stream: bus.StreamNex, Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A page is bounded by the size of its messages; one message is given however large it is.
func TestPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	cfg.MaxEvent = 12 << 20
	b := bustest.Open(t, cfg)
	var all []uint64
	for i := range 36 {
		size := 500_000
		if i == 20 || i == 35 || i == 0 {
			size = 9 << 20
		}
		all = append(all, put(t, b, "relay.dead.big.timeout", size))
		put(t, b, "relay.dead.small.timeout", 10)
	}
	for _, oldest := range []bool{true, false} {
		q := bus.Query{Stream: bus.StreamDead, Subjects: []string{"relay.dead.big.*"}, Limit: bus.MaxPage, Oldest: oldest}
		if !oldest {
			slices.Reverse(all)
		}
		if got := walk(t, b, q); !slices.Equal(got, all) {
			t.Errorf("oldest first %t: walks over %v, want %v", oldest, got, all)
		}
		var got []uint64
		for {
			p, err := b.Page(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for _, m := range p.Messages {
				got, size = append(got, m.Sequence), size+len(m.Data)
			}
			if size > 8<<20 && len(p.Messages) > 1 || p.Next != 0 && size < 7<<20 && !slices.Contains([]int{0, 20, 35}, int(p.Next/2)-1) && !slices.Contains([]int{0, 20, 35}, int(p.Next/2)+1) {
				t.Errorf("oldest first %t: %d messages of %d bytes to %d", oldest, len(p.Messages), size, p.Next)
			}
			if p.Next == 0 {
				break
			}
			if oldest {
				q.After = p.Next
			} else {
				q.Before = p.Next
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("oldest first %t: pages %v, want %v", oldest, got, all)
		}
	}
}

// What a walk has before it is removed while it is under way, and what it has behind it; more comes in, and the limits of the stream
// take what is oldest.
func TestWalkWhileTheStreamChanges(t *testing.T) {
	t.Parallel()
	for _, oldest := range []bool{true, false} {
		t.Run(fmt.Sprintf("oldest first %t", oldest), func(t *testing.T) {
			t.Parallel()
			cfg := bustest.Config(t)
			cfg.Stream.MaxBytes = 1 << 20
			b := bustest.Open(t, cfg)
			for range 5500 {
				put(t, b, "nex.acme.insight.risk", 200)
			}
			before := stream(t, b, bus.StreamNex).CachedInfo().State
			if before.FirstSeq == 1 {
				t.Fatal("the limits took nothing: this is no test")
			}
			var last, n uint64
			err := b.Walk(t.Context(), bus.Query{Stream: bus.StreamNex, Oldest: oldest}, func(m bus.Stored) (bool, error) {
				if n++; n > 1 && (m.Sequence > last) != oldest || m.Sequence > before.LastSeq {
					t.Errorf("%d after %d", m.Sequence, last)
				}
				last = m.Sequence
				if n == 10 {
					for range 2000 {
						put(t, b, "nex.acme.insight.risk", 200)
					}
				}
				if infos := stream(t, b, bus.StreamNex).CachedInfo().State.Consumers; n < 3 && infos != 0 {
					t.Errorf("%d consumers while it is handed over", infos)
				}
				return true, nil
			})
			after := stream(t, b, bus.StreamNex).CachedInfo().State
			if after.FirstSeq <= before.FirstSeq+bus.MaxPage || after.FirstSeq > before.LastSeq-bus.MaxPage {
				t.Fatalf("from %d to %d now, %d to %d before: this is no test", after.FirstSeq, after.LastSeq, before.FirstSeq, before.LastSeq)
			}
			kept := before.LastSeq - after.FirstSeq + 1
			want, end := kept, after.FirstSeq
			if oldest { // it had read a page when they went
				want, end = kept+bus.MaxPage, before.LastSeq
			}
			if err != nil || n != want || last != end {
				t.Errorf("%d handed over, the last %d, %v, want %d to %d", n, last, err, want, end)
			}
		})
	}
}

func TestWalkEndsWhenToldTo(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	putAll(t, b, slices.Repeat([]string{"relay.dead.a.dns"}, 30))
	n, q := 0, bus.Query{Stream: bus.StreamDead}
	if err := b.Walk(t.Context(), q, func(bus.Stored) (bool, error) { n++; return n < 7, nil }); err != nil || n != 7 {
		t.Error(n, err)
	}
	failed := errors.New("failed")
	if err := b.Walk(t.Context(), q, func(bus.Stored) (bool, error) { return true, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if got := pages(t, b, bus.Query{Stream: bus.StreamDead, Limit: 10, From: time.Now().Add(-time.Hour)}); len(got) != 30 {
		t.Error(got)
	}
}

// A count of what stands before a sequence does not change with what comes after it, however fast that comes.
func TestCountWhileMoreComesIn(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	putAll(t, b, slices.Repeat([]string{"relay.attempts.a.delivered", "relay.attempts.b.delivered"}, 2000))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := b.JetStream().Publish(ctx, "relay.attempts.a.delivered", nil); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	for range 12 {
		q := bus.Query{Stream: bus.StreamAttempts, Subjects: []string{"relay.attempts.a.*"}, Before: 3501, After: 500}
		if n, err := b.Count(t.Context(), q); err != nil || n != 1500 {
			t.Errorf("%d, %v", n, err)
		}
		p, err := b.Page(t.Context(), bus.Query{Stream: bus.StreamAttempts, Subjects: []string{"relay.attempts.b.*"}, Limit: 20})
		if err != nil || len(p.Messages) != 20 || p.Messages[0].Sequence != 4000 || p.Next != 3962 {
			t.Errorf("%d messages, next %d, %v", len(p.Messages), p.Next, err)
		}
	}
	cancel()
	<-done
}

// Any replica may answer, but none leaves out what was acknowledged.
func TestPageInACluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := bus.Open(ctx, bus.Config{URL: startCluster(t), Replicas: 3, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	for i := range uint64(10) {
		for _, subject := range []string{"relay.attempts.a.delivered", "relay.attempts.b.delivered", "relay.attempts.a.timeout", "relay.attempts.c.timeout"} {
			if err := patiently(ctx, func() error { // the id has it stored once
				_, err := b.JetStream().Publish(ctx, subject, []byte("x"), jetstream.WithMsgID(fmt.Sprint(subject, i)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		count := func(q bus.Query) (n uint64, err error) {
			err = patiently(ctx, func() error {
				n, err = b.Count(ctx, q)
				return err
			})
			return n, err
		}
		for subject, newest := range map[string]uint64{"relay.attempts.a.*": 4*i + 3, "relay.attempts.*.timeout": 4*i + 4, "relay.attempts.none.*": 0} {
			q := bus.Query{Stream: bus.StreamAttempts, Subjects: []string{subject}, Limit: 2}
			var p bus.Page
			err := patiently(ctx, func() (err error) { // a replica that is behind says so
				p, err = b.Page(ctx, q)
				return err
			})
			if err != nil || newest == 0 && len(p.Messages) > 0 || newest > 0 && (len(p.Messages) != 2 || p.Messages[0].Sequence != newest) {
				t.Errorf("%d: %s: %+v, %v, want %d", i, subject, p, err, newest)
			}
			if newest == 0 {
				continue
			}
			if n, err := count(q); err != nil || n != 2*i+2 {
				t.Errorf("%d: %s: counts %d, %v, want %d", i, subject, n, err, 2*i+2)
			}
			q.Before = newest
			if n, err := count(q); err != nil || n != 2*i+1 {
				t.Errorf("%d: %s: counts %d before, %v, want %d", i, subject, n, err, 2*i+1)
			}
		}
	}
}
